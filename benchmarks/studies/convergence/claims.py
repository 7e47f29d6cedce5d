"""Whether CONVERGED is true: every method on random regressions whose minimum is known exactly.

A claim is false if the value at the params (at their best intercept) is above the minimum by more
than ten times what the tolerance allows and what rounding may add to a value. An estimate of a run
that does not claim to have converged is too low if the value is above by more than ten times it and
that.
"""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdescent as jd
from benchmarks.problems.exact_regression import (
    SHAPES,
    ExactRegression,
    exact_regression,
    larger_regression,
)
from benchmarks.studies.convergence import tables
from benchmarks.studies.convergence.runs import DTYPES, of_kind

FACTOR = 10.0
"""By which a claim may miss."""

ULPS = 4.0
"""How many roundings of each term are allowed for."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a method said of one problem, and what is true."""

    case: str
    dtype: str
    method: str
    status: str
    evidence: str
    above: float
    allowed: float
    said: float

    @property
    def is_false(self) -> bool:
        return self.status == "CONVERGED" and not self.above <= FACTOR * self.allowed

    @property
    def is_too_low(self) -> bool:
        is_known = self.status != "CONVERGED" and np.isfinite(self.said)
        return bool(is_known and not self.above <= FACTOR * max(self.said, self.allowed))

    @property
    def is_reached(self) -> bool:
        return self.above <= FACTOR * self.allowed


def solvers() -> dict[str, Any]:
    """Every method that a regression can be given to."""
    descent, newton = jd.GradientDescent, jd.DerivativeMethod
    return {
        "default": None,
        "DerivativeMethod": newton(),
        "Gram": jd.Gram(),
        "Gram(LBFGS)": jd.Gram(jd.LBFGS()),
        "Gram(GradientDescent)": jd.Gram(descent()),
        "ConjugateGradient": jd.ConjugateGradient(),
        "ConjugateGradient(Jacobi)": jd.ConjugateGradient(jd.Jacobi()),
        "ConjugateGradient(Nystrom)": jd.ConjugateGradient(jd.Nystrom(2)),
        "LSMR": jd.LSMR(),
        "LSMR(Jacobi)": jd.LSMR(jd.Jacobi()),
        "LSMR(Sketch)": jd.LSMR(jd.Sketch()),
        "LBFGS": jd.LBFGS(),
        "LevenbergMarquardt": jd.LevenbergMarquardt(),
        "Backtracking": descent(),
        "ExactLineSearch": descent(jd.ExactLineSearch()),
        "InverseLipschitz": descent(jd.InverseLipschitz()),
        "BarzilaiBorwein": descent(jd.BarzilaiBorwein()),
        "Nesterov": descent(jd.InverseLipschitz(), momentum=jd.Nesterov()),
        "adam": optax.adam(0.1),
        "MiniBatches": jd.MiniBatches(),
    }


def claims(
    dtypes: list[str],
    only: str | None,
    seeds: int,
    share: tuple[int, int] = (1, 1),
    larger: list[tuple[int, int, int]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Give the record of each claim; in float32 of these larger shapes, if there are any."""
    methods = solvers()
    first, step = share
    for dtype in dtypes if not larger else ["float32"]:
        for number, shape in enumerate(larger or SHAPES):
            drawn = [
                larger_regression(1000 * number + seed, shape)
                if larger
                else exact_regression(1000 * number + seed, shape, DTYPES[dtype])
                for seed in range(first - 1, seeds, step)
            ]
            for name, method in methods.items():
                if only is not None and only != name:
                    continue
                print(f"{dtype}: {shape} {name}", file=sys.stderr, flush=True)
                with jax.enable_x64(dtype == "float64"):
                    for each in drawn:
                        claim = _claim(each, dtype, name, method)
                        if claim is not None:
                            yield {"kind": "claim", **dataclasses.asdict(claim)}
            jax.clear_caches()


def print_claims(records: list[dict[str, Any]]) -> None:
    """A table of the methods for each dtype, and every false claim."""
    own = [{k: v for k, v in each.items() if k != "kind"} for each in of_kind(records, "claim")]
    found = [Claim(**each) for each in own]
    for dtype in DTYPES:
        of_dtype = [each for each in found if each.dtype == dtype]
        if not of_dtype:
            continue
        rows = []
        for method in dict.fromkeys(each.method for each in of_dtype):
            some = [each for each in of_dtype if each.method == method]
            counts = collections.Counter(each.status for each in some)
            silent = [each for each in some if each.is_reached and each.status != "CONVERGED"]
            rows.append(
                [
                    method,
                    len(some),
                    counts["CONVERGED"],
                    sum(each.is_false for each in some),
                    len(silent),
                    sum(each.is_too_low for each in some),
                    ", ".join(f"{n} {name}" for name, n in counts.items() if name != "CONVERGED"),
                ]
            )
        silently = "there without saying so"
        heads = ["method", "runs", "CONVERGED", "false", silently, "estimates too low", "others"]
        print(f"\n### Claims, {dtype}\n\n{tables.markdown(heads, rows)}")
        for title, some in (
            ("False claims", [each for each in of_dtype if each.is_false]),
            ("Estimates too low", [each for each in of_dtype if each.is_too_low]),
        ):
            rows = [
                [c.case, c.method, c.status, c.evidence]
                + [f"{number:.2e}" for number in (c.above, c.allowed, c.said)]
                for c in some
            ]
            heads = ["problem", "method", "status", "evidence"]
            heads += ["above the minimum", "allowed", "said"]
            print(f"\n### {title}, {dtype}\n\n{tables.markdown(heads, rows)}")


def _claim(drawn: ExactRegression, dtype: str, name: str, method: Any) -> Claim | None:
    result = solved(drawn, method)
    if result is None:
        return None
    weights = np.asarray(result.params["weights"])
    above, allowed = np.inf, 0.0
    if np.all(np.isfinite(weights)):
        above, allowed = above_and_allowed(drawn, weights)
    return Claim(
        case=drawn.name,
        dtype=dtype,
        method=name,
        status=jd.Status(int(result.status)).name,
        evidence=jd.Evidence(int(result.evidence)).name,
        above=above,
        allowed=allowed,
        said=float(result.suboptimality),
    )


def solved(drawn: ExactRegression, method: Any) -> jd.Result | None:
    """The result; None where the method does not go with the regression."""
    objective = jd.LinearRegression(
        jnp.asarray(drawn.X),
        jnp.asarray(drawn.Y),
        l2=jnp.asarray(drawn.l2),
        sample_weight=jnp.asarray(drawn.sample_weight),
        intercept=drawn.intercept,
    )
    start = None if drawn.start is None else jax.tree.map(jnp.asarray, drawn.start)
    try:
        return jd.minimize(objective, start, method)
    except (TypeError, ValueError):
        return None


def above_and_allowed(drawn: ExactRegression, weights: np.ndarray) -> tuple[float, float]:
    """How far the value is above the minimum, and how far the default tolerance and the rounding
    of residuals allow it to be: those at the params, and those at the minimum, which cannot be had
    in this dtype if they are more.
    """
    limits = np.finfo(drawn.X.dtype)
    eps = float(limits.eps)
    above, minimum = drawn.heights(weights)
    scale = max(above + minimum, eps * drawn.constant)
    rounding = max(drawn.rounding(weights), drawn.rounding(drawn.minimiser))
    least = float(limits.tiny) / eps  # squares below it have lost digits
    return above, max(eps ** (2 / 3) * scale + ULPS**2 * rounding, least)
