"""The command ``breakdown``: the derivative method, where it breaks down, and descent beyond.

Each part computes a report; this module says how long the parts will take, runs them in order and
keeps what was measured.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from jaxdescent.breakdown import report
from jaxdescent.breakdown.report import PartReport as PartReport
from jaxdescent.breakdown.settings import QUICK as QUICK
from jaxdescent.breakdown.settings import THOROUGH as THOROUGH
from jaxdescent.breakdown.settings import USUAL as USUAL
from jaxdescent.breakdown.settings import Settings as Settings
from jaxdescent.display import rough_seconds
from jaxdescent.kernels.memory import readable_bytes
from jaxdescent.machine import Machine
from jaxdescent.processes.ending import CODES, INTERRUPTED, SIGNALS, CommonEnd
from jaxdescent.processes.signals import handled_by

PARTS = {
    1: ("Two small functions", "tutorial"),
    2: ("Where the derivative method breaks down", "coupled"),
    3: ("Eight billion parameters", "llama"),
    4: ("Real data", "real_data"),
    5: ("Eight billion weights on real rows", "hashed_text"),
}
"""The title of each part, and the module whose ``run(settings, console)`` returns its report."""

SHARED = {3}
"""The parts that all processes of a run compute together."""

REAL_DATA = 4

TABLE = "diabetes.csv"
"""The file of part 4's data, which the user may fit next."""

OTHER_EXTENTS = {
    "quick": "--thorough takes larger sizes.",
    "usual": "--quick takes smaller sizes, --thorough larger ones.",
    "thorough": "Without --thorough it is less than half of that.",
}
"""The sentence on the extents that were not asked for, by the one that was."""

AROUND = 3.0
"""Seconds for imports, the plot and the files."""

EXAMPLE = pathlib.Path("examples/many_starts.py")

SNIPPET = "import jaxdescent as jd; print(jd.minimize(lambda x: (x - 3) ** 2, 0.0))"


def run(settings: Settings, parts: Sequence[int], output: pathlib.Path, console: Console) -> int:
    """Run these parts, show them, and write what they measured to the folder ``output``.

    The command begins with about how long each part will take, and ends with three things to try
    next. Ctrl-C ends the running part and skips later ones; finished measurements are shown and
    written.

    Several processes make the same call. All of them run part 3; the others are run by the first
    one, which shows and writes.

    Returns:
      The exit code: 0, or 130 after Ctrl-C in one of the processes.

    Raises:
      OtherProcessFailed: if another process failed.
    """
    began = time.perf_counter()
    reports: list[PartReport] = []
    machine: dict[str, Any] = {}
    table: pathlib.Path | None = None
    is_interrupted = False

    def keep() -> pathlib.Path:
        output.mkdir(parents=True, exist_ok=True)
        path = output / "breakdown.json"
        report.write_record(path, settings, machine, reports, time.perf_counter() - began)
        return path

    with CommonEnd() as others:
        try:
            machine |= report.describe_machine()
            show_machine(machine, console)
            expected = _expected(parts, settings, console)
            for number in parts:
                found = _of_part(number, settings, expected[number], console, others)
                if found is None:
                    continue
                reports.append(found)
                report.show_part(found, console)
                if others.is_first:
                    keep()  # this process may be killed, with another one or by itself
                if not found.is_complete:
                    is_interrupted = True
                    break
        except KeyboardInterrupt:
            is_interrupted = True
        finally:
            if is_interrupted:
                others.stops()
            if others.is_first:
                # A second Ctrl-C does not cut files off.
                handled = [number for number in SIGNALS if callable(signal.getsignal(number))]
                with handled_by(signal.SIG_IGN, handled):
                    report.show_verdict(reports, console)
                    paths = [keep()]
                    if points := [point for part in reports for point in part.points]:
                        from jaxdescent.breakdown import plot  # imports for half a second

                        paths.append(output / "breakdown.png")
                        plot.draw(points, machine["memory_bytes"], paths[-1])
                    if not is_interrupted and REAL_DATA in [part.number for part in reports]:
                        from jaxdescent.breakdown import real_data

                        table = output / TABLE
                        real_data.write_table(table)
                        paths.append(table)
                    written = f"Written in {time.perf_counter() - began:.0f} s: "
                    console.print()
                    console.print(Text(written + ", ".join(map(str, paths))), soft_wrap=True)
    if is_interrupted:
        console.print(Text("Interrupted: what was measured until then has been kept.", "yellow"))
    else:
        console.print(Text("\nThree things to try next:"))
        for command, shows in next_steps(table).items():
            console.print(Text(f"\n  {command}\n    {shows}"), soft_wrap=True)
    return CODES[INTERRUPTED] if is_interrupted else 0


def _expected(parts: Sequence[int], settings: Settings, console: Console) -> Mapping[int, float]:
    """Print and return about how many seconds each part will take here."""
    from jaxdescent.breakdown import estimates

    machine = Machine.of()
    expected = estimates.seconds_of_parts(parts, settings, machine)
    rates = "its measured rates" if machine.is_measured else "rates of ordinary machines"
    whole = rough_seconds(sum(expected.values()) + AROUND)
    others = OTHER_EXTENTS[settings.extent]
    console.print()
    console.print(
        Text(f"This takes {whole} here, by {rates}, longer if the machine is busy. {others}")
    )
    width = max(len(title) for title, _ in PARTS.values())
    for number, seconds in expected.items():
        console.print(Text(f"  {number}  {PARTS[number][0]:<{width}}  {rough_seconds(seconds)}"))
    return expected


def _of_part(
    number: int, settings: Settings, expected: float, console: Console, others: CommonEnd
) -> PartReport | None:
    """The report of a part; None where another process has it."""
    title, module = PARTS[number]
    heading = Text(f"{number}  {title}, {rough_seconds(expected)}", style="bold")
    console.print()
    console.print(Rule(heading, align="left", style="dim"))
    part = importlib.import_module(f"jaxdescent.breakdown.{module}")

    def run_timed() -> PartReport:
        began = time.perf_counter()
        found = part.run(settings, console)
        seconds = time.perf_counter() - began
        return dataclasses.replace(found, number=number, title=title, seconds=seconds)

    if number in SHARED:
        return run_timed()
    return others.by_first(run_timed, lambda found: found.is_complete)


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


def next_steps(table: pathlib.Path | None) -> dict[str, str]:
    """A plan, a fit of part 4's ``table`` if there is one, and Python: commands as a shell takes
    them, and for each a sentence on its output.
    """
    script, python = pathlib.Path(sys.executable).with_name("jaxdescent"), _typed(sys.executable)
    program = (_typed(f"{script}"),) if script.exists() else (python, "-m", "jaxdescent")
    plan = (*program, "plan", "--rows", "1e6", "--features", "1000")
    steps: dict[tuple[str, ...], str]
    steps = {plan: "what each method would need for a regression of these sizes here"}
    if table:
        fit = *program, "fit", str(table), "--target", "progression", "--test", "0.2"
        steps[fit] = "a model of a file, checked on held-out rows; your file goes the same way"
    else:
        part = *program, "breakdown", "--part", "4", "--quick"
        steps[part] = "a regression on real data by both methods"
    if EXAMPLE.exists():
        shows = "minima of a function with many, from a thousand starts in one program"
        steps[python, str(EXAMPLE)] = shows
    else:
        steps[python, "-c", SNIPPET] = "the minimum of a function of yours"
    return {shlex.join(words): shows for words, shows in steps.items()}


def _typed(path: str) -> str:
    """A program by its name if the shell finds it, else by its path."""
    name = os.path.basename(path)
    return name if shutil.which(name) == path else path
