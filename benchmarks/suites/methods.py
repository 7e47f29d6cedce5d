"""Every method on five problems: which method when."""

from benchmarks.harness.case import Case, Suite, scaled
from benchmarks.problems.classification import Classification
from benchmarks.problems.regression import Regression
from benchmarks.suites.regressions import BAR, LADDER, NEEDS_SQUARE

DOUBLE = {"JAX_ENABLE_X64": "1"}
DOUBLE_BAR, DOUBLE_LADDER = 1e-12, tuple(10.0**-k for k in range(1, 16))

BACKWARD_ERROR = 1e-6
FINE_LADDER = tuple(10.0 ** (-k / 4) for k in range(12, 33))
"""Quarters of a decade: who is asked for the same backward error shall not be given a tenth."""

STEP_TOLERANCE = 1e-6


def cases(scale: float) -> list[Case]:
    def size(n: int) -> int:
        return scaled(n, scale**0.5)

    tall = size(65536), size(1024)
    problems = {
        "well-conditioned tall": Regression(*tall),
        "ill-conditioned tall": Regression(*tall, condition=1e5),
        "square": Regression(size(2048), size(2048), condition=1e2, l2=1e-2),
        "fat": Regression(size(512), size(65536), l2=1e3),
    }
    return [
        *(
            _case(name, "descents", problem, _left_out(problem))
            for name, problem in problems.items()
        ),
        _case("non-quadratic", "classification", Classification(size(65536), size(512)), {}),
        Case(
            "ill-conditioned tall, float64",
            "descents",
            Regression(*tall, condition=1e5, dtype="float64"),
            bar=DOUBLE_BAR,
            ladder=DOUBLE_LADDER,
            only=("default", "DerivativeMethod", "LSMR", "lsmr", "lsqr", "scikit-learn", "CG"),
            is_counted=True,
            environment=DOUBLE,
            figures={"rows": tall[0], "features": tall[1]},
        ),
        Case(
            "tall, same backward error",
            "descents",
            Regression(size(131072), size(4096), is_judged_by_gradient=True),
            bar=BACKWARD_ERROR,
            ladder=FINE_LADDER,
            only=("default", "LSMR()", "lsmr", "lsqr", "LinearRegression"),
            limit=120,
            is_counted=True,
            figures={"rows": size(131072), "features": size(4096)},
        ),
        Case(
            "step rules at condition 1e4",
            "step rules",
            # Of the Hessian: that of X squared.
            Regression(2048, 128, condition=1e2, dtype="float64"),
            ladder=(STEP_TOLERANCE,),
            is_counted=True,
            environment=DOUBLE,
            figures={"rows": 2048, "features": 128},
        ),
    ]


def _case(
    name: str, work: str, problem: Regression | Classification, leave_out: dict[str, str]
) -> Case:
    return Case(
        name,
        work,
        problem,
        bar=BAR,
        ladder=LADDER,
        leave_out=leave_out,
        is_counted=True,
        figures={"rows": problem.rows, "features": problem.features},
    )


def _left_out(problem: Regression) -> dict[str, str]:
    tall = "LSMR(Sketch())", "ConjugateGradient(Sketch())"
    found = {}
    if problem.rows < 4 * problem.features:
        found |= {f"jaxdescent: {method}": "a sketch is for tall X" for method in tall}
    if problem.features > NEEDS_SQUARE:
        reason = f"needs a square matrix of {problem.features:,} features"
        found |= {"jaxdescent: Gram(ConjugateGradient())": reason, "NumPy: lstsq": reason}
    return found


SUITE = Suite(
    "methods",
    "Which method when",
    cases,
    everyday_scale=0.05,
    repeats=3,
    limit=5,
    whole_limit=30,
    fresh=False,
    dtype="float32, where nothing else is said",
    is_everyday=False,
    remark="Every method on the same problems to a relative suboptimality of 1e-6; a method that "
    "is not made for a problem may not reach it. Passes are readings of X, products with it and "
    "with its transpose, counted in a run of their own; empty where nobody can count them. "
    "The non-quadratic problem is a logistic regression. Float64: to 1e-12. Same backward error: "
    "|X'r| at most 1e-6 |X| |r|, tolerances by quarters of a decade. Step rules: until the "
    "gradient is 1e-6 of its first.",
)
