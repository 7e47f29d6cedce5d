"""The base class of models that are linear in their weights: data, checks, predictions, penalty."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import display, placement
from jaxdescent.designs import Design, as_design, is_converted_once
from jaxdescent.inputs.arrays import as_array, zeros
from jaxdescent.kernels import dtypes
from jaxdescent.numerics import precision
from jaxdescent.objectives.answers import RowBlocks
from jaxdescent.objectives.protocol import Objective, Params
from jaxdescent.regression.checks import (
    check_loss,
    check_shapes,
    checked_array,
    is_zero,
    refuse_negative,
)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearModel(Objective):
    """``sum_i s_i loss(x_i.w + b, y_i) + l2/2 |w|^2``, summed over outputs.

    A subclass defines :meth:`loss`, and is a dataclass that is registered with JAX. Values,
    gradients and products with the Hessian follow, each in two passes over X. The params are
    ``{"weights": (features,) or (features, outputs), "intercept": () or (outputs,)}``; without an
    intercept ``{"weights"}`` alone. The intercept is not penalised.

    Args:
      X: the design matrix, (rows, features): an array, a sparse matrix of SciPy's or JAX's, or a
        design such as ``jd.Sparse`` and ``jd.Concatenated``.
      y: the targets, (rows,) or (rows, outputs).
      l2: the ridge penalty, a number >= 0 or one for each output.
      sample_weight: s, (rows,), >= 0; None stands for ones.
      intercept: whether to fit b.
    """

    X: Any
    y: Any
    l2: Any = dataclasses.field(default=0.0, kw_only=True)
    sample_weight: Any = dataclasses.field(default=None, kw_only=True)
    intercept: bool = dataclasses.field(default=True, kw_only=True, metadata={"static": True})

    def __post_init__(self) -> None:
        if is_converted_once(self.X):
            object.__setattr__(self, "X", as_design(self.X))

    @abc.abstractmethod
    def loss(self, predictions: jax.Array, targets: jax.Array) -> jax.Array:
        """The loss of each row and output, from ``x_i.w + b`` and ``y_i``.

        A loss is computed element by element, by JAX operations that are twice differentiable.
        Losses that mix predictions, such as a softmax over outputs, are functions instead.
        """

    def _arguments(self) -> list[str]:
        texts = [display.argument(self.X)]
        if len(shape := display.shape_of(self.X) or ()) == 2:
            texts = ["{:,} rows x {:,} features".format(*shape)]
        if len(shape := display.shape_of(self.y) or ()) == 2:
            texts.append(f"{shape[1]:,} outputs")
        if not (isinstance(self.l2, (int, float)) and self.l2 == 0):
            texts.append(f"l2={display.argument(self.l2)}")
        if self.sample_weight is not None:
            texts.append("weighted")
        return [*texts, "intercept" if self.intercept else "no intercept"]

    def predict(self, params: Params, X: Any) -> jax.Array:
        """``X w + b`` for new rows: (rows,) or (rows, outputs).

        Args:
          params: as returned by ``minimize`` for this model.
          X: (rows, features): an array or a design.

        Raises:
          ValueError: if X does not have as many features as the weights, or params are not those of
            this model.
        """
        names = ["weights", "intercept"] if self.intercept else ["weights"]
        if not isinstance(params, dict) or set(params) != set(names):
            got = list(params) if isinstance(params, dict) else type(params).__name__
            raise ValueError(
                f"params must be a dict of {names}, got {got}: pass result.params of this "
                f"regression, or make it with intercept={not self.intercept}."
            )
        design = as_design(X)
        if not self._is_packed(params):
            params = params | {"weights": design.packed(params["weights"])}
        if isinstance(params["weights"], dict):
            raise ValueError(
                f"the weights are those of {list(params['weights'])}: X must be a jd.Concatenated "
                f"of designs by these names, got {display.argument(X)}."
            )
        params = precision.widen(_as_floats(params, design.dtype))
        weights = params["weights"]
        if design.shape[1] != weights.shape[0]:
            raise ValueError(
                f"X must have {weights.shape[0]} features, as the weights have, got shape "
                f"{design.shape}."
            )
        return self._predictions(design, params)

    def packed(self, params: Params) -> Params:
        if not isinstance(params, dict) or "weights" not in params:
            return params
        design = self._design
        if not self._is_packed(params):
            params = params | {"weights": design.packed(params["weights"])}
        return (
            params if isinstance(params["weights"], Mapping) else _as_floats(params, design.dtype)
        )

    def _is_packed(self, params: Params) -> bool:
        """Whether the weights are (features,) or, of several outputs, (features, outputs)."""
        weights = params["weights"]
        return not isinstance(weights, Mapping) and np.ndim(weights) == np.ndim(self.y)

    def _as_given(self, gradient: Params, params: Params) -> Params:
        """The gradient in the form in which ``params`` are."""
        return gradient if self._is_packed(params) else self.unpacked(gradient)

    def unpacked(self, params: Params) -> Params:
        weights = self._design.unpacked(params["weights"])
        return params if weights is params["weights"] else params | {"weights": weights}

    def value(self, params: Params) -> jax.Array:
        params = self.packed(params)
        losses = self.loss(self._predictions(self._design, params), self._targets)
        return precision.total(scaled_rows(losses, self.sample_weight)) + self._ridge(params)

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        def change(product: jax.Array, rows: Any) -> tuple[Any, jax.Array]:
            y, sample_weight = rows

            def of(predictions: jax.Array) -> jax.Array:
                return scaled_rows(self.loss(predictions, y), sample_weight)

            losses, slope = _with_slope(of, self._with_intercept(product, params))
            return (losses, slope), slope

        given, params = params, self.packed(params)
        rows = self._targets, self.sample_weight
        (losses, slope), columns = self._design.there_and_back(params["weights"], change, rows)
        gradient = self._as_given(self._pulled(params, slope, columns), given)
        return precision.total(losses) + self._ridge(params), gradient

    def hessian_product(self, params: Params, direction: Params) -> Params:
        given, direction = direction, self.packed(direction)
        predictions = self._predictions(self._design, self.packed(params))

        def change(product: jax.Array, rows: Any) -> tuple[jax.Array, jax.Array]:
            predictions, y, sample_weight = rows

            def slope(predictions: jax.Array) -> jax.Array:
                return _with_slope(lambda at: self.loss(at, y), predictions)[1]

            moved = self._with_intercept(product, direction)
            changed = jax.jvp(slope, (predictions,), (moved,))[1]
            changed = scaled_rows(changed, sample_weight)
            return changed, changed

        rows = predictions, self._targets, self.sample_weight
        changed, columns = self._design.there_and_back(direction["weights"], change, rows)
        return self._as_given(self._pulled(direction, changed, columns), given)

    @property
    def row_blocks(self) -> RowBlocks | None:
        design, (rows, _) = self._design, self._design.shape
        one = jax.ShapeDtypeStruct((1,), jnp.int32)
        if jax.eval_shape(design.taken, one) is None:
            return None
        reading = design.reading
        return RowBlocks(rows, reading.block or rows, design.entries // rows, reading.sections)

    def by_rows(self) -> Any:
        return dataclasses.replace(self, X=self._design.by_rows())

    def of_rows(self, index: jax.Array) -> Any:
        design = self._design
        X = design.taken(index)
        if X is None:
            return None
        own = {"y": jnp.take(jnp.asarray(self.y), index, axis=0)}
        if self.sample_weight is not None:
            own["sample_weight"] = jnp.take(self.sample_weight, index)
        share = index.shape[0] / design.shape[0]
        return dataclasses.replace(self, X=X, l2=jnp.asarray(self.l2, design.dtype) * share, **own)

    def start(self) -> Params:
        dtype = self._design.dtype
        shapes = self._params_shapes().items()
        return {name: zeros(shape, dtype) for name, shape in shapes}

    def size(self, params: Params) -> jax.Array:
        return precision.norm(params["weights"])

    def checked(self) -> Any:
        design = as_design(self.X).checked()
        rows = design.shape[0]
        y = checked_array("y", self.y, rows, ndims=(1, 2))
        if dtypes.compute_dtype(y.dtype) != design.dtype:
            raise TypeError(
                f"X and y must be of one dtype, got weights of {design.dtype} for X and {y.dtype} "
                "for y: cast one of them."
            )
        sample_weight = self.sample_weight
        if sample_weight is not None:
            sample_weight = checked_array("sample_weight", sample_weight, rows, ndims=(1,))
            refuse_negative("sample_weight", sample_weight)
            if is_zero(sample_weight):
                raise ValueError("sample_weight must be positive somewhere, got all zero.")
        y, sample_weight = placement.with_rows_of(design, rows, y, sample_weight)
        outputs = y.shape[1:]
        # A float would make shapes of floats.
        is_whole = isinstance(self.intercept, (int, np.integer, np.bool_))
        if not (is_whole and self.intercept in (False, True)):
            raise TypeError(f"intercept must be True or False, got {self.intercept!r}.")
        if isinstance(self.l2, (str, complex)) or self.l2 is None:
            raise TypeError(f"l2 must be a number, got {self.l2!r}.")
        # A list would be as many leaves of the pytree.
        is_list = isinstance(self.l2, (list, tuple))
        l2 = jnp.asarray(self.l2, design.dtype) if is_list else self.l2
        if jnp.shape(l2) not in ((), outputs):
            raise ValueError(
                f"l2 must be a number{f' or have shape {outputs}' if outputs else ''}, got shape "
                f"{jnp.shape(l2)}."
            )
        refuse_negative("l2", l2)
        if self.linear_regression is None:
            check_loss(self, y, design.dtype)
        return dataclasses.replace(self, X=design, y=y, sample_weight=sample_weight, l2=l2)

    def hoisted(self, params: Params, *, always: bool = False) -> Any:
        return dataclasses.replace(self, X=self._design.hoisted(always=always))

    def check_params(self, params: Params) -> None:
        check_shapes(self, self._params_shapes(), params)
        dtype = self._design.dtype
        for name, leaf in params.items():
            if dtypes.compute_dtype(leaf.dtype) != dtype:
                raise TypeError(
                    f"params['{name}'] must be of the dtype of the weights of X, {dtype}, got "
                    f"{leaf.dtype}: cast it."
                )

    @property
    def _weight_total(self) -> jax.Array:
        dtype = self._design.dtype
        if self.sample_weight is None:
            return jnp.full((), self._design.shape[0], dtype)
        return jnp.sum(self.sample_weight.astype(dtype))

    def _params_shapes(self) -> dict[str, tuple[int, ...]]:
        outputs = np.shape(self.y)[1:]
        shapes = {"weights": (self._design.shape[1], *outputs)}
        return shapes | {"intercept": outputs} if self.intercept else shapes

    @property
    def _design(self) -> Design:
        return as_design(self.X)

    def _predictions(self, design: Design, params: Params) -> jax.Array:
        return self._with_intercept(design.product(params["weights"]), params)

    def _with_intercept(self, product: jax.Array, params: Params) -> jax.Array:
        return product + jnp.expand_dims(params["intercept"], 0) if self.intercept else product

    def _penalty(self, weights: jax.Array) -> jax.Array:
        """l2 as a scalar, or as (1, outputs) to multiply weights of (features, outputs)."""
        l2 = jnp.asarray(self.l2, weights.dtype)
        return l2[None, :] if l2.ndim == 1 else l2

    @property
    def _targets(self) -> jax.Array:
        return jnp.asarray(self.y).astype(self._design.dtype)

    def _ridge(self, params: Params) -> jax.Array:
        """``l2/2 |w|^2``."""
        weights = params["weights"]
        # A square of weights alone may be beyond the range.
        return 0.5 * precision.total(self._penalty(weights) * weights * weights)

    def _pulled(self, params: Params, rows: jax.Array, columns: jax.Array) -> Params:
        """The gradient with respect to the params, or its change.

        ``rows`` is the derivative by the predictions, or its change, and ``columns`` is X' times
        ``rows``.
        """
        weights = params["weights"]
        gradient = {"weights": columns + self._penalty(weights) * weights}
        return gradient | {"intercept": jnp.sum(rows, axis=0)} if self.intercept else gradient


def _with_slope(losses: Any, predictions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The losses, computed element by element, and their derivatives by the predictions."""
    return jax.jvp(losses, (predictions,), (jnp.ones_like(predictions),))


def _as_floats(params: Params, dtype: Any) -> Params:
    """Integers and Python numbers of the params in this dtype, lest X be cast to integers."""

    def of(leaf: Any) -> Any:
        is_plain = isinstance(leaf, (int, float))
        if is_plain or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            return as_array(leaf, dtype)
        return as_array(leaf)

    return jax.tree.map(of, params)


def scaled_rows(rows: jax.Array, scale: jax.Array | None) -> jax.Array:
    """Each row times its own number; a scale of None stands for ones."""
    if scale is None:
        return rows
    return scale.astype(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1)) * rows
