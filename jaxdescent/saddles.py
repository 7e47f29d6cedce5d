"""Leave a saddle or a maximum along a direction of negative curvature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import processes
from jaxdescent.calls import programs
from jaxdescent.certificate import posed_at
from jaxdescent.inputs import tracing
from jaxdescent.kernels import dtypes
from jaxdescent.methods.derivative import halved
from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import add_scaled
from jaxdescent.objectives import Objective, Params
from jaxdescent.result import Result
from jaxdescent.second_order.spectrum import spectrum_at
from jaxdescent.status import Status

DEPARTURES = 10
"""The most saddles that a descent leaves."""

LENGTHS = 40
"""The number of times that the longest step is halved."""

VISIBLE = 256
"""The decrease by the longest step, in roundings of the value, that the curvature predicts at
least."""

LEAST_SHARE = 0.1
"""The share of the decrease predicted by the negative curvature that a step must bring."""


def leave_saddle(objective: Any, params: Params, args: tuple[Any, ...] = ()) -> Params:
    """Params with a lower value, found along a direction of negative curvature.

    A descent that starts at an exact saddle or maximum stays there, because the gradient is zero.
    If the Hessian has a unit eigenvector v with an eigenvalue that is negative beyond rounding,
    steps ``x + r v`` and ``x - r v`` are tried, until the value falls by a tenth of the predicted
    ``r g.v + r^2 v.Hv / 2``; of both signs the one with the lower value is taken. The lengths r go
    down from ``|x|``, or 1 if that is larger, or the length whose decrease is clear of the value's
    rounding. If no direction of negative curvature is found, at a minimum or a degenerate point,
    the same params are returned; ``jd.certify`` tells these apart.

    Args:
      objective: as for ``minimize``.
      params: the point where a descent ended.
      args: as for ``minimize``.

    Returns:
      The params beside the saddle, or ``params`` if no curvature there is negative.

    Raises:
      ValueError: inside ``jit``, ``vmap`` or ``grad``, because it reads values; where the gradient
        is NaN.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> def wells(p):
    ...     return p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4
    >>> left = jd.leave_saddle(wells, jnp.zeros(2))
    >>> print(wells(left) < 0, jd.certify(wells, jd.minimize(wells, left)).kind)
    True minimum
    """
    if not tracing.is_top_level():
        raise ValueError("leave_saddle reads values: call it outside jit, vmap and grad.")
    given = params
    with processes.among("leave_saddle", objective, params, args):
        objective, params = posed_at(objective, params, args)
        spectrum = spectrum_at(objective, params, is_to_leave=True)
    if math.isnan(spectrum.curvature.own_norm):
        raise ValueError(
            "leave_saddle got params where the gradient is NaN: pass the point where a descent "
            "ended."
        )
    if spectrum.lowest is None or spectrum.kind not in ("saddle", "maximum"):
        return given
    direction = jax.tree.map(
        lambda leaf, like: jnp.asarray(np.asarray(leaf), dtypes.compute_dtype(like.dtype)),
        spectrum.lowest,
        params,
    )
    inputs = (objective, params, direction)
    new, is_lower = programs.compiled(_lower, inputs)(*inputs)
    return objective.unpacked(new) if bool(is_lower) else given


def past_saddles(
    descent: Callable[..., Result],
    objective: Any,
    params: Params,
    args: tuple[Any, ...],
    max_iterations: int | jax.Array,
) -> Result:
    """The result of ``minimize(..., leave_saddles=True)``.

    ``descent(params, max_iterations=...)`` is the same call without ``leave_saddles``.
    """
    if not tracing.is_top_level():
        raise ValueError(
            "minimize(..., leave_saddles=True) reads the Hessian where the descent ends: call "
            "it outside jit, vmap and grad, or leave leave_saddles off inside."
        )
    result = descent(params, max_iterations=max_iterations)
    for _ in range(DEPARTURES):
        left = int(max_iterations) - int(result.iterations)
        if left < 1 or int(result.status) not in (Status.CONVERGED, Status.STAGNATED):
            break
        start = leave_saddle(objective, result.params, args)
        if start is result.params:
            break
        further = descent(start, max_iterations=left)
        result = further._replace(
            iterations=result.iterations + further.iterations,
            evaluations=result.evaluations + further.evaluations,
        )
    return result


def _lower(objective: Objective, params: Params, direction: Params) -> tuple[Params, jax.Array]:
    """The better of the first acceptable steps of both signs, and whether there is one."""
    wide = precision.widen(params)
    value, gradient = objective.value_and_gradient(wide)
    slope = precision.inner(gradient, direction)
    curvature = objective.curvature(wide, direction)
    # In large units a step of one is lost in the rounding of the value.
    rounding = VISIBLE * jnp.finfo(value.dtype).eps * jnp.abs(value)
    visible = jnp.sqrt(2 * rounding.astype(curvature.dtype) / jnp.abs(curvature))
    visible = jnp.where(jnp.isfinite(visible), visible, 0)
    longest = jnp.maximum(jnp.maximum(precision.norm(wide), 1), visible)

    def moved(distance: jax.Array) -> Params:
        new = add_scaled(wide, distance, direction)
        return precision.narrow(new, params, precision.Nearest(), 0)

    def value_at(distance: jax.Array) -> jax.Array:
        return jnp.asarray(objective.value(precision.widen(moved(distance))), value.dtype)

    def first(sign: int) -> tuple[jax.Array, jax.Array]:
        def brings_enough(distance: jax.Array) -> jax.Array:
            promised = distance * slope + 0.5 * jnp.square(distance) * curvature
            enough = LEAST_SHARE * jnp.minimum(promised, 0).astype(value.dtype)
            new = value_at(distance)
            return (new < value) & (new <= value + enough)

        distance = halved(sign * longest, brings_enough, LENGTHS)
        return distance, value_at(distance)

    (up, value_up), (down, value_down) = first(1), first(-1)
    is_up = ~(value_down < value_up)
    lowest = jnp.where(is_up, value_up, value_down)
    return moved(jnp.where(is_up, up, down)), lowest < value
