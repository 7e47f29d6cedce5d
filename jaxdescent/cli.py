"""The command line: ``jaxdescent breakdown``."""

from __future__ import annotations

import datetime
import enum
import os
import pathlib
from typing import Annotated

import jax
import typer
from rich.console import Console

app = typer.Typer(
    help="Minimise by the derivative method where it can be used, by gradient descent where not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SMALLEST = 4096
INTERLEAVE = "--xla_backend_extra_options=-force-vector-interleave=4"

DEFAULT_BUDGET, QUICK_BUDGET = 100.0, 10.0


class Device(enum.StrEnum):
    """Where to run."""

    cpu = "cpu"
    gpu = "gpu"
    tpu = "tpu"


class StorageDtype(enum.StrEnum):
    """How part 3 stores its parameters."""

    bfloat16 = "bfloat16"
    float32 = "float32"


def main() -> None:
    """The entry point of the script ``jaxdescent``."""
    app()


@app.callback()
def _commands() -> None:
    """Without a callback typer would make the only command the whole program."""


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"must be a positive number of seconds, got {value:g}.")
    return value


@app.command()
def breakdown(
    *,
    part: Annotated[
        int | None, typer.Option(min=1, max=4, help="Run this part alone.", show_default="all")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --part 3: its two coupled problems as well.")
    ] = False,
    params: Annotated[
        int | None,
        typer.Option(
            min=1, help="Part 3: how many parameters at most.", show_default="8,030,261,248"
        ),
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
        bool, typer.Option("--quick", help="All of it in less than a minute.")
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
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of all random numbers.")] = 0,
) -> None:
    """Show where the derivative method breaks down on this machine, and what descent does there.

    1: two small functions. 2: coupled and separable unknowns of growing number. 3: eight billion
    parameters. 4: real data. Ends with a verdict, a plot and a JSON file; Ctrl-C keeps what was
    measured.
    """
    if part not in (None, 3):
        given = {"--all": everything, "--params": params is not None, "--dtype": dtype is not None}
        for name in (name for name, is_given in given.items() if is_given):
            raise typer.BadParameter(f"belongs to part 3, got --part {part}.", param_hint=name)
    if params is not None and params < SMALLEST:
        raise typer.BadParameter(
            f"must be at least {SMALLEST:,}, the smallest array of the model, got {params:,}.",
            param_hint="--params",
        )
    _prepare_process(device)

    from jaxdescent import breakdown as story

    settings = story.Settings(
        budget=budget or (QUICK_BUDGET if quick else DEFAULT_BUDGET),
        quick=quick,
        everything=everything or part is None,
        max_params=params,
        dtype=dtype.value if dtype else None,
        seed=seed,
    )
    parts = list(story.PARTS) if part is None else [part]
    now = datetime.datetime.now()
    folder = output or pathlib.Path(f"breakdown-{now:%Y%m%d-%H%M%S}")
    raise typer.Exit(story.run(settings, parts, folder, Console()))


def _prepare_process(device: Device | None) -> None:
    """Choose the device for this process and its children, before JAX has started one.

    This is the one place that sets anything global: the library itself never does.
    """
    # LLVM interleaves four vectors of a loop instead of two, so that more chains of multiply-adds
    # are under way at once: part 3 runs 1.4 times as fast. XLA reads its flags with the first
    # computation, and takes this one for the whole process or not at all.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{INTERLEAVE} {flags}".strip()
    # Device memory is shared with part 2's child processes.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if device is Device.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")
    elif device is not None:
        _require(device)


def _require(device: Device) -> None:
    """JAX prefers an accelerator where it finds one: look whether it did."""
    try:
        found = jax.default_backend()
    except RuntimeError as error:
        found = f"nothing ({error})"
    if found != device.value:
        raise typer.BadParameter(
            f"JAX finds no {device.value} here, only {found}: install the JAX that is made for it, "
            "or leave the option out.",
            param_hint="--device",
        )
