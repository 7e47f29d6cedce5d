"""Linear regression: y = X w + b, weighted, with or without ridge penalty, of many outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxdescent import display, placement
from jaxdescent.designs import Center, Centred, Design, as_design, is_sparse_matrix
from jaxdescent.kernels import dtypes
from jaxdescent.numerics import precision
from jaxdescent.objectives.elimination import Elimination, Means
from jaxdescent.objectives.protocol import Bounds, Objective, Params, Parts, StationarySolver
from jaxdescent.regression.eigenvalue_bounds import regression_bounds
from jaxdescent.regression.solve import regression_solver, regression_solver_bytes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinearRegression(Objective):
    """``1/2 sum_i s_i (x_i.w + b - y_i)^2 + l2/2 |w|^2``, summed over outputs.

    The params are ``{"weights": (features,) or (features, outputs), "intercept": () or
    (outputs,)}``; without an intercept ``{"weights"}`` alone. The intercept is not penalised. The
    minimiser is that of scikit-learn's ``Ridge(alpha=l2)``.

    Args:
      X: the design matrix, (rows, features): an array, a sparse matrix of SciPy's or JAX's, or a
        design such as ``jd.Sparse`` and ``jd.MatrixFree``.
      y: the targets, (rows,) or (rows, outputs).
      l2: the ridge penalty, a number >= 0 or one for each output.
      sample_weight: s, (rows,), >= 0; None for ones.
      intercept: whether to fit b.

    >>> import jax.numpy as jnp
    >>> X = jnp.array([[0.0], [1.0], [2.0]])
    >>> line = LinearRegression(X, jnp.array([1.0, 3.0, 5.0]))
    >>> float(line.value({"weights": jnp.array([2.0]), "intercept": jnp.array(1.0)}))
    0.0
    """

    X: Any
    y: Any
    l2: Any = dataclasses.field(default=0.0, kw_only=True)
    sample_weight: Any = dataclasses.field(default=None, kw_only=True)
    intercept: bool = dataclasses.field(default=True, kw_only=True, metadata={"static": True})

    def __post_init__(self) -> None:
        if is_sparse_matrix(self.X):  # laid out once, not at every look
            object.__setattr__(self, "X", as_design(self.X))

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
          params: as found by ``minimize``.
          X: (rows, features): an array or a design.

        Raises:
          ValueError: if X does not have as many features as the weights, or params are not those
            of this regression.
        """
        names = ["weights", "intercept"] if self.intercept else ["weights"]
        if not isinstance(params, dict) or set(params) != set(names):
            got = list(params) if isinstance(params, dict) else type(params).__name__
            raise ValueError(
                f"params must be a dict of {names}, got {got}: pass result.params of this "
                f"regression, or make it with intercept={not self.intercept}."
            )
        params = precision.widen(jax.tree.map(jnp.asarray, params))
        weights = params["weights"]
        design = as_design(X)
        if design.shape[1] != weights.shape[0]:
            raise ValueError(
                f"X must have {weights.shape[0]} features, as the weights have, got shape "
                f"{design.shape}."
            )
        return self._predictions(design, params)

    def value(self, params: Params) -> jax.Array:
        return self._value(params, self._residual(params))

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        residual, columns = self._there_and_back(params, self.y)
        return self._value(params, residual), self._gradient(params, residual, columns)

    def gradient(self, params: Params) -> Params:
        return self._gradient(params, *self._there_and_back(params, self.y))

    def hessian_product(self, params: Params, direction: Params) -> Params:
        del params
        return self._gradient(direction, *self._there_and_back(direction, None))

    def curvature(self, params: Params, direction: Params) -> jax.Array:
        return self.curvature_along(params, direction, self.image(direction))

    def image(self, direction: Params) -> jax.Array:
        return self._predictions(self._design, direction)

    def image_of_start(self, params: Params) -> jax.Array:
        shape = jax.eval_shape(self.image, params)

        def constant(params: Params) -> jax.Array:
            return self._with_intercept(jnp.zeros(shape.shape, shape.dtype), params)

        return lax.cond(jnp.all(params["weights"] == 0), constant, self.image, params)

    def value_and_gradient_at(self, params: Params, image: jax.Array) -> tuple[jax.Array, Params]:
        residual = image - self.y.astype(image.dtype)
        return self._value(params, residual), self._pull_back(params, residual)

    def curvature_along(self, params: Params, direction: Params, image: jax.Array) -> jax.Array:
        del params
        return 2 * self._value(direction, image)

    def residuals(self, params: Params) -> tuple[jax.Array, jax.Array]:
        residual, weights = self._residual(params), params["weights"]
        if self.sample_weight is not None:
            residual = _scaled_rows(residual, jnp.sqrt(self.sample_weight))
        return residual, jnp.sqrt(self._penalty(weights)) * weights

    def curvature_bounds(self, params: Params) -> Bounds | None:
        del params
        design = self._design
        weight_total = None
        if self.intercept:
            weight_total = self._weight_total
        squared = design.squared_norm(self.sample_weight)
        return regression_bounds(squared, jnp.asarray(self.l2, design.dtype), weight_total)

    def curves_down(self) -> jax.Array | None:
        rows, features = self._design.shape
        is_down = None
        if features > rows - self.intercept:  # X does not see all of w, the penalty does
            is_down = jnp.min(jnp.asarray(self.l2)) < 0
        if self.intercept and self.sample_weight is not None:
            is_down = (self._weight_total < 0) | (jnp.array(False) if is_down is None else is_down)
        return is_down

    def least_curvature(self) -> jax.Array | None:
        # With an intercept it is one of the weights alone (:meth:`eliminated`).
        if self.intercept:
            return None
        least = jnp.min(jnp.asarray(self.l2, self._design.dtype))
        return jnp.where(self._has_positive_weights, least, 0)

    def lower_bound(self) -> jax.Array:
        is_convex = self._has_positive_weights & (jnp.min(jnp.asarray(self.l2)) >= 0)
        return jnp.where(is_convex, 0.0, -jnp.inf)

    @property
    def _has_positive_weights(self) -> jax.Array:
        if self.sample_weight is None:
            return jnp.array(True)
        return jnp.all(self.sample_weight >= 0)

    @property
    def is_quadratic(self) -> bool:
        return True

    def start(self) -> Params:
        dtype = self._design.dtype
        return {name: jnp.zeros(shape, dtype) for name, shape in self._params_shapes().items()}

    def placed_start(self, start: Params) -> Params:
        if not self.intercept:
            return start
        mean = self._means_of_targets()[0]
        return start | {"intercept": mean.astype(start["intercept"].dtype)}

    def start_norm(self) -> jax.Array:
        # Of the best constant model: one product, and with residuals whose sum is zero, so that
        # features far from zero do not enlarge the rounding of the mean.
        targets = jnp.asarray(self.y).astype(self._design.dtype)
        if self.intercept:
            targets = targets - self._means_of_targets()[0][None]
            weighted = _scaled_rows(targets, self.sample_weight)
            targets = targets - (jnp.sum(weighted, axis=0) / self._weight_total)[None]
        return precision.norm(
            self._design.transposed_product(_scaled_rows(targets, self.sample_weight))
        )

    def start_value(self) -> jax.Array:
        targets = jnp.asarray(self.y).astype(self._design.dtype)
        if self.intercept:
            targets = targets - self._means_of_targets()[0][None]
        return 0.5 * precision.total(_scaled_rows(targets, self.sample_weight) * targets)

    def size(self, params: Params) -> jax.Array:
        return precision.norm(params["weights"])

    def eliminated(self, means: Means | None = None) -> Elimination | None:
        if not self.intercept:
            return None
        if means is None:
            center = Center.of(self._design, self.sample_weight)
            means = Means(center, *self._means_of_targets())
        targets = jnp.asarray(self.y).astype(self._design.dtype) - means.targets[None]
        weights_alone = LinearRegression(
            Centred(self._design, means.features),
            targets,
            l2=self.l2,
            sample_weight=self.sample_weight,
            intercept=False,
        )
        return Elimination(weights_alone, means)

    def stationary_solver(self, params: Params) -> StationarySolver:
        del params
        return regression_solver(self._design, self.l2, self.sample_weight, self.intercept)

    def stationary_solver_bytes(self, params: Params) -> int:
        del params
        is_weighted = self.sample_weight is not None
        return regression_solver_bytes(
            self._design,
            self.l2,
            outputs=np.size(self.y) // np.shape(self.y)[0],
            is_scaled=self.intercept or is_weighted,
            is_weighted=is_weighted,
        )

    def checked(self) -> LinearRegression:
        design = as_design(self.X)
        rows = design.shape[0]
        y = _checked_array("y", self.y, rows, ndims=(1, 2))
        if dtypes.compute_dtype(y.dtype) != design.dtype:
            raise TypeError(
                f"X and y must be of one dtype, got weights of {design.dtype} for X and {y.dtype} "
                "for y: cast one of them."
            )
        sample_weight = self.sample_weight
        if sample_weight is not None:
            sample_weight = _checked_array("sample_weight", sample_weight, rows, ndims=(1,))
            _refuse_negative("sample_weight", sample_weight)
            if _is_zero(sample_weight):
                raise ValueError("sample_weight must be positive somewhere, got all zero.")
        outputs = y.shape[1:]
        if isinstance(self.l2, (str, complex)) or self.l2 is None:
            raise TypeError(f"l2 must be a number, got {self.l2!r}.")
        if jnp.shape(self.l2) not in ((), outputs):
            raise ValueError(
                f"l2 must be a number{f' or have shape {outputs}' if outputs else ''}, got shape "
                f"{jnp.shape(self.l2)}."
            )
        _refuse_negative("l2", self.l2)
        return LinearRegression(
            design, y, l2=self.l2, sample_weight=sample_weight, intercept=self.intercept
        )

    def parts(self) -> Parts | None:
        if self.sample_weight is not None or not isinstance(self.X, jax.Array):
            return None
        return Parts(self.intercept, (self.X, self.y), self.l2)

    @property
    def linear_model(self) -> LinearRegression:
        return self

    def hoisted(self, params: Params, *, always: bool = False) -> LinearRegression:
        return dataclasses.replace(self, X=self._design.hoisted(always=always))

    def check_params(self, params: Params) -> None:
        expected = self._params_shapes()
        got = jax.tree.map(jnp.shape, params)
        if got != expected:
            raise ValueError(
                f"LinearRegression needs params of shapes {expected}, got {got}: pass params=None "
                "to start from zeros."
            )

    def _means_of_targets(self) -> tuple[jax.Array, jax.Array]:
        """The weighted mean of each output, and the sum of the sample weights."""
        targets, total = jnp.asarray(self.y).astype(self._design.dtype), self._weight_total

        def mean(targets: jax.Array) -> jax.Array:
            return jnp.sum(_scaled_rows(targets, self.sample_weight), axis=0) / total

        rough = mean(targets)
        return rough + mean(targets - rough[None]), total  # free of the rounding of a large sum

    @property
    def _weight_total(self) -> jax.Array:
        dtype = self._design.dtype
        if self.sample_weight is None:
            return jnp.full((), self._design.shape[0], dtype)
        return jnp.sum(self.sample_weight.astype(dtype))

    def _params_shapes(self) -> dict[str, tuple[int, ...]]:
        outputs = jnp.shape(self.y)[1:]
        shapes = {"weights": (self._design.shape[1], *outputs)}
        return shapes | {"intercept": outputs} if self.intercept else shapes

    @property
    def _design(self) -> Design:
        return as_design(self.X)

    def _predictions(self, design: Design, params: Params) -> jax.Array:
        return self._with_intercept(design.product(params["weights"]), params)

    def _with_intercept(self, product: jax.Array, params: Params) -> jax.Array:
        return product + jnp.expand_dims(params["intercept"], 0) if self.intercept else product

    def _residual(self, params: Params) -> jax.Array:
        predictions = self.image(params)
        return predictions - self.y.astype(predictions.dtype)

    def _penalty(self, weights: jax.Array) -> jax.Array:
        """l2 as a scalar, or as (1, outputs) to go with weights of (features, outputs)."""
        l2 = jnp.asarray(self.l2, weights.dtype)
        return l2[None, :] if l2.ndim == 1 else l2

    def _value(self, params: Params, residual: jax.Array) -> jax.Array:
        weights = params["weights"]
        loss = precision.total(_scaled_rows(residual, self.sample_weight) * residual)
        return 0.5 * (loss + precision.total(self._penalty(weights) * jnp.square(weights)))

    def _pull_back(self, params: Params, residual: jax.Array) -> Params:
        columns = self._design.transposed_product(_scaled_rows(residual, self.sample_weight))
        return self._gradient(params, residual, columns)

    def _there_and_back(self, params: Params, y: Any) -> tuple[jax.Array, jax.Array]:
        """The residual ``X w + b - y`` (without y: the predictions) and ``X'S residual``."""

        def change(product: jax.Array, rows: Any) -> tuple[jax.Array, jax.Array]:
            y, sample_weight = rows
            residual = self._with_intercept(product, params)
            if y is not None:
                residual = residual - y.astype(residual.dtype)
            return residual, _scaled_rows(residual, sample_weight)

        return self._design.there_and_back(params["weights"], change, (y, self.sample_weight))

    def _gradient(self, params: Params, residual: jax.Array, columns: jax.Array) -> Params:
        """From the residual and ``X'S residual``."""
        weights = params["weights"]
        gradient = {"weights": columns + self._penalty(weights) * weights}
        if self.intercept:
            weighted = _scaled_rows(residual, self.sample_weight)
            gradient["intercept"] = jnp.sum(weighted, axis=0)
        return gradient


