"""The inverse Hessian that the last moves and gradient changes imply, in limited memory.

Let the rows of S and Y be the pairs (s, y), let R be the upper triangle of ``S Y'`` in order of
age, D its diagonal, and ``gamma = s.y / y.y`` for the newest pair. The compact form is

    p = R^-1 S g,   q = R^-T (D p + gamma (Y Y' p - Y g)),   H g = gamma g + S' q - gamma Y' p.

In exact arithmetic it equals the two-loop recursion, which optax's ``scale_by_lbfgs`` uses. The
recursion goes through the pairs one after another, with forty dependent products; here a direction
takes one product of the stored rows with three vectors and one with their coefficients. Pairs are
stored in a ring and never move. ``R^-T`` is kept instead of R: a new pair replaces the row and
column of the oldest one by a row ``-R^-1 (S y) / s.y``, whatever the order in memory.

Reference: Byrd, Nocedal and Schnabel (1994), "Representations of quasi-Newton matrices and their
use in limited memory methods".
"""

from __future__ import annotations

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels import dtypes, loops
from jaxdescent.kernels.platform import kept_apart
from jaxdescent.methods.line_search import FoundStep
from jaxdescent.numerics import precision
from jaxdescent.objectives import Params

FEW_SUMMED, FEW_COMBINED = 16, 128
"""The most unknowns of a leaf for which inner products with the stored rows, and combinations of
the rows, take a CPU less time written out than as matrix products."""


class InverseHessian(NamedTuple):
    """A ring of ``memory`` pairs, and the coefficients of ``H g`` for the last gradient."""

    pairs: Params  # (2 memory, *shape) for each leaf: the moves, then the gradient's changes
    inverse: jax.Array  # R^-T, in the order of the ring's slots
    changes: jax.Array  # Y Y'
    products: jax.Array  # s.y of each pair
    scale: jax.Array  # gamma, zero without any pair
    newest: jax.Array  # the slot of the last step's pair
    length: jax.Array  # the length of the last move
    coefficients: jax.Array  # the coefficients of the stored rows in H g
    decrement: jax.Array  # g.Hg / 2, infinite without any pair
    curvature: jax.Array  # the largest y.y / s.y of the pairs, halved for each step of age

    @classmethod
    def start(cls, gradient: Params, length: jax.Array, memory: int) -> InverseHessian:
        """The state without a pair; ``length`` is that of the first move."""
        zeros = jnp.zeros((memory, memory), length.dtype)
        return cls(
            jax.tree.map(lambda g: jnp.zeros((2 * memory, *g.shape), g.dtype), gradient),
            zeros,
            zeros,
            zeros[0],
            zeros[0, 0],
            jnp.zeros((), jnp.int32),
            length,
            jnp.zeros((2 * memory,), length.dtype),
            jnp.full((), jnp.inf, length.dtype),
            zeros[0, 0],
        )

    def direction(self, gradient: Params, norm: jax.Array) -> tuple[Params, jax.Array, jax.Array]:
        """``-H g``, the slope along it, and whether there are no pairs: then it is ``-g``, with the
        length of the last move.
        """
        has_pairs = self.scale > 0
        scale = jnp.where(has_pairs, self.scale, self.length / jnp.where(norm > 0, norm, 1))
        direction = jax.tree.map(
            lambda g, rows: (
                -scale.astype(g.dtype) * g - _combination(self.coefficients.astype(g.dtype), rows)
            ),
            gradient,
            self.pairs,
        )
        return direction, precision.inner(gradient, direction), ~has_pairs

    def after(
        self, direction: Params, found: FoundStep, gradient: Params, new_norm: jax.Array
    ) -> InverseHessian:
        """The state with the pair of the move that was found; all pairs are dropped if none was."""
        step, new_gradient, has_moved = found.step, found.point.gradient, found.is_accepted
        memory, dtype = self.products.shape[0], self.inverse.dtype
        newest = (self.newest + 1) % memory
        move = jax.tree.map(lambda d: step.astype(d.dtype) * d, direction)
        change = jax.tree.map(jnp.subtract, new_gradient, gradient)

        def products(vector: Params) -> jax.Array:
            known = _products(self.pairs, vector, dtype)
            known = known.at[newest].set(precision.inner(move, vector).astype(dtype))
            return known.at[newest + memory].set(precision.inner(change, vector).astype(dtype))

        with_gradient, with_change = products(new_gradient), products(change)
        squared = precision.squared_norm(move).astype(dtype)
        # The write over the oldest pair is made to depend on these products, so that they are
        # computed first: in the other order XLA would copy all rows.
        is_usable = jnp.isfinite(jnp.sum(with_gradient) + jnp.sum(with_change))
        # A pair whose products overflow is one of zeros: of infinity even no share would be NaN.
        step, with_gradient, with_change = (
            jnp.where(is_usable, each, 0) for each in (step, with_gradient, with_change)
        )
        change = jax.tree.map(lambda leaf: jnp.where(is_usable, leaf, 0), change)

        def store(rows: jax.Array, d: jax.Array, change: jax.Array) -> jax.Array:
            # An elementwise select works in place, even if the descent keeps the old state instead.
            index = lax.broadcasted_iota(jnp.int32, (rows.shape[0],) + (1,) * d.ndim, 0)
            rows = jnp.where(index == newest, (step.astype(d.dtype) * d)[None], rows)
            return jnp.where(index == newest + memory, change[None], rows)

        stored = self._replace(
            pairs=jax.tree.map(store, self.pairs, direction, change),
            inverse=jnp.where(has_moved, self.inverse, 0),
            products=jnp.where(has_moved, self.products, 0),
            scale=jnp.where(has_moved, self.scale, 0),
            newest=newest,
        )
        small = stored._replace(pairs=())
        small = loops.one_turn(
            lambda: small._with_products(with_gradient, with_change, squared, new_norm)
        )
        return small._replace(pairs=stored.pairs)

    def at(self, gradient: Params, norm: jax.Array) -> InverseHessian:
        """These pairs, with the coefficients of ``H g`` for another gradient."""
        memory, dtype = self.products.shape[0], self.inverse.dtype
        squared = precision.squared_norm(jax.tree.map(lambda rows: rows[self.newest], self.pairs))
        last = jax.tree.map(lambda rows: rows[self.newest + memory], self.pairs)
        with_gradient = _products(self.pairs, gradient, dtype)
        with_change = _products(self.pairs, last, dtype)
        return self._with_products(with_gradient, with_change, squared.astype(dtype), norm)

    def _with_products(
        self, with_gradient: jax.Array, with_change: jax.Array, move: jax.Array, norm: jax.Array
    ) -> InverseHessian:
        """The state with the newest pair in the small matrices, and the coefficients of ``H g``.

        ``with_gradient`` and ``with_change`` are the inner products of all rows with the gradient
        and with the newest pair's change; ``move`` is the squared norm of its move.
        """
        newest, dtype = self.newest, self.inverse.dtype
        memory = self.products.shape[0]
        curvature, change = with_change[newest], with_change[newest + memory]
        eps = jnp.finfo(dtype).eps
        is_kept = curvature > eps * jnp.sqrt(move) * jnp.sqrt(change)
        inverse_curvature = jnp.where(is_kept, 1 / jnp.where(is_kept, curvature, 1), 0)

        scale = jnp.where(is_kept, curvature / jnp.where(is_kept, change, 1), self.scale)
        length = _length_of(move, self.length)
        # XLA for CPUs would compute an operand anew for each entry that uses it; behind a barrier
        # it is computed once.
        inverse_curvature, scale, with_gradient, with_change = kept_apart(
            (inverse_curvature, scale, with_gradient, with_change)
        )

        # The newest pair's row and column replace those of the oldest pair, whose slot it takes.
        slots = jnp.arange(memory, dtype=newest.dtype)
        is_newest = slots == newest
        is_row, is_column = is_newest[:, None], is_newest[None, :]
        old = kept_apart(jnp.where(is_row | is_column, 0, self.inverse))
        column = -inverse_curvature * _transposed_product(old, with_change[:memory])
        column = kept_apart(jnp.where(is_newest, inverse_curvature, column))
        inverse = jnp.where(is_row, column[None, :], old)
        dots = jnp.where(is_row, with_change[None, memory:], self.changes)
        dots = jnp.where(is_column, with_change[memory:, None], dots)
        kept = jnp.where(is_newest, curvature, self.products)
        inverse, dots, kept = kept_apart((inverse, dots, kept))

        p = _transposed_product(inverse, with_gradient[:memory])
        q = kept * p + scale * (_transposed_product(dots, p) - with_gradient[memory:])
        q = _transposed_product(inverse.T, q)
        coefficients = jnp.concatenate([q, -scale * p])
        decrement = scale * norm * norm + jnp.sum(coefficients * with_gradient)
        has_pairs = (scale > 0) & (decrement >= 0)
        is_pair = kept > 0
        curvatures = jnp.where(is_pair, jnp.diagonal(dots) / jnp.where(is_pair, kept, 1), 0)
        # Curvatures seen far from here count less: half for each step.
        age = jnp.mod(newest - slots, memory).astype(dtype)
        curvatures = curvatures * jnp.exp2(-age)
        return self._replace(
            inverse=inverse,
            changes=dots,
            products=kept,
            scale=scale,
            length=length,
            coefficients=coefficients,
            decrement=jnp.where(has_pairs, 0.5 * decrement, jnp.inf),
            curvature=jnp.max(curvatures),
        )


