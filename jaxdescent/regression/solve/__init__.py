"""Exact solves of a regression: normal equations, QR with refinement, the dual form.

All of them solve the centred and weighted problem. Let ``x_bar, y_bar`` be the weighted means and
``D = diag(sqrt(s))``: the weights minimise ``|D (X - 1 x_bar') w - D (y - y_bar)|^2 + l2 |w|^2``,
and the intercept is ``y_bar - x_bar.w``.
"""

from __future__ import annotations

from typing import Any

from jaxdescent.designs import as_design
from jaxdescent.regression.solve.normal_equations import GramSolver, SumsSolver
from jaxdescent.regression.solve.wide import WideSolver


def regression_solver(regression: Any) -> Any:
    """The solver for these shapes: Cholesky of the smaller Gram matrix, or one SVD for a wide X and
    several penalties; or sums over rows, if the design computes them itself.
    """
    by_sums = SumsSolver.of(regression)
    if by_sums is not None:
        return by_sums
    rows, features = as_design(regression.X).shape
    return (GramSolver if rows >= features else WideSolver).factorise(regression)
