"""Is the plan to be trusted? Predicted against measured bytes and seconds, and the regret.

Every problem is solved by every feasible candidate of its plan. Bytes are those that the compiled
program reserves (temporaries and results, from ``memory_analysis``) with data and params; seconds
are those of a run after compilation, the median of a few. The regret is the time of the candidate
that the plan chose over that of the fastest that converged.

    python benchmarks/plan.py [--bytes-only] [--full] [--x64] [--dtype D] [--only WORD]
                              [--limit-seconds S] [--repeats R] [--json FILE]

``--bytes-only`` compiles and runs nothing, which needs no quiet machine and no memory. float64
runs in a process of its own, with ``--x64``; without it those problems are left out. ``--full``
goes on to sums of a billion squares and to X of gigabytes. Each candidate is predicted from the
data it is given, as ``jd.plan`` is where they are there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxdescent as jd
from jaxdescent.machine import Machine
from jaxdescent.objectives import as_objective
from jaxdescent.plan import Candidate, Plan
from jaxdescent.plan.choice import ALWAYS_SECONDS
from jaxdescent.precision import HIGHEST

Shape = jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class Problem:
    """Shapes, and how the data are made of them.

    Attributes:
      name: what it is.
      objective: of shapes alone.
      params: shapes, or None.
      is_large: whether it needs gigabytes.
    """

    name: str
    objective: Any
    params: Any = None
    is_large: bool = False

    @property
    def dtype(self) -> str:
        """The widest dtype of its data."""
        leaves = jax.tree.leaves((self.objective, self.params))
        dtypes = [leaf.dtype for leaf in leaves if isinstance(leaf, Shape)]
        return str(max(dtypes, key=lambda dtype: dtype.itemsize))

    def made(self, seed: int = 0) -> tuple[Any, Any]:
        """The objective and the start, with data."""
        leaves, treedef = jax.tree.flatten((self.objective, self.params))
        key = jax.random.key(seed)
        made = [
            _normal(leaf, jax.random.fold_in(key, index)) if isinstance(leaf, Shape) else leaf
            for index, leaf in enumerate(leaves)
        ]
        objective, params = jax.tree.unflatten(treedef, made)
        if isinstance(objective, jd.LinearRegression):
            X = objective.X
            w = jax.random.normal(key, (X.shape[1], *objective.y.shape[1:]), jnp.float32)
            noise = objective.y.astype(jnp.float32)
            y = jnp.matmul(X.astype(jnp.float32), w, precision=HIGHEST) + 0.1 * noise
            objective = dataclasses.replace(objective, y=y.astype(objective.y.dtype))
        if isinstance(objective, jd.Quadratic):
            size = objective.hessian.shape[0]
            G = objective.hessian
            hessian = jnp.matmul(G, G.T, precision=HIGHEST) / size + jnp.eye(size)
            objective = dataclasses.replace(objective, hessian=hessian.astype(G.dtype))
        return jax.block_until_ready((objective, params))


def _normal(shape: Shape, key: jax.Array) -> jax.Array:
    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, shape.shape, shape.dtype)

    return draw(key)


def regression(
    rows: int, features: int, outputs: int = 1, dtype: str = "float32", l2: float = 0.0
) -> Problem:
    y = Shape((rows,) if outputs == 1 else (rows, outputs), dtype)
    name = f"{rows:,} x {features:,}"
    name += f" x {outputs}" if outputs > 1 else ""
    name += f" {dtype}" + (f" l2={l2:g}" if l2 else "")
    objective = jd.LinearRegression(Shape((rows, features), dtype), y, l2=l2)
    size = rows * features * jnp.dtype(dtype).itemsize
    return Problem(name, objective, is_large=size > 1 << 29)


def sum_of_squares(size: int, dtype: str = "float32") -> Problem:
    start = Shape((size,), dtype)
    return Problem(f"sum of {size:,} squares {dtype}", jd.SumOfSquares(), start, size > 10**8)


def _rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def _cosh(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.cosh(x - 1))


def _residuals(x: jax.Array) -> jax.Array:
    return jnp.exp(x) - 2


PROBLEMS: list[Problem] = [
    # Tall
    regression(100, 10),
    regression(1_000, 10),
    regression(10_000, 10),
    regression(100_000, 10),
    regression(1_000_000, 10),
    regression(1_000, 100),
    regression(10_000, 100),
    regression(100_000, 100),
    regression(1_000_000, 100),
    regression(10_000, 1_000),
    regression(100_000, 1_000),
    regression(10_000, 3_000),
    regression(20_000, 4_000),
    regression(131_072, 4_096),
    # Square
    regression(300, 300),
    regression(2_000, 2_000),
    regression(5_000, 5_000, l2=10.0),
    # Fat
    regression(10, 1_000),
    regression(100, 10_000),
    regression(100, 1_000_000),
    regression(500, 100_000),
    regression(1_000, 10_000, l2=1.0),
    # Many outputs
    regression(10_000, 100, 10),
    regression(20_000, 500, 100),
    regression(500, 20_000, 10, l2=1.0),
    # With a penalty
    regression(100_000, 100, l2=100.0),
    regression(10_000, 1_000, l2=100.0),
    # Other dtypes
    regression(10_000, 100, dtype="bfloat16"),
    regression(20_000, 1_000, dtype="bfloat16"),
    regression(200, 50_000, dtype="bfloat16"),
    regression(10_000, 100, dtype="float64"),
    regression(20_000, 1_000, dtype="float64"),
    regression(200, 50_000, dtype="float64"),
    # Sums of squares
    sum_of_squares(10**4),
    sum_of_squares(10**6),
    sum_of_squares(10**8),
    sum_of_squares(10**6, "bfloat16"),
    sum_of_squares(10**8, "bfloat16"),
    sum_of_squares(10**6, "float64"),
    sum_of_squares(10**9),
    sum_of_squares(10**9, "bfloat16"),
    # Quadratics and functions
    Problem(
        "quadratic of 300", jd.Quadratic(Shape((300, 300), "float32"), Shape((300,), "float32"))
    ),
    Problem(
        "quadratic of 2,000",
        jd.Quadratic(Shape((2_000, 2_000), "float32"), Shape((2_000,), "float32")),
    ),
    Problem("cosh of 1,000,000", as_objective(_cosh), Shape((10**6,), "float32")),
    Problem("rosenbrock of 100", as_objective(_rosenbrock), Shape((100,), "float32")),
    Problem("residuals of 1,000,000", jd.LeastSquares(_residuals), Shape((10**6,), "float32")),
]


@dataclasses.dataclass(frozen=True)
class Row:
    """One candidate for one problem."""

    problem: str
    candidate: str
    is_chosen: bool
    predicted_bytes: int
    measured_bytes: int
    predicted_working_bytes: int
    measured_working_bytes: int
    predicted_seconds: float
    seconds: float | None = None
    predicted_iterations: int = 0
    iterations: int | None = None
    status: str = ""


def compiled(objective: Any, params: Any, candidate: Candidate) -> Any:
    """The program that ``minimize`` would run, for shapes or for data."""

    def descend(objective: Any, params: Any, method: Any) -> jd.Result:
        return jd.minimize(objective, params, method)

    return jax.jit(descend).lower(objective, params, candidate.method).compile()


def row_of(problem: Problem, plan: Plan, candidate: Candidate, program: Any) -> Row:
    analysis = program.memory_analysis()
    working = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    return Row(
        problem=problem.name,
        candidate=candidate.name,
        is_chosen=candidate is plan.chosen,
        predicted_bytes=candidate.peak_bytes,
        measured_bytes=candidate.data_bytes + working,
        predicted_working_bytes=candidate.working_bytes,
        measured_working_bytes=working,
        predicted_seconds=candidate.seconds,
        predicted_iterations=candidate.iterations,
    )


def timed(row: Row, program: Any, inputs: tuple[Any, ...], repeats: int) -> Row:
    times = []
    result = None
    for _ in range(repeats):
        began = time.perf_counter()
        result = jax.block_until_ready(program(*inputs))
        times.append(time.perf_counter() - began)
        if times[-1] > 5:
            break
    assert result is not None
    return dataclasses.replace(
        row,
        seconds=statistics.median(times),
        iterations=int(result.iterations),
        status=jd.Status(int(result.status)).name,
    )


def run(problem: Problem, machine: Machine, options: argparse.Namespace) -> list[Row]:
    objective, params = problem.objective, problem.params
    if not options.bytes_only:
        objective, params = problem.made()
    plan = jd.plan(objective, params, device=machine)
    rows = []
    for candidate in plan.candidates:
        if not candidate.feasible:
            continue
        program = compiled(objective, params, candidate)
        row = row_of(problem, plan, candidate, program)
        if not options.bytes_only and candidate.seconds <= options.limit_seconds:
            inputs = (objective, params, candidate.method)
            row = timed(row, program, inputs, options.repeats)
        rows.append(row)
        show(row)
    return rows


def show(row: Row) -> None:
    mark = "*" if row.is_chosen else " "
    ratio = row.predicted_bytes / row.measured_bytes
    besides = row.predicted_working_bytes / row.measured_working_bytes
    text = f"{mark} {row.problem:32s} {row.candidate:36s} {row.measured_bytes / 1e6:10.2f} MB"
    text += f" x{ratio:5.3f} (besides data x{besides:5.2f})"
    if row.seconds is not None:
        text += f" {row.seconds:9.4f} s x{row.predicted_seconds / row.seconds:5.2f}"
        text += f" {row.iterations:5d} steps for {row.predicted_iterations:5d} {row.status}"
    print(text, flush=True)


def share(values: list[float], holds: Callable[[float], bool]) -> float:
    return sum(map(holds, values)) / len(values)


def summarise(rows: list[Row]) -> None:
    ratios = [row.predicted_bytes / row.measured_bytes for row in rows]
    problems = len({row.problem for row in rows})
    print(f"\n{problems} problems, {len(rows)} runs")
    within = share(ratios, lambda ratio: 0.9 <= ratio <= 1.1)
    print(f"bytes within 10 %: {within:.0%} (target 90 %); least {min(ratios):.3f} (target 0.9)")
    done = [row for row in rows if row.seconds is not None]
    if not done:
        return
    factors = [max(r.predicted_seconds / r.seconds, r.seconds / r.predicted_seconds) for r in done]
    print(
        f"seconds within 1.5: {share(factors, lambda f: f <= 1.5):.0%} (target 80 %), within 3: "
        f"{share(factors, lambda f: f <= 3):.0%} (target all), worst {max(factors):.2f}"
    )
    regrets, beyond_a_moment = [], []
    for name in dict.fromkeys(row.problem for row in done):
        of_problem = [row for row in done if row.problem == name]
        chosen = [row for row in of_problem if row.is_chosen]
        solved = [row.seconds for row in of_problem if row.status == "CONVERGED"]
        if chosen and solved:
            regrets.append(chosen[0].seconds / min(solved))
            moment = ALWAYS_SECONDS
            beyond_a_moment.append((chosen[0].seconds + moment) / (min(solved) + moment))
    if not regrets:
        return
    # The plan never weighs what takes a moment: with that moment added to both, what it costs.
    titles = {"regret": regrets, f"regret beyond {ALWAYS_SECONDS} s": beyond_a_moment}
    for title, values in titles.items():
        print(
            f"{title}: median {statistics.median(values):.2f} (target 1.3), under 2 for "
            f"{share(values, lambda regret: regret < 2):.0%} (target 90 %), worst {max(values):.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes-only", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--x64", action="store_true")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--only", default="")
    parser.add_argument("--limit-seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.x64)
    warnings.simplefilter("ignore")
    machine = Machine.of() if options.bytes_only else Machine.measured()
    print(f"rates {'measured' if machine.is_measured else 'by default'}: {machine}")
    rows: list[Row] = []
    for problem in PROBLEMS:
        is_double = problem.dtype == "float64"
        if (
            is_double != options.x64
            or options.only not in problem.name
            or (options.dtype and problem.dtype != options.dtype)
            or (problem.is_large and not options.full and not options.bytes_only)
        ):
            continue
        rows += run(problem, machine, options)
        if options.json:  # after each problem, so that an end by memory loses little
            with open(options.json, "w") as file:
                json.dump([dataclasses.asdict(row) for row in rows], file, indent=1)
    summarise(rows)


if __name__ == "__main__":
    main()
