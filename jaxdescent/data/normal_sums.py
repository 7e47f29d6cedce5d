"""The normal equations of least squares from sums in float64, and their solution."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data.errors import DataError

EPS = float(np.finfo(np.float64).eps)

CONSTANT = 64 * EPS
"""A column whose centred squares are at most this part of its squares is constant."""

SPANNED = 1e-6
"""A singular value that is smaller beside the largest is rounding."""

HIDDEN = 64 * EPS
"""An eigenvalue that is smaller beside the largest may be rounding: the singular values have lost
half of their digits there."""


class NormalSums(NamedTuple):
    """The sums that least squares needs of the rows, in float64 about the weighted means."""

    gram: Any  # (features, features), ``sum_i s_i (x_i - x_bar)(x_i - x_bar)'``
    cross: Any  # (features, outputs), with the centred targets
    squares: Any  # the squares of the centred targets, over all outputs
    feature_mean: Any  # (features,); zeros without an intercept
    target_mean: Any  # (outputs,); zeros without an intercept
    weight_total: Any  # the sum of the weights

    @classmethod
    def of(
        cls, total: np.ndarray, shift: np.ndarray, features: int, *, intercept: bool
    ) -> NormalSums:
        """Sums from ``sum_i s_i z_i z_i'``, where z is features and targets less the shift, and 1.

        Those of constant columns are zeros: their centred sums are the rounding errors of the
        squares that they were computed from, or of the numbers.
        """
        if not np.isfinite(total).all():
            raise DataError("the values are too large: their squares overflow; divide them.")
        n, weight, mean, centred = features, float(total[-1, -1]), shift, total[:-1, :-1]
        has_center = intercept and weight != 0
        if has_center:
            moved = total[-1, :-1] / weight
            mean, centred = shift + moved, centred - weight * np.multiply.outer(moved, moved)
        gram, cross = centred[:n, :n], centred[:n, n:]
        squares = max(float(np.trace(centred[n:, n:])), 0.0)
        if has_center:
            rounding = weight * np.square(4 * EPS * mean[:n])
            still = gram.diagonal() <= np.maximum(CONSTANT * total.diagonal()[:n], rounding)
            gram[still] = gram[:, still] = cross[still] = 0
        return cls(gram, cross, squares, mean[:n], mean[n:], weight)


class NormalSolution(NamedTuple):
    """The minimum by the normal equations, and the inverse of their matrix."""

    weights: Any  # (features, outputs): where there are several, those of least norm
    feature_mean: Any  # like the next two as in :class:`NormalSums`
    target_mean: Any
    weight_total: Any
    basis: Any  # (features, features)
    gain: Any  # (features, outputs or 1): the (pseudo-)inverse is ``basis diag(gain) basis'``
    diagonal: Any  # (features, outputs or 1), of the matrix
    is_negative: Any  # whether the matrix has a negative eigenvalue, so that there is no minimum
    overlooks: Any  # whether the rounding of the sums may hide a direction of the matrix


def normal_solution(sums: NormalSums, l2: np.ndarray) -> NormalSolution:
    """The solution of ``(gram + l2 I) w = cross``, for one penalty, () or one for each output.

    For one penalty the columns are scaled to one length before the spectrum is computed. The
    solution is refined once.
    """
    penalty = np.atleast_1d(np.asarray(l2, np.float64))[None, :]
    diagonal = np.diagonal(sums.gram)[:, None] + penalty
    scale, shift, inside = np.ones(len(diagonal)), penalty, 0.0
    if penalty.size == 1:
        is_positive = diagonal[:, 0] > 0
        # A column of zeros keeps its unknown to itself: scaled by zero it would leave of its null
        # direction nothing but rounding, in whatever direction that points.
        scale = 1 / np.sqrt(np.where(is_positive, diagonal[:, 0], 1))
        shift, inside = np.zeros((1, 1)), penalty[0, 0]
    matrix = sums.gram + inside * np.eye(len(scale))
    eigenvalues, vectors = np.linalg.eigh(scale[:, None] * matrix * scale[None, :])
    basis, spectrum = scale[:, None] * vectors, eigenvalues[:, None] + shift
    floor = len(scale) * EPS * max(np.max(np.abs(eigenvalues)), np.max(np.abs(shift)))
    is_null = np.abs(spectrum) <= floor
    gain = np.where(is_null, 0, 1 / np.where(is_null, 1, spectrum))
    weights = np.zeros(sums.cross.shape)
    for _ in range(2):
        left = sums.cross - sums.gram @ weights - penalty * weights
        weights = weights + basis @ (gain * (basis.T @ left))
    weights = _without(weights, basis[:, is_null.all(axis=1)])
    is_negative = sums.weight_total <= 0 or np.any(spectrum < -floor) or np.any(diagonal < 0)
    # A sum about the mean may have the rounding of the sum about zero.
    moved = sums.weight_total * np.square(sums.feature_mean)[:, None]
    lost = 1 + np.max(moved / np.where(diagonal > 0, diagonal, np.inf), initial=0)
    overlooks = np.min(spectrum, initial=np.inf) < HIDDEN * lost * np.max(spectrum, initial=0)
    return NormalSolution(
        weights,
        sums.feature_mean,
        sums.target_mean,
        sums.weight_total,
        basis,
        gain,
        diagonal,
        is_negative,
        overlooks,
    )


def _without(weights: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The weights less their part in the span of some columns."""
    if not free.size:
        return weights
    directions, lengths, _ = np.linalg.svd(free, full_matrices=False)
    directions = directions[:, lengths > SPANNED * np.max(lengths)]
    return weights - directions @ (directions.T @ weights)
