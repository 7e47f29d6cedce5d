"""SciPy. Functions written in JAX are jitted for it, with their gradients, in float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from benchmarks.harness.case import Answer, Counting, Factory, NotOffered, Solve
from benchmarks.peers import counting
from benchmarks.peers.arrays import shared
from benchmarks.problems import batches, functions, regression

NAME = "SciPy"
PACKAGE = "scipy"
DISTRIBUTION = "scipy"

MAX_ITERATIONS = 20_000
LARGEST_DENSE = 3000
"""BFGS keeps a dense matrix: of more unknowns it is left out."""


def _krylov(name: str) -> Factory:
    def prepare(data: regression.Data) -> Solve:
        import scipy.sparse.linalg

        function = getattr(scipy.sparse.linalg, name)
        limits = {"maxiter" if name == "lsmr" else "iter_lim": MAX_ITERATIONS}

        def solve_with(X: Any, tolerance: float) -> Answer:
            columns, iterations = [], 0
            for y, penalty in zip(data.Y.T, data.l2, strict=True):
                answer = function(
                    X,
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

        def passes(tolerance: float) -> float:
            products = []

            def counted(vector: np.ndarray, matrix: np.ndarray) -> np.ndarray:
                products.append(1)
                return matrix @ vector

            operator = scipy.sparse.linalg.LinearOperator(
                data.X.shape,
                matvec=lambda w: counted(w, data.X),
                rmatvec=lambda r: counted(r, data.X.T),
                dtype=data.X.dtype,
            )
            solve_with(operator, tolerance)
            return len(products)

        return Counting(functools.partial(solve_with, data.X), passes)

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
        columns, iterations, evaluations = [], 0, 0
        for y, penalty in zip(data.Y.T, data.l2, strict=True):

            def function(w: np.ndarray, y: Any = y, penalty: Any = penalty) -> Any:
                residual = data.X @ w.astype(data.X.dtype) - y
                gradient = residual @ data.X + penalty * w
                value = 0.5 * np.dot(residual, residual).astype(float) + 0.5 * penalty * w @ w
                return value, gradient.astype(float)

            result = _lbfgsb(function, np.zeros(data.X.shape[1]), tolerance)
            columns.append(result.x)
            iterations += result.nit
            evaluations += 1 + result.nfev  # one for the scale
        return Answer(np.stack(columns, axis=1), iterations, figures={"evaluations": evaluations})

    def passes(tolerance: float) -> float:
        return 2 * solve(tolerance).figures["evaluations"]

    return Counting(solve, passes)


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

        if method == "BFGS" and data.start.size > LARGEST_DENSE:
            raise NotOffered(f"BFGS keeps a dense matrix of {data.start.size}^2")
        both = jax.jit(jax.value_and_grad(data.function))
        args = tuple(shared(arg) for arg in data.args)
        dtype = args[0].dtype if args else float

        def function(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = both(x.astype(dtype), *args)
            return float(value), np.array(gradient, float)

        def solve(tolerance: float) -> Answer:
            if method == "L-BFGS-B":
                result = _lbfgsb(function, data.start, tolerance)
            else:
                scale = np.max(np.abs(function(data.start)[1]))
                options = {"gtol": tolerance * scale, "maxiter": MAX_ITERATIONS}
                result = scipy.optimize.minimize(
                    function, data.start, jac=True, method=method, options=options
                )
            return Answer(result.x, result.nit, figures={"evaluations": result.njev})

        return solve

    return counting.of_function(prepare)


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
    "function": {method: _function(method) for method in ("L-BFGS-B", "CG", "BFGS")},
    "batch of starts": {"Python loop of L-BFGS-B": _starts},
}
CONTENDERS["descents"] = CONTENDERS["regression"]
CONTENDERS["classification"] = CONTENDERS["function"]


def environment(what: str) -> dict[str, str]:
    """SciPy's line searches are written for float64, which its users would give it."""
    return {"JAX_ENABLE_X64": "1"}
