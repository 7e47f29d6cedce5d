"""Time per iteration of constant-step descent in bfloat16, beside a jitted, donated step.

Both start from the same params in the shapes of Llama-3-8B and do the same arithmetic: float32
steps of `x - rate * 2 * scale * x`, rounded to bfloat16: the one after every step, jaxdescent once
a pass. Repeats are interleaved; compilation is not counted; medians are printed, and the
machine's own speed for one reading and one writing pass beside them.

    python benchmarks/eight_billion.py [--params N] [--repeats R] [--flags]
"""

import argparse
import os
import statistics
import time


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=int, default=500_000_000, help="at most so many")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flags", action="store_true", help="with the command line's XLA flags")
    options = parser.parse_args()
    if options.flags:
        from jaxdescent.cli import INTERLEAVE

        os.environ["XLA_FLAGS"] = f"{INTERLEAVE} {os.environ.get('XLA_FLAGS', '')}".strip()
    run(options.params, options.repeats)


def run(max_params: int, repeats: int) -> None:
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd
    from jaxdescent.breakdown.independent_weights import draw
    from jaxdescent.breakdown.llama import tree
    from jaxdescent.descent import FUSED_STEPS

    params = draw(tree(max_params).shapes, jnp.bfloat16, seed=0)
    size = sum(leaf.size for leaf in params.values())
    passes = 4

    def negated(params):
        return jax.tree.map(lambda x: -x, params)

    in_place = jax.jit(negated, donate_argnums=0)

    def one_step(params, scale, rate):
        def updated(x):
            wide = x.astype(jnp.float32)
            return (wide - rate * jax.grad(lambda x: jnp.sum(scale * x**2))(wide)).astype(x.dtype)

        return jax.tree.map(updated, params)

    step = jax.jit(one_step, donate_argnums=0)

    def descend(params, iterations):
        return jd.minimize(
            jd.SumOfSquares(1.0),
            params,
            jd.GradientDescent(1e-2),
            max_iterations=iterations,
            tolerance=0,
            check_every=passes * FUSED_STEPS,
            donate=True,
        ).params

    def seconds(function, *args):
        started = time.perf_counter()
        result = jax.block_until_ready(function(*args))
        return time.perf_counter() - started, result

    steps: dict[str, list[float]] = {"one": [], "fused": [], "pass": []}
    params = step(params, 1.0, 1e-2)
    params = descend(params, FUSED_STEPS)
    params = jax.block_until_ready(in_place(params))
    for _ in range(repeats):
        taken, params = seconds(step, params, 1.0, 1e-2)
        steps["one"].append(taken)
        # Two lengths: their difference is free of the checks at the start and the end.
        short, params = seconds(descend, params, FUSED_STEPS)
        long, params = seconds(descend, params, passes * FUSED_STEPS)
        steps["fused"].append((long - short) / ((passes - 1) * FUSED_STEPS))
        taken, params = seconds(in_place, params)
        steps["pass"].append(taken)
    median = {name: statistics.median(times) for name, times in steps.items()}
    ratios = [one / fused for one, fused in zip(steps["one"], steps["fused"], strict=True)]
    print(f"{size:,} parameters in bfloat16, {repeats} interleaved repeats, medians:")
    print(f"  one pass in place, to negate      {median['pass']:.4f} s")
    print(f"  jitted, donated step              {median['one']:.4f} s an iteration")
    print(f"  jaxdescent                        {median['fused']:.4f} s an iteration")
    print(
        f"  ratio                             {statistics.median(ratios):.1f} "
        f"({min(ratios):.1f} to {max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()
