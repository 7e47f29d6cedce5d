"""What a person sees of a fit: the plan, progress, the summary, and the contents of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from jaxdescent.display import Report, Rows, aligned, broken, readable_seconds
from jaxdescent.fit.look import DataLook
from jaxdescent.fit.model import Model
from jaxdescent.fit.progress import ProgressListener
from jaxdescent.fit.rows import file_bytes
from jaxdescent.kernels.memory import readable_bytes
from jaxdescent.rows import Source
from jaxdescent.rows.errors import listed, printable
from jaxdescent.status import Status

LARGEST = 10
"""How many weights a summary shows."""

LONGEST_NAME = 24
"""The most characters of a name in a line with other entries."""


@dataclasses.dataclass
class Course:
    """The iterations of a fit, and its search (penalties, scores, and the place of the best), as
    :class:`ProgressListener` is told of them, for a picture.
    """

    values: list[float] = dataclasses.field(default_factory=list)
    above: list[float] = dataclasses.field(default_factory=list)
    path: tuple[np.ndarray, np.ndarray, int] | None = None


class _Speed(ProgressColumn):
    """Rows, or other units, per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


class Screen(ProgressListener):
    """The plan on the standard output, and a bar on a terminal's error output while it is read."""

    def __init__(self, *, is_quiet: bool = False, keeps_course: bool = False) -> None:
        self.course: Course | None = Course() if keeps_course else None
        self._console = Console()
        self._is_quiet = is_quiet
        bar = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            _Speed(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=bar,
            transient=True,
            disable=is_quiet or not bar.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def planned(self, lines: Sequence[str]) -> None:
        if not self._is_quiet:
            for line in lines:
                self.say(line)
            self.say("")

    def begin(self, what: str, total: int | None, unit: str = "rows") -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total, unit=unit, state="")

    def advance(self, done: int) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done)

    def tell(self, state: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, state=state)

    def iterated(self, value: float, above: float) -> None:
        if self.course is not None:
            self.course.values.append(value)
            self.course.above.append(above)

    def searched(self, penalties: np.ndarray, scores: np.ndarray, best: int) -> None:
        if self.course is not None:
            self.course.path = penalties, scores, best

    def say(self, line: str) -> None:
        """Print a line on the standard output."""
        for part in broken(printable(line), self._console.width):
            self._print(part)

    def show(self, report: Report) -> None:
        """Print a report, its title in bold."""
        title, *lines = printable(report.as_text(self._console.width)).split("\n")
        self._print(title, "bold")
        for line in lines:
            self._print(line)

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=True)

    def show_look(self, look: DataLook, source: Source) -> None:
        """Print a look at data, a line for each column, cut off at the terminal's width."""
        files, columns = len(source.files), len(look.columns)
        size = f" ({files} file{'s' * (files > 1)}, {readable_bytes(file_bytes(source))})"
        plural = "s" * (columns != 1)
        self._print(
            f"{look.rows:,} rows of {source.form}{size}, {columns:,} column{plural}", "bold"
        )
        rows = [("column", "kind", "missing", "first rows")]
        for name, seen in look.columns.items():
            missing = "" if seen.missing is None else f"{seen.missing:,}"
            first = "  ".join(_cell(value) for value in seen.first)
            rows.append((_cut(_in_line(name), LONGEST_NAME), seen.kind, missing, first))
        for cells in aligned(rows, ("column", "kind", "first rows")):
            self._print(_cut("  ".join(["", *cells]).rstrip(), self._console.width))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _cell(value: Any) -> str:
    """A value in a row of a table, quoted where it is an empty text or has spaces at an end."""
    if value is None:
        return "missing"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 2**53 else f"{value:.6g}"
    text = _in_line(str(value))
    return text if text and text == text.strip() else repr(text)


def _in_line(text: str) -> str:
    """A text of the data made printable in one line."""
    return printable(text).replace("\n", r"\n")


def _score(part: dict[str, Any]) -> str:
    r2 = "undefined" if part.get("r2") is None else f"{part['r2']:.6g}"
    return f"R² {r2}, RMSE {part['rmse']:.6g}, {part['rows']:,} rows"


def _figures(model: Model) -> Rows:
    known = model.metrics
    if not known:
        return []
    rows = [("training rows", _score(known["train"]))]
    if known.get("held_out"):
        rows.append(("held-out rows", _score(known["held_out"])))
    status = Status[known["status"]]
    chosen = f", by {known['l2_chosen_by']}" if known.get("l2_chosen_by") else ""
    iterations = known["iterations"]
    left = "unknown" if known.get("suboptimality") is None else f"{known['suboptimality']:.3g}"
    rows += [
        ("l2", f"{known['l2']:.6g}{chosen}"),
        ("method", f"{known['method']}, {iterations} iteration{'s' * (iterations != 1)}"),
        ("status", f"{status}: {status.advice.split(':', maxsplit=1)[0]}"),
        ("suboptimality", f"{left} of {known['value']:.6g}"),
        ("", known["evidence"]),
        (
            "read",
            f"{known['passes']} pass{'es' * (known['passes'] != 1)}, "
            f"{readable_bytes(known['bytes_read'])}, {readable_seconds(known['seconds'])}, "
            f"{known['rows_per_second']:,.0f} rows a second",
        ),
        ("memory", f"{readable_bytes(known['peak_bytes'])} at the peak"),
    ]
    if known.get("processes"):
        shares = f"{known['processes']}, each of which read its share of the rows"
        rows.append(("processes", shares))
    return rows


def _weights(model: Model, most: int) -> Rows:
    named = model.named_weights(most)
    rows = [("intercept", f"{model.intercept:.6g}")]
    if named:
        rows.append(("largest weights", "" if model.encoding.size > most else "all"))
    return rows + [(f"  {name}", f"{weight:.6g}") for name, weight in named]


def summary(model: Model) -> Report:
    """The figures, notes and largest weights of a fit."""
    title = f"{model.target} by {model.encoding.size:,} features"
    notes = [("note", note) for note in model.metrics["notes"]]
    return Report(title, "", [*_figures(model), *notes, *_weights(model, LARGEST)])


def contents(model: Model, most: int) -> Report:
    """The columns, figures, notes and ``most`` largest weights of a model."""
    encoding = model.encoding
    rows: Rows = [("numeric columns", f"{len(encoding.numbers):,}")]
    rows += [(f"  levels of {name}", f"{len(ls):,}") for name, ls in encoding.levels.items()]
    for name, each in encoding.dates.items():
        rows.append((f"  {name}", f"{', '.join(each.parts)}; dates of {each.span}"))
    if encoding.interactions:
        rows.append(("interactions", listed(encoding.interactions)))
    if encoding.hashed:
        touched = f"{len(encoding.buckets):,} of {1 << encoding.bits:,} buckets touched"
        rows.append(("hashed columns", f"{', '.join(encoding.hashed)}: {touched}"))
    if encoding.sparse is not None:
        rows.append(("sparse numbers", f"{len(encoding.indices):,} indices of {encoding.sparse}"))
    if encoding.fills:
        rows.append(("missing numbers", "the training rows' means"))
    rows += _figures(model)
    rows += [("note", note) for note in model.metrics.get("notes", [])]
    versions = ", ".join(f"{name} {version}" for name, version in model.versions.items())
    rows += [("fitted with", versions), ("data", _cut(model.fingerprint, LONGEST_NAME))]
    title = f"A model of {model.target} by {encoding.size:,} features"
    return Report(title, "", [*rows, *_weights(model, most)])
