"""The command ``jaxdescent breakdown``."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
from typing import Literal

import typer

from jaxdescent.cli.command_line import failing_in_one_line, join
from jaxdescent.cli.options import (
    COORDINATOR,
    DISTRIBUTED,
    PROCESS,
    PROCESSES,
    File,
    Platform,
    choose_device,
    flag,
    option,
    require,
)

SMALLEST = 4096
INTERLEAVE = "--xla_backend_extra_options=-force-vector-interleave=4"


def breakdown(
    *,
    part: int | None = option("Run this part alone.", min=1, max=5, shown="all"),
    everything: bool = flag("--all", "Run part 3 with its two coupled problems."),
    params: int | None = option("Part 3: the most parameters.", min=1, shown="8,030,261,248"),
    dtype: Literal["bfloat16", "float32"] | None = option(
        "Part 3: how parameters are stored.", shown="what fits"
    ),
    budget: float | None = option(
        "Part 2: how long to go on to larger sizes.",
        "SECONDS",
        "45; 12 with --quick, 100 with --thorough",
    ),
    quick: bool = flag("--quick", "Take small sizes: 40 to 90 seconds on two cores."),
    thorough: bool = flag(
        "--thorough", "Take the largest sizes: about 10 minutes; without it 3 to 5."
    ),
    device: Platform | None = option(
        "Where to run; gpu and tpu are not verified.", shown="the best"
    ),
    output: File = option(
        "The folder for the JSON file and the plot.", file_okay=False, shown="breakdown-DATE-TIME"
    ),
    seed: int = option("The seed.", min=0, max=2**31 - 1, default=0),
    checkpoint: File = option(
        "Part 3: the folder in which its descents are kept once a minute, and after Ctrl-C.",
        file_okay=False,
    ),
    resume: bool = flag("--resume", "Part 3: go on from what --checkpoint has."),
    distributed: bool = DISTRIBUTED,
    coordinator: str | None = COORDINATOR,
    processes: int | None = PROCESSES,
    process: int | None = PROCESS,
) -> None:
    """Show where the derivative method breaks down on this machine, and what descent does there.

    1: two small functions. 2: coupled and separable unknowns of growing number. 3: eight billion
    parameters. 4: real data. 5: real text with 2^33 weights, of which few are touched. Begins with
    about how long each part takes here, and ends with a verdict, a plot, a JSON file and three
    things to try next; Ctrl-C keeps what was measured. With --distributed part 3 is
    computed by the devices of all processes, and the first process runs the other parts.
    """

    def check() -> None:
        if part not in (None, 3):
            given = {"--all": everything, "--params": params is not None}
            given |= {"--dtype": dtype is not None}
            given |= {"--checkpoint": checkpoint is not None, "--resume": resume}
            for name, is_given in given.items():
                require(not is_given, name, f"belongs to part 3, got --part {part}.")
        if budget is not None:
            is_positive = 0 < budget < float("inf")
            says = f"must be a positive number of seconds, got {budget:g}."
            require(is_positive, "--budget", says)
        require(not (quick and thorough), "--thorough", "contradicts --quick.")
        require(checkpoint is not None or not resume, "--resume", "needs --checkpoint FOLDER.")
        if params is not None:
            says = (
                f"must be at least {SMALLEST:,}, the smallest array of the model, got {params:,}."
            )
            require(params >= SMALLEST, "--params", says)

    if not distributed:  # otherwise the others would wait for this process to join them
        check()
    with failing_in_one_line("jaxdescent.breakdown"):
        _prepare_process(device)
        import jax
        from rich.console import Console

        from jaxdescent import breakdown as story
        from jaxdescent.processes import among_all, check_alike

        extent = story.QUICK if quick else story.THOROUGH if thorough else story.USUAL
        settings = dataclasses.replace(
            extent,
            budget=budget or extent.budget,
            everything=everything or part is None,
            max_params=params,
            dtype=dtype,
            seed=seed,
            checkpoint=checkpoint,
            resume=resume,
        )
        parts = list(story.PARTS) if part is None else [part]
        # Parts of one process ask for no notices.
        join(distributed, coordinator, processes, process, has_notices=False)
        with among_all("breakdown"):
            check()
            choose_device(device)
            check_alike({"the options": [dataclasses.asdict(settings), parts]})
        now = datetime.datetime.now()
        folder = output or pathlib.Path(f"breakdown-{now:%Y%m%d-%H%M%S}")
        console = Console(quiet=jax.process_index() > 0 if distributed else False)
        raise typer.Exit(story.run(settings, parts, folder, console))


def _prepare_process(device: Platform | None) -> None:
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
    if device == "cpu":
        choose_device(device)
