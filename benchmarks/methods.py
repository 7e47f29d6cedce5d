"""Iterations, passes over X and time to a relative suboptimality of 1e-6, for every method.

Five problems: a well-conditioned and an ill-conditioned tall regression, a square one, a fat one
with a penalty, and a logistic regression. Beside jaxdescent stand NumPy, SciPy and scikit-learn.

A referee in float64 judges every answer alike: (f - f*) / f*, with f* from a float64 solve. Each
contender is given the loosest tolerance of 1e-1, 1e-2, ... with which it passes, and is timed with
that one: repeats interleaved, compilation apart, medians. A pass is a product with X or its
transpose; a factorisation or a sketch of X reads it too and is not counted.

    python benchmarks/methods.py [--repeats R] [--problem NAME] [--seconds S] [--scale K]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse.linalg
import sklearn.linear_model

import jaxdescent as jd
from jaxdescent.designs import Dense

TARGET = 1e-6
TOLERANCES = [10.0**-k for k in range(1, 9)]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Data in float32, and the referee's optimum in float64."""

    name: str
    X: np.ndarray
    y: np.ndarray
    l2: float = 0.0
    is_logistic: bool = False

    def value(self, w: np.ndarray) -> float:
        w = np.asarray(w, np.float64)
        z = np.concatenate([block.astype(np.float64) @ w for block in np.array_split(self.X, 16)])
        loss = (
            np.logaddexp(0, -self.y * z).sum()
            if self.is_logistic
            else 0.5 * np.sum((z - self.y) ** 2)
        )
        return float(loss + 0.5 * self.l2 * w @ w)

    def optimum(self) -> float:
        X, y = self.X.astype(np.float64), self.y.astype(np.float64)
        if self.is_logistic:
            return self.value(newton_logistic(X, y, self.l2))
        rows, features = X.shape
        if rows < features:
            return self.value(X.T @ np.linalg.solve(X @ X.T + self.l2 * np.eye(rows), y))
        gram = X.T @ X + self.l2 * np.eye(features)
        w = np.linalg.solve(gram, X.T @ y)
        for _ in range(3):
            w += np.linalg.solve(gram, X.T @ (y - X @ w) - self.l2 * w)
        return self.value(w)


def newton_logistic(X: np.ndarray, y: np.ndarray, l2: float) -> np.ndarray:
    w = np.zeros(X.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(y * (X @ w)))
        step = np.linalg.solve(
            (X * (p * (1 - p))[:, None]).T @ X + l2 * np.eye(len(w)), X.T @ (y * p) - l2 * w
        )
        w += step
    return w


def problems(scale: float) -> dict[str, Callable[[], Problem]]:
    rng = np.random.default_rng(0)

    def spectrum(rows: int, features: int, condition: float) -> np.ndarray:
        """Singular values log-spaced over ``condition``; columns mixed, rows random."""
        k = min(rows, features)
        left = np.linalg.qr(rng.standard_normal((rows, k), np.float32))[0]
        right = np.linalg.qr(rng.standard_normal((features, k), np.float32))[0]
        values = np.logspace(0, -np.log10(condition), k).astype(np.float32)
        return np.ascontiguousarray((left * (values * np.sqrt(rows))) @ right.T)

    def regression(name: str, X: np.ndarray, l2: float = 0.0) -> Problem:
        clean = X @ rng.standard_normal(X.shape[1], np.float32)
        noise = 0.1 * clean.std() * rng.standard_normal(len(clean), np.float32)
        return Problem(name, X, (clean + noise).astype(np.float32), l2)

    def size(n: int) -> int:
        return max(8, int(n * scale))

    def logistic() -> Problem:
        X = rng.standard_normal((size(16384), size(256)), np.float32)
        X *= np.logspace(0, -1.5, X.shape[1]).astype(np.float32)
        signal = X @ (3 * rng.standard_normal(X.shape[1], np.float32))
        y = np.where(rng.random(len(X)) < 1 / (1 + np.exp(-signal)), 1, -1).astype(np.float32)
        return Problem("logistic", X, y, 1e-2, is_logistic=True)

    return {
        "well-conditioned tall": lambda: regression(
            "well-conditioned tall", rng.standard_normal((size(65536), size(1024)), np.float32)
        ),
        "ill-conditioned tall": lambda: regression(
            "ill-conditioned tall", spectrum(size(65536), size(1024), 1e5)
        ),
        "square": lambda: regression("square", spectrum(size(2048), size(2048), 1e2), 1e-2),
        "fat": lambda: regression(
            "fat", rng.standard_normal((size(512), size(65536)), np.float32), 1e3
        ),
        "logistic": logistic,
    }


