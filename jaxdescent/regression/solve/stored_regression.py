"""A small stored regression in float64, for NumPy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class StoredRegression:
    """The arrays of a regression in float64, and sums that a solve needs, computed once.

    Attributes:
      X: (rows, features), not centred.
      y: (rows, outputs).
      l2: (outputs,) or (1,).
      share: (rows, 1), the weights of the rows.
      intercept: whether there is an intercept.
      digits: the dtype of the data, whose eps decides whether columns are linearly dependent.
    """

    X: Array
    y: Array
    l2: Array
    share: Array
    intercept: bool
    digits: np.dtype[Any]

    @classmethod
    def of(
        cls, X: Any, y: Any, l2: Any, sample_weight: Any, *, intercept: bool
    ) -> StoredRegression:
        """The regression from arrays of any float dtype."""
        wide = np.asarray(X, np.float64)
        share = np.ones(len(wide)) if sample_weight is None else np.asarray(sample_weight)
        return cls(
            wide,
            np.asarray(y, np.float64).reshape(len(wide), -1),
            np.atleast_1d(np.asarray(l2, np.float64)),
            np.asarray(share, np.float64)[:, None],
            intercept,
            np.promote_types(np.asarray(X).dtype, np.float32),
        )

    @functools.cached_property
    def total(self) -> float:
        """The sum of the weights."""
        return float(np.sum(self.share))

    @property
    def most_rank(self) -> int:
        """The largest rank that A can have: an intercept takes one row's worth of it."""
        return int(np.count_nonzero(self.share)) - self.intercept

    @property
    def mean(self) -> Array:
        """``x_bar``, (features,); zeros without an intercept."""
        return self._columns[0]

    @property
    def target_mean(self) -> Array:
        """``y_bar``, (outputs,); zeros without an intercept."""
        return self._targets[0]

    @property
    def centred(self) -> Array:
        """``A = D (X - 1 x_bar')``, with ``D = diag(sqrt(s))``."""
        return self._columns[1]

    @functools.cached_property
    def _is_weighted(self) -> bool:
        return bool(np.any(self.share != 1))

    def weighed(self, rows: Array, of: Callable[[Array], Array] = np.asarray) -> Array:
        """The rows times a function of their weights, by default the weights themselves."""
        return of(self.share) * rows if self._is_weighted else rows

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
        return np.einsum("ij,ij->j", self.centred, self.centred)

    def _centred(self, columns: Array, *, is_exact: bool) -> tuple[Array, Array]:
        """The means of columns, zeros without an intercept, and the columns minus their means;
        ``is_exact`` subtracts what rounding leaves of the means too.
        """
        if not self.intercept:
            return np.zeros(columns.shape[1]), columns
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
        moved = self._targets[1]
        return 0.5 * float(np.sum(self.weighed(moved) * moved))

    def slope_at_constant(self) -> float:
        """The norm of the gradient by the weights at the best constant model."""
        sums = np.sum(self.weighed(self._targets[1]), axis=0)
        return float(np.linalg.norm(self._pulled_targets - np.outer(self.mean, sums)))

    @functools.cached_property
    def _pulled_targets(self) -> Array:
        """``X'S (y - y_bar)``, (features, outputs)."""
        return self.X.T @ self.weighed(self._targets[1])

    def residual(self, weights: Array, offset: Array) -> Array:
        """``y - X w - b``, without a pass over X where w is zero."""
        return self.y - offset if self._is_constant(weights) else self.y - self.X @ weights - offset

    def pulled(self, residual: Array, weights: Array, offset: Array) -> Array:
        """``X'S`` times the residual at these params, (features, outputs), with one pass over X for
        all params whose weights are zero.
        """
        if self._is_constant(weights):
            moved = self.total * (offset - self.target_mean)
            slope = self._pulled_targets - np.outer(self.mean, moved)
            return np.where(residual.any(axis=0), slope, 0)  # a constant that is met pulls nothing
        return self.X.T @ self.weighed(residual)

    def _is_constant(self, weights: Array) -> bool:
        """Whether w is zero, and no entry of X is infinite or NaN."""
        return not weights.any() and bool(np.isfinite(self.squares).all())

    def at(self, weights: Array, offset: Array) -> tuple[float, float]:
        """The value and the gradient's norm."""
        residual = self.residual(weights, offset)
        weighted = self.weighed(residual)
        slope = self.l2 * weights - self.pulled(residual, weights, offset)
        squares = np.sum(np.square(slope))
        if self.intercept:
            squares = squares + np.sum(np.square(np.sum(weighted, axis=0)))
        penalty = np.sum(self.l2 * np.square(weights))
        return 0.5 * float(np.sum(weighted * residual) + penalty), float(np.sqrt(squares))
