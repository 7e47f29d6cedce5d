"""Regressions, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.case import Answer, Counting, Factory, Solve
from benchmarks.peers import counting
from benchmarks.peers.arrays import shared
from benchmarks.problems import regression

MAX_ITERATIONS, MANY_ITERATIONS = 20_000, 1_000_000


def _regression(
    make: Callable[[Any, float], Any],
    max_iterations: int = MAX_ITERATIONS,
    *,
    ends_by_itself: bool = False,
) -> Factory:
    """``ends_by_itself`` says that the method has tests of its own, to which the end is left."""

    def prepare(data: regression.Data) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd

        X, Y = shared(data.X), jnp.asarray(data.Y)
        is_single = Y.shape[1] == 1
        y = Y[:, 0] if is_single else Y
        l2 = jnp.asarray(data.l2 if data.is_path else data.l2[0], X.dtype)

        def solver(X: Any) -> Solve:
            objective = jd.LinearRegression(X, y, l2=l2, intercept=False)

            def solve(tolerance: float) -> Answer:
                result = jax.block_until_ready(
                    jd.minimize(
                        objective,
                        None,
                        make(jd, tolerance),
                        tolerance=0 if ends_by_itself else tolerance,
                        max_iterations=max_iterations,
                    )
                )
                weights = result.params["weights"]
                params = np.asarray(weights).reshape(data.X.shape[1], -1)
                return Answer(params, int(np.max(result.iterations)))

            return solve

        def passes(tolerance: float) -> float | None:
            from benchmarks.harness.passes import Counted

            return counting.counts(solver(Counted(X, is_on_one_device=True)), tolerance)

        return Counting(solver(X), passes)

    return prepare


def _best_constant(data: regression.Data) -> Solve:
    """Steps of 2 / (L + mu), the best of all constants, which someone must know."""
    values = np.linalg.eigvalsh(data.X.T @ data.X)
    rate = float(2 / (values[0] + values[-1]))
    return _regression(lambda jd, _: jd.GradientDescent(rate), MANY_ITERATIONS)(data)


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


CONTENDERS: dict[str, dict[str, Factory]] = {
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
        "ExactLineSearch()": _regression(lambda jd, _: jd.GradientDescent(jd.ExactLineSearch())),
        "InverseLipschitz(), Nesterov()": _regression(
            lambda jd, _: jd.GradientDescent(jd.InverseLipschitz(), momentum=jd.Nesterov())
        ),
        "Backtracking(), Nesterov()": _regression(
            lambda jd, _: jd.GradientDescent(jd.Backtracking(), momentum=jd.Nesterov())
        ),
        "InverseLipschitz()": _regression(lambda jd, _: jd.GradientDescent(jd.InverseLipschitz())),
        "LBFGS()": _regression(lambda jd, _: jd.LBFGS()),
        "LevenbergMarquardt()": _regression(lambda jd, _: jd.LevenbergMarquardt()),
        "LSMR(Jacobi())": _regression(lambda jd, t: jd.LSMR(jd.Jacobi(), atol=t, btol=t)),
        "ConjugateGradient(Nystrom(64))": _regression(
            lambda jd, _: jd.ConjugateGradient(jd.Nystrom(64))
        ),
        "ConjugateGradient(Sketch())": _regression(lambda jd, _: jd.ConjugateGradient(jd.Sketch())),
        "Gram(ConjugateGradient())": _regression(lambda jd, _: jd.Gram(jd.ConjugateGradient())),
    },
}
CONTENDERS["step rules"] = {
    "GradientDescent(2 / (L + mu))": _best_constant,
    **{
        rule: CONTENDERS["descents"][rule]
        for rule in (
            "Backtracking()",
            "BarzilaiBorwein()",
            "InverseLipschitz(), Nesterov()",
            "Backtracking(), Nesterov()",
        )
    },
}
CONTENDERS["descents"] |= CONTENDERS["regression"]
# For tall shapes: on the others its matrix would not fit.
CONTENDERS["regression"]["Gram()"] = _regression(lambda jd, _: jd.Gram())
