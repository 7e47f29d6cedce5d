"""All stationary points that Newton's method reaches from many starts, with their kinds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdescent import placement
from jaxdescent.calls import programs
from jaxdescent.calls.problem import check_params
from jaxdescent.display import Displayed, argument, number
from jaxdescent.inputs import tracing
from jaxdescent.inputs.numbers import check_count, check_number
from jaxdescent.inputs.trees import check_floats, leading_axis
from jaxdescent.kernels.branches import where
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.methods.derivative import halved
from jaxdescent.methods.protocol import measure
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import on_vectors
from jaxdescent.objectives import Objective, Params, as_objective, checks
from jaxdescent.objectives.stationary import DenseSolver, dense_hessian
from jaxdescent.second_order import hessian_matrix
from jaxdescent.second_order.curvature import Curvature
from jaxdescent.second_order.hessian_matrix import kind_of


@dataclasses.dataclass(frozen=True)
class CriticalPoint(Displayed):
    """A point where the gradient is zero.

    Attributes:
      params: the point, with the structure of one start.
      value: the function's value at the point.
      kind: ``"minimum"``, ``"saddle"``, ``"maximum"`` or ``"degenerate"``.
      gradient_norm: the norm of the remaining gradient.
      eigenvalues: the eigenvalues of the Hessian, ascending, (n,).
      starts: how many of the starts led here.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> (point,) = jd.critical_points(lambda x: x[0] ** 2 + 3 * x[1] ** 2, jnp.ones((4, 2)))
    >>> point.kind, point.eigenvalues.tolist(), point.starts
    ('minimum', [2.0, 6.0], 4)
    """

    params: Params
    value: float
    kind: str
    gradient_norm: float
    eigenvalues: np.ndarray
    starts: int

    def _arguments(self) -> list[str]:
        starts = f"{self.starts:,} start{'s' * (self.starts != 1)}"
        return [
            f"{self.kind} at {argument(self.params)}",
            f"value={number(self.value, 6)}",
            f"gradient_norm={number(self.gradient_norm)}",
            f"eigenvalues={number(self.eigenvalues)}",
            starts,
        ]


def critical_points(
    fun: Any,
    starts: Params,
    *,
    args: tuple[Any, ...] = (),
    max_iterations: int = 200,
    separation: float | None = None,
) -> list[CriticalPoint]:
    """Find the stationary points of a function of few unknowns by the derivative method.

    Damped Newton steps solve for a zero gradient from every start at once, in float64 if the
    function can be evaluated in it. Each point is verified: Newton's next step must be short
    compared with ``X + |x|``, where X is the median norm of the starts that are not zero. The
    eigenvalues of its Hessian give its kind. Points are sorted by value. Only points that the
    starts reach are found. Where gradient and Hessian are exactly zero in a neighbourhood, no
    single point is stationary and none is listed.

    Args:
      fun: a function of params (and args) to a scalar, or an objective.
      starts: params with one more leading axis on every leaf, over the starts.
      args: extra arguments of ``fun``.
      max_iterations: the most Newton steps from each start.
      separation: points closer than ``separation`` times the largest of their norms and that of the
        start nearest to zero, plus four times the remaining Newton step (which is long near
        degenerate points), count as one. None stands for ``eps**(1/3)``.

    Returns:
      A list of :class:`CriticalPoint`, in the order of their values; empty if the starts reach
      none.

    Raises:
      TypeError: if ``starts`` are not real floating-point.
      ValueError: if the leaves of ``starts`` do not share a leading axis; or inside ``jit``,
        ``vmap`` or ``grad``.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> for point in jd.critical_points(lambda x: x**4 - 2 * x**2, jnp.linspace(-2.0, 2.0, 9)):
    ...     print(point.kind, round(float(point.params), 3) + 0.0)
    minimum -1.0
    minimum 1.0
    maximum 0.0
    """
    if not tracing.is_top_level():
        raise ValueError("critical_points reads values: call it outside jit, vmap and grad.")
    check_count("max_iterations", max_iterations)
    check_number("separation", separation, "positive", lambda given: given > 0, may_be_none=True)
    objective = placement.with_automatic_axes(as_objective(fun, args).checked())
    checks.check_leaves(objective)
    check_params(starts, "starts")
    starts = placement.with_automatic_axes(jax.tree.map(jnp.asarray, starts))
    hint = "stack them, for example with x[None] for a single start"
    leading_axis("starts", starts, "a leading axis over the starts", hint)
    for leaf in jax.tree.leaves(starts):
        check_floats("starts", leaf.dtype)
    first = jax.tree.map(lambda leaf: leaf[0], starts)
    checks.check_value(objective, first)
    parts = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(starts)]
    columns = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    # Curvature.at compares dtypes at the start nearest to zero, where the function is least likely
    # to overflow.
    lengths = np.linalg.norm(columns, axis=1)
    nearest = int(np.argmin(np.where(np.isnan(lengths), np.inf, lengths)))
    # A function in other units has its points elsewhere, and its starts too.
    sizes = lengths[(lengths > 0) & np.isfinite(lengths)]
    size = float(np.median(sizes)) if sizes.size else 1.0
    curvature = Curvature.at(objective, jax.tree.map(lambda leaf: leaf[nearest], starts))
    found = curvature.run(_solve_all, columns, np.float64(size), limit=max_iterations)
    found = jax.device_get(found)
    points, gradients, steps = map(np.asarray, found[:3])
    all_judged = [_judged(each, curvature.eps, size) for each in zip(*found, strict=True)]
    judged = {index: each for index, each in enumerate(all_judged) if each is not None}
    apart = precision.epsilon(starts) ** (1 / 3) if separation is None else separation
    norms = np.linalg.norm(gradients, axis=1)
    # Points are verified no closer than the first. Rounding parts a degenerate one at zero by more,
    # in units of which the nearest start says more than far ones do.
    least = max(2 * math.sqrt(np.finfo(points.dtype).eps) * size, apart * min(sizes, default=1.0))
    norms_of_points = np.linalg.norm(points, axis=1)
    counts: dict[int, int] = {}
    for index in sorted(judged, key=lambda index: norms[index]):
        here = points[index]
        distance = {other: np.linalg.norm(here - points[other]) for other in counts}
        closest = min(counts, key=lambda other: distance[other], default=index)
        reach = max(apart * np.max(norms_of_points[[index, closest]]), least)
        reach += 4 * np.linalg.norm(steps[index])
        if counts and distance[closest] <= reach:
            counts[closest] += 1
        else:
            counts[index] = 1
    kept = []
    for index, count in counts.items():
        kind, eigenvalues = judged[index]
        params = jax.tree.map(
            lambda x, like: jnp.asarray(np.asarray(x), like.dtype),
            curvature.as_params(points[index]),
            starts,
        )
        inputs = (objective, params, True)
        there = programs.compiled(measure, inputs)(*inputs)
        kept.append(
            CriticalPoint(
                params, float(there.value), kind, float(there.gradient_norm), eigenvalues, count
            )
        )
    return sorted(kept, key=lambda point: point.value)


JITTERS = 4
"""The number of points nearby that tell the rounding of the gradient."""


def _judged(found: Any, eps: float, unit: float) -> tuple[str, np.ndarray] | None:
    """The kind of a point of :func:`_solve_all` and its eigenvalues; None if it is not stationary.

    It is stationary if the next step is short compared with ``X + |x|`` for the ``unit`` X, or the
    gradient is at most the rounding of ``|H| (X + |x|)``. Far out on a slope that flattens,
    gradient and Hessian may both underflow to zero in this dtype; this is recognised by a last move
    along a flat direction.
    """
    params, gradient, step, move, hessian, jittered, beyond, around = (
        np.asarray(part, np.float64) for part in found
    )
    is_plateau = not np.any(hessian) and not np.any(around)
    if not all(np.all(np.isfinite(part)) for part in (params, gradient, step, hessian)):
        return None
    scaled = hessian_matrix.equilibrated(hessian)
    values, vectors = np.linalg.eigh(scaled.matrix)
    size = unit + np.linalg.norm(params)
    largest = float(np.max(np.abs(values)))

    def difference(other: np.ndarray) -> float:
        changed = (other - hessian) * scaled.scale[:, None] * scaled.scale
        return float(np.linalg.norm(changed)) if np.all(np.isfinite(changed)) else math.inf

    own_eps = float(np.finfo(found[0].dtype).eps)
    cutoff = hessian_matrix.SAFETY * difference(jittered) + 4 * len(values) * own_eps * largest
    margin = max(cutoff, 2 * eps * largest) + 2 * difference(beyond)
    eigenvalues = np.linalg.eigvalsh(hessian)
    flat = vectors[:, np.abs(values) <= max(cutoff, 2 * eps * largest)]
    flat_move = np.linalg.norm(flat.T @ (move / scaled.scale)) * np.max(scaled.scale)
    flat_gradient = np.linalg.norm(flat.T @ (gradient * scaled.scale)) / np.max(scaled.scale)
    worth = float(np.max(np.abs(eigenvalues))) * size
    scaled_size = np.linalg.norm((unit + np.abs(params)) / scaled.scale)
    scaled_norm = np.linalg.norm(gradient * scaled.scale)
    is_close = np.linalg.norm(step) <= np.sqrt(own_eps) * size
    is_close &= flat_gradient <= np.sqrt(own_eps) * worth
    is_zero = scaled_norm <= 16 * own_eps * largest * scaled_size
    has_stopped = flat_move <= 1e-3 * size
    if is_plateau or not ((is_close | is_zero) & has_stopped):
        return None
    return kind_of(float(values[0]), float(values[-1]), margin), eigenvalues


def _solve_all(
    objective: Objective, params: Params, starts: jax.Array, unit: jax.Array, *, limit: int
) -> tuple[jax.Array, ...]:
    """The points where Newton's method ended, one row for each start; the gradients, the next step,
    and the last one that was taken; the Hessians there, at params that differ by rounding, and
    twice the next step and what rounding hides away; and gradients at two points nearby.
    """
    flat, unravel = ravel_pytree(params)

    gradient_at = on_vectors(objective.gradient, unravel)

    def hessian_at(x: jax.Array) -> jax.Array:
        return dense_hessian(objective, unravel(x))

    def newton_step(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return DenseSolver.from_hessian(hessian_at(x)).newton_step(gradient)[0]

    def iterate(carry: Any) -> Any:
        x, gradient, last_move, count, _ = carry
        step, norm = newton_step(x, gradient), precision.norm(gradient)

        def is_flatter(fraction: jax.Array) -> jax.Array:
            return precision.norm(gradient_at(x + fraction * step)) < norm

        move = halved(jnp.ones((), x.dtype), is_flatter) * step
        new_gradient = gradient_at(x + move)
        is_better = precision.norm(new_gradient) < norm
        ways = (x + move, new_gradient, move), (x, gradient, last_move)
        return *where(is_better, *ways), count + 1, is_better

    def solve(start: jax.Array) -> tuple[jax.Array, ...]:
        zero = jnp.zeros((), jnp.int32)
        carry = (start, gradient_at(start), jnp.zeros_like(start), zero, jnp.array(True))
        x, gradient, move, _, _ = lax.while_loop(
            lambda carry: (carry[3] < limit) & carry[4], iterate, carry
        )
        hessian = hessian_at(x)
        solver = DenseSolver.from_hessian(hessian)
        signs = jnp.where(jnp.arange(x.size) % 2 == 0, 1, -1).astype(x.dtype)
        ulps = jnp.finfo(x.dtype).eps * jnp.arange(1, JITTERS + 1, dtype=x.dtype)
        jittered = x[None, :] * (1 + ulps[:, None] * signs[None, :])
        away = 1e-3 * (unit.astype(x.dtype) + precision.norm(x)) * signs
        gradients = jax.vmap(gradient_at)(jnp.stack([x + away, x - away, *jittered]))
        moved = jnp.matmul(jittered - x[None, :], hessian, precision=HIGHEST)
        rounding = jnp.max(jnp.abs(gradients[2:] - gradient[None, :] - moved), axis=0)
        rows = jnp.stack([gradient, hessian_matrix.SAFETY * rounding])
        step, hidden = jax.vmap(lambda row: solver.newton_step(row)[0])(rows)
        hidden = jnp.where(jnp.sum(hidden * step) < 0, -hidden, hidden)
        others = jax.vmap(hessian_at)(jnp.stack([jittered[0], x + 2 * (step + hidden)]))
        return x, gradient, step, move, hessian, *others, gradients[:2]

    return jax.vmap(solve)(starts.astype(flat.dtype))
