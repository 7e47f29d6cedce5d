"""The look at a claim on a regression in memory, by LAPACK in float64 on the host.

Where no direction of X is lost in rounding, the minimum is known
(:mod:`jaxdescent.regression.solve.by_lapack`), and with it how far the value is above it: a claim
is true or false.

Otherwise the exact minimum for the given numbers may be out of reach of the dtype. Then a singular
value decomposition is used: with columns of unit length, ``A = U S V'``, the step
``s = V_k S_k^-1 U_k' r`` along the largest k singular values removes the part of the residual r
that their vectors span. Any step s lowers the value by ``a^2 / 2`` with

    ``a = r.A s / |A s|``,

so that errors of the singular vectors do not matter. The rounding of A s is bounded by e, ``4 eps``
times the lengths of its terms, and that of r likewise by d; the decrease is certain with

    ``a = (r.A s - |r| e) / (|A s| + e) - d``.

For float32, whose sums float64 holds, e is ``eps`` times these lengths: it is the image of the
rounding of s alone, and in place of r stands the part of r in the span of A.

Nearly equal columns have large terms that cancel in A s: their directions then show nothing. The
``eps`` is that of the params' dtype, to which every step is rounded.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent import placement
from jaxdescent.calls import programs
from jaxdescent.descent.looks import Look
from jaxdescent.designs import Design, as_design
from jaxdescent.inputs import tracing
from jaxdescent.kernels.dtypes import compute_dtype
from jaxdescent.kernels.host_calls import host_call
from jaxdescent.kernels.host_threads import on_one_thread
from jaxdescent.regression import LinearRegression
from jaxdescent.regression.solve import by_lapack
from jaxdescent.regression.solve.lapack_factor import rounding_of_terms
from jaxdescent.regression.solve.stored_regression import StoredRegression

INDEPENDENT = 1e-3
"""The smallest eigenvalue of the Gram matrix of unit columns below which the singular values are
computed: products of float32 show it to four digits."""

MOST_FEATURES = 512
"""The most features of a direct solve that is looked at, whatever its rows: the factors of a square
matrix of twice as many take longer on one core than XLA's solve."""

MOST_PRODUCTS = 1 << 28
"""The most products of a minimum, or of the factors for several penalties, so that they take a
tenth of a second."""

MOST_FOR_AN_ITERATION = 16
"""The most features for each iteration of a descent beside which the minimum takes no longer: it
has as many products for each entry of X."""

OFTEN = 1 / 4
"""The part of a tenth of a second, and of a descent's time, for a look that each descent has."""


def is_small(regression: LinearRegression, estimates: bool = True) -> bool:
    """Whether X is at hand, and so small that its singular vectors, which can prove a solution,
    cost next to nothing. If the method has no estimate of its own, a claim rests on the rate of
    many steps, compared with which singular vectors are cheap for larger X too.
    """
    size = *as_design(regression.X).shape, _outputs_of(regression)
    return by_lapack.is_quick(*size, estimates=estimates) and _is_at_hand(regression)


def is_worth_another_solve(regression: LinearRegression) -> bool:
    """Whether a look at a direct solve, which is made where X is ill-conditioned, takes no longer
    than the solve: the Gram matrix in float64 beside a factorisation of X itself.
    """
    rows, features = as_design(regression.X).shape
    return features <= rows and _is_solved_by_host(regression)


def is_worth_a_solve(regression: LinearRegression, iterations: int, *, is_seldom: bool) -> bool:
    """Whether the minimum takes a tenth of a second, or no longer than a descent of so many
    iterations did; if it is not needed seldom, but for each descent, the part OFTEN of either.
    """
    rows, features = as_design(regression.X).shape
    side, part = min(rows, features), 1 if is_seldom else OFTEN
    is_short = rows * features * side <= MOST_PRODUCTS * part
    is_shorter = side <= MOST_FOR_AN_ITERATION * iterations * part
    return (is_short or is_shorter) and _is_solved_by_host(regression)


