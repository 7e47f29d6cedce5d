"""Whether a point of few unknowns is stationary, by the rule of certificates, from one program.

The value, the gradient and all columns of the Hessian are computed in float64 where the function
can be, and judged by :mod:`jaxdescent.second_order.stationarity` on the host. The margins for the
rounding of data, for which a certificate draws other data, are left out.

This second-order expansion says nothing about directions in which it is flat. A model that is
saturated in an unknown, ``b (1 - exp(-c x))`` at a large c, has hardly a gradient or a curvature
along c, wherever its minimum is. So the value is measured along directions in which a step of the
params' size would by the expansion change the value by no more than the tolerance allows: this part
of the params is multiplied by powers of two.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxdescent.inputs.functions import MOST_IN_DOUBLE, anew
from jaxdescent.kernels.host_calls import host_call
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective
from jaxdescent.objectives.stationary import dense_hessian
from jaxdescent.second_order import stationarity
from jaxdescent.second_order.curvature import AGREEMENT, Curvature, as_double, double
from jaxdescent.second_order.newton import Newton

Params = Any

MOST_NUMBERS = 1 << 22
"""The largest product of the number of unknowns and the numbers in the data, or in an array that
the function computes."""

POWERS = np.arange(-20, 4)
FLAT_PARTS = 8
"""The exponents of two for the factors on a part of the params, and the most parts that are tried.
"""

FLAT = 1e-3
"""The largest tolerance that defines flat directions; by a larger one all directions would be flat.
"""


class Found(NamedTuple):
    """Whether a point is stationary, and convex, and how far the value may fall; scalars.

    Attributes:
      is_known: whether the function is the same in float64; nothing else is known if it is not.
      is_stationary: whether the gradient is zero by the point's own scales.
      is_convex: whether no eigenvalue of the Hessian is negative.
      falls: how far the value may fall: half the squared Newton decrement, or the decrease measured
        along a flat direction if that is more; infinite if the gradient along flat directions is
        not zero.
    """

    is_known: Any
    is_stationary: Any
    is_convex: Any
    falls: Any


class _Judged(NamedTuple):
    """The findings by the expansion, and the points where the value is to be measured.

    Attributes:
      found: the findings about the point by its expansion.
      is_flat: whether there is a direction in which the expansion is flat.
      rows: points along such directions, filled up with the point itself.
      height: the value at the point.
      allowed: how much lower than ``height`` a measured value may be.
    """

    found: Found
    is_flat: Any
    rows: Any
    height: Any
    allowed: Any


def is_possible(objective: Objective, params: Params) -> bool:
    """Whether the Hessian's columns are few and the data small."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    data = sum(np.size(leaf) for leaf in jax.tree.leaves(objective))
    return size <= MOST_IN_DOUBLE and size * max(data, size) <= MOST_NUMBERS


def is_traceable(objective: Objective, params: Params) -> bool:
    """Whether the function can be computed in float64, up to its value, and makes no large arrays.

    A function may raise any error in a dtype that it was not written for.
    """
    try:
        with double():
            jax.eval_shape(_expansion, objective, params)
    except Exception:
        return False
    return True


def found_at(
    objective: Objective, params: Params, *, value: float, size: float, tolerance: float
) -> Found | None:
    """The findings about a concrete point; None if the function cannot be computed in float64.

    Args:
      objective: a function, or a quadratic form.
      params: the point.
      value: the value in the params' own dtype.
      size: the params' norm, at the point or on the way to it.
      tolerance: the relative tolerance of the value.
    """
    curvature = Curvature.cast_in_program(objective, precision.widen(params))
    try:
        numbers = jax.device_get(curvature.run(_expansion))
    except Exception:  # a function may raise any error in float64
        return None
    judged = _judged(numbers, value, size, tolerance, curvature.eps)
    if not judged.is_flat:
        return judged.found
    return _with_measured(judged, np.asarray(curvature.run(_values, judged.rows)), np)


