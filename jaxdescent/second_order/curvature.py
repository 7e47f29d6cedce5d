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
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdescent import placement, processes
from jaxdescent.calls import programs
from jaxdescent.inputs.arrays import MOST_COPIED_BYTES, as_array
from jaxdescent.machine import memory
from jaxdescent.numerics import precision, randomness
from jaxdescent.objectives import Objective

Params = Any

AGREEMENT = 1e-2
"""The relative difference of the products in both dtypes from which they count as different
functions."""


DRAWN_AT_ONCE = 1 << 16
"""The most random numbers that are drawn as one vector: each draw takes time to compile."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curvature:
    """An objective, a point, and the dtype of the Hessian's products.

    Attributes:
      objective, params: the objective and the point, in the dtype of the products.
      is_double: whether products are computed in float64.
      eps: the relative rounding of the data and params themselves, in their own dtype.
    """

    objective: Objective
    params: Params
    is_double: bool
    eps: float

    @classmethod
    def at(cls, objective: Objective, params: Params) -> Curvature:
        """The Hessian at a point, in float64 if the data fit in memory so and products agree with
        those in the params' own dtype.
        """
        wide = precision.widen(params)
        eps = precision.epsilon(wide)
        own = cls(_hoisted(objective, wide), wide, eps < 1e-12, eps)
        if own.is_double or not _fits((own.objective, wide)):
            return own
        try:
            with double():
                in_double = as_double(wide)
                wider = cls(_hoisted(as_double(objective), in_double), in_double, True, eps)
            exact, rough = wider.run(_sample), own.run(_sample)
        except Exception:  # a function may raise anything in a dtype that it was not written for
            return own
        exact, rough = np.asarray(exact, np.float64), np.asarray(rough, np.float64)
        if not np.all(np.isfinite(rough)):
            return own
        limit = AGREEMENT * np.max(np.abs(exact)) + 1e-37  # smaller numbers underflow in float32
        return wider if np.max(np.abs(exact - rough)) <= limit else own

    @classmethod
    def cast_in_program(cls, objective: Objective, params: Params) -> Curvature:
        """The Hessian for functions that cast their inputs with :func:`as_double` themselves; the
        arrays that the objective's functions close over keep their dtype.
        """
        return cls(objective, params, True, precision.epsilon(params))

    @property
    def size(self) -> int:
        """The number of unknowns."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def run(self, function: Callable[..., Any], *extra: Any, **flags: Any) -> Any:
        """``function(objective, params, *extra)``, compiled and run in the products' dtype."""
        inputs = (self.objective, self.params, *extra)
        with double() if self.is_double else contextlib.nullcontext():
            return programs.compiled(function, inputs, **flags)(*inputs)

    def shifted(self, step: Params) -> Curvature:
        """The Hessian at ``params + step``."""
        inputs = (self.params, step)
        with double() if self.is_double else contextlib.nullcontext():
            params = programs.compiled(_sum, inputs)(*inputs)
        return dataclasses.replace(self, params=params)

    def with_other_data(self, seed: int) -> Curvature:
        """The Hessian for data with other rounding errors of the same size; zeros stay zeros."""
        with double() if self.is_double else contextlib.nullcontext():
            inputs = (self.objective, seed, self.eps)
            objective = programs.compiled(_other_data, inputs)(*inputs)
        return dataclasses.replace(self, objective=objective)

    def point(self) -> tuple[float, np.ndarray, np.ndarray]:
        """The value, and gradient and params as a vector each."""
        value, *vectors = self.run(_point)
        gradient, params = (np.asarray(vector, np.float64) for vector in vectors)
        return float(value), gradient, params

    def products(self, rows: np.ndarray, *, is_jittered: bool = False) -> np.ndarray:
        """The Hessian times each row of (k, n), in float64 on the host; if it ``is_jittered``, the
        Hessian at params with other relative rounding errors of the products' dtype.
        """
        rows = _in_dtype(rows, self.params)
        return np.asarray(self.run(_products, rows, is_jittered=is_jittered), np.float64)

    def as_params(self, column: np.ndarray) -> Params:
        """A vector of all unknowns with the structure of the params."""
        leaves, treedef = jax.tree.flatten(self.params)
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = np.split(column, ends[:-1])
        return treedef.unflatten(
            [
                part.reshape(leaf.shape).astype(leaf.dtype)
                for part, leaf in zip(parts, leaves, strict=True)
            ]
        )


@contextlib.contextmanager
def double() -> Iterator[None]:
    """A context in which JAX has 64-bit numbers, and promotes dtypes by default."""
    # Arrays that a function closes over keep their own dtype, and must be promoted.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def _hoisted(objective: Objective, params: Params) -> Objective:
    """The objective with all arrays that its functions close over as leaves."""
    return objective.hoisted(params, always=True)


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


def _in_dtype(rows: np.ndarray, params: Params) -> np.ndarray:
    return np.asarray(rows, jnp.result_type(*jax.tree.leaves(params)))


def random_direction(params: Params, seed: int) -> Params:
    """Standard normal numbers with the structure of the params."""
    leaves, treedef = jax.tree.flatten(params)
    size = sum(leaf.size for leaf in leaves)
    if size <= DRAWN_AT_ONCE:
        draw = randomness.normal((size,), randomness.fold(seed), jnp.result_type(*leaves))
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        parts = zip(jnp.split(draw, ends), leaves, strict=True)
        return treedef.unflatten([part.reshape(x.shape).astype(x.dtype) for part, x in parts])
    return treedef.unflatten(
        [
            randomness.normal(leaf.shape, randomness.fold(seed, index), leaf.dtype)
            for index, leaf in enumerate(leaves)
        ]
    )


def _sample(objective: Objective, params: Params) -> jax.Array:
    return ravel_pytree(objective.hessian_product(params, random_direction(params, 7)))[0]


def _sum(params: Params, step: Params) -> Params:
    return jax.tree.map(lambda x, d: x + d.astype(x.dtype), params, step)


def _other_data(objective: Objective, seed: Any, eps: Any) -> Objective:
    def other(leaf: Any, index: int) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        leaf = jnp.asarray(leaf)
        draw = randomness.normal(leaf.shape, randomness.fold(seed, index), leaf.dtype)
        return leaf * (1 + jnp.asarray(eps, leaf.dtype) * jnp.sign(draw))

    leaves, treedef = jax.tree.flatten(objective)
    return treedef.unflatten([other(leaf, index) for index, leaf in enumerate(leaves)])


def _jittered(params: Params) -> Params:
    direction = random_direction(params, 11)
    return jax.tree.map(
        lambda x, d: x * (1 + jnp.finfo(x.dtype).eps * jnp.sign(d)), params, direction
    )


def _point(objective: Objective, params: Params) -> tuple[jax.Array, jax.Array, jax.Array]:
    value, gradient = objective.value_and_gradient(params)
    return value, ravel_pytree(gradient)[0], ravel_pytree(params)[0]


def _products(
    objective: Objective, params: Params, rows: jax.Array, *, is_jittered: bool
) -> jax.Array:
    params = _jittered(params) if is_jittered else params
    _, unravel = ravel_pytree(params)

    def product(row: jax.Array) -> jax.Array:
        return ravel_pytree(objective.hessian_product(params, unravel(row)))[0]

    return jax.vmap(product)(rows)
