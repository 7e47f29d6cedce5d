"""A plan in a terminal: the table, the machine, and the largest problems that can be solved."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxdescent.cost.largest import SizedStructure, largest_by_descent, largest_size
from jaxdescent.cost.plan import TEXT_COLUMNS, Plan, plan_of
from jaxdescent.display import readable_seconds
from jaxdescent.machine import Machine
from jaxdescent.machine.memory import readable_bytes

LEFT_OUT_FIRST = (
    "form",
    "accuracy",
    "setup",
    "links in all",
    "with data",
    "iteration",
    "memory",
)
"""The columns that narrow terminals leave out, in this order."""


def show_plan(plan: Plan, console: Console) -> None:
    """Print the candidates, the choice in bold, and what the numbers assume."""
    console.print(Text(f"Plan for {plan.structure.describe()}", style="bold"))
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns, shown = plan.columns(), _shown_columns(plan, console.width)
    for index in shown:
        justify = "left" if columns[index] in TEXT_COLUMNS else "right"
        is_whole = columns[index] != "fits"  # reasons are wrapped
        table.add_column(columns[index], justify=justify, header_style="dim", no_wrap=is_whole)
    for candidate, row in zip(plan.candidates, plan.rows(), strict=True):
        style = "bold green" if candidate is plan.chosen else None if candidate.feasible else "dim"
        table.add_row(*(Text(row[index]) for index in shown), style=style)
    console.print(table)
    console.print()
    for note in plan.notes():
        console.print(Text(note))


def _shown_columns(plan: Plan, width: int) -> list[int]:
    """The indices of the columns that fit this width; the JSON has the others."""
    columns = plan.columns()
    rows = [columns, *plan.rows()]
    shown = list(range(len(columns)))
    for name in LEFT_OUT_FIRST:
        taken = sum(max(len(row[index]) for row in rows) + 2 for index in shown)
        if taken > width and name in columns:
            shown.remove(columns.index(name))
    return shown


def show_machine(machine: Machine, console: Console) -> None:
    """Print every rate of a machine with its unit."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column()
    origin = "default numbers, not measured"
    if machine.is_measured:
        day = datetime.fromtimestamp(machine.measured_at).strftime("%Y-%m-%d %H:%M")
        origin = (
            f"measured {day}, others used {machine.others:.0%} of the cores, typical runs up to "
            f"{machine.spread:.2g} times the best"
        )
    if machine.name:
        origin = machine.source
    rows = [
        ("device", f"{machine.platform}, {machine.kind}, {machine.cores} cores"),
        ("rates", origin),
        ("memory", f"{readable_bytes(machine.memory_bytes)} available"),
        *(
            (f"reading X, {dtype}", f"{readable_bytes(rate)}/s")
            for dtype, rate in machine.read_bandwidth.items()
        ),
        ("cache", readable_bytes(machine.cache_bytes)),
        *(
            (f"matrix products, {dtype}", f"{rate / 1e9:.3g} Gflop/s")
            for dtype, rate in machine.product_rate.items()
        ),
        ("QR", f"{machine.orthogonal_rate / 1e9:.3g} Gflop/s"),
        ("a small operation", readable_seconds(machine.operation_seconds)),
    ]
    if machine.name:
        published = ("rates", "memory", "reading X, ", "matrix products", "QR")
        rows = [row for row in rows if row[0].startswith(published)]
        rows[:0] = [("devices", f"{machine.devices:,} x {machine.kind}")]
        rows.append(("over the links", f"{readable_bytes(machine.link_bandwidth)}/s a device"))
    for name, value in rows:
        table.add_row(name, Text(value))
    console.print(table)


def reach(structure_at: SizedStructure, rows_per_feature: float, machine: Machine) -> str:
    """A sentence on the largest coupled problems for the derivative method and for descent."""
    direct = largest_size(structure_at, machine, "DerivativeMethod()")
    descent, candidate = largest_by_descent(structure_at, machine)
    solve = next(
        candidate
        for candidate in plan_of(structure_at(max(direct, 1)), machine).candidates
        if candidate.name == "DerivativeMethod()"
    )
    where, on_each = "on this machine", ""
    memory = readable_bytes(machine.memory_bytes)
    if machine.name:
        where = f"on {machine.name}"
        on_each = " on each device" if machine.devices > 1 else ""
    return (
        f"With {rows_per_feature:,.3g} rows a feature and {memory} of memory{on_each}, "
        "data included, the largest coupled problem that the derivative method can "
        f"solve {where} has {direct:,} features (about {readable_seconds(solve.seconds)}), "
        f"and the largest that descent can, by {candidate.name}, has {descent:,} (about "
        f"{readable_seconds(candidate.seconds)})."
    )
