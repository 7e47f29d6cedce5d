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
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import placed, segments
from jaxdescent.breakdown.independent_weights import draw
from jaxdescent.breakdown.measure import begin_peak, measure_once, peak_beyond
from jaxdescent.breakdown.report import PartReport, PlottedPoint, Settings, Table, busy
from jaxdescent.display import readable_seconds
from jaxdescent.machine.memory import readable_bytes
from jaxdescent.numerics import precision
from jaxdescent.objectives import Bounds, Objective

LOWER, UPPER = 1.0, 6.07
"""Bounds on the Hessian's eigenvalues: a >= 1, and Gershgorin's a + 4 max(u) + 4 max(v)."""

TOLERANCE = 1e-6
CHECK_EVERY = 8
MAX_ITERATIONS = 200
ALONG_ROWS = 0
"""The axis along which several devices share a matrix. A row is tied to the one above and the one
below, which a device sends to its neighbours; the rest of its ties, and the sums along a row, stay
on a device."""
HEADROOM = 1.3
"""The available memory over that of the params and one temporary of their largest array."""


def run(settings: Settings, console: Console, tree_of: Callable[[int], Any]) -> PartReport:
    """Descend on the largest part of the tree that fits, to its known optimum."""
    dtype = jnp.dtype(jnp.float32)
    room = placed.room(tree_of(2**62).shapes.values(), ALONG_ROWS)
    tree = chosen(tree_of, room, dtype)
    nbytes = tree.size * dtype.itemsize
    largest = max(math.prod(shape) for shape in tree.shapes.values()) * dtype.itemsize
    with busy(console, f"drawing {tree.size:,} numbers"):
        params = draw(tree.shapes, dtype, settings.seed + 1, ALONG_ROWS)
    where = placed.numbers(params.values())
    before = begin_peak()
    outcome = segments.descend(
        TiedNeighbours(),
        params,
        jd.GradientDescent(2 / (LOWER + UPPER)),
        settings,
        console,
        problem="tied",
        label=f"{tree.size:,} tied unknowns",
        iterations=MAX_ITERATIONS,
        segment=CHECK_EVERY,
        tolerance=TOLERANCE,
    )
    extra_bytes = peak_beyond(before)
    with busy(console, "comparing with the optimum"):
        (rms, most), checked, _ = measure_once(distance, outcome.result.params)
    norm = float(outcome.result.gradient_norm)
    iterations = outcome.iterations
    numbers = {
        "tied": {
            "unknowns": tree.size,
            "layers": tree.description,
            "dtype": dtype.name,
            "params_bytes": nbytes,
            **where,
            "largest_array_bytes": largest,
            "extra_peak_bytes": extra_bytes,
            "eigenvalue_bounds": [LOWER, UPPER],
            "learning_rate": 2 / (LOWER + UPPER),
            **outcome.numbers,
            "seconds_checking_distance": checked,
            "proved_distance": norm / LOWER,
            "distance_root_mean_square": rms,
            "distance_largest": most,
        }
    }
    figures = {
        "iterations": f"{iterations}",
        "time, compilation included": readable_seconds(outcome.seconds),
        "largest array": readable_bytes(largest),
        "peak memory beyond the parameters": (
            "-" if extra_bytes is None else readable_bytes(extra_bytes)
        ),
        "|gradient|, at the start and at the end": f"{outcome.first_norm:.3g}, {norm:.3g}",
        "distance to the optimum proved by it": f"{norm / LOWER:.3g}",
        "distance, root mean square and largest": f"{rms:.2e}, {most:.2e}",
    }
    return PartReport(
        sentences=(
            f"(b) Every weight tied to its neighbours along both axes of its matrix, {tree.size:,} "
            f"unknowns ({tree.description}) in {dtype.name}: {readable_bytes(nbytes)}"
            f"{placed.in_words(where['params_bytes_of_this_process'])}. "
            f"The derivative method would need {readable_bytes(4.0 * tree.size**2)}.",
        ),
        tables=(Table.of_figures(figures),),
        verdict=(
            f"On {tree.size:,} coupled weights, where solving is out of reach, {iterations} "
            f"iterations in place came within {most:.1e} of the known optimum in every weight.",
        ),
        numbers=numbers,
        points=(
            PlottedPoint(
                "descent, matrix-free", tree.size, nbytes + largest, outcome.seconds, True
            ),
        ),
        is_complete=outcome.is_complete,
    )


def distance(params: dict[str, jax.Array]) -> tuple[float, float]:
    """The root mean square and the largest distance to the optimum, array by array."""

    @jax.jit
    def of_array(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        difference = jnp.abs(x - optimum(x.shape, x.dtype))
        return jnp.mean(jnp.square(difference)), jnp.max(difference)

    parts = [(x.size, *map(float, of_array(x))) for x in params.values()]
    size = sum(count for count, _, _ in parts)
    mean = sum(count * square for count, square, _ in parts) / size
    return math.sqrt(mean), max(most for _, _, most in parts)


def chosen(tree_of: Callable[[int], Any], room: float, dtype: Any) -> Any:
    """The largest tree that fits into ``room`` bytes with one temporary of its largest array."""
    most = int(room / HEADROOM // dtype.itemsize)
    tree = tree_of(most)
    largest = max(math.prod(shape) for shape in tree.shapes.values())
    return tree_of(most - largest)


class _Pattern(NamedTuple):
    """The coefficients for a (rows, columns) matrix, along its rows and along its columns."""

    own: jax.Array  # a
    below: jax.Array  # u_i
    above: jax.Array  # u_(i-1)
    right: jax.Array  # v_j
    left: jax.Array  # v_(j-1)


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
        halves = jax.tree.map(
            lambda x, g: 0.5 * precision.total((x - optimum(x.shape, x.dtype)) * g),
            params,
            gradient,
        )
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

    def hessian_product(self, params: Any, direction: Any) -> Any:
        del params
        return jax.tree.map(lambda d: _gradient(_two(d)).reshape(d.shape), direction)

    def curvature_bounds(self, params: Any) -> Bounds:
        del params
        return Bounds(jnp.asarray(LOWER), jnp.asarray(UPPER))

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
    pattern = _pattern(e.shape)
    gradient = pattern.own * e
    gradient += pattern.below * (e - shift(e, 0, 1)) + pattern.above * (e - shift(e, 0, -1))
    gradient += pattern.right * (e - shift(e, 1, 1)) + pattern.left * (e - shift(e, 1, -1))
    return gradient


def _pattern(shape: tuple[int, ...]) -> _Pattern:
    """Coefficients that vary along the rows and the columns; no tie leads out of the matrix."""
    rows, columns = shape
    own = _steps(rows, 7, 8)[:, None] / 64 + _steps(columns, 5, 8)[None] / 64 + 1
    return _Pattern(
        own,
        _ties(rows, 3)[:, None],
        _ties(rows, 3, first=-1)[:, None],
        _ties(columns, 5)[None],
        _ties(columns, 5, first=-1)[None],
    )


def _ties(length: int, stride: int, first: int = 0) -> jax.Array:
    """The ties of the places from ``first`` on to the next ones, zero where there is none.

    Those to the places before are computed too: shifted, they would be sent between devices.
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
