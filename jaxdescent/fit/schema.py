"""The schema of ``model.json``, and the check of a text against it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from jaxdescent.data import DataError
from jaxdescent.fit.columns import MOST_BITS
from jaxdescent.fit.dates import PARTS, TREND, is_zone
from jaxdescent.status import Status

MOST_DIGITS = 30
"""The most digits of a whole number: no model has longer ones."""


class Number(float):
    """A schema's word for any finite number; a text that holds others is refused as it is read."""


OPTIONAL = "?"
"""The end of a key that may be missing, or null."""

NAMES = [str]
SCORE = {"r2?": Number, "rmse": Number, "rows": int}
METRICS = {
    "train": SCORE,
    "held_out?": SCORE,
    "status": {status.name for status in Status},
    "l2": Number,
    "l2_chosen_by?": str,
    "method": str,
    "iterations": int,
    "suboptimality?": Number,
    "value": Number,
    "evidence": str,
    "passes": int,
    "bytes_read": int,
    "rows_read": int,
    "seconds": Number,
    "rows_per_second": Number,
    "peak_bytes": int,
    "notes": NAMES,
    "processes?": int,
    "goodput?": Number,
    "resumed_at?": int,
}
ENCODING = {
    "numbers": NAMES,
    "means_for_missing": {...: Number},
    "levels": {...: NAMES},
    "hashed": NAMES,
    "bits": range(MOST_BITS + 1),
    "sparse?": str,
    "interactions?": {...: {"numbers": NAMES, "levels": NAMES}},
}
TIMES = range(1 - 2**63, 2**63)
"""The whole numbers of 64 bits, but for the one that stands for no time in Arrow and NumPy."""

DATES = {"parts": [{*PARTS, TREND}], "zone?": str, "first": TIMES, "last": TIMES}
MODEL = {
    "target": str,
    "features": int,
    "intercept": Number,
    "encoding": ENCODING,
    "options": {...: object},
    "metrics": {...: object},
    "versions": {...: str},
    "data": str,
    "dates?": {...: DATES},
    "arrays?": str,
}
"""Keys with the type of their value: a type, a list of a type, one of a set or of a range of whole
numbers, or keys again, where ``...`` stands for any names."""


def content_of(text: str, name: Any) -> dict[str, Any]:
    """The content of a JSON text whose numbers are finite.

    Raises:
      DataError: where it is no JSON object, or has other numbers.
    """

    def number(convert: Callable[[str], Any]) -> Callable[[str], Any]:
        def read(digits: str) -> Any:
            if len(digits) > MOST_DIGITS or not math.isfinite(float(digits)):
                shown = digits if len(digits) <= MOST_DIGITS else f"{digits[:MOST_DIGITS]}..."
                raise DataError(f"{name} is damaged: no model has the number {shown}.")
            return convert(digits)

        return read

    try:
        content = json.loads(
            text, parse_int=number(int), parse_float=number(float), parse_constant=number(float)
        )
        json.dumps(content, ensure_ascii=False).encode()
    except (json.JSONDecodeError, UnicodeError, RecursionError) as error:
        raise DataError(f"{name} is damaged: {error}.") from error
    return content if isinstance(content, dict) else {}


def check(content: dict[str, Any], name: Any) -> None:
    """Refuse what JSON can hold and a model cannot.

    Raises:
      DataError: with the first part that is missing or of another kind.
    """
    try:
        _check(content, MODEL, "")
        if content["metrics"]:
            _check(content["metrics"], METRICS, "metrics")
        encoding = content["encoding"]
        for key, each in (encoding.get("interactions") or {}).items():
            kind = "numbers" if key in encoding["numbers"] else "levels"
            if not each[kind]:
                raise ValueError(f"encoding.interactions.{key}.{kind} must name a column")
        for key, each in (content.get("dates") or {}).items():
            zone = each.get("zone")
            _expect(zone is None or is_zone(zone), f"dates.{key}.zone", "a time zone", zone)
            is_later = each["last"] >= each["first"]
            _expect(is_later, f"dates.{key}.last", f"at least {each['first']}", each["last"])
    except ValueError as error:
        raise DataError(f"{name} is damaged: {error}.") from error


def _check(value: Any, schema: Any, where: str) -> None:
    if isinstance(schema, dict):
        _expect(isinstance(value, dict), where, "an object", value)
        if ... in schema:
            for key, each in value.items():
                _check(each, schema[...], f"{where}.{key}")
            return
        for key, own in schema.items():
            plain = key.removesuffix(OPTIONAL)
            place = f"{where}.{plain}" if where else plain
            if key.endswith(OPTIONAL) and value.get(plain) is None:
                continue
            if plain not in value:
                raise ValueError(f"{place} is missing")
            _check(value[plain], own, place)
    elif isinstance(schema, list):
        _expect(isinstance(value, list), where, "a list", value)
        for index, each in enumerate(value):
            _check(each, schema[0], f"{where}[{index}]")
    elif isinstance(schema, set):
        is_one = isinstance(value, (str, int)) and value in schema
        _expect(is_one, where, f"one of {len(schema)} values", value)
    elif isinstance(schema, range):
        is_one = type(value) is int and value in schema
        what = f"a whole number from {schema.start} to {schema.stop - 1}"
        _expect(is_one, where, what, value)
    elif schema is Number:
        _expect(type(value) in (int, float), where, "a number", value)
    elif schema is int:
        _expect(type(value) is int and value >= 0, where, "a whole number", value)
    else:
        _expect(isinstance(value, schema), where, "text", value)


def _expect(holds: bool, where: str, what: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{where} must be {what}, got {json.dumps(value)[:40]}")
