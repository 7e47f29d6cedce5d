"""The options of a fit, checked before anything is read."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
from collections.abc import Collection
from typing import Any

import numpy as np

from jaxdescent.rows import DataError
from jaxdescent.rows.hashing import MOST_BITS

AUTO, DIRECT = "auto", "direct"
"""The automatic choice of an option, and the method of sums."""

METHODS = (AUTO, DIRECT, "cg", "lsmr", "lbfgs")

LONGEST = 80
"""The longest text of a value that a message shows."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a fit; :func:`jaxdescent.fit.fit_model` describes them."""

    target: str | None = None
    features: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    hashed: tuple[str, ...] = ()
    interact: tuple[str | tuple[str, ...], ...] = ()
    date: tuple[str, ...] = ()
    bits: int = 20
    weights: str | None = None
    where: str | None = None
    l2: float | str = 0.0
    method: str = AUTO
    dtype: str | None = None
    test: float = 0.0
    standardize: bool = False
    missing: str = "error"
    seed: int = 0

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Options in the types that a model keeps, checked.

        >>> Options.of(features="a", interact=[["a", "b"], "a:c"]).interact
        (('a', 'b'), 'a:c')
        """
        made = cls(**{name: _settled(name, value) for name, value in given.items()})
        l2 = made.l2
        is_penalty = l2 == AUTO if isinstance(l2, str) else math.isfinite(l2) and l2 >= 0
        for option, is_met, expected, got in (
            ("test", 0 <= made.test < 1, "from 0 to less than 1", f"{made.test:g}"),
            ("missing", made.missing in ("error", "drop", "mean"), "error, drop or mean",
             repr(made.missing)),
            ("method", made.method in METHODS, ", ".join(METHODS), repr(made.method)),
            ("dtype", made.dtype in (None, "float32", "float64"), "float32 or float64",
             repr(made.dtype)),
            ("bits", 1 <= made.bits <= MOST_BITS, f"from 1 to {MOST_BITS}", made.bits),
            ("seed", 0 <= made.seed < 2**63, "from 0 to 2**63 - 1", made.seed),
            ("l2", is_penalty, "a number of at least 0 or auto", repr(l2)),
        ):  # fmt: skip
            if not is_met:
                raise DataError(f"--{option} must be {expected}, got {got}.")
        return made

    def matched(self, known: Collection[str]) -> Options:
        """The options whose names lose spaces that no column has: ``a, b`` lists two columns."""
        own = {
            option: tuple(
                dict.fromkeys(
                    name if name in known else name.strip() or name
                    for name in getattr(self, option)
                )
            )
            for option in ("features", "exclude", "categorical", "hashed")
        }
        return dataclasses.replace(self, **own)

    def as_json(self) -> dict[str, Any]:
        """The options as a model keeps them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


def _settled(name: str, value: Any) -> Any:
    """An option's value in its one type: names as tuples, NumPy's numbers as Python's."""
    option = f"--{'hash' if name == 'hashed' else name.replace('_', '-')}"
    if name in ("features", "exclude", "categorical", "hashed", "interact", "date"):
        return _names(option, value, pairs=name == "interact")
    if name in ("bits", "seed"):
        convert, expected = operator.index, "a whole number"
    elif name == "standardize":
        convert, expected = lambda given: bool((False, True).index(given)), "True or False"
    elif name == "test" or (name == "l2" and not isinstance(value, str)):
        convert, expected = float, "a number"
    elif name == "dtype":
        with contextlib.suppress(TypeError):
            return value if value is None else np.dtype(value).name
        return value
    elif value is None or isinstance(value, str):
        return value
    else:
        raise DataError(f"{option} must be text, got {_shown(value)}.")
    try:
        return convert(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{option} must be {expected}, got {_shown(value)}.") from error


def _names(option: str, value: Any, *, pairs: bool) -> tuple[Any, ...]:
    if value is None or isinstance(value, str):
        return () if value is None else (value,)
    try:
        found = tuple(each if isinstance(each, str) or not pairs else tuple(each) for each in value)
    except TypeError as error:
        raise DataError(f"{option} must list names of columns, got {_shown(value)}.") from error
    for each in found:
        for column in each if isinstance(each, tuple) else (each,):
            if not isinstance(column, str):
                raise DataError(f"{option} must list names of columns, got {column!r} among them.")
    return found


def _shown(value: Any) -> str:
    """A value in a message of one line, which an array of numbers is too long for."""
    text = repr(value)
    return text if len(text) <= LONGEST and "\n" not in text else type(value).__name__
