"""SciPy. Functions written in JAX are jitted for it, with their gradients, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.case import Answer, Factory, NotOffered, Solve
from benchmarks.problems import batches, functions, regression

NAME = "SciPy"
PACKAGE = "scipy"
DISTRIBUTION = "scipy"

MAX_ITERATIONS = 20_000


def _krylov(name: str) -> Factory:
    def prepare(data: regression.Data) -> Solve:
        import scipy.sparse.linalg

        function = getattr(scipy.sparse.linalg, name)
        limits = {"maxiter" if name == "lsmr" else "iter_lim": MAX_ITERATIONS}

        def solve(tolerance: float) -> Answer:
            columns, iterations = [], 0
            for y, penalty in zip(data.Y.T, data.l2, strict=True):
                answer = function(
                    data.X,
                    y,
                    damp=np.sqrt(penalty),
                    atol=tolerance,
                    btol=tolerance,
                    conlim=0,
                    **limits,
                )
                columns.append(answer[0])
                iterations += int(answer[2])
            return Answer(np.stack(columns, axis=1), iterations)

        return solve

    return prepare


def _lstsq(driver: str) -> Factory:
    def prepare(data: regression.Data) -> Solve:
        import scipy.linalg

        if data.is_path or data.l2[0]:
            raise NotOffered("scipy.linalg.lstsq takes no penalty")

        def solve(_: float) -> Answer:
            return Answer(
                scipy.linalg.lstsq(data.X, data.Y, lapack_driver=driver, check_finite=False)[0]
            )

        return solve

    return prepare


def _regression_as_function(data: regression.Data) -> Solve:
    def solve(tolerance: float) -> Answer:
        columns, iterations = [], 0
        for y, penalty in zip(data.Y.T, data.l2, strict=True):

            def function(w: np.ndarray, y: Any = y, penalty: Any = penalty) -> Any:
                residual = data.X @ w.astype(np.float32) - y
                gradient = residual @ data.X + penalty * w
                value = 0.5 * np.dot(residual, residual).astype(float) + 0.5 * penalty * w @ w
                return value, gradient.astype(float)

            result = _lbfgsb(function, np.zeros(data.X.shape[1]), tolerance)
            columns.append(result.x)
            iterations += result.nit
        return Answer(np.stack(columns, axis=1), iterations)

    return solve


def _lbfgsb(function: Any, start: np.ndarray, tolerance: float) -> Any:
    import scipy.optimize

    scale = np.max(np.abs(function(start)[1]))
    options = {
        "gtol": tolerance * scale,
        "ftol": 0.0,
        "maxiter": MAX_ITERATIONS,
        "maxfun": 2 * MAX_ITERATIONS,
    }
    return scipy.optimize.minimize(function, start, jac=True, method="L-BFGS-B", options=options)


def _function(method: str) -> Factory:
    def prepare(data: functions.Data) -> Solve:
        import jax
        import scipy.optimize

        both = jax.jit(jax.value_and_grad(data.function))

        def function(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = both(x)
            return float(value), np.array(gradient)

        def solve(tolerance: float) -> Answer:
            if method == "L-BFGS-B":
                result = _lbfgsb(function, data.start, tolerance)
                return Answer(result.x, result.nit)
            scale = np.max(np.abs(function(data.start)[1]))
            options = {"gtol": tolerance * scale, "maxiter": MAX_ITERATIONS}
            result = scipy.optimize.minimize(
                function, data.start, jac=True, method=method, options=options
            )
            return Answer(result.x, result.nit)

        return solve

    return prepare


def _starts(data: batches.StartsData) -> Solve:
    from scipy.optimize import rosen, rosen_der

    def function(x: np.ndarray) -> tuple[float, np.ndarray]:
        return rosen(x), rosen_der(x)

    def solve(tolerance: float) -> Answer:
        found = [_lbfgsb(function, start.astype(float), tolerance).x for start in data.starts]
        return Answer(np.stack(found))

    return solve


CONTENDERS: dict[str, dict[str, Factory]] = {
    "regression": {
        "lsmr": _krylov("lsmr"),
        "lsqr": _krylov("lsqr"),
        "lstsq gelsd": _lstsq("gelsd"),
        "lstsq gelsy": _lstsq("gelsy"),
        "L-BFGS-B": _regression_as_function,
    },
    "function": {"L-BFGS-B": _function("L-BFGS-B"), "CG": _function("CG")},
    "batch of starts": {"Python loop of L-BFGS-B": _starts},
}
CONTENDERS["descents"] = CONTENDERS["regression"]


def environment(what: str) -> dict[str, str]:
    """SciPy's line searches are written for float64, which its users would give it."""
    return {"JAX_ENABLE_X64": "1"}
