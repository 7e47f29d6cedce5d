"""JSON lines: one for each point, with the machine, the versions and the seed; and the folder of
``--checkpoint``, which has an experiment's description beside the lines of its points so far.

Whole points are kept: one that is interrupted begins again. So a run that is resumed ends with the
lines of a run that was never interrupted, but for the times at which they were measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

from jaxdescent import provenance
from jaxdescent.rows import DataError
from jaxdescent.rows.errors import writing
from jaxdescent.scale.experiment import BadExperiment, Experiment, ScalingPoint
from jaxdescent.scale.kept_folder import KeptFolder

PACKAGES = ("jaxdescent", "jax", "jaxlib", "libtpu")

KEPT = KeptFolder("an experiment", "experiment.json", "jaxdescent scale", "experiment")

START = '{"point": '
"""The beginning of each line, which a line that was cut off has too."""

LINES = "scale.jsonl"
"""The name of a kept experiment's file of lines."""


def line_of(point: ScalingPoint, experiment: Experiment, figures: dict[str, Any]) -> dict[str, Any]:
    """Everything about a point, as one JSON object."""
    return {
        "point": dataclasses.asdict(point),
        "rehearsed": bool(point.target),
        "figures": figures,
        "scaling": experiment.scaling,
        "iterations": experiment.iterations,
        "repeats": experiment.repeats,
        "seed": experiment.seed,
        "machine": machine(),
        "written": provenance.now(),
    }


def machine() -> dict[str, Any]:
    """The machine and the software on which the figures depend."""
    return provenance.machine(PACKAGES)


def append(path: pathlib.Path, line: dict[str, Any]) -> None:
    """Add a line to the file, in one write, after the last whole one."""
    with writing(path), path.open("ab+") as file:
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):  # a line was cut off while it was written
            file.truncate(content.rfind(b"\n") + 1)
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def lines_in(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a file; none if it does not exist. A last line that was cut off is left out.

    Raises:
      BadExperiment: if another line is not of an experiment.
    """
    if not path.exists():
        return []
    read: list[dict[str, Any]] = []
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for number, text in enumerate(texts, start=1):
        if text.isspace():
            continue
        try:
            line = json.loads(text)
            hash(ScalingPoint(**line["point"]))  # known_lines has them as keys
        except (ValueError, TypeError, KeyError) as error:
            begun = text.strip("\0")  # of a line that a power failure cut off, nulls may be left
            if not text.endswith("\n") and begun.startswith(START[: len(begun)]):
                break
            raise BadExperiment(
                f"{path} has other lines than those of an experiment (line {number}): give "
                "another file to --output."
            ) from error
        read.append(line)
    return read


def known_lines(
    lines: list[dict[str, Any]], here: dict[str, Any]
) -> dict[ScalingPoint, dict[str, Any]]:
    """The lines of points that need not be run again: they have figures, from this machine.

    A rehearsal's figures do not depend on the machine.
    """
    same = ("processor", "cores", "device", "devices", "processes")
    return {
        ScalingPoint(**line["point"]): line
        for line in lines
        if "error" not in line["figures"]
        and (line["rehearsed"] or all(line["machine"].get(name) == here[name] for name in same))
    }


def opened(folder: pathlib.Path, experiment: Experiment, *, resume: bool) -> pathlib.Path:
    """The file of an experiment's lines in a folder, which is made if it is not there.

    Raises:
      BadExperiment: if the folder has an experiment that is not to be resumed, or another
        experiment (saying what differs), or other things.
    """
    # Tuples become lists, as JSON gives them back.
    here = json.loads(json.dumps(dataclasses.asdict(experiment)))
    try:
        there = KEPT.content(folder, resume=resume)
        if not there:
            folder.mkdir(parents=True, exist_ok=True)
            there = KEPT.write(folder, {"experiment": here})
    except DataError as error:
        raise BadExperiment(f"--checkpoint: {error}") from error
    except OSError as error:
        raise BadExperiment(f"--checkpoint: {folder}: {error.strerror}.") from error
    differing = [
        f"{name}: {json.dumps(there['experiment'].get(name))} there, {json.dumps(value)} here"
        for name, value in here.items()
        if there["experiment"].get(name) != value
    ]
    if differing:
        raise BadExperiment(
            f"--resume: {folder} keeps an experiment of other {'; '.join(differing)}: give the "
            "same options, or name another folder."
        )
    return folder / LINES
