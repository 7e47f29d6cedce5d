"""1: constant-step descent on the parameters of Llama-3-8B, in bfloat16."""

from benchmarks.harness.case import Case, Suite
from benchmarks.problems.separable import Separable

WHOLE = 8_030_261_248
SHARED = 0.15
"""At a larger scale two contenders' processes do not fit beside each other."""


def cases(scale: float) -> list[Case]:
    problem = Separable(None if scale >= 1 else max(4096, int(WHOLE * scale)))
    return [
        Case("sum of x^2", "separable", problem, bar=1.0, one_at_a_time=scale > SHARED),
    ]


SUITE = Suite(
    "eight_billion",
    "Eight billion parameters",
    cases,
    everyday_scale=0.02,
    dtype="bfloat16, arithmetic in float32",
    repeats=2,
    limit=120,
    whole_limit=900,
    remark="Seconds are those of one iteration: jaxdescent runs 1,000, checks at the start and the "
    "end included, its peers 20. The verdict is the largest error against 0.98^k x, over what the "
    "roundings to bfloat16 may add up to.",
)
