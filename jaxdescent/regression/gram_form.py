"""The Gram form of a regression: one pass over X, then ``features^2`` operations for a gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.designs import Center, Dense, Design, Standardised, as_design, shares
from jaxdescent.designs.normal_sums import NormalSums
from jaxdescent.display import argument
from jaxdescent.kernels import factors
from jaxdescent.kernels.platform import on_one_cpu
from jaxdescent.kernels.products import contract, outer
from jaxdescent.kernels.symmetric import (
    BLOCK_BYTES,
    MOST_HALVINGS,
    block_length,
    sum_over_blocks,
    symmetric_product,
    whole,
)
from jaxdescent.numerics import precision
from jaxdescent.objectives.answers import Bounds
from jaxdescent.objectives.elimination import Means
from jaxdescent.objectives.protocol import Objective, Params
from jaxdescent.regression.linear_model import scaled_rows
from jaxdescent.regression.linear_regression import LinearRegression


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GramForm(Objective):
    """A ``jd.LinearRegression`` as the same function of its weights, without its rows.

    With ``S = sum_i s_i``, weighted means ``x_bar, y_bar``, ``G = sum_i s_i (x_i - x_bar)(x_i -
    x_bar)'``, ``c = sum_i s_i (x_i - x_bar)(y_i - y_bar)`` and ``q = sum_i s_i (y_i - y_bar)^2``::

        f(w) = 1/2 (q - 2 w.c + w.Gw) + l2/2 |w|^2

    The intercept is the best for the weights, ``y_bar - x_bar.w``; without one the means are zero.
    The penalty is not part of G: one form serves every ``l2``, by :meth:`with_penalty`.

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
    >>> regression = LinearRegression(X, jnp.array([1.0, 3.0, 5.0]))
    >>> form, means = GramForm.of(regression)
    >>> print(form.value({"weights": jnp.array([3.0])}), means.with_intercept(jnp.array([3.0])))
    1.0 {'weights': Array([3.], dtype=float32), 'intercept': Array(0., dtype=float32)}

    References: Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance";
    Björck (1996), "Numerical methods for least squares problems", section 2.2.
    """

    gram: jax.Array  # (features, features)
    cross: jax.Array  # (features,) or (features, outputs)
    squares: jax.Array
    weight_total: jax.Array
    l2: Any = dataclasses.field(kw_only=True)

    @classmethod
    def of(cls, regression: LinearRegression) -> tuple[GramForm, Means | None]:
        """The form, and the means that the intercept follows from; None without an intercept.

        It takes one pass over X; a matrix-free X takes two products for each feature.

        Args:
          regression: the objective to rewrite.
        """
        design, intercept = as_design(regression.X), regression.intercept
        y = jnp.asarray(regression.y).astype(design.dtype)
        weight = regression.sample_weight
        if weight is not None:
            weight = jnp.asarray(weight).astype(design.dtype)
        sums = design.normal_sums(weight, y.reshape(y.shape[0], -1), intercept=intercept)
        if sums is None and design.row_block(0, 1) is None:
            sums = _sums_by_products(design, y, weight, intercept)
        elif sums is None:
            rows, features = design.shape
            length = block_length(rows, features, jnp.dtype(design.dtype).itemsize)
            given = design, y, weight, intercept
            # Blocks fit the cache of one CPU. Elsewhere X may be sharded: all rows are one block.
            sums = on_one_cpu(
                lambda: _sums_by_rows(*given, length, halvings=MOST_HALVINGS),
                lambda: _sums_by_rows(*given, rows, halvings=0),
            )
        outputs = y.shape[1:]
        own = sums.gram, sums.cross.reshape(-1, *outputs), sums.squares, sums.weight_total
        form = cls(*own, l2=jnp.asarray(regression.l2, design.dtype))
        if not intercept:
            return form, None
        center = Center(sums.feature_mean)  # G is already centred
        return form, Means(center, sums.target_mean.reshape(outputs), sums.weight_total)

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

    @property
    def is_quadratic(self) -> bool:
        return True

    def lower_bound(self) -> jax.Array:
        is_convex = (jnp.min(self.l2) >= 0) & (self.weight_total > 0)
        return jnp.where(is_convex & (jnp.min(jnp.diagonal(self.gram)) >= 0), 0.0, -jnp.inf)

    def value(self, params: Params) -> jax.Array:
        return self.value_and_gradient(params)[0]

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        return self.value_and_gradient_at(params, self.image(params))

    def hessian_product(self, params: Params, direction: Params) -> Params:
        penalised = self.penalty() * direction["weights"]
        return {"weights": self.image(direction)["weights"] + penalised}

    def image(self, direction: Params) -> Params:
        """``G d``."""
        return {"weights": contract(self.gram, 1, direction["weights"])}

    def value_and_gradient_at(self, params: Params, image: Params) -> tuple[jax.Array, Params]:
        weights, normal = params["weights"], image["weights"] - self.cross
        loss = self.squares + precision.inner(weights, normal - self.cross)
        penalised = self.penalty() * weights
        value = 0.5 * (jnp.maximum(loss, 0) + precision.inner(weights, penalised))
        return value, {"weights": normal + penalised}

    def curvature_along(self, params: Params, direction: Params, image: Params) -> jax.Array:
        weights = direction["weights"]
        return precision.inner(weights, image["weights"] + self.penalty() * weights)

    def curvature_bounds(self, params: Params) -> Bounds | None:
        return Bounds(jnp.min(self.l2), jnp.trace(self.gram) + jnp.max(self.l2))

    def stationary_solver(self, params: Params) -> GramSpectrum:
        """The spectral factorisation of G, which serves every penalty and output."""
        return GramSpectrum(*factors.eigh(self.gram))

    def stationary_solver_bytes(self, params: Params) -> int:
        # The copy that the eigenvectors overwrite, and LAPACK's workspace.
        return 4 * self.gram.size * self.gram.dtype.itemsize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GramSpectrum:
    """The factorisation ``G = V diag(eigenvalues) V'`` of a positive semidefinite matrix, which
    serves every penalty: ``(G + l2 I)^-1 = V diag(1 / (eigenvalue + l2)) V'``.
    """

    eigenvalues: jax.Array
    eigenvectors: jax.Array

    @property
    def _rounding(self) -> jax.Array:
        """A bound on the computed eigenvalue where the exact one is zero."""
        eps = jnp.finfo(self.eigenvalues.dtype).eps
        return eps * self.eigenvalues.size * jnp.max(jnp.abs(self.eigenvalues))

    def _step(self, form: GramForm, gradient: Params, least: jax.Array) -> Params:
        """``-(G + l2 I)^+`` times the gradient, where no eigenvalue counts as less than ``least``,
        and a sum that is rounding error only has no inverse.
        """
        columns = gradient["weights"]
        eigenvalues = jnp.maximum(self.eigenvalues, least).reshape(-1, *[1] * (columns.ndim - 1))
        shifted, cutoff = eigenvalues + form.penalty(), self._rounding
        gain = jnp.where(shifted > cutoff, 1 / jnp.where(shifted > cutoff, shifted, 1), 0)
        coordinates = contract(self.eigenvectors, 0, columns)
        return {"weights": -contract(self.eigenvectors, 1, gain * coordinates)}

    def height(
        self, objective: GramForm, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """``-g.step / 2`` for the Newton step, and the largest curvature. No eigenvalue counts as
        less than its rounding error.
        """
        step = self._step(objective, gradient, 2 * self._rounding)
        largest = jnp.max(jnp.abs(self.eigenvalues)) + jnp.max(objective.penalty())
        return jnp.maximum(-0.5 * precision.inner(gradient, step), 0), largest

    def solve(
        self, objective: GramForm, params: Params, gradient: Params
    ) -> tuple[Params, jax.Array]:
        """The end of a Newton step, which is exact up to rounding; a second step refines it."""
        step = self._step(objective, gradient, jnp.zeros_like(self._rounding))
        least = jnp.min(self.eigenvalues) + jnp.min(objective.penalty())
        return jax.tree.map(jnp.add, params, step), least < -self._rounding


def _sums_by_rows(
    design: Design,
    y: jax.Array,
    weight: jax.Array | None,
    intercept: bool,
    block: int,
    *,
    halvings: int,
) -> NormalSums:
    """The sums for a design whose rows can be read, ``block`` rows at a time."""
    rows = design.shape[0]

    def of(array: jax.Array, start: Any, size: int) -> jax.Array:
        return array if size == rows else lax.dynamic_slice_in_dim(array, start, size)

    def read(start: Any, size: int) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        X = design.to_dense() if size == rows else design.row_block(start, size)
        assert X is not None  # GramForm.of takes products otherwise
        return X, of(y, start, size), None if weight is None else of(weight, start, size)

    origin = None
    if intercept:
        X, targets, own = read(0, block)
        share = _total(own, block, X.dtype)
        share = jnp.where(share > 0, share, 1)  # A block of zero weights has its origin at zero.
        origin = (
            jnp.sum(scaled_rows(X, own), axis=0) / share,
            jnp.sum(scaled_rows(targets, own), axis=0) / share,
        )

    def moments(start: Any, size: int) -> tuple[Any, ...]:
        X, targets, own = read(start, size)
        if origin is not None:
            X, targets = X - origin[0][None], targets - origin[1][None]
        weighted = scaled_rows(targets, own)
        return (
            symmetric_product(scaled_rows(X, own), X, 0, halvings),
            _cross(X, weighted),
            jnp.sum(weighted * targets),
            _total(own, size, X.dtype),
            jnp.sum(scaled_rows(X, own), axis=0) if intercept else None,
            jnp.sum(weighted, axis=0) if intercept else None,
        )

    gram, cross, squares, total, *firsts = sum_over_blocks(moments, rows, block)
    gram = whole(gram)
    if origin is None:
        return NormalSums(gram, cross, squares, None, None, total)
    # Shift from the origin to the mean, which is near, so that little cancels.
    features, targets = firsts
    feature_shift, target_shift = features / total, targets / total
    return NormalSums(
        gram=gram - jnp.outer(feature_shift, features),
        cross=cross - outer(feature_shift, targets),
        squares=jnp.maximum(squares - jnp.sum(target_shift * targets), 0),
        feature_mean=origin[0] + feature_shift,
        target_mean=origin[1] + target_shift,
        weight_total=total,
    )


def _cross(X: jax.Array, weighted: jax.Array) -> jax.Array:
    """``X' weighted``; one output takes the plain form, which does not copy a centred X."""
    if weighted.ndim == 1 or weighted.shape[1] == 1:
        return contract(weighted, 0, X).T
    return Dense.from_array(X).transposed_product(weighted)


