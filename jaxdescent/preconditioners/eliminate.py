"""Block elimination of the largest categorical factor of a regression."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.designs import Design
from jaxdescent.preconditioners.hessians import ShiftedHessian
from jaxdescent.preconditioners.jacobi import inverse_roots
from jaxdescent.preconditioners.protocol import Factor, Preconditioner

LEAST_SHARE = 1e-4
"""The least share of a column's own curvature that counts as left after elimination: less is
rounding, or a direction that the data leave undetermined."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Eliminate(Preconditioner):
    """Eliminate the categorical factor with the most levels, and scale the remaining unknowns.

    With the factor's columns Z and the others R, the Hessian is ``[[D, B], [B', C]]`` with a
    diagonal ``D = Z'SZ + l2`` and ``B = Z'SR``. It factorises into
    ``[[I, 0], [B'/D, I]] [[D, 0], [0, E]] [[I, B/D], [0, I]]`` with ``E = C - B'B/D``, which is
    replaced by its diagonal: ``N = [[I, -B/D], [0, I]] diag(D, diag(E))^-1/2``. An intercept's
    rank-one part of the Hessian is left out.

    For workers and firms, ``E`` holds the information on firms from workers who move: if few move,
    its diagonal is far less than that of C, by which ``jd.Jacobi`` scales. On panels of workers,
    firms and years conjugate gradients took a third to a seventh of Jacobi's iterations. An
    iteration passes over the columns twice as often. Before the first one the rows are sorted for
    each other categorical design, and each column of dense designs is passed over (columns of other
    designs are scaled as by Jacobi). So it pays where few workers move and Jacobi takes hundreds of
    iterations or stagnates; where Jacobi takes a few dozen iterations, it is faster. Sharded rows
    are gathered for the sort.

    Raises:
      TypeError: if the design has no categorical part beside another, or the norms of the columns
        of another part are not known.

    >>> import numpy as np, jax.numpy as jnp, jaxdescent as jd
    >>> rng = np.random.default_rng(0)
    >>> worker, firm = rng.integers(0, 90, 900), rng.integers(0, 9, 900)
    >>> X = jd.Concatenated({"worker": jd.Categorical(worker, 90), "firm": jd.Categorical(firm, 9)})
    >>> regression = jd.LinearRegression(X, jnp.asarray(np.sin(worker) + firm, jnp.float32))
    >>> result = jd.minimize(regression, method=jd.ConjugateGradient(jd.Eliminate()))
    >>> effect = result.params["weights"]["firm"]
    >>> bool(result.converged), round(float(effect[8] - effect[0]), 2)
    (True, 8.0)

    Reference: Abowd, Creecy and Kramarz (2002), "Computing person and firm effects using linked
    longitudinal employer-employee data".
    """

    def factorise(self, hessian: ShiftedHessian) -> Factor:
        regression = hessian.regression
        parts = () if regression is None else regression.design.side_by_side
        levels = [0 if part.level_of_row is None else part.shape[1] for part in parts]
        if regression is None or len(parts) < 2 or not max(levels):
            raise TypeError(
                "Eliminate needs a jd.LinearRegression on a jd.Concatenated with a jd.Categorical "
                "in it: take jd.Jacobi(), or jd.Nystrom(rank)."
            )
        chosen = levels.index(max(levels))
        factor = parts[chosen]
        weight = jnp.ones(factor.shape[:1], hessian.dtype)
        if regression.root is not None:
            weight = jnp.square(regression.root)[:, 0]
        total = factor.transposed_product(weight)
        diagonals = []
        for number, part in enumerate(parts):
            if number == chosen:
                diagonals.append(total)
                continue
            squares = part.column_squared_norms(weight, None)
            if squares is None:
                raise TypeError(
                    "Eliminate needs the norms of X's columns, which a "
                    f"{type(part).__name__} design does not know: take jd.Nystrom(rank), which "
                    "needs products alone."
                )
            left = squares - _explained(part, factor, weight, total)
            diagonals.append(jnp.maximum(left, LEAST_SHARE * squares))
        curvature = jnp.concatenate(diagonals)[:, None] + hessian.shift
        scale = inverse_roots(curvature)
        start = sum(part.shape[1] for part in parts[:chosen])
        return _Eliminated(regression.design, factor, weight, scale, start)


def _explained(part: Design, factor: Design, weight: jax.Array, total: jax.Array) -> jax.Array:
    """``diag(R'S Z (Z'SZ)^-1 Z'S R)``, (columns of the part,); zero where it is not known."""
    inverse = jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)
    groups, codes = factor.level_of_row, part.level_of_row
    if codes is not None and groups is not None:
        # The sum of the squared weights of all pairs of levels that share a row.
        is_pair = (groups >= 0) & (codes >= 0)
        one, other = jnp.where(is_pair, groups, 0), jnp.where(is_pair, codes, 0)
        one, other, weight = lax.sort((one, other, jnp.where(is_pair, weight, 0)), num_keys=2)
        is_new = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
        pair = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(is_new.astype(jnp.int32))])
        of_pair = jax.ops.segment_sum(weight, pair, one.size, indices_are_sorted=True)
        share = weight * of_pair[pair] * inverse[one]
        return jax.ops.segment_sum(share, other, part.shape[1])
    if not part.is_stored:
        return jnp.zeros((part.shape[1],), total.dtype)
    columns = part.to_dense()

    def of_column(index: jax.Array) -> jax.Array:
        column = lax.dynamic_index_in_dim(columns, index, axis=1, keepdims=False)
        return jnp.sum(inverse * jnp.square(factor.transposed_product(weight * column)))

    return lax.map(of_column, jnp.arange(part.shape[1], dtype=jnp.int32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Eliminated(Factor):
    """``[[I, -B/D], [0, I]] diag(scale)``, where the factor's columns begin at ``start``."""

    design: Design
    factor: Design
    weight: jax.Array  # (rows,)
    scale: jax.Array  # (size, 1), or (size, outputs): D^-1/2 for the factor's columns
    start: int = dataclasses.field(metadata={"static": True})

    def apply(self, columns: jax.Array) -> jax.Array:
        scaled = self.scale * columns
        rest = scaled.at[self._own].set(0)
        shared = self.factor.transposed_product(self.weight[:, None] * self.design.product(rest))
        return scaled.at[self._own].add(-jnp.square(self.scale[self._own]) * shared)

    def apply_transpose(self, columns: jax.Array) -> jax.Array:
        own = jnp.square(self.scale[self._own]) * columns[self._own]
        rows = self.weight[:, None] * self.factor.product(own)
        shared = self.design.transposed_product(rows).at[self._own].set(0)
        return self.scale * (columns - shared)

    @property
    def _own(self) -> Any:
        return slice(self.start, self.start + self.factor.shape[1])
