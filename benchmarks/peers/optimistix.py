"""optimistix."""

from __future__ import annotations

from typing import Any

from benchmarks.case import Answer, Factory, NotOffered, Solve
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
        kind = getattr(optimistix, solver)

        @equinox.filter_jit
        def descend(start: Any, tolerance: Any) -> Any:
            return optimistix.minimise(
                lambda x, _: data.function(x),
                kind(rtol=tolerance, atol=tolerance),
                start,
                max_steps=MAX_ITERATIONS,
                throw=False,
            )

        def solve(tolerance: float) -> Answer:
            solution = jax.block_until_ready(descend(start, jnp.float32(tolerance)))
            return Answer(solution.value, int(solution.stats["num_steps"]))

        return solve

    return prepare


CONTENDERS: dict[str, dict[str, Factory]] = {
    "function": {name: _function(name) for name in ("LBFGS", "BFGS", "NonlinearCG")}
}
