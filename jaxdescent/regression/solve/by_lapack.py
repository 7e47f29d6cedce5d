"""The direct solve of a small stored regression by NumPy and LAPACK, on the host and in float64.

XLA for CPUs would compile some hundred kernels for the same factorisations. Float32 data lose
nothing by the normal equations in float64, because products of two float32 numbers are exact there.
For float64 data the triangle comes from QR, and the residual is computed in double length, until a
step changes no digit any more (:mod:`jaxdescent.regression.solve.refinement` has the formula).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxdescent.designs import Design
from jaxdescent.kernels.double_length import Double, double
from jaxdescent.regression.solve.factor import is_uneven, least_singular_value, null_level
from jaxdescent.regression.solve.refinement import (
    DOUBLE_ENTRIES,
    MAX_REFINEMENTS,
    SMALL,
    advanced,
    is_negligible,
    slope_in_double_length,
)
from jaxdescent.regression.solve.stored_regression import StoredRegression

MOST_ENTRIES, MOST_UNKNOWNS, MOST_OUTPUTS = 1 << 20, 256, 64
"""The most entries of X, the largest smaller side of X, and the most targets for each row, up to
which LAPACK on one core is no slower than XLA's own factorisations."""

MOST_PRODUCTS = 1 << 14
"""The products of entries of X and outputs that are computed at a time in double length, so that
they stay in the cache."""

Array = np.ndarray


def is_possible(design: Design, outputs: int) -> bool:
    """Whether X lies on one device as an array, and is small enough."""
    rows, features = design.shape
    # NumPy passes over the targets and the weights more often than over X.
    is_small = max(rows * features, 2 * (rows + features) * outputs) <= MOST_ENTRIES
    is_small = is_small and min(rows, features) <= MOST_UNKNOWNS
    return is_small and outputs <= MOST_OUTPUTS and design.is_stored and design.is_whole


class Inverse(NamedTuple):
    """``(A'A + l2 I)^-1 = basis diag(gain) basis'``, or its pseudo-inverse."""

    basis: Array  # (features, rank)
    gain: Array  # (rank, outputs or 1)
    triangle: Array | None  # R with R'R = A'A + l2 I; None for singular values, or dropped columns
    curves_down: bool
    is_ill: bool  # whether float64 must be refined in double length


@dataclasses.dataclass(frozen=True)
class Minimiser:
    """The minimiser, and how far the value at other params is above the minimum.

    Attributes:
      regression: the regression with X and y in units, powers of two in which no square overflows.
      units: the units of X and of y.
      exact: the weights of the minimiser in these units, (features, outputs).
      offset: the intercept of the minimiser, (outputs,), zeros without an intercept.
      triangle: R with ``R'R = A'A + l2 I`` in these units, or None if it is not known.
      uncertainty: by how much the value at the minimiser may be above the minimum, in units.
      curves_down: whether there is no minimum.
      is_whole: whether no direction was taken for rounding, so that the minimum is exact for the
        given numbers.
    """

    regression: StoredRegression
    units: tuple[float, float]
    exact: Double
    offset: Double
    triangle: Array | None
    uncertainty: float
    curves_down: bool
    is_whole: bool

    @property
    def weights(self) -> Array:
        """The minimiser in float64, (features, outputs)."""
        return self.exact.high / self.ratio

    @property
    def intercept(self) -> Array:
        """The intercept of the minimiser in float64, (outputs,)."""
        return self.offset.high * self.units[1]

    @property
    def curvature(self) -> float:
        """The largest second derivative in an unknown."""
        diagonal = self.regression.squares[:, None] + self.regression.l2
        return float(np.max(np.abs(diagonal))) * self.units[0] ** 2

    @property
    def rounding(self) -> float:
        """By how much the value at the minimiser may be above the minimum."""
        return self.uncertainty * self.units[1] ** 2

    def height(self, weights: Array, offset: Array) -> float:
        """The value at these params minus the minimum."""
        own, unit = self.regression, self.units[1]
        moved = (weights * self.ratio - self.exact.high) - self.exact.low
        if self.triangle is None:
            squares = np.sum(np.square(own.centred @ moved)) + np.sum(own.l2 * np.square(moved))
        else:
            squares = np.sum(np.square(self.triangle @ moved))
        if own.intercept:
            shift = (offset / unit - self.offset.high) - self.offset.low + own.mean @ moved
            squares = squares + own.total * np.sum(np.square(shift))
        return (0.5 * float(squares) + self.uncertainty) * unit**2

    @property
    def ratio(self) -> float:
        """The factor from weights to weights in units."""
        return self.units[0] / self.units[1]


