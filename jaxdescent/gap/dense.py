"""The gap of a small problem in float64 on the host: by the factor of its normal matrix or Hessian.

A regression's gap is the part of its residual in the range of X, which a decomposition of X with
centred columns of norm one gives for any point, with the minimiser. A function's gap is half the
squared Newton decrement by the eigenvalues of its Hessian, if the value at the end of Newton's step
is as expected; along directions without positive curvature the value itself is measured.

Reference: Boyd and Vandenberghe (2004), "Convex optimization", section 9.5.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdescent import placement
from jaxdescent.designs import as_design
from jaxdescent.gap.gap import NOISE_ULPS, Gap, Query, worth_of
from jaxdescent.kernels.host_threads import on_one_thread
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.objectives.stationary import dense_hessian, equilibrating
from jaxdescent.second_order.curvature import AGREEMENT, Curvature, as_double
from jaxdescent.status import Evidence

MOST_PRODUCTS = 5e9
"""The most products of a decomposition, rows times features times the smaller: a fifth of a
second."""

MOST_SIDE = 1024
"""The longest smaller side of X whose Gram matrix is decomposed."""

MOST_EXACT = 2e8
"""The most products for which X itself is decomposed, which shows what its Gram matrix loses."""

MOST_WRITTEN_BYTES = 1 << 26
"""The most bytes of the array that a sparse or categorical X is written out to."""

RANK_ULPS = 4.0
"""A singular value of this many eps times the largest is rounding of the data."""

FEW, MOST_UNKNOWNS = 32, 512
"""The unknowns of a function whose Hessian is decomposed whatever the descent has spent, and at
most, with a product for each."""

MOST_NUMBERS = 1 << 22
"""The largest product of the number of unknowns and of the numbers in the data."""

HOLDS = 0.1
"""The deviation of the value at the end of Newton's step, in decrements, up to which the expansion
holds."""

SAFETY = 10.0
"""The factor on the decrement of an expansion that does not hold."""

PARTS = (1.0, 0.25)
REACHES = (1.0, 1 / 8, 1 / 64, -1.0, -1 / 8, -1 / 64)
"""The parts of Newton's step, and of the params' size along the direction of least curvature, where
the value is measured, besides the step cut to the params' size."""


def gap(objective: Objective, params: Any, query: Query, evaluations: int) -> Gap | None:
    """The gap at ``params``, whose arrays are concrete; None if the problem is not small and here.

    ``evaluations`` are those of the descent. ``query`` has concrete numbers.
    """
    if not placement.is_at_hand((objective, params)):
        return None
    if objective.linear_regression is not None:
        return _of_regression(objective.linear_regression, params, query)
    return _of_function(objective, params, query, evaluations)


class Data(NamedTuple):
    """A regression's arrays in float64, centred and weighted."""

    A: np.ndarray  # D (X - 1 x_bar'), (rows, features)
    targets: np.ndarray  # D (y - y_bar), (rows, outputs)
    means: tuple[np.ndarray, np.ndarray]
    total: float  # the sum of the weights
    eps: float  # of the dtype of the data

    @classmethod
    def of(cls, stored: Any, y: Any, sample_weight: Any, *, intercept: bool) -> Data:
        """The arrays for those of a regression, each in memory."""
        stored = np.asarray(stored)
        X = stored.astype(np.float64)
        y = np.array(y, np.float64).reshape(len(X), -1)
        share = np.ones(len(X))
        if sample_weight is not None:
            share = np.asarray(sample_weight, np.float64)
        means = [np.zeros(X.shape[1]), np.zeros(y.shape[1])]
        if intercept:
            for index, columns in enumerate((X, y)):
                for _ in range(2):  # the second mean removes the rounding of the first
                    mean = share @ columns / np.sum(share)
                    np.subtract(columns, mean, out=columns)
                    means[index] += mean
        root = np.sqrt(share)[:, None]
        eps = max(float(np.finfo(stored.dtype).eps), float(np.finfo(np.float64).eps))
        kept = (means[0], means[1])
        return cls(root * X, root * y, kept, float(np.sum(share)), eps)


def _is_small(regression: Any) -> bool:
    design = as_design(regression.X)
    rows, features = design.shape
    side = min(rows, features)
    if side > MOST_SIDE or rows * features * side > MOST_PRODUCTS:
        return False
    if design.is_stored:
        return True
    return design.reading.seconds == 0 and design.dense_bytes() <= MOST_WRITTEN_BYTES


