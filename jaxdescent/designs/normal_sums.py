"""The normal equations of least squares from sums in float64, and their solution."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdescent.rows.errors import DataError

EPS = float(np.finfo(np.float64).eps)

CONSTANT = 64 * EPS
"""A column whose centred squares are at most this part of its squares is constant."""

SPANNED = 1e-6
"""A singular value that is smaller beside the largest is rounding."""

NULL = 32 * EPS
"""A singular value of rows in float64 that is at most this part of the largest is rounding."""

HIDDEN, ROUGH = 64 * EPS, 2**20 * EPS
"""An eigenvalue that is smaller beside the largest may be rounding, or may have too few digits for
a solution in float64: the sums have lost half of those of the singular values there."""


class NormalSums(NamedTuple):
    """The sums that least squares needs of the rows, in float64 about the weighted means."""

    gram: Any  # (features, features), ``sum_i s_i (x_i - x_bar)(x_i - x_bar)'``
    cross: Any  # (features, outputs), with the centred targets
    squares: Any  # the squares of the centred targets, over all outputs
    feature_mean: Any  # (features,); zeros without an intercept
    target_mean: Any  # (outputs,); zeros without an intercept
    weight_total: Any  # the sum of the weights
    summed: Any = None  # (features,): the squares before centring, whose rounding remains

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
        return cls(gram, cross, squares, mean[:n], mean[n:], weight, total.diagonal()[:n])


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


def normal_solution(
    sums: NormalSums, l2: np.ndarray, gram_of: Callable[[np.ndarray], np.ndarray] | None = None
) -> NormalSolution:
    """The solution of ``(gram + l2 I) w = cross``, for one penalty, () or one for each output.

    For one penalty the columns are scaled to one length before the spectrum is computed. The
    solution is refined once.

    Args:
      sums: of the rows.
      l2: the penalties.
      gram_of: the sums of squares and products of ``(X - x_bar) V`` from the rows, for some V,
        (features, k). They show the curvatures along directions that the sums have lost, which the
        weights have no part of; None if the rows have no more digits than the sums.
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
    largest = max(np.max(np.abs(eigenvalues)), np.max(np.abs(shift)))
    floor = len(scale) * EPS * largest
    is_null = np.abs(spectrum) <= floor
    gain = np.where(is_null, 0, 1 / np.where(is_null, 1, spectrum))
    weights = np.zeros(sums.cross.shape)
    for _ in range(2):
        left = sums.cross - sums.gram @ weights - penalty * weights
        weights = weights + basis @ (gain * (basis.T @ left))
    weights = _without(weights, basis[:, is_null.all(axis=1)])
    summed = np.broadcast_to(sums.summed[:, None], diagonal.shape)
    growth = 1 + np.max(summed / np.where(diagonal > 0, diagonal, np.inf), initial=0)
    hidden = (HIDDEN if gram_of is None else ROUGH) * growth * np.max(spectrum, initial=0)
    lost = np.flatnonzero(np.min(spectrum, axis=1, initial=np.inf) < hidden)
    if gram_of is not None and lost.size:
        is_constant = np.diagonal(sums.gram) == 0
        varying = np.where(is_constant[:, None], 0, basis[:, lost])
        curvatures, turn = np.linalg.eigh(gram_of(varying) + inside * varying.T @ varying)
        basis[:, lost] = basis[:, lost] @ turn
        spectrum[lost] = curvatures[:, None] + shift
        is_there = np.abs(spectrum[lost]) > NULL**2 * largest
        gain[lost] = np.where(is_there, 1 / np.where(is_there, spectrum[lost], 1), 0)
    is_negative = sums.weight_total <= 0 or np.any(spectrum < -floor) or np.any(diagonal < 0)
    return NormalSolution(
        weights,
        sums.feature_mean,
        sums.target_mean,
        sums.weight_total,
        basis,
        gain,
        diagonal,
        is_negative,
        lost.size > 0,
    )


def _without(weights: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The weights less their part in the span of some columns."""
    if not free.size:
        return weights
    directions, lengths, _ = np.linalg.svd(free, full_matrices=False)
    directions = directions[:, lengths > SPANNED * np.max(lengths)]
    return weights - directions @ (directions.T @ weights)


def sums_of(
    reader: Any, weight: Any, targets: Any, l2: Any, *, intercept: bool, is_long: bool
) -> NormalSums | NormalSolution:
    """The sums of a reader's rows, or where a penalty is given what they solve; ``is_long`` says
    whether weights of float64 are wanted, which the rows then refine.
    """
    sums = reader.normal_sums(weight, targets, intercept=intercept)
    if l2 is None:
        return sums
    gram_of = functools.partial(reader.gram_of, weight=weight, center=sums.feature_mean)
    return normal_solution(sums, l2, gram_of if is_long else None)


def like_sums(n: int, k: int, l2: Any, dtype: Any) -> Any:
    """The shapes of :func:`sums_of` for n features and k targets."""
    shapes: Any = NormalSums((n, n), (n, k), (), (n,), (k,), (), (n,))
    if l2 is not None:
        gain = n, max(l2.size, 1)
        shapes = NormalSolution((n, k), (n,), (k,), (), (n, n), gain, gain, (), ())
    return type(shapes)(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))
