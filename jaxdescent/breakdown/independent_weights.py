"""Part 3 (a): a sum of squares over all parameters, whose unknowns are independent."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import placed, segments
from jaxdescent.breakdown.report import PartReport, PlottedPoint, Settings, Table, busy
from jaxdescent.descent.fused_steps import FUSED_STEPS
from jaxdescent.display import readable_seconds
from jaxdescent.machine.memory import readable_bytes
from jaxdescent.machine.resident import peak_resident_bytes
from jaxdescent.numerics import randomness

LEARNING_RATE = 1e-2
ITERATIONS = 1000
SEGMENT = 8 * FUSED_STEPS
"""The iterations in one call: whole passes, so that the number of write-backs does not change."""

HEADROOM = 1.15
"""The peak memory that the run may need, over the parameters' bytes."""

SAMPLES = 64
"""The number of elements of each array that are also computed by NumPy."""


def run(settings: Settings, console: Console, tree_of: Callable[[int], Any]) -> PartReport:
    """Descend on the largest part of the tree that fits, and compare samples with NumPy."""
    room = placed.room(tree_of(2**62).shapes.values())
    dtype, tree = chosen(settings, tree_of, room)
    whole = tree.size * dtype.itemsize
    begun = time.perf_counter()
    with busy(console, f"drawing {tree.size:,} numbers"):
        params = draw(tree.shapes, dtype, settings.seed)
    drawn = time.perf_counter()
    where = placed.numbers(params.values())
    nbytes = where["params_bytes_of_this_process"]
    positions = _positions(tree.shapes, settings.seed)
    starts = _sample(params, positions)
    outcome = segments.descend(
        jd.SumOfSquares(),
        params,
        jd.GradientDescent(LEARNING_RATE),
        settings,
        console,
        problem="independent",
        label=f"{tree.size:,} unknowns",
        iterations=ITERATIONS,
        segment=SEGMENT,
    )
    result, done = outcome.result, outcome.iterations
    descended = time.perf_counter()
    ends = _sample(result.params, positions)
    peak = peak_resident_bytes()
    per_iteration = outcome.seconds_per_iteration
    checks = _checks(starts, ends, done, dtype)
    numbers = {
        "independent": {
            "unknowns": tree.size,
            "layers": tree.description,
            "dtype": dtype.name,
            "params_bytes": whole,
            **where,
            "peak_resident_bytes": peak,
            "peak_over_params": peak / nbytes,
            "learning_rate": LEARNING_RATE,
            "seed": settings.seed,
            **outcome.numbers,
            "seconds_drawing": drawn - begun,
            "seconds_descending": descended - drawn,
            "seconds_total": time.perf_counter() - begun,
            "value": float(result.value),
            "segments": outcome.segments,
            **checks,
        }
    }
    return PartReport(
        sentences=(
            f"(a) f(x) = sum x², {tree.size:,} unknowns in the shapes of Llama-3-8B "
            f"({tree.description}), stored in {dtype.name}: "
            f"{readable_bytes(whole)}{placed.in_words(nbytes)}.",
            "Each unknown has its own derivative, 2x: here the derivative method does not break "
            "down either.",
        ),
        tables=(_table(numbers["independent"]),),
        remarks=_remarks(numbers["independent"]),
        verdict=(
            f"Descent ran {done:,} iterations on {tree.size:,} parameters in "
            f"{readable_seconds(descended - begun)}, {_pace(per_iteration)} an "
            f"iteration, within {peak / nbytes:.2f} times their memory.",
        ),
        numbers=numbers,
        points=(PlottedPoint("descent, separable", tree.size, whole, outcome.seconds, True),),
        is_complete=outcome.is_complete,
    )


