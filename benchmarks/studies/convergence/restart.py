"""Whether a descent that says CONVERGED can be restarted and still fall.

From where it ended it is minimised anew with a fresh state, by the same method and by the default.
It is a violation if the value falls by more than ``1e-3 max(|value|, floor)`` with the floor
``eps^(2/3) |params|^2 L / 2``, L the largest eigenvalue of the Hessian there in size. A value may
be zero at the minimum: the floor is what a relative change of the params by the root of
``eps^(2/3)`` may add to it. No violation is a descent that ended at a proper minimum, which the
restart left for another one.
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from benchmarks.studies.convergence import tables
from benchmarks.studies.convergence.runs import (
    DTYPES,
    Case,
    Run,
    descend,
    methods,
    of_kind,
    of_method,
    starts,
    suits,
)

FALL = 1e-3
FACTORS = (1.0, 10.0, 100.0)
SLOW = ("adam",)
"""Methods that start from the standard start alone."""

DENSE = 200
"""Unknowns at most for a dense Hessian."""

POWER_ITERATIONS = 100
NEARBY_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Fall:
    """A descent that said CONVERGED, and a restart that made its value fall by too much.

    Attributes:
      run: the descent.
      restarted_by: a method's name.
      after: the value where the restart ended.
      floor: what counts as small for the value.
      is_other_minimum: whether the descent had ended at a proper minimum, so that this is no
        violation.
      is_tiny: whether it had ended within ``eps^(4/3)`` of the standard start's height above the
        minimum, which the floor knows nothing of: at a minimiser of zeros the floor is zero too.
    """

    run: Run
    restarted_by: str
    after: float
    floor: float
    is_other_minimum: bool
    is_tiny: bool

    def record(self) -> dict[str, Any]:
        """For a line of JSON."""
        names = ("case", "dtype", "method", "factor", "value")
        return {
            "kind": "left a minimum" if self.is_other_minimum else "violation",
            **{name: getattr(self.run, name) for name in names},
            "after": self.after,
            "restarted_by": self.restarted_by,
            "floor": self.floor,
            "is_tiny": self.is_tiny,
        }


def floor(case: Case, run: Run) -> float:
    """What counts as small for a value at these params; replace it to judge otherwise."""
    tolerance = float(np.finfo(DTYPES[run.dtype]).eps) ** (2 / 3)
    square = float(np.sum(run.params.astype(np.float64) ** 2))
    return 0.5 * tolerance * square * largest_curvature(case, run.params)


def largest_curvature(case: Case, params: np.ndarray) -> float:
    """The largest eigenvalue of the Hessian in size."""
    if case.size <= DENSE:
        hessian = case.hessian(params)
        # Where it overflows so does the value, or almost: it needs no floor.
        is_finite = np.all(np.isfinite(hessian))
        return float(np.max(np.abs(np.linalg.eigvalsh(hessian)))) if is_finite else 0.0
    direction, size = np.random.default_rng(0).standard_normal(case.size), 0.0
    for _ in range(POWER_ITERATIONS):
        product = case.hessian_product(params, direction / np.linalg.norm(direction))
        size = float(np.linalg.norm(product))
        if size == 0 or not np.isfinite(size):
            break
        direction = product
    return size


def fall_of(case: Case, run: Run) -> Fall | None:
    """The restart that fell furthest, if one fell by too much."""
    again = {name: descend(case, run.dtype, name, run.params) for name in (run.method, "default")}
    lowest = min(again, key=lambda name: _or_infinite(again[name].value))
    fall = run.value - _or_infinite(again[lowest].value)
    if not fall > FALL * abs(run.value):
        return None
    least = floor(case, run)
    if not fall > FALL * least:
        return None
    is_other_minimum = is_minimum(case, run, FALL * max(abs(run.value), least))
    least_value, eps = case.minima[0], np.finfo(DTYPES[run.dtype]).eps
    height = case.value(case.problem.start) - least_value
    is_tiny = bool(run.value - least_value <= eps ** (4 / 3) * height)
    return Fall(run, lowest, again[lowest].value, least, is_other_minimum, is_tiny)


def is_minimum(case: Case, run: Run, fall: float) -> bool:
    """Whether it ended at a proper minimum: convex there, and flat wherever small steps lead.

    Newton steps in float64, too small to leave the basin, must not fall further than the restart
    was allowed to.
    """
    if case.size > DENSE:
        return False
    params = run.params.astype(np.float64)
    hessian = case.hessian(params)
    if not np.all(np.isfinite(hessian)):
        return False
    eigenvalues = np.linalg.eigvalsh(hessian)
    rounding = case.size * np.finfo(np.float64).eps * np.max(np.abs(eigenvalues))
    return bool(eigenvalues[0] > rounding) and run.value - _nearby(case, params) <= fall


def _nearby(case: Case, params: np.ndarray) -> float:
    """The value where small steps end, each Newton's with the eigenvalues' absolute values."""
    largest = 1e-2 * (1e-2 + float(np.linalg.norm(params)))
    radius = largest
    value, gradient = case.value_and_gradient(params)
    for _ in range(NEARBY_STEPS):
        hessian = case.hessian(params)
        if not np.all(np.isfinite(hessian)):
            break
        eigenvalues, basis = np.linalg.eigh(hessian)
        sizes = np.abs(eigenvalues)
        sizes = np.maximum(sizes, max(1e-14 * np.max(sizes), np.finfo(np.float64).tiny))
        step = -basis @ ((basis.T @ gradient) / sizes)
        norm = float(np.linalg.norm(step))
        if not 0 < norm < np.inf:
            break
        while True:
            scaled = step * min(1.0, radius / norm)
            new_value, new_gradient = case.value_and_gradient(params + scaled)
            if new_value < value:
                break
            radius = 0.25 * min(radius, norm)
            if radius < 1e-14 * largest:
                return value
        params, value, gradient = params + scaled, new_value, new_gradient
        radius = min(largest, 2 * radius)
    return value


def restart(dtypes: list[str], names: list[str], cases: Iterable[Case]) -> Iterator[dict[str, Any]]:
    """Give the record of each descent, followed by that of its fall if there is one."""
    for case in cases:
        for dtype in dtypes:
            for factor, start in starts(case, dtype, FACTORS):
                for method in names:
                    if not suits(case, method) or (factor != 1 and method in SLOW):
                        continue
                    run = descend(case, dtype, method, start, factor)
                    yield run.record()
                    fall = fall_of(case, run) if run.status == "CONVERGED" else None
                    if fall:
                        yield fall.record()


def print_restart(records: list[dict[str, Any]]) -> None:
    """A table of the methods for each dtype, and one of all violations."""
    violations = [each for each in records if each["kind"] == "violation"]
    statuses = sorted({each["status"] for each in of_kind(records, "descent")} - {"CONVERGED"})
    for dtype in DTYPES:
        own = [each for each in records if each.get("dtype") == dtype]
        rows = [
            _summary(found, method, statuses)
            for method in methods()
            if (found := of_method(own, method))
        ]
        heads = ["method", "runs", "CONVERGED", "violations"]
        heads += ["of these from standard starts", "of these tiny", "left a minimum"]
        heads += [*statuses, "evaluations, standard starts", "solved, standard starts", "solved"]
        if own:
            print(f"\n### Restarts, {dtype}\n\n{tables.markdown(heads, rows)}")
    heads = ["problem", "start", "dtype", "method", "value", "after", "restarted by", "floor", ""]
    rows = [
        [
            each["case"],
            f"x{each['factor']:g}",
            each["dtype"],
            each["method"],
            *(f"{each[name]:.6g}" for name in ("value", "after")),
            each["restarted_by"],
            f"{each['floor']:.1e}",
            "tiny" if each["is_tiny"] else "",
        ]
        for each in violations
    ]
    print(f"\n### Violations: {len(rows)}\n\n{tables.markdown(heads, rows)}")


def _summary(own: list[dict[str, Any]], method: str, statuses: list[str]) -> list[Any]:
    runs, wrong = of_kind(own, "descent"), of_kind(own, "violation")
    standard = [each for each in runs if each["factor"] == 1]
    counts = collections.Counter(each["status"] for each in runs)
    evaluations = [each["evaluations"] for each in standard]
    return [
        method,
        len(runs),
        counts["CONVERGED"],
        len(wrong),
        sum(each["factor"] == 1 for each in wrong),
        sum(each["is_tiny"] for each in wrong),
        len(of_kind(own, "left a minimum")),
        *(counts[name] for name in statuses),
        f"{statistics.median(evaluations):g}" if evaluations else "",
        *(f"{sum(each['is_solved'] for each in part)} of {len(part)}" for part in (standard, runs)),
    ]


def _or_infinite(value: float) -> float:
    return value if np.isfinite(value) else float("inf")