def _is_solved_by_host(regression: LinearRegression) -> bool:
    """Whether X is an array in float32 whose smaller side LAPACK factorises quickly. A program
    would copy X for the host, as the host copies one over several devices, and a wide one: not a
    larger one.
    """
    design, outputs = as_design(regression.X), _outputs_of(regression)
    rows, features = design.shape
    is_narrow = min(rows, features) <= MOST_FEATURES and outputs <= by_lapack.MOST_OUTPUTS
    is_traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(design))
    is_copied = is_traced or not design.is_whole or rows < features
    is_within = not is_copied or 4 * rows * features <= by_lapack.MOST_BYTES
    is_array = design.dtype == jnp.float32 and not design.dense_bytes()  # others would be copied
    return is_narrow and is_within and is_array and _is_at_hand(regression)


def _is_at_hand(regression: LinearRegression) -> bool:
    """Whether the entries of X are in memory: on one device, or for a look by the host as arrays
    over CPUs of this process. A program would gather their rows.
    """
    design = as_design(regression.X)
    is_in_memory = by_lapack.is_in_memory(design)
    if design.is_whole or not is_in_memory:
        return is_in_memory
    return design.is_stored and tracing.is_there(design) and placement.is_at_hand(design)


def _outputs_of(regression: LinearRegression) -> int:
    return int(np.prod(jnp.shape(regression.y)[1:]))


def in_program(regression: LinearRegression, params: Any, allowed: Any) -> Look:
    """:func:`at_hand` in a program for a CPU, which calls the host for it."""
    dtype = as_design(regression.X).dtype
    given = _given(regression, params, jnp.asarray(allowed, dtype))
    of = functools.partial(_seen, intercept=regression.intercept)
    scalar, flag = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((), bool)
    return host_call(of, Look(scalar, flag, flag, flag), given, vmap_method="sequential")


def at_hand(regression: LinearRegression, params: Any, allowed: float) -> Look:
    """The look for concrete arrays; the value may be above the minimum by ``allowed``."""
    params = jax.tree.map(np.asarray, params)
    wide = {name: leaf.astype(compute_dtype(leaf.dtype)) for name, leaf in params.items()}
    if as_design(regression.X).is_stored:  # a program would gather rows of several devices
        regression = jax.tree.map(np.asarray, regression)
    given = jax.tree.map(np.asarray, _given(regression, wide, allowed))
    return _seen(given, intercept=regression.intercept)


def _given(regression: LinearRegression, params: Any, allowed: Any) -> dict[str, Any]:
    return {"data": data_of(regression), "allowed": allowed} | params


def data_of(regression: LinearRegression) -> tuple[Any, ...]:
    """The arrays of a regression that the host needs for a :class:`StoredRegression`."""
    design = as_design(regression.X)
    is_array = design.is_stored
    X = design.to_dense() if is_array else programs.compiled(_to_dense, (design,))(design)
    return X, regression.y, regression.l2, regression.sample_weight


def _to_dense(design: Design) -> jax.Array:
    return design.to_dense()


@on_one_thread()
def _seen(given: dict[str, Any], *, intercept: bool) -> Look:
    weights = given["weights"]
    regression = StoredRegression.of(*given["data"], intercept=intercept)
    own = np.asarray(weights, np.float64).reshape(regression.X.shape[1], -1)
    offset = np.asarray(given.get("intercept", 0.0), np.float64).reshape(-1)
    allowed, is_exact = float(given["allowed"]), False
    with np.errstate(all="ignore"):
        is_convex = np.min(regression.l2) >= 0 and np.min(regression.share) >= 0
        if not (is_convex and np.isfinite(own).all() and np.isfinite(offset).all()):
            falls = least = 0.0
        elif (solution := by_lapack.solve(regression)).is_whole:
            falls = solution.height(own, offset)
            least = falls - 2 * solution.rounding
            is_exact = True
        else:
            falls = least = largest_decrease(solution, weights, allowed)
        falls = np.asarray(falls, np.asarray(weights).dtype)
    is_false, never = np.asarray(least > allowed), np.asarray(False)
    return Look(falls, is_false, np.asarray(is_exact), never)


