"""The inverse of a stored regression's normal matrix, factorised by LAPACK in float64."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.regression.solve.factor import is_uneven, least_singular_value, null_level
from jaxdescent.regression.solve.stored_regression import StoredRegression

MOST_UNKNOWNS = 256
"""The most features for which a wide X with a penalty may be solved for the features."""

ULPS = 4.0
"""The bound on the rounding of each term of a sum, in eps times the term."""

Array = np.ndarray


class Inverse(NamedTuple):
    """``(A'A + l2 I)^-1 = Q diag(gain) Q'``, or its pseudo-inverse.

    Q is ``basis``, or for a wide A that is factorised by its rows ``D^-2 A' basis``, with D the
    units of the columns, and the kernel ``A D^-2 A'``.
    """

    basis: Array  # (features, rank), or (rows, rank)
    gain: Array  # (rank, outputs or 1)
    triangle: Array | None  # R with R'R = A'A + l2 I; None for singular values, or dropped columns
    curves_down: bool  # whether there is no minimum
    is_ill: bool  # whether float64 must be refined in double length
    kernel: Array | None  # of a wide A, (rows, rows)
    squared_units: Array | float  # of the columns of a wide A, (features, 1)
    hides: bool  # whether a dropped direction is longer than its terms' rounding: it may lead down

    def turned_back(self, regression: StoredRegression, columns: Array) -> Array:
        """``Q c``, (features, outputs)."""
        image = self.basis @ columns
        if self.kernel is None:
            return image
        return regression.transposed_product(image, is_centred=True) / self.squared_units


def rounding_of_terms(dtype: Any) -> float:
    """The rounding of a sum of terms, relative to their sizes. For params that are narrower than
    float64 it is that of the params alone: half an eps each for a step and for the end of the step.
    """
    eps = float(np.finfo(dtype).eps)
    return ULPS * eps if dtype == np.float64 else eps


def may_lose_a_penalty(regression: StoredRegression) -> bool:
    """Whether the penalty of a wide A may be lost in the rounding of its longest column."""
    rows, features = regression.X.shape
    l2, level = regression.l2, null_level(regression.digits, features)
    is_within = rows < features <= MOST_UNKNOWNS and l2.size == 1 and l2[0] > 0
    return is_within and bool(is_uneven(np.sqrt(regression.squares), level, np))


def factorised(regression: StoredRegression, *, by_rows: bool) -> Inverse:
    """The inverse for one penalty by a triangle, or by singular values where that shows a deficient
    rank, for several penalties, and for a wide A if it is to be factorised ``by_rows``.
    """
    rows, features = regression.X.shape
    l2, is_long = regression.l2, regression.digits == np.float64
    null, rank = null_level(regression.digits, min(rows, features)), regression.most_rank
    squares, moved = regression.squares, regression.total * np.square(regression.mean)
    # The penalty's row below a column belongs to the column's length.
    held = np.maximum(np.min(l2), 0)
    is_noise = squares + held <= null**2 * (squares + moved)
    lengths = np.sqrt(np.where(is_noise, 0, squares))
    shown = rounding_of_terms(regression.digits)
    hides = bool(np.any(is_noise & (squares > shown**2 * (squares + moved))))
    are_uneven = is_uneven(lengths, null_level(regression.digits, features), np)
    spectral = functools.partial(_spectral, regression, null=null, hides=hides)
    if (rows < features and by_rows) or l2.size > 1:
        is_plain = l2.any() or not are_uneven
        units = np.ones(features) if is_plain else np.where(lengths > 0, lengths, np.inf)
        return spectral(units, l2, rank)
    own = np.sqrt(np.maximum(np.square(lengths) + l2[0], 0))
    units = np.where(own > 0, own, 1)
    found = _triangle(regression, units, l2[0], is_noise)
    most = 1 / least_singular_value(regression.digits)
    size = np.inf if found is None else _norm(found[1], most if is_long else 0.5 / null)
    if found is not None and size < 1 / null:
        triangle, inverse = found
        whole = None if is_noise.any() else triangle * units
        gain, is_ill = np.ones((features, 1)), size > most
        basis = inverse / np.where(is_noise, np.inf, units)[:, None]
        return Inverse(basis, gain, whole, False, is_ill, None, 1.0, hides)
    if is_uneven(own, null, np) and l2[0] >= 0:
        units = np.where(is_noise, np.inf, units)
        most_rank = rank + features if l2[0] else rank
        return spectral(units, np.zeros(1), most_rank, ridge=l2[0])
    return spectral(np.where(is_noise, np.inf, 1), l2, rank)


def _norm(matrix: Array, most: float) -> float:
    """The spectral norm of a matrix, or the Frobenius norm, which is larger and needs no singular
    values, if it is at most ``most``.
    """
    size = float(np.linalg.norm(matrix))
    return size if size <= most else float(np.linalg.norm(matrix, 2))


def _triangle(
    regression: StoredRegression, units: Array, l2: float, is_noise: Array
) -> tuple[Array, Array] | None:
    """R with ``R'R = D (A'A + l2 I) D`` and ``D = diag(1 / units)``, and its inverse; None if they
    cannot be computed. Columns that are noise count as zeros.
    """
    try:
        if regression.digits == np.float64:
            if l2 < 0:
                return None
            rows = np.where(is_noise, 0, regression.centred) / units
            rows = np.vstack([rows, np.diag(np.sqrt(l2) / units)]) if l2 else rows
            triangle = np.linalg.qr(rows, mode="r")
        else:
            gram = np.where(is_noise | is_noise[:, None], 0, regression.gram)
            gram[np.diag_indices_from(gram)] += l2
            triangle = np.linalg.cholesky(gram / np.outer(units, units)).T
        inverse = np.linalg.inv(triangle)
    except np.linalg.LinAlgError:
        return None
    return (triangle, inverse) if np.isfinite(inverse).all() else None


def _spectral(
    regression: StoredRegression,
    units: Array,
    l2: Array,
    rank: int,
    *,
    null: float,
    hides: bool,
    ridge: float = 0.0,
) -> Inverse:
    """The factor by the ``rank`` largest singular values of A with its columns divided by units,
    without values at most ``null`` times the largest; ``ridge`` is a penalty that A has in rows of
    its own, and ``hides`` tells of dropped columns.
    """
    rows, features = regression.X.shape
    kernel = None
    if regression.digits == np.float64:
        A = regression.centred / units
        A = np.vstack([A, np.diag(np.sqrt(ridge) / units)]) if ridge else A
        # The vectors of the longer side of A are not needed.
        A = np.linalg.qr(A, mode="r").T if len(A) >= features else A.T
        vectors, sizes, _ = np.linalg.svd(A, full_matrices=False)
    else:
        if rows < features and not ridge:
            matrix = kernel = regression.kernel(units)
        else:
            matrix = regression.gram / np.outer(units, units)
            matrix[np.diag_indices_from(matrix)] += ridge / np.square(units)
        squares, vectors = np.linalg.eigh(matrix)
        sizes = np.sqrt(np.maximum(squares, 0))
    beyond = np.sort(sizes)[: max(len(sizes) - rank, 0)]
    is_kept = sizes > max(null * np.max(sizes, initial=0), np.max(beyond, initial=0))
    own = np.sqrt(regression.squares + ridge) / units
    shown = rounding_of_terms(regression.digits) * np.min(own[own > 0], initial=np.inf)
    hides = hides or bool(np.any(sizes[~is_kept] > shown))
    basis, sizes = vectors[:, is_kept], sizes[is_kept]
    curvature = np.square(sizes)[:, None] + l2
    is_full = bool(is_kept.all()) and (rows >= features or ridge > 0)
    curves_down = bool(np.any(curvature < 0)) or (not is_full and bool(np.min(l2) < 0))
    gain = 1 / np.where(curvature > 0, curvature, np.inf)
    least = least_singular_value(np.float64) ** 2 * np.max(curvature, initial=0)
    is_ill = bool(np.min(curvature, initial=np.inf) < least)
    basis = basis / (units[:, None] if kernel is None else sizes)
    return Inverse(basis, gain, None, curves_down, is_ill, kernel, np.square(units)[:, None], hides)
