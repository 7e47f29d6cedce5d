"""The options of a fit, checked before anything is read, and the methods that they name."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from jaxdescent.data import DataError
from jaxdescent.fit.columns import MOST_BITS
from jaxdescent.methods import LBFGS, LSMR, ConjugateGradient, Method
from jaxdescent.preconditioners import Jacobi

AUTO, DIRECT = "auto", "direct"
"""The automatic choice of an option, and the method of sums."""

ITERATIVE: dict[str, Callable[[], Method]] = {
    "cg": lambda: ConjugateGradient(Jacobi()),
    "lsmr": lambda: LSMR(Jacobi()),
    "lbfgs": LBFGS,
}
"""The methods that iterate. The columns of a table differ in length by their nature, so the first
two scale them."""

IN_MEMORY, IN_FILES = "cg", "lsmr"
"""The methods of "auto" where rows are in memory, and where they are read in each pass: an
iteration of LSMR is one pass, one of conjugate gradients two."""

NAMES = (AUTO, DIRECT, *ITERATIVE)

LONGEST = 80
"""The longest text of a value that a message shows."""

LISTS = ("features", "exclude", "categorical", "hashed", "interact", "date")


def settled(name: str, value: Any) -> Any:
    """An option's value in the one type that a request and a model keep: names as tuples of text,
    whatever lists them, and NumPy's numbers as Python's.

    >>> settled("features", "a"), settled("interact", [["a", "b"], "a:c"])
    (('a',), (('a', 'b'), 'a:c'))
    """
    option = f"--{'hash' if name == 'hashed' else name.replace('_', '-')}"
    if name in LISTS:
        return _listed(option, value, pairs=name == "interact")
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


def _shown(value: Any) -> str:
    """A value in a message of one line, which an array of numbers is too long for."""
    text = repr(value)
    return text if len(text) <= LONGEST and "\n" not in text else type(value).__name__


def _listed(option: str, value: Any, *, pairs: bool) -> tuple[Any, ...]:
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


@dataclasses.dataclass(frozen=True)
class Request:
    """The options of a fit; :func:`jaxdescent.fit.fit_model` describes them."""

    target: str | None = None
    features: Sequence[str] = ()
    exclude: Sequence[str] = ()
    categorical: Sequence[str] = ()
    hashed: Sequence[str] = ()
    interact: Sequence[str | Sequence[str]] = ()
    date: Sequence[str] = ()
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

    def check(self) -> None:
        """Refuse what makes no sense, whatever the data are."""
        l2 = self.l2
        is_dtype = self.dtype in (None, "float32", "float64")
        is_policy = self.missing in ("error", "drop", "mean")
        is_penalty = l2 == AUTO if isinstance(l2, str) else math.isfinite(l2) and l2 >= 0
        for option, is_met, expected, got in (
            ("test", 0 <= self.test < 1, "from 0 to less than 1", f"{self.test:g}"),
            ("missing", is_policy, "error, drop or mean", repr(self.missing)),
            ("method", self.method in NAMES, ", ".join(NAMES), repr(self.method)),
            ("dtype", is_dtype, "float32 or float64", repr(self.dtype)),
            ("bits", 1 <= self.bits <= MOST_BITS, f"from 1 to {MOST_BITS}", self.bits),
            ("seed", 0 <= self.seed < 2**63, "from 0 to 2**63 - 1", self.seed),
            ("l2", is_penalty, "a number of at least 0 or auto", repr(l2)),
        ):
            if not is_met:
                raise DataError(f"--{option} must be {expected}, got {got}.")

    def matched(self, known: Collection[str]) -> Request:
        """The request whose names lose spaces that no column has: ``a, b`` lists two columns."""
        own: dict[str, Any] = {}
        for option in ("features", "exclude", "categorical", "hashed"):
            names = getattr(self, option)
            own[option] = tuple(dict.fromkeys(n if n in known else n.strip() or n for n in names))
        return dataclasses.replace(self, **own)

    def as_json(self) -> dict[str, Any]:
        """The options as a model keeps them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


def method_of(name: str, default: str = IN_MEMORY) -> Method:
    """The iterative method of this name; "auto" stands for ``default``."""
    return ITERATIVE[default if name == AUTO else name]()