def _length_of(squared_move: jax.Array, last: jax.Array) -> jax.Array:
    """The length of a move from its square, or the last length if nothing moved.

    If the square overflows it is a large number within the dtype, for a line search to try first.
    """
    limits = jnp.finfo(squared_move.dtype)
    length = jnp.where(squared_move < jnp.inf, jnp.sqrt(squared_move), limits.max * limits.eps)
    return jnp.where(squared_move > 0, length, last)


def _transposed_product(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.sum(matrix * vector[:, None], axis=0)


def _products(rows: Params, vector: Params, dtype: Any) -> jax.Array:
    """The inner products of every row with a vector."""

    def of_leaf(rows: jax.Array, leaf: jax.Array) -> jax.Array:
        axes = (tuple(range(1, rows.ndim)), tuple(range(leaf.ndim)))
        if leaf.size <= FEW_SUMMED:
            return jnp.sum(rows * leaf[None], axis=axes[0])
        return lax.dot_general(rows, leaf, (axes, ((), ())), precision=dtypes.HIGHEST)

    by_leaf = jax.tree.map(of_leaf, rows, vector)
    return functools.reduce(operator.add, [p.astype(dtype) for p in jax.tree.leaves(by_leaf)])


def _combination(coefficients: jax.Array, rows: jax.Array) -> jax.Array:
    """The sum of the rows, each times its coefficient."""
    if rows[0].size <= FEW_COMBINED:
        return jnp.sum(coefficients.reshape(-1, *[1] * (rows.ndim - 1)) * rows, axis=0)
    contraction = (((0,), (0,)), ((), ()))
    return lax.dot_general(coefficients, rows, contraction, precision=dtypes.HIGHEST)
