"""jaxdescent itself."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Answer, Factory, Solve
from benchmarks.problems import batches, costs, functions, regression, separable

NAME = "jaxdescent"
PACKAGE = "jaxdescent"
DISTRIBUTION = "jaxdescent"

MAX_ITERATIONS = 20_000


def _regression(make: Callable[[Any, float], Any], *, ends_by_itself: bool = False) -> Factory:
    """``ends_by_itself`` says that the method has tests of its own, to which the end is left."""

    def prepare(data: regression.Data) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd

        X, Y = shared(data.X), jnp.asarray(data.Y)
        is_single = Y.shape[1] == 1
        y = Y[:, 0] if is_single else Y
        l2 = jnp.asarray(data.l2, jnp.float32) if data.is_path else jnp.float32(data.l2[0])
        objective = jd.LinearRegression(X, y, l2=l2, intercept=False)

        def solve(tolerance: float) -> Answer:
            result = jax.block_until_ready(
                jd.minimize(
                    objective,
                    None,
                    make(jd, tolerance),
                    tolerance=0 if ends_by_itself else tolerance,
                    max_iterations=MAX_ITERATIONS,
                )
            )
            weights = result.params["weights"]
            params = np.asarray(weights).reshape(data.X.shape[1], -1)
            return Answer(params, int(np.max(result.iterations)))

        return solve

    return prepare


def shared(X: np.ndarray) -> Any:
    """A JAX array on the same memory, where the device is the host."""
    import jax
    import jax.numpy as jnp

    if jax.devices()[0].platform == "cpu":
        return jnp.from_dlpack(X)
    return jnp.asarray(X)


def _gradient(data: regression.GradientData) -> Solve:
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd

    X = shared(data.X).astype(data.dtype)
    objective = jd.LinearRegression(X, jnp.asarray(data.y), intercept=False)
    params = {"weights": jnp.asarray(data.w)}
    gradient = jax.jit(lambda objective, params: objective.gradient(params))

    def solve(_: float) -> Answer:
        return Answer(jax.block_until_ready(gradient(objective, params))["weights"])

    return solve


ITERATIONS = 1000


def _separable(data: separable.Tree) -> Solve:
    import jax

    import jaxdescent as jd
    from jaxdescent.breakdown.independent_weights import SEGMENT
    from jaxdescent.passes import FUSED_STEPS

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


def _function(make: Callable[[Any], Any], *, is_jitted: bool = False) -> Factory:
    def prepare(data: functions.Data) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd

        start = jnp.asarray(data.start, jnp.float32)
        method = make(jd)

        def descend(start: Any, tolerance: Any) -> Any:
            result = jd.minimize(
                data.function,
                start,
                method,
                tolerance=tolerance,
                max_iterations=MAX_ITERATIONS,
            )
            return result.params, result.iterations, result.evaluations

        chosen = jax.jit(descend) if is_jitted else descend

        def solve(tolerance: float) -> Answer:
            params, iterations, evaluations = jax.block_until_ready(chosen(start, tolerance))
            figures = {"evaluations": float(evaluations)}
            return Answer(params, int(iterations), figures=figures)

        return solve

    return prepare


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


def _rosenbrock(x: Any) -> Any:
    from tests.classical import rosenbrock

    return rosenbrock(x)


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


def _three_parameters(
    iterations: int, *, is_compiled_anew: bool = False, is_jitted: bool = False
) -> Solve:
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd

    weights, target = jnp.asarray(costs.WEIGHTS, "float32"), jnp.asarray(costs.TARGET, "float32")
    start, rate = jnp.zeros(3), jnp.float32(costs.RATE)

    def function(x: Any, weights: Any, target: Any) -> Any:
        return jnp.sum(weights * (x - target) ** 2)

    def descend(function: Any, start: Any, rate: Any, weights: Any, target: Any) -> Any:
        return jd.minimize(
            function,
            start,
            jd.GradientDescent(rate),
            args=(weights, target),
            tolerance=0,
            max_iterations=iterations,
        )

    chosen = jax.jit(descend, static_argnums=0) if is_jitted else descend

    def solve(_: float) -> Answer:
        objective = costs.renewed(function) if is_compiled_anew else function
        result = jax.block_until_ready(chosen(objective, start, rate, weights, target))
        return Answer(result.params, iterations)

    return solve


def _leak(count: int) -> Solve:
    from benchmarks import resident

    once = _three_parameters(10)

    def solve(_: float) -> Answer:
        for _i in range(min(count, 1000)):  # what is allocated once is not a leak
            once(0.0)
        gc.collect()
        before = resident.now()
        started = time.perf_counter()
        for _i in range(count):
            once(0.0)
        seconds = time.perf_counter() - started
        gc.collect()
        grown = resident.now() - before
        return Answer(0.0, count, seconds / count, {"calls": count, "bytes_a_call": grown / count})

    return solve


LONG = 1 << 25
"""Unknowns times iterations of a run that the clock resolves."""


def _growth(make: Callable[[Any], Any], *, is_sum_of_squares: bool = False) -> Factory:
    """Seconds an iteration: the difference of two lengths, free of the checks at both ends."""

    def prepare(size: int) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd

        few = 16 if is_sum_of_squares else 4
        # Long enough for the clock where an iteration is short.
        lengths = (few, few + max(3 * few, min(1024, LONG // size // 16 * 16)))
        objective = jd.SumOfSquares() if is_sum_of_squares else _rosenbrock

        def timed(iterations: int) -> tuple[float, int]:
            start = jax.block_until_ready(jnp.tile(jnp.array([-1.2, 1.0]), size // 2))
            started = time.perf_counter()
            result = jd.minimize(
                objective,
                start,
                make(jd),
                tolerance=0,
                max_iterations=iterations,
                donate=True,
            )
            jax.block_until_ready(result)
            return time.perf_counter() - started, int(result.iterations)

        def solve(_: float) -> Answer:
            short, few = timed(lengths[0])
            long, many = timed(lengths[1])
            if many <= few or long <= short:  # it ended early
                return Answer(0.0, many, long / max(many, 1))
            return Answer(0.0, many, (long - short) / (many - few))

        return solve

    return prepare


def _growth_of_regression(make: Callable[[Any], Any]) -> Factory:
    """A regression with as many rows as features: the derivative method's cost is coupled."""

    def prepare(size: int) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd

        rng = np.random.default_rng(0)
        X = jnp.asarray(rng.standard_normal((2 * size, size), np.float32))
        y = jnp.asarray(rng.standard_normal(2 * size, np.float32))
        objective = jd.LinearRegression(X, y, intercept=False)

        def solve(_: float) -> Answer:
            started = time.perf_counter()
            result = jax.block_until_ready(
                jd.minimize(objective, None, make(jd), tolerance=1e-5, max_iterations=1000)
            )
            seconds = time.perf_counter() - started
            iterations = int(result.iterations)
            return Answer(0.0, iterations, seconds / max(iterations, 1))

        return solve

    return prepare


