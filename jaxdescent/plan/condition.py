"""The assumed condition number of a problem, from its shape, for predicting iterations.

A few products cannot tell a condition number, because a Krylov space sees small singular values
last: where it is 100,000, sixteen Lanczos steps see 100. So nothing important depends on the
number: the choice is a hedge (:mod:`jaxdescent.plan.choice`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp

from jaxdescent.plan.structure import Kind, Structure

LEAST_ASSUMED = 10.0
"""The least condition number that is assumed: columns of real data are correlated."""

SQUARE_GROWTH = 4.65
"""A square Gaussian matrix of n rows has a condition number near ``4.65 n`` (Edelman, 1988)."""

HOPED = 2.0
"""A condition number of X that hardly any data are below."""


class Condition(NamedTuple):
    """A condition number of X (of H for a quadratic), and a sentence that states the assumption.

    ``number`` is None if nothing is known.
    """

    number: float | None
    assumption: str


def assumed_condition(structure: Structure) -> Condition:
    """The condition number that is assumed from shapes alone."""
    if structure.kind is Kind.REGRESSION:
        gaussian = gaussian_condition(structure.rows, structure.features)
        number = max(gaussian, LEAST_ASSUMED)
        known = "; l2 can only lower it" if structure.has_penalty else ""
        return Condition(
            number,
            f"The condition number of X is assumed to be {number:.3g} (independent normal entries "
            f"of this shape have {gaussian:.3g}){known}.",
        )
    if structure.kind is Kind.QUADRATIC:
        return Condition(
            None, "Nothing is known of the Hessian: a condition number of 10,000 is assumed."
        )
    if structure.kind is Kind.SEPARABLE:
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
