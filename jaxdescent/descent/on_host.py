"""A descent on a regression of some megabytes that the host solves at once, without a loop.

The derivative method takes one step, to the minimum. If X is in the memory of a CPU, NumPy makes
this step, and judges start and end by the rules of :mod:`jaxdescent.descent.stopping`. An eager
call compiles nothing for it, or if X is no array what writes out its entries; a program calls the
host once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jax.sharding import NamedSharding, PartitionSpec

from jaxdescent import placement
from jaxdescent.calls import programs
from jaxdescent.calls.problem import Problem
from jaxdescent.designs import Design, as_design
from jaxdescent.gap import dense
from jaxdescent.kernels.host_calls import host_call
from jaxdescent.kernels.host_threads import on_one_thread
from jaxdescent.kernels.platform import on_one_cpu
from jaxdescent.numerics import precision
from jaxdescent.objectives import Params
from jaxdescent.regression.solve import by_lapack
from jaxdescent.regression.solve.stored_regression import StoredRegression
from jaxdescent.result import Result
from jaxdescent.status import Evidence, Status
from jaxdescent.tolerance import ResolvedTolerance

MOST_MEMBERS = 16
"""The most members of a batch that the host solves one after another; a program that solves many at
once compiles for seconds."""


def is_possible(params: Params, problem: Problem, flags: dict[str, Any]) -> bool:
    """Whether the host can solve the problem, whatever the device of the program that calls it.

    Such a descent has one iteration. Predicates, absolute tolerances and a history are left to the
    loop.
    """
    objective, method, tolerance, _ = problem
    regression = objective.linear_regression
    if not method.solves_at_once(objective) or regression is not objective:
        return False
    if flags["history"] or flags["check_every"] > 1:
        return False
    if tolerance.ignored is None or tolerance.ignored.both:
        return False
    if tolerance.absolute_gradient is not None or tolerance.predicate is not None:
        return False
    if precision.is_rounded(params):
        return False
    if isinstance(regression.sample_weight, Tracer):  # it may be negative
        return False
    outputs = int(np.prod(np.shape(regression.y)[1:]))
    return by_lapack.is_possible(as_design(regression.X), outputs)


def lies_on_a_cpu(inputs: Any) -> bool:
    """Whether all arrays exist now, in the memory of one CPU of this process."""
    if not placement.is_at_hand(inputs):
        return False
    arrays = [leaf for leaf in jax.tree.leaves(inputs) if isinstance(leaf, jax.Array)]
    return all(len(array.sharding.device_set) == 1 for array in arrays)


def solved(params: Params, problem: Problem, limit: Any, **flags: Any) -> Result:
    """The result of a problem whose arrays are concrete and in the memory of a CPU."""
    return _result(_numbers(params, problem, limit, flags), problem)


def _numbers(params: Params, problem: Problem, limit: Any, flags: dict[str, Any]) -> dict[str, Any]:
    """The entries of the result, where the arrays are."""
    given, how = _given(params, problem, limit, flags)
    numbers = _computed(jax.tree.map(np.asarray, given), **how)
    committed = [leaf for leaf in jax.tree.leaves(given) if getattr(leaf, "committed", False)]
    where = committed[0].sharding if committed else None
    if isinstance(where, NamedSharding):  # its specification has another array's dimensions
        where = NamedSharding(where.mesh, PartitionSpec())
    return jax.device_put(numbers, where)


def in_program(
    descend: Callable[..., Result], inputs: tuple[Any, ...], flags: dict[str, Any]
) -> Result:
    """The result for arrays that may be traced: the host computes it in a program for one CPU;
    ``descend`` of these inputs does so elsewhere, and for the members of a larger batch.
    """
    leaves, structure = jax.tree.flatten(inputs)

    def by_host(*leaves: jax.Array) -> Result:
        params, problem, limit = structure.unflatten(leaves)
        return _by_host(params, problem, limit, flags)

    def by_loop(*leaves: jax.Array) -> Result:
        return descend(*structure.unflatten(leaves))._replace(state=())

    is_whole = as_design(inputs[1].objective.linear_regression.X).is_whole
    return _by_host_or_loop(by_host, by_loop, is_whole=is_whole, members=1)(leaves)


def _by_host_or_loop(
    by_host: Callable[..., Result],
    by_loop: Callable[..., Result],
    *,
    is_whole: bool | None,
    members: int,
) -> Callable[[list[jax.Array]], Result]:
    """One of two functions of arrays, each for so many members of a batch."""

    @custom_vmap
    def solve(leaves: list[jax.Array]) -> Result:
        return on_one_cpu(by_host, by_loop, *leaves, is_whole=is_whole)

    @solve.def_vmap
    def solve_each(axis_size: int, in_batched: Any, leaves: list[jax.Array]) -> Any:
        axes = [0 if is_batched else None for is_batched in in_batched[0]]
        host, loop = (
            jax.vmap(function, in_axes=axes, axis_size=axis_size) for function in (by_host, by_loop)
        )
        if (total := members * axis_size) > MOST_MEMBERS:
            results = loop(*leaves)
        else:
            results = _by_host_or_loop(host, loop, is_whole=is_whole, members=total)(leaves)
        return results, jax.tree.map(lambda _: True, results)

    return solve


def _by_host(params: Params, problem: Problem, limit: Any, flags: dict[str, Any]) -> Result:
    given, how = _given(params, problem, limit, flags)
    dtype = as_design(problem.objective.linear_regression.X).dtype
    shape = jax.ShapeDtypeStruct
    names = "value", "gradient_norm", "suboptimality", "scale"
    codes = "iterations", "evaluations", "status", "evidence"
    like: dict[str, Any] = dict.fromkeys(names, shape((), dtype))
    like |= dict.fromkeys(codes, shape((), np.int32))
    like["params"] = jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), params)
    of = functools.partial(_computed, **how)
    return _result(host_call(of, like, given, vmap_method="sequential"), problem)


def _given(
    params: Params, problem: Problem, limit: Any, flags: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays that the host needs, and the static options of :func:`_computed`."""
    regression = problem.objective.linear_regression
    given = {"data": _data_of(regression), "params": params}
    given |= {"tolerance": problem.tolerance, "limit": limit}
    how = {"intercept": regression.intercept, "dtype": np.dtype(as_design(regression.X).dtype)}
    return given, how | {"starts_at_own": flags["starts_at_own"]}


