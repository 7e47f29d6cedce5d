"""5: many small problems at once."""

from benchmarks.harness.case import Case, Suite, scaled
from benchmarks.problems.batches import Rates, Regressions, Starts

LADDER = tuple(10.0**-k for k in range(1, 7))


def cases(scale: float) -> list[Case]:
    regressions = Regressions(scaled(10_000, scale), 100, 20)
    return [
        Case("regressions of 100x20", "batch of regressions", regressions, 1e-6, LADDER),
        Case("starts", "batch of starts", Starts(scaled(1000, scale)), 1e-4, LADDER),
        Case("learning rates", "batch of rates", Rates(scaled(256, scale)), 1e-3),
    ]


SUITE = Suite(
    "batches",
    "Batches",
    cases,
    everyday_scale=1.0,
    repeats=7,
    limit=30,
    whole_limit=300,
    remark="Starts: the chained Rosenbrock function of 8 unknowns, until 99 of 100 gradients are "
    "below 1e-4 of their first. Learning rates: 200 steps of plain descent on one regression.",
)