def largest_decrease(solution: by_lapack.Minimiser, weights: np.ndarray, allowed: float) -> float:
    """The largest certain decrease of the value by a step, summed over the outputs.

    It is zero where the columns are so far from dependent that the gradient alone shows that the
    value cannot fall by more than is allowed, and for a wide X of more than
    :data:`~jaxdescent.regression.solve.by_lapack.MOST_LOOKED_AT` features, whose singular values
    take too long.

    The weights are (features,) or (features, outputs), in the dtype whose digits a step has; an
    intercept is at its optimum.
    """
    given = solution.regression
    if given.l2.size > 1:
        # Outputs with one penalty have one factor. The least penalties hide the most.
        rows, features = given.X.shape
        longer = features if _is_narrow(given, weights.dtype) else rows + features
        most = max(MOST_PRODUCTS // max(longer * features**2, 1), 1)
        some = [given.l2 == penalty for penalty in np.unique(given.l2)[:most]]
        parts = [dataclasses.replace(solution, regression=given.of_outputs(own)) for own in some]
        each = zip(parts, some, strict=True)
        return sum(largest_decrease(part, weights[:, own], allowed) for part, own in each)
    eps, features = rounding_of_terms(weights.dtype), given.X.shape[1]
    if features > max(len(solution.regression.X), by_lapack.MOST_LOOKED_AT):
        return 0.0
    with np.errstate(all="ignore"):
        posed = _Posed.of(solution, weights.astype(np.float64).reshape(features, -1))
        gram, slope = posed.gram, posed.slope
        if not all(np.isfinite(each).all() for each in (gram, slope, posed.residual)):
            return 0.0
        least, unit = np.linalg.eigvalsh(gram)[0] if features else 1.0, solution.units[1]
        most = float(np.sum(np.square(slope))) / (2 * INDEPENDENT)
        if least >= INDEPENDENT and most <= float(allowed) / unit / unit:
            return 0.0
        own = np.sqrt(np.where(np.diagonal(gram) > 0, np.diagonal(gram), 1))
        A = None if _is_narrow(given, weights.dtype) else posed.rows(given)
        if A is None:
            squares, vectors = np.linalg.eigh(gram / own / own[:, None])
            sizes, Vt = np.sqrt(np.maximum(squares, 0))[::-1], vectors.T[::-1]
            sought = Vt @ (slope / own[:, None]) / np.where(sizes > 0, sizes, 1)[:, None]
        else:
            U, sizes, Vt = np.linalg.svd(A / own, full_matrices=False)
            sought = U.T @ posed.whole
        kept = sizes > _shares(eps)[:, None] * sizes[0]
        inverse = np.where(kept, 1 / np.where(sizes > 0, sizes, 1), 0)
        steps = np.einsum("fk,sko->fso", Vt.T, inverse[:, :, None] * sought) / own[:, None, None]
        if A is None:
            inner = np.einsum("fso,fo->so", steps, slope)
            squares = np.einsum("fso,fso->so", steps, np.tensordot(gram, steps, axes=1))
            met = sought  # the image of a step's rounding is in the span of A, as that of the step
        else:
            images = np.tensordot(A, steps, axes=1)
            inner = np.einsum("rso,ro->so", images, posed.whole)
            squares = np.einsum("rso,rso->so", images, images)
            met = posed.whole
        length = np.sqrt(np.maximum(squares, 0))
        return _certain(steps, inner, length, posed, eps, met=met) * unit * unit


def _is_narrow(regression: StoredRegression, dtype: Any) -> bool:
    """Whether the Gram matrix in float64 tells as much as the rows do."""
    return np.float64 not in (dtype, regression.digits)


class _Posed(NamedTuple):
    """The problem ``min |r - A s|^2`` for a step s, in the units of the solution: A is weighted,
    centred, has the penalty's rows below, and its columns are divided by the lengths that they
    would have without centring.
    """

    scale: np.ndarray  # one over these lengths, (features,); zero for a column of zeros
    gram: np.ndarray  # ``A'A``, (features, features)
    slope: np.ndarray  # ``A'r``, (features, outputs)
    residual: np.ndarray  # the rows of r that have targets, (rows, outputs)
    penalised: np.ndarray  # the penalty's rows of r, (features, outputs)
    moved: np.ndarray  # the size of the terms of r, (outputs,)

    @classmethod
    def of(cls, solution: by_lapack.Minimiser, weights: np.ndarray) -> _Posed:
        """The problem at these weights; an intercept is at its optimum."""
        regression, weights = solution.regression, weights * solution.ratio
        l2 = max(float(regression.l2[0]), 0.0)
        squares = regression.squares + regression.total * np.square(regression.mean) + l2
        lengths, y = np.sqrt(squares), regression.y
        # In float64, whatever the dtype of y: its squares may be beyond the range of float32.
        own = np.einsum("r,ro,ro->o", regression.share[:, 0], y, y)
        moved = lengths @ np.abs(weights) + np.sqrt(own)
        scale = np.where(lengths > 0, 1 / np.where(lengths > 0, lengths, 1), 0)
        residual = regression.product(weights)
        residual -= y
        # Centred twice, because the first mean is rounded.
        for _ in range(2 * regression.intercept):
            residual -= regression.sums(residual) / regression.total
        residual = regression.weighed(residual, np.sqrt)
        slope = regression.transposed_product(residual, is_centred=True) + l2 * weights
        penalised = np.sqrt(l2) * weights
        gram = regression.gram + l2 * np.eye(len(scale))
        gram, slope = gram * scale * scale[:, None], scale[:, None] * slope
        return cls(scale, gram, slope, residual, penalised, moved)

    @property
    def whole(self) -> np.ndarray:
        """r, (rows + features, outputs)."""
        return np.concatenate([self.residual, self.penalised])

    def rows(self, regression: StoredRegression) -> np.ndarray:
        """A, (rows + features, features)."""
        penalty = np.sqrt(max(float(regression.l2[0]), 0.0))
        return np.concatenate([regression.centred * self.scale, penalty * np.diag(self.scale)])


def _shares(least: float) -> np.ndarray:
    """The shares of the largest singular value down to which others are kept: a tenth, a hundredth,
    and so on down to the least, what rounding makes; one step is taken for each.
    """
    return np.append(10.0 ** -np.arange(1, int(-np.log10(least)) + 1), least)


def _certain(
    steps: np.ndarray,
    inner: np.ndarray,
    length: np.ndarray,
    posed: _Posed,
    eps: float,
    *,
    met: np.ndarray,
) -> float:
    """The certain decrease of the value by the best of the steps, summed over the outputs.

    The steps are (features, steps, outputs), in units of the columns. Of their images, ``inner``
    has the products with the residual, and ``length`` the lengths, (steps, outputs) each; ``eps``
    is the rounding of a term of a sum, and ``met`` the part of the residual that this rounding may
    meet, (numbers, outputs).
    """
    # The columns of A were divided by their lengths: each is one, means included.
    rounding = eps * np.sum(np.abs(steps), axis=0)
    parts = posed.residual, posed.penalised
    sizes = np.sqrt(sum(np.einsum("ro,ro->o", part, part) for part in parts))
    lost = np.linalg.norm(met, axis=0) * rounding
    lost += sizes * eps * sum(map(len, parts)) ** 0.5 * length
    shares = (inner - lost) / (length + rounding) - eps * posed.moved
    falls = np.where(np.isfinite(shares), np.maximum(shares, 0), 0)
    return 0.5 * float(np.sum(np.square(np.max(falls, axis=0, initial=0))))
