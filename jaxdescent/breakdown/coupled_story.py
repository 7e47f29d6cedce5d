"""The text of part 2: its tables, its points in the plot, its remarks and its verdict."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxdescent.breakdown.costs import (
    ITEMSIZE,
    LLAMA_SIZE,
    NAMES,
    REFUSED_SIZE,
    ROWS_PER_FEATURE,
    data_bytes,
    last_row,
    working_bytes,
)
from jaxdescent.breakdown.report import PlottedPoint, Table
from jaxdescent.display import readable_seconds
from jaxdescent.machine.memory import readable_bytes

RESOLUTION_BYTES = 10**6
"""How many bytes a process's memory varies on its own; smaller peaks are shown as below this."""


@dataclasses.dataclass
class Findings:
    """The rows that part 2 measures and computes, with one dictionary for each row."""

    available: int
    budget: float
    measured: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    computed: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    separable: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    stopped_because: dict[str, str] = dataclasses.field(default_factory=dict)
    refusal: str | None = None
    is_complete: bool = True

    @property
    def numbers(self) -> dict[str, Any]:
        """What the record keeps."""
        rows = dataclasses.asdict(self)
        left_out = "available", "budget", "is_complete"
        kept = {name: value for name, value in rows.items() if name not in left_out}
        return kept | {"available_bytes": self.available}


def coupled_table(found: Findings) -> Table:
    """The table of both methods; computed rows are marked."""
    measured = sorted(found.measured, key=lambda row: (row["unknowns"], row["method"]))
    rows = [*measured, *found.computed]
    return Table(
        title=f"Coupled unknowns: linear regression, {ROWS_PER_FEATURE} n rows of n features",
        columns=("n", "method", "X", "predicted", "peak", "time", "error"),
        rows=tuple((f"{row['unknowns']:,}", row["method"], *_cells(row)) for row in rows),
        computed=frozenset(range(len(measured), len(rows))),
    )


def separable_tables(found: Findings) -> tuple[Table, ...]:
    """The table of the derivative method on separable unknowns, if it was measured."""
    rows = found.separable
    if not rows:
        return ()
    table = Table(
        title="Separable unknowns: a sum of squares, by the derivative method",
        columns=("n", "x", "predicted", "peak", "time", "error"),
        rows=tuple((f"{row['unknowns']:,}", *_cells(row)) for row in rows),
    )
    return (table,)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """The columns that both tables have."""
    return (
        readable_bytes(row["data_bytes"]),
        readable_bytes(row["predicted_bytes"]),
        _peak(row),
        readable_seconds(row["seconds"]),
        f"{row['error']:.0e}" if "error" in row else "computed",
    )


def _peak(row: dict[str, Any]) -> str:
    peak = row.get("peak_bytes")
    if peak is None:
        return ""
    return readable_bytes(peak) if peak >= RESOLUTION_BYTES else "< 1 MB"


def points(found: Findings) -> tuple[PlottedPoint, ...]:
    """Memory and time of every row, each marked as measured or computed."""

    def two_points(row: dict[str, Any], series: str) -> tuple[PlottedPoint, PlottedPoint]:
        size, is_measured = row["unknowns"], "peak_bytes" in row
        peak = row.get("peak_bytes")
        is_seen = peak is not None and peak >= RESOLUTION_BYTES
        return (
            PlottedPoint(series, size, peak if is_seen else row["predicted_bytes"], None, is_seen),
            PlottedPoint(series, size, None, row["seconds"], is_measured),
        )

    return (
        *(
            p
            for row in [*found.measured, *found.computed]
            for p in two_points(row, f"{NAMES[row['method']]}, coupled")
        ),
        *(p for row in found.separable for p in two_points(row, "derivative method, separable")),
    )


def remarks(found: Findings) -> tuple[str, ...]:
    """How computed rows were obtained, and what ended the measured ones."""
    lines = [f"Not measured: {failure}" for failure in found.failures]
    if found.computed:
        lines.append(
            "Computed rows scale the last measured time by n³ (derivative method) and n² (descent, "
            "at the same number of iterations). What stops descent there is not the method but a "
            "dense X: it must be streamed, or known by its products alone."
        )
    reasons = {
        "memory": f"would exceed the {readable_bytes(found.available)} of memory available",
        "time": f"would exceed the time budget of {found.budget:.0f} s",
        "failure": "failed: see above",
    }
    lines.extend(
        f"{NAMES[name].capitalize()}: the next size {reasons[reason]}."
        for name, reason in found.stopped_because.items()
    )
    if found.refusal:
        lines.append(
            f"Asked for n = {REFUSED_SIZE:,}, with X written out, jaxdescent refuses before it "
            f"allocates: {found.refusal}"
        )
    return tuple(lines)


def verdict(found: Findings) -> tuple[str, ...]:
    """Sentences on the sizes that both methods reached, and on those that neither can."""
    sentences: list[str] = []
    solved = last_row(found.measured, "derivative")
    if solved:
        wall = _largest_that_fits(found.available)
        sentences.append(
            f"With coupled unknowns the derivative method was measured up to n = "
            f"{solved['unknowns']:,}: {readable_seconds(solved['seconds'])} and "
            f"{readable_bytes(solved['peak_bytes'] or solved['predicted_bytes'])} besides X. The "
            f"{readable_bytes(found.available)} available here would be full at n = {wall:,}, by "
            f"computation, X included."
        )
    needed = last_row(found.computed, "derivative")
    if needed and needed["unknowns"] == LLAMA_SIZE:
        one_matrix = ITEMSIZE * LLAMA_SIZE**2
        sentences.append(
            f"For {LLAMA_SIZE:,} coupled unknowns its matrix alone would take "
            f"{readable_bytes(one_matrix)}, its solve {readable_bytes(needed['predicted_bytes'])}: "
            "there it cannot be used."
        )
    walked = last_row(found.measured, "descent")
    if walked:
        sentences.append(
            f"Descent solved n = {walked['unknowns']:,} in {readable_seconds(walked['seconds'])} "
            f"({walked['iterations']} iterations, relative error {walked['error']:.0e}) and keeps "
            "a few vectors besides X."
        )
    if found.separable:
        last = found.separable[-1]
        sentences.append(
            "With separable unknowns the derivative method never breaks down: it is one division "
            f"for each unknown, and solved n = {last['unknowns']:,} in "
            f"{readable_seconds(last['seconds'])}."
        )
    return tuple(sentences)


def _largest_that_fits(available: int) -> int:
    """The largest n, to two digits, whose X and solve fit together."""
    low, high = 1, 2**40
    while high - low > 1:
        middle = (low + high) // 2
        fits = data_bytes(middle) + working_bytes("derivative", middle) <= available
        low, high = (middle, high) if fits else (low, middle)
    unit = max(10 ** (len(str(low)) - 2), 1)
    return low // unit * unit
