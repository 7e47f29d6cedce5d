"""Some rows as numbers, and their terms in products, slice by slice."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdescent.data.entries import SparseColumn
from jaxdescent.data.protocol import Block
from jaxdescent.rows.errors import DataError
from jaxdescent.rows.hashing import row_ranges

SLICE_BYTES = 1 << 18
"""The bytes of a slice of rows that is multiplied at a time: it stays in a core's cache while a
mean is subtracted. The sums of slices are added in float64."""

SLICE_ENTRIES = 1 << 16
"""How many entries of sparse features are summed at a time: they stay in a core's cache."""

PRODUCT_BYTES, MOST_PRODUCT_ROWS, LEAST_PRODUCT_ROWS, SQUARE = 1 << 22, 65536, 256, 2048
"""The bytes, and the most and fewest rows, that are widened to float64 and multiplied with
themselves at a time: they stay in a core's own cache. There are at least as many rows as columns,
up to ``SQUARE``, since the addition of a product would outweigh that of fewer rows."""

PADDED = 4
"""Pairs of entries are added up row by row of a padded array where that has at most so many times
as many pairs as there are."""

SPARSE = 6
"""Sparse features are written out for products of columns where a row has one of so many of them or
more: BLAS multiplies about ``SPARSE**2`` numbers while one pair of entries is added."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some rows as numbers."""

    start: int  # the number of the first row
    names: tuple[str, ...]  # the names of the columns of numbers
    numbers: np.ndarray  # (rows, columns), in any order of storage
    # Sparse matrices of SciPy, (rows, features - columns): their sum is what follows the numbers.
    sparse: list[Any]
    blocks: list[Block]  # the rows as the source has them, one block after another
    features: int  # how many features there are
    whole: Chunk | None = None  # from which these rows were taken, in any order; None if none

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.numbers.shape[0]

    def take(self, rows: np.ndarray) -> Chunk:
        """A chunk of these rows, in their order."""
        sparse = [S[rows] for S in self.sparse]
        whole = self.whole or self
        return dataclasses.replace(self, numbers=self.numbers[rows], sparse=sparse, whole=whole)

    def own(self, rows: np.ndarray | None) -> np.ndarray:
        """This chunk's part of a vector over all rows, in float64; None stands for ones."""
        if rows is None:
            return np.ones(self.rows)
        return rows[self.start : self.start + self.rows].astype(np.float64)

    def multiply(self, weights: np.ndarray, center: np.ndarray | None, made: np.ndarray) -> None:
        """Put ``(X - 1 center') @ weights`` into ``made``, (rows, k)."""
        n = len(self.names)
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
        n = len(self.names)
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
        s, n = self.own(weight), len(self.names)
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
        shift: np.ndarray | None,
        total: np.ndarray,
    ) -> None:
        """Add ``sum_i s_i z_i z_i'`` to ``total``, where z is features and targets less the shift,
        and a one. Sparse features are added up by pairs of entries. Those with a shift are written
        out, and all of them where a row has many.

        Above the diagonal the sums are complete; :func:`mirror` puts them below it at the end.
        """
        n, side = len(self.names), total.shape[0]
        written_out, apart, dense = self._whole_sparse(), None, np.arange(side)
        if written_out is not None and _is_few(written_out):
            full = np.zeros(self.features - n, bool)
            if shift is not None:
                full = shift[n : self.features] != 0
            apart = _columns_of(written_out, ~full)
            written_out = written_out[:, full] if full.any() else None
            dense = np.r_[0:n, n + np.flatnonzero(full), self.features : side]
        step = product_rows(dense.size)
        for first in range(0, self.rows, step):
            rows = slice(first, min(first + step, self.rows))
            Z = self._written_out(rows, targets, written_out)
            if shift is not None:
                Z[:, :-1] -= shift[dense[:-1]]
            s = self.own(weight)[rows]
            root, signed = np.sqrt(np.abs(s)), Z
            with np.errstate(over="ignore", invalid="ignore"):
                if weight is not None:
                    Z *= root[:, None]
                if (s < 0).any():
                    signed = Z * np.sign(s)[:, None]
                product = Z.T @ signed
                if apart is None:
                    total += product
                    continue
                total[np.ix_(dense, dense)] += product
                own = apart[rows]
                crossed = own.T @ (root[:, None] * signed)
                total[n : self.features, dense] += crossed
                total[dense, n : self.features] += crossed.T
                _add_pairs(own, s, n, total)

    def means(self, weight: np.ndarray | None, targets: np.ndarray | None) -> np.ndarray:
        """The weighted means of features and targets; plain ones if no weight is positive, and
        zeros of sparse features that few rows have.
        """
        s, n = self.own(weight), len(self.names)
        share = s / s.sum() if s.sum() > 0 else np.full(self.rows, 1 / self.rows)
        pieces = (share[rows] @ self._written_out(rows, targets) for rows in self._slices())
        means, S = functools.reduce(operator.add, pieces), self._whole_sparse()
        sparse = np.zeros(self.features - n) if S is None else share @ S
        if S is not None and _is_few(S):
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
            self.refuse_not_finite()
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
        if whole.has_canonical_format:
            return whole
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
            self.refuse_not_finite()

    def refuse_not_finite(self) -> None:
        """Raise if a value is NaN or infinite, with its row."""
        whole = self.whole or self
        for rows, block in placed(whole.blocks):
            for j, name in enumerate(whole.names):
                check_finite(whole.numbers[rows, j], repr(name), block)
            for name, column in block.columns.items():
                if isinstance(column, SparseColumn) and column.values is not None:
                    with np.errstate(over="ignore"):
                        values = column.values.astype(whole.numbers.dtype)
                    check_finite(values, f"{name!r} has an entry that", block, column.row)

    def _slices(self) -> Iterator[slice]:
        width = self.numbers.itemsize * max(len(self.names), 1)
        step = max(SLICE_BYTES // width, 1)
        return (slice(i, min(i + step, self.rows)) for i in range(0, self.rows, step))

    def _centred(self, rows: slice, center: np.ndarray | None) -> np.ndarray:
        Z = self.numbers[rows]
        if center is None:
            return Z
        wide = np.result_type(Z.dtype, center.dtype)
        return Z.astype(wide) - center[: Z.shape[1]].astype(wide)


def placed(blocks: Sequence[Block]) -> Iterator[tuple[slice, Block]]:
    """The blocks of a chunk, each with the places of its rows in the chunk."""
    first = 0
    for block in blocks:
        yield slice(first, first + block.rows), block
        first += block.rows


def mirror(total: np.ndarray) -> None:
    """Put what stands above the diagonal of a square matrix below it."""
    for i, row in enumerate(total):
        total[i + 1 :, i] = row[i + 1 :]


def product_rows(side: int) -> int:
    """How many rows of ``side`` columns are multiplied with themselves at a time."""
    fitting = min(PRODUCT_BYTES // (8 * side), MOST_PRODUCT_ROWS)
    return max(fitting, LEAST_PRODUCT_ROWS, min(side, SQUARE))


def check_finite(
    values: np.ndarray, who: str, block: Block, rows: np.ndarray | None = None, or_say: str = ""
) -> None:
    """Raise if one of a block's values is NaN or infinite.

    ``rows`` are those of entries, and ``or_say`` is another advice about a value that is NaN.
    """
    wrong = ~np.isfinite(values)
    if wrong.any():
        at = int(np.argmax(wrong))
        what, advice = ("NaN", or_say) if np.isnan(values[at]) else ("infinite", "")
        place = block.place(at if rows is None else rows[at])
        raise DataError(f"{who} is {what} in {place}: correct the data{advice}.")


def _is_few(S: Any) -> bool:
    """Whether sparse features have so few entries that these are added up by pairs."""
    return SPARSE * S.nnz < np.prod(S.shape)


def _columns_of(S: Any, kept: np.ndarray) -> Any:
    """A sparse matrix of the same shape with the entries of these columns alone."""
    if kept.all():
        return S
    there = kept[S.indices]
    starts = np.concatenate([[0], np.cumsum(there)])[S.indptr]
    return type(S)((S.data[there], S.indices[there], starts), S.shape)


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


def _add_pairs(S: Any, s: np.ndarray, first: int, total: np.ndarray) -> None:
    """Add ``sum_i s_i x_i x_i'`` of the rows of a sparse matrix, whose first column is the feature
    ``first`` and whose columns are sorted in each row: of each two entries the sum is added once.
    """
    counts = np.diff(S.indptr)
    most = int(counts.max(initial=0))
    # All rows are padded to the longest, unless most of these pairs would be of padding.
    if counts.size * most**2 > PADDED * np.sum(np.square(counts, dtype=np.float64)):
        products = (S.T.multiply(s) @ S).tocoo()  # each place stands once
        total[first + products.row, first + products.col] += products.data
        return
    there = np.arange(most) < counts[:, None]
    place, x = np.zeros(there.T.shape, np.int64), np.zeros(there.T.shape)
    place.T[there], x.T[there] = first + S.indices, S.data
    flat, side = total.reshape(-1), total.shape[0]  # one index finds its place faster than two
    for i, one in enumerate(place):
        row, weighted = one * side, s * x[i]
        for other, values in zip(place[i:], x[i:], strict=True):
            np.add.at(flat, row + other, weighted * values)
