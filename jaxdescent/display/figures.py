"""The look of pictures: two spines, a faint grid, titles on the left, lines with names."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

INK, FAINT = "#222222", "#8a8a8a"


def new_figure(size: tuple[float, float], count: int, **options: Any) -> tuple[Figure, Any]:
    """A figure of this size in inches, with so many axes side by side."""
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, **options)


def finish_loglog(axes: Axes, title: str, xlabel: str) -> None:
    """Set logarithmic axes without minor ticks, their title, the name of x, and the grid."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    set_title(axes, title)
    axes.set_xlabel(xlabel, color=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#b0b0b0")


def set_title(axes: Axes, title: str) -> None:
    """Set the title, on the left."""
    axes.set_title(title, loc="left", color=INK, weight="bold")


def draw_limit(axes: Axes, y: float, name: str) -> None:
    """Draw a dotted horizontal line with its name above."""
    axes.axhline(y, color=INK, linewidth=1.2, linestyle=(0, (1, 1.5)))
    _write(axes, name, (0.01, y), ("axes fraction", "data"), (0, 4), color=INK)


def draw_mark(axes: Axes, x: float, name: str, *, is_left: bool = False) -> None:
    """Draw a thin vertical line with its name beside the lower end."""
    axes.axvline(x, color=FAINT, linewidth=0.9)
    side: dict[str, Any] = {"ha": "right"} if is_left else {}
    offset = (-4 if is_left else 4, 0)
    _write(axes, name, (x, 0.02), ("data", "axes fraction"), offset, color=FAINT, **side)


def draw_legend(figure: Figure, axes: Axes) -> None:
    """Draw the names of the lines of some axes, below all axes of the figure."""
    names = axes.get_legend_handles_labels()
    style: dict[str, Any] = {"frameon": False, "fontsize": 9.5, "labelcolor": INK}
    figure.legend(*names, loc="outside lower center", ncols=4, **style)


def _write(axes: Axes, text: str, at: Any, units: Any, offset: Any, **options: Any) -> None:
    """Write a small text at a place in these units, moved by so many points."""
    axes.annotate(
        text, at, xycoords=units, xytext=offset, textcoords="offset points", fontsize=9, **options
    )
