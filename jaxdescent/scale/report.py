"""The table of an experiment, and the parallel efficiency of its points."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console
from rich.text import Text

from jaxdescent.display import broken, readable_seconds
from jaxdescent.machine.memory import readable_bytes
from jaxdescent.scale.point import ScalingPoint

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
        if not each["rehearsed"] and each["scaling"] == line["scaling"]
        if (taken := seconds_of(each)) and is_base(other := ScalingPoint(**each["point"]))
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
    rows: list[tuple[str, ...]] = [(*WORDS, *NUMBERS, "sends")]
    for line in lines:
        point, figures = ScalingPoint(**line["point"]), line["figures"]
        if "error" in figures:
            continue
        seconds, share = seconds_of(line), efficiency(line, lines)
        row = (
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
        rows.append(row)
    wide = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    last = len(WORDS) + len(NUMBERS)
    is_narrow = sum(wide) + 2 * (len(wide) - 1) > console.width
    for place, row in enumerate(rows):
        words = [cell.ljust(width) for cell, width in zip(row, wide, strict=True)][: len(WORDS)]
        numbers = [row[index].rjust(wide[index]) for index in range(len(WORDS), last)]
        own = [*words, *numbers, row[last]]
        if is_narrow:
            own = ["  ", *numbers]
            for part in broken(", ".join(row[: len(WORDS)]), console.width) * bool(place):
                _print(part, console)
        _print("  ".join(own).rstrip(), console, "" if place else "bold")
        if is_narrow and place and row[last]:
            for part in broken(f"sends {row[last]}", console.width, 4):
                _print(f"    {part}", console)
    failed: dict[str, list[str]] = {}
    for line in lines:
        if "error" in line["figures"]:
            point = ScalingPoint(**line["point"])
            failed.setdefault(line["figures"]["error"], []).append(point.describe())
    for error, points in failed.items():
        console.print(f"Not run: {'; '.join(points)}: {error}", style="red", highlight=False)


def _print(text: str, console: Console, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _sent(figures: Line) -> str:
    collectives = figures.get("collectives")
    if collectives is None:
        return ""
    words = [
        f"{one['count']} x " * (one["count"] > 1) + f"{one['kind']} {readable_bytes(one['bytes'])}"
        for one in collectives
    ]
    return ("gathers the data: " * figures["gathers_data"]) + (", ".join(words) or "nothing")
