"""A plan as the command shows it: the table, the machine, the largest problems, and a picture."""

from __future__ import annotations

import math
import pathlib
from datetime import datetime

from rich.console import Console
from rich.text import Text

from jaxdescent.cost.plan import Plan
from jaxdescent.cost.planning import SizedStructure, candidates_at, largest_sizes
from jaxdescent.display import Report, broken, readable_seconds
from jaxdescent.kernels.memory import readable_bytes
from jaxdescent.machine import Machine
from jaxdescent.rows.errors import save_picture

COLOURS = {
    "DerivativeMethod()": "#c4411f",
    "LSMR(Sketch())": "#7b4fa3",
    "LSMR()": "#1f5fa8",
    "GradientDescent(Backtracking())": "#2e8b57",
}
DECADES = 3
"""The powers of ten that are drawn to each side of the planned problem."""

LEFT_OUT_FIRST = (
    "form",
    "accuracy",
    "setup",
    "links in all",
    "with data",
    "iteration",
    "memory",
)
"""The columns that narrow terminals leave out, in this order; the JSON has them."""


def show_plan(plan: Plan, console: Console) -> None:
    """Print the candidates, the choice in bold, and what the numbers assume."""
    grid = plan.grid()
    for name in LEFT_OUT_FIRST:
        if max(map(len, grid.lines())) + 2 > console.width:
            grid = grid.without(name)
    heads, *rows = grid.lines()
    at = heads.rindex(grid.heads[-1])
    console.print(Text(f"{grid.title}\n", "bold"))
    console.print(Text(heads, "dim"))
    for candidate, row in zip(plan.candidates, rows, strict=True):
        # Why a candidate does not fit is broken below the head of its column.
        parts = broken(row[at:], console.width, at)
        line = row[:at] + f"\n{'':{at}}".join(parts)
        is_chosen = candidate is plan.chosen
        style = "bold green" if is_chosen else "" if candidate.feasible else "dim"
        console.print(Text(line, style))
    console.print()
    for note in grid.notes:
        console.print(Text(note))


def show_machine(machine: Machine, console: Console) -> None:
    """Print every rate of a machine with its unit."""
    origin = machine.source or "default numbers, not measured"
    if machine.is_measured:
        day = datetime.fromtimestamp(machine.measured_at).strftime("%Y-%m-%d %H:%M")
        origin = f"measured {day}, others used {machine.others:.0%} of the cores"
    here = [
        ("cache", readable_bytes(machine.cache_bytes)),
        ("a small operation", readable_seconds(machine.operation_seconds)),
    ]
    device = "device", f"{machine.platform}, {machine.kind}, {machine.cores} cores"
    if machine.name:
        here = [("over the links", f"{readable_bytes(machine.link_bandwidth)}/s a device")]
        device = "devices", f"{machine.devices:,} x {machine.kind}"
    reading, products = (
        [(f"{what}, {dtype}", f"{readable(rate)}/s") for dtype, rate in rates.items()]
        for what, rates, readable in (
            ("reading X", machine.read_bandwidth, readable_bytes),
            ("matrix products", machine.product_rate, _operations),
        )
    )
    rows = [
        device,
        ("rates", origin),
        ("memory", f"{readable_bytes(machine.memory_bytes)} available"),
        *reading,
        *products,
        ("QR", f"{_operations(machine.orthogonal_rate)}/s"),
        *here,
    ]
    console.print(Text(Report("", "", rows).as_text(console.width)))


def _operations(count: float) -> str:
    return f"{count / 1e9:.3g} Gflop"


def reach(structure_at: SizedStructure, rows_per_feature: float, machine: Machine) -> str:
    """A sentence on the largest coupled problems for the derivative method and for descent."""
    sizes = largest_sizes(structure_at, machine)
    direct = sizes.pop("DerivativeMethod()")
    solve = candidates_at(structure_at, direct, machine)["DerivativeMethod()"]
    name = max(sizes, key=lambda name: sizes[name])
    descent = sizes[name]
    candidate = candidates_at(structure_at, descent, machine)[name]
    on_each = " on each device" if machine.devices > 1 else ""
    return (
        f"With {rows_per_feature:,.3g} rows a feature and {readable_bytes(machine.memory_bytes)} "
        f"of memory{on_each}, data included, the largest coupled problem that the derivative "
        f"method can solve on {machine.name or 'this machine'} has {direct:,} features (about "
        f"{readable_seconds(solve.seconds)}), and the largest that descent can, by "
        f"{candidate.name}, has {descent:,} (about {readable_seconds(candidate.seconds)})."
    )


def draw(
    structure_at: SizedStructure,
    features: int,
    rows_per_feature: float,
    machine: Machine,
    path: pathlib.Path,
) -> None:
    """Write a PNG: memory besides the data on the left, with the data on the right; the planned
    problem and the machine's memory are marked.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator

    from jaxdescent.display import figures  # matplotlib takes half a second to import

    first = max(math.log10(features) - DECADES, 0.0)
    last = math.log10(features) + DECADES
    exponents = [first + (last - first) * step / 120 for step in range(121)]
    sizes = sorted({_rounded(10**exponent) for exponent in exponents})
    plans = [candidates_at(structure_at, size, machine) for size in sizes]
    figure, both = figures.new_figure((12, 5.2), 2, sharey=True)
    pictures = {"Memory besides the data": "working_bytes", "Memory, data included": "peak_bytes"}
    for axes, (title, attribute) in zip(both, pictures.items(), strict=True):
        for name, colour in COLOURS.items():
            points = [
                (size, getattr(candidates[name], attribute))
                for size, candidates in zip(sizes, plans, strict=True)
                if name in candidates
            ]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=2, label=name)
        xlabel = f"features, with {rows_per_feature:,.3g} rows each"
        figures.finish_loglog(axes, title, xlabel)
        limit = f"{machine.name or 'this machine'}: {readable_bytes(machine.memory_bytes)}"
        figures.draw_limit(axes, machine.memory_bytes, limit)
        figures.draw_mark(axes, features, f"{features:,}")
        axes.yaxis.set_major_locator(LogLocator(1000.0, numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: readable_bytes(y)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _power(x)))
    figures.draw_legend(figure, both[0])
    save_picture(figure, path)


def _rounded(size: float) -> int:
    """Large sizes are multiples of 64, for which a CPU sums rows in runs of the same length."""
    return max(round(size), 1) if size < 512 else 64 * round(size / 64)


def _power(x: float) -> str:
    return f"{x:,.0f}" if x < 1e4 else f"$10^{{{round(math.log10(x))}}}$"
