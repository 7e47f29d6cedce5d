"""Which problems go to which methods, eager and under jit."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxdescent as jd
from benchmarks.studies.claims import functions, regressions
from benchmarks.studies.claims.judge import Claim, judged

SPECTRA = (
    *regressions.KINDS,
    "flat target, geometric 1e2",
    "flat target, two clusters",
    "faint target, geometric 1e4",
    "faint target, two clusters",
)
MODES = "eager", "jit"
FEW = "default", "LSMR", "ConjugateGradient"


@functools.cache
def methods() -> dict[str, Any]:
    """Methods of regressions; of functions those that take any."""
    descent = jd.GradientDescent
    return {
        "default": None,
        "LSMR": jd.LSMR(),
        "ConjugateGradient": jd.ConjugateGradient(),
        "ConjugateGradient(Jacobi)": jd.ConjugateGradient(jd.Jacobi()),
        "LBFGS": jd.LBFGS(),
        "DerivativeMethod": jd.DerivativeMethod(),
        "LSMR(Sketch)": jd.LSMR(jd.Sketch()),
        "Gram(ConjugateGradient)": jd.Gram(jd.ConjugateGradient()),
        "LSMR(Jacobi)": jd.LSMR(jd.Jacobi()),
        "ConjugateGradient(Nystrom)": jd.ConjugateGradient(jd.Nystrom(16)),
        "Gram": jd.Gram(),
        "LevenbergMarquardt": jd.LevenbergMarquardt(),
        "Backtracking": descent(),
        "BarzilaiBorwein": descent(jd.BarzilaiBorwein()),
        "Nesterov": descent(jd.InverseLipschitz(), momentum=jd.Nesterov()),
        "adam": optax.adam(0.1),
    }


OF_FUNCTIONS = (
    "default",
    "LBFGS",
    "ConjugateGradient",
    "DerivativeMethod",
    "LevenbergMarquardt",
    "Backtracking",
    "BarzilaiBorwein",
    "adam",
)


class Group(NamedTuple):
    """Problems, each drawn when its turn comes, for the same methods and modes."""

    name: str
    draws: list[Callable[[], Any]]
    methods: Sequence[str]
    modes: Sequence[str]


def groups(*, is_full: bool, seeds: int) -> list[Group]:
    """Every problem with the methods and modes that minimise it."""
    every, drawn, modes = list(methods()), range(seeds), MODES[: 1 + is_full]
    draw = functools.partial

    def dense(rows: int, features: int, kinds: Sequence[str]) -> list[Callable[[], Any]]:
        of = regressions.dense
        return [draw(of, kind, rows, features, seed) for kind in kinds for seed in drawn]

    small = dense(1500, 100, SPECTRA)
    small += [draw(regressions.dense, "geometric 1e3", 1500, 100, seed, 1e-4) for seed in drawn]
    faint = "faint target, two clusters"
    clusters = [draw(regressions.dense, faint, 4000, 600, seed) for seed in range(3 * seeds)]
    medium = dense(4000, 600, SPECTRA if is_full else ["one tiny", "two clusters"])
    large = dense(20_000, 200, [faint, "geometric 1e3"])
    free = draw(regressions.matrix_free, "geometric 1e2", 1500, 100)
    structured = {
        "sparse": draw(regressions.sparse, 3000, 400),
        "categorical": draw(regressions.categorical, 3000, 60),
        "matrix-free": free,
    }
    found = [
        Group("1,500 x 100", small, every if is_full else every[:6], MODES),
        Group("4,000 x 600", clusters + medium, every if is_full else FEW, modes),
        Group("20,000 x 200", large, FEW if is_full else FEW[:1], modes),
    ]
    chosen = every if is_full else ["default", "LSMR", "ConjugateGradient(Jacobi)"]
    for name, drawing in structured.items():
        draws = [draw(drawing, seed) for seed in range(3 * seeds)]
        found.append(Group(name, draws, chosen, modes))
    chosen = OF_FUNCTIONS if is_full else OF_FUNCTIONS[:3]
    for unknowns in (200, 600, 2000) if is_full else (192,):
        for kind, (_, is_fit, _) in functions.FUNCTIONS.items():
            draws = [draw(functions.drawn, kind, unknowns, seed) for seed in drawn]
            found.append(Group("functions", draws, chosen, MODES))
            if is_fit and not is_full:
                found.append(Group("functions", draws, ["LevenbergMarquardt"], MODES[:1]))
    return found


def claims(
    *, is_full: bool = False, seeds: int = 1, only: str = ""
) -> Iterator[tuple[Claim | None, str]]:
    """Each claim with the run's words, None where the method does not take the problem."""
    for group in groups(is_full=is_full, seeds=seeds):
        for draw in group.draws:
            problem = draw()
            for mode, method in itertools.product(group.modes, group.methods):
                words = f"{problem.name}: {method}, {mode}"
                if only not in words:
                    continue
                solve = functools.partial(_solved, problem, method, mode)
                try:
                    yield judged(group.name, problem, method, mode, solve), words
                except (TypeError, ValueError) as error:
                    yield None, f"{words}: {str(error).splitlines()[0]}"


def _solved(problem: Any, method: str, mode: str) -> Any:
    objective = problem.objective()
    if isinstance(problem, functions.DrawnFunction):
        data = tuple(jnp.asarray(array) for array in problem.data)
        start = jnp.asarray(problem.start)
        if mode == "jit":
            return _compiled(method, problem.function, problem.is_fit)(start, data)
        return _end(jd.minimize(objective, start, methods()[method], args=data))
    if mode == "jit":
        return _compiled(method)(objective)
    return _end(jd.minimize(objective, None, methods()[method]))


@functools.cache
def _compiled(method: str, function: Any = None, is_fit: bool = False) -> Any:
    chosen = methods()[method]
    if function is None:
        return jax.jit(lambda objective: _end(jd.minimize(objective, None, chosen)))
    objective = jd.LeastSquares(function) if is_fit else function
    return jax.jit(lambda start, data: _end(jd.minimize(objective, start, chosen, args=data)))


def _end(result: Any) -> Any:
    """What is judged."""
    return (
        result.params,
        result.status,
        result.evidence,
        result.iterations,
        result.suboptimality,
    )
