"""A stored regression whose sums NumPy computes in float64."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxdescent.kernels.host_threads import summed, usable_cores

BLOCK = 1 << 17
"""The most entries of X in float64 at a time: a megabyte, which stays in the cache."""

MOST_THREADS = 8
"""The most threads that multiply blocks at the same time."""

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class StoredRegression:
    """The arrays of a regression in float64, and sums that a solve needs, computed once.

    An X of up to 32 bits and more than :data:`BLOCK` entries is kept in float32, and its targets
    too: each pass converts X block by block, which is faster than to read a copy.
    """

    X: Array  # (rows, features), not centred
    y: Array  # (rows, outputs)
    l2: Array  # (outputs,) or (1,)
    share: Array  # (rows, 1), the weights of the rows
    intercept: bool
    digits: np.dtype[Any]  # of the data, whose eps decides whether columns are linearly dependent

    @classmethod
    def of(
        cls, X: Any, y: Any, l2: Any, sample_weight: Any, *, intercept: bool
    ) -> StoredRegression:
        """The regression from arrays of any float dtype."""
        X = np.asarray(X)
        digits = np.promote_types(X.dtype, np.float32)
        kept = digits if X.size > BLOCK else np.dtype(np.float64)
        one = np.ones(1) if sample_weight is None else np.asarray(sample_weight, np.float64)
        return cls(
            np.asarray(X, kept),
            np.asarray(y, np.promote_types(kept, np.asarray(y).dtype)).reshape(len(X), -1),
            np.atleast_1d(np.asarray(l2, np.float64)),
            np.broadcast_to(one, len(X))[:, None],
            intercept,
            digits,
        )

    def of_outputs(self, own: Array) -> StoredRegression:
        """The regression of some outputs, which share one penalty; sums over X are kept."""
        part = dataclasses.replace(self, y=self.y[:, own], l2=self.l2[own][:1])
        of_targets = "X", "y", "l2", "_targets", "_pulled_targets"
        part.__dict__.update({k: v for k, v in self.__dict__.items() if k not in of_targets})
        return part

    @functools.cached_property
    def total(self) -> float:
        """The sum of the weights."""
        return float(np.sum(self.share))

    @property
    def most_rank(self) -> int:
        """The largest rank that A can have: an intercept takes one row's worth of it."""
        return int(np.count_nonzero(self.share)) - self.intercept

    @functools.cached_property
    def mean(self) -> Array:
        """``x_bar``, (features,); zeros without an intercept."""
        if not self.intercept:
            return np.zeros(self.X.shape[1])
        if self._is_in_blocks:
            # BLAS takes no array that repeats one number.
            return self.transposed_product(np.ascontiguousarray(self.share))[:, 0] / self.total
        return self._columns[0]

    @property
    def target_mean(self) -> Array:
        """``y_bar``, (outputs,); zeros without an intercept."""
        return self._targets[0]

    @property
    def centred_targets(self) -> Array:
        """``y - y_bar``, (rows, outputs)."""
        return self._targets[1]

    @functools.cached_property
    def centred(self) -> Array:
        """``A = D (X - 1 x_bar')``, with ``D = diag(sqrt(s))``."""
        if self._is_in_blocks:
            A = np.empty(self.X.shape)
            for rows, columns, block in self._blocks(is_centred=True):
                A[rows, columns] = block
            return A
        return self._columns[1]

    @property
    def _is_in_blocks(self) -> bool:
        return self.X.dtype != np.float64

    def _blocks(
        self, *, is_centred: bool = False, part: int = 0, parts: int = 1
    ) -> Iterator[tuple[slice, slice, Array]]:
        """Blocks of X, or of A, along its longer side, in float64: the rows, the columns, and the
        block, which is valid until the next one; or one of several parts of the blocks.
        """
        every = slice(None)
        if not self._is_in_blocks:
            yield every, every, self.centred if is_centred else self.X
            return
        mean = self.mean if is_centred and self.intercept else None
        longer, shorter = max(self.X.shape), min(self.X.shape)
        at_once = self._at_once
        space = np.empty(shorter * at_once)
        for start in range(part * at_once, longer, parts * at_once):
            own = slice(start, start + at_once)
            rows, columns = (every, own) if self._is_wide else (own, every)
            given = self.X[rows, columns]
            block = space[: given.size].reshape(given.shape)
            np.copyto(block, given)
            if mean is not None:
                block -= mean[columns]
            if is_centred and self._is_weighted:
                block *= np.sqrt(self.share[rows])
            yield rows, columns, block

    @property
    def _at_once(self) -> int:
        """The rows of a block, or of a wide X the columns."""
        return max(BLOCK // min(self.X.shape), 1)

    def _square(self, size: int, of: Callable[[slice, Array], Array]) -> Array:
        """The sum over the blocks of A of a (size, size) matrix, by several threads."""
        blocks = -(-max(self.X.shape) // self._at_once) if self._is_in_blocks else 1
        parts = min(blocks, usable_cores(), MOST_THREADS)
        _ = self.mean, self._is_weighted  # computed once, for all parts

        def of_part(part: int) -> Array:
            total = np.zeros((size, size))
            for _, columns, block in self._blocks(is_centred=True, part=part, parts=parts):
                total += of(columns, block)
            return total

        return summed(of_part, parts)

    @property
    def _is_wide(self) -> bool:
        rows, features = self.X.shape
        return rows < features

    def product(self, weights: Array, *, is_centred: bool = False) -> Array:
        """``X w``, or ``A w``, (rows, outputs)."""
        image = np.zeros((len(self.X), weights.shape[1]))
        for rows, columns, block in self._blocks(is_centred=is_centred):
            image[rows] += block @ weights[columns]
        return image

    def transposed_product(self, rows: Array, *, is_centred: bool = False) -> Array:
        """``X'r``, or ``A'r``, (features, outputs)."""
        pulled = np.zeros((self.X.shape[1], rows.shape[1]))
        for own, columns, block in self._blocks(is_centred=is_centred):
            pulled[columns] += block.T @ rows[own]
        return pulled

    @functools.cached_property
    def gram(self) -> Array:
        """``A'A``, (features, features)."""
        if self._is_wide:
            return self.centred.T @ self.centred
        return self._square(self.X.shape[1], lambda _, block: block.T @ block)

    def kernel(self, units: Array) -> Array:
        """``B B'`` of a wide A, (rows, rows), for B: A with its columns divided by units."""

        def product(columns: slice, block: Array) -> Array:
            own = units[columns]
            scaled = block / own if (own != 1).any() else block
            return scaled @ scaled.T

        return self._square(len(self.X), product)

    @functools.cached_property
    def _is_weighted(self) -> bool:
        return bool(np.any(self.share != 1))

    def weighed(self, rows: Array, of: Callable[[Array], Array] = np.asarray) -> Array:
        """The rows times a function of their weights, by default the weights themselves."""
        return of(self.share) * rows if self._is_weighted else rows

    def sums(self, rows: Array) -> Array:
        """The sums of the rows times their weights, (outputs,)."""
        return self.share[:, 0] @ rows if self._is_weighted else np.sum(rows, axis=0)

    @functools.cached_property
    def _columns(self) -> tuple[Array, Array]:
        # The mean's rounding is far below the digits of narrow data.
        mean, moved = self._centred(self.X, is_exact=self.digits == np.float64)
        return mean, self.weighed(moved, np.sqrt)

    @functools.cached_property
    def _targets(self) -> tuple[Array, Array]:
        return self._centred(self.y, is_exact=True)  # a constant leaves zeros

    @functools.cached_property
    def squares(self) -> Array:
        """The squared lengths of the columns of A, (features,)."""
        if self.digits != np.float64 and not self._is_wide:
            return np.diagonal(self.gram).copy()
        squares = np.zeros(self.X.shape[1])
        for _, columns, block in self._blocks(is_centred=True):
            squares[columns] += np.einsum("ij,ij->j", block, block)
        return squares

    def _centred(self, columns: Array, *, is_exact: bool) -> tuple[Array, Array]:
        """The means of columns, zeros without an intercept, and the columns minus their means;
        ``is_exact`` subtracts what rounding leaves of the means too.
        """
        if not self.intercept:
            return np.zeros(columns.shape[1]), np.asarray(columns, np.float64)
        share = self.share[:, 0] / self.total
        mean = share @ columns
        moved = columns - mean
        if not is_exact:
            return mean, moved
        rounding = share @ moved
        moved -= rounding
        return mean + rounding, moved

    def value_at_constant(self) -> float:
        """The value at the best constant model."""
        return 0.5 * float(np.sum(self.sums(np.square(self.centred_targets))))

    def slope_at_constant(self) -> float:
        """The norm of the gradient by the weights at the best constant model."""
        sums = self.sums(self.centred_targets)
        return float(np.linalg.norm(self._pulled_targets - np.outer(self.mean, sums)))

    @functools.cached_property
    def _pulled_targets(self) -> Array:
        """``X'S (y - y_bar)``, (features, outputs)."""
        return self.transposed_product(self.weighed(self.centred_targets))

    def residual(self, weights: Array, offset: Array) -> tuple[Array, Array]:
        """``r = y - X w - b``, (rows, outputs), and ``X'S r``, (features, outputs).

        They take one pass over X, of a wide X two, and none where w is zero.
        """
        if self._is_constant(weights):
            moved = self.total * (offset - self.target_mean)
            slope = self._pulled_targets - np.outer(self.mean, moved)
            residual = self.y - offset
            # Targets that equal the constant have no gradient, although rounding leaves some.
            return residual, np.where(residual.any(axis=0), slope, 0)
        if self._is_wide:
            residual = self.y - self.product(weights) - offset
            return residual, self.transposed_product(self.weighed(residual))
        residual, slope = self.y - offset, np.zeros(weights.shape)
        for rows, _, block in self._blocks():
            residual[rows] -= block @ weights
            own = residual[rows]
            slope += block.T @ (self.share[rows] * own if self._is_weighted else own)
        return residual, slope

    def _is_constant(self, weights: Array) -> bool:
        """Whether w is zero, and no entry of X is infinite or NaN."""
        return not weights.any() and bool(np.isfinite(self.squares).all())

    def at(self, weights: Array, offset: Array) -> tuple[float, float]:
        """The value and the gradient's norm."""
        residual, pulled = self.residual(weights, offset)
        squares = np.sum(np.square(self.l2 * weights - pulled))
        if self.intercept:
            squares = squares + np.sum(np.square(self.sums(residual)))
        value = np.sum(self.sums(np.square(residual, out=residual)))
        value = value + np.sum(self.l2 * np.square(weights))
        return 0.5 * float(value), float(np.sqrt(squares))
