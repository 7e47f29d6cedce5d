"""JSON lines: one for each point, with the machine, the versions and the seed."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

from jaxdescent import provenance
from jaxdescent.scale.experiment import BadExperiment, Experiment
from jaxdescent.scale.point import ScalingPoint

PACKAGES = ("jaxdescent", "jax", "jaxlib", "libtpu")


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
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        if whole < size:  # a line that was cut off while it was written
            file.truncate(whole)
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
    texts = path.read_text().splitlines()
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            ScalingPoint(**line["point"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(texts) and isinstance(error, json.JSONDecodeError):
                break
            raise BadExperiment(
                f"{path} has other lines than those of an experiment (line {number}): give "
                "another file to --output."
            ) from error
        read.append(line)
    return read


def known_keys(lines: list[dict[str, Any]], here: dict[str, Any]) -> set[str]:
    """The keys of points that need not be run again: they have figures, from this machine.

    A rehearsal's figures do not depend on the machine.
    """
    same = ("processor", "cores", "device", "devices", "processes")
    return {
        ScalingPoint(**line["point"]).key
        for line in lines
        if "error" not in line["figures"]
        and (line["rehearsed"] or all(line["machine"].get(name) == here[name] for name in same))
    }
