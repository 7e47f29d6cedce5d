"""What the columns of a small regression show of a claim: steps in all directions that the dtype
can tell apart, of which the best one is taken.

One step in the units of the columns sees what a diagonal scaling shows
(:mod:`jaxdescent.descent.refutation`). Where X is small and at hand, its singular vectors show the
rest, unless its columns are so independent that the gradient shows enough: with columns of unit
length, ``A = U S V'``, the step ``s = V_k S_k^-1 U_k' r`` along the
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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.designs import as_design
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import seldom
from jaxdescent.regression import LinearRegression
from jaxdescent.regression.solve import reserved

INDEPENDENT = 1e-3
"""An eigenvalue of the matrix of the columns' products, each of unit length, below which they are
taken apart: products of float32 show it to four digits."""

ULPS = 4.0
"""How many roundings each term of a sum is allowed."""


def is_small(regression: LinearRegression, estimates: bool = True) -> bool:
    """Whether the regression is small enough for it.

    Args:
      regression: any.
      estimates: whether the method has an estimate of its own. Where it has none, a claim rests on
        the rate of many steps, beside which singular vectors cost little in larger ones too.
    """
    outputs = int(np.prod(jnp.shape(regression.y)[1:]))
    return reserved.is_small(as_design(regression.X), regression.l2, outputs, estimates)


def largest_decrease(
    regression: LinearRegression, weights: jax.Array, lengths: jax.Array, allowed: jax.Array
) -> jax.Array:
    """By how much some step lowers the value for certain, (), summed over the outputs.

    It is zero where the columns are so far from dependent that the gradient alone shows that the
    value cannot fall by more than is allowed. It is for CPUs: on accelerators singular value
    decompositions take seconds to compile.

    Args:
      regression: a small one.
      weights: (features, outputs).
      lengths: (features,), of the columns as they are, and of the penalty's rows below them.
      allowed: by how much the value may be above the minimum.
    """
    # All kernels of a program are compiled one by one, and this is in the program of every descent
    # on a small regression: products with the columns and the residuals side by side need few.
    posed, unit = loops.one_turn(lambda: _posed(regression, weights, lengths))
    features = lengths.size
    products = jnp.matmul(posed.rows.T, posed.rows)
    allowed_here = allowed.astype(unit.dtype) / unit / unit
    is_confirmed = _most(products, features) <= allowed_here  # not where it is NaN
    fall = seldom(~is_confirmed, _fall, lambda *_: jnp.zeros((), unit.dtype), posed, products)
    return fall * unit * unit


class Posed(NamedTuple):
    """The problem without its intercept, in units in which all is at most one.

    Attributes:
      rows: (rows + features, features + outputs): A, weighted, centred and divided by the lengths,
        and the residuals beside it.
      moved: (outputs,), the size of the residuals' terms.
    """

    rows: jax.Array
    moved: jax.Array


def _posed(
    regression: LinearRegression, weights: jax.Array, lengths: jax.Array
) -> tuple[Posed, jax.Array]:
    """The problem, and the unit of its residuals, so that no square overflows."""
    dtype = weights.dtype
    X = as_design(regression.X).to_dense().astype(dtype)
    targets = jnp.asarray(regression.y, dtype).reshape(X.shape[0], -1)
    share = jnp.ones(X.shape[:1], dtype)
    if regression.sample_weight is not None:
        share = jnp.maximum(regression.sample_weight, 0).astype(dtype)
    root = jnp.sqrt(share)[:, None]
    peak = jnp.max(jnp.abs(targets))
    peak = jnp.where(peak > 0, peak, 1)
    aimed = peak * jnp.sqrt(jnp.matmul(share, jnp.square(targets / peak)))
    moved = jnp.matmul(lengths, jnp.abs(weights)) + aimed
    unit = jnp.max(moved)
    unit = jnp.where(unit > 0, unit, 1)
    scale = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 0)
    residual = (jnp.matmul(X, weights) - targets) / unit
    rows = jnp.concatenate([X * scale[None, :], residual], axis=1)
    # Twice, as the first mean is rounded.
    for _ in range(2 * regression.intercept):
        rows = rows - (jnp.matmul(share, rows) / jnp.sum(share))[None, :]
    penalty = jnp.sqrt(jnp.maximum(jnp.asarray(regression.l2, dtype), 0))
    below = penalty * jnp.concatenate([jnp.diag(scale), weights / unit], axis=1)
    return Posed(jnp.concatenate([root * rows, below]), moved / unit), unit


def _most(products: jax.Array, features: int) -> jax.Array:
    """No less than what the value can fall by, where no column nearly depends on others; else inf.

    ``|A'r|^2 / (2 t)`` with t below the least eigenvalue of A'A, which a Cholesky factor shows.
    """
    gram, gradient = products[:features, :features], products[:features, features:]
    shifted = gram - INDEPENDENT * jnp.eye(features, dtype=gram.dtype)
    factor = jnp.linalg.cholesky(shifted, symmetrize_input=False)
    bound = jnp.sum(jnp.square(gradient)) / (2 * INDEPENDENT)
    return jnp.where(jnp.isfinite(factor[-1, -1]), bound, jnp.inf)


def _fall(posed: Posed, products: jax.Array) -> jax.Array:
    """The certain decrease, summed over the outputs."""
    outputs = posed.moved.size
    features = posed.rows.shape[1] - outputs
    residual, squared = posed.rows[:, features:], jnp.diagonal(products)

    def of_unit_columns() -> tuple[jax.Array, jax.Array]:
        own = jnp.sqrt(jnp.where(squared > 0, squared, 1))[:features]
        return posed.rows[:, :features] / own[None, :], own

    scaled, own = loops.one_turn(of_unit_columns)
    parts = jnp.linalg.svd(scaled, full_matrices=False)
    steps = loops.one_turn(lambda: _steps(parts, residual) / own[:, None, None])
    # A is not stored beside the rows: a step along the residuals is zero.
    along_all = jnp.pad(steps, ((0, outputs), (0, 0), (0, 0)))
    images = jnp.tensordot(posed.rows, along_all, axes=1)
    sizes = jnp.sqrt(squared[features:])
    return loops.one_turn(lambda: _certain(steps, images, residual, sizes, posed.moved))


def _steps(parts: Any, residual: jax.Array) -> jax.Array:
    """One step for each number of singular values that are kept: down to a tenth of the largest, a
    hundredth, and so on, as far as the dtype tells them from rounding; (features, steps, outputs).
    """
    U, sizes, Vt = parts
    least = 16 * float(jnp.finfo(U.dtype).eps)
    decades = 10.0 ** -np.arange(1, int(-np.log10(least)) + 1)
    shares = jnp.asarray(np.append(decades, least), U.dtype)
    is_kept = sizes[None, :] > shares[:, None] * sizes[0]
    inverse = jnp.where(is_kept, 1 / jnp.where(sizes > 0, sizes, 1), 0)
    sought = inverse[:, :, None] * jnp.matmul(U.T, residual)[None]
    return jnp.tensordot(Vt.T, sought, axes=([1], [1]))


def _certain(
    steps: jax.Array, images: jax.Array, residual: jax.Array, sizes: jax.Array, moved: jax.Array
) -> jax.Array:
    """What the best of the steps lowers the value by for certain, summed over the outputs.

    Args:
      steps: (features, steps, outputs), in units of the columns.
      images: (rows, steps, outputs), their products with A.
      residual: (rows, outputs).
      sizes: (outputs,), the norms of the residuals.
      moved: (outputs,), the size of their terms.
    """
    eps = ULPS * float(jnp.finfo(images.dtype).eps)
    both = jnp.concatenate([images * residual[:, None, :], jnp.square(images)], axis=1)
    inner, square = jnp.split(jnp.sum(both, axis=0), 2)
    length = jnp.sqrt(square)
    # The columns of A were divided by their lengths: each is one, means included.
    rounding = eps * jnp.sum(jnp.abs(steps), axis=0)
    lost = sizes[None, :] * (rounding + eps * float(len(images)) ** 0.5 * length)
    shares = (inner - lost) / (length + rounding) - eps * moved[None, :]
    falls = jnp.where(jnp.isfinite(shares), jnp.maximum(shares, 0), 0)
    return 0.5 * jnp.sum(jnp.square(jnp.max(falls, axis=0)))
