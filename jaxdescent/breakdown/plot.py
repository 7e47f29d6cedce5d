"""A picture of memory and time against the number of unknowns, for both methods."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatterMathtext

from jaxdescent.breakdown.coupled import LLAMA_SIZE
from jaxdescent.breakdown.report import PlottedPoint
from jaxdescent.display import figures
from jaxdescent.display.figures import FAINT, INK
from jaxdescent.display.numbers import YEAR
from jaxdescent.kernels.memory import readable_bytes
from jaxdescent.rows.errors import save_picture

COLOURS = {
    "derivative method, coupled": "#c4411f",
    "descent, coupled": "#1f5fa8",
    "derivative method, separable": "#2e8b57",
    "descent, separable": "#7b4fa3",
    "descent, matrix-free": "#b8860b",
}
OTHER_COLOUR = "#4a4a4a"
SECONDS = {
    1e-6: "1 µs",
    1e-3: "1 ms",
    1.0: "1 s",
    3600.0: "1 hour",
    YEAR: "1 year",
    1e3 * YEAR: "1,000 years",
    1e6 * YEAR: "1 million years",
    1e9 * YEAR: "1 billion years",
    1e12 * YEAR: "10¹² years",
}
BYTES = {1e3**power: readable_bytes(1e3**power) for power in range(1, 8)}
LEAST_RANGE = 100.0
"""The least factor from an axis's middle to its ends, since a single point has an empty range."""


def draw(points: list[PlottedPoint], machine_bytes: int, path: pathlib.Path) -> None:
    """Write a PNG; measured points are solid, computed ones hollow and dashed."""
    figure, (memory_axes, time_axes) = figures.new_figure((12, 5.6), 2)
    found = {point.series for point in points}
    colours = {series: colour for series, colour in COLOURS.items() if series in found}
    colours |= dict.fromkeys(sorted(found - COLOURS.keys()), OTHER_COLOUR)
    for axes, title, value in (
        (memory_axes, "Memory besides the data", lambda point: point.memory_bytes),
        (time_axes, "Time to solve", lambda point: point.seconds),
    ):
        for series, colour in colours.items():
            own = [point for point in points if point.series == series]
            _draw_series(own, value, axes, colour, series)
        _finish(axes, title)
    figures.draw_limit(memory_axes, machine_bytes, f"this machine: {readable_bytes(machine_bytes)}")
    _set_ticks(memory_axes, BYTES)
    _set_ticks(time_axes, SECONDS)
    figures.draw_legend(figure, memory_axes)
    measured: dict[str, Any] = {"color": FAINT, "marker": "o", "linewidth": 2}
    computed = {"linewidth": 1.4, "linestyle": "--", "markerfacecolor": "white"}
    styles = {"measured": measured, "computed": measured | computed}
    time_axes.legend(
        handles=[Line2D([], [], label=name, **style) for name, style in styles.items()],
        loc="upper left",
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
    )
    save_picture(figure, path)


def _draw_series(
    points: list[PlottedPoint],
    value: Callable[[PlottedPoint], float | None],
    axes: Axes,
    colour: str,
    name: str,
) -> None:
    # A small computation may need no memory that the system reports: a log axis cannot show it.
    known = [(p.unknowns, y, p.is_measured) for p in points if (y := value(p))]
    drawn = np.array(sorted(known, key=lambda entry: entry[0]), float).reshape(-1, 3)
    n, y, is_measured = drawn.T
    measured, computed = is_measured == 1, is_measured == 0
    line = {"color": colour, "linewidth": 2, "markersize": 6, "label": name}
    axes.plot(n[measured], y[measured], "o-", zorder=3, **line)
    if computed.any():
        axes.plot(n, y, "--", color=colour, linewidth=1.4, zorder=2)
        hollow = {"markerfacecolor": "white", "markeredgecolor": colour, "markersize": 6}
        axes.plot(n[computed], y[computed], "o", zorder=3, **hollow)


def _finish(axes: Axes, title: str) -> None:
    figures.finish_loglog(axes, title, "unknowns, n")
    axes.set_xlim(3e2, 3e10)
    figures.draw_mark(axes, LLAMA_SIZE, "8 billion", is_left=True)
    axes.xaxis.set_major_locator(FixedLocator([10.0**power for power in range(3, 11)]))
    axes.xaxis.set_major_formatter(LogFormatterMathtext())


def _set_ticks(axes: Axes, labels: dict[float, str]) -> None:
    low, high = axes.get_ylim()
    middle = math.sqrt(low * high)
    low, high = min(low, middle / LEAST_RANGE), max(high, middle * LEAST_RANGE)
    axes.yaxis.set_major_locator(FixedLocator(list(labels)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: labels.get(y, "")))
    axes.set_ylim(low, high)
