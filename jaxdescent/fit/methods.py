"""The methods that a fit can be asked for, by name."""

from __future__ import annotations

from collections.abc import Callable

from jaxdescent.methods import LBFGS, LSMR, ConjugateGradient, Method
from jaxdescent.preconditioners import Jacobi

AUTO, DIRECT = "auto", "direct"

ITERATIVE: dict[str, Callable[[], Method]] = {
    "cg": lambda: ConjugateGradient(Jacobi()),
    "lsmr": lambda: LSMR(Jacobi()),
    "lbfgs": LBFGS,
}
"""Those that iterate on rows in memory. The columns of a table differ in length by their nature,
so the first two scale them."""

NAMES = (AUTO, DIRECT, *ITERATIVE)


def method_of(name: str) -> Method:
    """The method that iterates where this one is asked for."""
    return ITERATIVE["cg" if name == AUTO else name]()
