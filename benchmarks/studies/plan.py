"""Is the plan to be trusted? Predicted against measured bytes and seconds, and the regret.

Every problem is solved by every feasible candidate of its plan. Bytes are those that the compiled
program reserves (temporaries and results, from ``memory_analysis``) with data and params; seconds
are those of a run after compilation, the best of a few: the rates are the best of a few as well,
and what else a machine does meanwhile is no part of a plan. The regret is the time of the candidate
that the plan chose over that of the fastest that converged.

    python benchmarks/studies/plan.py [--bytes-only] [--again] [--full] [--only PATTERN]
                              [--limit-seconds S] [--repeats R] [--json FILE]

``--bytes-only`` compiles and runs nothing, which needs no quiet machine and no memory. ``--again``
runs nothing either: it holds what FILE has of an earlier run against the prices of today, from the
rates that were measured beside it. ``--full``
goes on to sums of a billion squares and to X of gigabytes. ``--only`` takes the problems whose name
matches a regular expression; what FILE (``results/plan.json``) holds of the others stays, so that a
whole run may be made of pieces. Each candidate is predicted from the data it is given, as
``jd.plan`` is where they are there, and the machine's rates are measured anew before each problem:
a shared machine's change by the minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import math
import os
import pathlib
import re
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxdescent as jd
from benchmarks.harness import resident
from benchmarks.harness.process import quiet_blas
from jaxdescent.cost import Candidate, Plan
from jaxdescent.kernels import memory
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.machine import Machine
from jaxdescent.objectives import as_objective

Shape = jax.ShapeDtypeStruct

WORST = 6
"""So many of the worst cases are named."""

LARGE_BYTES = 1 << 26
"""Less is lost in what a process holds anyhow."""

RESULTS = pathlib.Path(__file__).parent.parent / "results" / "plan.json"

ENOUGH_SECONDS, LONG_SECONDS, MOST_REPEATS = 0.1, 10.0, 100
"""Short runs are repeated until they make up the first, long ones are not beyond the second."""


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
            y = jnp.matmul(X.astype(jnp.float32), w, precision=HIGHEST)
            # As much noise as there is to explain.
            noise = objective.y.astype(jnp.float32) * jnp.std(y)
            objective = dataclasses.replace(objective, y=(y + noise).astype(objective.y.dtype))
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


UNFORESEEN = {problem.name for problem in PROBLEMS if problem.params is not None} & {
    problem.name for problem in PROBLEMS if not isinstance(problem.objective, jd.SumOfSquares)
}
"""Functions and residuals."""


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
    predicted_setup_seconds: float
    predicted_seconds_per_iteration: float
    predicted_iterations: int
    seconds: float | None = None
    iterations: int | None = None
    status: str = ""
    resident_bytes: int | None = None

    def factor(self, *, is_count_known: bool = False) -> float:
        """Predicted over measured seconds.

        A run that was ended by its limit is held against so many iterations, and with
        ``is_count_known`` every one against those that it took.
        """
        count = self.predicted_iterations
        if is_count_known:
            count = self.iterations
        elif self.status == "MAX_ITERATIONS":
            count = min(count, self.iterations)
        predicted = self.predicted_setup_seconds + count * self.predicted_seconds_per_iteration
        return predicted / self.seconds


def compiled(objective: Any, params: Any, candidate: Candidate) -> Any:
    """The program that ``minimize`` would run, for shapes or for data."""

    def descend(objective: Any, params: Any, method: Any) -> jd.Result:
        return jd.minimize(objective, params, method)

    return jax.jit(descend).lower(objective, params, candidate.method).compile()


def predictions(plan: Plan, candidate: Candidate) -> dict[str, Any]:
    """What the plan says of a candidate."""
    return {
        "is_chosen": candidate is plan.chosen,
        "predicted_bytes": candidate.peak_bytes,
        "predicted_working_bytes": candidate.working_bytes,
        "predicted_setup_seconds": candidate.setup_seconds,
        "predicted_seconds_per_iteration": candidate.seconds_per_iteration,
        "predicted_iterations": candidate.iterations,
    }


def row_of(problem: Problem, plan: Plan, candidate: Candidate, program: Any) -> Row:
    analysis = program.memory_analysis()
    working = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    return Row(
        problem=problem.name,
        candidate=candidate.name,
        measured_bytes=candidate.data_bytes + working,
        measured_working_bytes=working,
        **predictions(plan, candidate),
    )


@dataclasses.dataclass
class Run:
    """A candidate's program, and what its runs took."""

    row: Row
    call: Callable[[], Any]
    seconds: list[float] = dataclasses.field(default_factory=list)
    iterations: int = 0
    status: int = 0
    resident: int | None = None

    def begin(self) -> None:
        """The first run, whose memory counts, and whose time only where it is long."""
        before = resident.begin_peak()
        began = time.perf_counter()
        result = jax.block_until_ready(self.call())
        seconds = time.perf_counter() - began
        if before is not None:
            self.resident = max(resident.peak() - before, 0)
        # Of the result no more is kept: those of all candidates together might not fit.
        self.iterations, self.status = int(result.iterations), int(result.status)
        if seconds > LONG_SECONDS:
            self.seconds.append(seconds)

    def again(self) -> None:
        began = time.perf_counter()
        jax.block_until_ready(self.call())
        self.seconds.append(time.perf_counter() - began)

    def finished(self) -> Row:
        return dataclasses.replace(
            self.row,
            seconds=min(self.seconds),
            iterations=self.iterations,
            status=jd.Status(self.status).name,
            resident_bytes=self.resident,
        )


