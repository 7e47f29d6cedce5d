"""Regressions, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Answer, Factory, Solve
from benchmarks.peers.arrays import shared
from benchmarks.problems import regression

MAX_ITERATIONS = 20_000


def _regression(make: Callable[[Any, float], Any]) -> Factory:
    def prepare(data: regression.Data) -> Solve:
        import jax
        import jax.numpy as jnp

        import jaxdescent as jd

        X, Y = shared(data.X), jnp.asarray(data.Y)
        is_single = Y.shape[1] == 1
        y = Y[:, 0] if is_single else Y
        l2 = jnp.float32(data.l2[0]) if is_single else jnp.asarray(data.l2, jnp.float32)
        objective = jd.LinearRegression(X, y, l2=l2, intercept=False)

        def solve(tolerance: float) -> Answer:
            result = jax.block_until_ready(
                jd.minimize(
                    objective,
                    None,
                    make(jd, tolerance),
                    tolerance=tolerance,
                    max_iterations=MAX_ITERATIONS,
                )
            )
            weights = result.params["weights"]
            params = np.asarray(weights).reshape(data.X.shape[1], -1)
            return Answer(params, int(np.max(result.iterations)))

        return solve

    return prepare


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
        "LSMR(Sketch())": _regression(lambda jd, t: jd.LSMR(jd.Sketch(), atol=t, btol=t)),
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
}
CONTENDERS["descents"] |= CONTENDERS["regression"]
