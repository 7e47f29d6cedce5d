"""The command ``jaxdescent plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import typer

from jaxdescent.cli.command_line import failing_in_one_line
from jaxdescent.cli.options import (
    File,
    Platform,
    check_picture,
    choose_device,
    count,
    flag,
    option,
    require,
)

if TYPE_CHECKING:
    from jaxdescent.cost.structure import Structure


LONG_NAMES = {"f32": "float32", "f64": "float64", "bf16": "bfloat16"}


def plan(
    *,
    rows: int | None = option("Rows of X: 1000 or 1e9.", "INTEGER", parser=count),
    features: int | None = option("Columns of X.", "INTEGER", parser=count),
    outputs: int = option("Columns of y.", min=1, default=1),
    density: float = option("Share of X that is not zero: 1 here, see jd.plan.", default=1.0),
    dtype: Literal["float32", "f32", "float64", "f64", "bfloat16", "bf16"] = option(
        "The dtype of X.", default="float32"
    ),
    l2: float = option("The ridge penalty.", default=0.0),
    device: str | None = option(
        "cpu, gpu or tpu of this host (the last two are not verified), or devices that "
        "need not be here: h100, 8xh100, v5e:16x16, ...",
        shown="the best of this host",
    ),
    exact: bool = flag("--exact", "Compile what fits, and show what the compiler reserves."),
    machine: bool = flag("--machine", "Show what was measured of this machine."),
    recalibrate: bool = flag("--recalibrate", "Measure this machine again."),
    as_json: bool = flag("--json", "Print JSON instead of tables."),
    plot: File = option("Draw memory against features.", dir_okay=False),
) -> None:
    """Show what each method would need for a linear regression here, and which one to take.

    Nothing of the problem's size is allocated: 8,000,000,000 rows take no longer than 8. The
    machine is measured, in a few seconds, the first time; devices that are not here are priced by
    their published figures.
    """
    is_share = 0 < density <= 1
    require(is_share, "--density", f"must be above 0 and at most 1, got {density:g}.")
    says = (
        "what a sparse X costs depends on where its entries are: plan for a dense X, or in "
        "Python for a jd.Sparse, jd.plan(jd.LinearRegression(jd.Sparse(matrix), y))."
    )
    require(density == 1, "--density", says)
    require(0 <= l2 < float("inf"), "--l2", f"must be at least 0 and finite, got {l2:g}.")
    if rows is None or features is None:
        is_of_machine = machine and rows is None and features is None
        says = "is missing: give --rows and --features, or --machine alone."
        is_enough = is_of_machine and plot is None and not exact
        require(is_enough, "--rows" if rows is None else "--features", says)
    check_picture(plot)
    here = next((name for name in get_args(Platform) if name == device), None)
    is_elsewhere = device is not None and here is None
    says = f"measures a device of this host, got --device {device}: leave one of them out."
    require(not (is_elsewhere and recalibrate), "--recalibrate", says)
    mesh = None
    if device is not None and is_elsewhere:
        from jaxdescent.planning.hardware import mesh_named

        try:
            mesh = mesh_named(device).name
        except ValueError as error:
            says = f"{error} On this host: {', '.join(get_args(Platform))}."
            raise typer.BadParameter(says, param_hint="--device") from error
    # A plan for devices that are not attached runs nothing on those that are.
    choose_device("cpu" if mesh else here)

    import jax
    from rich.console import Console

    from jaxdescent.cost import report as plan_report
    from jaxdescent.cost.structure import regression_structure
    from jaxdescent.machine import Machine
    from jaxdescent.plan import plan as plan_objective
    from jaxdescent.regression import LinearRegression

    console = Console()
    measured = Machine.published(mesh) if mesh else Machine.measured(recalibrate=recalibrate)
    if rows is None or features is None:
        if as_json:
            print(measured.to_json())
        else:
            plan_report.show_machine(measured, console)
        return
    rows_per_feature = rows / features
    stored = LONG_NAMES.get(dtype, dtype)

    def structure_at(size: int) -> Structure:
        return regression_structure(
            max(round(rows_per_feature * size), 1),
            size,
            outputs=outputs,
            dtype=stored,
            has_penalty=l2 > 0,
        )

    def shape(*sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, stored)

    with jax.enable_x64(stored == "float64"):
        y = shape(rows, outputs) if outputs > 1 else shape(rows)
        objective = LinearRegression(shape(rows, features), y, l2=l2)
        try:
            planned = plan_objective(objective, device=mesh if exact else measured, exact=exact)
        except (ImportError, ValueError) as error:
            raise typer.BadParameter(str(error), param_hint="--exact") from error
    if as_json:
        print(planned.to_json())
    else:
        if machine:
            plan_report.show_machine(measured, console)
            console.print()
        plan_report.show_plan(planned, console)
    if plot is not None:
        with failing_in_one_line("jaxdescent.cost.report"):
            plan_report.draw(structure_at, features, rows_per_feature, measured, plot)
    if not as_json:
        console.print()
        console.print(plan_report.reach(structure_at, rows_per_feature, measured), highlight=False)
