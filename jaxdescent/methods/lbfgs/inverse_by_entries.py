"""The inverse Hessian as a matrix, for so few unknowns that it is no larger than stored pairs.

After a move s that changed the gradient by y, with ``rho = 1 / s.y``,

    ``H <- (I - rho s y') t H (I - rho y s') + rho s s'``,   ``t = max(1, s.y / y.Hy)``,

starting from ``H = (s.y / y.y) I`` for the first pair. All moves count, not only the last few. The
factor t scales H up where it still reflects larger curvatures of earlier points; without it, narrow
curved valleys (chained Rosenbrock functions) take a third more steps.

References: Nocedal and Wright (2006), "Numerical optimization", equations 6.17 and 6.20; Al-Baali
(1998), "Numerical experience with a class of self-scaling quasi-Newton algorithms".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxdescent.methods.line_search import FoundStep
from jaxdescent.methods.line_searching import Line
from jaxdescent.numerics import precision
from jaxdescent.objectives import Params


class InverseByEntries(NamedTuple):
    """H on params that are flattened into one vector."""

    entries: jax.Array  # (n, n)
    is_known: jax.Array  # whether H contains a pair
    length: jax.Array  # the length of the last move
    image: jax.Array  # H g for the gradient after the last step, (n,)
    decrement: jax.Array  # g.Hg / 2, infinite without a pair
    curvature: jax.Array  # the largest y.y / s.y so far, halved in each step

    forgets = False  # no move is lost

    @classmethod
    def start(cls, gradient: Params, length: jax.Array) -> InverseByEntries:
        """The state without a pair; ``length`` is that of the first move."""
        size = sum(leaf.size for leaf in jax.tree.leaves(gradient))
        zero, infinite = jnp.zeros_like(length), jnp.full_like(length, jnp.inf)
        entries = jnp.zeros((size, size), length.dtype)
        return cls(entries, jnp.array(False), length, entries[0], infinite, zero)

    def line(self, gradient: Params, norm: jax.Array) -> Line:
        """The search along ``-H g``.

        Without pairs it is ``-g``, scaled to the length of the last move.
        """
        flat, unravel = ravel_pytree(gradient)
        plain = self.length / jnp.where(norm > 0, norm, 1) * flat
        direction = -jnp.where(self.is_known, self.image, plain)
        direction = unravel(direction.astype(flat.dtype))
        return Line(direction, precision.inner(gradient, direction), 1.0, ~self.is_known)

    def after(
        self, line: Line, found: FoundStep, gradient: Params, norms: tuple[jax.Array, jax.Array]
    ) -> InverseByEntries:
        """The state with the pair of the move that was found; H is dropped if none was."""
        new_gradient, dtype = found.point.gradient, self.entries.dtype
        move = found.step.astype(dtype) * ravel_pytree(line.direction)[0].astype(dtype)
        change = jax.tree.map(jnp.subtract, new_gradient, gradient)
        change = ravel_pytree(change)[0].astype(dtype)
        curvature, squared_move = jnp.sum(move * change), jnp.sum(jnp.square(move))
        squared_change = jnp.sum(jnp.square(change))
        eps = jnp.finfo(dtype).eps
        is_kept = curvature > eps * jnp.sqrt(squared_move) * jnp.sqrt(squared_change)
        rho = jnp.where(is_kept, 1 / jnp.where(is_kept, curvature, 1), 0)
        first = jnp.where(is_kept, curvature / jnp.where(is_kept, squared_change, 1), 0)
        identity = jnp.eye(move.size, dtype=dtype)
        old = jnp.where(self.is_known, self.entries, first * identity)
        image = _product(old, change)
        expected = jnp.sum(change * image)
        is_low = is_kept & (expected > 0) & (expected < curvature)
        growth = jnp.where(is_low, curvature / jnp.where(is_low, expected, 1), 1)
        # The update formula, with the terms in s collected.
        share = rho * (0.5 * (1 + rho * growth * expected) * move - growth * image)
        new = growth * old + move[:, None] * share[None, :] + share[:, None] * move[None, :]
        entries = jnp.where(is_kept, new, self.entries)
        is_known = found.is_accepted & (self.is_known | is_kept)
        return InverseByEntries(
            entries,
            is_known,
            length_of(squared_move, self.length),
            jnp.zeros_like(self.image),
            self.decrement,
            jnp.maximum(jnp.where(is_kept, squared_change * rho, 0), 0.5 * self.curvature),
        ).at(new_gradient, norms[1])

    def at(self, gradient: Params, norm: jax.Array) -> InverseByEntries:
        """The state with the same H and its product with another gradient."""
        flat = ravel_pytree(gradient)[0].astype(self.entries.dtype)
        image = _product(self.entries, flat)
        decrement = 0.5 * jnp.sum(flat * image)
        is_known = self.is_known & (decrement >= 0)
        return self._replace(image=image, decrement=jnp.where(is_known, decrement, jnp.inf))


def length_of(squared_move: jax.Array, last: jax.Array) -> jax.Array:
    """The length of a move from its square, or the last length if nothing moved.

    If the square overflows it is a large number within the dtype, for a line search to try first.
    """
    limits = jnp.finfo(squared_move.dtype)
    length = jnp.where(squared_move < jnp.inf, jnp.sqrt(squared_move), limits.max * limits.eps)
    return jnp.where(squared_move > 0, length, last)


def _product(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    # Written out: for so few numbers it takes less time than a library call, and XLA fuses it with
    # the surrounding operations.
    return jnp.sum(matrix * vector[None, :], axis=1)
