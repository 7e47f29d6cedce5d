"""Part 3 (c): a linear regression with more than 1e9 weights, whose X is never stored."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import placed
from jaxdescent.breakdown.large_problem import LargeProblem, SegmentedDescent
from jaxdescent.breakdown.measure import begin_peak, peak_beyond
from jaxdescent.breakdown.report import busy
from jaxdescent.breakdown.settings import Settings
from jaxdescent.breakdown.tied_weights import SERIES, shift
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective

SIDE, BLOCKS = 8192, 16
"""X is block-diagonal: BLOCKS submatrices of SIDE^2 (67 million) coupled weights each,
1,073,741,824 weights in all."""

TOLERANCE = 1e-5

BYTES_A_WEIGHT = 8 + 6 * 4 / BLOCKS
"""The bytes for each weight: the weight, its target, and six temporaries of a submatrix's size."""

UP, LEFT = 0.25, -0.125
LOWER, UPPER = (1 - 0.375) ** 2, (1.4375 + 0.375) ** 2
"""Bounds on the eigenvalues of X'X: X = D + 0.25 U - 0.125 L, with D from 1 to 1.4375 and shifts U,
L of norm at most 1."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class BlockRegression(Objective):
    """``sum_k 1/2 |X w_k - y_k|^2``: a linear regression whose X is block-diagonal."""

    targets: list[jax.Array]

    def blocks(self, params: list[jax.Array]) -> list[Objective]:
        return [BlockRegression([y]) for y in self.targets]

    def value(self, params: Any) -> jax.Array:
        return self.value_and_gradient(params)[0]

    def value_and_gradient(self, params: Any) -> tuple[jax.Array, Any]:
        leaves, treedef = jax.tree.flatten(params)
        parts = [
            jd.LinearRegression(design(w.size), y, intercept=False).value_and_gradient(
                {"weights": w}
            )
            for w, y in zip(leaves, self.targets, strict=True)
        ]
        gradients = [gradient["weights"] for _, gradient in parts]
        return precision.add([value for value, _ in parts]), treedef.unflatten(gradients)


def design(features: int) -> jd.MatrixFree:
    """One diagonal submatrix of X."""
    return jd.MatrixFree(forward, rows=features, features=features)


class MatrixFreeRegression(LargeProblem):
    """As many weights as fit, up to 2^30, towards those that made the targets."""

    name, folder = "matrix_free_regression", "regression"
    iterations, segment, tolerance = 200, 12, TOLERANCE
    method = jd.GradientDescent(2 / (LOWER + UPPER))
    sentences = (
        "(c) y = X w with {weights:,} weights{over_processes} and as many rows. X is a function, "
        "never stored, and block-diagonal: {blocks} blocks of {weights_of_block:,} coupled "
        "weights, for each of which X'X would take {gram_bytes:bytes}.",
    )
    figures: ClassVar = {
        "iterations": "{iterations}",
        "time, compilation included": "{seconds_descending:time}",
        "|gradient| over that at zero": "{relative_gradient_norm:.2e}",
        "largest error of a weight (weights up to 1)": "{largest_error:.2e}",
    }
    verdict = (
        "A regression with {weights:,} weights took {iterations} iterations and "
        "{seconds_descending:time}; no weight is off by more than {largest_error:.1e}."
    )

    def __init__(self, settings: Settings, console: Console) -> None:
        side = self._side = chosen(settings, placed.bytes_of_all())
        square, features = side * side, side * side * BLOCKS
        place = placed.over_all((square,))
        self.label = f"regression with {features:,} weights"
        self.point = SERIES, features, (BYTES_A_WEIGHT - 4) * features
        with busy(console, self.label):
            make = jax.jit(lambda k: design(square).product(optimum(side, k)), out_shardings=place)
            targets = [make(k).block_until_ready() for k in range(BLOCKS)]
        self.objective = BlockRegression(targets)
        self.numbers = {
            "weights": features,
            "blocks": BLOCKS,
            "weights_of_block": square,
            "rows": features,
            "dtype": "float32",
            "weights_bytes": 4 * features,
            **placed.numbers(targets),
            "gram_bytes": 4.0 * square**2,
            "eigenvalue_bounds": [LOWER, UPPER],
        }
        self._before = begin_peak()
        zeros = jax.jit(lambda: jnp.zeros(square), out_shardings=place)
        self.params = [zeros() for _ in targets]

    def verified(self, descent: SegmentedDescent) -> dict[str, Any]:
        extra_bytes = peak_beyond(self._before)
        off = jax.jit(lambda w, k: jnp.max(jnp.abs(w - optimum(self._side, k))))
        error = max(float(off(w, k)) for k, w in enumerate(descent.result.params))
        return {"extra_peak_bytes": extra_bytes, "largest_error": error}


def chosen(settings: Settings, room: float) -> int:
    """The side of a submatrix's weights, written as a square: a power of two, and less where an odd
    number of devices shares its rows evenly. The weights in all fit into ``room`` bytes.
    """
    limits = filter(None, (settings.most_weights, settings.max_params))
    most = min(SIDE**2 * BLOCKS, int(room / 1.1 / BYTES_A_WEIGHT), *limits)
    side = 1 << ((math.isqrt(most // BLOCKS)).bit_length() - 1)
    return side - side % placed.devices() or side


def forward(weights: jax.Array) -> jax.Array:
    """Mix each weight of a square with the one above it and the one to its left."""
    side = math.isqrt(weights.size)
    w = weights.reshape(side, side)
    own = 1 + _wave(side, 7, 0) + _wave(side, 5, 1)
    mixed = own * w + UP * shift(w, 0, -1) + LEFT * shift(w, 1, -1)
    return mixed.reshape(-1)


def optimum(side: int, block: Any) -> jax.Array:
    """The weights from which the targets of a submatrix were made, between -1 and 1.

    They have so few bits that the targets are exact, and the same bits on any devices: a run goes
    on where its data are the same.
    """
    tilt = 1 - jnp.asarray(block, jnp.float32) / (2 * BLOCKS)
    weights = tilt * (_wave(side, 3, 0) - _wave(side, 11, 1)) * (32 / 7)
    return lax.reduce_precision(weights, exponent_bits=8, mantissa_bits=11).reshape(-1)


def _wave(side: int, stride: int, axis: int) -> jax.Array:
    """Multiples of 1/32 between 0 and 7/32 along an axis of a square, whose period of 8 no shift by
    one repeats.

    The wave is made in both axes, though it varies along one: each device would compute a part of a
    vector, and the parts would be gathered.
    """
    place = lax.broadcasted_iota(jnp.int32, (side, side), axis)
    return ((place * stride) & 7).astype(jnp.float32) / 32
