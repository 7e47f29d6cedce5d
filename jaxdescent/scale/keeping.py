"""The folder of ``--checkpoint``: an experiment's description, and the lines of its points so far.

Whole points are kept: one that is interrupted begins again. So a run that is resumed ends with the
lines of a run that was never interrupted, but for the times at which they were measured.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

from jaxdescent.data import DataError
from jaxdescent.fit.kept_folder import KeptFolder
from jaxdescent.scale.experiment import BadExperiment, Experiment

KEPT = KeptFolder("an experiment", "experiment.json", "jaxdescent scale", "experiment")

LINES = "scale.jsonl"


def opened(folder: pathlib.Path, experiment: Experiment, *, resume: bool) -> pathlib.Path:
    """The file of an experiment's lines in a folder, which is made if it is not there.

    Args:
      folder: the folder of the experiment.
      experiment: the experiment that is kept there from now on.
      resume: whether to go on with the experiment that the folder has.

    Raises:
      BadExperiment: if the folder has an experiment that is not to be resumed, or another
        experiment (saying what differs), or other things.

    >>> import tempfile
    >>> place = pathlib.Path(tempfile.mkdtemp())
    >>> opened(place, Experiment(), resume=False).name
    'scale.jsonl'
    >>> opened(place, Experiment(), resume=True) == place / "scale.jsonl"
    True
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
