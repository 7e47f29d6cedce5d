"""Whether what is said is true and what is true is said: random regressions, random starts of
functions of few unknowns, and fits of curves to random data, many of which have no minimum.

The minimum of a regression is NumPy's in float64, at the numbers as they are. What a function may
still fall by is what SciPy's BFGS and L-BFGS-B find from the end, in float64 with JAX's gradients.
Of a descent from a random start:

- *false* is CONVERGED at a point whose value is above the minimum (nearby) by more than ten times
  what the tolerance allows, or that ``jd.certify`` calls not stationary, or with an infinite
  suboptimality;
- *timid* is STAGNATED at a point whose value is within 1e-6 of the minimum, relative to it; of a
  function by half the squared Newton decrement too, in float64 at a Hessian without a zero or
  negative eigenvalue, which a valley to infinity has.

What the tolerance allows is ``t max(|f|, eps F)``, as in docs/stopping.md: F is the value of the
best constant model, or half of ``sum_ij |x_i H_ij x_j|``.
"""

from __future__ import annotations

import collections
import functools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import jaxdescent as jd
from benchmarks.problems.classical import himmelblau, rosenbrock
from benchmarks.studies.convergence import tables
from benchmarks.studies.convergence.runs import DTYPES

SHAPES = (60, 7), (12, 40), (300, 30)
REGRESSIONS, FUNCTIONS, FITS = 500, 300, 200
"""Of each dtype."""

FACTOR, SOLVED, SURE = 10.0, 1e-6, 1e-10


def methods() -> dict[str, Any]:
    """What regressions, and functions, are minimised by in turn."""
    return {
        "default": None,
        "LSMR": jd.LSMR(),
        "ConjugateGradient": jd.ConjugateGradient(),
        "LBFGS": jd.LBFGS(),
        "Gram": jd.Gram(),
        "LSMR(Sketch)": jd.LSMR(jd.Sketch()),
        "GradientDescent": jd.GradientDescent(),
    }


