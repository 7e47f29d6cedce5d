"""Hessians as a preconditioner sees them: products, diagonals and solves, for any objective.

A regression is centred: with the weighted means ``x_bar, y_bar`` and ``D = diag(sqrt(s))`` its
weights solve ``min |A w - D (y - y_bar)|^2 + l2 |w|^2`` for ``A = D (X - 1 x_bar')``, and the
intercept is ``y_bar - x_bar.w``. A is never formed. Each output is one column of the same problem.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxdescent.designs import Design, Standardised, as_design
from jaxdescent.display import Displayed
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.objectives import Objective, Params
from jaxdescent.objectives.elimination import Means
from jaxdescent.regression import LinearRegression

Inverse = Callable[[jax.Array], jax.Array]


class ShiftedHessian(Displayed, abc.ABC):
    """``H + shift I`` on columns of length ``size``, where the shift is known separately from H."""

    @property
    def regression(self) -> CentredRegression | None:
        """The centred regression with this Hessian; None if there is none whose rows are known."""
        return None

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The length of a column."""

    @property
    def dtype(self) -> Any:
        """The dtype of the arithmetic."""
        return self.shift.dtype

    @property
    @abc.abstractmethod
    def shift(self) -> jax.Array:
        """The shift: a scalar, or (1, outputs)."""

    @abc.abstractmethod
    def product(self, columns: jax.Array) -> jax.Array:
        """``H @ columns``, (size, any number of columns)."""

    @abc.abstractmethod
    def diagonal(self) -> jax.Array:
        """The diagonal of H, (size,).

        Raises:
          TypeError: if computing it would take as many products as there are unknowns.
        """

    def solve(self, inverse: Inverse, gradient: Params) -> Params:
        """``inverse``, which acts on columns, applied to a gradient with the params' structure.

        For a regression the gradient is that of the weights alone.
        """
        columns = gradient["weights"]
        return {"weights": inverse(columns.reshape(self.size, -1)).reshape(columns.shape)}


