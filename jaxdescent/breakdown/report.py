"""The report of a part, and how it is shown in a terminal.

A part computes a :class:`PartReport`. It is shown, drawn and written to a file elsewhere, so that
all three have the same numbers.
"""

from __future__ import annotations

import dataclasses
import pathlib
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.rule import Rule
from rich.status import Status
from rich.text import Text

from jaxdescent.breakdown.extent import USUAL, PartSizes
from jaxdescent.display import Grid, readable_seconds
from jaxdescent.machine.memory import readable_bytes


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that the user asked for.

    Attributes:
      budget: seconds for part 2.
      extent: the sizes of the parts.
      everything: whether part 3 also runs its coupled problems.
      max_params: the most parameters that part 3 may use; None for all of them.
      dtype: the dtype in which part 3 stores its parameters; None for the widest that fits.
      seed: the seed of all random numbers.
      checkpoint: the folder in which part 3 keeps its descents; None keeps none.
      resume: whether part 3 goes on from the descents that are kept there.
    """

    budget: float = USUAL.budget
    extent: PartSizes = USUAL
    everything: bool = True
    max_params: int | None = None
    dtype: str | None = None
    seed: int = 0
    checkpoint: pathlib.Path | None = None
    resume: bool = False

    @property
    def sizes(self) -> PartSizes:
        """The sizes of the extent, those of part 3 within what the user allows."""
        return self.extent if self.max_params is None else self.extent.within(self.max_params)


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
    """The outcome of one part.

    Attributes:
      number: the number of the part, from 1, which :func:`jaxdescent.breakdown.run` sets.
      title: the heading, which that function sets too.
      sentences: what is printed below the heading, in order.
      tables: what is printed below the sentences.
      remarks: what is printed below the tables.
      verdict: sentences for the verdict at the end.
      numbers: everything measured and computed, in types that JSON can represent.
      points: points for the plot.
      seconds: how long the part took.
      sections: reports shown in place of this one's own sentences, tables and remarks.
      is_complete: False if Ctrl-C ended the part.
    """

    number: int = 0
    title: str = ""
    sentences: tuple[str, ...] = ()
    tables: tuple[Grid, ...] = ()
    remarks: tuple[str, ...] = ()
    verdict: tuple[str, ...] = ()
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    points: tuple[PlottedPoint, ...] = ()
    is_complete: bool = True
    seconds: float | None = None
    sections: tuple[PartReport, ...] = ()

    @classmethod
    def of(
        cls,
        known: Mapping[str, Any],
        *,
        sentences: Iterable[str] = (),
        remarks: Iterable[str] = (),
        verdict: Iterable[str] = (),
        **others: Any,
    ) -> PartReport:
        """A report whose texts are templates of :func:`said`, filled in with what is known."""

        def filled(templates: Iterable[str]) -> tuple[str, ...]:
            return tuple(said(template, known) for template in templates)

        return cls(
            sentences=filled(sentences), remarks=filled(remarks), verdict=filled(verdict), **others
        )


def show_heading(number: int, title: str, console: Console) -> None:
    """Print a heading as a line across the terminal."""
    console.print()
    console.print(Rule(Text(f"{number}  {title}", style="bold"), align="left", style="dim"))


def show_part(report: PartReport, console: Console) -> None:
    """Print the sentences and tables of one part."""
    for section in report.sections:
        console.print()
        show_part(dataclasses.replace(section, is_complete=True), console)
    for sentence in report.sentences:
        console.print(Text(sentence))
    for table in report.tables:
        console.print()
        console.print(Text(table.title, style="bold"))
        heads, *lines = table.lines()
        console.print(Text(heads, "dim"), soft_wrap=True)
        for line in lines:
            style = "dim italic" if line.endswith(COMPUTED) else ""
            console.print(Text(line, style), soft_wrap=True)
    if report.remarks:
        console.print()
    for remark in report.remarks:
        console.print(Text(remark))
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


def progress_bar(console: Console) -> Progress:
    """A bar with the time left, which disappears at the end; nothing outside a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
