"""The look at a claim on a function of few unknowns, by the rule of certificates, in float64.

The value, the gradient and all columns of the Hessian are computed by one program where the
function can be computed in float64, and judged by :mod:`jaxdescent.second_order.stationarity` on
the host. The margins for the rounding of data, for which a certificate draws other data, are left
out.

This second-order expansion says nothing about directions in which it is flat. A model that is
saturated in an unknown, ``b (1 - exp(-c x))`` at a large c, has hardly a gradient or a curvature
along c, wherever its minimum is. So the value is measured along directions in which a step of the
params' size would by the expansion change the value by no more than the tolerance allows: this part
of the params is multiplied by powers of two.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxdescent.descent.looks import Asked, Look
from jaxdescent.descent.watch import Loop
from jaxdescent.inputs.functions import anew
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import seldom
from jaxdescent.kernels.host_calls import host_call
from jaxdescent.kernels.loops import equations, programs_in
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, Params
from jaxdescent.objectives.stationary import dense_hessian
from jaxdescent.second_order import stationarity
from jaxdescent.second_order.curvature import AGREEMENT, Curvature, as_double, double
from jaxdescent.second_order.newton import Newton
from jaxdescent.tolerance import ResolvedTolerance

MOST_ALWAYS = 128
"""The most unknowns for which every claim is looked at. With more, the eigenvalues take longer than
most descents: only a claim is that the params' own dtype cannot show, and of an eager call."""

MOST_NUMBERS = 1 << 22
"""The largest product of the number of unknowns and the numbers in the data, or in an array that
the function computes."""

FEW_NUMBERS = 1 << 13
"""The largest such product for which one core computes the Hessian as fast as several."""

MOST_MEMBERS = 256
"""The most members of a batch for which the host is called once."""

POWERS = np.arange(-20, 4)
FLAT_PARTS = 8
"""The exponents of two for the factors on a part of the params, and the most parts that are tried.
"""

TAIL = 0.18
"""The deviation of the value at the end of Newton's step from its expansion, in decrements, up to
which a point that is no minimum is a saddle: near one it is as small as the step, and a sixth where
the value is a cubic alone. Where steps lead to infinity, along an exponential or a power, alone or
times another unknown, it is 0.2 to 0.33, as it is near saddles of the fourth order.
"""

FLAT = 1e-3
"""The largest tolerance that defines flat directions; by a larger one all directions would be flat.
"""


class _Judged(NamedTuple):
    """The findings by the expansion, and the points where the value is to be measured."""

    is_known: Any  # whether the function is the same in float64; nothing else is known if it is not
    # Whether the gradient is zero by the point's own scales, and the value as near to that of the
    # stationary point as a claim says.
    is_near: Any
    is_minimum: Any  # whether a certificate would call the point a minimum
    # How far the value may fall: half the squared Newton decrement; infinite if the gradient along
    # flat directions is not zero.
    falls: Any
    is_flat: Any  # whether there is a direction in which the expansion is flat
    # Whether the point stands only if the expansion holds to the end of Newton's step, which is
    # long by eigenvalues that rounding of the data may change, or longer than a claim allows, or
    # leads to a point that is no minimum.
    is_doubtful: Any
    # The params' parts along flat directions, (..., FLAT_PARTS, unknowns), filled up with zeros.
    parts: Any
    step: Any  # Newton's step
    height: Any  # the value at the point
    end: stationarity.Expected  # what the expansion says of the value at the end of the step
    allowed: Any  # how much lower than ``height`` a measured value may be


def is_possible(objective: Objective, params: Params, most: int = MOST_ALWAYS) -> bool:
    """Whether the Hessian has at ``most`` so many columns, and the data are small."""
    size, data = _sizes(objective, params)
    return size <= most and size * max(data, size) <= MOST_NUMBERS


