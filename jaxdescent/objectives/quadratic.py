"""A quadratic form with a given Hessian."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.inputs.functions import as_pytree, hoist
from jaxdescent.inputs.trees import check_floats, check_tree
from jaxdescent.kernels import dtypes
from jaxdescent.kernels.products import contract
from jaxdescent.numerics import precision
from jaxdescent.objectives.protocol import Objective, Params
from jaxdescent.objectives.stationary import DenseSolver, dense_hessian


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Quadratic(Objective):
    """``1/2 x.Hx - linear.x + constant``, whose minimum solves ``H x = linear``.

    There is a minimum where no eigenvalue of H is negative and ``linear`` is in the range of H.
    Otherwise ``minimize`` ends ``DIVERGED``.

    Args:
      hessian: H, an (n, n) array of which the symmetric part is used, or a symmetric linear map
        ``hessian(x) = H x`` on params of any structure.
      linear: zero, or an array or pytree like the params; the gradient is ``H x - linear``.
      constant: a number that is added to the value.

    Raises:
      TypeError: by ``minimize``, if an entry is not a real floating-point number or array.
      ValueError: by ``minimize``, if an array H is not square, or the params have not the shapes
        of H or ``linear``.

    >>> import jax.numpy as jnp
    >>> bowl = Quadratic(jnp.array([[2.0, 1.0], [1.0, 2.0]]), linear=jnp.array([3.0, 3.0]))
    >>> bowl.gradient(jnp.array([1.0, 1.0]))
    Array([0., 0.], dtype=float32)

    Reference: Nocedal and Wright (2006), "Numerical optimization", section 5.1.
    """

    hessian: Any
    linear: Any = 0.0
    constant: Any = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hessian", as_pytree(self.hessian))
        # None is part of the structure; a zero would be a leaf, and a tracer under jit.
        if isinstance(self.linear, (int, float)) and self.linear == 0:
            object.__setattr__(self, "linear", None)

    def value(self, params: Params) -> jax.Array:
        return self.value_and_gradient(params)[0]

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        return self.value_and_gradient_at(params, self.image(params))

    def value_and_gradient_at(self, params: Params, image: Params) -> tuple[jax.Array, Params]:
        # x.Hx/2 - l.x = (x.g - l.x)/2 with g = Hx - l: one product with H serves both.
        gradient = self._minus_linear(image)
        value = 0.5 * precision.inner(params, gradient)
        if self.linear is not None:
            value = value - 0.5 * precision.inner(self.linear, params)
        return value + jnp.asarray(self.constant, value.dtype), gradient

    def gradient(self, params: Params) -> Params:
        return self._minus_linear(self.image(params))

    def hessian_product(self, params: Params, direction: Params) -> Params:
        return self.image(direction)

    def curvature_along(self, params: Params, direction: Params, image: Params) -> jax.Array:
        return precision.inner(direction, image)

    @property
    def is_quadratic(self) -> bool:
        return True

    def start(self) -> Params | None:
        if self.linear is not None:
            return jax.tree.map(jnp.zeros_like, self.linear)
        if callable(self.hessian):
            return None
        return jnp.zeros(self.hessian.shape[:1], dtypes.compute_dtype(self.hessian.dtype))

    def stationary_solver(self, params: Params) -> DenseSolver:
        if callable(self.hessian):
            return DenseSolver.from_hessian(dense_hessian(self, params))
        wide = self.hessian.astype(dtypes.compute_dtype(self.hessian.dtype))
        return DenseSolver.from_hessian(0.5 * (wide + wide.T))

    def checked(self) -> Quadratic:
        hessian = self.hessian
        if not callable(hessian):
            if not hasattr(hessian, "dtype"):
                hessian = np.asarray(hessian)
            check_floats("Quadratic.hessian", hessian.dtype)
            if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or not hessian.size:
                raise ValueError(
                    "Quadratic.hessian must be a square matrix with at least one row, or a linear "
                    f"map, got shape {hessian.shape}."
                )
            hessian = jnp.asarray(hessian)
        check_tree("Quadratic.linear", self.linear)
        linear = jax.tree.map(jnp.asarray, self.linear) if self.linear is not None else None
        return Quadratic(hessian, linear, self.constant)

    def check_params(self, params: Params) -> None:
        if not callable(self.hessian):
            expected = self.hessian.shape[:1]
            shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
            if shapes != [expected]:
                raise ValueError(
                    f"Quadratic with a {self.hessian.shape} Hessian needs params of shape "
                    f"{expected}, got {shapes}."
                )
        if self.linear is not None:
            expected = jax.tree.map(jnp.shape, self.linear)
            got = jax.tree.map(jnp.shape, params)
            if expected != got:
                raise ValueError(
                    f"Quadratic.linear must have the params' structure and shapes {got}, got "
                    f"{expected}."
                )

    @property
    def hessian_array(self) -> jax.Array | None:
        return None if callable(self.hessian) else self.hessian

    def hoisted(self, params: Params, *, always: bool = False) -> Quadratic:
        if not callable(self.hessian):
            return self
        return dataclasses.replace(self, hessian=hoist(self.hessian, params, always=always))

    def _minus_linear(self, image: Params) -> Params:
        if self.linear is None:
            return image
        return jax.tree.map(lambda image, own: image - own.astype(image.dtype), image, self.linear)

    def image(self, direction: Params) -> Params:
        if callable(self.hessian):
            return self.hessian(direction)
        (leaf,), treedef = jax.tree.flatten(direction)
        # Contracting axis 0 avoids hessian.T, of which XLA for CPUs would store a copy, and which
        # it would multiply on one core.
        images = contract(self.hessian, 1, leaf) + contract(self.hessian, 0, leaf)
        return treedef.unflatten([0.5 * images])
