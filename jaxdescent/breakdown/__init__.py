"""The command ``breakdown``: the derivative method, where it breaks down, and descent beyond.

Each part computes a report; this module runs them in order and keeps what was measured.
"""

from __future__ import annotations

import importlib
import pathlib
import signal
import time
from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console
from rich.text import Text

from jaxdescent.breakdown import record, report
from jaxdescent.breakdown.report import PartReport as PartReport
from jaxdescent.breakdown.report import Point as Point
from jaxdescent.breakdown.report import Settings as Settings
from jaxdescent.breakdown.report import Table as Table
from jaxdescent.machine.memory import readable_bytes

PARTS = {
    1: ("Two small functions", "tutorial"),
    2: ("Where the derivative method breaks down", "coupled"),
    3: ("Eight billion parameters", "llama"),
    4: ("Real data", "real_data"),
    5: ("Eight billion weights on real rows", "hashed_text"),
}
"""The title of each part, and the module whose ``run(settings, console)`` returns its report."""

INTERRUPTED = 130


def run(settings: Settings, parts: Sequence[int], output: pathlib.Path, console: Console) -> int:
    """Run these parts, show them, and write what they measured to the folder ``output``.

    Ctrl-C ends the running part and skips those after it; what was measured is shown and written.

    Returns:
      The exit code: 0, or 130 after Ctrl-C.
    """
    began = time.perf_counter()
    reports: list[PartReport] = []
    machine = record.describe_machine()
    show_machine(machine, console)
    is_interrupted = False
    try:
        for number in parts:
            title, module = PARTS[number]
            report.show_heading(number, title, console)
            part = importlib.import_module(f"jaxdescent.breakdown.{module}")
            reports.append(part.run(settings, console))
            report.show_part(reports[-1], console)
            if not reports[-1].is_complete:
                is_interrupted = True
                break
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        _write(
            settings,
            machine,
            reports,
            output=output,
            seconds=time.perf_counter() - began,
            console=console,
        )
    if is_interrupted:
        console.print(Text("Interrupted: what was measured until then has been kept.", "yellow"))
    return INTERRUPTED if is_interrupted else 0


def show_machine(machine: dict[str, Any], console: Console) -> None:
    """Print one line on the machine that the numbers below were measured on."""
    device = "" if machine["platform"] == "cpu" else f", {machine['device']} (not verified)"
    console.print(
        Text(
            f"{machine['processor']}, {machine['cores']} cores, "
            f"{readable_bytes(machine['available_bytes'])} of "
            f"{readable_bytes(machine['memory_bytes'])} memory available{device}, "
            f"JAX {machine['packages']['jax']}"
        )
    )


def _write(
    settings: Settings,
    machine: dict[str, Any],
    reports: list[PartReport],
    *,
    output: pathlib.Path,
    seconds: float,
    console: Console,
) -> None:
    if jax.process_index():
        return  # the first process writes for all
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut files off
    try:
        report.show_verdict(reports, console)
        output.mkdir(parents=True, exist_ok=True)
        record.write_record(output / "breakdown.json", settings, machine, reports, seconds)
        written = [output / "breakdown.json"]
        points = [point for part in reports for point in part.points]
        if points:
            from jaxdescent.breakdown import plot  # matplotlib takes half a second to import

            plot.draw(points, machine["memory_bytes"], output / "breakdown.png")
            written.append(output / "breakdown.png")
        console.print()
        console.print(
            Text(f"Written in {seconds:.0f} s: " + ", ".join(str(path) for path in written)),
            soft_wrap=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
