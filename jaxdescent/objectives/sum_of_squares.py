"""A sum of squares over a pytree of any size, the basic separable objective."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.kernels import dtypes
from jaxdescent.numerics import precision
from jaxdescent.objectives.answers import Bounds
from jaxdescent.objectives.protocol import Objective, Params, Scalars
from jaxdescent.objectives.stationary import DiagonalSolver


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SumOfSquares(Objective):
    """``sum(scale * (x - center)**2)`` over all elements of a pytree.

    The Hessian is diagonal, ``2 * scale``: the unknowns do not influence each other, and each can
    be solved for by itself.

    Args:
      scale: a number, or a pytree with the structure of the params whose leaves broadcast
        against the params' leaves.
      center: likewise; it is the minimiser where ``scale > 0``.

    Raises:
      ValueError: by ``minimize``, if ``scale`` or ``center`` has neither the params' structure nor
        a shape that broadcasts against theirs.

    >>> import jax.numpy as jnp
    >>> SumOfSquares(scale=2.0).value(jnp.array([3.0]))
    Array(18., dtype=float32)
    """

    scale: Any = 1.0
    center: Any = 0.0

    def __post_init__(self) -> None:
        # A center of exactly zero becomes part of the structure, which saves a subtraction.
        if isinstance(self.center, (int, float)) and self.center == 0:
            object.__setattr__(self, "center", None)

    def value(self, params: Params) -> jax.Array:
        parts = self._map(lambda x, scale, e: precision.total(scale * jnp.square(e)), params)
        return precision.add(jax.tree.leaves(parts))

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        return self.value(params), self.gradient(params)

    def value_and_squared_norm(self, params: Params) -> Scalars:
        def sums(x: jax.Array, scale: jax.Array, e: jax.Array) -> Scalars:
            if scale.ndim:
                terms = scale * jnp.square(e)
                return precision.total(terms), precision.total(4 * scale * terms)
            squares = precision.total(jnp.square(e))  # one pass serves both sums
            return scale * squares, 4 * scale * scale * squares

        parts = jax.tree.structure(params).flatten_up_to(self._map(sums, params))
        return tuple(precision.add(list(scalars)) for scalars in zip(*parts, strict=True))

    def blocks(self, params: Params) -> list[Objective] | None:
        leaves = jax.tree.leaves(params)
        if len(leaves) == 1:
            return None
        scales = _leaves_like(self.scale, leaves)
        centers = _leaves_like(self.center, leaves)
        return [SumOfSquares(*fields) for fields in zip(scales, centers, strict=True)]

    def gradient(self, params: Params) -> Params:
        return self._map(lambda x, scale, e: 2 * scale * e, params)

    def gradient_step(self, params: Params, gradient: Params, rate: Any) -> Params:
        # One multiply-add in each step instead of two or three operations: in many steps on the
        # same element these form a chain in which each waits for the one before.
        return self._map(
            lambda x, scale, e: x - (2 * scale * jnp.asarray(rate, x.dtype)) * e, params
        )

    def hessian_product(self, params: Params, direction: Params) -> Params:
        return SumOfSquares(self.scale, None).gradient(direction)

    def curvature_bounds(self, params: Params) -> Bounds:
        scales = [jnp.asarray(scale) for scale in jax.tree.leaves(self.scale)]
        lower = jnp.min(jnp.stack([jnp.min(scale) for scale in scales]))
        upper = jnp.max(jnp.stack([jnp.max(scale) for scale in scales]))
        return Bounds(2 * lower, 2 * upper)

    def lower_bound(self) -> jax.Array:
        least = [jnp.min(jnp.asarray(scale)) for scale in jax.tree.leaves(self.scale)]
        is_convex = jnp.all(jnp.stack([scale >= 0 for scale in least]))
        return jnp.where(is_convex, 0.0, -jnp.inf)

    @property
    def attains_lower_bound(self) -> bool:
        return True

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_quadratic(self) -> bool:
        return True

    def stationary_solver(self, params: Params) -> DiagonalSolver:
        return DiagonalSolver()

    def stationary_solver_bytes(self, params: Params) -> int:
        widths = [dtypes.compute_dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(params)]
        sizes = [leaf.size for leaf in jax.tree.leaves(params)]
        # The solution, and the array that selects between it and the start.
        return 2 * sum(size * width for size, width in zip(sizes, widths, strict=True))

    def check_params(self, params: Params) -> None:
        for name in ("scale", "center"):
            _check_broadcast(name, getattr(self, name), params)

    def _map(self, function: Any, params: Params) -> Any:
        """``function(x, scale, x - center)`` for every leaf."""
        leaves, treedef = jax.tree.flatten(params)
        scales = _leaves_like(self.scale, leaves)
        centers = _leaves_like(self.center, leaves)

        def of_leaf(x: jax.Array, scale: Any, center: Any) -> Any:
            offset = x if center is None else x - jnp.asarray(center, x.dtype)
            return function(x, jnp.asarray(scale, x.dtype), offset)

        return treedef.unflatten(map(of_leaf, leaves, scales, centers))


def _leaves_like(value: Any, leaves: list[Any]) -> list[Any]:
    """One entry for each leaf: the same scalar (or None) for all, or the leaves of a pytree."""
    if value is None:
        return [None] * len(leaves)
    return [value] * len(leaves) if _is_scalar(value) else jax.tree.leaves(value)


def _is_scalar(value: Any) -> bool:
    return jax.tree.structure(value) == jax.tree.structure(0) and jnp.ndim(value) == 0


def _check_broadcast(name: str, value: Any, params: Params) -> None:
    entries = jax.tree.leaves(value)
    if value is None or _is_scalar(value):
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
