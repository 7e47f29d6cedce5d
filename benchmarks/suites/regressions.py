"""3: time to a relative suboptimality of 1e-6."""

from benchmarks.harness import records
from benchmarks.harness.case import Case, Suite, scaled
from benchmarks.problems.regression import Regression

BAR = 1e-6
LADDER = tuple(10.0**-k for k in range(1, 9))
SLOW = 2.5
"""Times the fastest: peers who took longer at the everyday size are left out of the whole one."""

OURS_SLOW = 10.0
"""The same of our own."""

NEEDS_SQUARE = 16384
"""More features than this: a square matrix of them is left out."""


def cases(scale: float) -> list[Case]:
    def size(n: int) -> int:
        return scaled(n, scale**0.5)

    problems = {
        "dense tall": Regression(size(131072), size(4096)),
        "dense square": Regression(size(12000), size(12000), condition=1e2, l2=1e-2),
        "fat": Regression(size(1000), size(1_000_000), l2=1e3),
        "ill-conditioned tall": Regression(size(65536), size(1024), condition=1e5),
        "ridge path": Regression(size(32768), size(1024), outputs=50, l2=(1e-1, 1e4)),
        "64 outputs": Regression(size(32768), size(1024), outputs=64),
    }
    slow = _slow() if scale == 1 else {}
    return [_case(name, problem, slow.get(name, {})) for name, problem in problems.items()]


def _slow() -> dict[str, dict[str, str]]:
    """By case and contender: why it is spared the whole size."""
    stored = records.stored_file(is_whole=False)
    everyday = records.read(stored) if stored.exists() else []
    found: dict[str, dict[str, str]] = {}
    for case, rows in records.cases(everyday, SUITE).items():
        done = records.measured(rows)
        for row in rows:
            label, seconds = row["contender"], row["seconds"]
            if label.endswith("default") or not done:
                continue
            if seconds is None:
                reason = "of the everyday size: " + (row["reason"] or row["status"])
            elif seconds > (OURS_SLOW if records.is_ours(row) else SLOW) * done[0]["seconds"]:
                ratio = seconds / done[0]["seconds"]
                reason = f"{ratio:.1f} times as slow as the fastest at the everyday size"
            else:
                continue
            found.setdefault(case, {})[label] = reason
    return found


def _case(name: str, problem: Regression, slow: dict[str, str]) -> Case:
    leave_out = dict(slow)
    if problem.rows < 4 * problem.features:
        leave_out["jaxdescent: LSMR(Sketch())"] = "a sketch is for tall X"
    if problem.rows < problem.features:
        leave_out["jaxdescent: Gram()"] = "the Gram form is for more rows than features"
    if problem.features > NEEDS_SQUARE:
        reason = f"needs a square matrix of {problem.features:,} features"
        leave_out["NumPy: lstsq"] = reason
    return Case(
        name,
        "regression",
        problem,
        bar=BAR,
        ladder=LADDER,
        leave_out=leave_out,
        figures={"rows": problem.rows, "features": problem.features},
    )


SUITE = Suite(
    "regressions",
    "Time to a relative suboptimality of 1e-6",
    cases,
    everyday_scale=0.02,
    repeats=3,
    limit=3,
    whole_limit=60,
    remark="Data in float32; the referee's optimum in float64. Each contender runs with the "
    "loosest tolerance of 1e-1, 1e-2, ... with which it passes. At the whole size peers who took "
    f"more than {SLOW:g} times as long as the fastest at the everyday one, or did not get there, "
    "are left out.",
)
