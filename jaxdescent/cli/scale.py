"""The command ``jaxdescent scale``."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import typer

from jaxdescent.cli.command_line import failing_in_one_line, join, split_names
from jaxdescent.cli.options import (
    COORDINATOR,
    DISTRIBUTED,
    PROCESS,
    PROCESSES,
    RESUME,
    File,
    Names,
    check_picture,
    count,
    option,
    require,
)


def scale(
    experiment: File = typer.Argument(None, help="A TOML file; options replace what it says."),
    *,
    problem: Names = option("dense, sparse, hashed, categorical, llama3-8b."),
    rows: Names = option("Rows: 1000,1e6."),
    features: Names = option("Columns of X."),
    method: Names = option("cg, lsmr, lbfgs, gradient, gram, direct..."),
    dtype: Names = option("float32, bfloat16, float64."),
    outputs: Names = option("Targets of each row, of dense ones."),
    layout: Names = option("samples, features, both, outputs."),
    devices: Names = option("Numbers of devices, of those here.", shown="all"),
    rehearse: Names = option("Devices to compile for that are not here: v5e:16x16,8xh100."),
    weak: bool | None = option(
        "Rows (outputs) of each device, or of the whole.", name="--weak/--strong"
    ),
    iterations: int | None = option("Timed iterations.", min=1),
    repeats: int | None = option("Timings of each point.", min=1),
    seed: int | None = option("The seed of the data.", min=0),
    virtual_devices: int | None = option("Show this host's CPU as so many devices.", min=1),
    distributed: bool = DISTRIBUTED,
    coordinator: str | None = COORDINATOR,
    processes: int | None = PROCESSES,
    process: int | None = PROCESS,
    output: File = option(
        "JSON lines are added here; known points are skipped.", dir_okay=False, shown="scale.jsonl"
    ),
    checkpoint: File = option(
        "Keep this experiment here instead, each point once it is measured.", "FOLDER"
    ),
    resume: bool = RESUME,
    plot: File = option("A .png file to draw.", dir_okay=False),
) -> None:
    """Measure a program on growing numbers of devices, or rehearse it for devices elsewhere.

    Each combination of the given sizes, methods, layouts and devices is a point. A rehearsal
    compiles a point with the compiler of hardware that is not here, and shows memory, what is sent,
    and the predicted time; errors of a cluster (memory, axes that cannot be shared) show at once.
    """
    kept = "are in the file"
    if checkpoint is not None:
        kept = f"are kept in {checkpoint}; the same command with --resume goes on"
    with failing_in_one_line("jaxdescent.scale", f"points that were finished {kept}"):
        import jax
        from rich.console import Console

        from jaxdescent import scale as room
        from jaxdescent.kernels import host
        from jaxdescent.processes import Stopped, among_all, check_alike, leave_without_others
        from jaxdescent.scale import figures, record, report
        from jaxdescent.scale import plot as picture
        from jaxdescent.scale.experiment import BadExperiment, Experiment

        def asked() -> dict[str, Any]:
            """The fields of the experiment that is asked for, before JAX has devices."""
            require(checkpoint is not None or not resume, "--resume", "needs --checkpoint FOLDER.")
            says = f"{checkpoint} has a file of its own, and --output names another: leave one out."
            require(checkpoint is None or output is None, "--checkpoint", says)
            names = {"problems": problem, "methods": method, "dtypes": dtype}
            names |= {"layouts": layout, "rehearse": rehearse}
            counts = {"rows": rows, "features": features, "outputs": outputs, "devices": devices}
            given: dict[str, Any] = {"iterations": iterations, "repeats": repeats, "seed": seed}
            given |= {name: split_names(texts) for name, texts in names.items()}
            given |= {name: _counts(texts, f"--{name}") for name, texts in counts.items()}
            given["scaling"] = None if weak is None else "weak" if weak else "strong"
            given = {name: value for name, value in given.items() if value not in (None, ())}
            try:
                grid = Experiment.from_toml(experiment).given() if experiment else {}
                Experiment.of(grid | given, "the command line")
            except BadExperiment as error:
                raise typer.BadParameter(str(error)) from error
            return grid | given

        wanted, wrong = {}, None
        try:
            wanted = asked()
            if not distributed:
                _check_files(plot, output)
        except typer.BadParameter as error:
            wrong = error
            if not distributed:  # otherwise the others would wait for this process to join them
                raise
        # Points that are rehearsed are not measured here as well, unless --devices asks for it.
        is_elsewhere = "rehearse" in wanted and "devices" not in wanted
        # JAX's plugins for devices that are not attached, with which rehearsals compile, fail to
        # start.
        if cpus := virtual_devices or is_elsewhere:
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", int(cpus))
        join(distributed, coordinator, processes, process)
        is_first, path = jax.process_index() == 0, output or pathlib.Path("scale.jsonl")
        try:
            with among_all("scale"):
                if wrong is not None:
                    raise wrong
                if "devices" not in wanted:
                    wanted["devices"] = () if is_elsewhere else (host.attached_devices(),)
                chosen = Experiment.of(wanted, "the command line")
                chosen.points()  # before a folder is made for an experiment that cannot be run
                check_alike({"the experiments": dataclasses.asdict(chosen)})
                if is_first:
                    _check_files(plot, output)
                    if checkpoint is not None:
                        path = record.opened(checkpoint, chosen, resume=resume)
            console = Console(quiet=not is_first)
            tell = Console(stderr=True, quiet=not is_first)
            lines = room.run(chosen, path, lambda text: tell.print(text, highlight=False))
        except BadExperiment as error:
            raise typer.BadParameter(str(error)) from error
        except KeyboardInterrupt as error:
            if not isinstance(error, Stopped):
                leave_without_others()
            raise
        report.show(lines, console)
        if any(line["rehearsed"] for line in lines):
            console.print(figures.ASSUMPTIONS, style="dim", highlight=False)
        with among_all("the end of scale"):
            if plot is not None and is_first:
                picture.draw(lines, plot)
    if any("error" in line["figures"] for line in lines):
        raise typer.Exit(1)


def _check_files(plot: File, output: File) -> None:
    """Refuse files that cannot be written by the process that writes."""
    check_picture(plot)
    is_there = output is None or output.parent.is_dir()
    require(is_there, "--output", f"must be in a folder that exists, got {output}.")


def _counts(texts: Names, name: str) -> tuple[int, ...]:
    try:
        return tuple(map(count, split_names(texts)))
    except typer.BadParameter as error:
        error.param_hint = name
        raise
