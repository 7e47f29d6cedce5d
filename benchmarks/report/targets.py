"""What jaxdescent sets itself, as ratios of medians of one run."""

from __future__ import annotations

import dataclasses

import numpy as np

from benchmarks.harness.records import Record
from benchmarks.report import figures
from benchmarks.report.figures import Figure


@dataclasses.dataclass(frozen=True)
class Target:
    """One sentence, its bound, and how its figure is read off the records.

    Attributes:
      suite: whose records it reads.
      sentence: what is asked.
      bound: the worst figure that meets it.
      is_at_least: whether larger figures are better.
      figure: None where something it needs was not measured.
      is_whole: asked of the whole size, where a smaller run says little.
    """

    suite: str
    sentence: str
    bound: float
    is_at_least: bool
    figure: Figure
    is_whole: bool = False

    def is_met(self, figure: float) -> bool:
        return figure >= self.bound if self.is_at_least else figure <= self.bound


def evaluated(measured: list[Record]) -> list[tuple[Target, float | None]]:
    """Every target with its figure."""
    return [(target, target.figure(measured)) for target in TARGETS]


def verdict(target: Target, figure: float | None) -> str:
    """In one word."""
    if figure is None:
        return "not measured"
    return "met" if target.is_met(figure) else "missed"


LEAST_SQUARES = ("SciPy: lsmr", "scikit-learn: ", "hand-written JAX: jitted CG")
LOOPS = ("hand-written JAX: jitted", "PyTorch: in place")

TARGETS = (
    Target(
        "eight_billion",
        "8B in the command's own process: times faster an iteration than a jitted, donated step "
        "and any PyTorch form",
        8.0,
        True,
        figures.ratio("eight_billion", "sum of x^2", LOOPS, "jaxdescent: command's flags"),
    ),
    Target(
        "eight_billion",
        "the same through the plain library",
        6.0,
        True,
        figures.ratio("eight_billion", "sum of x^2", LOOPS, "jaxdescent: library"),
    ),
    Target(
        "eight_billion",
        "8B: peak memory over the parameters",
        1.15,
        False,
        figures.peak_over_params,
        is_whole=True,
    ),
    Target(
        "regressions",
        "time to 1e-6: geometric mean of the best peer's time over ours",
        3.0,
        True,
        lambda measured: figures.geometric_mean(figures.regression_ratios(measured)),
    ),
    Target(
        "regressions",
        "the same with the default method alone",
        3.0,
        True,
        lambda measured: figures.geometric_mean(figures.regression_ratios(measured, "default")),
    ),
    Target(
        "regressions",
        "time to 1e-6: the smallest of these ratios",
        0.9,
        True,
        lambda measured: figures.smallest(figures.regression_ratios(measured)),
    ),
    Target(
        "overheads",
        "import over `import jax, optax`",
        1.25,
        False,
        figures.ratio("overheads", "import", ("jaxdescent: import",), "hand-written JAX: import"),
    ),
    Target(
        "overheads",
        "compiled `minimize` of 3 parameters over a hand-written jitted loop",
        1.2,
        False,
        figures.ratio(
            "overheads", "3 parameters, compiled", ("jaxdescent: minimize",), "hand-written JAX:"
        ),
    ),
    Target(
        "overheads",
        "the same inside the caller's own `jit`, which returns as much as the loop: params, value, "
        "norm and count",
        1.2,
        False,
        figures.ratio(
            "overheads",
            "3 parameters, compiled",
            ("jaxdescent: jit of minimize, four",),
            "hand-written JAX:",
        ),
    ),
    Target(
        "overheads",
        "compilation over that loop's",
        1.5,
        False,
        figures.ratio("overheads", "compilation", ("jaxdescent: minimize",), "hand-written JAX:"),
    ),
    Target(
        "overheads",
        "eager calls: bytes that stay, a call",
        1.0,
        False,
        figures.recorded("overheads", "eager calls", "bytes_a_call"),
        is_whole=True,
    ),
    *(
        Target(
            "batches",
            f"batches: the smallest ratio of the time of {whose} to ours",
            15.0,
            True,
            figures.smallest_batch_ratio(is_own_loop=is_own),
        )
        for whose, is_own in (
            ("the fastest Python loop of a peer", False),
            ("a Python loop of our own compiled calls", True),
        )
    ),
    Target(
        "batches",
        "10,000 regressions of 100 x 20: times faster than a NumPy `lstsq` loop",
        15.0,
        True,
        figures.lead(
            "batches", "regressions of 100x20", "jaxdescent: ", "NumPy: Python loop of lstsq"
        ),
    ),
    *(
        Target(
            "functions",
            f"generic minimisation with {method}: area under the performance profile over the "
            "best peer's",
            1.0,
            True,
            figures.profile_lead(method),
        )
        for method in ("default", "default, in a jit of the caller's", "ConjugateGradient()")
    ),
    Target(
        "functions",
        "generic minimisation: how many more functions the default solves than the better of "
        "SciPy's L-BFGS-B and BFGS",
        0,
        True,
        figures.solved_more,
    ),
    Target(
        "functions",
        "gradient evaluations of the default over those of either, in the median",
        1.2,
        False,
        figures.evaluations_ratio,
    ),
    *(
        Target(
            "functions",
            f"up to 1,000 variables: times faster, compiled, than the faster of these, {where}",
            5.0,
            True,
            figures.small_functions_lead(measure),
        )
        for where, measure in (("in the median", np.median), ("on the worst of them", min))
    ),
    *(
        Target(
            "methods",
            f"ill-conditioned tall regression to {bar} in {dtype}: times faster by a sketch than "
            "the best of SciPy's lsmr, scikit-learn and a hand-written jitted CG",
            3.0,
            True,
            figures.lead("methods", case, "jaxdescent: LSMR(Sketch())", *LEAST_SQUARES),
        )
        for bar, dtype, case in (
            ("1e-6", "float32", "ill-conditioned tall"),
            ("1e-12", "float64", "ill-conditioned tall, float64"),
        )
    ),
    *(
        Target(
            "methods",
            f"well-conditioned tall regression to one backward error: times faster than {peer}",
            bound,
            True,
            figures.lead("methods", "tall, same backward error", "jaxdescent: ", peer),
        )
        for peer, bound in (("SciPy: lsmr", 1.0), ("scikit-learn: LinearRegression", 10.0))
    ),
    *(
        Target(
            "methods",
            f"condition number 1e4: times fewer iterations of {name} than of the best constant "
            "step",
            10.0,
            True,
            figures.iterations_ratio(
                "methods", "step rules at condition 1e4", "2 / (L + mu)", word
            ),
        )
        for name, word in (
            ("BarzilaiBorwein", "BarzilaiBorwein()"),
            ("restarted Nesterov", "Nesterov()"),
        )
    ),
)
