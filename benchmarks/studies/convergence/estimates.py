"""Whether ``Result.suboptimality`` is right, held against the exact one.

The exact one is the quadratic form of random regressions and quadratics at the params, and of the
classical convex functions the difference to the minimum, all in float64 or longer. Below ``eps^2``
times the value at the start it is rounding, and so is an estimate: both count as that bound.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdescent as jd
from benchmarks.problems import classical
from benchmarks.problems.random_quadratics import random_quadratic, random_regression
from benchmarks.studies.convergence import tables
from benchmarks.studies.convergence.runs import DTYPES, Case, of_kind

SEEDS = 30
FACTOR = 10.0
"""By which an estimate may be wrong."""

NOISY = 1e-4
"""What (f - f*) / f* should not pass where a noisy regression has CONVERGED."""

CONVEX = (
    "logistic 50",
    "huber 50",
    "quartic 100",
    "cosh 100",
    "cosh far",
    "quadratic 1e6",
    "tiny quadratic",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """An objective whose minimum is known.

    Attributes:
      name: of the problem.
      objective: for ``minimize``, made in the dtype's precision.
      start: None for the objective's own.
      methods: by name.
      suboptimality: the exact one of params in NumPy.
      scale: the suboptimality of the start, or the value at zeros.
      minimum: the least value of a regression with noise; None otherwise.
    """

    name: str
    objective: Callable[[], Any]
    start: Callable[[], Any]
    methods: dict[str, Any]
    suboptimality: Callable[[Any], float]
    scale: float
    minimum: float | None = None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a descent said of its suboptimality; ``said`` is None where it says nothing."""

    case: str
    dtype: str
    method: str
    status: str
    evidence: str
    said: float | None
    true: float
    scale: float
    minimum: float | None

    @property
    def rounding(self) -> float:
        return float(np.finfo(DTYPES[self.dtype]).eps ** 2 * self.scale)

    @property
    def ratio(self) -> float | None:
        """What was said over what is true, both at least rounding; None if nothing was said."""
        if self.said is None or not math.isfinite(self.said):
            return None
        return max(self.said, self.rounding) / max(self.true, self.rounding)


def estimates(dtypes: list[str], only: str | None, seeds: int) -> Iterator[dict[str, Any]]:
    """Give the record of each estimate."""
    for dtype in dtypes:
        for question in _questions(dtype, only, seeds):
            print(f"{dtype}: {question.name}", file=sys.stderr, flush=True)
            for name, method in question.methods.items():
                with jax.enable_x64(dtype == "float64"):
                    answers = _answers(question, dtype, name, method)
                for each in answers:
                    yield {"kind": "estimate", **dataclasses.asdict(each)}
            jax.clear_caches()  # a process may map only so many pieces of compiled code


def print_estimates(records: list[dict[str, Any]]) -> None:
    """A table of the methods for each dtype, and one of the estimates that are too low."""
    own = [{k: v for k, v in each.items() if k != "kind"} for each in of_kind(records, "estimate")]
    found = [Estimate(**each) for each in own]
    for dtype in DTYPES:
        of_dtype = [each for each in found if each.dtype == dtype]
        if of_dtype:
            _print_summary(dtype, of_dtype)
            _print_under(dtype, of_dtype)


def _answers(question: Question, dtype: str, name: str, method: Any) -> list[Estimate]:
    """The estimate; none where the method does not go with the objective."""
    try:
        result = jd.minimize(question.objective(), question.start(), method)
    except (TypeError, ValueError):
        return []
    params = jax.tree.map(np.asarray, result.params)
    is_there = hasattr(result, "suboptimality")
    estimate = Estimate(
        case=question.name,
        dtype=dtype,
        method=name,
        status=jd.Status(int(result.status)).name,
        evidence=jd.Evidence(int(result.evidence)).name if is_there else "NONE",
        said=float(result.suboptimality) if is_there else None,
        true=question.suboptimality(params),
        scale=question.scale,
        minimum=question.minimum,
    )
    return [estimate]


def _questions(dtype: str, only: str | None, seeds: int) -> Iterator[Question]:
    for make in (_regressions, _quadratics, _convex):
        for question in make(dtype, seeds):
            if only is None or only.lower() in question.name.lower():
                yield question