@on_one_thread()
@np.errstate(all="ignore")
def _of_regression(regression: Any, params: Any, query: Query) -> Gap | None:
    if not _is_small(regression) or not bool(regression.is_convex):
        return None
    X, y, intercept = as_design(regression.X).to_dense(), regression.y, regression.intercept
    data = Data.of(X, y, regression.sample_weight, intercept=intercept)
    shape = np.shape(params["weights"])
    weights = np.asarray(params["weights"], np.float64).reshape(shape[0], -1)
    left, moved = height(data, weights, regression.l2)
    best = {"weights": moved.reshape(shape)}
    if regression.intercept:
        given = np.asarray(params["intercept"], np.float64)
        excess = data.means[1] - data.means[0] @ weights - given.reshape(-1)
        left += 0.5 * data.total * float(np.sum(np.square(excess)))
        best["intercept"] = (data.means[1] - data.means[0] @ moved).reshape(given.shape)
    if not np.isfinite(left):
        return None
    return _answer(
        query, left, left, Evidence.FACTORISATION, best=best, params=params, curvature=1.0
    )


def height(data: Data, weights: np.ndarray, l2: Any) -> tuple[float, np.ndarray]:
    """The gap of weights, (features, outputs), beside their best intercept, and the minimiser; l2
    is one number or one for each output.
    """
    penalties = np.broadcast_to(np.asarray(l2, np.float64), weights.shape[1])
    moved, left = np.empty_like(weights), 0.0
    for penalty in np.unique(penalties):
        own = penalties == penalty
        part, step = _decomposed(data, data.targets[:, own], weights[:, own], float(penalty))
        left, moved[:, own] = left + part, weights[:, own] + step
    return left, moved


def _decomposed(
    data: Data, targets: np.ndarray, weights: np.ndarray, l2: float
) -> tuple[float, np.ndarray]:
    """The gap of outputs with one penalty, and the step to their minimiser."""
    A, (rows, features) = data.A, data.A.shape
    residual = targets - A @ weights
    cutoff = RANK_ULPS * data.eps
    if rows < features:
        values, vectors = np.linalg.eigh(A @ A.T)
        is_seen = values > max(cutoff, 1e-7) ** 2 * values[-1]
        roots, vectors = np.sqrt(values[is_seen])[:, None], vectors[:, is_seen]
        along, image = vectors.T @ residual, vectors.T @ (A @ weights) / roots
        change = (roots * along - l2 * image) / (roots**2 + l2)
        rest = np.sum(np.square(weights)) - np.sum(np.square(image))
        left = 0.5 * np.sum(np.square(change) * (roots**2 + l2)) + 0.5 * l2 * max(rest, 0.0)
        step = A.T @ (vectors @ (change / roots))
        if l2 > 0:
            step -= weights - A.T @ (vectors @ (image / roots))
        return float(left), step
    squares = np.einsum("ij,ij->j", A, A)
    noise = np.square(16 * data.eps * data.means[0]) * data.total
    squares = np.where(squares > noise, squares, 0) + l2
    units = np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1)), 0)[:, None]
    if rows * features**2 <= MOST_EXACT:
        whole = A * units.T
        right = residual
        if l2 > 0:
            whole = np.concatenate([whole, np.diag(np.sqrt(l2) * units[:, 0])])
            right = np.concatenate([residual, -np.sqrt(l2) * weights])
        basis, triangle = np.linalg.qr(whole)
        left_vectors, roots, right_vectors = np.linalg.svd(triangle)
        is_seen = roots > cutoff * roots[0]
        along = (left_vectors.T @ (basis.T @ right))[is_seen]
        step = right_vectors[is_seen].T @ (along / roots[is_seen, None])
        return 0.5 * float(np.sum(np.square(along))), units * step
    scaled = units * (A.T @ A) * units.T + l2 * np.diag(units[:, 0] ** 2)
    slope = units * (A.T @ residual - l2 * weights)
    values, vectors = np.linalg.eigh(scaled)
    is_seen = values > max(cutoff, 1e-7) ** 2 * values[-1]
    along = vectors[:, is_seen].T @ slope
    values = values[is_seen, None]
    step = vectors[:, is_seen] @ (along / values)
    return 0.5 * float(np.sum(np.square(along) / values)), units * step


def _answer(
    query: Query,
    lower: float,
    upper: float,
    evidence: Evidence,
    *,
    best: Any,
    params: Any,
    curvature: Any = 0.0,
    count: int = 1,
) -> Gap:
    allowed = float(query.allowed(curvature, np))
    best = jax.tree.map(
        lambda new, old: jax.device_put(
            np.asarray(new).astype(np.dtype(old.dtype)), getattr(old, "sharding", None)
        ),
        best,
        params,
    )
    known = evidence if np.isfinite(upper) else Evidence.NONE
    code, flattest = np.int32(known.value), np.float64(query.flattest)
    return Gap(lower, upper, allowed, code, best, np.int32(count), flattest)


