"""JAXopt."""

from __future__ import annotations

from typing import Any

from benchmarks.case import Answer, Factory, Solve
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

    def descend(start: Any, tolerance: Any) -> Any:
        goal = tolerance * jnp.linalg.norm(jax.grad(function)(start))
        return kind(function, maxiter=MAX_ITERATIONS, tol=goal).run(start)

    return descend


def _function(solver: str) -> Factory:
    def prepare(data: functions.Data) -> Solve:
        import jax
        import jax.numpy as jnp

        descend = jax.jit(_descent(data.function, solver))
        start = jnp.asarray(data.start, jnp.float32)

        def solve(tolerance: float) -> Answer:
            found = jax.block_until_ready(descend(start, tolerance))
            return Answer(found.params, int(found.state.iter_num))

        return solve

    return prepare


def _starts(data: batches.StartsData) -> Solve:
    import jax
    import jax.numpy as jnp

    from tests.classical import rosenbrock

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
