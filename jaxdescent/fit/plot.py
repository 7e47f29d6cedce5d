"""A picture of a fit: predicted and observed targets of a sample of rows, and how the fit went."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxdescent.fit.memory import Memory
from jaxdescent.fit.model import Model
from jaxdescent.fit.report import Course
from jaxdescent.fit.rows import is_held_out
from jaxdescent.rows import Source
from jaxdescent.rows.errors import save_picture

POINTS = 4000
"""About how many rows a picture shows."""

SAMPLE_SEED = 2**62
"""The seed of the sample, apart from the seeds by which rows are held out."""


def draw(model: Model, source: Source, memory: Memory, path: pathlib.Path, course: Course) -> None:
    """Write the picture, for which the rows are read once more."""
    rows = sum(part["rows"] for part in map(model.metrics.get, ("train", "held_out")) if part)
    kept: tuple[str, ...] = (model.target,)
    points = list[np.ndarray]()
    start = 0
    for part in model.predictions(source, missing="keep", unseen="zero", memory=memory, keep=kept):
        count = len(part.values)
        chosen = is_held_out(start, count, POINTS / rows, SAMPLE_SEED)
        out = is_held_out(start, count, model.options["test"], model.options["seed"])
        observed = np.asarray(part.kept[model.target].to_numpy(), np.float64)
        start += count
        points.append(np.stack([part.values, observed, out])[:, chosen])
    found = np.concatenate(points, axis=1)
    predicted, observed, out = found[:, np.isfinite(found).all(axis=0)]
    panels = 2 + (course.path is not None or len(course.values) > 1)
    figure = Figure(figsize=(5 * panels, 4.6), dpi=130, layout="constrained")
    axes: Any = figure.subplots(1, panels)
    for is_out, label in ((0, "training rows"), (1, "held-out rows")):
        x, y = predicted[out == is_out], observed[out == is_out]
        axes[0].plot(x, y, ".", markersize=3, alpha=0.5, label=label)
        axes[1].plot(x, y - x, ".", markersize=3, alpha=0.5)
    axes[0].axline((predicted[0], predicted[0]), slope=1, color="#444444")
    axes[1].axhline(0, color="#444444")
    axes[0].set(title="Predicted and observed", xlabel="predicted", ylabel=model.target)
    axes[1].set(title="Residuals", xlabel="predicted", ylabel="observed less predicted")
    axes[0].legend()
    if course.path is not None:
        axes[2].semilogx(course.path[0], course.path[1], ".-")
        axes[2].set(title="Search for l2", xlabel="l2", ylabel="score: the less the better")
    elif panels > 2:
        axes[2].semilogy(np.array(course.values) - min(course.values) + (course.above[-1] or 0))
        axes[2].set(title="Convergence", xlabel="chunk of iterations", ylabel="value less minimum")
    save_picture(figure, path)