def _sums_by_products(
    design: Design, y: jax.Array, weight: jax.Array | None, intercept: bool
) -> NormalSums:
    """The sums for a design of which only products are known: G is computed column by column."""
    rows, features = design.shape
    weight_total = _total(weight, rows, design.dtype)
    feature_mean = target_mean = None
    targets, centred = y, design
    if intercept:
        share = shares(design, weight)
        feature_mean = design.transposed_product(share)
        target_mean = contract(share, 0, y)
        targets, centred = y - target_mean[None], Standardised(design, Center(feature_mean))
    weighted = scaled_rows(targets, weight)
    cross = centred.transposed_product(weighted)

    def column(index: jax.Array) -> jax.Array:
        unit = jnp.arange(features, dtype=jnp.int32) == index
        image = centred.product(unit.astype(design.dtype))
        return centred.transposed_product(scaled_rows(image, weight))

    # As many columns are computed at a time as the cache holds images of.
    at_once = max(1, min(features, BLOCK_BYTES // (rows * jnp.dtype(design.dtype).itemsize)))
    gram = lax.map(column, jnp.arange(features, dtype=jnp.int32), batch_size=at_once)
    gram = 0.5 * (gram + gram.T)
    squares = jnp.sum(weighted * targets)
    return NormalSums(gram, cross, squares, feature_mean, target_mean, weight_total)


def _total(weight: jax.Array | None, rows: int, dtype: Any) -> jax.Array:
    return jnp.full((), rows, dtype) if weight is None else jnp.sum(weight)