def solve(regression: StoredRegression) -> Minimiser:
    """The minimiser; if there are several, the one of least norm, in units of the columns' lengths
    if these differ much.
    """
    unit, other = _unit(regression.X), _unit(regression.y)
    if (unit, other) != (1.0, 1.0):
        X, y, l2 = regression.X / unit, regression.y / other, regression.l2 / unit**2
        regression = dataclasses.replace(regression, X=X, y=y, l2=l2)
    factor = _factor(regression)
    exact, offset, uncertainty = _refined(regression, factor)
    features = regression.X.shape[1]
    is_whole = factor.basis.shape[1] >= min(regression.most_rank, features)
    judged = factor.triangle, uncertainty, factor.curves_down, is_whole
    return Minimiser(regression, (unit, other), exact, offset, *judged)


def _unit(array: Array) -> float:
    """One, or a power of two near the largest number if its square is far from the range's middle.

    The squares of all float32 numbers are in the range of float64.
    """
    peak = float(np.maximum(np.max(array), -np.min(array)))
    is_ordinary = 2.0**-200 < peak < 2.0**200 or not 0 < peak < np.inf
    return 1.0 if is_ordinary else 2.0 ** float(np.floor(np.log2(peak)))


def _factor(regression: StoredRegression) -> Inverse:
    A = regression.centred
    rows, features = A.shape
    l2, is_long = regression.l2, regression.digits == np.float64
    null, rank = null_level(regression.digits, min(rows, features)), regression.most_rank
    squares, moved = regression.squares, regression.total * np.square(regression.mean)
    is_noise = squares <= null**2 * (squares + moved)
    lengths = np.sqrt(np.where(is_noise, 0, squares))
    are_uneven = is_uneven(lengths, null_level(regression.digits, features), np)
    # If columns have uneven lengths, a penalty must not be lost in the rounding of the longest.
    is_lost = are_uneven and l2.size == 1 and l2[0] > 0 and features <= MOST_UNKNOWNS
    if (rows < features and not is_lost) or l2.size > 1:
        is_plain = l2.any() or not are_uneven
        units = np.ones(features) if is_plain else np.where(lengths > 0, lengths, np.inf)
        return _spectral(A / units, units, l2, null, rank, is_long=is_long)
    if is_noise.any():
        A = np.where(is_noise, 0, A)
    own = np.sqrt(np.maximum(np.square(lengths) + l2[0], 0))
    units = np.where(own > 0, own, 1)
    found = _triangle(A, units, l2[0], is_long=is_long)
    most = 1 / least_singular_value(regression.digits)
    size = np.inf if found is None else _norm(found[1], most if is_long else 0.5 / null)
    if found is not None and size < 1 / null:
        triangle, inverse = found
        whole = None if is_noise.any() else triangle * units
        return Inverse(inverse / units[:, None], np.ones((features, 1)), whole, False, size > most)
    if is_uneven(own, null, np) and l2[0] >= 0:
        penalty = np.diag(np.sqrt(l2[0]) / units) if l2[0] else np.zeros((0, features))
        rows_of_both = np.vstack([A / units, penalty])
        most = rank + len(penalty)
        return _spectral(rows_of_both, units, np.zeros(1), null, most, is_long=is_long)
    return _spectral(A, np.ones(features), l2, null, rank, is_long=is_long)


def _norm(matrix: Array, most: float) -> float:
    """The spectral norm of a matrix, or the Frobenius norm, which is larger and needs no singular
    values, if it is at most ``most``.
    """
    size = float(np.linalg.norm(matrix))
    return size if size <= most else float(np.linalg.norm(matrix, 2))


def _triangle(A: Array, units: Array, l2: float, *, is_long: bool) -> tuple[Array, Array] | None:
    """R with ``R'R = D (A'A + l2 I) D`` and ``D = diag(1 / units)``, and its inverse; None if they
    cannot be computed.
    """
    try:
        if is_long:
            if l2 < 0:
                return None
            rows = np.vstack([A / units, np.diag(np.sqrt(l2) / units)]) if l2 else A / units
            triangle = np.linalg.qr(rows, mode="r")
        else:
            gram = A.T @ A
            gram[np.diag_indices_from(gram)] += l2
            triangle = np.linalg.cholesky(gram / np.outer(units, units)).T
        inverse = np.linalg.inv(triangle)
    except np.linalg.LinAlgError:
        return None
    return (triangle, inverse) if np.isfinite(inverse).all() else None


