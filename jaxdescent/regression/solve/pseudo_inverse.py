"""The inverse of a regression's normal matrix by singular values, for the derivatives of its
solution.

Products with ``H = X'SX + l2 I`` show no eigenvalue below eps times the largest: a singular value
of X below ``sqrt(eps)`` times the largest, 3e-4 in float32, would be lost. The singular values of X
itself keep twice the digits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.designs import as_design
from jaxdescent.kernels import factors
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.regression.linear_model import scaled_rows
from jaxdescent.regression.solve.factor import in_units, null_level

MOST_SIDE, MOST_ENTRIES, MOST_OPERATIONS = 512, 1 << 24, 1 << 30
"""The largest smaller side of X, the most of its entries, and the most of its entries times this
side, for which the singular values take about a second and some hundred megabytes."""


def is_possible(regression: Any) -> bool:
    """Whether X, which may be sharded or in files, is small enough to be factorised as a whole, and
    one factor serves all outputs: with several penalties no columns can be in units of their own.
    """
    rows, features = as_design(regression.X).shape
    side = min(rows, features)
    is_within = rows * features <= MOST_ENTRIES and side <= MOST_SIDE
    is_one = rows < features or jnp.size(regression.l2) == 1
    return is_one and is_within and rows * features * side <= MOST_OPERATIONS


class PseudoInverse(NamedTuple):
    """``H^+ = B diag(gain) B' + rest (I - V V')``, for each output.

    B has the right singular vectors V of X as columns, in units of the features. What is orthogonal
    to all rows of X is divided by the penalty, or removed where there is none.
    """

    basis: jax.Array  # B, (features, rank)
    image: jax.Array  # X B, (rows, rank)
    gain: jax.Array  # (rank, outputs), or one column for all outputs
    vectors: tuple[jax.Array, jax.Array] | None  # U and V, if there are more features than rows
    share: jax.Array  # of the penalty in the curvatures, as ``gain``
    root: jax.Array | None  # of the weights of the rows, if they have any
    rest: jax.Array  # one over the penalty, (1, outputs), or one number for all outputs
    rank: jax.Array

    def solve(self, of_rows: jax.Array, of_features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``w = H^+ (X'u + v)``, (features, outputs), and ``X w``, (rows, outputs).

        Args:
          of_rows: u, (rows, outputs). The rounding of a product ``X'u`` would be divided by the
            penalty; here nothing leaves the range of ``X'``.
          of_features: v, (features, outputs).
        """
        shares = _product(self.image.T, of_rows) + _product(self.basis.T, of_features)
        shares = self.gain * shares
        weights = _product(self.basis, shares)
        if self.vectors is not None:
            own = self.vectors[1]
            inside = _product(own, _product(own.T, of_features))
            weights = weights + self.rest * (of_features - inside)
        return weights, _product(self.image, shares)

    def residual(self, targets: jax.Array) -> jax.Array | None:
        """``t - X w`` for ``w = H^+ X'S t``, (rows, outputs), if there are more features than rows:
        it is the penalty's share of the targets t, where a difference would be rounding. Infinite
        or NaN in rows without weight.
        """
        if self.vectors is None:
            return None
        own = self.vectors[0]
        left = _product(own, self.share * _product(own.T, scaled_rows(targets, self.root)))
        return left if self.root is None else left / self.root[:, None]


def lengths_of(design: Any, weight: jax.Array | None) -> jax.Array | None:
    """The lengths of the columns, zero where a column is constant; None where X does not know."""
    lengths, whole = design.column_lengths(weight, None), design.uncentred_lengths(weight)
    if lengths is None or whole is None:
        return lengths
    return jnp.where(lengths <= null_level(lengths.dtype, lengths.size) * whole, 0, lengths)


def pseudo_inverse(regression: Any, dtype: Any, *, is_definite: bool | None) -> PseudoInverse:
    """The factors for a regression without an intercept; NaN where a penalty or the weight of a row
    is negative.

    Args:
      regression: any design is X.
      dtype: of the factors.
      is_definite: whether the penalty of all outputs is positive; None if that is not known.
    """
    design, weight = as_design(regression.X), regression.sample_weight
    X, l2 = design.to_dense().astype(dtype), jnp.atleast_1d(jnp.asarray(regression.l2, dtype))
    root = None if weight is None else jnp.sqrt(weight.astype(dtype))
    lengths = lengths_of(design, weight)
    if lengths is not None:
        X = jnp.where(lengths[None] == 0, 0, X)  # of constant columns rounding is left
    # In units of the largest entry the squares of all others, and their inverses, are numbers; so
    # is a penalty in units of its own root, if that is larger.
    peak = jnp.max(jnp.abs(scaled_rows(X, root)))
    peak = jnp.where((peak > 0) & (peak < jnp.inf), peak, 1)
    unit = jnp.maximum(peak, jnp.sqrt(jnp.maximum(jnp.max(l2), 0)))
    is_free = l2 == 0
    rest = jnp.where(is_free, 0, 1 / jnp.where(is_free, 1, l2))
    X, l2 = X / unit, l2 / unit / unit
    A = scaled_rows(X, root)
    lengths = jnp.linalg.norm(A, axis=0) if lengths is None else lengths.astype(dtype) / unit
    rows, features = A.shape
    is_tall = rows >= features
    is_below = is_tall and l2.size == 1 and is_definite is not False
    if is_below:
        # A penalty on a short column is lost beside a long one, unless both have unit length.
        below = jnp.sqrt(l2[0]) * jnp.eye(features, dtype=dtype)
        A, lengths = jnp.concatenate([A, below]), jnp.hypot(lengths, jnp.sqrt(l2[0]))
        l2 = jnp.zeros_like(l2)
    A, units = in_units(A, lengths, is_below | jnp.all(is_free))
    left, sizes, right = factors.svd(A if is_tall else A.T)
    vectors = right.T if is_tall else left
    basis = vectors / units[:, None]
    image = _product(X, basis)
    # What remains of a direction that X does not have is rounding.
    null = null_level(dtype, sizes.size)
    lengths = jnp.linalg.norm(scaled_rows(image * (unit / peak), root), axis=0)
    is_null = lengths <= null * jnp.max(lengths)
    squares = jnp.square(sizes)[:, None] + l2[None]
    is_without = is_null[:, None] & (is_free | (not is_tall))[None] | (squares == 0)
    gain = jnp.where(is_without, 0, 1 / jnp.where(is_without, 1, squares))
    return PseudoInverse(
        basis / unit,
        jnp.where(is_null[None], 0, image),
        jnp.where(jnp.min(l2) < 0, jnp.nan, gain),
        None if is_tall else (right.T, jnp.where(is_null[None], 0, vectors)),
        jnp.where(is_without, 1, l2[None] * gain),
        root,
        rest[None],
        jnp.sum(~is_null),
    )


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=HIGHEST)
