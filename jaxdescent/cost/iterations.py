"""How ill-conditioned a problem may be, and the iterations and the error that follow.

A few products cannot tell a condition number, because a Krylov space sees small singular values
last: where it is 100,000, sixteen Lanczos steps see 100. So nothing important depends on the
assumed number: a plan shows seconds for the best and the worst one, and the choice is a hedge.
"""

from __future__ import annotations

import math

from jaxdescent.cost.structure import ProblemKind, Structure
from jaxdescent.cost.work import Question
from jaxdescent.regression.solve.factor import least_singular_value

ASSUMED_CONDITION = 100.0
"""The condition number of X (its square for H) that is assumed if nothing is known."""

LEAST_ASSUMED = 10.0
"""The least condition number that is assumed: columns of real data are correlated."""

SQUARE_GROWTH = 4.65
"""A square Gaussian matrix of n rows has a condition number near ``4.65 n`` (Edelman, 1988)."""

HOPED = 2.0
"""A condition number of X below which hardly any data are."""

LAST_DIRECTION = 2.0
"""Conjugate gradients end after at most this factor times the shorter side of X; in exact
arithmetic the factor would be one."""


def assumed_condition(structure: Structure) -> tuple[float | None, str]:
    """The condition number of X (of H for a quadratic) that is assumed from shapes alone, and a
    sentence that says so; None if nothing is known.

    A penalty is assumed to make the normal equations well-conditioned.
    """
    if structure.kind is ProblemKind.REGRESSION:
        gaussian = gaussian_condition(structure.rows, structure.features)
        number, known = max(gaussian, LEAST_ASSUMED), ""
        if structure.has_penalty:
            number = min(number, 0.5 / least_singular_value(structure.compute_dtype))
            known = "; l2 can only lower it"
        return (
            number,
            f"The condition number of X is assumed to be {number:.3g} (independent normal entries "
            f"of this shape have {gaussian:.3g}){known}.",
        )
    if structure.kind is ProblemKind.QUADRATIC:
        return None, "Nothing is known of the Hessian: a condition number of 10,000 is assumed."
    if structure.kind is ProblemKind.SEPARABLE:
        return 1.0, "The curvatures are assumed to be nearly equal."
    return (
        None,
        "Nothing is known of the Hessian: iterations are those of ordinary problems, and the "
        "memory that the function itself needs is not counted.",
    )


def gaussian_condition(rows: int, features: int) -> float:
    """The condition number of a matrix with independent normal entries (Marchenko and Pastur).

    It is ``(1 + sqrt(r)) / (1 - sqrt(r))`` for the ratio r <= 1 of the sides, and at most that of
    a square matrix.

    >>> round(gaussian_condition(400, 100), 6), round(gaussian_condition(100, 100))
    (3.0, 465)
    """
    smaller, larger = sorted((rows, features))
    root = math.sqrt(smaller / larger)
    square = max(SQUARE_GROWTH * smaller, 1.0)
    return min((1 + root) / (1 - root), square) if root < 1 else square


def krylov_iterations(condition: float, tolerance: float) -> float:
    """The i with ``2 ((k - 1) / (k + 1))^i = tolerance``, for a condition number k of X.

    >>> round(krylov_iterations(2.0, 1e-6)), round(krylov_iterations(100.0, 1e-6))
    (13, 725)
    """
    if condition <= 1:
        return 1.0
    tolerance = max(tolerance, 1e-16)
    return max(math.log(tolerance / 2) / math.log1p(-2 / (condition + 1)), 1.0)


def condition_of(question: Question) -> float:
    """The condition number that iterations depend on: that of X, or the root of that of H."""
    if question.condition is None:
        return ASSUMED_CONDITION
    is_hessian = question.structure.kind is ProblemKind.QUADRATIC
    return math.sqrt(question.condition) if is_hessian else question.condition


def krylov_count(question: Question) -> float:
    """The expected iterations: Chebyshev's bound, limited by the number of directions."""
    count = krylov_iterations(condition_of(question), question.tolerance)
    is_dense, directions = question.structure.is_dense, question.structure.smaller
    return min(count, LAST_DIRECTION * directions) if is_dense else count


def gradient_iterations(question: Question) -> float:
    """The i with ``(1 - 2 / (k^2 + 1))^i = tolerance``, for steps of steepest descent."""
    squared = min(condition_of(question) ** 2, 1e16)
    return max(-math.log(max(question.tolerance, 1e-16)) * (squared + 1) / 4, 1.0) + 5


def error_bound(question: Question, tolerance: float = 0.0) -> float:
    """A bound on the params' relative error: the condition number times the tolerance, or times eps
    if that is larger.
    """
    return min(max(tolerance, question.structure.eps) * (question.condition or 1.0), 1.0)