def members_at_once(objective: Objective, params: Params) -> int:
    """The number of members of a batch, each like the given one, whose Hessians are computed at
    once; zero where the function cannot be computed in float64, up to its value, or makes large
    arrays.

    A function may raise any error in a dtype that it was not written for.
    """
    if not is_possible(objective, params):
        return 0
    size, data = _sizes(objective, params)
    try:
        with double():
            jax.eval_shape(_expansion, objective, params)
            made = _computed(jax.make_jaxpr(anew(objective.value))(params).jaxpr)
    except Exception:
        return 0
    return min(max(MOST_NUMBERS // max(size * max(size, data, made), 1), 1), MOST_MEMBERS)


def _sizes(objective: Objective, params: Params) -> tuple[int, int]:
    """The number of unknowns, and of numbers in the data."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return size, sum(np.size(leaf) for leaf in jax.tree.leaves(objective))


def at_hand(objective: Objective, tolerance: ResolvedTolerance, loop: Loop) -> Look | None:
    """The look at a claim whose arrays are concrete; None if the function cannot be computed in
    float64, or is another one there.
    """
    curvature, size = _curvature(objective, loop.params), loop.watch.size
    try:
        numbers = jax.device_get(curvature.run(_expansion))
    except Exception:  # a function may raise any error in float64
        return None
    given = loop.value, np.maximum(size.now, size.before), tolerance.suboptimality
    judged = _judged(True, numbers, *map(float, given), eps=curvature.eps)
    if not judged.is_known:
        return None
    there = None
    if judged.is_flat or judged.is_doubtful:
        there = np.asarray(curvature.run(_values, judged.parts, judged.step))
    look = _look(judged, there, np)
    with np.errstate(over="ignore"):  # a decrease beyond the dtype is infinite
        return look._replace(falls=np.asarray(look.falls, loop.value.dtype))


def prepare(objective: Objective, params: Params) -> None:
    """Compile what :func:`at_hand` begins with, at any point."""
    with contextlib.suppress(Exception):  # a function may raise any error in float64
        _curvature(objective, params).compile(_expansion)


def _curvature(objective: Objective, params: Params) -> Curvature:
    # The programs cast their inputs themselves; arrays that functions close over keep their dtype.
    wide = precision.widen(params)
    return Curvature(objective, wide, True, precision.epsilon(wide))


def in_program(
    objective: Objective, tolerance: ResolvedTolerance, loop: Loop, asked: Asked
) -> Look:
    """:func:`at_hand` in a program for one CPU, which calls the host for LAPACK; nothing is refuted
    or exact if the function is another one in float64. Of a batch the look means nothing for
    members that are not asked.
    """
    wide, dtype = precision.widen(loop.params), loop.value.dtype
    count, _ = _sizes(objective, wide)
    with double():
        numbers = _expansion(objective, wide)
        flag, number = jax.ShapeDtypeStruct((), bool), jax.ShapeDtypeStruct((), np.float64)
        step, parts = (
            jax.ShapeDtypeStruct((*shape, count), np.float64) for shape in ((), (FLAT_PARTS,))
        )
        end = stationarity.Expected(number, number)
        like = _Judged(flag, flag, flag, number, flag, flag, parts, step, number, end, number)
        of = functools.partial(_judged, eps=precision.epsilon(wide))
        relative = jnp.asarray(tolerance.suboptimality, jnp.float64)
        given = asked.is_looked_at, numbers, loop.value, loop.watch.size.scale, relative
        judged = host_call(of, like, *given, vmap_method="broadcast_all")
        leaves, structure = jax.tree.flatten((objective, wide, judged.parts, judged.step))

        def measured(*leaves: jax.Array) -> jax.Array:
            return _values(*structure.unflatten(leaves))

        def unmeasured(*leaves: jax.Array) -> jax.Array:
            return jnp.full(FLAT_PARTS * len(POWERS) + 1, jnp.inf)

        there = seldom(judged.is_flat | judged.is_doubtful, measured, unmeasured, *leaves)
        look = _look(judged, there, jnp)
        return look._replace(falls=look.falls.astype(dtype))


def _judged(is_asked: Any, *given: Any, eps: float) -> _Judged:
    """The findings about a point, or about the points that are asked of several: all arrays may
    have leading axes.
    """
    asked = np.asarray(is_asked)
    given = jax.tree.map(lambda leaf: np.asarray(leaf)[asked], given)
    with np.errstate(all="ignore"):  # members that have failed hold any numbers
        made = _judged_each(*given, eps=eps)

    def of_all(own: np.ndarray) -> np.ndarray:
        whole = np.zeros((*asked.shape, *own.shape[1:]), own.dtype)
        whole[asked] = own
        return whole

    return jax.tree.map(of_all, made)


def _judged_each(numbers: Any, value: Any, size: Any, tolerance: Any, *, eps: float) -> _Judged:
    """The findings about points, with one leading axis."""
    height, flat, gradient, matrix = numbers
    value, size, tolerance = (each.astype(np.float64) for each in (value, size, tolerance))
    is_finite = np.isfinite(matrix).all((-2, -1)) & np.isfinite(gradient).all(-1)
    is_finite &= np.isfinite(flat).all(-1)
    flat, gradient = (np.where(is_finite[:, None], each, 0) for each in (flat, gradient))
    newton = Newton.of(np.where(is_finite[:, None, None], matrix, 0))
    rounding, count = eps * newton.worth(flat), flat.shape[-1]
    lost = count * rounding + stationarity.underflow(flat, eps)
    is_known = is_finite & (np.abs(height - value) <= AGREEMENT * np.abs(height) + lost)
    here, how = (flat, height, gradient), {"tolerance": tolerance, "eps": eps}
    verdict, is_far, end = stationarity.by_newton(newton, *here, **how)
    is_stationary = is_known & (verdict.is_stationary | is_far)
    is_minimum = is_stationary & (newton.ends[0] >= -newton.in_doubt(eps).margins[0])
    # A claim allows the value t eps F, and a certificate t^2 F: an error of the params by t.
    how["floor"] = np.minimum(tolerance, eps)
    claim, is_further, _ = stationarity.by_newton(newton, *here, **how)
    is_near = is_known & (claim.is_stationary | is_further)
    is_doubtful = is_known & (is_far | is_further | (is_minimum != is_near))
    spared = np.where(is_minimum, 0, (stationarity.HOLDS - TAIL) * verdict.decrement)
    end = end._replace(slack=end.slack - spared)
    # Along directions of zero curvature the expansion has no minimum: its slope is what is left.
    sloping = newton.flat_change(gradient, flat)
    noise = stationarity.NOISE * np.maximum(np.abs(height), newton.worth(flat))
    is_near &= sloping <= np.maximum(claim.bound, noise)
    # It is no decrease that a step brings, so that points that are no minimum have their own alone.
    left = verdict.decrement + np.where(is_minimum & (sloping > noise), sloping, 0)
    falls = np.where(is_known, np.where(verdict.is_flat, left, np.inf), 0.0)
    scale = stationarity.SLACK * np.maximum(np.abs(height), rounding)
    # Only stationary points are measured along flat directions.
    values, vectors = np.linalg.eigh(np.where(is_stationary[:, None, None], matrix, 0))
    worth = 0.5 * np.abs(values) * size[:, None] ** 2
    is_irrelevant = worth <= (np.minimum(tolerance, FLAT) * scale)[:, None]
    is_irrelevant &= is_stationary[:, None]
    along = np.where(is_irrelevant, (vectors.mT @ flat[..., None])[..., 0], 0)
    parts = np.zeros((len(flat), FLAT_PARTS, count))
    if along.any():
        # The directions with a part come first, in their order.
        order = np.argsort(along == 0, axis=-1, kind="stable")[:, :FLAT_PARTS]
        own = np.take_along_axis(along, order, -1)[..., None]
        parts[:, : own.shape[1]] = own * np.take_along_axis(vectors.mT, order[..., None], 1)
    allowed = np.where(is_known, tolerance * scale, 0.0)
    is_flat = np.any(along, axis=-1)
    point = is_known, is_near, is_minimum, falls
    return _Judged(*point, is_flat, is_doubtful, parts, verdict.step, height, end, allowed)


def _look(judged: _Judged, there: Any, xp: Any) -> Look:
    """The look after the value has been measured along flat directions and at the end of Newton's
    step; None stands for values that need not be measured.
    """
    falls, stands = judged.falls, True
    if there is not None:
        along, height = there[..., :-1], xp.expand_dims(judged.height, -1)
        lower = xp.max(xp.where(xp.isfinite(along), height - along, 0.0), axis=-1)
        is_lower = judged.is_flat & (lower > judged.allowed)
        falls = xp.where(is_lower, xp.maximum(falls, lower), falls)
        holds = judged.end.holds(there[..., -1])
        stands = ~is_lower & (holds | ~judged.is_doubtful)
    is_false = judged.is_known & xp.logical_not(judged.is_near & stands)
    is_minimum = judged.is_minimum & stands
    return Look(falls, is_false, is_minimum, is_minimum)


class _Unsuitable(Exception):
    """The function makes large arrays, draws random numbers from typed keys, which JAX cannot lower
    beside another precision, or casts its value from float64 to another dtype.
    """


def _largest(objective: Objective, params: Params) -> tuple[int, bool]:
    """The size of the largest array that the function closes over or computes, and whether XLA for
    CPUs calls a library for it.
    """
    closed = jax.make_jaxpr(anew(objective.value))(params)
    made = [each.aval for equation in equations(closed.jaxpr) for each in equation.outvars]
    arrays = [each for each in (*map(jax.typeof, closed.consts), *made) if hasattr(each, "dtype")]
    if any(jnp.issubdtype(array.dtype, jax.dtypes.extended) for array in arrays):
        raise _Unsuitable
    return max((array.size for array in arrays), default=0), loops.has_libraries(closed.jaxpr)


def _computed(jaxpr: Any) -> int:
    """How many numbers a program computes, of each turn of its loops: derivatives keep them."""
    total = 0
    for equation in jaxpr.eqns:
        inner = sum(map(_computed, programs_in(equation)))
        total += sum(getattr(each.aval, "size", 0) for each in equation.outvars)
        total += equation.params.get("length", 1) * inner
    return total


def _expansion(objective: Objective, params: Params) -> tuple[jax.Array, ...]:
    objective, params = as_double((objective, params))
    flat = ravel_pytree(params)[0]
    largest, has_libraries = _largest(objective, params)
    numbers = flat.size * largest
    if numbers > MOST_NUMBERS:
        raise _Unsuitable

    def expanded() -> tuple[jax.Array, ...]:
        value, gradient = objective.value_and_gradient(params)
        if value.dtype != jnp.float64:
            raise _Unsuitable
        return value, flat, ravel_pytree(gradient)[0], dense_hessian(objective, params)

    is_one = numbers <= FEW_NUMBERS and not has_libraries
    return loops.one_turn(expanded) if is_one else expanded()


def _values(objective: Objective, params: Params, parts: jax.Array, step: jax.Array) -> jax.Array:
    """The values where each part of the params is multiplied by powers of two, and after a step."""
    objective, params = as_double((objective, params))
    flat, unravel = ravel_pytree(params)
    moved = (2.0**POWERS - 1)[None, :, None] * parts[:, None, :]
    rows = flat[None] + jnp.concatenate([moved.reshape(-1, flat.size), step[None]])
    return jax.vmap(lambda row: objective.value(unravel(row)))(rows)
