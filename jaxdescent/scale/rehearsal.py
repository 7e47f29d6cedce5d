"""Figures of a program compiled for devices that are not attached, and a run's predicted time.

The seconds of an iteration are a model: bytes over the published bandwidth, a start for each
kernel, and for each collective a ring over the published links. :data:`ASSUMPTIONS` lists what is
assumed.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxdescent.machine import Machine
from jaxdescent.machine.topologies import topology
from jaxdescent.scale import program
from jaxdescent.scale.compiled import Sent
from jaxdescent.scale.point import ScalingPoint
from jaxdescent.scale.problems import PROBLEMS, bytes_of_a_device, mesh_of
from jaxdescent.scale.program import AT_ONCE

ASSUMPTIONS = (
    "Seconds are a model: published bandwidths are reached, every kernel waits for the one before "
    "it, collectives are rings that nothing overlaps, and all devices are equally fast. Hosts, "
    "networks between slices and reading the data are not in it."
)


def rehearsed(point: ScalingPoint) -> dict[str, Any]:
    """The figures of a point whose devices are not attached, compiled for them.

    Raises:
      NotDivisible: if the devices cannot share an axis evenly.
      ImportError: if the compiler's plugin is not installed.
      MemoryError: if the program does not fit, by the compiler's or by this package's count.
    """
    machine = Machine.published(point.target)
    devices = topology(point.target)
    mesh = mesh_of(devices, point.layout)
    problem = PROBLEMS[point.problem]
    shapes = problem.shapes(point, mesh)
    program.require(bytes_of_a_device(shapes), "of data and params", machine.memory_bytes)
    compiled = program.compiled(point, shapes)
    purpose = "for data, params and what it computes with them"
    program.require(compiled.peak, purpose, machine.memory_bytes)
    figures = program.figures(point, compiled, shapes) | {"usable_bytes": machine.memory_bytes}
    if problem.is_by_share:
        figures["layout"] = "of the rows of one device, which stand for those of the others"
    if point.method in AT_ONCE:
        return figures
    steps = problem.steps_in_a_turn
    priced = compiled.sent_in_an_iteration
    if steps == 1:
        priced = compiled.usually_sent
        kernels, moved = compiled.kernels_in_an_iteration, compiled.bytes_in_an_iteration
    else:
        # A pass stands in branches that are always taken, which the text does not say. It reads and
        # writes the params, a check reads them: a kernel for each leaf of both.
        kernels, moved = 2 * len(jax.tree.leaves(shapes)), 3 * bytes_of_a_device(shapes)
    here = moved / machine.read_bandwidth["float32"] + kernels * machine.operation_seconds
    links = machine.link_seconds(sum(_link_bytes(one, machine) for one in priced), len(priced))
    return figures | {
        **program.roof(point, shapes, machine, machine.devices),
        "kernels": kernels / steps,
        "iteration_bytes": moved / steps,
        "iteration_seconds": (here + links) / steps,
        "link_seconds": links / steps,
        "efficiency": here / (here + links),
    }


def _link_bytes(sent: Sent, machine: Machine) -> float:
    """The bytes that a device sends: in a ring those of the result, twice for an all-reduce."""
    times = 2.0 if sent.kind == "all-reduce" else 1.0
    return times * (machine.devices - 1) / machine.devices * sent.size