def _import(_: int) -> Solve:
    from benchmarks.peers.handwritten import import_seconds

    return lambda _: Answer(0.0, seconds=import_seconds("import jaxdescent"))


CONTENDERS: dict[str, dict[str, Factory]] = {
    "separable": {"library": _separable, "command's flags": _separable},
    "gradient": {"LinearRegression.gradient": _gradient},
    "regression": {
        "default": _regression(lambda jd, _: None),
        "DerivativeMethod()": _regression(lambda jd, _: jd.DerivativeMethod()),
        "LSMR()": _regression(lambda jd, t: jd.LSMR(atol=t, btol=t)),
        # The gradient of an ill-conditioned X is small long before the objective is: the tests of
        # the preconditioned problem know.
        "LSMR(Sketch())": _regression(
            lambda jd, t: jd.LSMR(jd.Sketch(), atol=t, btol=t), ends_by_itself=True
        ),
        "ConjugateGradient()": _regression(lambda jd, _: jd.ConjugateGradient()),
    },
    "descents": {
        "Backtracking()": _regression(lambda jd, _: jd.GradientDescent(jd.Backtracking())),
        "BarzilaiBorwein()": _regression(lambda jd, _: jd.GradientDescent(jd.BarzilaiBorwein())),
        "AdaptiveStep()": _regression(lambda jd, _: jd.GradientDescent(jd.AdaptiveStep())),
        "ExactLineSearch()": _regression(lambda jd, _: jd.GradientDescent(jd.ExactLineSearch())),
        "InverseLipschitz(), Nesterov()": _regression(
            lambda jd, _: jd.GradientDescent(jd.InverseLipschitz(), momentum=jd.Nesterov())
        ),
        "LBFGS()": _regression(lambda jd, _: jd.LBFGS()),
    },
    "function": {
        "default": _function(lambda jd: None),
        "default, in a jit of the caller's": _function(lambda jd: None, is_jitted=True),
        "ConjugateGradient()": _function(lambda jd: jd.ConjugateGradient()),
        "BarzilaiBorwein()": _function(lambda jd: jd.GradientDescent(jd.BarzilaiBorwein())),
    },
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
    "import": {"import jaxdescent": _import},
    "three parameters": {
        "minimize": _three_parameters,
        "jit of minimize": lambda count: _three_parameters(count, is_jitted=True),
    },
    "compile": {
        "minimize": lambda count: _three_parameters(count, is_compiled_anew=True),
        "jit of minimize": lambda count: _three_parameters(
            count, is_compiled_anew=True, is_jitted=True
        ),
    },
    "leak": {"minimize, eager calls": _leak},
    "growth": {
        "GradientDescent(number), separable": _growth(
            lambda jd: jd.GradientDescent(1e-2), is_sum_of_squares=True
        ),
        "DerivativeMethod(), separable": _growth(
            lambda jd: jd.DerivativeMethod(), is_sum_of_squares=True
        ),
        "GradientDescent(number)": _growth(lambda jd: jd.GradientDescent(1e-4)),
        "Backtracking()": _growth(lambda jd: jd.GradientDescent(jd.Backtracking())),
        "BarzilaiBorwein()": _growth(lambda jd: jd.GradientDescent(jd.BarzilaiBorwein())),
        "AdaptiveStep()": _growth(lambda jd: jd.GradientDescent(jd.AdaptiveStep())),
        "ConjugateGradient()": _growth(lambda jd: jd.ConjugateGradient()),
        "LBFGS()": _growth(lambda jd: jd.LBFGS()),
    },
    "growth of regressions": {
        "DerivativeMethod()": _growth_of_regression(lambda jd: jd.DerivativeMethod()),
        "LSMR()": _growth_of_regression(lambda jd: jd.LSMR()),
        "ConjugateGradient()": _growth_of_regression(lambda jd: jd.ConjugateGradient()),
        "ExactLineSearch()": _growth_of_regression(
            lambda jd: jd.GradientDescent(jd.ExactLineSearch())
        ),
    },
}
CONTENDERS["descents"] |= CONTENDERS["regression"]
# Each for one kind of shapes: on the others its matrix would not fit.
CONTENDERS["regression"] |= {
    "Gram()": _regression(lambda jd, _: jd.Gram()),
    "Dual()": _regression(lambda jd, _: jd.Dual()),
}


def environment(what: str) -> dict[str, str]:
    """The command line sets flags of XLA's for its own process."""
    if what != "command's flags":
        return {}
    from jaxdescent.cli import INTERLEAVE

    return {"XLA_FLAGS": INTERLEAVE}
