"""A picture of a fit: predicted against observed, and residuals, on a sample of the rows; and how
the fit went.
"""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jaxdescent.data import Source, located, read_ahead
from jaxdescent.data.protocol import unchanged
from jaxdescent.fit.budget import Memory, reading_of
from jaxdescent.fit.dates import with_columns
from jaxdescent.fit.model import Model
from jaxdescent.fit.report import Course
from jaxdescent.fit.roles import Roles
from jaxdescent.fit.rows import is_held_out, prepared
from jaxdescent.kernels.memory import resident_bytes
from jaxdescent.rows.errors import save_picture

POINTS = 4000
"""About how many rows a picture shows."""

SAMPLE_SEED = 2**62
"""The seed of the sample, apart from the seeds by which rows are held out."""

TRAIN_COLOR, TEST_COLOR, LINE_COLOR = "#4878a8", "#d1622b", "#444444"


class Sample(NamedTuple):
    """Observed and predicted targets of a sample of rows, and which rows were held out."""

    observed: np.ndarray
    predicted: np.ndarray
    is_test: np.ndarray


def sample_of(model: Model, source: Source, memory: Memory) -> Sample:
    """Some rows, chosen by a hash of their number, in one more pass."""
    options, encoding = model.options, model.encoding
    roles = Roles(model.target, None, encoding)
    source = with_columns(source, dict(model.dates), encoding.columns, encoding.labelled)
    held_out = {"share": options["test"], "seed": options["seed"]}
    parts = [model.metrics[part] for part in ("train", "held_out")]
    share = min(POINTS / sum(part["rows"] for part in parts if part), 1.0)
    plan = reading_of([source], roles.columns, 64, memory.limit - resident_bytes())
    found: list[tuple[Any, ...]] = []
    with unchanged([source], "fit again"):
        for block in read_ahead(lambda: located(source, roles.columns, plan.at_once)):
            rows = prepared(block, roles, options["missing"], **held_out)
            chosen = is_held_out(block.start, block.rows, share, SAMPLE_SEED)[rows.kept]
            predicted = encoding.product(rows.encoded, model.weights) + model.intercept
            found.append((rows.target[chosen], predicted[chosen], rows.is_test[chosen]))
            memory.check()
    return Sample(*map(np.concatenate, zip(*found, strict=True)))


def draw(sample: Sample, target: str, path: pathlib.Path, course: Course | None = None) -> None:
    """Write the picture: with the search for a penalty, or else with the iterations, if there were
    some.
    """
    has_course = course is not None and (course.path is not None or len(course.values) > 1)
    figure = Figure(figsize=(15 if has_course else 10, 4.6), dpi=130, layout="constrained")
    left, right, *further = figure.subplots(1, 2 + has_course)
    if course is not None and has_course:
        (draw_path if course.path is not None else draw_convergence)(further[0], course)
    residual = sample.observed - sample.predicted
    for is_test, color, label in (
        (False, TRAIN_COLOR, "training rows"),
        (True, TEST_COLOR, "held-out rows"),
    ):
        own = sample.is_test == is_test
        if own.any():
            style = {"s": 6, "alpha": 0.5, "linewidths": 0, "color": color, "label": label}
            left.scatter(sample.predicted[own], sample.observed[own], **style)
            right.scatter(sample.predicted[own], residual[own], **style)
    # The diagonal spans the range of the points, whatever the limits of the axes are.
    ends = [min(sample.predicted.min(), sample.observed.min()),
            max(sample.predicted.max(), sample.observed.max())]  # fmt: skip
    left.plot(ends, ends, color=LINE_COLOR, linewidth=1)
    right.axhline(0, color=LINE_COLOR, linewidth=1)
    left.set(title="Predicted and observed", xlabel="predicted", ylabel=target)
    right.set(title="Residuals", xlabel="predicted", ylabel=f"{target} less predicted")
    for axes in (left, right, *further):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    left.legend(markerscale=2.5, frameon=False, loc="upper left")
    figure.suptitle(f"{target}: {sample.observed.size:,} rows of the data")
    save_picture(figure, path)


def draw_convergence(axes: Any, course: Course) -> None:
    """How far the value is above the minimum by iteration, and how far it was estimated to be."""
    values, above = np.asarray(course.values), np.asarray(course.above)
    steps = np.arange(values.size)
    # The last value is above the minimum too, by its estimated suboptimality.
    least = values.min() - (above[-1] if np.isfinite(above[-1]) else 0.0)
    left = values - least
    axes.plot(steps[left > 0], left[left > 0], color=TRAIN_COLOR, label="above the minimum")
    known = np.isfinite(above) & (above > 0)
    if known.any():
        style = {"color": TEST_COLOR, "linewidth": 1, "linestyle": "--"}
        axes.plot(steps[known], above[known], label="estimated then", **style)
    axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title="Convergence", xlabel="iteration", ylabel="value less minimum")
    axes.legend(frameon=False)


def draw_path(axes: Any, course: Course) -> None:
    """The score of each penalty."""
    assert course.path is not None
    penalties, scores, best = course.path
    finite = np.isfinite(scores)
    axes.plot(penalties[finite], scores[finite], color=TRAIN_COLOR, marker=".", markersize=4)
    axes.axvline(penalties[best], color=TEST_COLOR, linewidth=1)
    axes.set_xscale("log")
    axes.set(title="Search for l2", xlabel="l2", ylabel="score: the less the better")
