"""Solves with a Hessian whose eigenvalues are all computed, and the margins of these."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from jaxdescent.second_order import hessian_matrix
from jaxdescent.second_order.curvature import Curvature
from jaxdescent.second_order.hessian_matrix import kind_of


@dataclasses.dataclass(frozen=True, eq=False)
class Newton:
    """The eigenvalues and eigenvectors of ``S = D H D``; all arrays may have leading axes, for
    several Hessians.
    """

    scale: np.ndarray  # D, (..., n)
    values: np.ndarray  # the eigenvalues and eigenvectors of S
    vectors: np.ndarray
    cutoff: Any  # the rounding of products, (...); smaller eigenvalues are not used in products
    margins: tuple[Any, Any]  # of the ends: within these bounds on their errors no sign is claimed
    # The smallest and the largest eigenvalue of S, or of its Schur complement without a
    # regression's intercept.
    ends: tuple[Any, Any]
    matrix: np.ndarray  # S

    @classmethod
    def of(cls, matrix: np.ndarray, rounding: float = 0.0) -> Newton:
        """The eigenvalues of symmetric matrices, whose products have the error ``rounding``."""
        scaled = hessian_matrix.equilibrated(matrix)
        values, vectors = np.linalg.eigh(scaled.matrix)
        largest = np.max(np.abs(values), axis=-1)
        cutoff = hessian_matrix.SAFETY * rounding
        cutoff = cutoff + 4 * np.finfo(np.float64).eps * values.shape[-1] * largest
        ends = values[..., 0], values[..., -1]
        return cls(scaled.scale, values, vectors, cutoff, (cutoff, cutoff), ends, scaled.matrix)

    def in_doubt(self, eps: float) -> Newton:
        """Without eigenvalues that data with this rounding may change, or make negative."""
        largest = np.max(np.abs(self.values), axis=-1)
        doubt = np.maximum(self.margins[0], self.values.shape[-1] * eps * largest)
        return dataclasses.replace(self, margins=(doubt, doubt))

    @property
    def largest(self) -> Any:
        """The largest absolute eigenvalue of H itself."""
        hessian = self.matrix / self.scale[..., None, :] / self.scale[..., :, None]
        return np.linalg.norm(hessian, 2, axis=(-2, -1))

    def kind(self, share: float = 0.0) -> str:
        """The kind of one point by the second-derivative test, if S may change by this share of
        itself (:meth:`share`) in addition.
        """
        below, above = self.margins
        smallest, largest = (end * max(1 - share, 0.0) for end in self.ends)
        return kind_of(smallest, largest, below, above)

    def share(self, hessian: np.ndarray) -> float:
        """The change from H to another Hessian as a share of H: below one it keeps the signs of the
        smallest and the largest eigenvalue.

        A definite S is compared along each of its eigenvectors, by the norm of
        ``|S|^-1/2 (S' - S) |S|^-1/2``: where one term rules all entries, as that of features far
        from zero does, its change says nothing about the smallest eigenvalue. Of other S the norm
        of the change is compared with the smaller of both ends.
        """
        change = hessian * self.scale * self.scale[:, None] - self.matrix
        sizes = np.abs(self.values)
        if self.values[0] * self.values[-1] <= 0:
            sizes = np.full_like(sizes, min(sizes[0], sizes[-1]))
        with np.errstate(divide="ignore", invalid="ignore"):
            basis = self.vectors / np.sqrt(sizes)
            change = basis.T @ change @ basis
        return float(np.linalg.norm(change, 2)) if np.all(np.isfinite(change)) else math.inf

    def product(self, vector: np.ndarray) -> np.ndarray:
        """``H v``."""
        return _times(self.matrix, vector / self.scale) / self.scale

    def step(self, gradient: np.ndarray) -> np.ndarray:
        """``-H^+ g``, without eigenvalues that may be zero."""
        is_sure = np.abs(self.values) > np.asarray(self.margins[0])[..., None]
        quotients = np.where(is_sure, self._along(gradient) / np.where(is_sure, self.values, 1), 0)
        return -self.scale * _times(self.vectors, quotients)

    def decrement(self, gradient: np.ndarray) -> Any:
        """``1/2 sum_i g_i^2 / |l_i|``, at a minimum half the squared Newton decrement."""
        sizes, is_seen = np.abs(self.values), self._is_seen
        shares = np.where(is_seen, self._along(gradient) ** 2 / np.where(is_seen, sizes, 1), 0)
        return 0.5 * np.sum(shares, axis=-1)

    def worth(self, params: np.ndarray) -> Any:
        """``1/2 sum_ij |x_i H_ij x_j|``: a scale for the value by params of this size."""
        sizes = np.abs(params) / self.scale
        return 0.5 * np.sum(sizes * _times(np.abs(self.matrix), sizes), axis=-1)

    def flat_share(self, gradient: np.ndarray, params: np.ndarray) -> Any:
        """The gradient along directions of zero curvature, in units of ``|S| |D^-1 x|``."""
        flat = np.linalg.norm(np.where(self._is_seen, 0, self._along(gradient)), axis=-1)
        worth = np.max(np.abs(self.values), axis=-1) * np.linalg.norm(params / self.scale, axis=-1)
        of_nothing = np.where(flat > 0, np.inf, 0.0)
        return np.where(worth > 0, flat / np.where(worth > 0, worth, 1), of_nothing)

    def flat_change(self, gradient: np.ndarray, params: np.ndarray) -> Any:
        """The change of the value where the parts of the params along directions of zero curvature
        change by their own size.
        """
        parts = _times(np.swapaxes(self.vectors, -1, -2), params / self.scale)
        changes = np.where(self._is_seen, 0, np.abs(self._along(gradient) * parts))
        return np.sum(changes, axis=-1)

    @property
    def _is_seen(self) -> np.ndarray:
        return np.abs(self.values) > np.asarray(self.cutoff)[..., None]

    def _along(self, gradient: np.ndarray) -> np.ndarray:
        """The gradient's components along the eigenvectors."""
        return _times(np.swapaxes(self.vectors, -1, -2), self.scale * gradient)


def _times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return (matrix @ vector[..., None])[..., 0]


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
