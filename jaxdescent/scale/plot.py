"""A picture of an experiment: time and efficiency against the number of devices."""

from __future__ import annotations

import itertools
import pathlib
from collections import defaultdict
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, ScalarFormatter

from jaxdescent.display.figures import FAINT, INK, finish_loglog, new_figure, set_title
from jaxdescent.planning.hardware import mesh_named
from jaxdescent.rows.errors import save_picture
from jaxdescent.scale.experiment import ScalingPoint
from jaxdescent.scale.report import Line, efficiency, seconds_of

COLOURS = ("#1f5fa8", "#c4411f", "#2e8b57", "#7b4fa3", "#b8860b", "#4a4a4a")
DASHES, DOTS = ("-", "--", ":", "-."), (0, (1, 2))


def draw(lines: list[Line], path: pathlib.Path) -> None:
    """Write a PNG; measured points are solid, rehearsed ones hollow.

    Left: seconds of an iteration, with the time that perfect scaling would take. Middle: parallel
    efficiency. Right: the roofline of a device, or of a host of CPUs (Williams, Waterman and
    Patterson, 2009): operations a second against operations for each byte that is moved.
    """
    series: dict[str, list[Line]] = defaultdict(list)
    for line in sorted(lines, key=_devices):
        if seconds_of(line):
            series[_name(line)].append(line)
    figure, (time_axes, share_axes, roof_axes) = new_figure((17, 5.2), 3)
    for (name, members), colour in zip(sorted(series.items()), itertools.cycle(COLOURS)):
        style = _style(members[0], colour)
        x, y = [_devices(line) for line in members], [seconds_of(line) or 0.0 for line in members]
        time_axes.plot(x, y, label=name, **style)
        if len(x) > 1:
            is_weak = members[0]["scaling"] == "weak"
            ideal = [y[0] if is_weak else y[0] * x[0] / count for count in x]
            time_axes.plot(x, ideal, color=colour, linewidth=0.8, linestyle=DOTS)
        shares = [(_devices(line), efficiency(line, lines)) for line in members]
        _plot([place for place in shares if place[1] is not None], share_axes, style)
        places = [place for line in members if (place := _roofline(line)) is not None]
        _plot(places, roof_axes, style | {"linestyle": "none"})
    counts = sorted({_devices(line) for members in series.values() for line in members})
    for axes, title in (
        (time_axes, "Seconds of an iteration"),
        (share_axes, "Parallel efficiency"),
    ):
        finish_loglog(axes, title, "devices")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(counts))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
    time_axes.set_yscale("log")  # with its minor ticks, which a range of one decade needs
    share_axes.set_yscale("linear")
    share_axes.set_ylim(0, 1.15)
    share_axes.axhline(1, color=FAINT, linewidth=0.8, linestyle=DOTS)
    share_axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _draw_roofs(roof_axes, lines)
    if series:
        time_axes.legend(frameon=False, fontsize=8, loc="best")
    save_picture(figure, path)


def _plot(places: list[Any], axes: Axes, style: dict[str, Any]) -> None:
    if places:
        axes.plot(*zip(*places, strict=True), **style)


def _devices(line: Line) -> int:
    return line["point"]["devices"]


def _roofline(line: Line) -> tuple[float, float] | None:
    """Operations for each byte that a device moves, and operations a second."""
    figures, seconds = line["figures"], seconds_of(line)
    moved = figures.get("iteration_bytes")
    if moved is None and "least_bytes" in figures:
        moved = figures["least_bytes"] / figures.get("units", 1)
    if not moved or not seconds or "operations" not in figures:
        return None
    return figures["operations"] / moved, figures["operations"] / seconds


def _draw_roofs(axes: Axes, lines: list[Line]) -> None:
    placed = [(line, place) for line in lines if (place := _roofline(line)) is not None]
    if not placed:
        set_title(axes, "Roofline")
        axes.text(0.5, 0.5, "no timed iterations", ha="center", transform=axes.transAxes)
        return
    roofs = {
        _device(line): (line["figures"]["roof_bandwidth"], line["figures"]["roof_operations"])
        for line, _ in placed
    }
    ends = [place[0] for _, place in placed] + [top / slope for slope, top in roofs.values()]
    x = np.geomspace(min(ends) / 3, max(ends) * 3, 200)
    for (name, (slope, top)), dashes in zip(sorted(roofs.items()), itertools.cycle(DASHES)):
        axes.plot(x, np.minimum(slope * x, top), color=FAINT, linewidth=1, linestyle=dashes)
        axes.annotate(name, (x[-1], top), color=INK, fontsize=8, ha="right", va="bottom")
    finish_loglog(axes, "Roofline", "operations for each byte")
    axes.set_ylabel("operations a second, of a device", color=INK)


def _device(line: Line) -> str:
    target = line["point"]["target"]
    return mesh_named(target).of if target else line["machine"]["device"]


def _name(line: Line) -> str:
    point = ScalingPoint(**line["point"])
    size = f", {point.features:,} features" if point.rows else ""
    kind = f"{_device(line)}, rehearsed" if point.target else _device(line)
    if not line["rehearsed"] and point.rows and line["scaling"] == "strong":
        size = f" {point.rows:,} x {point.features:,}"
    if point.outputs > 1 and not (line["scaling"] == "weak" and point.grows == "outputs"):
        size += f", {point.outputs:,} outputs,"
    return f"{point.problem}{size} {point.dtype}, {point.method}, {point.layout} ({kind})"


def _style(line: Line, colour: str) -> dict[str, Any]:
    is_rehearsed = line["rehearsed"]
    return {
        "color": colour,
        "marker": "o",
        "markersize": 5.5,
        "markerfacecolor": "white" if is_rehearsed else colour,
        "linestyle": "--" if is_rehearsed else "-",
        "linewidth": 1.4,
    }