METHODS = {
    "default": None,
    "DerivativeMethod": jd.DerivativeMethod(),
    "ConjugateGradient": jd.ConjugateGradient(),
    "LSMR": jd.LSMR(),
    "LSMR(Sketch)": jd.LSMR(jd.Sketch()),
    "LBFGS": jd.LBFGS(),
    "GradientDescent": jd.GradientDescent(),
    "Gram": jd.Gram(),
}
DESCENTS = {name: METHODS[name] for name in ("default", "LBFGS", "GradientDescent")}
"""For functions, whose stationary points are all that the derivative method looks for."""


def _regressions(dtype: str, seeds: int) -> Iterator[Question]:
    for seed in range(seeds):
        drawn = random_regression(seed, DTYPES[dtype])

        def objective(drawn: Any = drawn) -> Any:
            weight = drawn.sample_weight
            return jd.LinearRegression(
                jnp.asarray(drawn.X),
                jnp.asarray(drawn.Y),
                l2=drawn.l2,
                sample_weight=None if weight is None else jnp.asarray(weight),
                intercept=drawn.intercept,
            )

        minimum = drawn.minimum if drawn.noise and drawn.minimum > 0 else None
        yield Question(
            drawn.name,
            objective,
            lambda: None,
            METHODS,
            drawn.suboptimality,
            drawn.value_at_zero,
            minimum,
        )


def _quadratics(dtype: str, seeds: int) -> Iterator[Question]:
    for seed in range((seeds + 1) // 2):
        drawn = random_quadratic(seed, DTYPES[dtype])

        def objective(drawn: Any = drawn) -> Any:
            return jd.Quadratic(jnp.asarray(drawn.hessian), jnp.asarray(drawn.linear))

        yield Question(
            drawn.name,
            objective,
            lambda: None,
            METHODS,
            drawn.suboptimality,
            drawn.value_at_zero,
        )


def _convex(dtype: str, seeds: int) -> Iterator[Question]:
    del seeds
    for problem in classical.problems():
        if problem.name not in CONVEX:
            continue
        case = Case(problem)
        least = case.minima[0]
        yield Question(
            problem.name,
            lambda problem=problem: problem.function,
            lambda problem=problem: jnp.asarray(problem.start.astype(DTYPES[dtype])),
            DESCENTS,
            lambda params, case=case, least=least: max(0.0, case.value(params) - least),
            case.value(problem.start) - least,
        )


def _print_summary(dtype: str, found: list[Estimate]) -> None:
    statuses = sorted({each.status for each in found} - {"CONVERGED"})
    evidences = sorted({each.evidence for each in found})
    rows = []
    for method in dict.fromkeys(each.method for each in found):
        own = [each for each in found if each.method == method]
        converged = [each for each in own if each.status == "CONVERGED"]
        said = [each.ratio for each in converged if each.ratio is not None]
        within = sum(1 / FACTOR <= ratio <= FACTOR for ratio in said)
        noisy = [each.true / each.minimum for each in converged if each.minimum]
        counts = collections.Counter(each.status for each in own)
        kinds = collections.Counter(each.evidence for each in own)
        rows.append(
            [
                method,
                len(own),
                len(converged),
                *(counts[name] for name in statuses),
                sum(each.true < each.rounding for each in converged),
                len(said),
                f"{within / len(said):.0%}" if said else "",
                sum(ratio < 1 / FACTOR for ratio in said),
                sum(ratio > FACTOR for ratio in said),
                _share(sum(excess > NOISY for excess in noisy), len(noisy)),
                f"{max(noisy):.1e}" if noisy else "",
                ", ".join(f"{kinds[name]} {name}" for name in evidences if kinds[name]),
            ]
        )
    heads = ["method", "runs", "CONVERGED", *statuses, "true is rounding", "said something"]
    heads += [f"within x{FACTOR:g}", f"under by x{FACTOR:g}", f"over by x{FACTOR:g}"]
    heads += [f"noisy: (f - f*)/f* > {NOISY:g}", "worst", "evidence"]
    print(f"\n### Estimates, {dtype}\n\n{tables.markdown(heads, rows)}")


def _print_under(dtype: str, found: list[Estimate]) -> None:
    rows = [
        [each.case, each.method, f"{each.said:.2e}", f"{each.true:.2e}", each.evidence]
        for each in found
        if each.status == "CONVERGED" and each.ratio is not None and each.ratio < 1 / FACTOR
    ]
    heads = ["problem", "method", "said", "true", "evidence"]
    print(f"\n### Too low by more than x{FACTOR:g}, {dtype}\n\n{tables.markdown(heads, rows)}")


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" if whole else ""
