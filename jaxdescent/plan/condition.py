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
from jaxdescent.dtypes import HIGHEST, compute_dtype
from jaxdescent.objectives import LinearRegression, Objective, Quadratic
from jaxdescent.plan.structure import Kind, Structure

LEAST_ASSUMED = 10.0
"""Columns of real data are correlated: no better condition is assumed without a look."""

SQUARE_GROWTH = 4.65
"""A square Gaussian matrix of n rows has a condition number near ``4.65 n`` (Edelman, 1988)."""

SAMPLE_ENTRIES = 1 << 22
"""Of X: so many entries are looked at, or four times as many lines as the shorter side has."""

LARGEST_SAMPLE = 1 << 28
"""Entries: a look at more would take more than a second or two."""

STEPS = 16
"""Of the Lanczos process: a pass over the sample and one over its transpose each."""

SETTLED = 1.25
"""By no more may the condition number have grown over the second half of the steps."""


class Condition(NamedTuple):
    """A condition number of X (of H for a quadratic), and where it comes from.

    Attributes:
      number: None where nothing is known.
      is_measured: whether the data were looked at.
      assumption: a sentence.
      is_settled: whether more steps would hardly have found it larger.
      at_most: of a regression, how large it may be for all that a look has told; None where the
        data were not looked at, or the look has settled.
    """

    number: float | None
    is_measured: bool
    assumption: str
    is_settled: bool = False
    at_most: float | None = None


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


def feared_condition(structure: Structure) -> Condition:
    """What a look may come to that leaves open how ill-conditioned a problem is."""
    return assumed_condition(structure)._replace(is_measured=True, at_most=_worst(structure))


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
        ritz = _extreme_eigenvalues(jnp.asarray(objective.hessian), None, STEPS)
        if ritz.lowest <= 0:
            return assumed
        number = ritz.highest / ritz.lowest
        return Condition(
            number,
            True,
            f"The condition number of H is at least {number:.3g}: {STEPS} products.",
            ritz.lowest_halfway < SETTLED * ritz.lowest,
        )
    return assumed


