"""A sum of squares over a pytree of any size: the separable case."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent import precision
from jaxdescent.objectives.protocol import Bounds, Objective, Params
from jaxdescent.objectives.stationary import DiagonalSolver


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SumOfSquares(Objective):
    """``sum(scale * (x - center)**2)`` over all elements of a pytree.

    The Hessian is diagonal, ``2 * scale``: the unknowns do not influence each other, and any
    number of them can be solved for one by one.

    Args:
      scale: a number, or a pytree with the structure of the params whose leaves broadcast
        against theirs.
      center: likewise; the minimiser where ``scale > 0``.

    >>> import jax.numpy as jnp
    >>> SumOfSquares(scale=2.0).value(jnp.array([3.0]))
    Array(18., dtype=float32)
    """

    scale: Any = 1.0
    center: Any = 0.0

    def value(self, params: Params) -> jax.Array:
        def leaf_value(x: jax.Array, scale: jax.Array, center: jax.Array) -> jax.Array:
            return precision.total(scale * jnp.square(x - center))

        parts = jax.tree.leaves(self._map(leaf_value, params))
        return precision.add(parts)

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        return self.value(params), self.gradient(params)

    def gradient(self, params: Params) -> Params:
        return self._map(lambda x, scale, center: 2 * scale * (x - center), params)

    def hessian_product(self, params: Params, direction: Params) -> Params:
        del params
        return self._map(lambda d, scale, center: 2 * scale * d, direction)

    def curvature_bounds(self, params: Params) -> Bounds:
        del params
        scales = [jnp.asarray(scale) for scale in jax.tree.leaves(self.scale)]
        lower = jnp.min(jnp.stack([jnp.min(scale) for scale in scales]))
        upper = jnp.max(jnp.stack([jnp.max(scale) for scale in scales]))
        return Bounds(2 * lower, 2 * upper)

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_quadratic(self) -> bool:
        return True

    def stationary_solver(self, params: Params) -> DiagonalSolver:
        del params
        return DiagonalSolver()

    def stationary_solver_bytes(self, params: Params) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(params))

    def check_params(self, params: Params) -> None:
        for name in ("scale", "center"):
            _check_broadcast(name, getattr(self, name), params)

    def _map(self, function: Any, params: Params) -> Any:
        leaves, treedef = jax.tree.flatten(params)
        scales = _leaves_like(self.scale, leaves)
        centers = _leaves_like(self.center, leaves)
        return treedef.unflatten(
            [
                function(x, jnp.asarray(scale, x.dtype), jnp.asarray(center, x.dtype))
                for x, scale, center in zip(leaves, scales, centers, strict=True)
            ]
        )


def _leaves_like(value: Any, leaves: list[Any]) -> list[Any]:
    """One entry for each leaf: the same scalar for all, or the leaves of a pytree."""
    entries = jax.tree.leaves(value)
    is_scalar = len(entries) == 1 and jnp.ndim(entries[0]) == 0
    return entries * len(leaves) if is_scalar else entries


def _check_broadcast(name: str, value: Any, params: Params) -> None:
    entries = jax.tree.leaves(value)
    if len(entries) == 1 and jnp.ndim(entries[0]) == 0:
        return
    if jax.tree.structure(value) != jax.tree.structure(params):
        raise ValueError(
            f"SumOfSquares.{name} must be a number or have the structure of params, "
            f"{jax.tree.structure(params)}, got {jax.tree.structure(value)}."
        )
    for (path, leaf), entry in zip(jax.tree.leaves_with_path(params), entries, strict=True):
        shape = jnp.shape(entry)
        try:
            fits = jnp.broadcast_shapes(shape, leaf.shape) == leaf.shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"SumOfSquares.{name}{jax.tree_util.keystr(path)} has shape {shape}, which does "
                f"not broadcast to the params' {leaf.shape}."
            )