def found_in_program(
    objective: Objective, params: Params, *, value: Any, size: Any, tolerance: Any
) -> Found:
    """:func:`found_at` in a program for one CPU, which calls the host for LAPACK."""
    wide, dtype = precision.widen(params), jnp.result_type(value)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    with double():
        numbers = _expansion(objective, wide)
        flag, number = jax.ShapeDtypeStruct((), bool), jax.ShapeDtypeStruct((), np.float64)
        rows = jax.ShapeDtypeStruct((FLAT_PARTS * len(POWERS), count), np.float64)
        like = _Judged(Found(flag, flag, flag, number), flag, rows, number, number)
        of = functools.partial(_judged, eps=precision.epsilon(wide))
        given = (value, size, jnp.asarray(tolerance, jnp.float64))
        judged = host_call(of, like, numbers, *given, vmap_method="sequential")
        there = lax.cond(
            judged.is_flat,
            lambda rows: _values(objective, wide, rows),
            lambda rows: jnp.full(len(rows), jnp.inf),
            judged.rows,
        )
        found = _with_measured(judged, there, jnp)
        return found._replace(falls=found.falls.astype(dtype))


def _judged(numbers: Any, value: Any, size: Any, tolerance: Any, eps: float) -> _Judged:
    height, flat, gradient, matrix = numbers
    value, size, tolerance = float(value), float(size), float(tolerance)
    rows = np.tile(flat, (FLAT_PARTS * len(POWERS), 1))
    yes, no, zero = np.asarray(True), np.asarray(False), np.asarray(0.0)
    nothing = _Judged(Found(no, no, no, zero), no, rows, np.asarray(height), zero)
    are_finite = np.all(np.isfinite(matrix)) and np.all(np.isfinite(gradient))
    if not are_finite:
        return nothing
    newton = Newton.of(matrix).with_doubt(len(flat) * eps)
    rounding = eps * newton.worth(flat)
    if not abs(height - value) <= AGREEMENT * abs(height) + len(flat) * rounding:
        return nothing
    verdict = stationarity.by_newton(
        newton, flat, float(height), gradient, tolerance=tolerance, eps=eps
    )
    falls = np.asarray(verdict.decrement if verdict.is_flat else np.inf)
    is_stationary, is_convex = verdict.is_stationary, newton.kind() in ("minimum", "degenerate")
    found = Found(yes, np.asarray(is_stationary), np.asarray(is_convex), falls)
    scale = stationarity.SLACK * max(abs(float(height)), rounding)
    values, vectors = np.linalg.eigh(matrix)
    is_irrelevant = 0.5 * np.abs(values) * size**2 <= min(tolerance, FLAT) * scale
    parts = [direction * (direction @ flat) for direction in vectors[:, is_irrelevant].T]
    parts = [part for part in parts if np.any(part)][:FLAT_PARTS]
    for index, part in enumerate(parts):
        own = slice(index * len(POWERS), (index + 1) * len(POWERS))
        rows[own] += (2.0 ** POWERS[:, None] - 1) * part
    is_flat = np.asarray(bool(parts) and verdict.is_stationary)
    return _Judged(found, is_flat, rows, np.asarray(height), np.asarray(tolerance * scale))


def _with_measured(judged: _Judged, there: Any, xp: Any) -> Found:
    """The findings about a point after the value has been measured along flat directions."""
    found = judged.found
    lower = judged.height - xp.min(xp.where(xp.isfinite(there), there, judged.height))
    is_lower = judged.is_flat & (lower > judged.allowed)
    falls = xp.where(is_lower, xp.maximum(found.falls, lower), found.falls)
    return found._replace(is_stationary=found.is_stationary & ~is_lower, falls=falls)


class _Unsuitable(Exception):
    """The function makes large arrays, or casts its value from float64 to another dtype."""


def _largest(objective: Objective, params: Params) -> int:
    """The size of the largest array that the function closes over or computes."""
    closed = jax.make_jaxpr(anew(objective.value))(params)
    made = [each.aval for equation in closed.jaxpr.eqns for each in equation.outvars]
    sizes = [getattr(aval, "size", 0) for aval in made]
    return max([np.size(const) for const in closed.consts] + sizes, default=0)


def _expansion(objective: Objective, params: Params) -> tuple[jax.Array, ...]:
    objective, params = as_double((objective, params))
    flat = ravel_pytree(params)[0]
    if flat.size * _largest(objective, params) > MOST_NUMBERS:
        raise _Unsuitable
    value, gradient = objective.value_and_gradient(params)
    if value.dtype != jnp.float64:
        raise _Unsuitable
    return value, flat, ravel_pytree(gradient)[0], dense_hessian(objective, params)


def _values(objective: Objective, params: Params, rows: jax.Array) -> jax.Array:
    objective, params = as_double((objective, params))
    _, unravel = ravel_pytree(params)
    return jax.vmap(lambda row: objective.value(unravel(row)))(rows)
