"""Least squares with a regression's matrix by conjugate gradients, for derivatives of the solution
where the matrix is too large to be factorised, or its rank is deficient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs import as_design
from jaxdescent.kernels import loops
from jaxdescent.numerics.linear_systems import add_scaled, inverse, scaled
from jaxdescent.regression.linear_model import scaled_rows
from jaxdescent.regression.solve.centred import columns
from jaxdescent.regression.solve.pseudo_inverse import Solve

Vectors = Any
"""An array with a column for each output, or several."""

TURNS, MOST_TURNS = 100, 10_000
"""The most turns of conjugate gradients for each unknown, and in all. In float32 a condition number
of 6,000 and evenly spread singular values take up to a hundred for each."""

ROUNDING = 16
"""The rounding of a computed gradient, in eps times the sizes of the numbers that it is made of."""


def by_conjugate_gradients(
    regression: Any, lengths: jax.Array | None, *, dtype: Any, is_wide: bool
) -> Solve:
    """Solutions for ``B = sqrt(S) X`` of a regression without an intercept, where any design is X;
    for the transpose of B if it ``is_wide``. The ``lengths`` are those of X's columns, if known.

    With the penalty below B, ``A = [B; sqrt(l2) I]`` in units of its columns, the solution for f
    and g is ``A^+ ((f, 0) - (A')^+ g)``. Both factors solve a least-squares problem with A itself,
    whose error is eps times the condition number of A, and of a residual that times the square;
    with the normal matrix the whole error would be the square.
    Where the rank is deficient the solution has least norm in units of the columns.
    """
    design, weight = as_design(regression.X), regression.sample_weight
    lengths = jnp.ones(design.shape[1], dtype) if lengths is None else lengths.astype(dtype)
    is_constant = lengths[:, None] == 0
    root = None if weight is None else jnp.sqrt(weight.astype(dtype))
    penalty = jnp.sqrt(jnp.atleast_1d(jnp.asarray(regression.l2, dtype)))[None]
    # Of the columns of A, (columns, outputs), or one row for all columns.
    units = inverse(jnp.hypot(jnp.max(lengths) if is_wide else lengths[:, None], penalty))
    size = design.shape[0] * design.shape[1] * jnp.dtype(dtype).itemsize

    def shaped(array: jax.Array) -> jax.Array:
        return array.reshape(-1, *jnp.shape(regression.y)[1:])

    def of_features(weights: jax.Array) -> jax.Array:  # sqrt(S) X w
        product = design.product(shaped(jnp.where(is_constant, 0, weights)))
        return scaled_rows(columns(product), root)

    def of_rows(rows: jax.Array) -> jax.Array:  # X' sqrt(S) q
        pulled = design.transposed_product(shaped(scaled_rows(rows, root)))
        return jnp.where(is_constant, 0, columns(pulled))

    def image(x: jax.Array) -> tuple[jax.Array, jax.Array]:  # A x
        x = units * x
        return of_rows(x) if is_wide else of_features(x), penalty * x

    def pulled(pair: tuple[jax.Array, jax.Array]) -> jax.Array:  # A' (p, r)
        p, r = pair
        return units * ((of_features(p) if is_wide else of_rows(p)) + penalty * r)

    def solve(f: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        above, _ = least_squares(pulled, image, units * g, like=(f, g), turn_bytes=size)
        known = f - above[0], -above[1]
        x, left = least_squares(image, pulled, known, like=g, turn_bytes=size)
        return units * x, known[0] - left[0]

    return solve


def least_squares(
    product: Callable[[Vectors], Vectors],
    transposed: Callable[[Vectors], Vectors],
    known: Vectors,
    *,
    like: Vectors,
    turn_bytes: int,
) -> tuple[Vectors, Vectors]:
    """The x of least norm, ``like`` an array or several, that minimises ``|b - A x|^2`` for each
    output of the ``known`` b, and ``b - A x``, by conjugate gradients on the normal equations in
    the form that keeps the residual. A is known by its ``product`` and that with its transpose.

    An output is done where ``A'(b - A x)`` is the rounding of its computation, ``eps |A| |b - Ax|``
    or ``eps^2 |A| (|A| |x| + |b|)``, or where a turn would make the residual longer: it has none
    but rounding errors left then. What is not done after :data:`TURNS` for each unknown is NaN.
    The two products read about ``turn_bytes``.

    Reference: Björck (1996), "Numerical Methods for Least Squares Problems", section 7.4.
    """
    eps = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(known))).eps)
    limit = min(TURNS * sum(len(leaf) for leaf in jax.tree.leaves(like)), MOST_TURNS)
    # In units of |b| no square of an entry overflows or underflows.
    length = _length(known)
    known = scaled(inverse(length), known)

    def turn(carry: Any) -> Any:
        x, left, direction, slope, size, on, count = carry
        image = product(direction)
        step, own = _length(image), _length(direction)
        size = jnp.maximum(size, step * inverse(own))
        step = jnp.where(on, jnp.square(slope * inverse(step)), 0)
        new_left = add_scaled(left, -step, image)
        least = eps * (size * _length(x) + 1)
        longest = _length(left) + ROUNDING * eps * jnp.maximum(_length(left), least)
        on = on & (_length(new_left) <= longest)
        x = add_scaled(x, jnp.where(on, step, 0), direction)
        left = jax.tree.map(lambda new, old: jnp.where(on, new, old), new_left, left)
        gradient = transposed(left)
        new = _length(gradient)
        direction = add_scaled(gradient, jnp.square(new * inverse(slope)), direction)
        on = on & (new > ROUNDING * eps * size * jnp.maximum(_length(left), least))
        return x, left, direction, new, size, on, count + 1

    zeros = jax.tree.map(jnp.zeros_like, like)
    gradient = transposed(known)
    slope = _length(gradient)
    carry = zeros, known, gradient, slope, slope, slope > 0, jnp.zeros((), jnp.int32)
    x, left, *_, on, _ = loops.while_loop(
        lambda carry: jnp.any(carry[-2]) & (carry[-1] < limit), turn, carry, turn_bytes=turn_bytes
    )
    # A comparison with NaN ends the loop before the first turn. An output that is not done at the
    # limit has no solution.
    length = jnp.where(jnp.isfinite(length * slope) & ~on, length, jnp.nan)
    return scaled(length, x), scaled(length, left)


def _length(vectors: Vectors) -> jax.Array:
    """The norm of each output, (1, outputs)."""
    squares = (jnp.sum(jnp.square(leaf), axis=0) for leaf in jax.tree.leaves(vectors))
    return jnp.sqrt(sum(squares))[None]
