"""Many small problems at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.case import Answer, Factory, Solve
from benchmarks.problems import batches

MAX_ITERATIONS = 20_000


def _vmapped_regressions(data: batches.RegressionsData) -> Solve:
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd

    X, y = jnp.asarray(data.X), jnp.asarray(data.y)

    def one(X: Any, y: Any, tolerance: Any) -> Any:
        objective = jd.LinearRegression(X, y, intercept=False)
        return jd.minimize(objective, tolerance=tolerance).params["weights"]

    every = jax.jit(jax.vmap(one, in_axes=(0, 0, None)))
    return lambda tolerance: Answer(jax.block_until_ready(every(X, y, tolerance)))


def _batched_regressions(data: batches.RegressionsData) -> Solve:
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd

    members = jnp.asarray(data.X), jnp.asarray(data.y)

    def problem(X: Any, y: Any) -> Any:
        return jd.LinearRegression(X, y, intercept=False)

    def solve(tolerance: float) -> Answer:
        result = jax.block_until_ready(jd.minimize_batch(problem, members, tolerance=tolerance))
        return Answer(result.params["weights"], int(np.max(result.iterations)))

    return solve


def _looped_regressions(data: batches.RegressionsData) -> Solve:
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd

    members = [(jnp.asarray(X), jnp.asarray(y)) for X, y in zip(data.X, data.y, strict=True)]

    def solve(tolerance: float) -> Answer:
        found = []
        for X, y in members:
            objective = jd.LinearRegression(X, y, intercept=False)
            found.append(jd.minimize(objective, tolerance=tolerance).params["weights"])
        return Answer(np.stack(jax.block_until_ready(found)))

    return solve


def _batched_starts(data: batches.StartsData) -> Solve:
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd

    members = (jnp.asarray(data.starts),)

    def problem(start: Any) -> Any:
        return _rosenbrock, start

    def solve(tolerance: float) -> Answer:
        result = jd.minimize_batch(
            problem, members, tolerance=tolerance, max_iterations=MAX_ITERATIONS
        )
        result = jax.block_until_ready(result)
        return Answer(result.params, int(np.max(result.iterations)))

    return solve


def _vmapped_starts(data: batches.StartsData) -> Solve:
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd

    starts = jnp.asarray(data.starts)

    def one(start: Any, tolerance: Any) -> Any:
        return jd.minimize(_rosenbrock, start, tolerance=tolerance, max_iterations=MAX_ITERATIONS)

    every = jax.jit(jax.vmap(one, in_axes=(0, None)))

    def solve(tolerance: float) -> Answer:
        result = jax.block_until_ready(every(starts, tolerance))
        return Answer(result.params, int(np.max(result.iterations)))

    return solve


def _looped_starts(data: batches.StartsData) -> Solve:
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd

    starts = [jnp.asarray(start) for start in data.starts]

    def solve(tolerance: float) -> Answer:
        found = [
            jd.minimize(
                _rosenbrock, start, tolerance=tolerance, max_iterations=MAX_ITERATIONS
            ).params
            for start in starts
        ]
        return Answer(np.stack(jax.block_until_ready(found)))

    return solve


def _rosenbrock(x: Any) -> Any:
    from benchmarks.problems.classical import rosenbrock

    return rosenbrock(x)


def _rates(*, is_loop: bool, is_gram: bool = False) -> Factory:
    def prepare(data: batches.RatesData) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd

        X, y, rates = jnp.asarray(data.X), jnp.asarray(data.y), jnp.asarray(data.rates)

        def one(X: Any, y: Any, rate: Any) -> Any:
            objective = jd.LinearRegression(X, y, intercept=False)
            descent = jd.GradientDescent(rate)
            return jd.minimize(
                objective,
                None,
                jd.Gram(descent) if is_gram else descent,
                tolerance=0,
                max_iterations=data.iterations,
            ).params["weights"]

        every = jax.jit(jax.vmap(one, in_axes=(None, None, 0)))

        def solve(_: float) -> Answer:
            if is_loop:
                found = np.stack(jax.block_until_ready([one(X, y, rate) for rate in rates]))
            else:
                found = jax.block_until_ready(every(X, y, rates))
            return Answer(found, data.iterations)

        return solve

    return prepare


CONTENDERS: dict[str, dict[str, Factory]] = {
    "batch of regressions": {
        "vmap of minimize": _vmapped_regressions,
        "minimize_batch": _batched_regressions,
        "Python loop of minimize": _looped_regressions,
    },
    "batch of starts": {
        "vmap of minimize": _vmapped_starts,
        "minimize_batch": _batched_starts,
        "Python loop of minimize": _looped_starts,
    },
    "batch of rates": {
        "vmap of minimize": _rates(is_loop=False),
        "vmap of minimize, Gram form": _rates(is_loop=False, is_gram=True),
        "Python loop of minimize": _rates(is_loop=True),
    },
}
