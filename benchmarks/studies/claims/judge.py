"""What a run reports of a drawn problem, and whether it is true.

A run's *ratio* is how far its value is above the minimum, over what the default tolerance allows:
``eps**(2/3) max(|value|, eps F)`` with F of docs/stopping.md. CONVERGED is *false* where the ratio
is above one. Another status is a *false negative* where the ratio is at most one, and its estimate
is *too small* where the ratio is above one and above ten times what the run reports.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxdescent as jd

FACTOR = 10.0
EPSILON = float(np.finfo(np.float32).eps)


@dataclasses.dataclass(frozen=True)
class Claim:
    """The end of one run: ratio and estimate are in units of what the tolerance allows."""

    group: str
    problem: str
    method: str
    mode: str
    status: str
    evidence: str
    iterations: int
    ratio: float
    estimate: float
    seconds: float

    @property
    def is_false(self) -> bool:
        return self.status == "CONVERGED" and not self.ratio <= 1

    @property
    def is_false_negative(self) -> bool:
        return self.status != "CONVERGED" and self.ratio <= 1

    @property
    def is_too_small(self) -> bool:
        is_known = self.status != "CONVERGED" and np.isfinite(self.estimate)
        return bool(is_known and self.ratio > max(1, FACTOR * self.estimate))


def judged(group: str, problem: Any, method: str, mode: str, solve: Callable[[], Any]) -> Claim:
    """The claim of one run against the problem's truth."""
    begin = time.perf_counter()
    params, status, evidence, iterations, suboptimality = jax.block_until_ready(solve())
    seconds = time.perf_counter() - begin
    ratio, allowed = np.inf, np.nan
    if all(np.all(np.isfinite(np.asarray(leaf))) for leaf in jax.tree.leaves(params)):
        value, gap, floor = problem.truth(params)
        allowed = EPSILON ** (2 / 3) * max(abs(value), EPSILON * floor)
        ratio = gap / allowed
    return Claim(
        group=group,
        problem=problem.name,
        method=method,
        mode=mode,
        status=jd.Status(int(status)).name,
        evidence=jd.Evidence(int(evidence)).name,
        iterations=int(iterations),
        ratio=float(ratio),
        estimate=float(suboptimality) / allowed,
        seconds=round(seconds, 3),
    )
