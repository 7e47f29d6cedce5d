"""How long the first call of a small problem takes in a new process, beside peers.

    python -m benchmarks.studies.compilation [--repeats 3] [--only WORD]

Each call runs in a process of its own, after the imports. Seconds are of the wall clock; of these,
tracing, lowering and XLA's compilation are those that JAX reports. Kernels are the fusions,
products and library calls in the text of all programs that the call runs, those inside loops that
XLA compiles as one kernel included. Peers that are not installed are left out (``make bench``
installs them).
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PARTS = {
    "tracing": "/jax/core/compile/jaxpr_trace_duration",
    "lowering": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "XLA": "/jax/core/compile/backend_compile_duration",
}

Call = Callable[[], Any]
"""What is timed; it returns arrays, or something that holds arrays."""


def regression(rows: int, features: int, l2: float = 0.0) -> Any:
    import numpy as np

    import jaxdescent as jd

    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, features)).astype(np.float32)
    y = X @ rng.normal(size=features) + rng.normal(size=rows)
    return jd.LinearRegression(X, y.astype(np.float32), l2=l2)


def on_regression(rows: int, features: int, method: str = "None", l2: float = 0.0) -> Call:
    import jaxdescent as jd

    problem, chosen = regression(rows, features, l2), eval(method, {"jd": jd})
    return lambda: jd.minimize(problem, method=chosen)


def rosenbrock(x: Any, args: Any = None) -> Any:
    import jax.numpy as jnp

    del args
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def residuals(p: Any, args: Any = None) -> Any:
    import jax.numpy as jnp

    del args
    t = jnp.linspace(0.0, 3.0, 300)
    return p[0] * jnp.exp(-p[1] * t) + p[2] - (2 * jnp.exp(-1.5 * t) + 0.5 + 0.1 * jnp.sin(40 * t))


def layers(sizes: list[int], rng: Any) -> Any:
    """The params of a network with so many units in its layers."""
    import jax.numpy as jnp

    return [
        {
            "W": jnp.asarray(rng.normal(size=(a, b)) / a**0.5, jnp.float32),
            "b": jnp.zeros(b, jnp.float32),
        }
        for a, b in itertools.pairwise(sizes)
    ]


def outputs(params: Any, h: Any) -> Any:
    """Of a network for these inputs."""
    import jax.numpy as jnp

    for layer in params[:-1]:
        h = jnp.tanh(h @ layer["W"] + layer["b"])
    return h @ params[-1]["W"] + params[-1]["b"]


def network() -> tuple[Callable[..., Any], Any]:
    """The loss of a network of two hidden layers of twenty units on thirteen inputs, and its 721
    params.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    params = layers([13, 20, 20, 1], rng)
    X = jnp.asarray(rng.normal(size=(200, 13)), jnp.float32)
    y = jnp.sin(X[:, 0]) + X[:, 1] * X[:, 2]

    def loss(params: Any, args: Any = None) -> jax.Array:
        del args
        return jnp.mean((outputs(params, X) - y[:, None]) ** 2)

    return loss, params


