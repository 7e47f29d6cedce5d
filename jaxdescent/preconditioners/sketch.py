"""Sketch and precondition: QR of a few random combinations of the rows of a tall X."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.inputs.numbers import check_count, check_seed
from jaxdescent.kernels import factors, memory
from jaxdescent.kernels.branches import of_any, seldom
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.numerics import randomness
from jaxdescent.preconditioners.hessians import CentredRegression, ShiftedHessian
from jaxdescent.preconditioners.protocol import Factor, Preconditioner
from jaxdescent.preconditioners.sketch_factor import by_triangle, by_values
from jaxdescent.regression.solve.factor import certain_lengths, in_units

NONZEROS = 32
"""The number of sketch rows that a row of X enters: the bits of a 32-bit word are the signs."""

Sums = tuple[jax.Array, ...]

COPIES = 8
"""The number of sketch rows that a row of a sparse or categorical X enters: each of its entries is
scattered so many times."""

CHUNK = 1024
"""The most rows that are gathered and mixed at a time."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sketch(Preconditioner):
    """``N = R^-1`` from ``S A = Q R``, S a random matrix of ``oversampling * features`` rows.

    A is the centred, weighted X with ``sqrt(l2) I`` below it. The singular values of ``A N`` lie
    within ``1 / (1 +- sqrt(1 / oversampling))``, whatever those of X: for the default of 4 within
    2/3 and 2, so that each iteration halves the error. S permutes the rows at random, deals them
    into groups, and mixes each group with random signs into 32 rows of the sketch: each row of X
    enters 32 rows, X is read once, and the order of its rows does not matter. If X has no more rows
    than the sketch would have, X itself is factorised.

    If X is not dense (sparse or categorical, or several designs side by side), each row enters
    eight rows of the sketch, a random one of each eighth, with a random sign: its stored entries
    are scattered eight times, and no dense rows of X are formed. The sketch is dense, so that
    features must be few.

    LSMR starts from the sketch's own solution ("sketch and solve") and iterates on the operator
    ``A N``, whose unknowns are ``N^-1 w``: the two together make it as accurate as a factorisation
    of X. It costs one pass over X, ``2 oversampling features^3`` operations and the memory of the
    sketch once, stores ``features^2`` numbers, and reads them twice in an iteration. All outputs
    share one sketch; if each has its own ``l2``, one singular value decomposition serves them.

    Directions in which features depend on each other are left out. They are found, and the weights
    are least, in units of the columns' lengths where these differ by more than ``1 / sqrt(32 eps)``
    (500 in float32) and the outputs have one ``l2``.

    Args:
      oversampling: rows of the sketch for each feature, at least 2.
      seed: an integer; the same one gives the same sketch, whatever the sharding.

    Raises:
      TypeError: if the design can neither give its rows nor add them up, or the objective has none.
      ValueError: if oversampling is below 2.
      ProblemTooLarge: if the sketch of a design that is not written out does not fit.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jnp.linspace(-1.0, 1.0, 400)[:, None] ** jnp.arange(1.0, 6.0)[None, :]
    >>> y = X @ jnp.arange(5.0) + 1
    >>> result = jd.minimize(jd.LinearRegression(X, y), method=jd.LSMR(jd.Sketch()))
    >>> bool(result.converged & (abs(result.params["weights"] - jnp.arange(5.0)) < 1e-3).all())
    True

    References: Rokhlin and Tygert (2008), "A fast randomized algorithm for overdetermined linear
    least-squares regression"; Meier, Nakatsukasa, Townsend and Webb (2024), "Are sketch-and-
    precondition least squares solvers numerically stable?"; Epperly, Meier and Nakatsukasa (2024),
    "Fast randomized least-squares solvers can be just as accurate and stable as classical direct
    solvers".
    """

    oversampling: int = dataclasses.field(default=4, metadata={"static": True})
    seed: Any = 0

    def factorise(self, hessian: ShiftedHessian) -> Factor:
        regression = hessian.regression
        if regression is None:
            raise TypeError(
                "Sketch needs the rows of a jd.LinearRegression: for another objective take "
                "jd.Nystrom(rank) or jd.Jacobi()."
            )
        rows, outputs = regression.y.shape
        zeros = jnp.zeros((rows, outputs), hessian.dtype)
        penalty = jnp.zeros((hessian.size, outputs), hessian.dtype)
        # A product of N N' with a gradient amplifies the gradient's rounding error by the square of
        # the factor that N does.
        least = float(jnp.finfo(hessian.dtype).eps) ** 0.5
        return self._factorise(regression, zeros, penalty, least)[0]

    def factorise_and_start(
        self, regression: CentredRegression, residual: jax.Array, penalty_residual: jax.Array
    ) -> tuple[Factor, jax.Array]:
        least = 8 * float(jnp.finfo(regression.dtype).eps)
        return self._factorise(regression, residual, penalty_residual, least)

    def _factorise(
        self,
        regression: CentredRegression,
        residual: jax.Array,
        penalty_residual: jax.Array,
        least: float,
    ) -> tuple[Factor, jax.Array]:
        """N and the sketch's own solution; the rank is deficient if a pivot is at most
        ``least |A|``.
        """
        if regression.shift.ndim:
            triangle = factors.triangle(self._sketch(regression, residual, residual.dtype))
            triangle = triangle[: regression.size]
            R, of_penalty = triangle[:, : regression.size], (regression.shift, penalty_residual)
            return by_values(triangle, R, jnp.ones_like(R[0]), of_penalty, least)
        inputs = regression, residual, penalty_residual
        if residual.dtype != jnp.float64:
            triangle = self._triangle(*inputs, residual.dtype)
        else:
            # N only needs to make A N nearly orthonormal: float32 suffices unless A's condition
            # number is too large for it.
            rough = self._triangle(*inputs, jnp.dtype(jnp.float32))
            is_good = _least_pivot(rough[:, : len(rough)]) > 8 * jnp.finfo(jnp.float32).eps
            triangle = lax.cond(
                of_any(~is_good),
                lambda _, sketch, *inputs: sketch._triangle(*inputs, jnp.float64),
                lambda rough, *_: rough.astype(jnp.float64),
                *(rough, self, *inputs),
            )
        R = triangle[:, : regression.size]
        lengths, means = jnp.sqrt(jnp.sum(jnp.square(R), axis=0)), regression.means
        if means is not None:
            whole = jnp.sqrt(means.weight_total) * jnp.abs(means.features.mean)
            lengths = certain_lengths(lengths, whole)
        scaled, units = in_units(R, lengths)
        is_missing = _least_pivot(scaled) <= least
        return seldom(is_missing, by_values, by_triangle, triangle, scaled, units)

    def _triangle(
        self,
        regression: CentredRegression,
        residual: jax.Array,
        penalty_residual: jax.Array,
        dtype: Any,
    ) -> jax.Array:
        """R of ``[S A, S residual]`` with the penalty below it, (features, features + outputs)."""
        sketch = self._sketch(regression, residual, dtype)
        root = jnp.sqrt(regression.shift).astype(dtype)
        penalty = penalty_residual.astype(dtype)
        if sketch.shape[0] < regression.size:
            return _with_rows_below(sketch, root, penalty)
        triangle = factors.triangle(sketch)[: regression.size]
        return lax.cond(
            root > 0, _with_rows_below, lambda triangle, *_: triangle, triangle, root, penalty
        )

    def check(self) -> None:
        check_count("Sketch.oversampling", self.oversampling, least=2, most=1 << 16)
        check_seed("Sketch.seed", self.seed)

    def _sketch(self, regression: CentredRegression, residual: jax.Array, dtype: Any) -> jax.Array:
        """``S [A, residual]``, (rows of the sketch, features + outputs)."""
        rows, features = regression.design.shape
        wanted = self.oversampling * features
        if not regression.design.is_stored:
            sketch = self._sketch_of_entries(regression, residual, dtype)
            if sketch is not None:
                return sketch
        if rows <= wanted:
            every = jnp.concatenate([_rows(regression, jnp.arange(rows)), residual], axis=1)
            return every.astype(dtype)
        groups = -(-wanted // NONZEROS)
        in_group = -(-rows // groups)
        chunks = -(-in_group // CHUNK)
        length = -(-in_group // chunks)
        order = jnp.argsort(randomness.bits((rows,), randomness.fold(self.seed, 0)))
        # Row k of the shuffled order goes to group k mod groups; padding counts as zero.
        order = jnp.pad(order, (0, groups * chunks * length - rows), constant_values=rows)
        order = order.reshape(chunks * length, groups).T.reshape(groups, chunks, length)
        shifts = jnp.arange(NONZEROS, dtype=jnp.uint32)[:, None]
        scale = jnp.asarray(NONZEROS, dtype) ** -0.5

        def mix(sums: Sums, chunk: tuple[jax.Array, jax.Array]) -> tuple[Sums, None]:
            index, number = chunk
            word = randomness.bits((length,), randomness.fold(self.seed, 1, number))
            is_row = (index < rows).astype(dtype)[None, :]
            is_odd = ((word[None, :] >> shifts) & 1).astype(dtype)
            signs = scale * is_row * (1 - 2 * is_odd)
            index = jnp.minimum(index, rows - 1)
            blocks = _rows(regression, index), jnp.take(residual, index, axis=0)
            mixed = (jnp.matmul(signs, block.astype(dtype), precision=HIGHEST) for block in blocks)
            return jax.tree.map(jnp.add, sums, tuple(mixed)), None

        def group(number: jax.Array, indices: jax.Array) -> tuple[jax.Array, Sums]:
            zeros = tuple(
                jnp.zeros((NONZEROS, width), dtype) for width in (features, residual.shape[1])
            )
            numbers = number * chunks + jnp.arange(chunks, dtype=jnp.int32)
            return number + 1, lax.scan(mix, zeros, (indices, numbers))[0]

        mixed = lax.scan(group, jnp.zeros((), jnp.int32), order)[1]
        return jnp.concatenate(mixed, axis=2).reshape(groups * NONZEROS, -1)

    def _sketch_of_entries(
        self, regression: CentredRegression, residual: jax.Array, dtype: Any
    ) -> jax.Array | None:
        """The sketch of an X that is not dense, if X can add up its rows: a sum over rows for each
        of ``COPIES`` parts of the sketch; or all rows of A, if these are no more than the sketch's.
        """
        rows, features = regression.design.shape
        strata = -(-self.oversampling * features // COPIES)
        _refuse_too_large(regression, min(rows, COPIES * strata), dtype)
        factor = jnp.ones((rows,), regression.dtype)
        if regression.root is not None:
            factor = regression.root[:, 0]

        def sums(target: jax.Array, sign: jax.Array, length: int) -> jax.Array | None:
            # The sums of D (X - 1 mean'), and of the residual, which is weighted already.
            own = sign * factor
            of_rows = regression.centred_design.sums_of_rows(target, own, length)
            if of_rows is None:
                return None
            of_residual = jax.ops.segment_sum(sign[:, None] * residual, target, length)
            return jnp.concatenate([of_rows, of_residual], axis=1).astype(dtype)

        if rows <= COPIES * strata:
            return sums(jnp.arange(rows, dtype=jnp.int32), jnp.ones_like(factor), rows)
        if jax.eval_shape(lambda: sums(jnp.zeros((rows,), jnp.int32), factor, strata)) is None:
            return None

        def stratum(number: jax.Array) -> jax.Array:
            word = randomness.bits((rows,), randomness.fold(self.seed, 2, number))
            target = ((word >> 1) % jnp.uint32(strata)).astype(jnp.int32)
            sign = 1 - 2 * (word & 1).astype(factor.dtype)
            part = sums(target, sign, strata)
            assert part is not None
            return part

        parts = lax.map(stratum, jnp.arange(COPIES, dtype=jnp.int32))
        return jnp.asarray(COPIES, dtype) ** -0.5 * parts.reshape(COPIES * strata, -1)


def _refuse_too_large(regression: CentredRegression, rows: int, dtype: Any) -> None:
    """Raise if the sketch, its factor and the factorisation's workspace do not fit in memory."""
    features = regression.size
    needed = 3 * rows * features * jnp.dtype(dtype).itemsize
    if needed <= memory.SMALL_BYTES:
        return
    available = memory.available_bytes()
    if needed > available:
        raise memory.ProblemTooLarge(
            f"a sketch of {features:,} features needs {memory.readable_bytes(needed)}, and "
            f"{memory.readable_bytes(available)} are available: take jd.Jacobi(), or "
            "jd.Nystrom(rank), which keeps rank vectors."
        )


def _with_rows_below(above: jax.Array, root: jax.Array, rest: jax.Array) -> jax.Array:
    """R of ``above`` with the rows ``[root I, rest]`` below it."""
    features = rest.shape[0]
    below = jnp.concatenate([root * jnp.eye(features, dtype=above.dtype), rest], axis=1)
    return factors.triangle(jnp.concatenate([above, below]))[:features]


def _least_pivot(triangle: jax.Array) -> jax.Array:
    """The least absolute pivot of a triangular matrix, over the matrix's norm."""
    size = jnp.linalg.norm(triangle)
    return jnp.min(jnp.abs(jnp.diagonal(triangle))) / jnp.where(size > 0, size, 1)


def _rows(regression: CentredRegression, index: jax.Array) -> jax.Array:
    """The rows of A at these indices."""
    rows = regression.centred_design.rows_at(index)
    if rows is None:
        raise TypeError(
            f"Sketch needs the rows of X, which a {type(regression.design).__name__} design does "
            "not give: take jd.Nystrom(rank), which needs products alone."
        )
    return rows if regression.root is None else jnp.take(regression.root, index, axis=0) * rows
