"""Part 3 (a): a sum of squares over all parameters, whose unknowns are independent."""

from __future__ import annotations

import functools
import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import placed
from jaxdescent.breakdown.large_problem import LargeProblem, SegmentedDescent
from jaxdescent.breakdown.llama_tree import Tree, tree
from jaxdescent.breakdown.report import busy
from jaxdescent.breakdown.settings import Settings
from jaxdescent.descent.fused_steps import FUSED_STEPS
from jaxdescent.kernels.memory import peak_resident_bytes
from jaxdescent.numerics import randomness

LEARNING_RATE = 1e-2
SEGMENT = 8 * FUSED_STEPS
"""The iterations in one call: whole passes, so that the number of write-backs does not change."""

HEADROOM = 1.15
"""The peak memory that the run may need, over the parameters' bytes."""

SAMPLES = 64
"""The number of elements of each array that are also computed by NumPy."""


class IndependentWeights(LargeProblem):
    """The largest part of the tree that fits; samples of it are compared with NumPy."""

    name = folder = "independent"
    iterations, segment = 1000, SEGMENT
    objective, method = jd.SumOfSquares(), jd.GradientDescent(LEARNING_RATE)
    sentences = (
        "(a) f(x) = sum x², {unknowns:,} unknowns in the shapes of Llama-3-8B ({layers}), stored "
        "in {dtype}: {params_bytes:bytes}{over_processes}.",
        "Each unknown has its own derivative, 2x: here the derivative method does not break down "
        "either.",
    )
    figures: ClassVar = {
        "time to draw the start": "{seconds_drawing:time}",
        "time to descend, compilation included": "{seconds_descending:time}",
        "time per iteration, fastest segment": "{seconds_per_iteration:time}",
        "goodput: the share of the time in iterations": "{goodput:.1%}",
        "peak resident memory": "{peak_resident_bytes:bytes}",
        "the same, over the parameters' bytes": "{peak_over_params:.3f}",
        "sampled elements bit-equal to NumPy": "{bit_equal_to_replay:,} of {sampled_elements:,}",
        "largest error against 0.98^k x": "{largest_error_against_closed_form:.2e}",
        "bound on that error": "{bound_on_that_error:.2e}",
    }
    verdict = (
        "Descent ran {iterations:,} iterations on {unknowns:,} parameters in "
        "{seconds_drawing_and_descending:time}, {seconds_per_iteration:time} an iteration, within "
        "{peak_over_params:.2f} times their memory."
    )

    def __init__(self, settings: Settings, console: Console) -> None:
        self._begun = time.perf_counter()
        shapes = tree(settings.most_params, settings.max_params).shapes.values()
        dtype, part = chosen(settings, placed.room(shapes))
        self.label = f"{part.size:,} unknowns"
        self.point = "descent, separable", part.size, part.size * dtype.itemsize
        if dtype == jnp.bfloat16:
            self.remarks = (
                "bfloat16 keeps 8 bits: {write_backs} write-backs of at most 2^-8 each bound the "
                "error against the closed form.",
            )
        self.params, numbers = drawn(part, dtype, settings.seed, console)
        self._drawn = time.perf_counter()
        self.numbers = numbers | {"learning_rate": LEARNING_RATE, "seed": settings.seed}
        self._positions = _positions(part.shapes, settings.seed)
        self._starts = _sample(self.params, self._positions)

    def verified(self, descent: SegmentedDescent) -> dict[str, Any]:
        descended, result = time.perf_counter(), descent.result
        ends, peak = _sample(result.params, self._positions), peak_resident_bytes()
        checks = _checks(self._starts, ends, int(result.iterations))
        return {
            "peak_resident_bytes": peak,
            "peak_over_params": peak / self.numbers["params_bytes_of_this_process"],
            "seconds_drawing": self._drawn - self._begun,
            "seconds_descending": descended - self._drawn,
            "seconds_drawing_and_descending": descended - self._begun,
            "seconds_total": time.perf_counter() - self._begun,
            "value": float(result.value),
            "segments": [(each.iterations, each.chunk_seconds) for each in descent.segments],
            **checks,
        }


def chosen(settings: Settings, room: float) -> tuple[np.dtype[Any], Tree]:
    """The dtype, and the largest tree that fits into ``room`` bytes with it."""
    room, limits = room / HEADROOM, (settings.most_params, settings.max_params)
    widest_that_fits = "float32" if tree(*limits).size * 4 <= room else "bfloat16"
    dtype = jnp.dtype(settings.dtype or widest_that_fits)
    return dtype, tree(*limits, int(room // dtype.itemsize))


def drawn(
    part: Tree, dtype: np.dtype[Any], seed: int, console: Console, axis: int | None = None
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """Params of a tree's shapes, and the numbers on them that the record keeps."""
    with busy(console, f"drawing {part.size:,} numbers"):
        params = draw(part.shapes, dtype, seed, axis)
    return params, {
        "unknowns": part.size,
        "layers": part.description,
        "dtype": dtype.name,
        "params_bytes": part.size * dtype.itemsize,
        **placed.numbers(params.values()),
    }


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
        params[name] = fill_of(shape)(randomness.fold(np.uint32(seed), index))
        params[name].block_until_ready()
    return params


def replay(starts: np.ndarray, iterations: int, dtype: Any) -> np.ndarray:
    """The descent in NumPy: float32 steps, and a rounding to ``dtype`` after every pass."""
    rate, two = np.float32(LEARNING_RATE), np.float32(2)
    x = starts.astype(np.float32)
    for iteration in range(iterations):
        # Rounded once, like a fused multiply-add: float64 is exact before.
        step = np.float64(rate) * (two * x).astype(np.float64)
        x = (x.astype(np.float64) - step).astype(np.float32)
        if (iteration + 1) % FUSED_STEPS == 0 or iteration + 1 == iterations:
            x = x.astype(dtype).astype(np.float32)
    return x.astype(dtype)


def _positions(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, tuple[np.ndarray, ...]]:
    generator = np.random.default_rng(seed)
    return {
        name: tuple(generator.integers(0, length, SAMPLES) for length in shape)
        for name, shape in shapes.items()
    }


def _sample(params: Any, positions: dict[str, tuple[np.ndarray, ...]]) -> np.ndarray:
    take = jax.jit(lambda x, index: x[index], out_shardings=placed.over_all(()))  # whole on each
    return np.concatenate([np.asarray(take(params[name], at)) for name, at in positions.items()])


def _checks(starts: np.ndarray, ends: np.ndarray, iterations: int) -> dict[str, Any]:
    closed = (1 - 2 * LEARNING_RATE) ** iterations * starts.astype(np.float64)
    nonzero = closed != 0
    error = np.abs(ends.astype(np.float64)[nonzero] / closed[nonzero] - 1)
    replayed = replay(starts, iterations, ends.dtype)
    write_backs = -(-iterations // FUSED_STEPS)
    bound = write_backs * 2.0**-8 if ends.dtype == jnp.bfloat16 else 1e-4
    return {
        "sampled_elements": int(starts.size),
        "bit_equal_to_replay": int(np.sum(replayed == ends)),
        "largest_error_against_closed_form": float(error.max(initial=0.0)),
        "bound_on_that_error": bound,
        "write_backs": write_backs,
    }
