"""What the columns of a small regression show of a claim: steps in all directions that the dtype
can tell apart, of which the best one is taken.

One step in the units of the columns sees what a diagonal scaling shows
(:mod:`jaxdescent.descent.refutation`). Where X is small and at hand, its singular vectors show the
rest: with columns of unit length, ``A = U S V'``, the step ``s = V_k S_k^-1 U_k' r`` along the
largest k of them removes all of the residual r that they span. Any step s lowers the value by
``a^2 / 2`` with

    ``a = r.A s / |A s|``,

so that it does not matter how the singular vectors were computed. What rounding does to A s is
bounded by e, ``4 eps`` times the lengths of its terms, and to r by d likewise; the decrease is
certain with

    ``a = (r.A s - |r| e) / (|A s| + e) - d``.

Nearly equal columns have large terms that cancel in A s: their directions then show nothing.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.designs import as_design
from jaxdescent.kernels.platform import on_cpu
from jaxdescent.regression import LinearRegression

MOST_ENTRIES, MOST_FEATURES = 1 << 18, 64
"""Of X, for each output: its singular values then take some milliseconds."""

ULPS = 4.0
"""How many roundings each term of a sum is allowed."""


def is_small(regression: LinearRegression) -> bool:
    """Whether X is stored and so small that its singular vectors cost next to nothing, even where
    its rows are gathered from several devices.
    """
    design = as_design(regression.X)
    rows, features = design.shape
    outputs = max(int(np.prod(jnp.shape(regression.y)[1:])), 1)
    is_within = features <= MOST_FEATURES and (rows + features) * features * outputs <= MOST_ENTRIES
    return design.is_stored and is_within


def largest_decrease(regression: LinearRegression, weights: jax.Array) -> jax.Array:
    """By how much some step lowers the value for certain, (), summed over the outputs.

    It is zero on accelerators, where singular value decompositions take seconds to compile.

    Args:
      regression: a small one.
      weights: (features, outputs).
    """

    def taken_apart() -> jax.Array:
        outputs = weights.shape[1]
        targets = jnp.asarray(regression.y, weights.dtype).reshape(-1, outputs)
        penalty = jnp.broadcast_to(jnp.asarray(regression.l2, weights.dtype), (outputs,))
        root = jnp.sqrt(jnp.maximum(penalty, 0))
        design = as_design(regression.X)
        X = design.to_dense().astype(weights.dtype)
        share = jnp.ones(design.shape[:1], weights.dtype)
        if regression.sample_weight is not None:
            share = jnp.maximum(regression.sample_weight, 0).astype(weights.dtype)
        fall = functools.partial(_fall, X, share, has_intercept=bool(regression.intercept))
        return jnp.sum(jax.vmap(fall, in_axes=(1, 1, 0))(targets, weights, root))

    return on_cpu(taken_apart, lambda: jnp.zeros((), weights.dtype))


def _fall(
    X: jax.Array,
    share: jax.Array,
    target: jax.Array,
    weights: jax.Array,
    penalty: jax.Array,
    *,
    has_intercept: bool,
) -> jax.Array:
    """Of one output; ``penalty`` is the root of ``l2``, whose rows stand below those of X."""
    rows, features = X.shape
    limits = jnp.finfo(X.dtype)
    root, total = jnp.sqrt(share), jnp.sum(share)

    def centred(columns: jax.Array) -> jax.Array:
        # Twice, as the first mean is rounded.
        for _ in range(2 * has_intercept):
            columns = columns - (jnp.matmul(share, columns) / total)[None, :]
        return root[:, None] * columns

    below = jnp.diag(jnp.full(features, penalty))
    lengths = _lengths(jnp.concatenate([root[:, None] * X, below]))
    A = jnp.concatenate([centred(X), below])
    own = _lengths(A)
    own = jnp.where(own > 0, own, 1)
    U, sizes, Vt = jnp.linalg.svd(A / own[None, :], full_matrices=False)
    off = centred((jnp.matmul(X, weights) - target)[:, None])[:, 0]
    residual = jnp.concatenate([off, penalty * weights])
    moved = jnp.sum(lengths * jnp.abs(weights)) + _lengths((root * target)[:, None])[0]

    # One step for each number of singular values that are kept: down to a tenth of the largest,
    # a hundredth, and so on, as far as the dtype tells them from rounding.
    decades = np.arange(1, int(-np.log10(16 * float(limits.eps))) + 1)
    least = jnp.asarray(np.append(10.0**-decades, 16 * float(limits.eps)), X.dtype) * sizes[0]
    is_kept = sizes[None, :] > jnp.maximum(least, 0)[:, None]
    sought = jnp.where(is_kept, jnp.matmul(residual, U) / jnp.where(sizes > 0, sizes, 1), 0)
    steps = jnp.matmul(sought, Vt).T / own[:, None]  # (features, steps)
    images = jnp.concatenate([centred(jnp.matmul(X, steps)), penalty * steps])

    eps = ULPS * float(limits.eps)
    size, along = _lengths(residual[:, None])[0], _lengths(images)
    unit = residual / jnp.where(size > 0, size, 1)
    inner = jnp.matmul(unit, images)  # of |r|
    rounding = eps * jnp.matmul(lengths, jnp.abs(steps)) + eps * float(rows) ** 0.5 * along
    is_known = (along > 0) & jnp.isfinite(along) & jnp.isfinite(rounding)
    shares = (inner - rounding) / jnp.where(is_known, along + rounding, 1)
    falls = jnp.where(is_known & jnp.isfinite(shares), size * shares - eps * moved, 0)
    return 0.5 * jnp.square(jnp.max(jnp.maximum(falls, 0)))


def _lengths(columns: jax.Array) -> jax.Array:
    """The norm of each column, also where its square would overflow or underflow."""
    peak = jnp.max(jnp.abs(columns), axis=0, keepdims=True)
    peak = jnp.where(peak > 0, peak, 1)
    return peak[0] * jnp.sqrt(jnp.sum(jnp.square(columns / peak), axis=0))
