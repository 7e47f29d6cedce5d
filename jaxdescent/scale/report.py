"""The table of an experiment, and the parallel efficiency of its points."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.text import Text

from jaxdescent.display import aligned, broken, readable_seconds
from jaxdescent.kernels.memory import readable_bytes
from jaxdescent.scale.experiment import ScalingPoint

Line = dict[str, Any]

WORDS = ("problem", "method", "over")

NUMBERS = ("compile", "a device", "iteration", "of bandwidth", "efficiency")


def seconds_of(line: Line) -> float | None:
    """The seconds of an iteration, or of a solve."""
    figures = line["figures"]
    return figures.get("iteration_seconds", figures.get("solve_seconds"))


def efficiency(line: Line, lines: list[Line]) -> float | None:
    """The parallel efficiency of a point, against the fewest devices measured.

    Strong scaling: ``t_1 n_1 / (t n)`` for the whole problem; weak scaling: ``t_1 / t``, with the
    same rows, or the same outputs, on each device. A rehearsed point has its own efficiency,
    against devices that send nothing.
    """
    own = line["figures"].get("efficiency")
    seconds = seconds_of(line)
    if own is not None or not seconds:
        return own
    point, is_weak = ScalingPoint(**line["point"]), line["scaling"] == "weak"

    def is_base(other: ScalingPoint) -> bool:
        """Whether a point differs in the number of devices alone, and in what grows with it."""
        times = point.devices / other.devices
        grown = {point.grows: times * getattr(other, point.grows)} if is_weak else {}
        return dataclasses.replace(other, devices=point.devices, **grown) == point

    bases = {
        other.devices: taken
        for each in reversed(lines)  # of several the first one counts
        if not each["rehearsed"] and (taken := seconds_of(each))
        if is_base(other := ScalingPoint(**each["point"]))
    }
    if not bases:
        return None
    devices = min(bases)
    taken = bases[devices]
    return taken / seconds if is_weak else taken * devices / (seconds * point.devices)


def show(lines: list[Line], console: Console) -> None:
    """Print a row for each point, and the errors of points that could not be run. Where the rows do
    not fit the width, the point and its collectives have lines of their own.
    """
    rows = [(*WORDS, *NUMBERS, "sends")]
    rows += [_row(line, lines) for line in lines if "error" not in line["figures"]]
    shown = aligned(rows, (*WORDS, "sends"))
    is_narrow = sum(map(len, shown[0])) + 2 * (len(shown[0]) - 1) > console.width
    for is_point, (row, cells) in enumerate(zip(rows, shown, strict=True)):
        if is_narrow and is_point:
            _print(broken(", ".join(row[: len(WORDS)]), console.width), console)
        own = ["  ", *cells[len(WORDS) : -1]] if is_narrow else cells
        _print(["  ".join(own).rstrip()], console, "" if is_point else "bold")
        if is_narrow and is_point and row[-1]:
            _print(broken(f"sends {row[-1]}", console.width, 4), console, indent="    ")
    failed: dict[str, list[str]] = {}
    for line in lines:
        if "error" in line["figures"]:
            point = ScalingPoint(**line["point"])
            failed.setdefault(line["figures"]["error"], []).append(point.describe())
    for error, points in failed.items():
        console.print(f"Not run: {'; '.join(points)}: {error}", style="red", highlight=False)


def _row(line: Line, lines: list[Line]) -> tuple[str, ...]:
    point, figures = ScalingPoint(**line["point"]), line["figures"]
    seconds, share = seconds_of(line), efficiency(line, lines)
    return (
        point.what,
        point.method,
        f"{point.where}, {point.layout}",
        readable_seconds(figures["compile_seconds"]),
        readable_bytes(figures["peak_bytes"]),
        "" if seconds is None else readable_seconds(seconds),
        "" if "of_bandwidth" not in figures else f"{figures['of_bandwidth']:.0%}",
        "" if share is None else f"{share:.0%}",
        _sent(figures),
    )


def _print(texts: list[str], console: Console, style: str = "", indent: str = "") -> None:
    for text in texts:
        console.print(Text(f"{indent}{text}", style=style), soft_wrap=True)


def _sent(figures: Line) -> str:
    collectives = figures.get("collectives")
    if collectives is None:
        return ""
    words = [
        f"{one['count']} x " * (one["count"] > 1) + f"{one['kind']} {readable_bytes(one['bytes'])}"
        for one in collectives
    ]
    return ("gathers the data: " * figures["gathers_data"]) + (", ".join(words) or "nothing")