def is_few(objective: Objective, params: Any, evaluations: int) -> bool:
    """Whether a function's Hessian is decomposed after so many evaluations."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    held = sum(np.size(leaf) for leaf in jax.tree.leaves(objective))
    if size > max(FEW, min(evaluations, MOST_UNKNOWNS)):
        return False
    return size * max(held, size) <= MOST_NUMBERS


def prepare(objective: Objective, params: Any) -> None:
    """Compile what the gap of a function of few unknowns begins with."""
    with contextlib.suppress(Exception):  # a function may raise any error in float64
        _curvature(objective, params).compile(_expansion)


@np.errstate(all="ignore")  # what overflows is no decrease
def _of_function(objective: Objective, params: Any, query: Query, evaluations: int) -> Gap | None:
    if not is_few(objective, params, evaluations):
        return None
    curvature = _curvature(objective, params)
    try:
        height, x, gradient, matrix = jax.device_get(curvature.run(_expansion))
    except Exception:  # a function may raise any error in float64
        return None
    is_same = abs(height - float(query.value)) <= AGREEMENT * abs(height) + 1e-37
    if not (is_same and np.isfinite(matrix).all() and np.isfinite(gradient).all()):
        return None
    scale = equilibrating(matrix, np)
    values, vectors = np.linalg.eigh(scale[:, None] * matrix * scale[None, :])
    # Smaller curvatures may be the rounding of data in the params' dtype.
    cutoff = RANK_ULPS * curvature.eps * x.size**0.5 * float(np.max(np.abs(values)))
    along = vectors.T @ (scale * gradient)
    is_positive = values > cutoff
    curved = np.where(is_positive, values, max(cutoff, np.finfo(np.float64).tiny))
    decrement = 0.5 * float(np.sum(np.where(along == 0, 0, along**2 / curved)))
    step = -scale * (vectors @ np.where(is_positive, along / curved, 0))
    sizes = np.abs(x) @ np.abs(matrix)
    if objective.is_quadratic:
        # A slope along which there is no curvature, beyond rounding, has no end.
        rounding = NOISE_ULPS * curvature.eps * (sizes + np.abs(gradient - matrix @ x))
        is_slope = np.abs(along) > np.abs(vectors.T) @ (scale * rounding)
        decrement = np.inf if np.any(is_slope & ~is_positive) else decrement
    reach = float(np.linalg.norm(x)) or 1.0
    within = min(1.0, reach / (float(np.linalg.norm(step)) or 1.0))
    rows = [part * step for part in (*PARTS, within)]
    flat = scale * vectors[:, 0]
    length = float(np.linalg.norm(flat))
    # Along a flat direction a quadratic falls without end, or not at all.
    has_flat = not is_positive[0] and length > 0
    has_flat &= values[0] < -cutoff or not objective.is_quadratic
    rows += [(part * reach / length if has_flat else 0.0) * flat for part in REACHES]
    seen = np.asarray(curvature.run(_values, x + np.stack(rows)))
    seen = np.where(np.isfinite(seen), seen, np.inf)
    best = int(np.argmin(seen))
    noise = NOISE_ULPS * np.finfo(np.float64).eps * abs(height)
    lower = max(float(height - seen[best] - noise), 0.0)
    holds = abs(height - seen[0] - decrement) <= HOLDS * decrement + noise
    own = query._replace(worth=worth_of(x @ matrix @ x, sizes @ np.abs(x), query.eps, np))
    allowed = float(own.allowed(0.0, np))
    upper = decrement
    if not holds:
        upper = SAFETY * decrement if SAFETY * decrement <= allowed else np.inf
    moved = x + (rows[best] if lower > 0 else 0.0)
    point = jax.tree.map(np.asarray, curvature.as_params(moved))
    count = x.size + len(rows)
    # Where the expansion does not hold, no estimate stands beside it.
    code = Evidence.NEWTON_DECREMENT
    answer = _answer(own, lower, max(upper, lower), code, best=point, params=params, count=count)
    return answer._replace(is_curved=False)


def _curvature(objective: Objective, params: Any) -> Curvature:
    # The programs cast their inputs themselves; arrays that functions close over keep their dtype.
    wide = precision.widen(params)
    return Curvature(objective, wide, True, precision.epsilon(wide))


class _Unsuitable(Exception):
    """The function casts its value from float64 to another dtype."""


def _expansion(objective: Objective, params: Any) -> tuple[jax.Array, ...]:
    objective, params = as_double((objective, params))
    value, gradient = objective.value_and_gradient(params)
    if value.dtype != jnp.float64:
        raise _Unsuitable
    flat = ravel_pytree(params)[0], ravel_pytree(gradient)[0]
    return value, *flat, dense_hessian(objective, params)


def _values(objective: Objective, params: Any, rows: jax.Array) -> jax.Array:
    """The values at several points."""
    objective, params = as_double((objective, params))
    _, unravel = ravel_pytree(params)
    return jax.vmap(lambda row: objective.value(unravel(row)))(rows)
