"""A design matrix known only by its product with a vector."""

from __future__ import annotations

import dataclasses
import math
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs.protocol import Design
from jaxdescent.inputs.functions import anew, as_pytree, hoist
from jaxdescent.inputs.numbers import check_count
from jaxdescent.inputs.tracing import is_top_level


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MatrixFree(Design):
    """X as a linear function of the weights; its transpose is derived by JAX.

    Args:
      forward: ``forward(weights) = X @ weights``, a linear function made of JAX operations that
        maps weights of the shape ``features`` to a result of the shape ``rows``. A
        ``jax.tree_util.Partial`` passes its arguments as data.
      rows: the length of the result, or its shape: targets are its elements in order.
      features: the length of the weights, or their shape, such as that of a picture; results of
        ``minimize`` have it too.
      weights_dtype: the dtype of the weights and of the result.

    Raises:
      TypeError: if a length is not an integer or ``weights_dtype`` is not one of float32 and
        float64; when a regression is checked, if ``forward`` is not linear, judged by its
        operations in JAX and by its value at zero, which is computed once for each function.
      ValueError: when a regression is checked, if the result has another shape or dtype.

    >>> import jax.numpy as jnp
    >>> differences = MatrixFree(lambda w: w[1:] - w[:-1], rows=3, features=4)
    >>> differences.transposed_product(jnp.array([1.0, 0.0, 0.0]))
    Array([-1.,  1.,  0.,  0.], dtype=float32)
    """

    forward: Callable[[jax.Array], jax.Array]
    rows: int | tuple[int, ...] = dataclasses.field(kw_only=True, metadata={"static": True})
    features: int | tuple[int, ...] = dataclasses.field(kw_only=True, metadata={"static": True})
    weights_dtype: Any = dataclasses.field(
        default=jnp.float32, kw_only=True, metadata={"static": True}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "forward", as_pytree(self.forward))
        for name in ("rows", "features"):
            for side in _shape(getattr(self, name)):
                check_count(f"MatrixFree.{name}", side)
        if jnp.dtype(self.weights_dtype) not in (jnp.float32, jnp.float64):
            raise TypeError(
                "MatrixFree.weights_dtype must be float32 or float64, got "
                f"{jnp.dtype(self.weights_dtype)}."
            )

    @classmethod
    def from_operator(cls, operator: Any) -> MatrixFree:
        """The design of a linear operator with lineax's interface.

        Args:
          operator: an object with ``mv``, ``in_structure()`` and ``out_structure()``.

        Returns:
          The design, whose arguments are the operator's arrays.

        Raises:
          TypeError: if the operator's input or output is not a single array.
        """
        given, made = operator.in_structure(), operator.out_structure()
        for name, structure in (("input", given), ("output", made)):
            if not hasattr(structure, "shape"):
                raise TypeError(f"an operator's {name} must be a single array, got {structure}.")
        forward = jax.tree_util.Partial(_applied, operator)
        return cls(forward, rows=made.shape, features=given.shape, weights_dtype=given.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        return math.prod(_shape(self.rows)), math.prod(_shape(self.features))

    @property
    def dtype(self) -> Any:
        return jax.dtypes.canonicalize_dtype(self.weights_dtype)

    def checked(self) -> MatrixFree:
        weights = jax.ShapeDtypeStruct(_shape(self.features), self.dtype)
        made = jax.eval_shape(anew(self.forward), weights)
        expected = jax.ShapeDtypeStruct(_shape(self.rows), self.dtype)
        got = getattr(made, "shape", None), getattr(made, "dtype", None)
        if got != (expected.shape, expected.dtype):
            raise ValueError(
                f"MatrixFree.forward must map weights of shape {weights.shape} to a result of "
                f"shape {expected.shape} in {self.dtype}, got {made}."
            )
        try:
            jax.eval_shape(jax.linear_transpose(anew(self.forward), weights), expected)
        except Exception as error:  # each operation that is not linear raises its own
            raise TypeError(
                "MatrixFree.forward must be linear in the weights, made of operations that JAX can "
                f"transpose; it is not: {error}"
            ) from error
        function = _plain(self.forward)
        if is_top_level() and function not in _vanishing:
            zero = self.forward(jnp.zeros(weights.shape, weights.dtype))
            if not bool(jnp.all(zero == 0)):
                raise TypeError(
                    "MatrixFree.forward must be linear in the weights, and zero at zero; there its "
                    f"largest value is {float(jnp.max(jnp.abs(zero))):.3g}: take the constant part "
                    "off the targets."
                )
            if function is not None:
                _vanishing.add(function)
        return self

    def packed(self, weights: Any) -> Any:
        own = _shape(self.features)
        if len(own) == 1 or jnp.shape(weights)[: len(own)] != own:
            return weights
        return jnp.reshape(weights, (self.shape[1], *jnp.shape(weights)[len(own) :]))

    def unpacked(self, weights: jax.Array) -> jax.Array:
        if len(_shape(self.features)) == 1:
            return weights
        return weights.reshape(*_shape(self.features), *weights.shape[1:])

    def product(self, weights: jax.Array) -> jax.Array:
        weights = jnp.asarray(weights)
        is_flat = weights.ndim <= 2 and weights.shape[:1] == self.shape[1:]
        flat = self._operand(weights if is_flat else self.packed(weights))
        return _over_outputs(self._flat, flat)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        weights = jax.ShapeDtypeStruct(self.shape[1:], self.dtype)
        transpose = jax.linear_transpose(self._flat, weights)
        return _over_outputs(lambda column: transpose(column)[0], self._operand(residual, axis=0))

    def _flat(self, column: jax.Array) -> jax.Array:
        return self.forward(column.reshape(_shape(self.features))).reshape(self.shape[0])

    def to_dense(self) -> jax.Array:
        rows, features = self.shape
        if rows < features:
            return self.transposed_product(jnp.eye(rows, dtype=self.dtype)).T
        return self.product(jnp.eye(features, dtype=self.dtype))

    def dense_bytes(self) -> int:
        rows, features = self.shape
        smaller = min(rows, features)
        return (2 * rows * features + smaller * smaller) * self.dtype.itemsize

    def hoisted(self, *, always: bool = False) -> MatrixFree:
        weights = jnp.zeros(_shape(self.features), self.dtype)
        return dataclasses.replace(self, forward=hoist(self.forward, weights, always=always))


def _over_outputs(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    return function(x) if x.ndim == 1 else jax.vmap(function, in_axes=1, out_axes=1)(x)


def is_operator(X: Any) -> bool:
    """Whether the object has the interface of a linear operator of lineax."""
    # The class is asked, because a mock object has every attribute that it is asked for.
    return all(hasattr(type(X), name) for name in ("mv", "in_structure", "out_structure"))


def _applied(operator: Any, weights: jax.Array) -> jax.Array:
    return operator.mv(weights)


def _shape(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return size if isinstance(size, tuple) else (size,)


_vanishing: weakref.WeakSet[Any] = weakref.WeakSet()
"""Plain functions that were found to be zero at zero."""


def _plain(forward: Any) -> Any:
    """The plain function, whose value at zero stays; None for an object that may be changed."""
    function = forward.func if isinstance(forward, jax.tree_util.Partial) else forward
    return function if type(function) is types.FunctionType else None
