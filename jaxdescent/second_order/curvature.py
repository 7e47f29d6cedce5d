"""The Hessian at a point by its products, in float64 if the function can be computed in it.

Float32 products of many terms cannot tell whether an eigenvalue of a millionth of the largest is
positive. So the data and the point are cast to float64, which is exact, and the function is
evaluated there, with JAX's double precision enabled for this alone. A function that insists on
another dtype raises or gives other results than in its own dtype (it may draw random numbers by
dtype): it is then evaluated in its own dtype.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdescent import placement, processes
from jaxdescent.calls import programs
from jaxdescent.inputs.arrays import MOST_COPIED_BYTES, as_array
from jaxdescent.inputs.numpy_constants import kept_apart
from jaxdescent.kernels import memory
from jaxdescent.numerics import precision, randomness
from jaxdescent.numerics.linear_systems import inverse, on_vectors, scaled
from jaxdescent.objectives import Objective, Params

AGREEMENT = 1e-2
"""The relative difference of the products in both dtypes from which they count as different
functions."""


DRAWN_BY_HOST = 1 << 16
"""The most random numbers that the host draws: a draw in a program takes time to compile."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curvature:
    """An objective, a point, and the dtype of the Hessian's products."""

    objective: Objective  # the objective and the point, in the dtype of the products
    params: Params
    is_double: bool  # whether products are computed in float64
    eps: float  # the relative rounding of the data and params themselves, in their own dtype
    own_norm: float = math.nan  # the gradient's, in the params' own dtype; NaN if not computed
    point: tuple[float, np.ndarray] | None = None  # the value, and the gradient as a vector

    @classmethod
    def at(cls, objective: Objective, params: Params) -> Curvature:
        """The Hessian at a point, in float64 if the data fit in memory so and products agree with
        those in the params' own dtype.
        """
        wide = precision.widen(params)
        eps = precision.epsilon(wide)
        own, rough = cls(objective.hoisted(wide, always=True), wide, eps < 1e-12, eps).expanded()
        if own.is_double or not _fits((own.objective, wide)):
            return own
        try:
            with double():
                in_double = as_double(wide)
                hoisted = as_double(objective).hoisted(in_double, always=True)
                wider = cls(hoisted, in_double, True, eps)
            wider, exact = wider.expanded()
        except Exception:  # a function may raise anything in a dtype that it was not written for
            return own
        if not np.all(np.isfinite(rough)):
            return own
        limit = AGREEMENT * np.max(np.abs(exact)) + 1e-37  # smaller numbers underflow in float32
        if not np.max(np.abs(exact - rough)) <= limit:
            return own
        return dataclasses.replace(wider, own_norm=own.own_norm)

    @property
    def size(self) -> int:
        """The number of unknowns."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def run(self, function: Callable[..., Any], *extra: Any, **flags: Any) -> Any:
        """``function(objective, params, *extra)``, compiled and run in the products' dtype."""
        return self._called(function, self.objective, self.params, *extra, **flags)

    def compile(self, function: Callable[..., Any]) -> None:
        """Compile what ``run(function)`` runs."""
        inputs = self.objective, self.params
        with double() if self.is_double else contextlib.nullcontext():
            programs.compiled(function, inputs).prepared(*inputs)

    def _called(self, function: Callable[..., Any], *inputs: Any, **flags: Any) -> Any:
        with double() if self.is_double else contextlib.nullcontext():
            return programs.compiled(function, inputs, **flags)(*inputs)

    def shifted(self, step: Params) -> Curvature:
        """The Hessian at ``params + step``."""
        params = self._called(_sum, self.params, step)
        return dataclasses.replace(self, params=params, point=None)

    def jittered(self, draw: int = 0) -> Curvature:
        """The Hessian at params with other relative rounding errors of the products' dtype, twice
        as large with each draw: from one number to the next an error may be the same.
        """
        eps = 2**draw * precision.epsilon(self.params)
        other = self._called(_with_other_rounding, self.params, 11 + draw, eps)
        return dataclasses.replace(self, params=other, point=None)

    def with_other_data(self, seed: int) -> Curvature:
        """The Hessian for data with other rounding errors of the same size; zeros stay zeros."""
        objective = self._called(_with_other_rounding, self.objective, seed, self.eps)
        return dataclasses.replace(self, objective=objective, point=None)

    def direction(self, seed: int) -> Params:
        """A random unit vector, uniform on the sphere, with the structure of the params."""
        if self.size > DRAWN_BY_HOST:
            return self.run(_direction, seed)
        with np.errstate(over="ignore"):  # hashes overflow
            draw = randomness.normal((self.size,), randomness.fold(seed, xp=np), np.float64, np)
        return self.as_params(draw / np.linalg.norm(draw))

    def expanded(self) -> tuple[Curvature, np.ndarray]:
        """The Hessian with the point's value and gradient, and a product with it."""
        value, gradient, product = map(np.asarray, self.run(_expansion, self.direction(7)))
        peak = float(np.max(np.abs(gradient)))  # squares of numbers in float64 may overflow
        scaled = gradient / peak if 0 < peak < np.inf else gradient
        norm = peak * math.sqrt(np.sum(np.square(scaled, dtype=np.float64)))
        return dataclasses.replace(self, own_norm=norm, point=(float(value), gradient)), product

    def products(self, rows: np.ndarray, at_once: int = 0) -> np.ndarray:
        """The Hessian times each row of (k, n), in float64 on the host, by a program for at least
        ``at_once`` rows: one program serves fewer of them too.
        """
        dtype = jnp.result_type(*jax.tree.leaves(self.params))
        filled = np.zeros((max(at_once, len(rows)), rows.shape[1]), dtype)
        filled[: len(rows)] = rows
        return np.asarray(self.run(_products, filled), np.float64)[: len(rows)]

    def gradient(self) -> np.ndarray:
        """The gradient as a vector on the host, by the program that expands the point."""
        return np.asarray(self.run(_expansion, self.direction(7))[1], np.float64)

    def as_column(self, tree: Params) -> np.ndarray:
        """A tree with the structure of the params as a vector of all unknowns, in float64."""
        parts = [np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def as_params(self, column: np.ndarray) -> Params:
        """A vector of all unknowns with the structure of the params."""
        leaves, treedef = jax.tree.flatten(self.params)
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = np.split(column, ends[:-1])
        return treedef.unflatten(
            part.reshape(leaf.shape).astype(leaf.dtype, copy=False)
            for part, leaf in zip(parts, leaves, strict=True)
        )


@contextlib.contextmanager
def double() -> Iterator[None]:
    """A context in which JAX has 64-bit numbers, and promotes dtypes by default."""
    # Arrays that a function closes over keep their own dtype, and must be promoted.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), kept_apart():
        yield


def _fits(tree: Any) -> bool:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if placement.is_concrete(leaf)]
    held = 8 * sum(leaf.size for leaf in leaves)
    if held < memory.SMALL_BYTES:
        return True
    device = placement.device_of(leaves)
    # The copy, and the vectors of a few iterations.
    return 3 * held < processes.least(memory.available_bytes(device))


