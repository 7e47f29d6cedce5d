"""The minimiser from the sums, and how accurate it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data import NormalSums
from jaxdescent.status import Evidence, Status

RANK = 1e-13
"""An eigenvalue of the matrix of correlations below this part of the largest one is rounding, or
cannot be told from it: the sums are in float64, and hold the rounding errors of many rows."""

CONVERGED = 1e-10
"""A solve converged where the gradient's norm is at most this part of its norm at zero weights."""

DEPENDENT = 1e-13
"""A gradient along linearly dependent columns whose norm is below this part of its norm at zero
weights is the rounding error of an exact dependence."""


class Solution(NamedTuple):
    """Weights, the intercept of the prediction, and what is known of them.

    Attributes:
      weights: (features,).
      intercept: the intercept.
      constant: (features,), which features do not vary; their weights are zero.
      is_certain: whether directions that were left out are exactly dependent columns.
      details: by name the figures of the fit: the value, ``1/2 sum_i s_i (x_i.w + b - y_i)^2 +
        l2/2 |D w|^2`` with D the scales, the gradient's norm per unit of each column's length, how
        far the value is above the minimum, the rank of the centred features (None where a penalty
        makes it irrelevant), and the degrees of freedom without that of the intercept.
    """

    weights: np.ndarray
    intercept: float
    constant: np.ndarray
    is_certain: bool
    details: dict[str, Any]


def constants(data: NormalSums) -> np.ndarray:
    """Which features do not vary, beyond the rounding of their values."""
    squares = data.gram.diagonal()
    rounding = 4 * np.finfo(np.float64).eps * np.abs(data.feature_mean)
    return squares <= data.weight_total * np.square(rounding)


def penalised_sums(
    data: NormalSums, *, standardize: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The numbers by which weights are multiplied before they are penalised, which features are
    constant, and the sums in these units, zero for constant features.
    """
    scales, constant = np.ones(len(data.gram)), constants(data)
    if standardize:
        spread = np.sqrt(np.maximum(data.gram.diagonal(), 0) / data.weight_total)
        scales = np.where(constant, 1.0, np.where(spread > 0, spread, 1.0))
    matrix = data.gram / np.multiply.outer(scales, scales)
    matrix[constant, :] = 0
    matrix[:, constant] = 0
    return scales, constant, matrix, np.where(constant, 0.0, data.cross[:, 0] / scales)


def solve(data: NormalSums, l2: float, *, standardize: bool = False) -> Solution:
    """The minimiser with this penalty, by the spectrum of the Hessian scaled to a unit diagonal.

    Directions without curvature get zero: without a penalty the weights are those of least norm
    per column's length. A second solve with the residual refines the first.
    """
    scales, constant, hessian, cross = penalised_sums(data, standardize=standardize)
    diagonal = hessian.diagonal().copy()
    np.fill_diagonal(hessian, diagonal + l2)
    lengths = np.sqrt(diagonal + l2)
    lengths = np.where(lengths > 0, lengths, 1.0)
    hessian /= lengths[:, None]
    hessian /= lengths[None, :]
    cross = cross / lengths
    values, vectors = np.linalg.eigh(hessian)
    cutoff = max(RANK, 16 * values.size * np.finfo(np.float64).eps) * max(values[-1], 0)
    gain = np.where(values > cutoff, 1 / np.where(values > cutoff, values, 1), 0)

    def step(gradient: np.ndarray) -> np.ndarray:
        return vectors @ (gain * (vectors.T @ gradient))

    scaled = step(cross)
    scaled = scaled + step(cross - hessian @ scaled)
    gradient = hessian @ scaled - cross
    along = vectors.T @ gradient
    left = float(0.5 * np.sum(np.square(along) * gain))
    weights = np.where(constant, 0.0, scaled / lengths / scales)  # not the rounding of the spectrum
    intercept = float(data.target_mean[0] - weights @ data.feature_mean)
    norm, at_zeros = float(np.linalg.norm(gradient)), float(np.linalg.norm(cross))
    is_done = norm <= CONVERGED * at_zeros or at_zeros == 0
    residual = (
        data.squares - 2 * float(weights @ data.cross[:, 0]) + float(weights @ data.gram @ weights)
    )
    penalty = l2 * float(np.sum(np.square(scales * weights)))
    value = 0.5 * (max(residual, 0.0) + penalty)
    # Along directions that were left out the value may still fall, by an unknown amount.
    beyond = float(np.linalg.norm(along[gain == 0]))
    is_certain = beyond <= DEPENDENT * at_zeros
    evidence = Evidence.FACTORISATION if is_certain else Evidence.BOUND
    rank = int(np.count_nonzero(gain))
    details = {
        "rank": rank if l2 == 0 else None,
        "degrees_of_freedom": _degrees(lengths, vectors, gain, l2) if l2 else float(rank),
        "value": value,
        "gradient_norm": norm,
        "suboptimality": left if is_certain else value,
        "status": str(Status.CONVERGED if is_done and is_certain else Status.STAGNATED),
        "evidence": evidence.explanation,
    }
    return Solution(weights, intercept, constant, is_certain, details)


def _degrees(lengths: np.ndarray, vectors: np.ndarray, gain: np.ndarray, l2: float) -> float:
    """``trace(A (A + l2)^-1)``, which is ``features - l2 trace((A + l2)^-1)``."""
    inverse = np.square(vectors) @ gain / np.square(lengths)
    return float(lengths.size - l2 * np.sum(inverse))
