"""A regression by its Gram matrix: after one pass over X, features^2 an iteration."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent import precision
from jaxdescent.designs import Design, as_design
from jaxdescent.objectives.eigenvalue_bounds import regression_bounds
from jaxdescent.objectives.forms.blocks import block_length, contract, per_row, sum_over_blocks
from jaxdescent.objectives.forms.products import columns_of, unit
from jaxdescent.objectives.forms.spectral import SpectralObjective, Spectrum
from jaxdescent.objectives.linear_regression import LinearRegression
from jaxdescent.objectives.protocol import Bounds, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GramForm(SpectralObjective):
    """The same function of the same params as a ``jd.LinearRegression``, without its rows.

    With ``S = sum_i s_i``, weighted means ``x_bar, y_bar``, ``G = sum_i s_i (x_i - x_bar)(x_i -
    x_bar)'``, ``c = sum_i s_i (x_i - x_bar)(y_i - y_bar)`` and ``q = sum_i s_i (y_i - y_bar)^2``::

        f(w, b) = 1/2 (q - 2 w.c + w.Gw) + S/2 (x_bar.w + b - y_bar)^2 + l2/2 |w|^2

    (without an intercept the means are zero, and the term of the offset is missing). The penalty
    is not a part of G: one form serves every ``l2``, by :meth:`with_penalty`.

    Building it is one pass over X and ``rows * features^2`` multiplications and additions; after
    that a gradient is one product with G, features^2 for each output, however many the rows. It
    pays where more gradients are asked for than about half as many as there are features, or where
    G's ``features^2`` are fewer numbers than X's and X does not fit the cache.

    Rows are read in blocks of a few megabytes, in the order they lie in; a 16-bit X is widened
    block by block. Each block's products are summed in the working precision (float32 stays
    float32, on any device), the blocks in double length, after the mean of the first block has
    been taken off, so that a mean far from zero costs no digits. What G cannot give back is the
    square: its condition number is that of X, squared, and the value is a difference of sums of
    the size of ``q``, so that it carries an absolute error of about ``eps q``: where the residual
    is smaller than that it is noise, cut at zero. ``jd.LSMR()`` and ``jd.ConjugateGradient()`` on
    the regression itself have neither limit.

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
    l2: Any

    @classmethod
    def from_regression(cls, regression: LinearRegression, *, block: int | None = None) -> GramForm:
        """One pass over X; for a matrix-free X two products for every feature.

        Args:
          regression: the objective to rewrite.
          block: how many rows are read at a time. None: what fits the cache, at least 1024; on
            several devices all, since X may be sharded over them.
        """
        design = as_design(regression.X)
        y = jnp.asarray(regression.y).astype(design.dtype)
        weight = regression.sample_weight
        if weight is not None:
            weight = jnp.asarray(weight).astype(design.dtype)
        if design.row_block(0, 1) is None:
            sums = _by_products(design, y, weight, regression.intercept)
        else:
            sums = _by_rows(design, y, weight, regression.intercept, block)
        return cls(*sums, l2=jnp.asarray(regression.l2, design.dtype))

    def with_penalty(self, l2: Any) -> GramForm:
        """The same data with another penalty, at no cost."""
        return dataclasses.replace(self, l2=jnp.asarray(l2, self.gram.dtype))

    def regression_params(self, regression: LinearRegression, params: Params) -> Params:
        """The way back to the regression's params, which are the form's own."""
        del regression
        return params

    def start(self) -> Params:
        weights = jnp.zeros(self.cross.shape, self.cross.dtype)
        if self.target_mean is None:
            return {"weights": weights}
        return {"weights": weights, "intercept": jnp.zeros_like(self.target_mean)}

    def check_params(self, params: Params) -> None:
        expected = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(self.start))
        got = jax.tree.map(jnp.shape, params)
        if got != expected:
            raise ValueError(
                f"GramForm needs params of shapes {expected}, got {got}: pass params=None to start "
                "from zeros."
            )

    def image(self, direction: Params) -> Params:
        """``G d``, and with an intercept the change of the mean prediction."""
        weights = direction["weights"]
        image = {"weights": contract(self.gram, 1, weights)}
        if self.feature_mean is not None:
            offset = contract(self.feature_mean, 0, weights)
            image["intercept"] = offset + direction["intercept"]
        return image

    def value(self, params: Params) -> jax.Array:
        return self.value_and_gradient(params)[0]

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        return self.value_and_gradient_at(params, self.image(params))

    def value_and_gradient_at(self, params: Params, image: Params) -> tuple[jax.Array, Params]:
        weights, normal = params["weights"], image["weights"] - self.cross
        offset = None
        loss = self.squares + precision.inner(weights, normal - self.cross)
        if self.target_mean is not None:
            offset = image["intercept"] - self.target_mean
            loss = loss + self.weight_total * jnp.sum(jnp.square(offset))
        penalised = self._penalty() * weights
        value = 0.5 * (jnp.maximum(loss, 0) + precision.inner(weights, penalised))
        return value, self._pull_back(normal + penalised, offset)

    def gradient(self, params: Params) -> Params:
        return self.value_and_gradient(params)[1]

    def hessian_product(self, params: Params, direction: Params) -> Params:
        del params
        image = self.image(direction)
        penalised = self._penalty() * direction["weights"]
        return self._pull_back(image["weights"] + penalised, image.get("intercept"))

    def curvature(self, params: Params, direction: Params) -> jax.Array:
        return self.curvature_along(params, direction, self.image(direction))

    def curvature_along(self, params: Params, direction: Params, image: Params) -> jax.Array:
        del params
        weights = direction["weights"]
        curvature = precision.inner(weights, image["weights"] + self._penalty() * weights)
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

    @property
    def is_quadratic(self) -> bool:
        return True

    def stationary_solver(self, params: Params) -> Spectrum:
        """The spectrum of G, which serves every penalty and output."""
        del params
        return Spectrum.of(self.gram)

    def stationary_solver_bytes(self, params: Params) -> int:
        del params
        # A copy that becomes the vectors, and LAPACK's workspace.
        return 4 * self.gram.size * self.gram.dtype.itemsize

    def newton_step(self, spectrum: Spectrum, gradient: Params) -> Params:
        # In the unknowns (w, c) with b = c - x_bar.w the Hessian is block-diagonal.
        columns = gradient["weights"]
        if self.feature_mean is None:
            return {"weights": -spectrum.inverse(columns, self.l2)}
        of_intercept = gradient["intercept"]
        columns = columns - jnp.tensordot(self.feature_mean, of_intercept, 0)
        weights = -spectrum.inverse(columns, self.l2)
        offset = contract(self.feature_mean, 0, weights)
        return {"weights": weights, "intercept": -of_intercept / self.weight_total - offset}

    def _penalty(self) -> jax.Array:
        """l2 as a scalar, or as (1, outputs) to go with weights of (features, outputs)."""
        l2 = jnp.asarray(self.l2, self.gram.dtype)
        return l2[None, :] if l2.ndim == 1 else l2

    def _pull_back(self, columns: jax.Array, offset: jax.Array | None) -> Params:
        if offset is None or self.feature_mean is None:
            return {"weights": columns}
        of_intercept = self.weight_total * offset
        columns = columns + jnp.tensordot(self.feature_mean, of_intercept, 0)
        return {"weights": columns, "intercept": of_intercept}


