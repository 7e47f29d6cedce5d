"""All stationary points that Newton's method reaches from many starts, each classified."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import checks, precision, programs
from jaxdescent.certificate import dense_spectrum, kind_of
from jaxdescent.descent import descend
from jaxdescent.methods import DerivativeMethod
from jaxdescent.objectives import Objective, as_objective
from jaxdescent.result import Result, Status
from jaxdescent.tolerance import Tolerance

Params = Any


@dataclasses.dataclass(frozen=True)
class CriticalPoint:
    """A point where the gradient is zero.

    Attributes:
      params: the point, with the structure of one start.
      value: the function there.
      kind: ``"minimum"``, ``"saddle"``, ``"maximum"`` or ``"degenerate"``.
      gradient_norm: the norm of the gradient that is left.
      eigenvalues: of the Hessian, ascending, (n,).
      starts: how many of the starts led here.
    """

    params: Params
    value: float
    kind: str
    gradient_norm: float
    eigenvalues: np.ndarray
    starts: int


def critical_points(
    fun: Any,
    starts: Params,
    *,
    args: tuple[Any, ...] = (),
    max_iterations: int = 200,
    separation: float | None = None,
) -> list[CriticalPoint]:
    """The derivative method for functions with several stationary points.

    Differentiate, set the gradient to zero, solve by damped Newton from every start at once, verify
    each point found by the eigenvalues of its Hessian. Points are sorted by value. It finds what
    the starts reach, not all there is.

    Args:
      fun: a function of params (and args) to a scalar, or an objective, of few unknowns.
      starts: params with one more leading axis on every leaf, over the starts.
      args: extra arguments of ``fun``.
      max_iterations: Newton steps from each start.
      separation: points closer than ``separation * (1 + |params|)``, plus four times the Newton
        step that is left (long near degenerate points), are one; None: ``eps**(1/3)``.

    Raises:
      ValueError: if the leaves of ``starts`` do not share a leading axis.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> for point in jd.critical_points(lambda x: x**4 - 2 * x**2, jnp.linspace(-2.0, 2.0, 9)):
    ...     print(point.kind, round(float(point.params), 3) + 0.0)
    minimum -1.0
    minimum 1.0
    maximum 0.0
    """
    objective = as_objective(fun, args).checked()
    checks.check_leaves(objective)
    starts = jax.tree.map(jnp.asarray, starts)
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(starts)}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        shapes = jax.tree.map(jnp.shape, starts)
        raise ValueError(
            f"starts must have a leading axis over the starts on every leaf, got shapes {shapes}: "
            "stack them, for example with x[None] for a single start."
        )
    for leaf in jax.tree.leaves(starts):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"starts must be real floating-point, got dtype {leaf.dtype}.")
    inputs = (objective, starts)
    program = programs.compiled(_solve_all, inputs, max_iterations=max_iterations)
    result, eigenvalues, margins, steps, coordinates = jax.device_get(program(*inputs))
    eps = precision.epsilon(starts)
    apart = eps ** (1 / 3) if separation is None else separation
    # Close in x, or flat by the scale of the start: a start may be good already. A step says how
    # close only where no direction of it was left out for want of curvature.
    is_close = (steps <= np.sqrt(eps) * (1 + np.linalg.norm(coordinates, axis=1))) & (
        np.min(np.abs(eigenvalues), axis=1) > margins
    )
    is_flat = result.gradient_norm <= np.sqrt(eps) * result.scale
    has_ended = np.isin(result.status, [Status.CONVERGED, Status.STAGNATED])
    stationary = has_ended & (is_close | is_flat)
    order = [
        index for index in np.argsort(result.gradient_norm, kind="stable") if stationary[index]
    ]
    points: list[CriticalPoint] = []
    chosen: list[int] = []
    counts: list[int] = []
    for index in order:
        here = coordinates[index]
        distances = [np.linalg.norm(here - coordinates[other]) for other in chosen]
        reach = apart * (1 + np.linalg.norm(here)) + 4 * steps[index]
        near = [distance <= reach for distance in distances]
        if any(near):
            counts[int(np.argmin(distances))] += 1
        else:
            chosen.append(int(index))
            counts.append(1)
    for index, count in zip(chosen, counts, strict=True):
        values = eigenvalues[index]
        points.append(
            CriticalPoint(
                params=jax.tree.map(lambda leaf, i=index: leaf[i], result.params),
                value=float(result.value[index]),
                kind=kind_of(float(values[0]), float(values[-1]), float(margins[index])),
                gradient_norm=float(result.gradient_norm[index]),
                eigenvalues=values,
                starts=count,
            )
        )
    return sorted(points, key=lambda point: point.value)


def _solve_all(
    objective: Objective, starts: Params, *, max_iterations: int
) -> tuple[Result, jax.Array, jax.Array, jax.Array, jax.Array]:
    checks.check_value(objective, jax.tree.map(lambda leaf: leaf[0], starts))

    def solve(start: Params) -> tuple[Result, jax.Array, jax.Array, jax.Array, jax.Array]:
        result = descend(
            objective,
            DerivativeMethod(),
            Tolerance(gradient=10 * precision.epsilon(start)),
            precision.Nearest(),
            start,
            max_iterations=jnp.asarray(max_iterations, jnp.int32),
            check_every=1,
            history=0,
            starts_at_own=True,
        )
        eigenvalues, margin, step = dense_spectrum(objective, result.params)
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(result.params)])
        return result, eigenvalues, margin, step, flat

    return jax.vmap(solve)(starts)
