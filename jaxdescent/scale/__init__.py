"""Scaling experiments: the same program on more devices, measured here or rehearsed for elsewhere.

``experiment`` lists the points; ``problems`` makes their arrays on the devices; ``figures`` runs a
point on the devices that are attached, or predicts a run on devices that are not; ``compiled``
reads the compiled text. ``record`` keeps one JSON line for each point, in a file or in the folder
of an experiment that can be resumed.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from jaxdescent import processes
from jaxdescent.processes.messages import in_words
from jaxdescent.processes.signals import Interruption
from jaxdescent.scale import record
from jaxdescent.scale.experiment import Experiment, ScalingPoint
from jaxdescent.scale.figures import EXPECTED, measured, rehearsed


def run(
    experiment: Experiment,
    output: pathlib.Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Measure or rehearse every point, and append a line for each to ``output``.

    Points that the file has figures for are skipped; their lines are among those returned. A point
    that cannot be run has its error in its line. Of several processes the first one writes, and an
    error in one of them is raised in all.

    Raises:
      DataError: if the processes were asked for different experiments.
      OtherProcessFailed: if another process could not go on.
      Stopped: after a notice of preemption, in all processes, before the next point.

    >>> grid = Experiment(rows=(256,), features=(8,), iterations=2, repeats=1)
    >>> [line] = run(grid)
    >>> line["figures"]["argument_bytes"], line["rehearsed"]
    (9220, False)
    """
    with processes.among_all("scale"):
        processes.check_alike({"the experiments": dataclasses.asdict(experiment)})
        # All processes measure the points that the first one's file lacks, whatever theirs have.
        found = record.lines_in(output) if output and processes.is_first() else []
        stored, here = processes.told_by_first([found, record.machine()])
    points, preempted = experiment.points(), Interruption()
    known = record.known_lines(stored, here)
    own = {"scaling": experiment.scaling}  # by which a point is judged, whatever it was kept for
    lines = [line | own for point, line in known.items() if point in points]
    for index, point in enumerate(points, start=1):
        if preempted.is_requested(index):
            raise processes.Stopped("the machine is to be given back")
        if point in known:
            tell(f"{index}/{len(points)} {point.describe()}: already in {output}")
            continue
        tell(f"{index}/{len(points)} {point.describe()}")
        line = record.line_of(point, experiment, _figures(point, experiment))
        lines.append(line)
        with processes.among_all("a line of scale"):
            if output and processes.is_first():
                record.append(output, line)
    return lines


def _figures(point: ScalingPoint, experiment: Experiment) -> dict[str, Any]:
    try:
        if point.target:
            return processes.attempted(lambda: rehearsed(point), EXPECTED)
        return measured(point, experiment)
    except (*EXPECTED, processes.FailedElsewhere) as error:
        return {"error": in_words(error)}