def _spectral(
    A: Array, units: Array, l2: Array, null: float, rank: int, *, is_long: bool
) -> Inverse:
    """The factor by the ``rank`` largest singular values of A, without values at most ``null``
    times the largest.
    """
    rows, features = A.shape
    if is_long:
        sizes, Vt = np.linalg.svd(A, full_matrices=False)[1:]
        V = Vt.T
    elif rows < features:
        squares, U = np.linalg.eigh(A @ A.T)
        sizes = np.sqrt(np.maximum(squares, 0))
        V = A.T @ U / np.where(sizes > 0, sizes, 1)
    else:
        squares, V = np.linalg.eigh(A.T @ A)
        sizes = np.sqrt(np.maximum(squares, 0))
    beyond = np.sort(sizes)[: max(len(sizes) - rank, 0)]
    is_kept = sizes > max(null * np.max(sizes, initial=0), np.max(beyond, initial=0))
    curvature = np.square(sizes[is_kept])[:, None] + l2
    is_full = bool(is_kept.all()) and rows >= features
    curves_down = bool(np.any(curvature < 0)) or (not is_full and bool(np.min(l2) < 0))
    gain = 1 / np.where(curvature > 0, curvature, np.inf)
    least = least_singular_value(np.float64) ** 2 * np.max(curvature, initial=0)
    is_ill = bool(np.min(curvature, initial=np.inf) < least)
    return Inverse(V[:, is_kept] / units[:, None], gain, None, curves_down, is_ill)


def _refined(regression: StoredRegression, factor: Inverse) -> tuple[Double, Double, float]:
    """Weights and intercept after steps ``w <- w + basis gain basis' (X'S r - l2 w)`` with the
    residual ``r = y - X w - b``, and by how much the last step lowered the value.
    """
    shape = regression.X.shape[1], regression.y.shape[1]
    entries = regression.X.size
    is_doubtful = factor.is_ill or entries * shape[0] <= SMALL
    is_doubtful &= regression.digits == np.float64
    is_long = is_doubtful and entries * shape[1] <= DOUBLE_ENTRIES
    # Products with X itself would multiply the error by the condition number once more.
    Q = regression.centred @ factor.basis if is_doubtful and not is_long else None
    weights, energy = Double(np.zeros(shape), np.zeros(shape)), np.inf
    offset = Double(regression.target_mean, np.zeros(shape[1]))
    for _ in range(MAX_REFINEMENTS):
        at = regression, weights, offset, factor.basis
        rotated, sums = _turned_in_double_length(*at) if is_long else _turned(*at, Q)
        step = factor.basis @ (factor.gain * rotated)
        shift = sums / regression.total if regression.intercept else np.zeros(shape[1])
        last, energy = energy, 0.5 * float(np.sum(factor.gain * np.square(rotated)))
        energy += 0.5 * regression.total * float(np.sum(np.square(shift)))
        if not energy < last / 4:
            return weights, offset, min(last, energy)
        shift = shift - regression.mean @ step
        weights, offset = advanced(weights, step), advanced(offset, shift)
        pairs = (step, weights), (shift, offset)
        if all(is_negligible(*pair, regression.digits) for pair in pairs):
            break
    return weights, offset, energy


def _turned(
    regression: StoredRegression, weights: Double, offset: Double, basis: Array, Q: Array | None
) -> tuple[Array, Array]:
    """``basis' (A'D r - l2 w)`` and the sums of ``S r``, for ``r = y - X w - b``, by Q, the product
    of A and the basis, if it is given.
    """
    residual = regression.residual(weights.high, offset.high)
    sums = np.sum(regression.weighed(residual), axis=0)
    if Q is not None:
        pulled = Q.T @ regression.weighed(residual, np.sqrt)
        return pulled - basis.T @ (regression.l2 * weights.high), sums
    slope = regression.pulled(residual, weights.high, offset.high)
    slope = slope - regression.l2 * weights.high
    return basis.T @ (slope - np.outer(regression.mean, sums)), sums


def _turned_in_double_length(
    regression: StoredRegression, weights: Double, offset: Double, basis: Array
) -> tuple[Array, Array]:
    """The same with a residual and sums over rows in double length."""
    outputs = regression.y.shape[1]
    l2 = np.broadcast_to(regression.l2, outputs)
    at_once = max(MOST_PRODUCTS // regression.X.size, 1)

    def of_some(own: slice) -> tuple[Array, Array]:
        at = [Double(part.high[..., own], part.low[..., own]) for part in (weights, offset)]
        targets = double(regression.y[:, own])
        rest = {"l2": l2[own], "sample_weight": regression.share}
        return slope_in_double_length(regression.X, targets, *at, **rest)

    every = (slice(start, start + at_once) for start in range(0, outputs, at_once))
    slopes, sums = zip(*map(of_some, every), strict=True)
    slope, total = np.concatenate(slopes, axis=1), np.concatenate(sums)
    return basis.T @ (slope - np.outer(regression.mean, total)), total