def as_double(tree: Any) -> Any:
    """The tree with its floating point leaves in float64, which JAX must have enabled."""

    def leaf_as_double(leaf: Any) -> Any:
        is_array = isinstance(leaf, (jax.Array, np.ndarray, np.generic))
        if is_array and jnp.issubdtype(leaf.dtype, jnp.floating):
            # A NumPy float64 is rounded first, because the function has seen it in float32.
            leaf = leaf if isinstance(leaf, jax.Array) else as_array(leaf, jnp.float32)
            is_free = placement.is_concrete(leaf) and not leaf.committed
            is_free = is_free and leaf.nbytes <= MOST_COPIED_BYTES
            return as_array(np.asarray(leaf), np.float64) if is_free else leaf.astype(jnp.float64)
        return leaf

    return jax.tree.map(leaf_as_double, tree)


def random_signs(tree: Any, seed: Any) -> Any:
    """The tree with random signs in place of its floating point leaves."""

    def signs(leaf: jax.Array, index: int) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        word = randomness.bits(leaf.shape, randomness.fold(seed, index))
        return jnp.where(word >> 31 == 0, -1, 1).astype(leaf.dtype)

    leaves, treedef = jax.tree.flatten(tree)
    return treedef.unflatten([signs(leaf, index) for index, leaf in enumerate(leaves)])


def _direction(objective: Objective, params: Params, seed: Any) -> Params:
    draw = randomness.normal_like(params, seed)
    return scaled(inverse(precision.norm(draw)), draw)


def _expansion(objective: Objective, params: Params, direction: Params) -> tuple[jax.Array, ...]:
    value, gradient = objective.value_and_gradient(params)
    product = objective.hessian_product(params, direction)
    return value, *(ravel_pytree(tree)[0] for tree in (gradient, product))


def _sum(params: Params, step: Params) -> Params:
    return jax.tree.map(lambda x, d: x + d.astype(x.dtype), params, step)


def _with_other_rounding(tree: Any, seed: Any, eps: Any) -> Any:
    """The tree with its floating point leaves rounded otherwise; zeros stay zeros."""

    def other(leaf: Any, sign: jax.Array) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf * (1 + jnp.asarray(eps, leaf.dtype) * sign)

    tree = jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(other, tree, random_signs(tree, seed))


def _products(objective: Objective, params: Params, rows: jax.Array) -> jax.Array:
    product = functools.partial(objective.hessian_product, params)
    return jax.vmap(on_vectors(product, ravel_pytree(params)[1]))(rows)
