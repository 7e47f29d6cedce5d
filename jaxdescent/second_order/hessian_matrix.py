"""Hessians that can be stored: dense ones of a few thousand unknowns, banded ones of millions.

The signs of the eigenvalues are those of ``S = D H D``, where the positive diagonal D gives the
rows of S similar size: by Sylvester's law of inertia S has as many positive, zero and negative
eigenvalues as H, and zero is recognised equally well in large and in small units. An eigenvalue of
S counts as zero within a margin that covers

- the rounding of the data. If all eigenvalues are computed, it is measured by the change of the
  extreme eigenvalues for data with other rounding errors of the same size; it is far less for a sum
  of squares than for a matrix whose entries are rounded. Otherwise it is twice eps times the
  largest eigenvalue: random rounding errors move an eigenvalue by about half of that;
- the rounding of the products, measured by comparing products with random vectors, at params that
  differ by their rounding, with the same products by the formed matrix;
- the change of S within twice Newton's step: near a degenerate point this step is long, and the
  eigenvalues are not those of the stationary point.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdescent import processes
from jaxdescent.numerics.linear_systems import on_vectors
from jaxdescent.objectives import Objective, Params
from jaxdescent.objectives.stationary import equilibrating
from jaxdescent.second_order.curvature import Curvature

PROBES = 8
"""The number of random vectors for measuring rounding, and of power iterations for changes."""

SAFETY = 8
"""The factor from the error of a product with a random vector to that in the worst direction."""

DRAWS, DRAW_SAFETY = 3, 4
"""The number of draws of other data, and the factor on the largest change of an eigenvalue."""

CHUNK, CHUNK_NUMBERS = 256, 1 << 25
"""The most columns of the Hessian that are computed at once, and the most numbers for them; a
column is taken to need as many numbers as the largest data array has rows."""

HALF_BANDS = (0, 1, 2, 4, 8)
"""The numbers of diagonals beside the main one that are tried."""


class Scaled(NamedTuple):
    """``S = D H D`` and D, for H or its Schur complement without an intercept."""

    matrix: np.ndarray
    scale: np.ndarray

    def is_positive(self, sign: float, shift: float) -> bool:
        """Whether every eigenvalue of ``sign * S`` exceeds ``-shift``, by a Cholesky factor."""
        shifted = sign * self.matrix
        shifted.flat[:: len(shifted) + 1] += shift
        return _has_pivots(lambda: np.diag(np.linalg.cholesky(shifted)))


def _has_pivots(factorised: Callable[[], np.ndarray]) -> bool:
    """Whether a Cholesky factorisation, which returns the factor's diagonal, comes to its end."""
    try:
        return bool(np.all(np.isfinite(factorised())))
    except np.linalg.LinAlgError:
        return False


def kind_of(smallest: float, largest: float, margin: float, above: float | None = None) -> str:
    """The kind of a stationary point by the second-derivative test.

    Eigenvalues within ``margin`` of zero may be zero; for the largest, ``above`` replaces the
    margin if it is given.
    """
    above = margin if above is None else above
    if not math.isfinite(smallest + largest + margin + above):
        return "undetermined"
    if smallest > margin:
        return "minimum"
    if largest < -above:
        return "maximum"
    if smallest < -margin and largest > above:
        return "saddle"
    return "degenerate"


def formed(curvature: Curvature, seconds: float) -> np.ndarray | None:
    """The symmetrised (n, n) Hessian in float64; None if it would take longer than ``seconds``."""
    size, chunk, begun = curvature.size, _chunk(curvature), processes.clock()
    matrix = np.empty((size, size))
    for first in range(0, size, chunk):
        units = np.eye(min(chunk, size - first), size, first)
        matrix[first : first + chunk] = curvature.products(units, at_once=chunk)
        if first == chunk and (processes.clock() - begun) * size / (2 * chunk) > seconds:
            return None
    return 0.5 * (matrix + matrix.T)