def _of_regression(objective: LinearRegression, structure: Structure) -> Condition | None:
    rows, features = structure.rows, structure.features
    # Lines of the longer side: rows, or the columns of a wide X.
    shorter, longer = sorted((rows, features))
    count = min(longer, max(SAMPLE_ENTRIES // shorter, 1))
    if count < longer and count < 4 * shorter:
        count = min(4 * shorter, longer)
        if count * shorter > LARGEST_SAMPLE:
            return None
    sample = objective.X.array
    if count < longer:
        lines = np.linspace(0, longer - 1, count).astype(np.int32)
        sample = sample[lines] if structure.is_tall else sample[:, lines]
    ritz = _extreme_eigenvalues(sample, objective.intercept, STEPS)
    # A sample's own spread is wider than that of all lines: by the ratio of the two laws.
    spread = 1.0
    if count < longer:
        spread = gaussian_condition(longer, shorter) / gaussian_condition(count, shorter)
    l2 = float(np.min(np.asarray(objective.l2))) * count / longer
    if ritz.highest + l2 <= 0:
        return None
    floor = ritz.highest * float(jnp.finfo(structure.compute_dtype).eps) ** 2

    def condition(lowest: float) -> float:
        lowest = max(lowest, floor) / spread**2
        return max(math.sqrt((ritz.highest + l2) / (lowest + l2)), 1.0)

    number, halfway = condition(ritz.lowest), condition(ritz.lowest_halfway)
    side = "rows" if structure.is_tall else "columns"
    of_lines = f" on {count:,} of its {side}" if count < longer else ""
    looked = f"{STEPS} Lanczos steps{of_lines}"
    sentence = f"The condition number of X is at least {number:.3g}: {looked}."
    is_settled, at_most = number < SETTLED * halfway, None
    if not is_settled:
        # It grows with every step: no better than is assumed of the shape, or than l2 allows.
        bound = math.sqrt((ritz.highest + l2) / l2) if l2 > 0 else math.inf
        at_most = min(bound, _worst(structure))
        expected = min(max(gaussian_condition(rows, features), LEAST_ASSUMED), bound)
        if expected > number:
            number = expected
            sentence += f" It still grew, and is assumed to be {number:.3g}."
    return Condition(number, True, sentence, is_settled, at_most)


def _worst(structure: Structure) -> float:
    """As ill-conditioned as X can be for all that its dtype can tell."""
    return 1 / float(jnp.finfo(structure.compute_dtype).eps)


class _Ritz(NamedTuple):
    """Extreme Ritz values, and the lowest after half of the steps."""

    lowest: float
    highest: float
    lowest_halfway: float


def _is_there(*arrays: Any) -> bool:
    return all(
        placement.is_concrete(array) or isinstance(array, (int, float, np.ndarray))
        for array in arrays
    )


def _extreme_eigenvalues(matrix: jax.Array, is_centred: bool | None, steps: int) -> _Ritz:
    """Of ``A'A`` for the centred (or raw) matrix; of the matrix for None."""
    rows, columns = matrix.shape
    # Centring takes a direction of the rows' space away.
    steps = max(min(steps, rows - bool(is_centred), columns), 1)
    halves = _ritz_values(matrix, is_centred, steps)
    values, halfway = (np.asarray(half, np.float64) for half in halves)
    if not np.isfinite(values).all() or not np.isfinite(halfway).all():
        return _Ritz(0.0, 0.0, 0.0)
    return _Ritz(float(values.min()), float(values.max()), float(halfway.min()))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _ritz_values(
    matrix: jax.Array, is_centred: bool | None, steps: int
) -> tuple[jax.Array, jax.Array]:
    """Lanczos with full orthogonalisation, from a vector in the range: after all and half."""
    dtype = compute_dtype(matrix.dtype)
    A = matrix.astype(dtype)
    design = Dense.from_array(A)
    mean = jnp.mean(A, axis=0) if is_centred else jnp.zeros((A.shape[1],), dtype)

    def product(vector: jax.Array) -> jax.Array:
        if is_centred is None:
            both = jnp.matmul(A, vector, precision=HIGHEST)
            return 0.5 * (both + jnp.matmul(A.T, vector, precision=HIGHEST))
        if is_wide:
            return forth(back(vector))
        return back(forth(vector))

    def forth(vector: jax.Array) -> jax.Array:
        image = design.product(vector) - jnp.matmul(mean, vector)
        return image - jnp.mean(image) if is_centred else image

    def back(vector: jax.Array) -> jax.Array:
        return design.transposed_product(vector) - mean * jnp.sum(vector)

    # In the space of the shorter side, where nothing but the ones is outside the range.
    is_wide = is_centred is not None and A.shape[0] < A.shape[1]
    size = A.shape[0] if is_wide else A.shape[1]
    tiny = jnp.finfo(dtype).tiny
    signs = 1 - 2 * (randomness.bits((size,), randomness.fold(0)) & 1).astype(dtype)
    first = product(signs)
    first = first / jnp.maximum(jnp.linalg.norm(first), tiny)
    basis = jnp.zeros((steps, size), dtype).at[0].set(first)

    def step(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        basis, images = carry
        image = product(basis[k])
        images = images.at[k].set(image)
        rest = image
        for _ in range(2):
            rest = rest - basis.T @ (basis @ rest)
            if is_wide and is_centred:
                # Else the null direction of centring grows from rounding, tenfold a step.
                rest = rest - jnp.mean(rest)
        norm = jnp.linalg.norm(rest)
        # What is left when the space is used up is rounding: no new direction. A rest of the
        # rounding's own size would lie anywhere, outside the range of a wide A too.
        is_new = norm > jnp.sqrt(jnp.finfo(dtype).eps) * jnp.linalg.norm(image)
        following = jnp.where(is_new, rest / jnp.maximum(norm, tiny), 0)
        return basis.at[jnp.minimum(k + 1, steps - 1)].set(
            jnp.where(k + 1 < steps, following, basis[steps - 1])
        ), images

    basis, images = lax.fori_loop(0, steps, step, (basis, jnp.zeros_like(basis)))
    projected = jnp.matmul(basis, images.T, precision=HIGHEST)
    # Rows of zeros, of an exhausted space, become copies of a value that is there.
    is_empty = jnp.sum(jnp.square(basis), axis=1) == 0
    projected = projected + jnp.diag(jnp.where(is_empty, projected[0, 0], 0))
    projected = 0.5 * (projected + projected.T)
    half = max(steps // 2, 1)
    return jnp.linalg.eigvalsh(projected), jnp.linalg.eigvalsh(projected[:half, :half])
