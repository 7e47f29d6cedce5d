"""All stationary points that Newton's method reaches from many starts, with their kinds."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdescent import placement
from jaxdescent.calls.problem import check_params
from jaxdescent.display import Displayed
from jaxdescent.inputs import tracing
from jaxdescent.inputs.numbers import check_count
from jaxdescent.inputs.trees import check_floats, leading_axis
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, Params, as_objective, checks
from jaxdescent.objectives.stationary import dense_hessian
from jaxdescent.second_order.curvature import Curvature


@dataclasses.dataclass(frozen=True)
class CriticalPoint(Displayed):
    """A point where the gradient is zero, as :func:`critical_points` lists it.

    Attributes:
      params: the point.
      value: the objective there.
      kind: ``"minimum"``, ``"saddle"``, ``"maximum"`` or ``"degenerate"``.
      gradient_norm: the norm of the gradient there, zero but for rounding.
      eigenvalues: those of the Hessian, ascending, (unknowns,).
      starts: how many of the starts led here.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> [point] = jd.critical_points(lambda x: (x - 1) ** 2, jnp.array([0.0, 3.0]))
    >>> point.kind, point.starts
    ('minimum', 2)
    """

    params: Params
    value: float
    kind: str
    gradient_norm: float
    eigenvalues: np.ndarray
    starts: int


def critical_points(
    objective: Any, starts: Params, *, args: tuple[Any, ...] = (), max_iterations: int = 200
) -> list[CriticalPoint]:
    """Find the stationary points of an objective of few unknowns, and the kind of each.

    Newton's steps, halved until the gradient's norm falls, are taken from every start, in float64
    if the objective can be evaluated in it. A point is stationary where the next step is shorter
    than ``sqrt(eps) (X + |x|)``; X is the median norm of the starts that are not zero. Its kind
    follows from the signs of the Hessian's eigenvalues. Those within rounding of zero, or that
    change by half over twice the next step plus ``eps**0.4 (X + |x|)``, make it degenerate. Where
    gradient and Hessian are zero all around, on a plateau, no point is listed.

    Args:
      objective: a function of params (and args) to a scalar, or an objective.
      starts: params with one more leading axis on every leaf, over the starts.
      args: extra arguments of the function.
      max_iterations: the most Newton steps from each start.

    Returns:
      A list of :class:`CriticalPoint` in the order of their values; points that are closer to each
      other than ``eps**(1/3)`` of their norms, in the params' dtype, count as one.

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
    objective = placement.with_automatic_axes(as_objective(objective, args).checked())
    checks.check_leaves(objective)
    check_params(starts, "starts")
    starts = placement.with_automatic_axes(jax.tree.map(jnp.asarray, starts))
    hint = "stack them, for example with x[None] for a single start"
    leading_axis("starts", starts, "a leading axis over the starts", hint)
    for leaf in jax.tree.leaves(starts):
        check_floats("starts", leaf.dtype)
    checks.check_value(objective, jax.tree.map(lambda leaf: leaf[0], starts))
    rows = [np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in jax.tree.leaves(starts)]
    columns = np.concatenate(rows, axis=1)
    lengths = np.linalg.norm(columns, axis=1)
    sizes = lengths[(lengths > 0) & np.isfinite(lengths)]
    size, nearest = (float(np.median(sizes)), min(sizes)) if sizes.size else (1.0, 1.0)
    # The dtypes are compared where the objective is least likely to overflow.
    least = int(np.nanargmin(np.where(np.isnan(lengths), np.inf, lengths)))
    curvature = Curvature.at(objective, jax.tree.map(lambda leaf: leaf[least], starts))
    ended = jax.device_get(curvature.run(_newton, columns, np.float64(size), limit=max_iterations))
    found = [_classified(each, size, curvature.eps) for each in zip(*ended, strict=True)]
    x, steps = map(np.asarray, ended[:2])
    apart = precision.epsilon(starts) ** (1 / 3)
    floor = max(2 * np.sqrt(np.finfo(x.dtype).eps) * size, apart * nearest)
    counts: dict[int, int] = {}
    for index in sorted(filter(found.__getitem__, range(len(x))), key=lambda i: found[i][2]):
        distances = {i: np.linalg.norm(x[index] - x[i]) for i in counts}
        near = min(distances, key=distances.__getitem__, default=index)
        reach = max(apart * np.max(np.linalg.norm(x[[index, near]], axis=1)), floor)
        is_same = distances.get(near, np.inf) <= reach + 4 * np.linalg.norm(steps[index])
        same = near if is_same else index
        counts[same] = counts.get(same, 0) + 1
    points = []
    for index, count in counts.items():
        point = jax.tree.map(np.asarray, curvature.as_params(x[index]))
        params = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), point, starts)
        kind, value, norm, eigenvalues = found[index]
        points.append(CriticalPoint(params, value, kind, norm, eigenvalues, count))
    return sorted(points, key=lambda point: point.value)


