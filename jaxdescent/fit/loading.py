"""A model out of the folder where it was saved, checked against the schema of ``model.json``."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np

from jaxdescent.fit.dates import PARTS, TREND, is_zone
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.model import BUCKETS, DESCRIPTION, FORMAT, INDICES, SCHEMA, WEIGHTS, Model
from jaxdescent.rows import DataError
from jaxdescent.rows.errors import path_of, reading
from jaxdescent.rows.hashing import MOST_BITS
from jaxdescent.status import Status

MOST_DIGITS = 30
"""The most digits of a whole number: no model has longer ones."""

NAMES = [str]
SCORE = {"r2?": float, "rmse": float, "rows": int}
METRICS = {
    "train": SCORE,
    "held_out?": SCORE,
    "status": {status.name for status in Status},
    "l2": float,
    "l2_chosen_by?": str,
    "method": str,
    "iterations": int,
    "suboptimality?": float,
    "value": float,
    "evidence": str,
    "passes": int,
    "bytes_read": int,
    "rows_read": int,
    "seconds": float,
    "rows_per_second": float,
    "peak_bytes": int,
    "notes": NAMES,
    "processes?": int,
}
TIMES = range(1 - 2**63, 2**63)
ENCODING = {
    "numbers": NAMES,
    "means_for_missing": {...: float},
    "levels": {...: NAMES},
    "hashed": NAMES,
    "bits": range(MOST_BITS + 1),
    "sparse?": str,
    "interactions": {...: {"numbers": NAMES, "levels": NAMES}},
    "dates": {...: {"parts": [{*PARTS, TREND}], "zone?": str, "first": TIMES, "last": TIMES}},
}
MODEL = {
    "target": str,
    "features": int,
    "intercept": float,
    "encoding": ENCODING,
    "options": {...: object},
    "metrics": {...: object},
    "versions": {...: str},
    "data": str,
    "arrays": str,
}
"""Keys with the type of their value: a type (float for any finite number), a list of a type, one of
a set or of a range of whole numbers, or keys again, where ``...`` stands for any names. A key that
ends in ``?`` may be missing, or null."""


def load_model(folder: Any) -> Model:
    """A model that was saved.

    Args:
      folder: the path of the folder that ``Model.save``, or ``jaxdescent fit``, wrote.

    Returns:
      The :class:`Model`.

    Raises:
      DataError: where it is no model, or one of another schema, or files are damaged.

    >>> import tempfile
    >>> import numpy as np, jaxdescent as jd
    >>> table = {"x": np.arange(5.0), "y": 2 * np.arange(5.0) + 1}
    >>> with tempfile.TemporaryDirectory() as room:
    ...     saved = jd.fit_model(table, target="y").save(f"{room}/line")
    ...     print(jd.load_model(saved).predict({"x": np.array([10.0])}).round(6))
    [21.]
    """
    folder = path_of(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.")
    path = folder / DESCRIPTION
    if not path.exists():
        raise DataError(f"{folder} holds no {DESCRIPTION}: it is no model.")
    content = _content_of(path)
    if content.get("format") != FORMAT:
        raise DataError(f"{path} does not describe a jaxdescent model.")
    if content.get("schema") != SCHEMA:
        versions = content.get("versions")
        wrote = versions.get("jaxdescent") if isinstance(versions, dict) else None
        raise DataError(
            f"{path} has schema {content.get('schema')!r}, written by jaxdescent {wrote}, and this "
            f"version reads {SCHEMA}: load it with that version, or fit again."
        )
    try:
        _check(content, MODEL, "")
        if content["metrics"]:
            _check(content["metrics"], METRICS, "metrics")
        for key, each in content["encoding"]["interactions"].items():
            kind = "numbers" if key in content["encoding"]["numbers"] else "levels"
            _expect(bool(each[kind]), f"encoding.interactions.{key}.{kind}", "columns", each[kind])
        for key, each in content["encoding"]["dates"].items():
            where, zone, first = f"encoding.dates.{key}", each.get("zone"), each["first"]
            _expect(zone is None or is_zone(zone), f"{where}.zone", "a time zone", zone)
            _expect(each["last"] >= first, f"{where}.last", f"at least {first}", each["last"])
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    encoding = content["encoding"]
    buckets = indices = np.zeros(0, np.int64)
    if encoding["hashed"]:
        buckets = _rising_places_of(folder / BUCKETS, 1 << encoding["bits"])
    if encoding.get("sparse") is not None:
        indices = _rising_places_of(folder / INDICES, np.iinfo(np.int64).max)
    weights = _vector_of(folder / WEIGHTS, np.dtype(np.float64))
    if not np.isfinite(weights).all():
        raise DataError(f"{folder / WEIGHTS} is damaged: weights must be finite.")
    try:
        made = Encoding.of_json(encoding, buckets, indices)
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    model = Model(
        target=content["target"],
        encoding=made,
        weights=weights,
        intercept=float(content["intercept"]),
        options=content["options"],
        metrics=content["metrics"],
        versions=content["versions"],
        fingerprint=content["data"],
    )
    if len(model.weights) != model.encoding.size or content["features"] != model.encoding.size:
        raise DataError(
            f"{folder} is damaged: it has {len(model.weights):,} weights for "
            f"{model.encoding.size:,} features."
        )
    # A folder that is replaced while it is read gives files of two models.
    if content["arrays"] != model.digest():
        raise DataError(
            f"{folder} is damaged, or was replaced while it was read: {WEIGHTS} is not that of its "
            f"{DESCRIPTION}; load it again."
        )
    return model


def _rising_places_of(path: pathlib.Path, count: int) -> np.ndarray:
    """The indices that a file holds: strictly rising, from 0 to below ``count``."""
    places = _vector_of(path, np.dtype(np.int64))
    if places.size and (places[0] < 0 or places[-1] >= count or np.any(np.diff(places) <= 0)):
        raise DataError(f"{path} is damaged: places must rise from 0 to {count - 1:,}.")
    return places


def _vector_of(path: pathlib.Path, dtype: np.dtype[Any]) -> np.ndarray:
    """The vector that a file holds."""
    with reading(path):
        array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != dtype:
        raise DataError(f"{path} is damaged: it must hold one column of {dtype}.")
    return array


def _content_of(path: pathlib.Path) -> dict[str, Any]:
    """The content of a JSON file, whose numbers must be finite; empty where it is no object."""

    def number(digits: str) -> float:
        if len(digits) > MOST_DIGITS or not math.isfinite(float(digits)):
            shown = digits if len(digits) <= MOST_DIGITS else f"{digits[:MOST_DIGITS]}..."
            raise DataError(f"{path} is damaged: no model has the number {shown}.")
        return int(digits) if digits.removeprefix("-").isdigit() else float(digits)

    try:
        with reading(path):
            text = path.read_text(encoding="utf-8")
        content = json.loads(text, parse_int=number, parse_float=number, parse_constant=number)
        json.dumps(content, ensure_ascii=False).encode()
    except (json.JSONDecodeError, UnicodeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    return content if isinstance(content, dict) else {}


def _check(value: Any, schema: Any, where: str) -> None:
    if isinstance(schema, dict):
        _expect(isinstance(value, dict), where, "an object", value)
        if ... in schema:
            for key, each in value.items():
                _check(each, schema[...], f"{where}.{key}")
            return
        for key, own in schema.items():
            plain = key.removesuffix("?")
            place = f"{where}.{plain}" if where else plain
            if key != plain and value.get(plain) is None:
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
    elif schema is float:
        _expect(type(value) in (int, float), where, "a number", value)
    elif schema is int:
        _expect(type(value) is int and value >= 0, where, "a whole number", value)
    else:
        _expect(isinstance(value, schema), where, "text", value)


def _expect(holds: bool, where: str, what: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{where} must be {what}, got {json.dumps(value)[:40]}")
