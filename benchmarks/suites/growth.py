"""7: time and memory against the number of unknowns."""

from benchmarks.harness.case import Case, Suite
from benchmarks.problems.costs import Unjudged

DECADES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
ABOVE_CACHE = (0.125, 0.25, 0.5, 1.0)
"""More points at the end, where the exponents are fitted."""

LARGEST, LARGEST_COUPLED = 192_000_000, 8192

LARGEST_LBFGS = 100_000_000
"""Its 26 vectors of more would not leave enough of 20 GiB."""


def cases(scale: float) -> list[Case]:
    largest = LARGEST * scale
    ends = [2 * int(part * largest / 2) for part in ABOVE_CACHE]
    sizes = sorted({*(n for n in DECADES if n < ends[0]), *ends})
    # A derivative method's time grows with the cube: its largest size with the cube's root.
    most = LARGEST_COUPLED * scale ** (1 / 3)
    coupled = sorted({max(8, int(most * 4.0**-k)) for k in range(5)})
    return [
        *(Case(f"n = {n:,}", "growth", Unjudged(n), x=n, leave_out=_too_large(n)) for n in sizes),
        *(Case(f"features = {n:,}", "growth of regressions", Unjudged(n), x=n) for n in coupled),
    ]


def _too_large(size: int) -> dict[str, str]:
    if size <= LARGEST_LBFGS:
        return {}
    return {"jaxdescent: LBFGS()": f"its 26 vectors take {26 * 4 * size / 1e9:.0f} GB"}


SUITE = Suite(
    "growth",
    "Growth",
    cases,
    everyday_scale=0.25,
    repeats=5,
    limit=30,
    whole_limit=600,
    is_side_by_side=True,
    is_everyday=False,
    remark="Seconds of one iteration, and the memory of a run beyond what was in use before it. "
    "The function is the chained Rosenbrock function where no other is named, its start donated; "
    "the regressions have twice as many rows as features. Exponents are the "
    "median over repeats, each with one run of each size, of params of twice the last-level cache "
    "and more; those of memory are fitted to the most of all repeats.",
)