def gram_form_bytes(features: int, outputs: int = 1, itemsize: int = 4) -> int:
    """What a :class:`GramForm` keeps: G, c and the means.

    >>> gram_form_bytes(1000)
    4008008
    """
    return (features * (features + outputs + 1) + outputs + 1) * itemsize


def gram_build_bytes(
    rows: int,
    features: int,
    outputs: int = 1,
    itemsize: int = 4,
    *,
    is_centred: bool = True,
    is_weighted: bool = False,
    is_widened: bool = False,
) -> int:
    """What building one takes at its peak, beyond X and y: besides what is kept the other half of
    the sums, a block's own products, and a block, once centred and once weighted.

    Args:
      rows: of X.
      features: of X.
      outputs: of y.
      itemsize: of the dtype of the arithmetic.
      is_centred: whether there is an intercept.
      is_weighted: whether rows are weighted.
      is_widened: whether X is stored in 16 bits.
    """
    block = block_length(rows, features, itemsize)
    kept = gram_form_bytes(features, outputs, itemsize)
    is_copied = is_centred or is_widened or block < rows
    copies = is_copied + is_weighted
    lines = block + rows % block  # the last, shorter block has room of its own
    return (1 if block == rows else 3) * kept + copies * lines * features * itemsize


def ridge_path(form: GramForm, penalties: Any) -> Params:
    """The minimisers for many penalties at once, by one spectral factorisation of G.

    With ``G = V diag(e) V'`` they are ``w(l2) = V diag(1 / (e + l2)) V'c``: about ten features^3
    for the factorisation, then features^2 for each penalty and output, in one matrix product.
    Where G is well-conditioned, a regression
    with a copy of y and an ``l2`` for each penalty, minimised by ``jd.Gram()``, takes less time:
    an iteration is one such product.

    Args:
      form: of the regression; its own ``l2`` plays no part.
      penalties: (penalties,), each at least 0.

    Returns:
      The regression's params with a leading axis for the penalties.

    >>> import jax.numpy as jnp
    >>> X = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> regression = LinearRegression(X, jnp.array([1.0, 4.0]), intercept=False)
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
    spectrum = Spectrum.of(form.gram)
    columns = form.cross.reshape(form.cross.shape[0], -1)  # (features, outputs)
    gain = spectrum.gain(penalties)  # (features, penalties)
    coordinates = gain[:, :, None] * spectrum.coordinates(columns)[:, None, :]
    weights = spectrum.combined(coordinates.reshape(gain.shape[0], -1))
    weights = weights.reshape(*gain.shape, -1).transpose(1, 0, 2)
    params = {"weights": weights.reshape(-1, *form.cross.shape)}
    if form.feature_mean is not None and form.target_mean is not None:
        offset = contract(params["weights"], 1, form.feature_mean)
        params["intercept"] = form.target_mean[None] - offset
    return params


class _Sums(NamedTuple):
    gram: jax.Array
    cross: jax.Array
    squares: jax.Array
    feature_mean: jax.Array | None
    target_mean: jax.Array | None
    weight_total: jax.Array


class _Moments(NamedTuple):
    """Sums over rows, from an origin near the mean; the last two only with an intercept."""

    gram: jax.Array
    cross: jax.Array
    squares: jax.Array
    weight: jax.Array
    features: jax.Array | None
    targets: jax.Array | None


def _by_rows(
    design: Design, y: jax.Array, weight: jax.Array | None, intercept: bool, block: int | None
) -> _Sums:
    rows, features = design.shape
    if block is None:
        block = block_length(rows, features, jnp.dtype(design.dtype).itemsize)
    block = min(block, rows)

    def of(array: jax.Array, start: Any, size: int) -> jax.Array:
        return array if size == rows else lax.dynamic_slice_in_dim(array, start, size)

    def read(start: Any, size: int) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        X = design.to_dense() if size == rows else design.row_block(start, size)
        assert X is not None  # what cannot be read goes by products
        return X, of(y, start, size), None if weight is None else of(weight, start, size)

    origin = None
    if intercept:
        X, targets, own = read(0, block)
        share = _total(own, block, X.dtype)
        share = jnp.where(share > 0, share, 1)  # a block of zero weights has no mean: from zero
        origin = (
            jnp.sum(per_row(own, X), axis=0) / share,
            jnp.sum(per_row(own, targets), axis=0) / share,
        )

    def moments(start: Any, size: int) -> _Moments:
        X, targets, own = read(start, size)
        if origin is not None:
            X, targets = X - origin[0][None], targets - origin[1][None]
        weighted = per_row(own, targets)
        return _Moments(
            gram=contract(per_row(own, X), 0, X),
            cross=contract(X, 0, weighted),
            squares=jnp.sum(weighted * targets),
            weight=_total(own, size, X.dtype),
            features=jnp.sum(per_row(own, X), axis=0) if intercept else None,
            targets=jnp.sum(weighted, axis=0) if intercept else None,
        )

    sums = sum_over_blocks(moments, rows, block)
    if origin is None:
        return _Sums(sums.gram, sums.cross, sums.squares, None, None, sums.weight)
    # From the origin to the mean, which is near: little cancels.
    feature_shift, target_shift = sums.features / sums.weight, sums.targets / sums.weight
    return _Sums(
        gram=sums.gram - jnp.outer(feature_shift, sums.features),
        cross=sums.cross - jnp.tensordot(feature_shift, sums.targets, 0),
        squares=jnp.maximum(sums.squares - jnp.sum(target_shift * sums.targets), 0),
        feature_mean=origin[0] + feature_shift,
        target_mean=origin[1] + target_shift,
        weight_total=sums.weight,
    )


def _by_products(design: Design, y: jax.Array, weight: jax.Array | None, intercept: bool) -> _Sums:
    """Column after column of G, for a design that only multiplies."""
    rows, features = design.shape
    weight_total = _total(weight, rows, design.dtype)
    feature_mean = target_mean = None
    targets = y
    if intercept:
        share = per_row(weight, jnp.ones((rows,), design.dtype)) / weight_total
        feature_mean = design.transposed_product(share)
        target_mean = contract(share, 0, y)
        targets = y - target_mean[None]
    weighted = per_row(weight, targets)
    cross = design.transposed_product(weighted)
    if feature_mean is not None:
        cross = cross - jnp.tensordot(feature_mean, jnp.sum(weighted, axis=0), 0)

    def column(index: jax.Array) -> jax.Array:
        image = design.product(unit(index, features, design.dtype))
        if feature_mean is not None:
            image = image - feature_mean[index]
        image = per_row(weight, image)
        pulled = design.transposed_product(image)
        return pulled if feature_mean is None else pulled - feature_mean * jnp.sum(image)

    gram = columns_of(column, features, rows, design.dtype)
    squares = jnp.sum(weighted * targets)
    return _Sums(gram, cross, squares, feature_mean, target_mean, weight_total)


def _total(weight: jax.Array | None, rows: int, dtype: Any) -> jax.Array:
    return jnp.full((), rows, dtype) if weight is None else jnp.sum(weight)