def take_turns(runs: list[Run], repeats: int) -> None:
    """Candidates one after another, ``repeats`` times and more where they are short.

    A shared machine's speed changes: what is compared runs side by side.
    """
    for run in runs:
        run.begin()
    for turn in range(MOST_REPEATS):
        left = [run for run in runs if turn < repeats or sum(run.seconds) < ENOUGH_SECONDS]
        left = [run for run in left if sum(run.seconds) < LONG_SECONDS]
        for run in left:
            run.again()


def solved(problem: Problem, options: argparse.Namespace) -> tuple[Machine, list[Row]]:
    gc.collect()  # of the problem before, whose memory counts as taken
    objective, params = problem.objective, problem.params
    machine = Machine.of()
    if not options.bytes_only:
        machine = Machine.measured(recalibrate=True)
        objective, params = problem.made()
    plan = jd.plan(objective, params, device=machine)
    rows, runs = [], []
    for candidate in plan.candidates:
        if not candidate.feasible:
            continue
        program = compiled(objective, params, candidate)
        row = row_of(problem, plan, candidate, program)
        if options.bytes_only or candidate.seconds > options.limit_seconds:
            rows.append(row)
            continue
        call = functools.partial(program, objective, params, candidate.method)
        runs.append(Run(row, call))
    take_turns(runs, options.repeats)
    rows += [run.finished() for run in runs]
    for row in rows:
        show(row)
    return machine, rows


def machine_of(entry: dict[str, Any]) -> Machine:
    """The machine of an earlier run, of which earlier versions kept more rates."""
    names = {field.name for field in dataclasses.fields(Machine)}
    return Machine(**{name: rate for name, rate in entry["machine"].items() if name in names})


def predicted_again(problem: Problem, entry: dict[str, Any]) -> list[Row]:
    """The rows of an earlier run with what is predicted now, from the rates of then."""
    shapes = problem.objective, problem.params
    plan = jd.plan(*(shapes if problem.is_large else problem.made()), device=machine_of(entry))
    candidates = {candidate.name: candidate for candidate in plan.candidates}
    rows = [
        Row(**fields | predictions(plan, candidates[fields["candidate"]]))
        for fields in entry["rows"]
    ]
    for row in rows:
        show(row)
    return rows


def show(row: Row) -> None:
    mark = "*" if row.is_chosen else " "
    ratio = row.predicted_bytes / row.measured_bytes
    besides = row.predicted_working_bytes / row.measured_working_bytes
    text = f"{mark} {row.problem:32s} {row.candidate:36s} {row.measured_bytes / 1e6:10.2f} MB"
    text += f" x{ratio:5.3f} (besides data x{besides:5.2f})"
    if row.seconds is not None:
        text += f" {row.seconds:10.5f} s x{row.factor():5.2f}"
        text += f" {row.iterations:5d} steps for {row.predicted_iterations:5d} {row.status}"
    print(text, flush=True)


def summarise(rows: list[Row]) -> None:
    """The targets, over all problems and over those whose iterations can be foreseen."""
    foreseen = [row for row in rows if row.problem not in UNFORESEEN]
    if not foreseen:
        return
    print("\n| | asked | all | foreseen |\n|---|---|---|---|")
    for (name, asked, figure), (_, _, besides) in zip(
        _figures(rows), _figures(foreseen), strict=True
    ):
        print(f"| {name} | {asked} | {figure} | {besides} |")
    print("\nforeseen: without functions and residuals, of whose curvature nothing is known")
    done = [row for row in foreseen if row.seconds is not None]
    for row in sorted(done, key=lambda row: -_either_way(row.factor()))[:WORST]:
        print(
            f"seconds x{row.factor():.2f}: {row.problem}, {row.candidate}, {row.iterations} steps "
            f"for {row.predicted_iterations}"
        )
    for name, regret in sorted(regrets_of(done).items(), key=lambda item: -item[1])[:WORST]:
        print(f"regret {regret:.2f}: {name}")


