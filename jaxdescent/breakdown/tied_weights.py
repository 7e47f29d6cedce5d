"""Part 3 (b): the same shapes with every weight tied to its neighbours, as many as fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import placed, segments
from jaxdescent.breakdown.independent_weights import draw
from jaxdescent.breakdown.measure import begin_peak, measure_once, peak_beyond
from jaxdescent.breakdown.report import PartReport, PlottedPoint, Settings, Table, busy
from jaxdescent.breakdown.tied import LOWER, UPPER, TiedNeighbours, optimum
from jaxdescent.display import readable_seconds
from jaxdescent.machine.memory import readable_bytes

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