def _classified(ended: tuple[Any, ...], unit: float, eps: float) -> tuple[Any, ...]:
    """Kind, value, gradient norm and eigenvalues; nothing where the point is not stationary."""
    own_eps = np.finfo(ended[0].dtype).eps
    x, step, value, gradient, hessian, beyond = (np.asarray(part, np.float64) for part in ended)
    if not all(np.all(np.isfinite(part)) for part in (x, step, gradient, hessian, beyond)):
        return ()
    values, vectors = np.linalg.eigh(hessian)
    largest, size = np.max(np.abs(values)), unit + np.linalg.norm(x)
    rounding = max(4 * len(values) * own_eps, 2 * eps) * largest
    flat_gradient = vectors[:, np.abs(values) <= rounding].T @ gradient
    is_close = np.linalg.norm(step) <= np.sqrt(own_eps) * size
    is_close &= np.linalg.norm(flat_gradient) <= np.sqrt(own_eps) * largest * size
    if not is_close or not (np.any(hessian) or np.any(beyond)):
        return ()
    is_zero = np.abs(values) <= rounding + 2 * np.linalg.norm(beyond - hessian)
    kind = "minimum" if values[0] > 0 else "maximum" if values[-1] < 0 else "saddle"
    kind = "degenerate" if np.any(is_zero) else kind
    return kind, float(value), float(np.linalg.norm(gradient)), values


def _newton(
    objective: Objective, params: Params, starts: jax.Array, unit: jax.Array, *, limit: int
) -> Any:
    """Where Newton's method ended from each start, the next step, value, gradient and Hessian
    there, and the Hessian at a point nearby.
    """
    flat, unravel = ravel_pytree(params)
    eps = jnp.finfo(flat.dtype).eps

    def gradient_at(x: jax.Array) -> jax.Array:
        return ravel_pytree(objective.gradient(unravel(x)))[0]

    def newton_step(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        hessian = dense_hessian(objective, unravel(x))
        values, vectors = jnp.linalg.eigh(hessian)
        is_flat = jnp.abs(values) <= x.size * eps * jnp.max(jnp.abs(values))
        gain = jnp.where(is_flat, 0, 1 / jnp.where(is_flat, 1, values))
        along = jnp.matmul(gradient, vectors, precision=lax.Precision.HIGHEST)
        return -jnp.matmul(vectors, gain * along, precision=lax.Precision.HIGHEST), hessian

    def iterate(carry: Any) -> Any:
        x, gradient, count, _ = carry
        step, norm = newton_step(x, gradient)[0], precision.norm(gradient)

        def is_rejected(share: jax.Array) -> jax.Array:
            return ~(precision.norm(gradient_at(x + share * step)) < norm) & (share > eps)

        share = lax.while_loop(is_rejected, lambda share: share / 2, jnp.ones((), x.dtype))
        new = gradient_at(x + share * step)
        is_better = precision.norm(new) < norm
        x, gradient = jnp.where(is_better, x + share * step, x), jnp.where(is_better, new, gradient)
        return x, gradient, count + 1, is_better

    def solve(start: jax.Array) -> tuple[jax.Array, ...]:
        carry = start, gradient_at(start), jnp.zeros((), jnp.int32), jnp.array(True)
        x, gradient, *_ = lax.while_loop(lambda c: c[3] & (c[2] < limit), iterate, carry)
        step, hessian = newton_step(x, gradient)
        off = 2 * step + eps**0.4 * (unit.astype(x.dtype) + precision.norm(x)) / x.size**0.5
        beyond = dense_hessian(objective, unravel(x + off))
        return x, step, objective.value(unravel(x)), gradient, hessian, beyond

    return jax.vmap(solve)(starts.astype(flat.dtype))
