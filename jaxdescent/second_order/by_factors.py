"""The known bounds on a Hessian's eigenvalues, and their proof by factors of shifted Hessians."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdescent import processes
from jaxdescent.kernels import memory
from jaxdescent.objectives import Params
from jaxdescent.second_order import hessian_matrix
from jaxdescent.second_order.curvature import Curvature
from jaxdescent.second_order.newton import Newton

CHOLESKY_LIMIT = 6000
"""The most unknowns for which the Hessian is formed if the Lanczos process does not decide."""


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """The known facts about the Hessian's eigenvalues."""

    smallest: float  # the extreme eigenvalues, or an upper bound on the smallest
    largest: float  # and a lower bound on the largest
    kind: str  # the kind by the second-derivative test, if the point is stationary
    evidence: str  # the reason for the kind, in words
    at_least: float  # a proven lower bound on all eigenvalues; -infinity if there is none
    curvature: Curvature  # the Hessian's products that the eigenvalues were computed from
    newton: Newton | None = None  # solves with the Hessian, if all eigenvalues were computed
    lowest: Params | None = None  # a unit vector of the least curvature that was seen
    # Whether the kind would still hold if ``S = D H D`` changed by a matrix of this norm, or by
    # this share of itself if ``newton`` is known.
    holds: Callable[[float], bool] | None = None
    scale: np.ndarray | float = 1.0  # D, as one vector

    @classmethod
    def unknown(cls, curvature: Curvature) -> Spectrum:
        """The spectrum of a Hessian of which a product is not finite."""
        evidence = "a Hessian product is not finite"
        return cls(math.nan, math.nan, "undetermined", evidence, -math.inf, curvature)

    @property
    def size(self) -> float:
        """The largest absolute eigenvalue."""
        return max(abs(self.smallest), abs(self.largest))


def of_band(curvature: Curvature, ends: tuple[float, float]) -> Spectrum | None:
    """The spectrum by factors of a banded Hessian; None if the Hessian is not banded."""
    band = hessian_matrix.banded(curvature) if curvature.is_double else None
    if band is None:
        return None
    reach = 2 * band.half_band + 1
    least = 64 * np.finfo(np.float64).eps
    margin = reach * max(2 * curvature.eps, hessian_matrix.SAFETY * band.doubt, least)
    name = "diagonal" if band.half_band == 0 else f"banded, {reach} diagonals"
    return _of_factors(curvature, band, margin, ends, f"the Hessian is {name}")


def of_cholesky(
    curvature: Curvature, ends: tuple[float, float], deadline: float
) -> Spectrum | None:
    """The spectrum by factors of the formed Hessian; None if forming it takes too much memory or
    time.
    """
    size = curvature.size
    if size > CHOLESKY_LIMIT or 5 * 8 * size * size > processes.least(memory.available_bytes()):
        return None
    matrix = hessian_matrix.formed(curvature, 0.5 * (deadline - processes.clock()))
    if matrix is None or not np.all(np.isfinite(matrix)):
        return None
    scaled = hessian_matrix.equilibrated(matrix)
    measured = hessian_matrix.rounding(curvature, matrix, scaled.scale)
    reach = float(np.max(np.sum(np.abs(scaled.matrix), axis=1)))  # at least the largest eigenvalue
    reach = min(reach, float(np.linalg.norm(scaled.matrix)))
    margin = max(
        2 * curvature.eps * _largest_of(scaled.matrix),
        hessian_matrix.SAFETY * measured,
        4 * np.finfo(np.float64).eps * size * reach,
    )
    evidence = "Cholesky factors of the shifted Hessian"
    return _of_factors(curvature, scaled, margin, ends, evidence)


def _largest_of(matrix: np.ndarray) -> float:
    """The largest absolute eigenvalue to within a few per cent, by a power iteration."""
    vector = np.random.default_rng(2).normal(size=len(matrix))
    for _ in range(20):
        vector = matrix @ (vector / np.linalg.norm(vector))
    return float(np.linalg.norm(vector))


def _of_factors(
    curvature: Curvature, factors: Any, margin: float, ends: tuple[float, float], evidence: str
) -> Spectrum:
    """The spectrum and the kind, from whether shifted matrices have a Cholesky factor."""
    smallest, largest = ends
    # Eigenvalues of H are those of S times a factor between units[0] and units[1].
    units = 1 / np.max(factors.scale) ** 2, 1 / np.min(factors.scale) ** 2
    at_least = -math.inf
    if factors.is_positive(1.0, -margin):
        kind, at_least = "minimum", margin * units[0]
    elif factors.is_positive(1.0, margin):
        kind, at_least = "degenerate", -margin * units[1]
    else:
        # Some eigenvalue of S is at most -margin, so some eigenvalue of H is at most this.
        smallest = min(smallest, -margin * units[0])
        if largest > 0 and not factors.is_positive(-1.0, margin):
            kind = "saddle"
        else:
            kind = "maximum" if factors.is_positive(-1.0, -margin) else "degenerate"

    def holds(less: float) -> bool:
        return factors.is_positive(1.0, -margin - less)

    doubted = {"holds": holds if kind == "minimum" else None, "scale": factors.scale}
    return Spectrum(smallest, largest, kind, evidence, at_least, curvature, **doubted)