def chosen(
    settings: Settings, tree_of: Callable[[int], Any], room: float
) -> tuple[np.dtype[Any], Any]:
    """The dtype, and the largest tree that fits into ``room`` bytes with it."""
    room = room / HEADROOM
    dtype = jnp.dtype(settings.dtype or _widest_that_fits(tree_of, room))
    return dtype, tree_of(int(room // dtype.itemsize))


def draw(
    shapes: dict[str, tuple[int, ...]], dtype: Any, seed: int, axis: int | None = None
) -> dict[str, jax.Array]:
    """Random integers in [-1000, 1000), one array after another, each made in its own memory.

    With several processes each array lies over all devices, along ``axis`` or its longest one, if
    they can share it evenly; the numbers are the same.
    """

    @functools.cache
    def fill_of(shape: tuple[int, ...]) -> Any:
        return jax.jit(
            lambda seed: randomness.integers(shape, seed, -1000, 1000, dtype),
            out_shardings=placed.over_all(shape, axis),
        )

    params = {}
    for index, (name, shape) in enumerate(shapes.items()):
        params[name] = fill_of(shape)(randomness.fold(seed, index))
        params[name].block_until_ready()
    return params


def replay(starts: np.ndarray, iterations: int, dtype: Any) -> np.ndarray:
    """The descent in NumPy: float32 steps, and a rounding to ``dtype`` after every pass."""
    rate, two = np.float32(LEARNING_RATE), np.float32(2)
    x = starts.astype(np.float32)
    for iteration in range(iterations):
        x = _fused_subtract(x, rate, two * x)
        if (iteration + 1) % FUSED_STEPS == 0 or iteration + 1 == iterations:
            x = x.astype(dtype).astype(np.float32)
    return x.astype(dtype)


def _fused_subtract(x: np.ndarray, rate: np.float32, gradient: np.ndarray) -> np.ndarray:
    """``x - rate * gradient`` rounded once, like a fused multiply-add; float64 is exact before."""
    return (x.astype(np.float64) - np.float64(rate) * gradient.astype(np.float64)).astype(
        np.float32
    )


def _widest_that_fits(tree_of: Callable[[int], Any], room: float) -> str:
    everything = tree_of(2**62).size
    return "float32" if everything * 4 <= room else "bfloat16"


def _positions(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, tuple[np.ndarray, ...]]:
    generator = np.random.default_rng(seed)
    return {
        name: tuple(generator.integers(0, length, SAMPLES) for length in shape)
        for name, shape in shapes.items()
    }


def _sample(params: Any, positions: dict[str, tuple[np.ndarray, ...]]) -> np.ndarray:
    take = jax.jit(lambda x, index: x[index], out_shardings=placed.on_each())
    return np.concatenate([np.asarray(take(params[name], at)) for name, at in positions.items()])


def _checks(starts: np.ndarray, ends: np.ndarray, iterations: int, dtype: Any) -> dict[str, Any]:
    closed = (1 - 2 * LEARNING_RATE) ** iterations * starts.astype(np.float64)
    nonzero = closed != 0
    error = np.abs(ends.astype(np.float64)[nonzero] / closed[nonzero] - 1)
    replayed = replay(starts, iterations, dtype)
    write_backs = -(-iterations // FUSED_STEPS)
    bound = write_backs * 2.0**-8 if dtype == jnp.bfloat16 else 1e-4
    return {
        "sampled_elements": int(starts.size),
        "bit_equal_to_replay": int(np.sum(replayed == ends)),
        "largest_error_against_closed_form": float(error.max()),
        "bound_on_that_error": bound,
        "write_backs": write_backs,
    }


def _table(numbers: dict[str, Any]) -> Table:
    return Table.of_figures(
        {
            "time to draw the start": readable_seconds(numbers["seconds_drawing"]),
            "time to descend, compilation included": readable_seconds(
                numbers["seconds_descending"]
            ),
            "time per iteration, fastest segment": _pace(numbers["seconds_per_iteration"]),
            "goodput: the share of the time in iterations": f"{numbers['goodput']:.1%}",
            "peak resident memory": readable_bytes(numbers["peak_resident_bytes"]),
            "the same, over the parameters' bytes": f"{numbers['peak_over_params']:.3f}",
            "sampled elements bit-equal to NumPy": (
                f"{numbers['bit_equal_to_replay']:,} of {numbers['sampled_elements']:,}"
            ),
            "largest error against 0.98^k x": (
                f"{numbers['largest_error_against_closed_form']:.2e}"
            ),
            "bound on that error": f"{numbers['bound_on_that_error']:.2e}",
        }
    )


def _pace(seconds: float | None) -> str:
    """The seconds of an iteration; a finished run that was resumed has none."""
    return "-" if seconds is None else readable_seconds(seconds)


def _remarks(numbers: dict[str, Any]) -> tuple[str, ...]:
    if numbers["dtype"] != "bfloat16":
        return ()
    return (
        f"bfloat16 keeps 8 bits: {numbers['write_backs']} write-backs of at most 2^-8 each bound "
        "the error against the closed form.",
    )
