"""The entries of a sparse matrix, from another library or from indices and values, checked and
sorted.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxdescent.inputs.numbers import refuse_masked
from jaxdescent.inputs.trees import check_floats
from jaxdescent.kernels.dtypes import compute_dtype

LARGEST_SIDE = 2**31 - 1
"""The most rows or features, because indices are int32."""

TRACED = (
    "the indices of a sparse X must be known numbers, got traced ones: make it outside of jit, "
    "vmap and grad, and pass it as an argument."
)


def is_sparse_matrix(X: Any) -> bool:
    """Whether the object looks like a sparse matrix of SciPy or JAX."""
    return hasattr(type(X), "tocoo") or type(X).__module__.startswith("jax.experimental.sparse")


def entries_of(matrix: Any) -> tuple[Any, Any, Any, Any]:
    """Rows, columns, values and the shape of a sparse matrix of another library."""
    if not is_sparse_matrix(matrix):
        raise TypeError(
            "jd.Sparse needs a sparse matrix of SciPy or a BCOO or BCSR of JAX, got "
            f"{type(matrix).__name__}: pass a dense X to jd.LinearRegression as it is, and indices "
            "and values to jd.Sparse.from_indices."
        )
    if len(matrix.shape) != 2:
        raise ValueError(f"X must have shape (rows, features), got {tuple(matrix.shape)}.")
    if hasattr(matrix, "tocoo"):
        entries = matrix.tocoo()
        return entries.row, entries.col, entries.data, matrix.shape
    entries = matrix.to_bcoo() if hasattr(matrix, "to_bcoo") else matrix
    if getattr(entries, "n_batch", None) != 0 or entries.n_dense:
        raise TypeError(
            "jd.Sparse takes of JAX's sparse matrices a BCOO or BCSR without batch and dense "
            f"dimensions, got {matrix!r}: pass indices and values to jd.Sparse.from_indices."
        )
    if isinstance(entries.indices, Tracer):
        raise TypeError(TRACED)
    index = np.asarray(entries.indices)
    is_entry = np.all(index < np.asarray(matrix.shape), axis=1)  # the others are JAX's padding
    where = np.flatnonzero(is_entry)
    values = entries.data if where.size == len(index) else entries.data[where]
    return index[where, 0], index[where, 1], values, matrix.shape


def checked_shape(shape: Any) -> tuple[int, int]:
    """The shape (rows, features), if both are at least one and can be numbered in int32."""
    sides = two_integers(shape)
    if min(sides) < 1:
        raise ValueError(
            f"X must have at least one row and one feature, got shape {sides}: the data is empty."
        )
    if max(sides) > LARGEST_SIDE:
        raise ValueError(f"X must have fewer than 2**31 rows and features, got shape {sides}.")
    return sides


def two_integers(shape: Any) -> tuple[int, int]:
    """The shape as Python's integers."""
    try:
        rows, features = map(operator.index, shape)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"shape must be (rows, features), two integers, got {shape!r}."
        ) from error
    return rows, features


def checked_index(
    name: str,
    index: Any,
    side: int,
    *,
    dtype: Any = np.int64,
    why_floats: str = "",
    advice: str = "correct them, or the shape",
) -> np.ndarray:
    """Indices from 0 to ``side - 1``; by default as int64.

    Args:
      name: "row" or "column", for errors.
      index: (entries,).
      side: the number of rows or columns.
      dtype: the dtype of the result.
      why_floats: the end of the error for indices that are not integers.
      advice: the end of the error for an index that is out of range.
    """
    if isinstance(index, Tracer):
        raise TypeError(TRACED)
    refuse_masked(f"{name} indices", index)
    index = np.asarray(index)
    if index.ndim != 1:
        raise ValueError(f"{name} indices must have shape (entries,), got {index.shape}.")
    if not index.size:
        return np.zeros(0, dtype)
    if not np.issubdtype(index.dtype, np.integer):
        raise TypeError(f"{name} indices must be integers, got dtype {index.dtype}{why_floats}.")
    least, most = int(index.min()), int(index.max())
    if least < 0 or most >= side:
        raise ValueError(
            f"{name} indices must be from 0 to {side - 1:,}, got {least if least < 0 else most:,}: "
            f"{advice}."
        )
    return index.astype(dtype, copy=False)  # NumPy combines uint64 and int64 to float64


def check_pairs(row: np.ndarray, column: np.ndarray) -> None:
    """Raise unless there is a column for each row."""
    if row.size != column.size:
        raise ValueError(
            f"there must be a row and a column for each entry, got {row.size:,} rows and "
            f"{column.size:,} columns."
        )


def checked_values(values: Any, entries: int) -> Any:
    """The values as a NumPy array, or unchanged if they are traced; None stays None."""
    if values is None:
        return None
    if not isinstance(values, Tracer):
        refuse_masked("values", values)
        values = np.asarray(values)
    if values.shape != (entries,):
        raise ValueError(
            f"values must have shape ({entries},), one for each index, got {values.shape}."
        )
    ones = "; where all entries are one, values=None takes less memory"
    check_floats("X", values.dtype, ones)
    return values


def without_duplicates(
    row: np.ndarray, column: np.ndarray, values: Any, features: int, dtype: Any
) -> tuple[np.ndarray, np.ndarray, Any]:
    """The entries sorted by row and column, with the values of equal places added up."""
    place = row.astype(np.int64) * features + column
    if np.all(place[1:] > place[:-1]):
        return row, column, values
    order = np.argsort(place, kind="stable")
    place, row, column = place[order], row[order], column[order]
    values = None if values is None else values[order]
    is_new = np.concatenate([[True], place[1:] != place[:-1]])
    if np.all(is_new):
        return row, column, values
    first = np.flatnonzero(is_new)
    if values is None:
        values = np.diff(first, append=place.size).astype(dtype)
    elif isinstance(values, Tracer):
        wide = values.astype(compute_dtype(values.dtype))
        values = jax.ops.segment_sum(wide, np.cumsum(is_new) - 1, first.size).astype(values.dtype)
    else:
        wide = np.add.reduceat(values.astype(compute_dtype(values.dtype)), first)
        values = wide.astype(values.dtype)
    return row[first], column[first], values
