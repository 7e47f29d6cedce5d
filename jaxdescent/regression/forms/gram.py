"""The Gram form of a regression: one pass over X, then ``features^2`` operations for a gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs import Center, as_design
from jaxdescent.display import argument
from jaxdescent.kernels import factors
from jaxdescent.kernels.products import contract, outer
from jaxdescent.numerics import precision
from jaxdescent.objectives.answers import Bounds
from jaxdescent.objectives.elimination import Elimination, Means
from jaxdescent.objectives.protocol import Objective, Params
from jaxdescent.regression.checks import check_shapes
from jaxdescent.regression.eigenvalue_bounds import regression_bounds
from jaxdescent.regression.forms import gram_sums
from jaxdescent.regression.linear_regression import LinearRegression


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GramForm(Objective):
    """A ``jd.LinearRegression`` as the same function of the same params, without its rows.

    With ``S = sum_i s_i``, weighted means ``x_bar, y_bar``, ``G = sum_i s_i (x_i - x_bar)(x_i -
    x_bar)'``, ``c = sum_i s_i (x_i - x_bar)(y_i - y_bar)`` and ``q = sum_i s_i (y_i - y_bar)^2``::

        f(w, b) = 1/2 (q - 2 w.c + w.Gw) + S/2 (x_bar.w + b - y_bar)^2 + l2/2 |w|^2

    (without an intercept the means are zero, and the term with the intercept is missing). The
    penalty is not part of G: one form serves every ``l2``, by :meth:`with_penalty`.

    Building the form takes one pass over X and ``rows * features^2`` multiplications and additions,
    on one CPU little more than half of them. After that a gradient is one product with G,
    ``features^2`` operations for each output, whatever the number of rows. The form pays if more
    gradients are needed than about half the number of features, or if G has fewer entries than X
    and X does not fit the cache.

    Rows are read in consecutive blocks, and a 16-bit X is widened block by block. The mean of the
    first block is subtracted first, so that a mean far from zero costs no digits. A block's
    products are summed in the working precision (float32 stays float32, on any device), and the
    blocks' sums are added in double length. Two limits remain: the condition number of G is the
    square of X's, and the value is a difference of sums of the size of ``q``, so that it has an
    absolute error of about ``eps q``; a residual sum of squares below that is noise, and is set to
    zero where it is negative. ``jd.LSMR()`` and ``jd.ConjugateGradient()`` on the regression itself
    have neither limit.

    >>> import jax.numpy as jnp
    >>> X = jnp.array([[0.0], [1.0], [2.0]])
    >>> form = GramForm.from_regression(LinearRegression(X, jnp.array([1.0, 3.0, 5.0])))
    >>> params = {"weights": jnp.array([3.0]), "intercept": jnp.array(1.0)}
    >>> print(form.value(params), form.gradient(params)["weights"])
    2.5 [5.]

    References: Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance";
    Björck (1996), "Numerical methods for least squares problems", section 2.2.
    """

    gram: jax.Array  # (features, features)
    cross: jax.Array  # (features,) or (features, outputs)
    squares: jax.Array
    feature_mean: jax.Array | None  # (features,)
    target_mean: jax.Array | None  # () or (outputs,)
    weight_total: jax.Array
    l2: Any = dataclasses.field(kw_only=True)

    @classmethod
    def from_regression(cls, regression: LinearRegression, *, block: int | None = None) -> GramForm:
        """Build the form in one pass over X; a matrix-free X takes two products for each feature.

        Args:
          regression: the objective to rewrite.
          block: how many rows are read at a time. None stands for as many as fit the cache of one
            CPU (at least 2,048), and otherwise for all, since X may be sharded.
        """
        design = as_design(regression.X)
        y = jnp.asarray(regression.y).astype(design.dtype)
        weight = regression.sample_weight
        if weight is not None:
            weight = jnp.asarray(weight).astype(design.dtype)
        own = design.normal_sums(weight, y.reshape(y.shape[0], -1), intercept=regression.intercept)
        if own is not None:
            sums = gram_sums.from_design(own, y, intercept=regression.intercept)
        elif design.row_block(0, 1) is None:
            sums = gram_sums.by_products(design, y, weight, regression.intercept)
        else:
            sums = gram_sums.by_rows(design, y, weight, regression.intercept, block)
        return cls(*sums, l2=jnp.asarray(regression.l2, design.dtype))

    def _arguments(self) -> list[str]:
        return [argument(self.gram), f"l2={argument(self.l2)}"]

    def with_penalty(self, l2: Any) -> GramForm:
        """This objective with another penalty, without a pass over its data."""
        return dataclasses.replace(self, l2=jnp.asarray(l2, self.gram.dtype))

    def penalty(self) -> jax.Array:
        """l2 as a scalar, or as (1, outputs) to multiply columns of (features, outputs)."""
        l2 = jnp.asarray(self.l2, self.gram.dtype)
        return l2[None, :] if l2.ndim == 1 else l2

    @property
    def gram_and_penalty(self) -> tuple[jax.Array, Any]:
        return self.gram, self.l2

    def lower_bound(self) -> jax.Array:
        is_convex = (jnp.min(self.l2) >= 0) & (self.weight_total > 0)
        return jnp.where(is_convex & (jnp.min(jnp.diagonal(self.gram)) >= 0), 0.0, -jnp.inf)

    def start(self) -> Params:
        weights = jnp.zeros(self.cross.shape, self.cross.dtype)
        if self.target_mean is None:
            return {"weights": weights}
        return {"weights": weights, "intercept": jnp.zeros_like(self.target_mean)}

    def placed_start(self, start: Params) -> Params:
        if self.target_mean is None:
            return start
        return start | {"intercept": self.target_mean.astype(start["intercept"].dtype)}

    def start_norm(self) -> jax.Array:
        return precision.norm(self.cross)

    def size(self, params: Params) -> jax.Array:
        return precision.norm(params["weights"])

    def eliminated(self, means: Means | None = None) -> Elimination | None:
        if self.feature_mean is None or self.target_mean is None:
            return None
        weights_alone = dataclasses.replace(self, feature_mean=None, target_mean=None)
        center = Center(self.feature_mean)  # G is already centred
        own = Means(center, self.target_mean, self.weight_total)
        return Elimination(weights_alone, own if means is None else means)

    def check_params(self, params: Params) -> None:
        shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(self.start))
        check_shapes(self, shapes, params)

    def value(self, params: Params) -> jax.Array:
        return self.value_and_gradient(params)[0]

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        return self.value_and_gradient_at(params, self.image(params))

    def curvature(self, params: Params, direction: Params) -> jax.Array:
        return self.curvature_along(params, direction, self.image(direction))

    @property
    def is_quadratic(self) -> bool:
        return True

    def stationary_solver(self, params: Params) -> GramSpectrum:
        """The spectral factorisation of G, which serves every penalty and output."""
        del params
        return GramSpectrum.of(self.gram)

    def stationary_solver_bytes(self, params: Params) -> int:
        del params
        # The copy that the eigenvectors overwrite, and LAPACK's workspace.
        return 4 * self.gram.size * self.gram.dtype.itemsize

    def image(self, direction: Params) -> Params:
        """``G d``, and with an intercept the change of the mean prediction."""
        weights = direction["weights"]
        image = {"weights": contract(self.gram, 1, weights)}
        if self.feature_mean is not None:
            offset = contract(self.feature_mean, 0, weights)
            image["intercept"] = offset + direction["intercept"]
        return image

    def value_and_gradient_at(self, params: Params, image: Params) -> tuple[jax.Array, Params]:
        weights, normal = params["weights"], image["weights"] - self.cross
        offset = None
        loss = self.squares + precision.inner(weights, normal - self.cross)
        if self.target_mean is not None:
            offset = image["intercept"] - self.target_mean
            loss = loss + self.weight_total * jnp.sum(jnp.square(offset))
        penalised = self.penalty() * weights
        value = 0.5 * (jnp.maximum(loss, 0) + precision.inner(weights, penalised))
        return value, self._pull_back(normal + penalised, offset)

    def hessian_product(self, params: Params, direction: Params) -> Params:
        del params
        image = self.image(direction)
        penalised = self.penalty() * direction["weights"]
        return self._pull_back(image["weights"] + penalised, image.get("intercept"))

    def curvature_along(self, params: Params, direction: Params, image: Params) -> jax.Array:
        del params
        weights = direction["weights"]
        curvature = precision.inner(weights, image["weights"] + self.penalty() * weights)
        if self.feature_mean is not None:
            curvature = curvature + self.weight_total * jnp.sum(jnp.square(image["intercept"]))
        return curvature

    def curvature_bounds(self, params: Params) -> Bounds | None:
        del params
        squared = jnp.trace(self.gram)
        if self.feature_mean is None:
            return regression_bounds(squared, self.l2, None)
        squared = squared + self.weight_total * jnp.sum(jnp.square(self.feature_mean))
        return regression_bounds(squared, self.l2, self.weight_total)

    def newton_step(self, spectrum: GramSpectrum, gradient: Params) -> Params:
        """Minus the inverse of the Hessian, times ``gradient``."""
        # In the unknowns (w, c) with b = c - x_bar.w the Hessian is block-diagonal.
        columns = gradient["weights"]
        if self.feature_mean is None:
            return {"weights": -spectrum.inverse(columns, self.l2)}
        of_intercept = gradient["intercept"]
        columns = columns - outer(self.feature_mean, of_intercept)
        weights = -spectrum.inverse(columns, self.l2)
        offset = contract(self.feature_mean, 0, weights)
        return {"weights": weights, "intercept": -of_intercept / self.weight_total - offset}

    def _pull_back(self, columns: jax.Array, offset: jax.Array | None) -> Params:
        if offset is None or self.feature_mean is None:
            return {"weights": columns}
        of_intercept = self.weight_total * offset
        columns = columns + outer(self.feature_mean, of_intercept)
        return {"weights": columns, "intercept": of_intercept}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GramSpectrum:
    """The factorisation ``G = V diag(eigenvalues) V'`` of a positive semidefinite matrix, which
    serves every penalty: ``(G + l2 I)^-1 = V diag(1 / (eigenvalue + l2)) V'``.
    """

    eigenvalues: jax.Array
    eigenvectors: jax.Array

    @classmethod
    def of(cls, matrix: jax.Array) -> GramSpectrum:
        """Factorise a symmetric (n, n) array."""
        return cls(*factors.eigh(matrix))

    def gain(self, l2: jax.Array) -> jax.Array:
        """``1 / (eigenvalue + l2)``, (n, *l2.shape); zero where the sum is rounding error only."""
        eigenvalues, l2 = self.eigenvalues, l2.astype(self.eigenvalues.dtype)
        cutoff = self._rounding()
        positive = jnp.maximum(eigenvalues, 0).reshape(-1, *[1] * l2.ndim)
        shifted = positive + l2[None]
        return jnp.where(shifted > cutoff, 1 / jnp.where(shifted > cutoff, shifted, 1), 0)

    def _rounding(self) -> jax.Array:
        """A bound on the computed eigenvalue where the exact one is zero."""
        eps = jnp.finfo(self.eigenvalues.dtype).eps
        return eps * self.eigenvalues.size * jnp.max(jnp.abs(self.eigenvalues))

    def inverse(self, columns: jax.Array, l2: jax.Array) -> jax.Array:
        """``(matrix + l2 I)^+ columns``, where ``l2`` is a scalar or one number for each column."""
        gain = self.gain(l2)
        if l2.ndim == 0:
            gain = gain.reshape(-1, *[1] * (columns.ndim - 1))
        coordinates = contract(self.eigenvectors, 0, columns)
        return contract(self.eigenvectors, 1, gain * coordinates)

    def height(
        self, objective: Any, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """``-g.step / 2`` for the Newton step, and the largest curvature. No eigenvalue counts as
        less than its rounding error.
        """
        del params, is_solution
        cutoff = self._rounding()
        known = dataclasses.replace(self, eigenvalues=jnp.maximum(self.eigenvalues, 2 * cutoff))
        step = objective.newton_step(known, gradient)
        largest = jnp.max(jnp.abs(self.eigenvalues)) + jnp.max(objective.penalty())
        return jnp.maximum(-0.5 * precision.inner(gradient, step), 0), largest

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        """The end of a Newton step, which is exact up to rounding; a second step refines it."""
        step = objective.newton_step(self, gradient)
        least = jnp.min(self.eigenvalues) + jnp.min(objective.penalty())
        return jax.tree.map(jnp.add, params, step), least < -self._rounding()


def ridge_path(form: GramForm, penalties: Any) -> Params:
    """The minimisers for many penalties at once, by one spectral factorisation of G.

    With ``G = V diag(e) V'`` they are ``w(l2) = V diag(1 / (e + l2)) V'c``. The factorisation takes
    about ``10 features^3`` operations; each penalty and output then takes ``features^2``, in one
    matrix product. Where G is well-conditioned, ``jd.Gram()`` takes less time on a regression with
    a copy of y and an ``l2`` for each penalty: each of its iterations is one such product.

    Args:
      form: the Gram form of the regression; its own ``l2`` is not used.
      penalties: (penalties,), each at least 0.

    Returns:
      The regression's params with a leading axis of penalties.

    Raises:
      ValueError: if ``penalties`` is not one-dimensional.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> regression = jd.LinearRegression(X, jnp.array([1.0, 4.0]), intercept=False)
    >>> path = ridge_path(GramForm.from_regression(regression), jnp.array([0.0, 1.0, 4.0]))
    >>> expected = jnp.array([[1.0, 2.0], [0.5, 1.6], [0.2, 1.0]])
    >>> bool(jnp.allclose(path["weights"], expected, rtol=1e-5))
    True

    Reference: Hastie, Tibshirani and Friedman (2009), "The elements of statistical learning",
    section 3.4.1.
    """
    penalties = jnp.asarray(penalties, form.gram.dtype)
    if penalties.ndim != 1:
        raise ValueError(
            f"penalties must have shape (penalties,), got {penalties.shape}: pass a list or a "
            "one-dimensional array."
        )
    spectrum = GramSpectrum.of(form.gram)
    weights = jax.vmap(spectrum.inverse, (None, 0))(form.cross, penalties)
    params = {"weights": weights}
    if form.feature_mean is not None and form.target_mean is not None:
        offset = contract(weights, 1, form.feature_mean)
        params["intercept"] = form.target_mean[None] - offset
    return params
