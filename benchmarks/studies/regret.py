"""What the default costs beside the best method that one could have chosen, had one known.

Regressions whose shape, spectrum, penalty and outputs are drawn at random by a seed, and two that
were named before anything was tuned. Each is solved by every method that applies and by the
default; seconds are those of the best of a few runs after compilation, for which all take turns. A
method counts where it comes within ten times the default tolerance of the lowest value that any of
them reached, computed in float64. The regret is the default's time over that of the fastest of
these.

    python benchmarks/studies/regret.py [--seed S] [--problems N] [--only PATTERN] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import re
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdescent as jd
from jaxdescent.machine import Machine

MOST_ENTRIES = 3e7
"""Of X: 120 MB in float32."""

MOST_FLOPS = 2e10
"""Half of those of the smaller Gram matrix."""

ENOUGH_SECONDS, LEAST_ROUNDS, MOST_ROUNDS = 2.0, 1, 10
"""All methods take turns, for so long in all: what else a machine does meanwhile hits all alike."""

COMPARABLE = 10 * float(jnp.finfo(jnp.float32).eps) ** (2 / 3)
"""The relative suboptimality up to which values count as reached."""

TARGET_WORST, TARGET_MEDIAN = 2.2, 1.3


@dataclasses.dataclass(frozen=True)
class Problem:
    """A regression to be made: float32, with an intercept.

    Attributes:
      condition: of X, or None for independent normal entries.
      spectrum: ``geometric`` singular values; ``step``: half are large and half small; ``few``: all
        but five are equal, and these are larger.
      l2: the penalty, as a share of the largest squared singular value; ``absolute`` as it is.
    """

    rows: int
    features: int
    outputs: int = 1
    condition: float | None = None
    spectrum: str = "geometric"
    l2: float = 0.0
    absolute: bool = False

    @property
    def name(self) -> str:
        """One line."""
        text = f"{self.rows:,} x {self.features:,}"
        text += f" x {self.outputs}" if self.outputs > 1 else ""
        text += f", {self.spectrum} {self.condition:.1g}" if self.condition else ", normal"
        return text + (f", l2 {self.l2:.1g}" if self.l2 else "")

    def made(self, seed: int) -> jd.LinearRegression:
        """The objective, with data."""
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((self.rows, self.features), np.float32)
        largest = (math.sqrt(self.rows) + math.sqrt(self.features)) ** 2
        if self.condition is not None:
            smaller = min(self.rows, self.features)
            X = X if self.rows >= self.features else np.ascontiguousarray(X.T)
            if 4 * smaller > max(self.rows, self.features):
                X = np.linalg.qr(X)[0]  # else its own spread is small
            else:
                X /= math.sqrt(len(X))
            X *= self._singular_values(smaller).astype(np.float32)
            for _ in range(2):  # or equal columns would hide the spectrum
                v = rng.standard_normal(smaller).astype(np.float32)
                v /= np.linalg.norm(v)
                X -= np.outer(X @ (2 * v), v)
            X = X if self.rows >= self.features else np.ascontiguousarray(X.T)
            largest = 1.0
        weights = rng.standard_normal((self.features, self.outputs)).astype(np.float32)
        y = X @ weights
        y += y.std() * rng.standard_normal(y.shape).astype(np.float32)
        l2 = self.l2 if self.absolute else self.l2 * largest
        y = y[:, 0] if self.outputs == 1 else y
        return jd.LinearRegression(jnp.asarray(X), jnp.asarray(y), l2=float(l2))

    def _singular_values(self, count: int) -> np.ndarray:
        assert self.condition is not None
        least = 1 / self.condition
        if self.spectrum == "geometric":
            return np.geomspace(1, least, count)
        values = np.full(count, least)
        values[: min(5, count - 1) if self.spectrum == "few" else count // 2] = 1
        return values


NAMED = [
    Problem(60_000, 1_500, condition=1e4, l2=0.01, absolute=True),
    Problem(6_000, 6_000, l2=5.0, absolute=True),
]
"""Held apart from what the repository had been measured on."""


def drawn(count: int, seed: int) -> list[Problem]:
    """Problems at random: logarithms of sizes and condition numbers are uniform."""
    rng = np.random.default_rng(seed)
    problems: list[Problem] = []

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    while len(problems) < count:
        rows, features = (round(log_uniform(10, 1e5)) for _ in range(2))
        entries = rows * features
        condition = log_uniform(1, 1e6)
        outputs = 1 if rng.uniform() < 0.6 else round(log_uniform(2, 64))
        l2 = 0.0 if rng.uniform() < 0.5 else log_uniform(1e-8, 1)
        spectrum = ("geometric", "step", "few")[rng.integers(3)]
        if entries <= MOST_ENTRIES and entries * min(rows, features) <= MOST_FLOPS:
            problems.append(Problem(rows, features, outputs, condition, spectrum, l2))
    return problems


def methods_for(problem: Problem) -> dict[str, Any]:
    """Every method that one might choose, by name; None is the default."""
    methods = {
        "default": None,
        "direct": jd.DerivativeMethod(),
        "LSMR": jd.LSMR(),
        "CG": jd.ConjugateGradient(),
    }
    if problem.rows >= problem.features:
        methods["Gram"] = jd.Gram()
    if problem.rows > jd.Sketch().oversampling * problem.features:
        methods["sketch"] = jd.LSMR(jd.Sketch())
    return methods


def measured(objective: jd.LinearRegression, methods: dict[str, Any]) -> dict[str, Any]:
    """Of each method seconds, the value in float64, and how it ended."""

    def run(method: Any) -> tuple[float, Any]:
        begin = time.perf_counter()
        result = jax.block_until_ready(jd.minimize(objective, method=method))
        return time.perf_counter() - begin, result

    runs: dict[str, Any] = {}
    for name, method in methods.items():
        first, result = run(method)
        runs[name] = {
            "first": first,
            "value": value(objective, result.params),
            "status": jd.Status(int(result.status)).name,
            "iterations": int(result.iterations),
            "ended_by": result.method,
            "seconds": math.inf,
        }
    begin, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or (
        rounds < MOST_ROUNDS and time.perf_counter() - begin < ENOUGH_SECONDS
    ):
        for name, method in methods.items():
            # The second of two finds the caches as a loop over such problems would.
            runs[name]["seconds"] = min(runs[name]["seconds"], run(method)[0], run(method)[0])
        rounds += 1
    return runs


def value(objective: jd.LinearRegression, params: Any) -> float:
    """The objective in float64."""
    X, y = np.asarray(objective.X), np.asarray(objective.y, np.float64)
    w, b = (np.asarray(params[key], np.float64) for key in ("weights", "intercept"))
    total = 0.5 * float(objective.l2) * float(np.sum(w * w))
    for start in range(0, len(X), 4096):
        rows = slice(start, start + 4096)
        total += 0.5 * float(np.sum((X[rows].astype(np.float64) @ w + b - y[rows]) ** 2))
    return total


def outcome(problem: Problem, seed: int) -> dict[str, Any]:
    """All methods on one problem."""
    objective = problem.made(seed)
    runs = measured(objective, methods_for(problem))
    lowest = min(run["value"] for run in runs.values() if math.isfinite(run["value"]))
    # Where values are rounding themselves, the scale is what y has to explain.
    scale = max(lowest, 1e-7 * 0.5 * float(np.sum(np.square(np.asarray(objective.y, np.float64)))))
    for run in runs.values():
        run["excess"] = (run["value"] - lowest) / scale
        run["reaches"] = run["excess"] <= COMPARABLE
    reaching = {name: run for name, run in runs.items() if run["reaches"] and name != "default"}
    best = min(reaching, key=lambda name: reaching[name]["seconds"])
    regret = runs["default"]["seconds"] / runs[best]["seconds"]
    return {"problem": problem.name, "best": best, "regret": regret, "runs": runs}


def row(found: dict[str, Any]) -> str:
    """A line of the table: milliseconds, in parentheses where the value was not reached."""
    cells = []
    for name in ("direct", "sketch", "LSMR", "CG", "Gram"):
        run = found["runs"].get(name)
        text = "" if run is None else f"{1e3 * run['seconds']:,.3g}"
        cells.append(f"({text})" if run and not run["reaches"] else text)
    default = found["runs"]["default"]
    ended = f"{default['ended_by']} {default['iterations']} {default['status']}"
    ended += "" if default["reaches"] else f" excess {default['excess']:.0e}"
    cells = [found["problem"], *cells, f"{1e3 * default['seconds']:,.3g}", ended]
    return f"| {' | '.join(cells)} | {found['regret']:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    Machine.measured()
    print("| problem | direct | sketch | LSMR | CG | Gram | default | ended by | regret |")
    print("|---|---|---|---|---|---|---|---|---|")
    found: list[dict[str, Any]] = []
    for index, problem in enumerate([*drawn(options.problems, options.seed), *NAMED]):
        if re.search(options.only, problem.name):
            found.append(outcome(problem, 1000 * options.seed + index))
            print(row(found[-1]), flush=True)
            jax.clear_caches()
    regrets = [each["regret"] for each in found]
    print(
        f"\nregret: median {statistics.median(regrets):.2f} (target {TARGET_MEDIAN}), "
        f"worst {max(regrets):.2f} (target {TARGET_WORST}), "
        f"above {TARGET_WORST}: {sum(regret > TARGET_WORST for regret in regrets)} "
        f"of {len(regrets)}; not reached by the default: "
        f"{sum(not each['runs']['default']['reaches'] for each in found)}"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(main())