def _chunk(curvature: Curvature) -> int:
    """The number of columns that are computed at once."""
    size = curvature.size
    leaves = [np.size(leaf) for leaf in jax.tree.leaves(curvature.objective)]
    rows_of_data = max([size, *(count // size for count in leaves)])
    return min(size, CHUNK, max(CHUNK_NUMBERS // rows_of_data, 1))


def equilibrated(matrix: np.ndarray) -> Scaled:
    """Matrices (..., n, n) scaled so that the largest entry of every row is near one; rows of zeros
    stay.
    """
    scale = equilibrating(matrix, np)
    return Scaled(matrix * scale[..., :, None] * scale[..., None, :], scale)


def without_intercept(objective: Objective, params: Params, matrix: np.ndarray) -> np.ndarray:
    """The Schur complement of a regression's Hessian without the intercepts.

    Its eigenvalues have the signs of the remaining ones of the Hessian. With features far from zero
    the weights and the intercept are nearly dependent, although the Hessian of the centred features
    may be well-conditioned.
    """
    regression = objective.linear_regression
    if regression is None or not regression.intercept:
        return matrix
    outputs = params["intercept"].size  # flattened dictionaries are in the order of their keys
    corner, side = matrix[:outputs, :outputs], matrix[outputs:, :outputs]
    rest = matrix[outputs:, outputs:] - side @ np.linalg.solve(corner, side.T)
    # A constant feature has a diagonal of zero up to rounding.
    diagonal = np.diag(matrix)[outputs:]
    is_zero = np.diag(rest) <= 1e-13 * diagonal
    rest[is_zero, :] = 0
    rest[:, is_zero] = 0
    return rest


def rounding(curvature: Curvature, matrix: np.ndarray, scale: np.ndarray) -> float:
    """The error of a product of S with a random unit vector, the largest of several."""
    rows = np.random.default_rng(0).normal(size=(PROBES, len(matrix)))
    with np.errstate(over="ignore", invalid="ignore"):
        measured = curvature.jittered().products(rows * scale, at_once=_chunk(curvature))
        difference = (measured - (rows * scale) @ matrix) * scale
    lengths = np.linalg.norm(rows, axis=1)
    return float(np.max(np.linalg.norm(difference, axis=1) / lengths))


def doubt_of_data(
    curvature: Curvature, scale: np.ndarray, ends: tuple[float, float]
) -> tuple[float, float]:
    """Bounds on the changes of the extreme eigenvalues of S by the rounding of the data."""
    below = above = 0.0
    for seed in range(DRAWS):
        other = curvature.with_other_data(seed)
        matrix = formed(other, math.inf)
        assert matrix is not None
        matrix = without_intercept(other.objective, other.params, matrix)
        matrix = matrix * scale[:, None] * scale
        if not np.all(np.isfinite(matrix)):
            return math.inf, math.inf
        values = np.linalg.eigvalsh(matrix)
        below = max(below, abs(float(values[0]) - ends[0]))
        above = max(above, abs(float(values[-1]) - ends[1]))
    return DRAW_SAFETY * below, DRAW_SAFETY * above


def change(curvature: Curvature, step: np.ndarray, scale: np.ndarray) -> float:
    """The norm of the change of S within twice a step, estimated by a power iteration."""
    if not np.any(step):
        return 0.0
    beyond = curvature.shifted(curvature.as_params(2 * step))
    vector = np.random.default_rng(1).normal(size=(1, len(step)))
    largest = length = 0.0
    for _ in range(PROBES):
        vector = vector / np.linalg.norm(vector)
        rows = vector * scale
        vector = (beyond.products(rows) - curvature.products(rows)) * scale
        length = float(np.linalg.norm(vector))
        largest = max(largest, length)
        if not 0 < length < math.inf:
            break
    return largest if math.isfinite(length) else math.inf


class Banded(NamedTuple):
    """A banded S, its D, and the relative error of its products.

    Column i of ``band`` holds ``S[i - half_band, i], ..., S[i, i]``.
    """

    band: np.ndarray
    scale: np.ndarray
    doubt: float

    @property
    def half_band(self) -> int:
        """The number of diagonals beside the main one."""
        return len(self.band) - 1

    def is_positive(self, sign: float, shift: float) -> bool:
        """Whether every eigenvalue of ``sign * S`` exceeds ``-shift``, by a Cholesky factor."""
        # JAX requires SciPy, whose import takes a fifth of a second.
        from scipy.linalg import cholesky_banded

        shifted = sign * self.band
        shifted[-1] += shift
        return _has_pivots(lambda: cholesky_banded(shifted, check_finite=False)[-1])


def banded(curvature: Curvature) -> Banded | None:
    """The Hessian as a band of diagonals, in the order of the flattened params; None if it is not.

    Its entries are read from products with sums of unit vectors that are a bandwidth apart
    ("combs"). Products with random vectors show whether there are other entries.
    """
    probe = np.stack([curvature.as_column(curvature.direction(500 + k)) for k in range(2)])
    images, jittered = curvature.products(probe), curvature.jittered().products(probe)
    size = probe.shape[1]
    for half_band in HALF_BANDS:
        if half_band >= size:
            return None
        combs = np.asarray(curvature.run(_combs, width=2 * half_band + 1), np.float64)
        diagonals = _diagonals(combs, half_band)
        rest = np.abs(images - _band_product(diagonals, probe))
        weight = _band_product([np.abs(d) for d in diagonals], np.abs(probe))
        if np.all(rest <= 1e-13 * (2 * half_band + 1) * weight):
            peaks = np.abs(diagonals[0])
            for lag, diagonal in enumerate(diagonals[1:], start=1):
                peaks[lag:] = np.maximum(peaks[lag:], np.abs(diagonal))
                peaks[:-lag] = np.maximum(peaks[:-lag], np.abs(diagonal))
            scale = 1 / np.sqrt(np.where(peaks > 0, peaks, 1))
            with np.errstate(over="ignore", invalid="ignore"):
                doubt = np.abs(images - jittered) / np.where(weight > 0, weight, 1)
            band = np.zeros((half_band + 1, size))
            for lag, diagonal in enumerate(diagonals):
                band[half_band - lag, lag:] = diagonal * scale[lag:] * scale[: size - lag]
            return Banded(band, scale, float(np.max(doubt)))
    return None


def _combs(objective: Objective, params: Params, *, width: int) -> jax.Array:
    flat, unravel = ravel_pytree(params)
    product = on_vectors(functools.partial(objective.hessian_product, params), unravel)
    index = lax.rem(jnp.arange(flat.size, dtype=jnp.int32), jnp.int32(width))
    teeth = jnp.arange(width, dtype=jnp.int32)
    return lax.map(lambda tooth: product((index == tooth).astype(flat.dtype)), teeth)


def _diagonals(combs: np.ndarray, half_band: int) -> list[np.ndarray]:
    """For each lag the entries ``H[i + lag, i]``, (n - lag,), from products with combs."""
    width, size = combs.shape
    index = np.arange(size)
    # In the comb that contains j, row i within the band of column j holds H[i, j] alone.
    return [combs[index[: size - lag] % width, index[lag:]] for lag in range(half_band + 1)]


def _band_product(diagonals: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
    total = diagonals[0] * rows
    for lag, diagonal in enumerate(diagonals[1:], start=1):
        total[:, lag:] += diagonal * rows[:, :-lag]
        total[:, :-lag] += diagonal * rows[:, lag:]
    return total
