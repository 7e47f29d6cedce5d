"""optimistix."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.case import Answer, Factory, NotOffered, Solve
from benchmarks.peers import counting
from benchmarks.peers.arrays import shared
from benchmarks.problems import functions

NAME = "optimistix"
PACKAGE = "optimistix"
DISTRIBUTION = "optimistix"

MAX_ITERATIONS = 20_000
LARGEST_DENSE = 3000
"""BFGS keeps a dense matrix: of more unknowns it is left out."""


def _function(solver: str) -> Factory:
    def prepare(data: functions.Data) -> Solve:
        import equinox
        import jax
        import jax.numpy as jnp
        import optimistix

        if solver == "BFGS" and data.start.size > LARGEST_DENSE:
            raise NotOffered(f"BFGS keeps a dense matrix of {data.start.size}^2")
        start = jnp.asarray(data.start, jnp.float32)
        args = tuple(shared(arg) for arg in data.args)
        kind = getattr(optimistix, solver)

        @equinox.filter_jit
        def descend(start: Any, tolerance: Any, args: Any) -> Any:
            return optimistix.minimise(
                lambda x, args: data.function(x, *args),
                kind(rtol=tolerance, atol=tolerance),
                start,
                args,
                max_steps=MAX_ITERATIONS,
                throw=False,
            )

        def solve(tolerance: float) -> Answer:
            solution = jax.block_until_ready(descend(start, jnp.float32(tolerance), args))
            return Answer(solution.value, int(solution.stats["num_steps"]))

        return solve

    return counting.of_function(prepare)


CONTENDERS: dict[str, dict[str, Factory]] = {
    "function": {name: _function(name) for name in ("LBFGS", "BFGS", "NonlinearCG")}
}
CONTENDERS["classification"] = CONTENDERS["function"]
