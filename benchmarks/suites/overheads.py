"""4: what jaxdescent adds where there is nearly nothing to compute."""

from benchmarks.harness.case import Case, Suite, scaled
from benchmarks.problems.costs import ThreeParameters, Unjudged

CALLS = 1_000_000


def cases(scale: float) -> list[Case]:
    return [
        Case("import", "import", Unjudged()),
        Case("3 parameters, compiled", "three parameters", ThreeParameters(100), bar=1e-4),
        Case("compilation", "compile", ThreeParameters(100), bar=1e-4),
        Case("eager calls", "leak", Unjudged(scaled(CALLS, scale)), repeats=1),
    ]


SUITE = Suite(
    "overheads",
    "Overheads",
    cases,
    everyday_scale=0.01,
    repeats=7,
    limit=600,
    whole_limit=3600,
    remark="Import: in fresh processes, the interpreter's own start not counted. 3 parameters: 100 "
    "steps of plain descent with a check of the gradient each. Compilation: a new function each "
    "time, one compilation and one run of it. Eager calls: seconds a call, and what resident "
    "memory grew by.",
)