def _data_of(regression: Any) -> tuple[Any, ...]:
    """The arrays of a regression that the host needs for a :class:`StoredRegression`."""
    design = as_design(regression.X)
    X = design.to_dense() if design.is_stored else programs.compiled(_to_dense, (design,))(design)
    return X, regression.y, regression.l2, regression.sample_weight


def _to_dense(design: Design) -> jax.Array:
    return design.to_dense()


def _result(numbers: dict[str, Any], problem: Problem) -> Result:
    return Result(**numbers, state=(), history=(), ended_by=problem.method.ended_by(()))


@on_one_thread()
def _computed(
    given: dict[str, Any],
    *,
    intercept: bool,
    dtype: np.dtype[Any],
    starts_at_own: bool,
) -> dict[str, Any]:
    """The entries of the result, by NumPy."""
    given = jax.tree.map(np.asarray, given)
    regression = StoredRegression.of(*given["data"], intercept=intercept)
    start, outputs = given["params"], regression.y.shape[1]
    with np.errstate(all="ignore"):
        offset = regression.target_mean.astype(dtype)
        if intercept and not starts_at_own:
            offset = start["intercept"].reshape(-1)
        point = _Point(start["weights"].reshape(-1, outputs), offset)
        point, numbers = _judged(regression, point, given, dtype, starts_at_own=starts_at_own)
        params = {"weights": point.weights.reshape(start["weights"].shape).astype(dtype)}
        if intercept:
            params["intercept"] = point.offset.reshape(start["intercept"].shape).astype(dtype)
        scalars = {
            name: np.asarray(number).astype(np.int32 if isinstance(number, int) else dtype)
            for name, number in numbers.items()
        }
    return scalars | {"params": params}


