"""Least squares with a regression's matrix by conjugate gradients, for derivatives of the solution
where the matrix is too large to be factorised, or its rank is deficient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.designs import as_design
from jaxdescent.kernels import loops
from jaxdescent.numerics.linear_systems import add_scaled, inverse, scaled
from jaxdescent.regression.linear_model import scaled_rows
from jaxdescent.regression.solve.centred import columns
from jaxdescent.regression.solve.pseudo_inverse import lengths_of

Vectors = Any
"""An array with a column for each output, or several."""

TURNS, MOST_TURNS = 100, 10_000
"""The most turns of conjugate gradients for each unknown, and in all. In float32 a condition number
of 6,000 and evenly spread singular values take up to a hundred for each."""

ROUNDING = 16
"""The rounding of a computed gradient, in eps times the sizes of the numbers that it is made of."""


class ByConjugateGradients(NamedTuple):
    """Solutions for ``B = sqrt(S) X``, or for its transpose.

    With the penalty below B, ``A = [B; sqrt(l2) I]`` in units of its columns, the solution for f
    and g is ``A^+ ((f, 0) - (A')^+ g)``. Both factors solve a least-squares problem with A itself,
    whose error is eps times the condition number of A, and of a residual that times the square;
    with the normal matrix the whole error would be the square.
    Where the rank is deficient the solution has least norm in units of the columns.
    """

    regression: Any
    root: jax.Array | None  # of the weights of the rows
    lengths: jax.Array  # of the features, zero where a feature is constant
    penalty: jax.Array  # sqrt(l2), (1, outputs) or (1, 1)
    is_wide: bool  # whether B is the transpose
    units: jax.Array  # of the columns of A, (columns, outputs), or one row for all columns

    def solve(self, f: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As in :data:`~jaxdescent.regression.solve.pseudo_inverse.Solve`."""
        design = as_design(self.regression.X)
        size = design.shape[0] * design.shape[1] * f.dtype.itemsize
        above, _ = least_squares(
            self._pulled, self._image, self.units * g, like=(f, g), turn_bytes=size
        )
        known = f - above[0], -above[1]
        x, left = least_squares(self._image, self._pulled, known, like=g, turn_bytes=size)
        return self.units * x, known[0] - left[0]

    def _image(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``A x``."""
        x = self.units * x
        image = self._of_rows(x) if self.is_wide else self._of_features(x)
        return image, self.penalty * x

    def _pulled(self, pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        """``A' (p, r)``."""
        p, r = pair
        pulled = self._of_features(p) if self.is_wide else self._of_rows(p)
        return self.units * (pulled + self.penalty * r)

    def _of_features(self, weights: jax.Array) -> jax.Array:
        """``sqrt(S) X w``."""
        weights = jnp.where(self.lengths[:, None] == 0, 0, weights)
        product = as_design(self.regression.X).product
        return scaled_rows(columns(product(self._shaped(weights))), self.root)

    def _of_rows(self, rows: jax.Array) -> jax.Array:
        """``X' sqrt(S) q``."""
        pulled = as_design(self.regression.X).transposed_product
        weights = columns(pulled(self._shaped(scaled_rows(rows, self.root))))
        return jnp.where(self.lengths[:, None] == 0, 0, weights)

    def _shaped(self, array: jax.Array) -> jax.Array:
        return array.reshape(-1, *jnp.shape(self.regression.y)[1:])


def by_conjugate_gradients(regression: Any, *, dtype: Any, is_wide: bool) -> ByConjugateGradients:
    """The solver for a regression without an intercept; any design is X."""
    design, weight = as_design(regression.X), regression.sample_weight
    lengths = lengths_of(design, weight)
    lengths = jnp.ones(design.shape[1], dtype) if lengths is None else lengths.astype(dtype)
    root = None if weight is None else jnp.sqrt(weight.astype(dtype))
    penalty = jnp.sqrt(jnp.atleast_1d(jnp.asarray(regression.l2, dtype)))[None]
    sizes = jnp.hypot(jnp.max(lengths) if is_wide else lengths[:, None], penalty)
    return ByConjugateGradients(regression, root, lengths, penalty, is_wide, inverse(sizes))


def least_squares(
    product: Callable[[Vectors], Vectors],
    transposed: Callable[[Vectors], Vectors],
    known: Vectors,
    *,
    like: Vectors,
    turn_bytes: int,
) -> tuple[Vectors, Vectors]:
    """The x of least norm that minimises ``|b - A x|^2`` for each output, and ``b - A x``, by
    conjugate gradients on the normal equations in the form that keeps the residual.

    An output is done where ``A'(b - A x)`` is the rounding of its computation, ``eps |A| |b - Ax|``
    or ``eps^2 |A| (|A| |x| + |b|)``, or where a turn would make the residual longer: it has none
    but rounding errors left then. What is not done after :data:`TURNS` for each unknown is NaN.

    Args:
      product: ``A x``.
      transposed: ``A'r``.
      known: b.
      like: an array, or several, in the shape of x.
      turn_bytes: about how many bytes the two products read.

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
