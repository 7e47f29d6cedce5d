"""A design matrix known only by what it does to a vector."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs.protocol import Design
from jaxdescent.inputs.functions import as_pytree, hoist


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MatrixFree(Design):
    """X as a linear function of one weights vector; its transpose is derived by JAX.

    Args:
      forward: ``forward(weights) = X @ weights``, a linear function made of JAX operations that
        maps weights of shape (features,) to a result of shape (rows,). A
        ``jax.tree_util.Partial`` passes its arguments as data.
      rows: the length of the result.
      features: the length of the weights.
      weights_dtype: the dtype of the weights and of the result.

    >>> import jax.numpy as jnp
    >>> differences = MatrixFree(lambda w: w[1:] - w[:-1], rows=3, features=4)
    >>> differences.transposed_product(jnp.array([1.0, 0.0, 0.0]))
    Array([-1.,  1.,  0.,  0.], dtype=float32)
    """

    forward: Callable[[jax.Array], jax.Array]
    rows: int = dataclasses.field(kw_only=True, metadata={"static": True})
    features: int = dataclasses.field(kw_only=True, metadata={"static": True})
    weights_dtype: Any = dataclasses.field(
        default=jnp.float32, kw_only=True, metadata={"static": True}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "forward", as_pytree(self.forward))

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.features

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.weights_dtype)

    def product(self, weights: jax.Array) -> jax.Array:
        return _over_outputs(self.forward, weights)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        weights = jax.ShapeDtypeStruct((self.features,), self.dtype)
        transpose = jax.linear_transpose(self.forward, weights)
        return _over_outputs(lambda column: transpose(column)[0], residual)

    def to_dense(self) -> jax.Array:
        if self.rows < self.features:
            return self.transposed_product(jnp.eye(self.rows, dtype=self.dtype)).T
        return self.product(jnp.eye(self.features, dtype=self.dtype))

    def dense_bytes(self) -> int:
        smaller = min(self.rows, self.features)
        return (2 * self.rows * self.features + smaller * smaller) * self.dtype.itemsize

    def hoisted(self, *, always: bool = False) -> MatrixFree:
        weights = jnp.zeros((self.features,), self.dtype)
        return dataclasses.replace(self, forward=hoist(self.forward, weights, always=always))


def _over_outputs(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    return function(x) if x.ndim == 1 else jax.vmap(function, in_axes=1, out_axes=1)(x)
