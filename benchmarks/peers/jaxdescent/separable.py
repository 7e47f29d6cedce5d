"""Eight billion parameters."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np

from benchmarks.harness.case import Answer, Factory, Solve
from benchmarks.problems import separable

ITERATIONS = 1000


def _separable(data: separable.Tree) -> Solve:
    import jax

    import jaxdescent as jd
    from jaxdescent.breakdown.independent_weights import SEGMENT
    from jaxdescent.descent.fused_steps import FUSED_STEPS

    positions = data.positions()
    take = jax.jit(lambda x, index: x[index])

    def sample(params: dict[str, Any]) -> np.ndarray:
        return np.concatenate([take(params[name], at) for name, at in positions.items()])

    def descend(params: dict[str, Any], iterations: int) -> jd.Result:
        result = jd.minimize(
            jd.SumOfSquares(),
            params,
            jd.GradientDescent(separable.RATE),
            max_iterations=iterations,
            tolerance=0,
            check_every=SEGMENT,
            donate=True,
        )
        return jax.block_until_ready(result)

    def solve(_: float) -> Answer:
        gc.collect()
        params = data.draw()
        starts = sample(params)
        params = descend(params, FUSED_STEPS).params  # compiles, and is not counted
        started = time.perf_counter()
        result = descend(params, ITERATIONS)
        seconds = time.perf_counter() - started
        size = sum(leaf.nbytes for leaf in result.params.values())
        iterations = FUSED_STEPS + ITERATIONS
        proof = separable.evidence(
            starts, sample(result.params), iterations, -(-iterations // FUSED_STEPS)
        )
        return Answer(proof, ITERATIONS, seconds / ITERATIONS, {"params_bytes": size})

    return solve


CONTENDERS: dict[str, dict[str, Factory]] = {
    "separable": {"library": _separable, "command's flags": _separable},
}
