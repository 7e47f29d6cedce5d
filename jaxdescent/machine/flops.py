"""Operations of the factorisations, by which their rates are measured and their times predicted."""

from __future__ import annotations


def cholesky_flops(size: float) -> float:
    """``n^3/3`` for the factor and ``n^3`` for its inverse by substitution."""
    return 4 / 3 * size**3


def orthogonal_flops(rows: float, columns: float) -> float:
    """Householder's triangle: ``2 n^2 (m - n/3)``."""
    return 2 * columns**2 * (rows - columns / 3)
