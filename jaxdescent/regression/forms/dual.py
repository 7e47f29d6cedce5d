"""The dual form of a regression: one pass over X, then ``rows^2`` operations for a gradient."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs import Center, Design, Standardised, as_design, shares
from jaxdescent.kernels import loops
from jaxdescent.kernels.platform import has_one_cpu, on_one_cpu
from jaxdescent.kernels.products import contract
from jaxdescent.kernels.symmetric import (
    BLOCK_BYTES,
    Symmetric,
    block_length,
    per_row,
    sum_over_blocks,
    symmetric_product,
    whole,
)
from jaxdescent.numerics import precision
from jaxdescent.objectives.answers import Bounds
from jaxdescent.objectives.elimination import Means
from jaxdescent.objectives.protocol import Params
from jaxdescent.regression.forms.products import columns_of, unit
from jaxdescent.regression.forms.spectral import GramSpectrum, SpectralObjective
from jaxdescent.regression.linear_regression import LinearRegression


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DualForm(SpectralObjective):
    """A ``jd.LinearRegression`` in the space of its rows, with weights ``w = A'a``.

    With ``D = diag(sqrt(s))``, weighted means ``x_bar, y_bar``, ``A = D (X - 1 x_bar')``,
    ``t = D (y - y_bar)`` (no means without an intercept) and ``K = A A'``, (rows, rows)::

        q(a) = 1/2 a.(K + l2 I) a - t.a

    The params are an array a of shape (rows,) or (rows, outputs). A gradient step on q is a
    gradient step on the regression whose intercept is kept at its optimum, ``y_bar - x_bar.w``::

        a <- a - rate ((K + l2 I) a - t)    is    w <- w - rate (A'(A w - t) + l2 w)

    so that with a constant or scheduled rate, with or without momentum, and from zeros, the
    iterates are ``w_k = A'a_k`` exactly. A minimiser of q gives the regression's minimiser, the one
    of least norm if there are several. Conjugate gradients on q have other iterates than on the
    regression: they minimise another norm over the same Krylov space, without a penalty the
    distance to the solution instead of the residual (Craig's method). The value of q is not the
    regression's value; :meth:`progress` gives that, and the norm of the regression's gradient.

    Without a penalty q has a minimum only if the equations ``A w = t`` have a solution, as they do
    if X has more features than rows and its rows are linearly independent. If they have none,
    descent on q ends ``DIVERGED``: give an ``l2``, or use the Gram form.

    Building the form takes one pass over X (two with an intercept) and ``rows^2 * features``
    multiplications and additions, on one CPU little more than half of them. After that a gradient
    is one product with K, whatever the number of features, and :meth:`regression_params` is one
    product with X'. Columns are read in blocks, and a 16-bit X is widened block by block; the
    blocks' products are summed in double length. The condition number of K is the square of A's.

    >>> import jax.numpy as jnp
    >>> regression = LinearRegression(jnp.ones((1, 4)), jnp.array([2.0]), intercept=False)
    >>> form = DualForm.from_regression(regression)
    >>> print(form.regression_params(regression, jnp.array([0.5]))["weights"])
    [0.5 0.5 0.5 0.5]

    References: Saunders, Gammerman and Vovk (1998), "Ridge regression learning algorithm in dual
    variables"; Craig (1955), "The N-step iteration procedures".
    """

    kernel: jax.Array  # (rows, rows)
    targets: jax.Array  # (rows,) or (rows, outputs): D (y - y_bar)
    root: jax.Array | None  # (rows,): sqrt(s)
    center: Center | None  # the means of X
    target_mean: jax.Array | None  # () or (outputs,)

    @classmethod
    def from_regression(cls, regression: LinearRegression, *, block: int | None = None) -> DualForm:
        """Build the form in one pass over X; a matrix-free X takes two products for each row.

        Args:
          regression: the objective to rewrite.
          block: how many columns are read at a time. None stands for as many as fit the cache of
            one CPU (at least 2,048), and otherwise for all, since X may be sharded.
        """
        design = as_design(regression.X)
        y = jnp.asarray(regression.y).astype(design.dtype)
        weight = share = root = target_mean = None
        if regression.sample_weight is not None:
            weight = jnp.asarray(regression.sample_weight).astype(design.dtype)
            root = jnp.sqrt(jnp.maximum(weight, 0))
        if regression.intercept:
            share = shares(design, weight)
            target_mean = contract(share, 0, y)
            y = y - target_mean[None]
        if design.column_block(0, 1) is None:
            kernel, center = _by_products(design, root, share)
        else:
            kernel, center = _by_columns(design, root, share, block)
        l2 = jnp.asarray(regression.l2, design.dtype)
        return cls(kernel, per_row(root, y), root, center, target_mean, l2=l2)

    @property
    def matrix(self) -> jax.Array:
        return self.kernel

    @property
    def means(self) -> Means | None:
        """The means of features and targets, and the sum of the weights; None without intercept."""
        if self.center is None or self.target_mean is None:
            return None
        total = jnp.full((), self.kernel.shape[0], self.kernel.dtype)
        if self.root is not None:
            total = jnp.sum(jnp.square(self.root))
        return Means(self.center, self.target_mean, total)

    def regression_params(self, regression: LinearRegression, params: Params) -> Params:
        """The regression's params, ``w = A'a`` and the best intercept: one product with X'."""
        rows = per_row(self.root, params)
        design = as_design(regression.X)
        if self.center is None or self.target_mean is None:
            return {"weights": design.transposed_product(rows)}
        weights = Standardised(design, self.center).transposed_product(rows)
        intercept = self.target_mean - contract(self.center.mean, 0, weights)
        return {"weights": weights, "intercept": intercept}

    def progress(self, params: Params) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The regression's value at ``A'a``, the norm of its gradient, and a bound on the value
        minus the minimum; this takes two products with K.

        With ``r = t - (K + l2 I) a`` the gradient is ``-A'r``, and the value exceeds the minimum by
        ``1/2 r.K (K + l2 I)^-1 r``. This is at most ``1/2 |r|^2`` and at most ``r.K r / (2 l2)``;
        along an eigenvector of K the smaller of the two is at most twice the exact excess.
        """
        image = self.image(params)
        residual = image - self.targets
        penalised = self.penalty() * params
        value = precision.squared_norm(residual) + precision.inner(penalised, image)
        gradient = residual + penalised
        squares = jnp.maximum(jnp.sum(gradient * self.image(gradient), axis=0), 0)
        l2 = jnp.asarray(self.l2, squares.dtype)
        by_penalty = jnp.where(l2 > 0, squares / jnp.where(l2 > 0, l2, 1), jnp.inf)
        left = jnp.sum(jnp.minimum(jnp.sum(jnp.square(gradient), axis=0), by_penalty))
        return 0.5 * value, jnp.sqrt(jnp.sum(squares)), 0.5 * left

    def start(self) -> Params:
        return jnp.zeros_like(self.targets)

    def image(self, direction: Params) -> Params:
        return contract(self.kernel, 1, direction)

    def value_and_gradient_at(self, params: Params, image: Params) -> tuple[jax.Array, Params]:
        gradient = image + self.penalty() * params - self.targets
        return 0.5 * precision.inner(params, gradient - self.targets), gradient

    def hessian_product(self, params: Params, direction: Params) -> Params:
        del params
        return self.image(direction) + self.penalty() * direction

    def curvature_along(self, params: Params, direction: Params, image: Params) -> jax.Array:
        del params
        return precision.inner(direction, image + self.penalty() * direction)

    def curvature_bounds(self, params: Params) -> Bounds | None:
        del params
        return Bounds(jnp.min(self.l2), jnp.trace(self.kernel) + jnp.max(self.l2))

    def newton_step(self, spectrum: GramSpectrum, gradient: Params) -> Params:
        return -spectrum.inverse(gradient, self.l2)


def _by_columns(
    design: Design, root: jax.Array | None, share: jax.Array | None, block: int | None
) -> tuple[jax.Array, Center | None]:
    """K and the center, for a design whose columns can be read.

    ``block`` is the number of columns in a block on any platform. None stands for blocks that fit
    the cache of one CPU, and elsewhere for all columns at once.
    """
    rows, features = design.shape
    if block is not None:
        return _by_blocks(design, root, share, min(block, features), is_halved=has_one_cpu())
    length = block_length(features, rows, jnp.dtype(design.dtype).itemsize)
    return on_one_cpu(
        lambda: _by_blocks(design, root, share, length, is_halved=True),
        lambda: _by_blocks(design, root, share, features, is_halved=False),
    )


def _by_blocks(
    design: Design,
    root: jax.Array | None,
    share: jax.Array | None,
    block: int,
    *,
    is_halved: bool,
) -> tuple[jax.Array, Center | None]:
    features = design.shape[1]

    def read(start: Any, size: int) -> jax.Array:
        columns = design.to_dense() if size == features else design.column_block(start, size)
        assert columns is not None  # from_regression uses _by_products otherwise
        return columns

    def of_block(start: Any, size: int) -> Symmetric:
        columns = read(start, size)
        if share is not None:
            columns = columns - contract(share, 0, columns)[None, :]
        columns = per_row(root, columns)
        return symmetric_product(columns, columns, 1, is_halved=is_halved)

    kernel = whole(sum_over_blocks(of_block, features, block))
    if share is None:
        return kernel, None
    if block == features:
        return kernel, Center.known(design, design.transposed_product(share), share)
    count, rest = divmod(features, block)

    def mean(_: None, index: jax.Array) -> tuple[None, jax.Array]:
        return None, contract(share, 0, read(index * block, block))

    means = loops.scan(count, mean, None, turn_bytes=BLOCK_BYTES)[1].reshape(-1)
    if rest:
        means = jnp.concatenate([means, contract(share, 0, read(count * block, rest))])
    return kernel, Center.known(design, means, share)


def _by_products(
    design: Design, root: jax.Array | None, share: jax.Array | None
) -> tuple[jax.Array, Center | None]:
    """K, computed row after row for a design of which only products are known, and the center."""
    rows, features = design.shape
    center = None if share is None else Center(design.transposed_product(share))
    centred = Standardised(design, center)

    def column(index: jax.Array) -> jax.Array:
        own = per_row(root, unit(index, rows, design.dtype))
        return per_row(root, centred.product(centred.transposed_product(own)))

    kernel = columns_of(column, rows, features, design.dtype)
    return kernel, None if center is None else Center.known(design, center.mean, share)