def _figures(rows: list[Row]) -> list[tuple[str, str, str]]:
    """Name, what is asked, and the figure, of each target."""
    ratios = [row.predicted_bytes / row.measured_bytes for row in rows]
    large = [
        ratio
        for ratio, row in zip(ratios, rows, strict=True)
        if row.measured_bytes > memory.SLACK_BYTES
    ]
    figures = [
        ("problems", "30", str(len({row.problem for row in rows}))),
        ("runs", "", str(len(rows))),
        ("peak bytes within 10 %", "90 %", _share(ratios, lambda ratio: 0.9 <= ratio <= 1.1)),
        ("least of predicted over measured bytes", "0.90", f"{min(ratios):.2f}"),
        ("the same beyond a megabyte", "", f"{min(large):.2f}" if large else ""),
    ]
    done = [row for row in rows if row.seconds is not None]
    if not done:
        return figures
    for of_which, is_count_known in (("", False), (" for the iterations taken", True)):
        factors = [_either_way(row.factor(is_count_known=is_count_known)) for row in done]
        figures += [
            (
                f"seconds within a factor {most}{of_which}",
                "" if is_count_known else asked,
                _share(factors, lambda factor, most=most: factor <= most),
            )
            for most, asked in ((1.5, "80 %"), (3, "100 %"))
        ]
    regrets = list(regrets_of(done).values()) or [math.nan]
    figures += [
        ("regret, median", "1.3", f"{statistics.median(regrets):.2f}"),
        ("regret under 2", "90 %", _share(regrets, lambda regret: regret < 2)),
    ]
    grown = [
        row.resident_bytes / row.predicted_working_bytes
        for row in done
        if row.resident_bytes is not None and row.predicted_working_bytes > LARGE_BYTES
    ]
    name = f"most resident over predicted, beyond {LARGE_BYTES >> 20} MiB"
    return [*figures, (name, "1.10", f"{max(grown, default=math.nan):.2f}")]


def _share(values: list[float], holds: Callable[[float], bool]) -> str:
    return f"{sum(map(holds, values)) / len(values):.0%}".replace("%", " %")


def _either_way(ratio: float) -> float:
    return max(ratio, 1 / ratio)


def regrets_of(rows: list[Row]) -> dict[str, float]:
    """By problem: the time of the chosen candidate over that of the fastest that converged."""
    regrets = {}
    for name in dict.fromkeys(row.problem for row in rows):
        of_problem = [row for row in rows if row.problem == name]
        chosen = [row.seconds for row in of_problem if row.is_chosen]
        converged = [row.seconds for row in of_problem if row.status == "CONVERGED"]
        if chosen and converged:
            regrets[name] = chosen[0] / min(converged)
    return regrets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes-only", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--limit-seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path, default=None)
    options = parser.parse_args()
    if options.json is None and not options.bytes_only:
        options.json = RESULTS
    warnings.simplefilter("ignore")
    os.environ.update(quiet_blas())  # as the command does; read with the first factorisation
    kept: dict[str, Any] = {}
    if options.json and options.json.exists():
        kept = json.loads(options.json.read_text())
    for problem in PROBLEMS:
        is_left_out = problem.is_large and not options.full and not options.bytes_only
        if options.again:
            is_left_out = problem.name not in kept
        if is_left_out or not re.search(options.only, problem.name):
            continue
        with jax.enable_x64(problem.dtype == "float64"):
            if options.again:
                entry, rows = kept[problem.name], predicted_again(problem, kept[problem.name])
            else:
                machine, rows = solved(problem, options)
                load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
                entry = {"load": load, "machine": dataclasses.asdict(machine)}
        kept[problem.name] = entry | {"rows": [dataclasses.asdict(row) for row in rows]}
        if options.json:  # after each problem, so that an end by memory loses little
            options.json.write_text(json.dumps(kept, indent=1) + "\n")
    names = [problem.name for problem in PROBLEMS if problem.name in kept]
    summarise([Row(**row) for name in names for row in kept[name]["rows"]])


if __name__ == "__main__":
    main()