def informed() -> tuple[Callable[..., Any], Any]:
    """The residuals of ``u'' = -sin(x)``, ``u(0) = u(pi) = 0`` for a network u."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    params = layers([1, 16, 16, 1], np.random.default_rng(0))
    x = jnp.linspace(0.0, np.pi, 50)

    def u(params: Any, x: Any) -> Any:
        return outputs(params, x[None])[0]

    def residual(params: Any, args: Any = None) -> Any:
        del args
        inside = jax.vmap(lambda x: jax.grad(jax.grad(u, 1), 1)(params, x) + jnp.sin(x))(x)
        ends = jnp.stack([u(params, x[0]), u(params, x[-1])])
        return jnp.concatenate([inside / 50**0.5, ends])

    return residual, params


def on_rosenbrock(method: str = "None", steps: int = 1000) -> Call:
    import jax.numpy as jnp
    import optax

    import jaxdescent as jd

    chosen = eval(method, {"jd": jd, "optax": optax})
    return lambda: jd.minimize(rosenbrock, jnp.zeros(10), chosen, max_iterations=steps)


def on_residuals() -> Call:
    import jax.numpy as jnp

    import jaxdescent as jd

    return lambda: jd.minimize(jd.LeastSquares(residuals), jnp.ones(3), jd.LevenbergMarquardt())


def on_network(method: str = "None") -> Call:
    import optax

    import jaxdescent as jd

    (loss, params), chosen = network(), eval(method, {"jd": jd, "optax": optax})
    return lambda: jd.minimize(loss, params, chosen, max_iterations=100)


def on_informed(method: str) -> Call:
    import jaxdescent as jd

    (residual, params), chosen = informed(), eval(method, {"jd": jd})
    return lambda: jd.minimize(
        jd.LeastSquares(residual), params, chosen, max_iterations=30, tolerance=0
    )


def certify_network() -> Call:
    import jaxdescent as jd

    loss, params = network()
    return lambda: jd.certify(loss, params)


def certify_rosenbrock() -> Call:
    import jax.numpy as jnp

    import jaxdescent as jd

    return lambda: jd.certify(rosenbrock, jnp.ones(10))


def through_ridge() -> Call:
    import jax
    import jax.numpy as jnp

    import jaxdescent as jd

    problem = regression(300, 7)
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)

    def held_out(l2: Any) -> Any:
        fitted = jd.minimize(jd.LinearRegression(X, y, l2=l2)).params
        return jnp.sum(fitted["weights"] ** 2)

    return lambda: jax.grad(held_out)(1.0)


def of_sklearn() -> Call:
    from sklearn.linear_model import LinearRegression

    problem = regression(300, 7)
    return lambda: LinearRegression().fit(problem.X, problem.y).coef_


def of_lineax() -> Call:
    import jax.numpy as jnp
    import lineax as lx

    problem = regression(300, 7)
    X, y = jnp.asarray(problem.X), jnp.asarray(problem.y)
    solver = lx.LSMR(rtol=1e-5, atol=1e-5)
    return lambda: lx.linear_solve(lx.MatrixLinearOperator(X), y, solver).value


def of_optimistix(solver: str, what: str, steps: int = 1000) -> Call:
    import jax.numpy as jnp
    import optax
    import optimistix as optx

    solver = eval(solver, {"optx": optx, "optax": optax})
    if what == "rosenbrock":
        return lambda: (
            optx.minimise(rosenbrock, solver, jnp.zeros(10), max_steps=steps, throw=False).value
        )
    function, start = (residuals, jnp.ones(3)) if what == "residuals" else informed()
    solve = optx.minimise if "BFGS" in type(solver).__name__ else optx.least_squares
    given = function
    if solve is optx.minimise:
        given = lambda p, args: 0.5 * jnp.sum(function(p, args) ** 2)  # noqa: E731
    return lambda: solve(given, solver, start, max_steps=steps, throw=False).value


def by_hand(transformation: str) -> Call:
    """A loop of a hundred steps as its documentation shows it, in one program."""
    import jax
    import optax

    loss, params = network()
    chosen = eval(transformation, {"optax": optax})
    value_and_grad = optax.value_and_grad_from_state(loss)

    @jax.jit
    def fit(params: Any) -> Any:
        def step(carry: Any) -> Any:
            index, params, state = carry
            if "lbfgs" in transformation:
                value, gradient = value_and_grad(params, state=state)
            else:
                value, gradient = jax.value_and_grad(loss)(params)
            updates, state = chosen.update(
                gradient, state, params, value=value, grad=gradient, value_fn=loss
            )
            return index + 1, optax.apply_updates(params, updates), state

        return jax.lax.while_loop(
            lambda carry: carry[0] < 100, step, (0, params, chosen.init(params))
        )[1]

    if "lbfgs" not in transformation:
        chosen = optax.with_extra_args_support(chosen)
    return lambda: fit(params)


CASES: dict[str, tuple[Callable[[], Call], str | None]] = {
    "regression 300 x 7, default": (lambda: on_regression(300, 7), "scikit-learn"),
    "regression 5,000 x 40, l2, default": (lambda: on_regression(5000, 40, l2=1.0), None),
    "regression 20,000 x 100, default": (lambda: on_regression(20_000, 100), None),
    "regression 100,000 x 100, default": (lambda: on_regression(100_000, 100), None),
    "regression 900 x 6,000, l2, default": (lambda: on_regression(900, 6000, l2=1.0), None),
    "regression 300 x 7, LSMR": (lambda: on_regression(300, 7, "jd.LSMR()"), "lineax LSMR"),
    "regression 300 x 7, ConjugateGradient": (
        lambda: on_regression(300, 7, "jd.ConjugateGradient()"),
        None,
    ),
    "Rosenbrock, default": (on_rosenbrock, "optimistix BFGS"),
    "Rosenbrock, optax.adam": (
        lambda: on_rosenbrock("optax.adam(0.01)"),
        "optimistix OptaxMinimiser",
    ),
    "300 residuals, LevenbergMarquardt": (on_residuals, "optimistix LM"),
    "network, default": (on_network, "optax.lbfgs by hand"),
    "network, optax.adam": (lambda: on_network("optax.adam(0.01)"), "optax.adam by hand"),
    "certify a network": (certify_network, None),
    "gradient through a ridge": (through_ridge, None),
    "certify Rosenbrock": (certify_rosenbrock, None),
    "physics-informed, LevenbergMarquardt": (
        lambda: on_informed("jd.LevenbergMarquardt()"),
        "optimistix LM, informed",
    ),
    "physics-informed, LBFGS": (
        lambda: on_informed("jd.LBFGS()"),
        "optimistix LBFGS, informed",
    ),
}

PEERS: dict[str, Callable[[], Call]] = {
    "scikit-learn": of_sklearn,
    "lineax LSMR": of_lineax,
    "optimistix BFGS": lambda: of_optimistix("optx.BFGS(1e-5, 1e-5)", "rosenbrock"),
    "optimistix OptaxMinimiser": lambda: of_optimistix(
        "optx.OptaxMinimiser(optax.adam(0.01), 1e-5, 1e-5)", "rosenbrock"
    ),
    "optimistix LM": lambda: of_optimistix("optx.LevenbergMarquardt(1e-5, 1e-5)", "residuals"),
    "optax.lbfgs by hand": lambda: by_hand("optax.lbfgs()"),
    "optax.adam by hand": lambda: by_hand("optax.adam(0.01)"),
    "optimistix LM, informed": lambda: of_optimistix(
        "optx.LevenbergMarquardt(1e-9, 1e-9)", "informed", 30
    ),
    "optimistix LBFGS, informed": lambda: of_optimistix("optx.LBFGS(1e-9, 1e-9)", "informed", 30),
}


def kernels_in(text: str) -> int:
    """The fusions, products and library calls in the text of a program compiled for a CPU."""
    kernel = re.compile(r" = .* (?:fusion|custom-call|dot|sort)\(")
    return sum(1 for line in text.splitlines() if kernel.search(line))


def kernels_of(call: Call) -> int:
    """The kernels of all programs of descents and certificates that a call runs."""
    from jaxdescent.calls.programs import HOST, Program, _compiled

    _compiled.cache_clear()  # a repeated call would go straight to its program
    counts, plain = {}, Program.__call__

    def recorded(program: Any, *inputs: Any) -> Any:
        result = plain(program, *inputs)
        if id(program) not in counts and program.key[-1] != HOST:
            text = program.lower(*inputs).compile().as_text()
            counts[id(program)] = program, kernels_in(text)
        return result

    Program.__call__ = recorded  # type: ignore[method-assign]
    try:
        call()
    finally:
        Program.__call__ = plain  # type: ignore[method-assign]
    return sum(count for _, count in counts.values())


def measured_here(name: str) -> dict[str, float]:
    """The seconds of the first call in this process, and the parts of them that JAX reports."""
    import jax

    spent: dict[str, float] = dict.fromkeys(PARTS.values(), 0.0)

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event in spent:
            spent[event] += duration_secs

    import jax.numpy as jnp

    import jaxdescent as jd

    # A name loads its module when it is first used.
    assert all((jd.minimize, jd.certify, jd.LinearRegression, jd.LeastSquares))
    call = PEERS[name]() if name in PEERS else CASES[name][0]()
    jnp.zeros(3).block_until_ready()  # the backend starts
    jax.monitoring.register_event_duration_secs_listener(listen)
    began = time.perf_counter()
    jax.block_until_ready(call())
    seconds = time.perf_counter() - began
    figures = {"seconds": seconds} | {part: spent[event] for part, event in PARTS.items()}
    if name in CASES:
        began = time.perf_counter()
        jax.block_until_ready(call())
        figures["again"] = time.perf_counter() - began
        figures["kernels"] = kernels_of(call)
    return figures


def measured(name: str, repeats: int) -> dict[str, float] | None:
    """The medians over new processes; None where a peer is not installed."""
    runs = []
    for _ in range(repeats):
        command = [sys.executable, "-m", "benchmarks.studies.compilation", "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-800:], file=sys.stderr)
            return None
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def import_seconds(repeats: int) -> tuple[float, float]:
    """The seconds of ``import jaxdescent`` and of ``import optax`` after ``import jax``."""

    def once(module: str) -> float:
        code = (
            "import time, jax, jax.numpy; t = time.perf_counter(); "
            f"import {module}; print(time.perf_counter() - t)"
        )
        return float(subprocess.check_output([sys.executable, "-c", code], text=True))

    return tuple(
        statistics.median(once(name) for _ in range(repeats)) for name in ("jaxdescent", "optax")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measured_here(chosen.one)))
        return
    print("| first call | seconds | tracing | lowering | XLA | kernels | peer | its seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (_, peer) in CASES.items():
        if chosen.only not in name:
            continue
        own = measured(name, chosen.repeats)
        assert own is not None
        theirs = peer and measured(peer, chosen.repeats)
        parts = " | ".join(f"{own[part]:.2f}" for part in ("seconds", *PARTS))
        shown = f"{theirs['seconds']:.2f}" if theirs else ""
        print(
            f"| {name} | {parts} | {own['kernels']:.0f} | {peer or ''} | {shown} |",
            flush=True,
        )
    if not chosen.only:
        ours, optax = import_seconds(chosen.repeats)
        print(f"| import jaxdescent | {ours:.2f} | | | | | import optax | {optax:.2f} |")


if __name__ == "__main__":
    main()
