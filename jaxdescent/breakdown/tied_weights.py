"""Part 3 (b): the same shapes with every weight tied to its neighbours, as many as fit.

With ``e = x - c``, for every matrix of the tree

    f(x) = 1/2 sum_ij a_ij e_ij^2
         + 1/2 sum_ij u_i (e_(i+1)j - e_ij)^2 + 1/2 sum_ij v_j (e_i(j+1) - e_ij)^2

whose only minimiser is c. All of a, u, v, c are cheap functions of the indices, so that only x is
stored. Vectors are matrices with one row.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import placed
from jaxdescent.breakdown.independent_weights import drawn
from jaxdescent.breakdown.large_problem import LargeProblem, SegmentedDescent
from jaxdescent.breakdown.llama_tree import Tree, tree
from jaxdescent.breakdown.measure import begin_peak, measure_once, peak_beyond
from jaxdescent.breakdown.report import busy
from jaxdescent.breakdown.settings import Settings
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective

LOWER, UPPER = 1.0, 6.07
"""Bounds on the Hessian's eigenvalues: a >= 1, and Gershgorin's a + 4 max(u) + 4 max(v)."""

TOLERANCE = 1e-6
DTYPE = np.dtype(np.float32)
CHECK_EVERY = 8
SERIES = "descent, matrix-free"
ALONG_ROWS = 0
"""The axis along which several devices share a matrix. A row is tied to the one above and the one
below, which a device sends to its neighbours; the rest of its ties, and the sums along a row, stay
on a device."""
HEADROOM = 1.3
"""The available memory over that of the params and one temporary of their largest array."""


class TiedWeights(LargeProblem):
    """The largest part of the tree that fits, whose optimum is known."""

    name = folder = "tied"
    iterations, segment, tolerance = 200, CHECK_EVERY, TOLERANCE
    method = jd.GradientDescent(2 / (LOWER + UPPER))
    sentences = (
        "(b) Every weight tied to its neighbours along both axes of its matrix, {unknowns:,} "
        "unknowns ({layers}) in {dtype}: {params_bytes:bytes}{over_processes}. The derivative "
        "method would need {derivative_method_bytes:bytes}.",
    )
    figures: ClassVar = {
        "iterations": "{iterations}",
        "time, compilation included": "{seconds_descending:time}",
        "largest array": "{largest_array_bytes:bytes}",
        "peak memory beyond the parameters": "{extra_peak_bytes:bytes}",
        "|gradient|, at the start and at the end": "{gradient_norm_at_start:.3g}, "
        "{gradient_norm:.3g}",
        "distance to the optimum proved by it": "{proved_distance:.3g}",
        "distance, root mean square and largest": "{distance_root_mean_square:.2e}, "
        "{distance_largest:.2e}",
    }
    verdict = (
        "On {unknowns:,} coupled weights, where solving is out of reach, {iterations} iterations "
        "in place came within {distance_largest:.1e} of the known optimum in every weight."
    )

    def __init__(self, settings: Settings, console: Console) -> None:
        self.objective = TiedNeighbours()
        shapes = tree(settings.most_tied, settings.max_params).shapes.values()
        part = chosen(settings, placed.room(shapes, ALONG_ROWS))
        largest = part.largest * DTYPE.itemsize
        self.label = f"{part.size:,} tied unknowns"
        self.point = SERIES, part.size, part.size * DTYPE.itemsize + largest
        self.params, numbers = drawn(part, DTYPE, settings.seed + 1, console, ALONG_ROWS)
        self.numbers = numbers | {
            "largest_array_bytes": largest,
            "derivative_method_bytes": 4.0 * part.size**2,
            "eigenvalue_bounds": [LOWER, UPPER],
            "learning_rate": 2 / (LOWER + UPPER),
        }
        self._console, self._before = console, begin_peak()

    def verified(self, descent: SegmentedDescent) -> dict[str, Any]:
        extra_bytes = peak_beyond(self._before)
        with busy(self._console, "comparing with the optimum"):
            (rms, most), checked, _ = measure_once(distance, descent.result.params)
        return {
            "extra_peak_bytes": extra_bytes,
            "seconds_checking_distance": checked,
            "proved_distance": float(descent.result.gradient_norm) / LOWER,
            "distance_root_mean_square": rms,
            "distance_largest": most,
        }


def distance(params: dict[str, jax.Array]) -> tuple[float, float]:
    """The root mean square and the largest distance to the optimum, array by array."""

    @jax.jit
    def of_array(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        difference = jnp.abs(_offset(x))
        return jnp.mean(jnp.square(difference)), jnp.max(difference)

    parts = [(x.size, *map(float, of_array(x))) for x in params.values()]
    size = sum(count for count, _, _ in parts)
    mean = sum(count * square for count, square, _ in parts) / size
    return math.sqrt(mean), max(most for _, _, most in parts)


def chosen(settings: Settings, room: float) -> Tree:
    """The largest tree that fits into ``room`` bytes with one temporary of its largest array."""
    most, limits = int(room / HEADROOM // DTYPE.itemsize), (settings.most_tied, settings.max_params)
    return tree(*limits, most - tree(*limits, most).largest)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TiedNeighbours(Objective):
    """The function above, summed over the leaves of a tree."""

    def blocks(self, params: Any) -> list[Objective] | None:
        leaves = jax.tree.leaves(params)
        if len(leaves) == 1:
            return None
        blocks: list[Objective] = [self] * len(leaves)
        return blocks

    def value(self, params: Any) -> jax.Array:
        return self.value_and_gradient(params)[0]

    def value_and_gradient(self, params: Any) -> tuple[jax.Array, Any]:
        # A quadratic whose minimum is zero is half the inner product of its offset and gradient.
        gradient = self.gradient(params)
        halves = jax.tree.map(lambda x, g: 0.5 * precision.total(_offset(x) * g), params, gradient)
        return precision.add(jax.tree.leaves(halves)), gradient

    def value_and_squared_norm(self, params: Any) -> tuple[jax.Array, jax.Array]:
        # Both sums are computed in the pass that computes the gradient, which is never stored.
        parts = []
        for leaf in jax.tree.leaves(params):
            e = _offset(_two(leaf))
            gradient = _gradient(e)
            parts.append(_sums(0.5 * e * gradient, jnp.square(gradient)))
        values, squares = zip(*parts, strict=True)
        return precision.add(list(values)), precision.add(list(squares))

    def gradient(self, params: Any) -> Any:
        return jax.tree.map(lambda x: _gradient(_offset(_two(x))).reshape(x.shape), params)

    @property
    def is_quadratic(self) -> bool:
        return True


def optimum(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """c, integers between -64 and 62."""
    rows, columns = (1, *shape)[-2:]
    along_rows = (_steps(rows, 37, 64) - 32)[:, None]
    along_columns = (_steps(columns, 101, 64) - 32)[None]
    return (along_rows + along_columns).astype(dtype).reshape(shape)


def _sums(one: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both sums in the pass that computes the terms; XLA would store what two reductions share.

    Each vector lane sums a row in one chain, with an error of about ten ulps for rows of thousands.
    """
    zero = jnp.zeros((), one.dtype)
    rows = lax.reduce(
        (one, other), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (one.ndim - 1,)
    )
    return jnp.sum(rows[0]), jnp.sum(rows[1])


