"""A regression's weights as the solution of an augmented system, whose derivatives are those of the
weights.

The weights w of X with rows weighed by s, ``S = diag(s)``, and the residuals q solve

    q + X w = y,   X'S q - l2 w = 0.

With more features than rows many w do. Those of a penalty, and those of least norm, are
combinations of the rows, ``w = X'v``, and solve

    w - X'v = 0,   X w + l2 S^-1 v = y.

Each system is regular where X has full rank, whatever the penalty. Its entries are those of X, so
that a singular value of X counts as it is, where a product with the Hessian ``X'S X`` shows its
square, and none below ``sqrt(eps)`` of the largest. Differentiating the system gives derivatives of
any order, among them those by which the null space of X turns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.designs import as_design
from jaxdescent.kernels.platform import is_on_one_cpu, on_one_cpu
from jaxdescent.numerics.linear_systems import inverse
from jaxdescent.regression.linear_model import scaled_rows
from jaxdescent.regression.solve.centred import columns
from jaxdescent.regression.solve.factor import is_uneven
from jaxdescent.regression.solve.least_squares import by_conjugate_gradients
from jaxdescent.regression.solve.pseudo_inverse import (
    Solve,
    is_possible,
    is_possible_on_host,
    lengths_of,
    of_regression,
    of_transpose,
)

Pair = tuple[jax.Array, jax.Array]
Other = tuple["Weights", jax.Array]


class Weights(NamedTuple):
    """The weights of regressions near one that is given, as a function of their data."""

    shape: tuple[int, ...]  # of the weights
    dtype: Any
    solver: Solve  # for the system of the given regression
    is_wide: bool  # whether X has more features than its rank can be
    # Whether the rank is lower than the shape of X allows, so that the solution without a penalty
    # jumps as X moves; None if the rank is not known.
    jumps: jax.Array | None

    @classmethod
    def near(cls, regression: Any, like: jax.Array) -> tuple[Weights, list[Other]]:
        """The weights near those of a regression, which may have an intercept.

        Up to the size of :func:`~jaxdescent.regression.solve.pseudo_inverse.is_possible` X is
        factorised, on one CPU up to that of
        :func:`~jaxdescent.regression.solve.pseudo_inverse.is_possible_on_host`; otherwise conjugate
        gradients solve two least-squares problems.

        Args:
          regression: its data are held constant.
          like: an array with the weights' shape and dtype.

        Returns:
          The weights, and for a wide X other systems for the same weights, each with where it
          serves instead. One has the features in units of their own and needs a penalty: in the
          space of the rows short columns are lost beside long ones, but not in float64, where NumPy
          factorises X. The other has residuals, for rows with weights that depend on each other:
          then the weights of the rows decide which of their targets are met, and without a penalty
          the system of a wide X says that all are.
        """
        regression = lax.stop_gradient(regression)
        alone = regression.eliminated().objective if regression.intercept else regression
        design, (shape, dtype) = as_design(alone.X), (like.shape, like.dtype)
        rows, features = design.shape
        most = min(rows - int(regression.intercept), features)
        is_wide = most < features and rows <= features
        is_factorised, jumps, others = is_possible_on_host(regression), None, list[Other]()
        lengths = lengths_of(regression, alone)
        by_turns = functools.partial(by_conjugate_gradients, alone, lengths, dtype=dtype)
        if is_factorised:
            factors = of_regression(regression, alone, dtype=dtype, is_wide=is_wide)
            if regression.sample_weight is not None:
                weighty = jnp.sum(regression.sample_weight != 0, dtype=jnp.int32)
                most = jnp.minimum(most, weighty - int(regression.intercept))
            jumps, solver = factors.rank < most, factors.solve
            if is_wide and regression.sample_weight is not None:
                serves = jumps & (jnp.asarray(regression.l2) == 0)
                of_rows = of_transpose(factors, serves)
                others.append((cls(shape, dtype, of_rows, False, None), serves))
            if not is_possible(regression):
                ways = solver, by_turns(is_wide=is_wide)
                solver = functools.partial(on_one_cpu, *ways, is_whole=design.is_whole)
        else:
            solver = by_turns(is_wide=is_wide)
        own = cls(shape, dtype, solver, is_wide, jumps)
        if not is_wide or lengths is None or (is_factorised and is_on_one_cpu()):
            return own, others
        solver = by_turns(is_wide=False)
        is_penalised = jnp.min(jnp.asarray(regression.l2)) > 0
        others.append((cls(shape, dtype, solver, False, None), is_uneven(lengths) & is_penalised))
        return own, others

    def __call__(self, regression: Any) -> jax.Array:
        """The weights, in ``self.shape``, of a regression without an intercept whose data have the
        values of the given one's, by one solve.
        """
        own, known = self._system(regression), self._system(lax.stop_gradient(regression))
        targets = own.shares(columns(jnp.asarray(regression.y)).astype(self.dtype))
        zeros = jnp.zeros((own.design.shape[1], targets.shape[1]), self.dtype)
        solution = lax.custom_linear_solve(
            own.product,
            tied((zeros, targets) if self.is_wide else (targets, zeros)),
            lambda _, given: known.solve(*given),
            lambda _, given: known.solve_transposed(*given),
        )
        return tied(solution)[0 if self.is_wide else 1].reshape(self.shape)

    def _system(self, regression: Any) -> _Tall | _Wide:
        kind = _Wide if self.is_wide else _Tall
        return kind(regression, self.shape[1:], self.dtype, self.solver)


class _System(NamedTuple):
    """The augmented system of a regression: products, and solutions by its solver."""

    regression: Any
    outputs: tuple[int, ...]
    dtype: Any
    solver: Solve

    @property
    def design(self) -> Any:
        return as_design(self.regression.X)

    @property
    def penalty(self) -> jax.Array:
        """l2, (1, outputs) or (1, 1)."""
        return jnp.atleast_1d(jnp.asarray(self.regression.l2, self.dtype))[None]

    def predicted(self, weights: jax.Array) -> jax.Array:
        """``X w`` for (features, outputs)."""
        return self._linear(self.design.product, weights)

    def pulled(self, residual: jax.Array) -> jax.Array:
        """``X'q`` for (rows, outputs)."""
        return self._linear(self.design.transposed_product, residual)

    def weighed(
        self, rows: jax.Array, of: Callable[[jax.Array], jax.Array] = jnp.asarray
    ) -> jax.Array:
        """The rows times their weights, or times a function of these."""
        weight = self.regression.sample_weight
        return rows if weight is None else scaled_rows(rows, of(weight))

    def without_weight(self, rows: jax.Array) -> jax.Array:
        """The rows that have no weight; zero elsewhere."""
        return scaled_rows(rows, self.regression.sample_weight == 0)

    def _linear(self, product: Any, operand: jax.Array) -> jax.Array:
        """The product as a derivative, which can be transposed: a design's own product may tie
        other arrays to the operand by a barrier.
        """

        def shaped(own: jax.Array) -> jax.Array:
            # A design multiplies arrays of the shape that the params and targets have.
            return columns(product(own.reshape(-1, *self.outputs)))

        return jax.jvp(shaped, (jnp.zeros_like(operand),), (operand,))[1]


