"""Some rows as numbers in memory, and their terms in products, slice by slice, by NumPy."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxdescent.rows.hashing import row_ranges

SLICE_BYTES = 1 << 18
"""The bytes of a slice of rows that is multiplied at a time: it stays in a core's cache while a
mean is subtracted. The sums of slices are added in float64."""

SLICE_ENTRIES = 1 << 16
"""How many entries of sparse features are summed at a time: they stay in a core's cache."""

PRODUCT_BYTES, LEAST_PRODUCT_ROWS = 1 << 22, 256
"""The bytes, and the fewest rows, that are widened to float64 and multiplied with themselves at a
time: they stay in a core's own cache."""

SPARSE = 6
"""A sparse feature that one of so many rows has is written out for products of columns."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some rows as numbers.

    Attributes:
      start: the number of the first row.
      numbers: (rows, n), in any order of storage.
      sparse: sparse matrices of SciPy, (rows, features - n), whose sum is what follows the numbers.
      features: how many features there are.
      refuse: raises an error about the first value that is NaN or infinite, if there is one.
    """

    start: int
    numbers: np.ndarray
    sparse: list[Any]
    features: int
    refuse: Callable[[], None]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.numbers.shape[0]

    @property
    def nbytes(self) -> int:
        """The bytes of the numbers and entries."""
        held = (S.data.nbytes + S.indices.nbytes + S.indptr.nbytes for S in self.sparse)
        return self.numbers.nbytes + sum(held)

    def take(self, rows: np.ndarray) -> Chunk:
        """A chunk of these rows, in their order."""
        sparse = [S[rows] for S in self.sparse]
        return dataclasses.replace(self, numbers=self.numbers[rows], sparse=sparse)

    def own(self, rows: np.ndarray | None) -> np.ndarray:
        """This chunk's part of a vector over all rows, in float64; None stands for ones."""
        if rows is None:
            return np.ones(self.rows)
        return rows[self.start : self.start + self.rows].astype(np.float64)

    def multiply(self, weights: np.ndarray, center: np.ndarray | None, made: np.ndarray) -> None:
        """Put ``(X - 1 center') @ weights`` into ``made``, (rows, k)."""
        n = self.numbers.shape[1]
        with self._finite(made, weights):
            for rows in self._slices():
                Z = self._centred(rows, center).astype(weights.dtype, copy=False)
                np.matmul(Z, weights[:n], out=made[rows])
            for S in self.sparse:
                made += S @ weights[n:]
            if center is not None:
                made -= center[n:].astype(weights.dtype) @ weights[n:]

    def add(self, residual: np.ndarray, center: np.ndarray | None, total: np.ndarray) -> None:
        """Add ``(X - 1 center')' @ residual`` to ``total``, (features, k) in float64."""
        n = self.numbers.shape[1]
        with self._finite(total, residual):
            for rows in self._slices():
                Z = self._centred(rows, center).astype(residual.dtype, copy=False)
                total[:n] += Z.T @ residual[rows]
            for S in self.sparse:
                _add_entries(S, residual, total[n:])
            if center is not None:
                total[n:] -= center[n:, None] * residual.sum(axis=0, dtype=np.float64)

    def add_squares(
        self, weight: np.ndarray | None, center: np.ndarray | None, total: np.ndarray
    ) -> None:
        """Add ``sum_i s_i (x_ij - center_j)^2`` to ``total``, (features,) in float64."""
        s, n = self.own(weight), self.numbers.shape[1]
        with self._finite(total):
            for rows in self._slices():
                Z = self._centred(rows, center).astype(np.float64)
                total[:n] += np.square(Z).T @ s[rows]
            S = self._whole_sparse()
            if S is not None:
                x, here = S.data.astype(np.float64), np.repeat(s, np.diff(S.indptr))
                if center is not None:
                    c = center[n:].astype(np.float64)
                    x -= c[S.indices]
                    # Rounding must not bring these sums of squares below zero.
                    others = np.maximum(s.sum() - np.bincount(S.indices, here, c.size), 0)
                    total[n:] += others * c**2
                total[n:] += np.bincount(S.indices, here * np.square(x), self.features - n)

    def add_products(
        self,
        weight: np.ndarray | None,
        targets: np.ndarray | None,
        shift: np.ndarray,
        total: np.ndarray,
    ) -> None:
        """Add ``sum_i s_i z_i z_i'`` to ``total``, where z is features and targets less the shift,
        and a one. Sparse features without a shift are multiplied as sparse matrices.
        """
        n, side, S = self.numbers.shape[1], total.shape[0], self._whole_sparse()
        written_out, apart, dense = S, None, np.arange(side)
        if S is not None and SPARSE * S.nnz < np.prod(S.shape):
            full = np.flatnonzero(shift[n : self.features])
            kept = np.ones(S.shape[1])
            kept[full] = 0
            apart = S.multiply(kept[None, :]).tocsr()
            written_out = S[:, full] if full.size else None
            dense = np.r_[0:n, n + full, self.features : side]
        step = max(PRODUCT_BYTES // (8 * dense.size), LEAST_PRODUCT_ROWS)
        for first in range(0, self.rows, step):
            rows = slice(first, min(first + step, self.rows))
            Z = self._written_out(rows, targets, written_out)
            Z[:, :-1] -= shift[dense[:-1]]
            with np.errstate(over="ignore", invalid="ignore"):
                signed = Z if weight is None else Z * self.own(weight)[rows, None]
                product = Z.T @ signed
                if apart is None:
                    total += product
                    continue
                total[np.ix_(dense, dense)] += product
                own = apart[rows]
                crossed = own.T @ signed
                total[n : self.features, dense] += crossed
                total[dense, n : self.features] += crossed.T
                pairs = (own.T @ own.multiply(self.own(weight)[rows, None])).tocoo()
                total[n + pairs.row, n + pairs.col] += pairs.data

    def means(self, weight: np.ndarray | None, targets: np.ndarray | None) -> np.ndarray:
        """The weighted means of features and targets; plain ones if no weight is positive, and
        zeros of sparse features that few rows have.
        """
        s, n = self.own(weight), self.numbers.shape[1]
        share = s / s.sum() if s.sum() > 0 else np.full(self.rows, 1 / self.rows)
        pieces = (share[rows] @ self._written_out(rows, targets) for rows in self._slices())
        means, S = functools.reduce(operator.add, pieces), self._whole_sparse()
        sparse = np.zeros(self.features - n) if S is None else share @ S
        if S is not None:
            sparse[SPARSE * np.bincount(S.indices, minlength=sparse.size) < self.rows] = 0
        return np.concatenate([means[:n], sparse, means[n:-1]])

    def written_out(self) -> np.ndarray:
        """All features in float64, column by column."""
        return self._written_out(slice(None), None, self._whole_sparse())[:, :-1]

    def _written_out(
        self, rows: slice, targets: np.ndarray | None, sparse: Any = None
    ) -> np.ndarray:
        """These rows in float64, column by column: the numbers, the features of a sparse matrix,
        the targets, and a one.
        """
        pieces = [self.numbers[rows]]
        if not np.isfinite(pieces[0]).all():
            self.refuse()
        if sparse is not None:
            pieces.append(sparse[rows].toarray())
        if targets is not None:
            pieces.append(targets[self.start : self.start + self.rows][rows])
        pieces.append(np.ones((len(pieces[0]), 1)))
        return np.concatenate([each.T for each in pieces], dtype=np.float64).T

    def _whole_sparse(self) -> Any:
        """All sparse features as one matrix in which no entry stands twice; None where there are
        none.
        """
        if not self.sparse:
            return None
        whole = functools.reduce(operator.add, self.sparse)
        if not whole.has_canonical_format:
            whole = whole.copy()  # it may share its arrays with the caller's matrix
            whole.sum_duplicates()
        return whole

    @contextlib.contextmanager
    def _finite(self, made: np.ndarray, operand: Any = 0.0) -> Iterator[None]:
        """A context in which the rows are multiplied by an operand. If what is made of a finite one
        is not finite, the value in the rows is refused.
        """
        with np.errstate(all="ignore"):
            yield
        if not np.isfinite(made).all() and np.isfinite(operand).all():
            self.refuse()

    def _slices(self) -> Iterator[slice]:
        width = self.numbers.itemsize * max(self.numbers.shape[1], 1)
        step = max(SLICE_BYTES // width, 1)
        return (slice(i, min(i + step, self.rows)) for i in range(0, self.rows, step))

    def _centred(self, rows: slice, center: np.ndarray | None) -> np.ndarray:
        Z = self.numbers[rows]
        if center is None:
            return Z
        wide = np.result_type(Z.dtype, center.dtype)
        return Z.astype(wide) - center[: Z.shape[1]].astype(wide)


def _add_entries(S: Any, residual: np.ndarray, total: np.ndarray) -> None:
    """Add ``S' @ residual`` to ``total`` in float64. SciPy's product would be one more vector over
    all features, of which a chunk may have few.
    """
    for first, last in row_ranges(S.indptr, SLICE_ENTRIES):
        counts = np.diff(S.indptr[first : last + 1])
        own = slice(S.indptr[first], S.indptr[last])
        places = S.indices[own].astype(np.intp)
        for k in range(residual.shape[1]):
            each = np.repeat(residual[first:last, k].astype(np.float64), counts)
            np.add.at(total[:, k], places, each * S.data[own])