def shifted_hessian(
    objective: Objective, params: Params, means: Means | None = None
) -> ShiftedHessian:
    """The Hessian at ``params``.

    A regression is centred, which takes a pass over X unless its ``means`` are given.
    """
    if objective.linear_regression is not None:
        return CentredRegression.from_objective(objective.linear_regression, means)
    if objective.gram_and_penalty is not None:
        return CentredGram(*objective.gram_and_penalty)
    return FlatHessian(objective, params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CentredRegression(ShiftedHessian):
    """A regression whose intercept is eliminated; the means are None if it has no intercept."""

    design: Design
    y: jax.Array  # (rows, outputs)
    root: jax.Array | None  # (rows, 1): sqrt(s)
    l2: jax.Array  # a scalar, or (1, outputs)
    means: Means | None

    @classmethod
    def from_objective(
        cls, objective: LinearRegression, means: Means | None = None
    ) -> CentredRegression:
        """The centred problem, without a pass over X if its ``means`` are given.

        Negative penalties and weights, which have no square root, count as zero.
        """
        if means is None:
            elimination = objective.eliminated()
            means = None if elimination is None else elimination.means
        design = as_design(objective.X)
        y = jnp.asarray(objective.y).astype(design.dtype)
        root, weight = None, objective.sample_weight
        if weight is not None:
            root = jnp.sqrt(jnp.maximum(jnp.asarray(weight).astype(design.dtype)[:, None], 0))
        l2 = jnp.maximum(jnp.asarray(objective.l2, design.dtype), 0)
        l2 = l2[None, :] if l2.ndim else l2
        return cls(design, y.reshape(design.shape[0], -1), root, l2, means)

    @property
    def centred_design(self) -> Design:
        """``X - 1 x_bar'``."""
        means = self.means
        return self.design if means is None else Standardised(self.design, means.features)

    @property
    def regression(self) -> CentredRegression:
        return self

    @property
    def size(self) -> int:
        return self.design.shape[1]

    @property
    def shift(self) -> jax.Array:
        return self.l2

    def forward(self, weights: jax.Array) -> jax.Array:
        """``A @ weights``: one pass over X."""
        return self.weighted(self.centred_design.product(weights))

    def backward(self, rows: jax.Array) -> jax.Array:
        """``A.T @ rows``: one pass over X."""
        return self.centred_design.transposed_product(self.weighted(rows))

    def there_and_back(
        self, weights: jax.Array, change: Callable[..., jax.Array], rows: Any
    ) -> tuple[jax.Array, jax.Array]:
        """``new = change(A @ weights, *rows)``, row by row, and ``A.T @ new``."""

        def change_product(product: jax.Array, given: Any) -> tuple[jax.Array, jax.Array]:
            root, rows = given
            here = dataclasses.replace(self, root=root)
            new = change(here.weighted(product), *rows)
            return new, here.weighted(new)

        return self.centred_design.there_and_back(weights, change_product, (self.root, rows))

    def targets(self) -> jax.Array:
        """``D (y - y_bar)``, (rows, outputs)."""
        y = self.y if self.means is None else self.y - self.means.targets.reshape(1, -1)
        return self.weighted(y)

    def weighted(self, rows: jax.Array) -> jax.Array:
        """``D @ rows``."""
        return rows if self.root is None else self.root * rows

    def with_intercept(self, weights: jax.Array, like: Params) -> Params:
        """The params with these weights and their best intercept."""
        params = {"weights": weights.reshape(like["weights"].shape)}
        if self.means is None:
            return params
        return self.means.with_intercept(params["weights"])

    def product(self, columns: jax.Array) -> jax.Array:
        return self.backward(self.forward(columns))

    def diagonal(self) -> jax.Array:
        weight = None if self.root is None else jnp.square(self.root)[:, 0]
        squares = self.centred_design.column_squared_norms(weight, None)
        if squares is None:
            raise TypeError(
                "Jacobi needs the norms of X's columns, which a "
                f"{type(self.design).__name__} design does not know: take jd.Nystrom(rank), which "
                "needs products alone."
            )
        if self.means is None:
            return squares
        # A constant column has a norm of zero up to the rounding of its mean.
        rounding = 16 * float(jnp.finfo(self.dtype).eps) * self.means.features.mean
        return jnp.where(squares > self.means.weight_total * jnp.square(rounding), squares, 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CentredGram(ShiftedHessian):
    """The Gram matrix of a regression whose intercept is eliminated."""

    gram: jax.Array
    l2: Any

    @property
    def size(self) -> int:
        return self.gram.shape[0]

    @property
    def shift(self) -> jax.Array:
        l2 = jnp.asarray(self.l2, self.gram.dtype)
        return l2[None, :] if l2.ndim else l2

    def product(self, columns: jax.Array) -> jax.Array:
        return jnp.matmul(self.gram, columns, precision=HIGHEST)

    def diagonal(self) -> jax.Array:
        return jnp.diagonal(self.gram)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FlatHessian(ShiftedHessian):
    """The Hessian of any quadratic objective, with the params flattened into one column."""

    objective: Objective
    params: Params

    @property
    def size(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def shift(self) -> jax.Array:
        return jnp.zeros((), jnp.result_type(*jax.tree.leaves(self.params)))

    def product(self, columns: jax.Array) -> jax.Array:
        def of_column(column: jax.Array) -> jax.Array:
            direction = self._unravel(column)
            return ravel_pytree(self.objective.hessian_product(self.params, direction))[0]

        return jax.vmap(of_column, in_axes=1, out_axes=1)(columns)

    def diagonal(self) -> jax.Array:
        if self.objective.is_separable:
            ones = jax.tree.map(jnp.ones_like, self.params)
            return ravel_pytree(self.objective.hessian_product(self.params, ones))[0]
        matrix = self.objective.hessian_array
        if matrix is None:
            raise TypeError(
                "Jacobi needs the diagonal of the Hessian, which is not known for a "
                f"{type(self.objective).__name__} given by a function: take jd.Nystrom(rank), "
                "which needs products alone."
            )
        return jnp.diagonal(matrix).astype(self.dtype)

    def solve(self, inverse: Inverse, gradient: Params) -> Params:
        return self._unravel(inverse(ravel_pytree(gradient)[0][:, None])[:, 0])

    def _unravel(self, column: jax.Array) -> Params:
        return ravel_pytree(self.params)[1](column)