class _Point(NamedTuple):
    weights: np.ndarray  # (features, outputs), in the dtype of the params
    offset: np.ndarray  # (outputs,)

    @property
    def size(self) -> float:
        return float(np.linalg.norm(self.weights.astype(np.float64)))


def _judged(
    regression: StoredRegression,
    start: _Point,
    given: dict[str, Any],
    dtype: np.dtype[Any],
    *,
    starts_at_own: bool,
) -> tuple[_Point, dict[str, Any]]:
    """The point where the descent ends, and the numbers of its result."""
    tolerance: ResolvedTolerance = given["tolerance"]
    limit, limits = int(given["limit"]), np.finfo(dtype)

    def measured(point: _Point) -> tuple[Any, Any]:
        value, norm = regression.at(*(part.astype(np.float64) for part in point))
        return dtype.type(value), dtype.type(norm)

    def numbers(status: Status, evidence: Evidence, iterations: int, **rest: Any) -> dict[str, Any]:
        rest |= {"status": status.value, "evidence": evidence.value}
        return rest | {"iterations": iterations, "evaluations": 1 + iterations}

    value, norm = seen = measured(start)
    first = {"value": value, "gradient_norm": norm, "suboptimality": np.inf, "scale": norm}
    if not (np.isfinite(value) and np.isfinite(norm)):
        return start, numbers(Status.NON_FINITE, Evidence.NONE, 0, **first)
    solution = by_lapack.solve(regression)
    if solution.factor.curves_down:
        return start, numbers(Status.DIVERGED, Evidence.NONE, 1, **first)
    slope = 0.0 if starts_at_own else regression.slope_at_constant()
    reference = slope if 0 < slope < np.inf else norm
    floor = dtype.type(limits.eps * regression.value_at_constant())

    @functools.cache
    def data_of_gap() -> dense.Data:
        X, y, _, sample_weight = given["data"]
        return dense.Data.of(X, y, sample_weight, intercept=regression.intercept)

    def own_gap(point: _Point) -> float:
        return dense.height(data_of_gap(), point.weights.astype(np.float64), regression.l2)[0]

    def judged(
        point: _Point, seen: tuple[Any, Any], size: float
    ) -> tuple[bool, dict[str, Any], Evidence]:
        value, norm = seen
        left = float(solution.height(*(part.astype(np.float64) for part in point)))
        evidence = Evidence.FACTORISATION
        if not solution.is_whole:  # what the solve took for rounding the gap measures
            left = max(left, own_gap(point))
        if value < left and np.min(regression.l2) >= 0:  # no value is negative, but it is rounded
            least = left - solution.rounding if solution.is_whole else 0.0
            left, evidence = max(float(value), least), Evidence.BOUND
        height = max(float(value), float(floor))
        scale = max(reference, float(value) / (size or np.inf), solution.curvature * size)
        if left > 0:
            scale = max(scale, norm * height / left)
        is_near = bool(tolerance.is_small_gradient(norm, dtype.type(scale), np))
        is_near &= bool(tolerance.allows(left, value, floor, np)) and bool(np.isfinite(value))
        rest = {"value": value, "gradient_norm": norm, "suboptimality": left, "scale": scale}
        return is_near, rest, evidence

    is_near, rest, evidence = judged(start, seen, start.size)
    if is_near or not limit:
        status = Status.CONVERGED if is_near else Status.MAX_ITERATIONS
        return start, numbers(status, evidence, 0, **rest)
    weights = solution.weights.astype(dtype)
    end = _Point(weights, solution.intercept.astype(dtype))
    is_near, rest, evidence = judged(end, measured(end), max(start.size, end.size))
    if is_near:
        return end, numbers(Status.CONVERGED, evidence, 1, **rest)
    is_far = end.size > float(limits.max) * float(limits.eps) or not np.isfinite(rest["value"])
    lost = Status.DIVERGED if is_far else Status.STAGNATED
    return end, numbers(lost if limit > 1 else Status.MAX_ITERATIONS, evidence, 1, **rest)
