"""8: the classical test functions, in 2 to 1e6 dimensions."""

import numpy as np

from benchmarks.harness.case import Case, Suite
from benchmarks.problems.functions import Function

BAR = 1e-6
LADDER = tuple(10.0**-k for k in range(1, 8))
LARGEST = 1_000_000

EVERY_ONE = 0.5
"""Below this scale only every fourth of the small functions: each is a compilation a contender."""


def cases(scale: float) -> list[Case]:
    # It imports JAX, which a contender without JAX must not find in its process.
    from benchmarks.problems import classical

    largest = max(20_000, 4 * int(LARGEST * scale / 4))
    pair, four = [-1.2, 1.0], [3.0, -1.0, 0.0, 1.0]
    large = [
        ("extended rosenbrock", classical.extended_rosenbrock, np.tile(pair, largest // 2), 0.0),
        ("powell singular", classical.powell_singular, np.tile(four, largest // 4), 0.0),
        ("broyden tridiagonal", classical.broyden_tridiagonal, np.full(largest, -1.0), 0.0),
        ("quartic", classical.quartic, np.linspace(-3, 5, largest), 0.0),
        ("cosh", classical.cosh, np.linspace(-3, 4, largest), float(largest)),
    ]
    problems = [
        Function(each.name, each.function, each.start, each.minimum)
        for each in classical.problems()[:: 1 if scale >= EVERY_ONE else 4]
    ]
    problems += [
        Function(f"{name} {largest}", function, start, minimum)
        for name, function, start, minimum in large
    ]
    return [
        Case(each.name, "function", each, bar=BAR, ladder=LADDER, x=each.start.size)
        for each in problems
    ]


SUITE = Suite(
    "functions",
    "Generic minimisation",
    cases,
    everyday_scale=0.1,
    repeats=3,
    limit=5,
    whole_limit=60,
    fresh=False,
    dtype="float32, SciPy float64",
    remark="Until 1e-6 of the way down is left, f - f* <= 1e-6 (f0 - f*), judged in float64. JAX's "
    "minimisers run in float32; SciPy's in float64, on jitted values and gradients.",
)
