"""Operation counts of factorisations, for measuring their rates and predicting their times."""

from __future__ import annotations


def cholesky_flops(size: float) -> float:
    """``n^3/3`` operations for the Cholesky factor, and ``n^3`` for its inverse by substitution."""
    return 4 / 3 * size**3


def orthogonal_flops(rows: float, columns: float) -> float:
    """``2 n^2 (m - n/3)`` operations for the R of Householder's QR."""
    return 2 * columns**2 * (rows - columns / 3)