@dataclasses.dataclass(frozen=True)
class Contender:
    """``solve(problem, tolerance, limit)`` to weights and iterations; passes are counted apart."""

    name: str
    solve: Callable[[Problem, float, int], tuple[Any, int | None]]
    count_passes: Callable[[Problem, float, int], int] | None
    is_direct: bool = False


PASSES = [0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Counted(Dense):
    """A dense X that counts the products with it, as they run."""

    def product(self, weights: jax.Array) -> jax.Array:
        jax.debug.callback(count)
        return super().product(weights)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        jax.debug.callback(count)
        return super().transposed_product(residual)


def count() -> None:
    PASSES[0] += 1


def logistic_loss(w: jax.Array, X: Any, y: jax.Array, l2: Any) -> jax.Array:
    return jnp.sum(jax.nn.softplus(-y * (X @ w))) + 0.5 * l2 * jnp.sum(w * w)


def ours(name: str, method: Any, *, is_direct: bool = False) -> Contender:
    arrays: dict[int, tuple[jax.Array, jax.Array]] = {}

    def on_device(problem: Problem) -> tuple[jax.Array, jax.Array]:
        if id(problem) not in arrays:
            arrays.clear()
            arrays[id(problem)] = jnp.asarray(problem.X), jnp.asarray(problem.y)
        return arrays[id(problem)]

    def run(problem: Problem, X: Any, y: Any, tolerance: float, limit: int) -> jd.Result:
        chosen = method(tolerance) if callable(method) else method
        options = {"max_iterations": limit, "tolerance": tolerance}
        if problem.is_logistic:
            start = jnp.zeros(problem.X.shape[1])
            return jd.minimize(logistic_loss, start, chosen, args=(X, y, problem.l2), **options)
        objective = jd.LinearRegression(X, y, l2=problem.l2, intercept=False)
        return jd.minimize(objective, None, chosen, **options)

    def solve(problem: Problem, tolerance: float, limit: int) -> tuple[Any, int]:
        result = jax.block_until_ready(run(problem, *on_device(problem), tolerance, limit))
        params = result.params if problem.is_logistic else result.params["weights"]
        return params, int(result.iterations)

    def count_passes(problem: Problem, tolerance: float, limit: int) -> int:
        X, y = on_device(problem)
        if problem.is_logistic:
            return 2 * int(run(problem, X, y, tolerance, limit).evaluations)
        PASSES[0] = 0
        jax.block_until_ready(run(problem, Counted(X), y, tolerance, limit))
        jax.effects_barrier()
        return PASSES[0]

    return Contender(name, solve, None if is_direct else count_passes, is_direct)


def scipy_krylov(name: str, function: Any) -> Contender:
    def run(problem: Problem, X: Any, tolerance: float, limit: int) -> tuple[Any, int]:
        options = {"damp": np.sqrt(problem.l2), "atol": tolerance, "btol": tolerance}
        limits = {"maxiter": limit} if function is scipy.sparse.linalg.lsmr else {"iter_lim": limit}
        answer = function(X, problem.y, conlim=0, **options, **limits)
        return answer[0], int(answer[2])

    def count_passes(problem: Problem, tolerance: float, limit: int) -> int:
        passes = [0]

        def counting(product: Any) -> Any:
            def counted(v: Any) -> Any:
                passes[0] += 1
                return product(v)

            return counted

        X = problem.X
        operator = scipy.sparse.linalg.LinearOperator(
            X.shape, counting(lambda v: X @ v), counting(lambda v: X.T @ v), dtype=X.dtype
        )
        run(problem, operator, tolerance, limit)
        return passes[0]

    return Contender(name, lambda p, t, n: run(p, p.X, t, n), count_passes)


def scipy_minimize(method: str) -> Contender:
    value_and_gradient = jax.jit(jax.value_and_grad(logistic_loss))

    def run(problem: Problem, tolerance: float, limit: int) -> Any:
        X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)

        def function(w: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = value_and_gradient(jnp.asarray(w, jnp.float32), X, y, problem.l2)
            return float(value), np.asarray(gradient, np.float64)

        start = np.zeros(problem.X.shape[1])
        scale = np.linalg.norm(function(start)[1])
        return scipy.optimize.minimize(
            function,
            start,
            jac=True,
            method=method,
            options={"gtol": tolerance * scale / np.sqrt(len(start)), "maxiter": limit},
        )

    def solve(problem: Problem, tolerance: float, limit: int) -> tuple[Any, int]:
        result = run(problem, tolerance, limit)
        return result.x, int(result.nit)

    return Contender(f"SciPy {method}", solve, lambda p, t, n: 2 * int(run(p, t, n).nfev))


def numpy_lstsq(problem: Problem, tolerance: float, limit: int) -> tuple[Any, None]:
    del tolerance, limit
    X, y = problem.X, problem.y
    if problem.l2:
        features = X.shape[1]
        X = np.vstack([X, np.sqrt(problem.l2) * np.eye(features, dtype=X.dtype)])
        y = np.concatenate([y, np.zeros(features, y.dtype)])
    return np.linalg.lstsq(X, y, rcond=None)[0], None


def ridge(solver: str) -> Contender:
    def solve(problem: Problem, tolerance: float, limit: int) -> tuple[Any, None]:
        model = sklearn.linear_model.Ridge(
            alpha=problem.l2, fit_intercept=False, solver=solver, tol=tolerance, max_iter=limit
        )
        return model.fit(problem.X, problem.y).coef_, None

    is_direct = solver in {"cholesky", "svd"}
    return Contender(f"scikit-learn Ridge {solver}", solve, None, is_direct)


def linear_regression(problem: Problem, tolerance: float, limit: int) -> tuple[Any, None]:
    del tolerance, limit
    model = sklearn.linear_model.LinearRegression(fit_intercept=False)
    return model.fit(problem.X, problem.y).coef_, None


def logistic_regression(solver: str) -> Contender:
    def solve(problem: Problem, tolerance: float, limit: int) -> tuple[Any, int]:
        model = sklearn.linear_model.LogisticRegression(
            C=1 / problem.l2, fit_intercept=False, solver=solver, tol=tolerance, max_iter=limit
        )
        model.fit(problem.X, problem.y)
        return model.coef_[0], int(model.n_iter_[0])

    return Contender(f"scikit-learn LogisticRegression {solver}", solve, None)


def contenders(problem: Problem) -> list[Contender]:
    descents = [
        ours("GradientDescent(Backtracking())", jd.GradientDescent(jd.Backtracking())),
        ours("GradientDescent(BarzilaiBorwein())", jd.GradientDescent(jd.BarzilaiBorwein())),
        ours("GradientDescent(AdaptiveStep())", jd.GradientDescent(jd.AdaptiveStep())),
        ours(
            "InverseLipschitz(), Nesterov()",
            jd.GradientDescent(jd.InverseLipschitz(), momentum=jd.Nesterov()),
        ),
        ours("LBFGS()", jd.LBFGS()),
        ours("ConjugateGradient()", jd.ConjugateGradient()),
    ]
    if problem.is_logistic:
        return [
            *descents,
            scipy_minimize("L-BFGS-B"),
            scipy_minimize("CG"),
            logistic_regression("lbfgs"),
            logistic_regression("newton-cholesky"),
        ]
    rows, features = problem.X.shape
    solvers = [
        ours("ExactLineSearch()", jd.GradientDescent(jd.ExactLineSearch())),
        ours("LSMR()", lambda tolerance: jd.LSMR(atol=tolerance, btol=tolerance)),
        ours("DerivativeMethod()", jd.DerivativeMethod(), is_direct=True),
    ]
    if rows > 4 * features:
        solvers.append(
            ours(
                "LSMR(Sketch())",
                lambda tolerance: jd.LSMR(jd.Sketch(), atol=tolerance, btol=tolerance),
            )
        )
    peers = [
        scipy_krylov("SciPy lsmr", scipy.sparse.linalg.lsmr),
        scipy_krylov("SciPy lsqr", scipy.sparse.linalg.lsqr),
        ridge("cholesky"),
        ridge("lsqr"),
        ridge("sparse_cg"),
    ]
    if features < 8192:
        peers.append(Contender("NumPy lstsq", numpy_lstsq, None, True))
        if not problem.l2:
            peers.append(Contender("scikit-learn LinearRegression", linear_regression, None, True))
    return [*descents, *solvers, *peers]


@dataclasses.dataclass
class Outcome:
    """What a contender reached, and how."""

    contender: Contender
    tolerance: float | None = None
    iterations: int | None = None
    passes: int | None = None
    suboptimality: float = float("inf")
    times: list[float] = dataclasses.field(default_factory=list)


def measure(problem: Problem, repeats: int, seconds: float) -> list[Outcome]:
    best = problem.optimum()

    def suboptimality(w: Any) -> float:
        return (problem.value(np.asarray(w)) - best) / best

    X, w = jnp.asarray(problem.X), jnp.zeros(problem.X.shape[1])
    one_pass = min(timed(lambda: jax.block_until_ready(X @ w))[0] for _ in range(5))
    limit = int(min(20_000, seconds / (2 * one_pass + 2e-5)))
    print(
        f"\n{problem.name}: {problem.X.shape[0]} x {problem.X.shape[1]}, l2 = {problem.l2:g}; "
        f"one pass over X takes {1e3 * one_pass:.1f} ms; at most {limit} iterations"
    )
    outcomes = []
    for contender in contenders(problem):
        outcome = Outcome(contender)
        for tolerance in TOLERANCES:
            w, outcome.iterations = contender.solve(problem, tolerance, limit)
            outcome.suboptimality = min(outcome.suboptimality, suboptimality(w))
            if suboptimality(w) <= TARGET:
                outcome.tolerance = tolerance
                break
            if contender.is_direct or (outcome.iterations or 0) >= limit:
                break
        if outcome.tolerance and contender.count_passes:
            outcome.passes = contender.count_passes(problem, outcome.tolerance, limit)
        outcomes.append(outcome)
    for _ in range(repeats):
        for outcome in outcomes:
            if outcome.tolerance is not None:
                taken, _ = timed(lambda o=outcome: o.contender.solve(problem, o.tolerance, limit))
                outcome.times.append(taken)
    return outcomes


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def show(outcomes: list[Outcome]) -> None:
    heads = f"{'iterations':>10} {'passes':>7} {'seconds':>9} {'spread':>15}  (f - f*) / f*"
    print(f"  {'method':44} {heads}")
    reached = sorted(
        (o for o in outcomes if o.times), key=lambda outcome: statistics.median(outcome.times)
    )
    for outcome in reached:
        spread = f"{min(outcome.times):.3f}-{max(outcome.times):.3f}"
        print(
            f"  {outcome.contender.name:44} {number(outcome.iterations):>10} "
            f"{number(outcome.passes):>7} {statistics.median(outcome.times):9.3f} {spread:>15}  "
            f"{outcome.suboptimality:.1e}"
        )
    for outcome in outcomes:
        if not outcome.times:
            print(
                f"  {outcome.contender.name:44} {number(outcome.iterations):>10} {'-':>7} "
                f"{'missed':>9} {'-':>15}  {outcome.suboptimality:.1e}"
            )


def number(value: int | None) -> str:
    return "-" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--problem", help="one problem alone, by its name")
    parser.add_argument("--seconds", type=float, default=10, help="at most so long an attempt")
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks every size")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # the peers' own, about tolerances and limits not reached
    print(f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    for name, make in problems(options.scale).items():
        if options.problem in (None, name):
            show(measure(make(), options.repeats, options.seconds))


if __name__ == "__main__":
    main()
