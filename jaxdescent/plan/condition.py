"""How ill-conditioned a problem is, as far as a few products or its shape can tell."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent import placement, randomness
from jaxdescent.designs import Dense
from jaxdescent.objectives import LinearRegression, Objective, Quadratic
from jaxdescent.plan.structure import Kind, Structure
from jaxdescent.precision import HIGHEST, compute_dtype

LEAST_ASSUMED = 10.0
"""Columns of real data are correlated: no better condition is assumed without a look."""

SQUARE_GROWTH = 4.65
"""A square Gaussian matrix of n rows has a condition number near ``4.65 n`` (Edelman, 1988)."""

SAMPLE_ENTRIES = 1 << 22
"""Of X: so many entries are looked at."""

STEPS = 16
"""Of the Lanczos process: a pass over the sample and one over its transpose each."""


class Condition(NamedTuple):
    """A condition number of X (of H for a quadratic), and where it comes from.

    Attributes:
      number: None where nothing is known.
      is_measured: whether the data were looked at.
      assumption: a sentence.
    """

    number: float | None
    is_measured: bool
    assumption: str


def assumed_condition(structure: Structure) -> Condition:
    """What shapes alone say."""
    if structure.kind is Kind.REGRESSION:
        gaussian = gaussian_condition(structure.rows, structure.features)
        number = max(gaussian, LEAST_ASSUMED)
        known = "; l2 can only lower it" if structure.has_penalty else ""
        return Condition(
            number,
            False,
            f"The condition number of X is assumed to be {number:.3g} (independent normal entries "
            f"of this shape have {gaussian:.3g}){known}.",
        )
    if structure.kind is Kind.QUADRATIC:
        return Condition(
            None, False, "Nothing is known of the Hessian: a condition number of 10,000 is assumed."
        )
    if structure.kind is Kind.SEPARABLE:
        return Condition(1.0, False, "The curvatures are assumed to be nearly equal.")
    return Condition(
        None,
        False,
        "Nothing is known of the Hessian: iterations are those of ordinary problems, and the "
        "memory that the function itself needs is not counted.",
    )


def gaussian_condition(rows: int, features: int) -> float:
    """Of a matrix with independent normal entries, by Marchenko and Pastur's limits.

    ``(1 + sqrt(r)) / (1 - sqrt(r))`` for the ratio r <= 1 of its sides.

    >>> round(gaussian_condition(400, 100), 6), round(gaussian_condition(100, 100))
    (3.0, 465)
    """
    smaller, larger = sorted((rows, features))
    root = math.sqrt(smaller / larger)
    square = max(SQUARE_GROWTH * smaller, 1.0)
    return min((1 + root) / (1 - root), square) if root < 1 else square


def estimated_condition(objective: Objective, structure: Structure) -> Condition:
    """From the data where they are there and dense: an estimate from below, by Lanczos."""
    assumed = assumed_condition(structure)
    if isinstance(objective, LinearRegression) and isinstance(objective.X, Dense):
        if not _is_there(objective.X.array, objective.l2):
            return assumed
        return _of_regression(objective, structure) or assumed
    if isinstance(objective, Quadratic) and structure.is_dense and _is_there(objective.hessian):
        lowest, highest = _extreme_eigenvalues(jnp.asarray(objective.hessian), None, STEPS)
        if lowest <= 0:
            return assumed
        number = highest / lowest
        return Condition(
            number, True, f"The condition number of H is at least {number:.3g}: {STEPS} products."
        )
    return assumed


def _of_regression(objective: LinearRegression, structure: Structure) -> Condition | None:
    rows, features = structure.rows, structure.features
    count = min(rows, max(SAMPLE_ENTRIES // features, 1))
    if count < rows and count < 4 * features:
        count = min(4 * features, rows)
        if count * features > 16 * SAMPLE_ENTRIES:
            return None
    sample = objective.X.array
    if count < rows:
        sample = sample[np.linspace(0, rows - 1, count).astype(np.int32)]
    lowest, highest = _extreme_eigenvalues(sample, objective.intercept, STEPS)
    # A sample's own spread is wider than that of all rows: by the ratio of the two laws.
    spread = 1.0
    if count < rows:
        spread = gaussian_condition(rows, features) / gaussian_condition(count, features)
    l2 = float(np.min(np.asarray(objective.l2))) * count / rows
    if highest + l2 <= 0:
        return None
    lowest = max(lowest, highest * float(jnp.finfo(structure.compute_dtype).eps) ** 2)
    number = max(math.sqrt((highest + l2) / (lowest / spread**2 + l2)), 1.0)
    of_rows = f" on {count:,} of its rows" if count < rows else ""
    return Condition(
        number,
        True,
        f"The condition number of X is at least {number:.3g}: {STEPS} Lanczos steps{of_rows}.",
    )


def _is_there(*arrays: Any) -> bool:
    return all(
        placement.is_concrete(array) or isinstance(array, (int, float, np.ndarray))
        for array in arrays
    )


def _extreme_eigenvalues(
    matrix: jax.Array, is_centred: bool | None, steps: int
) -> tuple[float, float]:
    """Ritz values of ``A'A`` for the centred (or raw) matrix; of the matrix for None."""
    steps = min(steps, *matrix.shape)
    values = np.asarray(_ritz_values(matrix, is_centred, steps), np.float64)
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _ritz_values(matrix: jax.Array, is_centred: bool | None, steps: int) -> jax.Array:
    """Lanczos with full orthogonalisation, from a vector in the range."""
    dtype = compute_dtype(matrix.dtype)
    A = matrix.astype(dtype)
    mean = jnp.mean(A, axis=0) if is_centred else jnp.zeros((A.shape[1],), dtype)

    def product(vector: jax.Array) -> jax.Array:
        if is_centred is None:
            both = jnp.matmul(A, vector, precision=HIGHEST)
            return 0.5 * (both + jnp.matmul(A.T, vector, precision=HIGHEST))
        image = jnp.matmul(A, vector, precision=HIGHEST) - jnp.matmul(mean, vector)
        return jnp.matmul(A.T, image, precision=HIGHEST) - mean * jnp.sum(image)

    tiny = jnp.finfo(dtype).tiny
    signs = 1 - 2 * (randomness.bits((A.shape[1],), randomness.fold(0)) & 1).astype(dtype)
    first = product(signs)
    first = first / jnp.maximum(jnp.linalg.norm(first), tiny)
    basis = jnp.zeros((steps, A.shape[1]), dtype).at[0].set(first)

    def step(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        basis, images = carry
        image = product(basis[k])
        images = images.at[k].set(image)
        rest = image
        for _ in range(2):
            rest = rest - basis.T @ (basis @ rest)
        norm = jnp.linalg.norm(rest)
        # What is left when the space is used up is rounding: no new direction.
        is_new = norm > 1e-3 * jnp.sqrt(jnp.finfo(dtype).eps) * jnp.linalg.norm(image)
        following = jnp.where(is_new, rest / jnp.maximum(norm, tiny), 0)
        return basis.at[jnp.minimum(k + 1, steps - 1)].set(
            jnp.where(k + 1 < steps, following, basis[steps - 1])
        ), images

    basis, images = lax.fori_loop(0, steps, step, (basis, jnp.zeros_like(basis)))
    projected = jnp.matmul(basis, images.T, precision=HIGHEST)
    # Rows of zeros, of an exhausted space, become copies of a value that is there.
    is_empty = jnp.sum(jnp.square(basis), axis=1) == 0
    projected = projected + jnp.diag(jnp.where(is_empty, projected[0, 0], 0))
    return jnp.linalg.eigvalsh(0.5 * (projected + projected.T))