class _Tall(_System):
    """``[[I, X], [X'S, -l2]] (q, w)``, solved by ``B = sqrt(S) X``."""

    def shares(self, rows: jax.Array) -> jax.Array:
        return rows

    def product(self, pair: Pair) -> Pair:
        q, w = tied(pair)
        return tied((q + self.predicted(w), self.pulled(self.weighed(q)) - self.penalty * w))

    def solve(self, top: jax.Array, bottom: jax.Array) -> Pair:
        w, _ = self.solver(self.weighed(top, jnp.sqrt), bottom)
        return top - self.predicted(w), w

    def solve_transposed(self, top: jax.Array, bottom: jax.Array) -> Pair:
        if self.regression.sample_weight is not None:
            bottom = bottom - self.pulled(self.without_weight(top))
        # A product of X and w would have the rounding of w.
        scaled = self.weighed(top, lambda weight: inverse(jnp.sqrt(weight)))
        w, image = self.solver(scaled, bottom)
        return top - self.weighed(image, jnp.sqrt), w


class _Wide(_System):
    """``[[I, X'], [X, -l2 S^-1]] (w, -v)``, solved by ``B = X' sqrt(S)``. The equation of a row
    without weight is multiplied by its weight.
    """

    def product(self, pair: Pair) -> Pair:
        w, v = tied(pair)
        per_weight = self.weighed(v, lambda weight: 1 / jnp.where(weight == 0, 1, weight))
        below = self.shares(self.predicted(w)) - self.penalty * per_weight
        return tied((w + self.pulled(v), below))

    def shares(self, rows: jax.Array) -> jax.Array:
        """The rows, those without weight times their weight: zero, but not its derivative."""
        return self.weighed(rows, lambda weight: jnp.where(weight == 0, weight, 1))

    def solve(self, top: jax.Array, bottom: jax.Array) -> Pair:
        alone = jnp.zeros_like(bottom)
        if self.regression.sample_weight is not None:
            alone = self._of_penalty(self.without_weight(-bottom))
            top = top - self.pulled(alone)
        v, image = self.solver(top, self.weighed(bottom, jnp.sqrt))
        return top - image, self.weighed(v, jnp.sqrt) + alone

    def solve_transposed(self, top: jax.Array, bottom: jax.Array) -> Pair:
        v, image = self.solver(top, self.weighed(bottom, jnp.sqrt))
        w, v = top - image, self.weighed(v, jnp.sqrt)
        if self.regression.sample_weight is not None:
            v = v + self._of_penalty(self.without_weight(self.predicted(w) - bottom))
        return w, v

    def _of_penalty(self, rows: jax.Array) -> jax.Array:
        """The rows divided by the penalty; zero where there is none."""
        is_free = self.penalty == 0
        return jnp.where(is_free, 0, rows / jnp.where(is_free, 1, self.penalty))


def tied(tree: Any) -> Any:
    """The leaves unchanged, each made to depend on all of them.

    The rules of the linear solve fail for a leaf whose tangent or cotangent is a symbolic zero
    (such as the tangent of the intercept's gradient when differentiating by l2).
    """
    leaves, treedef = jax.tree.flatten(tree)
    zeros = [0 * leaf.ravel()[:1].sum().astype(leaves[0].dtype) for leaf in leaves]
    tie = sum(zeros, start=jnp.zeros((), leaves[0].dtype))
    return treedef.unflatten([leaf + tie.astype(leaf.dtype) for leaf in leaves])
