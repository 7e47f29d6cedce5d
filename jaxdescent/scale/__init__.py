"""Scaling experiments: the same program on more devices, measured here or rehearsed for elsewhere.

``experiment`` lists the points; ``problems`` makes their arrays where they lie; ``program``
compiles a point, and ``compiled`` reads what came out; ``measurement`` runs it on the devices that
are here, ``rehearsal`` predicts a run on devices that are not. ``record`` keeps one JSON line for
each point, and ``keeping`` the folder of an experiment that is to be gone on with.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from jaxdescent.scale import record
from jaxdescent.scale.experiment import Experiment, Point
from jaxdescent.scale.measurement import measured
from jaxdescent.scale.problems import NotDivisible, TooFewDevices
from jaxdescent.scale.rehearsal import rehearsed

EXPECTED = (NotDivisible, TooFewDevices, ImportError, MemoryError, jax.errors.JaxRuntimeError)
"""What is wrong with one point, and no reason not to go on with the next."""


def run(
    experiment: Experiment,
    output: pathlib.Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Measure or rehearse every point, and append a line for each to ``output``.

    Points that the file has figures for are skipped; their lines are among those returned. A point
    that cannot be run has its error in its line. Of several processes the first one writes.

    >>> grid = Experiment(rows=(256,), features=(8,), iterations=2, repeats=1)
    >>> [line] = run(grid)
    >>> line["figures"]["argument_bytes"], line["rehearsed"]
    (9220, False)
    """
    stored = record.told_lines(output)
    known, points = record.known_keys(stored), experiment.points()
    wanted = {point.key for point in points}
    lines = [line for line in stored if Point(**line["point"]).key in wanted & known]
    for index, point in enumerate(points, start=1):
        if point.key in known:
            tell(f"{index}/{len(points)} {point.describe()}: already in {output}")
            continue
        tell(f"{index}/{len(points)} {point.describe()}")
        line = record.line_of(point, experiment, _figures(point, experiment))
        lines.append(line)
        if output and jax.process_index() == 0:
            record.append(output, line)
    return lines


def _figures(point: Point, experiment: Experiment) -> dict[str, Any]:
    try:
        return rehearsed(point) if point.target else measured(point, experiment)
    except EXPECTED as error:
        return {"error": " ".join(str(error).split())}
