"""Every method of jaxdescent on four regressions: which method when."""

import dataclasses

from benchmarks.case import Case, Suite, scaled
from benchmarks.problems.regression import Regression
from benchmarks.suites.regressions import BAR, LADDER


def cases(scale: float) -> list[Case]:
    def size(n: int) -> int:
        return scaled(n, scale**0.5)

    problems = {
        "well-conditioned tall": Regression(size(65536), size(1024)),
        "ill-conditioned tall": Regression(size(65536), size(1024), condition=1e5),
        "square": Regression(size(2048), size(2048), condition=1e2, l2=1e-2),
        "fat": Regression(size(512), size(65536), l2=1e3),
    }
    case = Case("", "descents", problems["square"], bar=BAR, ladder=LADDER, only=("jaxdescent:",))
    return [
        dataclasses.replace(case, name=name, problem=problem) for name, problem in problems.items()
    ]


SUITE = Suite(
    "methods",
    "Which method when",
    cases,
    everyday_scale=0.05,
    repeats=3,
    limit=5,
    whole_limit=60,
    fresh=False,
    is_everyday=False,
    remark="Every method on the same regressions to a relative suboptimality of 1e-6; a method "
    "that is not made for a problem may not reach it.",
)
