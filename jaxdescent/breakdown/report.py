"""The report of a part, how it is shown in a terminal, and the JSON file with every number.

A part computes a :class:`PartReport`, which is shown, drawn and written to a file, so
that all three have the same numbers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import jax
from rich.console import Console
from rich.panel import Panel
from rich.status import Status
from rich.text import Text

from jaxdescent import provenance
from jaxdescent.breakdown.settings import Settings
from jaxdescent.display import Grid, readable_seconds
from jaxdescent.kernels import memory
from jaxdescent.kernels.memory import readable_bytes
from jaxdescent.rows.errors import replacing, writing
from jaxdescent.runs.hooks.protocol import as_json

PACKAGES = ("jaxdescent", "jax", "jaxlib", "numpy", "optax", "scikit-learn")


class _Formatter(string.Formatter):
    own: ClassVar[dict[str, Callable[[Any], str]]] = {
        "time": readable_seconds,
        "bytes": readable_bytes,
        "words": lambda status: status.lower().replace("_", " "),
    }

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "-"
        return self.own.get(format_spec, lambda value: format(value, format_spec))(value)


def said(template: str, numbers: Mapping[str, Any]) -> str:
    """A format string with the numbers of a record: what is shown is what is recorded.

    ``time``, ``bytes`` and ``words`` are formats of their own; a number that is None is a dash.

    >>> said("{n:,} rows in {seconds:time}, {size:bytes}", {"n": 2000, "seconds": 90, "size": 8})
    '2,000 rows in 90 s, 8 B'
    """
    return _Formatter().vformat(template, (), numbers)


COMPUTED = "computed"
"""The last cell of rows that were extrapolated, not measured."""


def table_of(title: str, columns: dict[str, str], records: Iterable[Mapping[str, Any]]) -> Grid:
    """A table with a row for each record: heads of columns, and templates of :func:`said`."""
    heads = tuple(columns)
    rows = [[said(each, record) for each in columns.values()] for record in records]
    return Grid(title, heads, rows, (), heads[:1])


def figures_of(figures: dict[str, str], numbers: Mapping[str, Any], title: str = "") -> Grid:
    """A table of figures of one thing: their names, and templates of :func:`said`."""
    rows = [(name, said(template, numbers)) for name, template in figures.items()]
    return Grid(title, ("", "measured"), rows, (), ("",))


@dataclasses.dataclass(frozen=True)
class PlottedPoint:
    """One point of the plot: what ``series`` needs for ``unknowns``, besides the data."""

    series: str
    unknowns: int
    memory_bytes: float | None
    seconds: float | None
    is_measured: bool


@dataclasses.dataclass(frozen=True)
class PartReport:
    """The outcome of one part."""

    number: int = 0  # is set by :func:`jaxdescent.breakdown.run`, like title and seconds
    title: str = ""
    shown: tuple[str | Grid, ...] = ()  # the texts and tables that are shown, in order
    verdict: tuple[str, ...] = ()  # sentences for the verdict at the end
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)  # JSON can represent them
    points: tuple[PlottedPoint, ...] = ()  # of the plot
    is_complete: bool = True  # whether Ctrl-C did not end it
    seconds: float | None = None

    @classmethod
    def of(
        cls,
        known: Mapping[str, Any],
        shown: Iterable[str | Grid],
        verdict: Iterable[str],
        **others: Any,
    ) -> PartReport:
        """A report whose texts are templates of :func:`said`, filled in with what is known."""
        filled = (said(each, known) if isinstance(each, str) else each for each in shown)
        sentences = tuple(said(template, known) for template in verdict)
        return cls(shown=tuple(filled), verdict=sentences, **others)


def show_part(report: PartReport, console: Console) -> None:
    """Print the texts and tables of one part, with a line between a text and a table."""
    is_after_table = False
    for each in report.shown:
        is_table = isinstance(each, Grid)
        if is_table or (is_after_table and each):
            console.print()
        is_after_table = is_table
        if not is_table:
            console.print(Text(each))
            continue
        console.print(Text(each.title, style="bold"))
        heads, *lines = each.lines()
        console.print(Text(heads, "dim"), soft_wrap=True)
        for line in lines:
            style = "dim italic" if line.endswith(COMPUTED) else ""
            console.print(Text(line, style), soft_wrap=True)
    if not report.is_complete:
        console.print(Text("Interrupted: the rows above are those that were finished.", "yellow"))


def show_verdict(reports: list[PartReport], console: Console) -> None:
    """Print what all parts found as one text."""
    sentences = [sentence for report in reports for sentence in report.verdict]
    if not sentences:
        return
    console.print()
    console.print(
        Panel(Text("\n\n".join(sentences)), title="Verdict", title_align="left", padding=(1, 2))
    )


def busy(console: Console, doing: str) -> Status:
    """A context that shows the name of a step while it lasts; outside a terminal, a line."""
    show_line(console, doing)
    return console.status(doing)


def show_line(console: Console, doing: str) -> None:
    """Print the name of a step that begins, where no terminal shows a moving display."""
    if not console.is_terminal:
        console.print(Text(f"... {doing}", "dim"))


def describe_machine() -> dict[str, Any]:
    """The machine and software on which the numbers depend."""
    device = jax.local_devices()[0]
    return {
        **provenance.machine(PACKAGES),
        "memory_bytes": memory.physical_bytes(),
        "available_bytes": memory.available_bytes(device),
        "platform": device.platform,
        "system": f"{platform.system()} {platform.machine()}",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def write_record(
    path: pathlib.Path,
    settings: Settings,
    machine: dict[str, Any],
    reports: list[PartReport],
    seconds: float,
) -> None:
    """Write one JSON object; numbers that JSON cannot represent (NaN, infinity) become null."""
    record = {
        "written": provenance.now(),
        "seconds": seconds,
        "settings": {
            "budget_seconds": settings.budget,
            "extent": settings.extent,
            "everything": settings.everything,
            "max_params": settings.max_params,
            "dtype": settings.dtype,
            "seed": settings.seed,
        },
        "machine": machine,
        "parts": {
            str(report.number): {
                "title": report.title,
                "is_complete": report.is_complete,
                "seconds_of_part": report.seconds,
                **report.numbers,
            }
            for report in reports
        },
        "verdict": [sentence for report in reports for sentence in report.verdict],
    }
    with writing(path), replacing(path) as new:
        new.write_text(json.dumps(as_json(record), indent=2, allow_nan=False) + "\n")
