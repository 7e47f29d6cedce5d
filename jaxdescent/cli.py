"""The command line: ``jaxdescent fit``, ``predict``, ``inspect``, ``plan``, ``breakdown``, ..."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import os
import pathlib
from typing import Annotated

import jax
import typer
from rich.console import Console

from jaxdescent import agreement
from jaxdescent.fit import commands
from jaxdescent.fit.command_line import (
    Coordinator,
    Distributed,
    Process,
    Processes,
    failing_in_one_line,
    join,
)
from jaxdescent.fit.together import check_alike
from jaxdescent.scale import commands as scaling

app = typer.Typer(
    help="Minimise by the derivative method where it can be used, by gradient descent where not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(commands.fit)
app.command()(commands.predict)
app.command()(commands.inspect)
app.command()(scaling.scale)

SMALLEST = 4096
INTERLEAVE = "--xla_backend_extra_options=-force-vector-interleave=4"

DEFAULT_BUDGET, QUICK_BUDGET = 100.0, 10.0


class Device(enum.StrEnum):
    """The platform to run on."""

    cpu = "cpu"
    gpu = "gpu"
    tpu = "tpu"


class PlanDtype(enum.StrEnum):
    """The dtype in which X is stored."""

    float32 = "float32"
    f32 = "f32"
    float64 = "float64"
    f64 = "f64"
    bfloat16 = "bfloat16"
    bf16 = "bf16"


LONG_NAMES = {"f32": "float32", "f64": "float64", "bf16": "bfloat16"}


class StorageDtype(enum.StrEnum):
    """The dtype in which part 3 stores its parameters."""

    bfloat16 = "bfloat16"
    float32 = "float32"


def main() -> None:
    """The entry point of the script ``jaxdescent``."""
    app()


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"must be a positive number of seconds, got {value:g}.")
    return value


@app.command()
def breakdown(
    *,
    part: Annotated[
        int | None, typer.Option(min=1, max=5, help="Run this part alone.", show_default="all")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Run part 3 with its two coupled problems.")
    ] = False,
    params: Annotated[
        int | None,
        typer.Option(min=1, help="Part 3: the most parameters.", show_default="8,030,261,248"),
    ] = None,
    dtype: Annotated[
        StorageDtype | None,
        typer.Option(help="Part 3: how parameters are stored.", show_default="what fits"),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            callback=_positive,
            metavar="SECONDS",
            help="Part 2: how long to go on to larger sizes; other parts scale with it.",
            show_default=f"{DEFAULT_BUDGET:.0f}",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run it all in less than a minute.")
    ] = False,
    device: Annotated[
        Device | None,
        typer.Option(help="Where to run; gpu and tpu are not verified.", show_default="the best"),
    ] = None,
    output: Annotated[
        pathlib.Path | None,
        typer.Option(
            file_okay=False,
            help="The folder for the JSON file and the plot.",
            show_default="breakdown-DATE-TIME",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The seed.")] = 0,
    checkpoint: Annotated[
        pathlib.Path | None,
        typer.Option(
            file_okay=False,
            help="Part 3: the folder in which its descents are kept once a minute, and after "
            "Ctrl-C.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Part 3: go on from what --checkpoint has.")
    ] = False,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
) -> None:
    """Show where the derivative method breaks down on this machine, and what descent does there.

    1: two small functions. 2: coupled and separable unknowns of growing number. 3: eight billion
    parameters. 4: real data. 5: real text with 2^33 weights, of which few are touched. Ends with a
    verdict, a plot and a JSON file; Ctrl-C keeps what was measured. With --distributed part 3 is
    computed by the devices of all processes, and the first process runs the other parts.
    """

    def check() -> None:
        if part not in (None, 3):
            given = {"--all": everything, "--params": params is not None}
            given |= {"--dtype": dtype is not None}
            given |= {"--checkpoint": checkpoint is not None, "--resume": resume}
            for name in (name for name, is_given in given.items() if is_given):
                raise typer.BadParameter(f"belongs to part 3, got --part {part}.", param_hint=name)
        if resume and checkpoint is None:
            raise typer.BadParameter("needs --checkpoint FOLDER.", param_hint="--resume")
        if params is not None and params < SMALLEST:
            raise typer.BadParameter(
                f"must be at least {SMALLEST:,}, the smallest array of the model, got {params:,}.",
                param_hint="--params",
            )

    if not distributed:  # else the others wait for this process to join them
        check()
    with failing_in_one_line():
        _prepare_process(device)
        from jaxdescent import breakdown as story

        settings = story.Settings(
            budget=budget or (QUICK_BUDGET if quick else DEFAULT_BUDGET),
            quick=quick,
            everything=everything or part is None,
            max_params=params,
            dtype=dtype.value if dtype else None,
            seed=seed,
            checkpoint=checkpoint,
            resume=resume,
        )
        parts = list(story.PARTS) if part is None else [part]
        if distributed:
            # SIGTERM ends what is of one process too, as Ctrl-C does. JAX would take it for a
            # notice, which all of them have to ask for.
            jax.config.update("jax_enable_preemption_service", False)
        join(distributed, coordinator, processes, process)
        with agreement.among_all("breakdown"):
            check()
            _choose_device(device)
            check_alike({"the options": [dataclasses.asdict(settings), parts]})
        now = datetime.datetime.now()
        folder = output or pathlib.Path(f"breakdown-{now:%Y%m%d-%H%M%S}")
        console = Console(quiet=jax.process_index() > 0 if distributed else False)
        raise typer.Exit(story.run(settings, parts, folder, console))


def _count(text: str) -> int:
    """A whole number, written as 1000000000, 1_000_000_000 or 1e9."""
    try:
        number = decimal.Decimal(text.replace(",", "").replace("_", ""))
    except decimal.InvalidOperation:
        raise typer.BadParameter(f"must be a number such as 1000 or 1e9, got {text!r}.") from None
    if not number.is_finite() or number < 1 or number != int(number):
        raise typer.BadParameter(f"must be a whole number of at least 1, got {text!r}.")
    return int(number)


@app.command()
def plan(
    *,
    rows: Annotated[
        int | None,
        typer.Option(
            parser=_count, metavar="INTEGER", help="Rows of X: 1000 or 1e9.", show_default=False
        ),
    ] = None,
    features: Annotated[
        int | None,
        typer.Option(parser=_count, metavar="INTEGER", help="Columns of X.", show_default=False),
    ] = None,
    outputs: Annotated[int, typer.Option(min=1, help="Columns of y.")] = 1,
    density: Annotated[
        float, typer.Option(help="Share of X that is not zero: 1 here, see jd.plan.")
    ] = 1.0,
    dtype: Annotated[PlanDtype, typer.Option(help="The dtype of X.")] = PlanDtype.float32,
    l2: Annotated[float, typer.Option(help="The ridge penalty.")] = 0.0,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, gpu or tpu of this host (the last two are not verified), or devices that "
            "need not be here: h100, 8xh100, v5e:16x16, ...",
            show_default="the best of this host",
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Compile what fits, and show what the compiler reserves."),
    ] = False,
    machine: Annotated[
        bool, typer.Option("--machine", help="Show what was measured of this machine.")
    ] = False,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Measure this machine again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    plot: Annotated[
        pathlib.Path | None,
        typer.Option(dir_okay=False, help="Draw memory against features.", show_default=False),
    ] = None,
) -> None:
    """Show what each method would need for a linear regression here, and which one to take.

    Nothing of the problem's size is allocated: 8,000,000,000 rows take no longer than 8. The
    machine is measured, in a few seconds, the first time; devices that are not here are priced by
    their published figures.
    """
    if not 0 < density <= 1:
        raise typer.BadParameter(
            f"must be above 0 and at most 1, got {density:g}.", param_hint="--density"
        )
    if density < 1:
        raise typer.BadParameter(
            "what a sparse X costs depends on where its entries are: plan for a dense X, or in "
            "Python for a jd.Sparse, jd.plan(jd.LinearRegression(jd.Sparse(matrix), y)).",
            param_hint="--density",
        )
    if not 0 <= l2 < float("inf"):
        raise typer.BadParameter(f"must be at least 0 and finite, got {l2:g}.", param_hint="--l2")
    if rows is None or features is None:
        missing = "--features" if rows is not None else "--rows"
        alone = rows is None and features is None and plot is None and not exact
        if not machine or not alone:
            raise typer.BadParameter(
                "is missing: give --rows and --features, or --machine alone.", param_hint=missing
            )
    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise typer.BadParameter(
            f"must be a .png file in a folder that exists, got {plot}.", param_hint="--plot"
        )
    is_elsewhere = device is not None and device not in list(Device)
    if is_elsewhere and recalibrate:
        raise typer.BadParameter(
            f"measures a device of this host, got --device {device}: leave one of them out.",
            param_hint="--recalibrate",
        )
    mesh = _mesh(device) if is_elsewhere else None
    # A plan for devices that are not attached runs nothing on those that are.
    _choose_device(Device.cpu if mesh else Device(device) if device else None)

    from jaxdescent import foresight
    from jaxdescent.machine import Machine
    from jaxdescent.plan import plan_of
    from jaxdescent.plan import report as plan_report
    from jaxdescent.plan.structure import Structure, regression_structure
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
    stored = LONG_NAMES.get(dtype.value, dtype.value)

    def structure_at(size: int) -> Structure:
        return regression_structure(
            max(round(rows_per_feature * size), 1),
            size,
            outputs=outputs,
            dtype=stored,
            has_penalty=l2 > 0,
        )

    if exact:
        with jax.enable_x64(stored == "float64"):
            targets = (rows, outputs) if outputs > 1 else (rows,)
            objective = LinearRegression(
                jax.ShapeDtypeStruct((rows, features), stored),
                jax.ShapeDtypeStruct(targets, stored),
                l2=l2,
            )
            try:
                planned = foresight.plan(objective, device=mesh, exact=True)
            except (ImportError, ValueError) as error:
                raise typer.BadParameter(str(error), param_hint="--exact") from error
    else:
        planned = plan_of(structure_at(features), measured)
    if as_json:
        print(planned.to_json())
    else:
        if machine:
            plan_report.show_machine(measured, console)
            console.print()
        plan_report.show_plan(planned, console)
    if plot is not None:
        from jaxdescent.plan import plot as picture

        picture.draw(structure_at, features, rows_per_feature, measured, plot)
    if not as_json:
        console.print()
        console.print(plan_report.reach(structure_at, rows_per_feature, measured), highlight=False)


def _mesh(name: str | None) -> str | None:
    from jaxdescent.machine import mesh_named

    try:
        return mesh_named(name or "").name
    except ValueError as error:
        raise typer.BadParameter(
            f"{error} On this host: {', '.join(Device)}.", param_hint="--device"
        ) from error


def _prepare_process(device: Device | None) -> None:
    """Choose the device for this process and its children, before JAX initialises one.

    Only here is any global setting changed; the library itself never does that.
    """
    # LLVM then interleaves four vectors of a loop instead of two, which runs more chains of
    # multiply-adds at once: part 3 is 1.4 times as fast. XLA reads its flags at the first
    # computation, and applies this one to the whole process or not at all.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{INTERLEAVE} {flags}".strip()
    # OpenBLAS, which factorises matrices for JAX on CPUs, lets its threads spin for 2^26 cycles
    # after each call, on cores that XLA could use. It reads this variable when the first
    # factorisation loads it.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")
    # Part 2's child processes share the device's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if device is Device.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")


def _choose_device(device: Device | None) -> None:
    if device is Device.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")
    elif device is not None:
        _require(device)


def _require(device: Device) -> None:
    """Raise unless JAX has chosen this device, as it does if it finds one."""
    try:
        found = jax.devices()[0].platform
    except RuntimeError as error:
        found = f"nothing ({error})"
    if found != device.value:
        raise typer.BadParameter(
            f"JAX finds no {device.value} here, only {found}: install the JAX that is made for it, "
            "or leave the option out.",
            param_hint="--device",
        )
