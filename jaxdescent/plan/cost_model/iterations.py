"""The expected number of iterations, and the error that they leave."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxdescent.plan.cost_model.work import Question
from jaxdescent.plan.structure import Kind, Structure

UNKNOWN_ITERATIONS = {"LBFGS": 100, "ConjugateGradient": 150, "Backtracking": 1000}
"""The assumed iterations for functions with an unknown Hessian, right to an order of magnitude."""


NEWTON_ITERATIONS = 10


ASSUMED_CONDITION = 100.0
"""The condition number of X (its square for H) that is assumed if nothing is known."""


LAST_DIRECTION = 2.0
"""Conjugate gradients end after at most this factor times the shorter side of X; in exact
arithmetic the factor would be one."""


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
    if structure.kind is Kind.QUADRATIC and condition is not None:
        condition = math.sqrt(condition)
    count = krylov_iterations(condition, question.tolerance)
    if structure.is_dense:
        count = min(count, LAST_DIRECTION * min(structure.rows, structure.features))
    return count


def gradient_iterations(question: Question) -> float:
    """The i with ``(1 - 2 / (k^2 + 1))^i = tolerance``, for steps of steepest descent."""
    condition = question.condition or ASSUMED_CONDITION
    if question.structure.kind is Kind.QUADRATIC and question.condition:
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