def _gradient(e: jax.Array) -> jax.Array:
    """The gradient on a matrix; no tie leads out of it."""
    rows, columns = e.shape
    own = _steps(rows, 7, 8)[:, None] / 64 + _steps(columns, 5, 8)[None] / 64 + 1
    gradient = own * e
    for axis, stride in ((0, 3), (1, 5)):
        # u_i and u_(i-1) along the rows, v_j and v_(j-1) along the columns.
        after, before = (
            jnp.expand_dims(_ties(e.shape[axis], stride, first), 1 - axis) for first in (0, -1)
        )
        gradient += after * (e - shift(e, axis, 1)) + before * (e - shift(e, axis, -1))
    return gradient


def _ties(length: int, stride: int, first: int) -> jax.Array:
    """The ties of the places from ``first`` on to the next ones, zero where there is none.

    The ties to the places before are computed in the same way: an array that is shifted would be
    sent between devices.
    """
    place = jnp.arange(first, first + length)
    is_tied = (place >= 0) & (place < length - 1)
    return jnp.where(is_tied, 0.47 + _steps(length, stride, 8, first) / 56, 0)


def _steps(length: int, stride: int, modulus: int, first: int = 0) -> jax.Array:
    """``(stride * i) mod modulus`` as float32, i from ``first`` on; modulus is a power of two."""
    return ((jnp.arange(first, first + length) * stride) & (modulus - 1)).astype(jnp.float32)


def _offset(x: jax.Array) -> jax.Array:
    return x - optimum(x.shape, x.dtype)


def _two(x: jax.Array) -> jax.Array:
    return x.reshape((1, *x.shape)[-2:])


def shift(e: jax.Array, axis: int, by: int) -> jax.Array:
    """The value of each entry's neighbour; zero outside."""
    padding = [(0, 0, 0)] * e.ndim
    padding[axis] = (-by, by, 0)
    return lax.pad(e, jnp.zeros((), e.dtype), padding)
