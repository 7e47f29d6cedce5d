"""Solves with a Hessian whose eigenvalues are all computed, and the margins of these."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxdescent.second_order import hessian_matrix
from jaxdescent.second_order.curvature import Curvature
from jaxdescent.second_order.hessian_matrix import kind_of


@dataclasses.dataclass(frozen=True, eq=False)
class Newton:
    """The eigenvalues and eigenvectors of ``S = D H D``.

    Attributes:
      scale: D, (n,).
      values, vectors: the eigenvalues and eigenvectors of S.
      cutoff: the rounding of products; smaller eigenvalues are not used in products.
      margins: bounds on the errors of the smallest and the largest eigenvalue; within them no sign
        is claimed.
      ends: the smallest and the largest eigenvalue of S, or of its Schur complement without a
        regression's intercept.
      matrix: S.
    """

    scale: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    cutoff: float
    margins: tuple[float, float]
    ends: tuple[float, float]
    matrix: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray, rounding: float = 0.0) -> Newton:
        """The eigenvalues of a symmetric matrix, whose products have the error ``rounding``."""
        scaled = hessian_matrix.equilibrated(matrix)
        values, vectors = np.linalg.eigh(scaled.matrix)
        largest = float(np.max(np.abs(values)))
        cutoff = hessian_matrix.SAFETY * rounding
        cutoff += 4 * np.finfo(np.float64).eps * len(values) * largest
        ends = float(values[0]), float(values[-1])
        return cls(scaled.scale, values, vectors, cutoff, (cutoff, cutoff), ends, scaled.matrix)

    def with_doubt(self, share: float) -> Newton:
        """These eigenvalues with margins for the rounding of data: a share of the largest one."""
        margin = max(self.cutoff, share * float(np.max(np.abs(self.values))))
        return dataclasses.replace(self, margins=(margin, margin))

    @property
    def largest(self) -> float:
        """The largest absolute eigenvalue of H itself."""
        return float(np.linalg.norm(self.matrix / self.scale / self.scale[:, None], 2))

    def kind(self, less: float = 0.0) -> str:
        """The kind by the second-derivative test, if S may change by ``less`` in addition."""
        below, above = self.margins
        return kind_of(*self.ends, below + less, above + less)

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """``-H^+ g``, without eigenvalues that may be zero."""
        coordinates = self.vectors.T @ (self.scale * gradient)
        is_sure = np.abs(self.values) > self.margins[0]
        quotients = np.where(is_sure, coordinates / np.where(is_sure, self.values, 1), 0)
        return -self.scale * (self.vectors @ quotients)

    def decrement(self, gradient: np.ndarray) -> float:
        """``1/2 sum_i g_i^2 / |l_i|``, at a minimum half the squared Newton decrement."""
        coordinates = self.vectors.T @ (self.scale * gradient)
        is_seen = np.abs(self.values) > self.cutoff
        return float(0.5 * np.sum(coordinates[is_seen] ** 2 / np.abs(self.values[is_seen])))

    def worth(self, params: np.ndarray) -> float:
        """``1/2 sum_ij |x_i H_ij x_j|``: a scale for the value by params of this size."""
        sizes = np.abs(params) / self.scale
        return float(0.5 * sizes @ np.abs(self.matrix) @ sizes)

    def flat_share(self, gradient: np.ndarray, params: np.ndarray) -> float:
        """The gradient along directions of zero curvature, in units of ``|S| |D^-1 x|``."""
        coordinates = self.vectors.T @ (self.scale * gradient)
        flat = float(np.linalg.norm(coordinates[np.abs(self.values) <= self.cutoff]))
        worth = np.max(np.abs(self.values)) * float(np.linalg.norm(params / self.scale))
        return flat / worth if worth > 0 else math.inf if flat > 0 else 0.0


def newton_of(curvature: Curvature, matrix: np.ndarray, *, is_known: bool) -> Newton:
    """The eigendecomposition of a formed Hessian, with the margins of its eigenvalues.

    ``is_known`` says that the structure decides the kind, so that the data's rounding is left out.
    """
    scale = hessian_matrix.equilibrated(matrix).scale
    newton = Newton.of(matrix, hessian_matrix.rounding(curvature, matrix, scale))
    reduced = hessian_matrix.without_intercept(curvature.objective, curvature.params, matrix)
    ends = newton.ends
    if reduced is not matrix:
        judged = hessian_matrix.equilibrated(reduced)
        values = np.linalg.eigvalsh(judged.matrix)
        scale, ends = judged.scale, (float(values[0]), float(values[-1]))
    doubts = 0.0, 0.0
    if not is_known:
        doubts = hessian_matrix.doubt_of_data(curvature, scale, ends)
    below, above = (max(newton.cutoff, doubt) for doubt in doubts)
    return dataclasses.replace(newton, margins=(below, above), ends=ends)
