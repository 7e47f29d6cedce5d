"""A picture of the memory that each candidate needs, against the number of features."""

from __future__ import annotations

import math
import pathlib

from matplotlib.ticker import FuncFormatter, LogLocator

from jaxdescent.cost.report import SizedStructure, candidates_at
from jaxdescent.display import figures
from jaxdescent.machine import Machine
from jaxdescent.machine.memory import readable_bytes

COLOURS = {
    "DerivativeMethod()": "#c4411f",
    "LSMR(Sketch())": "#7b4fa3",
    "LSMR()": "#1f5fa8",
    "GradientDescent(Backtracking())": "#2e8b57",
}
DECADES = 3
"""The powers of ten that are drawn to each side of the planned problem."""


def draw(
    structure_at: SizedStructure,
    features: int,
    rows_per_feature: float,
    machine: Machine,
    path: pathlib.Path,
) -> None:
    """Write a PNG: memory besides the data on the left, with the data on the right.

    Args:
      structure_at: returns the structure of a problem with a given number of features.
      features: the number of features of the planned problem, marked in the picture.
      rows_per_feature: the ratio of rows to features, named in the axes' labels.
      machine: the machine whose memory is drawn as the limit.
      path: the PNG file to write.
    """
    first = max(math.log10(features) - DECADES, 0.0)
    last = math.log10(features) + DECADES
    exponents = [first + (last - first) * step / 120 for step in range(121)]
    sizes = sorted({_rounded(10**exponent) for exponent in exponents})
    plans = [candidates_at(structure_at, size, machine) for size in sizes]
    figure, both = figures.new_figure((12, 5.2), 2, sharey=True)
    pictures = {"Memory besides the data": "working_bytes", "Memory, data included": "peak_bytes"}
    for axes, (title, attribute) in zip(both, pictures.items(), strict=True):
        for name, colour in COLOURS.items():
            points = [
                (size, getattr(candidates[name], attribute))
                for size, candidates in zip(sizes, plans, strict=True)
                if name in candidates
            ]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=2, label=name)
        xlabel = f"features, with {rows_per_feature:,.3g} rows each"
        figures.finish_loglog(axes, title, xlabel)
        limit = f"{machine.name or 'this machine'}: {readable_bytes(machine.memory_bytes)}"
        figures.draw_limit(axes, machine.memory_bytes, limit)
        figures.draw_mark(axes, features, f"{features:,}")
        axes.yaxis.set_major_locator(LogLocator(1000.0, numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: readable_bytes(y)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _power(x)))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9.5)
    figure.savefig(path)


def _rounded(size: float) -> int:
    """Large sizes are multiples of 64, for which a CPU sums rows in runs of the same length."""
    return max(round(size), 1) if size < 512 else 64 * round(size / 64)


def _power(x: float) -> str:
    return f"{x:,.0f}" if x < 1e4 else f"$10^{{{round(math.log10(x))}}}$"
