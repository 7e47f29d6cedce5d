"""Part 4: regressions on real data, by the derivative method and by descent.

Both data sets come with scikit-learn: the diabetes study of Efron, Hastie, Johnstone and Tibshirani
(2004), "Least angle regression", and the handwritten digits of Alpaydin and Kaynak (1998), UCI
machine learning repository, CC BY 4.0.
"""

from __future__ import annotations

import csv
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown.measure import certified, ended, measure_once
from jaxdescent.breakdown.report import PartReport, busy, said, table_of
from jaxdescent.breakdown.settings import Settings
from jaxdescent.rows.errors import replacing, writing

OPTIONS = {"tolerance": 1e-6, "max_iterations": 20_000}
HELD_OUT_SHARE = 0.2
SHOWN_ROWS = 4

METHODS = {
    "derivative_method": jd.DerivativeMethod(),
    "descent": jd.GradientDescent(jd.ExactLineSearch()),
}


class Study(NamedTuple):
    """A data set: features, and targets in their own units."""

    name: str
    question: str
    X: np.ndarray
    y: np.ndarray
    l2: float


COMPARISON = {
    "data": "{name}",
    "method": "{by}",
    "R²": "{r2:.4f}",
    "held out": "{r2_held_out:.4f}",
    "steps": "{iterations:,}",
    "time": "{seconds:time}",
    "status": "{status:words}",
}
PREDICTIONS = {
    "observed": "{observed:.1f}",
    "derivative method": "{derivative_method:.1f}",
    "descent": "{descent:.1f}",
}


def run(settings: Settings, console: Console) -> PartReport:
    """Solve the studies by both methods."""
    outcomes = []
    for make in STUDIES[: settings.studies]:
        study = make()
        with busy(console, f"{study.name.lower()}, by both methods"):
            outcomes.append(_solve(study, settings.seed))
    methods = [
        outcome[key] | {"name": outcome["name"], "by": label}
        for outcome in outcomes
        for label, key in (("derivative", "derivative_method"), ("descent", "descent"))
    ]
    first, shown = outcomes[0]["name"], outcomes[0]["shown"]
    predictions = [dict(zip(shown, row, strict=True)) for row in zip(*shown.values(), strict=True)]

    def each(template: str) -> tuple[str, ...]:
        return tuple(said(template, outcome) for outcome in outcomes)

    same = each(
        "{name:words} to {relative_difference:.0e} of the largest weight, R² "
        "{descent[r2_held_out]:.3f} on held-out rows, certified a {certificate_kind}"
    )
    return PartReport(
        shown=(
            *each(
                "{name}: {question} {rows:,} rows to learn from, {held_out_rows:,} held out, "
                "{features} features, {targets}, l2 = {l2:g}."
            ),
            table_of("The same regression by two methods", COMPARISON, methods),
            table_of(f"{first}: predictions for rows held out", PREDICTIONS, predictions),
            *each(
                "{name}: the weights of the two methods differ by at most "
                "{largest_difference:.1e}, the largest weight being {largest_weight:.3g}. "
                "Certificate of descent: {certificate}."
            ),
        ),
        verdict=(f"On real data both methods find the same weights: {'; '.join(same)}.",),
        numbers={"dtype": "float32", "tolerance": OPTIONS["tolerance"], "studies": outcomes},
    )


def write_table(path: pathlib.Path) -> None:
    """Write the diabetes study as CSV: its ten measurements and the target ``progression``."""
    from sklearn.datasets import load_diabetes

    data: Any = load_diabetes(scaled=False)
    with (
        writing(path),
        replacing(path) as new,
        new.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([*data.feature_names, "progression"])
        writer.writerows(np.column_stack([data.data, data.target]).tolist())


def diabetes() -> Study:
    """442 patients: the disease's progression after a year, from ten measurements."""
    from sklearn.datasets import load_diabetes

    data: Any = load_diabetes(scaled=False)
    return Study(
        "Diabetes",
        "How far does the disease progress within a year?",
        data.data,
        data.target,
        l2=0.0,
    )


def digits() -> Study:
    """1,797 handwritten digits of 8 x 8 pixels: the lower half of an image from the upper half."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    pixels = data.data
    return Study(
        "Digits",
        "What does the lower half of a handwritten digit look like, given the upper half?",
        pixels[:, :32],
        pixels[:, 32:],
        l2=1.0,
    )


STUDIES = (diabetes, digits)


def _solve(study: Study, seed: int) -> dict[str, Any]:
    order = np.random.default_rng(seed).permutation(len(study.X))
    held_out, kept = np.split(order, [int(HELD_OUT_SHARE * len(order))])
    mean, spread = study.X[kept].mean(axis=0), study.X[kept].std(axis=0)
    varies = spread > 0  # a pixel that is always blank has no information

    def standardised(rows: np.ndarray) -> jax.Array:
        columns = (study.X[rows] - mean)[:, varies] / spread[varies]
        return jnp.asarray(columns, jnp.float32)

    y = jnp.asarray(study.y, jnp.float32)
    X, X_held_out = standardised(kept), standardised(held_out)
    objective = jd.LinearRegression(X, y[kept], l2=study.l2)
    results, figures = [], {}
    shown = {"observed": y[held_out][:SHOWN_ROWS].tolist()}
    for name, method in METHODS.items():
        solve = functools.partial(jd.minimize, objective, None, method, **OPTIONS)
        first, second = measure_once(solve), measure_once(solve)  # which compiles nothing
        params = second.result.params
        figures[name] = {
            **ended(second.result),
            "seconds": second.seconds,
            "first_call_seconds": first.seconds,
            "r2": r_squared(y[kept], objective.predict(params, X)),
            "r2_held_out": r_squared(y[held_out], objective.predict(params, X_held_out)),
        }
        shown[name] = objective.predict(params, X_held_out[:SHOWN_ROWS]).tolist()
        results.append(second.result)
    solved, descended = results
    difference = float(jnp.max(jnp.abs(solved.params["weights"] - descended.params["weights"])))
    largest = float(jnp.max(jnp.abs(solved.params["weights"])))
    outputs = 1 if y.ndim == 1 else y.shape[1]
    return {
        "name": study.name,
        "question": study.question,
        "rows": len(kept),
        "held_out_rows": len(held_out),
        "features": X.shape[1],
        "outputs": outputs,
        "targets": "1 output" if outputs == 1 else f"{outputs} outputs",
        "l2": study.l2,
        "seed": seed,
        **figures,
        "largest_weight": largest,
        "largest_difference": difference,
        "relative_difference": difference / largest,
        **certified(jd.certify(objective, descended)),
        "weights": solved.params["weights"].tolist() if y.ndim == 1 else None,
        "intercept": solved.params["intercept"].tolist() if y.ndim == 1 else None,
        "shown": shown,
    }


def r_squared(observed: Any, predicted: Any) -> float:
    """``1 - |y - p|^2 / |y - mean(y)|^2``, with both norms over all outputs."""
    observed, predicted = np.asarray(observed, np.float64), np.asarray(predicted, np.float64)
    spread = np.sum((observed - observed.mean(axis=0)) ** 2)
    return float(1 - np.sum((observed - predicted) ** 2) / spread)