@functools.cache
def functions() -> dict[str, tuple[Any, int, float]]:
    """Functions of a vector, their unknowns, and how far from zero they begin."""

    def beale(p: Any) -> Any:
        x, y = p[0], p[1]
        return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2

    def powell(p: Any) -> Any:
        a, b, c, d = p[0], p[1], p[2], p[3]
        return (a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4

    def logistic(p: Any) -> Any:
        x = jnp.linspace(-2.0, 2.0, 24).astype(p.dtype)
        rows = jnp.stack([jnp.ones_like(x), x, jnp.sin(3 * x)], axis=1)
        labels = jnp.sign(jnp.cos(5 * x))
        return jnp.mean(jnp.logaddexp(0, -labels * (rows @ p))) + 1e-3 * jnp.sum(p**2)

    def growth(p: Any) -> Any:
        x = jnp.arange(1.0, 13.0).astype(p.dtype)
        seen = 20 * (1 - jnp.exp(-0.3 * x)) + jnp.cos(7 * x)
        return jnp.sum((p[0] * (1 - jnp.exp(-p[1] * x)) - seen) ** 2)

    def valley(p: Any) -> Any:
        return 1e6 * (p[1] - jnp.sin(p[0])) ** 2 + jnp.log1p((p[0] - 1) ** 2) + 3

    def quartic(p: Any) -> Any:
        return jnp.sum((p - jnp.arange(1.0, 1.0 + p.size).astype(p.dtype)) ** 4)

    return {
        "beale": (beale, 2, 6.0),
        "himmelblau": (himmelblau, 2, 6.0),
        "rosenbrock": (rosenbrock, 6, 2.0),
        "powell": (powell, 4, 4.0),
        "logistic": (logistic, 3, 3.0),
        "growth": (growth, 2, 3.0),
        "valley": (valley, 2, 4.0),
        "quartic": (quartic, 3, 3.0),
    }


@functools.cache
def fits() -> dict[str, tuple[Any, int]]:
    """Sums of squares of curves less targets, functions of a vector and the targets, and their
    unknowns.
    """
    curves = {
        "decay": (lambda p, t: p[0] * jnp.exp(-(p[1] ** 2) * t) + p[2], 3),
        "two decays": (
            lambda p, t: p[0] * jnp.exp(-(p[1] ** 2) * t) + p[2] * jnp.exp(-(p[3] ** 2) * t),
            4,
        ),
        "ratio": (lambda p, t: (p[0] + p[1] * t) / (1 + p[2] ** 2 * t), 3),
        "power": (lambda p, t: p[0] * (1 + t) ** p[1], 2),
        "wave": (lambda p, t: p[0] * jnp.sin(p[1] * t + p[2]), 3),
    }

    def squares(curve: Any, p: Any, y: Any) -> Any:
        return jnp.sum(jnp.square(curve(p, _times(p.dtype)) - y.astype(p.dtype)))

    return {
        f"fit of a {name}": (functools.partial(squares, curve), unknowns)
        for name, (curve, unknowns) in curves.items()
    }


def _times(dtype: Any) -> Any:
    return jnp.linspace(0.0, 3.0, 30).astype(dtype)


def truth(dtypes: list[str], method: str | None) -> Iterator[dict[str, Any]]:
    """A record for each descent."""
    chosen = {method: methods()[method]} if method else methods()
    for dtype in dtypes:
        with jax.enable_x64(dtype == "float64"):
            for seed in range(REGRESSIONS):
                yield _of_regression(seed, DTYPES[dtype], chosen)
            for seed in range(FUNCTIONS):
                yield _of_function(seed, DTYPES[dtype], chosen)
            for seed in range(FITS if "default" in chosen else 0):
                yield _of_fit(seed, DTYPES[dtype])


def _of_regression(seed: int, dtype: Any, chosen: dict[str, Any]) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    name = list(chosen)[seed % len(chosen)]
    rows, features = SHAPES[seed % 3]
    l2 = 0.0 if rows > features and rng.random() < 0.5 else 10 ** rng.uniform(-3, 1)
    spread = 10 ** rng.uniform(0, 2)
    X = rng.normal(size=(rows, features)) * spread ** rng.uniform(-1, 1, size=features)
    X = (X + rng.choice([0, 0, 10]) * spread).astype(dtype)
    noise, far = 10 ** rng.uniform(-3, 1), rng.choice([0, 0, 1, 1e3])
    y = (X @ rng.normal(size=features) + noise * rng.normal(size=rows) + far).astype(dtype)
    result = jd.minimize(jd.LinearRegression(X, y, l2=l2), method=chosen[name])
    wide, targets = np.asarray(X, np.float64), np.asarray(y, np.float64)
    centred, left = wide - wide.mean(axis=0), targets - targets.mean()
    below = np.vstack([centred, np.sqrt(l2) * np.eye(features)])
    best = np.linalg.lstsq(below, np.append(left, np.zeros(features)))[0]

    def value(weights: Any, offset: Any) -> float:
        off = wide @ weights + offset - targets
        return 0.5 * float(off @ off + l2 * weights @ weights)

    least = value(best, targets.mean() - wide.mean(axis=0) @ best)
    weights = np.asarray(result.params["weights"], np.float64)
    above = value(weights, float(result.params["intercept"])) - least
    constant = 0.5 * float(left @ left)
    return _record(result, (f"{rows} x {features}", name, dtype), above, least, constant)


def _of_function(seed: int, dtype: Any, chosen: dict[str, Any]) -> dict[str, Any]:
    rng = np.random.default_rng(10_000 + seed)
    all_functions = functions()
    case = list(all_functions)[seed % len(all_functions)]
    function, unknowns, reach = all_functions[case]
    names = [name for name in ("default", "GradientDescent") if name in chosen]
    if not names:
        return {}
    name = names[seed // len(all_functions) % len(names)]
    start = rng.uniform(-reach, reach, size=unknowns).astype(dtype)
    return _of_descent((case, name, dtype), function, start, chosen[name])


def _of_fit(seed: int, dtype: Any) -> dict[str, Any]:
    rng = np.random.default_rng(20_000 + seed)
    case = list(fits())[seed % len(fits())]
    function, unknowns = fits()[case]
    curve = function.args[0]
    noise = 10 ** rng.uniform(-3, 0.5) * rng.normal(size=30)
    y = (np.asarray(curve(rng.normal(size=unknowns), _times(float))) + noise).astype(dtype)
    start = rng.normal(size=unknowns).astype(dtype)
    return _of_descent((case, "default", dtype), function, start, None, jnp.asarray(y))


def _of_descent(
    case: tuple[str, str, Any], function: Any, start: Any, method: Any, *args: Any
) -> dict[str, Any]:
    """The record of a descent on a function, which also takes ``args``."""
    result = jd.minimize(function, start, method=method, args=args)
    certified = ""
    if int(result.status) == jd.Status.CONVERGED.value:
        certified = jd.certify(function, result, args=args).kind
    with jax.enable_x64(True):
        own, curved = _in_double(function)

        def at(p: Any) -> tuple[float, Any]:
            value, slope = own(jnp.asarray(p, jnp.float64), *args)
            return float(value), np.asarray(slope)

        end = np.asarray(result.params, np.float64)
        value = at(end)[0]
        least = value
        if np.isfinite(value):
            for way in ("BFGS", "L-BFGS-B"):
                found = scipy.optimize.minimize(at, end, jac=True, method=way)
                least = min(least, float(found.fun) if np.isfinite(found.fun) else least)
        slope, matrix = at(end)[1], np.asarray(curved(end, *args))
    worth = 0.5 * float(np.abs(end) @ np.abs(matrix) @ np.abs(end))
    record = _record(result, case, value - least, least, worth)
    return record | {"certified": certified, "decrement": _decrement(slope, matrix)}


def _decrement(slope: np.ndarray, matrix: np.ndarray) -> float:
    """Half the squared Newton decrement at a proper minimum, infinity elsewhere."""
    if not np.all(np.isfinite(matrix)):
        return np.inf
    values, vectors = np.linalg.eigh(matrix)
    if not values[0] > SURE * values[-1]:
        return np.inf
    return 0.5 * float(np.sum((vectors.T @ slope) ** 2 / values))


@functools.cache
def _in_double(function: Any) -> Any:
    return jax.jit(jax.value_and_grad(function)), jax.jit(jax.hessian(function))


def _record(
    result: jd.Result, case: tuple[str, str, Any], above: float, least: float, worth: float
) -> dict[str, Any]:
    name, method, dtype = case
    eps = float(np.finfo(dtype).eps)
    return {
        "part": "truth",
        "case": name,
        "method": method,
        "dtype": np.dtype(dtype).name,
        "status": jd.Status(int(result.status)).name,
        "above": above,
        "least": least,
        "allowed": eps ** (2 / 3) * max(abs(least), eps * worth),
        "said": float(result.suboptimality),
    }


def is_false(record: dict[str, Any]) -> bool:
    if record["status"] != "CONVERGED":
        return False
    is_above = not record["above"] <= FACTOR * record["allowed"]
    return is_above or record.get("certified") == "not stationary" or not record["said"] < np.inf


def is_timid(record: dict[str, Any]) -> bool:
    left = max(record["above"], record.get("decrement", 0.0))
    return record["status"] == "STAGNATED" and left <= SOLVED * abs(record["least"])


def print_truth(found: list[dict[str, Any]]) -> None:
    """A table of counts, and the worst of what is false or timid."""
    records = [each for each in found if each.get("part") == "truth"]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = collections.defaultdict(list)
    for each in records:
        groups[each["case"], each["dtype"], each["method"]].append(each)
    heads = ["problem", "dtype", "method", "descents", "CONVERGED", "false", "timid"]
    rows = []
    for key, own in sorted(groups.items()):
        claimed = sum(each["status"] == "CONVERGED" for each in own)
        counts = len(own), claimed, sum(map(is_false, own)), sum(map(is_timid, own))
        rows.append([*key, *counts])
    total = len(records), *(sum(row[k] for row in rows) for k in (4, 5, 6))
    print(tables.markdown(heads, [*rows, ["all", "", "", *total]]))
    for each in records:
        if is_false(each) or is_timid(each):
            print(each, file=sys.stderr)
