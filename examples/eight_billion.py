"""Descent on 8,030,261,248 parameters, in place, on one machine with 20 GB of memory.

The same as part 3 of `jaxdescent breakdown`, without its checks. A number of parameters as
argument takes a part of them: python examples/eight_billion.py 40_000_000
"""

import sys
import time

import jax
import jax.numpy as jnp

import jaxdescent as jd
from jaxdescent.breakdown.independent_weights import draw
from jaxdescent.breakdown.llama_tree import tree


def main(max_params: int | None = None) -> float:
    shapes = tree(max_params).shapes
    params = draw(shapes, jnp.bfloat16, seed=0)
    size = sum(leaf.size for leaf in params.values())
    print(f"{size:,} parameters in bfloat16, {2 * size / 1e9:.1f} GB")
    started = time.perf_counter()
    result = jd.minimize(
        jd.SumOfSquares(),
        params,
        jd.GradientDescent(1e-2),
        max_iterations=1000,
        tolerance=0,  # every iteration
        check_every=1000,  # one look at the gradient, at the end
        donate=True,  # the start's memory is the result's
    )
    jax.block_until_ready(result)
    seconds = time.perf_counter() - started
    print(f"1,000 iterations in {seconds:.0f} s, |gradient| = {float(result.gradient_norm):.3g}")
    return float(result.gradient_norm)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