def _scaled_rows(rows: jax.Array, scale: jax.Array | None) -> jax.Array:
    if scale is None:
        return rows
    return scale.astype(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1)) * rows


def _checked_array(name: str, value: Any, rows: int, ndims: tuple[int, ...]) -> jax.Array:
    value = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be real floating-point, got dtype {value.dtype}: convert it, for example "
            f"with {name}.astype('float32')."
        )
    if value.ndim not in ndims or value.shape[0] != rows or 0 in value.shape:
        shapes = {1: f"({rows},)", 2: f"({rows}, outputs)"}
        raise ValueError(
            f"{name} must have shape {' or '.join(shapes[n] for n in ndims)} to go with X's {rows} "
            f"rows, got {value.shape}."
        )
    return jnp.asarray(value)


def _refuse_negative(name: str, value: Any) -> None:
    """Raise where the values can be seen; a traced one ends in its own status."""
    if isinstance(value, Tracer):
        return
    for part in placement.visible_parts(value):
        least = np.min(part)  # NaN where any is
        if not least >= 0:
            raise ValueError(f"{name} must be at least 0, got {float(least)}.")


def _is_zero(value: jax.Array) -> bool:
    """Whether it is known to be zero everywhere: not if other processes hold parts of it."""
    is_visible = placement.is_concrete(value) and value.is_fully_addressable
    return is_visible and not np.any(np.asarray(value))
