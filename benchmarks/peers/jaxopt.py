"""JAXopt."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.case import Answer, Factory, Solve
from benchmarks.peers import counting
from benchmarks.peers.arrays import shared
from benchmarks.problems import batches, functions

NAME = "JAXopt"
PACKAGE = "jaxopt"
DISTRIBUTION = "jaxopt"

MAX_ITERATIONS = 20_000


def _descent(function: Any, solver: str) -> Any:
    import jax
    import jax.numpy as jnp
    import jaxopt

    kind = getattr(jaxopt, solver)

    def descend(start: Any, tolerance: Any, *args: Any) -> Any:
        goal = tolerance * jnp.linalg.norm(jax.grad(function)(start, *args))
        return kind(function, maxiter=MAX_ITERATIONS, tol=goal).run(start, *args)

    return descend


def _function(solver: str) -> Factory:
    def prepare(data: functions.Data) -> Solve:
        import jax
        import jax.numpy as jnp

        descend = jax.jit(_descent(data.function, solver))
        start = jnp.asarray(data.start, jnp.float32)
        args = tuple(shared(arg) for arg in data.args)

        def solve(tolerance: float) -> Answer:
            found = jax.block_until_ready(descend(start, tolerance, *args))
            return Answer(found.params, int(found.state.iter_num))

        return solve

    return counting.of_function(prepare)


def _starts(data: batches.StartsData) -> Solve:
    import jax
    import jax.numpy as jnp

    from benchmarks.problems.classical import rosenbrock

    every = jax.jit(jax.vmap(_descent(rosenbrock, "LBFGS"), in_axes=(0, None)))
    starts = jnp.asarray(data.starts)

    def solve(tolerance: float) -> Answer:
        found = jax.block_until_ready(every(starts, tolerance))
        return Answer(found.params, int(found.state.iter_num.max()))

    return solve


CONTENDERS: dict[str, dict[str, Factory]] = {
    "function": {name: _function(name) for name in ("LBFGS", "NonlinearCG")},
    "batch of starts": {"vmap of LBFGS": _starts},
}
CONTENDERS["classification"] = CONTENDERS["function"]
