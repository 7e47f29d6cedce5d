"""2: the gradient of dense least squares, as a fraction of the limit of reading X once."""

from benchmarks.harness.case import Case, Suite, scaled
from benchmarks.problems.regression import Gradient

SIZES = ((131072, 4096), (65536, 8192), (16384, 32768), (1024, 524288))
BARS = {"float32": 1e-4, "bfloat16": 2e-2}


def cases(scale: float) -> list[Case]:
    root = scale**0.5
    found = []
    for dtype, bar in BARS.items():
        for rows, features in SIZES:
            n, p = scaled(rows, root), scaled(features, root)
            nbytes = n * p * (4 if dtype == "float32" else 2)
            found.append(
                Case(
                    f"{rows}x{features} {dtype}",
                    "gradient",
                    Gradient(n, p, dtype),
                    bar=bar,
                    figures={"bytes": nbytes, "rows": n, "features": p},
                )
            )
    return found


SUITE = Suite(
    "gradient",
    "Gradient of dense least squares",
    cases,
    everyday_scale=0.0625,
    repeats=7,
    limit=20,
    whole_limit=60,
    fresh=False,
    dtype="float32, bfloat16",
    remark="X'(Xw - y). The limit is one reading of X at the bandwidth measured in the same run.",
)
