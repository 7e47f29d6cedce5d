"""The methods that a fit can be asked for, by name."""

from __future__ import annotations

from collections.abc import Callable

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


def method_of(name: str, default: str = IN_MEMORY) -> Method:
    """The iterative method of this name; "auto" stands for ``default``."""
    return ITERATIVE[default if name == AUTO else name]()
