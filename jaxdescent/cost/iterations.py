"""How ill-conditioned a problem may be, and the iterations and the error that follow.

A few products cannot tell a condition number, because a Krylov space sees small singular values
last: where it is 100,000, sixteen Lanczos steps see 100. So nothing important depends on the
assumed number: a plan shows seconds for the best and the worst one, and the choice is a hedge.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp

from jaxdescent.cost.structure import ProblemKind, Structure
from jaxdescent.cost.work import Question
from jaxdescent.regression.solve import least_singular_value

NEWTON_ITERATIONS = 10

ASSUMED_CONDITION = 100.0
"""The condition number of X (its square for H) that is assumed if nothing is known."""

LEAST_ASSUMED = 10.0
"""The least condition number that is assumed: columns of real data are correlated."""

SQUARE_GROWTH = 4.65
"""A square Gaussian matrix of n rows has a condition number near ``4.65 n`` (Edelman, 1988)."""

HOPED = 2.0
"""A condition number of X that hardly any data are below."""

LAST_DIRECTION = 2.0
"""Conjugate gradients end after at most this factor times the shorter side of X; in exact
arithmetic the factor would be one."""


class Condition(NamedTuple):
    """A condition number of X (of H for a quadratic), and a sentence that states the assumption.

    ``number`` is None if nothing is known.
    """

    number: float | None
    assumption: str


def assumed_condition(structure: Structure) -> Condition:
    """The condition number that is assumed from shapes alone.

    A penalty is assumed to make the normal equations well-conditioned.
    """
    if structure.kind is ProblemKind.REGRESSION:
        gaussian = gaussian_condition(structure.rows, structure.features)
        number, known = max(gaussian, LEAST_ASSUMED), ""
        if structure.has_penalty:
            number = min(number, 0.5 / least_singular_value(structure.compute_dtype))
            known = "; l2 can only lower it"
        return Condition(
            number,
            f"The condition number of X is assumed to be {number:.3g} (independent normal entries "
            f"of this shape have {gaussian:.3g}){known}.",
        )
    if structure.kind is ProblemKind.QUADRATIC:
        return Condition(
            None, "Nothing is known of the Hessian: a condition number of 10,000 is assumed."
        )
    if structure.kind is ProblemKind.SEPARABLE:
        return Condition(1.0, "The curvatures are assumed to be nearly equal.")
    return Condition(
        None,
        "Nothing is known of the Hessian: iterations are those of ordinary problems, and the "
        "memory that the function itself needs is not counted.",
    )


def worst_condition(structure: Structure) -> float:
    """The largest condition number of X that its dtype can resolve."""
    return 1 / float(jnp.finfo(structure.compute_dtype).eps)


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


def krylov_iterations(condition: float | None, tolerance: float) -> float:
    """The i with ``2 ((k - 1) / (k + 1))^i = tolerance``, for a condition number k of X.

    >>> round(krylov_iterations(2.0, 1e-6)), round(krylov_iterations(100.0, 1e-6))
    (13, 725)
    """
    if condition is None:
        condition = ASSUMED_CONDITION
    tolerance = max(tolerance, 1e-16)
    rate = (condition - 1) / (condition + 1)
    if rate <= 0:
        return 1.0
    return max(math.log(tolerance / 2) / math.log(rate), 1.0)


def krylov_count(question: Question) -> float:
    """The expected iterations: Chebyshev's bound, limited by the number of directions."""
    structure, condition = question.structure, question.condition
    if structure.kind is ProblemKind.QUADRATIC and condition is not None:
        condition = math.sqrt(condition)
    count = krylov_iterations(condition, question.tolerance)
    if structure.is_dense:
        count = min(count, LAST_DIRECTION * min(structure.rows, structure.features))
    return count


def gradient_iterations(question: Question) -> float:
    """The i with ``(1 - 2 / (k^2 + 1))^i = tolerance``, for steps of steepest descent."""
    condition = question.condition or ASSUMED_CONDITION
    if question.structure.kind is ProblemKind.QUADRATIC and question.condition:
        condition = math.sqrt(condition)
    squared = min(condition * condition, 1e16)
    tolerance = max(question.tolerance, 1e-16)
    return max(-math.log(tolerance) * (squared + 1) / 4, 1.0) + 5


def expected_error(question: Question) -> float:
    """A bound on the params' relative error: the condition number k times the tolerance."""
    condition = question.condition or 1.0
    eps = float(jnp.finfo(question.structure.compute_dtype).eps)
    return min(max(question.tolerance, eps) * condition, 1.0)


def default_error(structure: Structure) -> float:
    """The expected relative error if nothing is known of the Hessian: half the digits are lost."""
    return float(jnp.finfo(structure.compute_dtype).eps) ** 0.5
