"""The folder of ``--checkpoint``: what an experiment is, and the lines of its points so far.

A point is the least that is kept: one that is interrupted begins again. So a run that goes on ends
with the lines of one that was never interrupted, but for the times at which they were measured.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

from jaxdescent.scale.experiment import BadExperiment, Experiment

DESCRIPTION, LINES = "experiment.json", "scale.jsonl"

FORMAT, SCHEMA = "jaxdescent scale", 1


def opened(folder: pathlib.Path, experiment: Experiment, *, resume: bool) -> pathlib.Path:
    """The file of an experiment's lines in a folder, which is made if it is not there.

    Args:
      folder: where.
      experiment: what is kept there from now on.
      resume: whether to go on with what the folder has.

    Raises:
      BadExperiment: if the folder has an experiment and is not to be gone on with, or another
        experiment (saying what differs), or other things.

    >>> import tempfile
    >>> place = pathlib.Path(tempfile.mkdtemp())
    >>> opened(place, Experiment(), resume=False).name
    'scale.jsonl'
    >>> opened(place, Experiment(), resume=True) == place / "scale.jsonl"
    True
    """
    # As JSON gives it back.
    here = json.loads(json.dumps(dataclasses.asdict(experiment)))
    path = folder / DESCRIPTION
    try:
        content = os.listdir(folder) if folder.exists() else []
        if DESCRIPTION not in content:
            if any(not name.startswith(".") for name in content):
                raise BadExperiment(
                    f"--checkpoint: {folder} holds other things than an experiment: name another "
                    "folder."
                )
            folder.mkdir(parents=True, exist_ok=True)
            told = {"format": FORMAT, "schema": SCHEMA, "experiment": here}
            new = folder / f".{DESCRIPTION}"
            new.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
            new.replace(path)
            return folder / LINES
    except OSError as error:
        raise BadExperiment(f"--checkpoint: {folder}: {error.strerror}.") from error
    there = _read(path)
    if not resume:
        raise BadExperiment(
            f"--checkpoint: {folder} keeps an experiment: say --resume to go on with it, or name "
            "another folder."
        )
    differing = [
        f"{name}: {json.dumps(there.get(name))} there, {json.dumps(value)} here"
        for name, value in here.items()
        if there.get(name) != value
    ]
    if differing:
        raise BadExperiment(
            f"--resume: {folder} keeps an experiment of other {'; '.join(differing)}: give the "
            "same options, or name another folder."
        )
    return folder / LINES


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadExperiment(f"--checkpoint: {path} cannot be read: {error}.") from error
    is_ours = isinstance(content, dict) and content.get("format") == FORMAT
    if not is_ours or not isinstance(content.get("experiment"), dict):
        raise BadExperiment(
            f"--checkpoint: {path} does not describe an experiment: name another folder."
        )
    if content.get("schema") != SCHEMA:
        raise BadExperiment(
            f"--checkpoint: {path} has schema {content.get('schema')!r}, and this version goes on "
            f"with {SCHEMA}: use the version that wrote it, or name another folder."
        )
    return content["experiment"]
