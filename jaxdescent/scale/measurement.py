"""Time and memory of a program on the devices that are attached."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdescent.machine import Machine
from jaxdescent.machine.memory import bytes_of_each
from jaxdescent.processes import attempted
from jaxdescent.scale import program
from jaxdescent.scale.compiled import Compiled
from jaxdescent.scale.experiment import Experiment
from jaxdescent.scale.point import ScalingPoint
from jaxdescent.scale.problems import (
    PROBLEMS,
    NotDivisible,
    TooFewDevices,
    bytes_of_a_device,
    mesh_of,
)
from jaxdescent.scale.program import AT_ONCE

EXPECTED = (NotDivisible, TooFewDevices, ImportError, MemoryError, jax.errors.JaxRuntimeError)
"""Errors of a single point, after which the experiment goes on with the next one."""


def measured(point: ScalingPoint, experiment: Experiment) -> dict[str, Any]:
    """The figures of a point on the first of JAX's devices: compile time, seconds, memory, rates.

    Seconds of an iteration are the difference of two runs of different lengths, divided by the
    difference of their iterations: other costs of a call are not in them. The first pair warms up.
    A method that solves at once is timed as a whole.

    Raises:
      TooFewDevices: if JAX has fewer devices than the point asks for.
      NotDivisible: if the devices cannot share an axis evenly.
      MemoryError: if a device has no room for the arrays, or for the computation.
      FailedElsewhere: if one of these was raised in another process.
    """
    problem = PROBLEMS[point.problem]
    make = attempted(lambda: _prepared(point, experiment), EXPECTED)
    arrays = attempted(lambda: jax.block_until_ready(make()), EXPECTED, is_shared=True)
    # An array that is whole on each device is read by every device.
    held = bytes_of_a_device(arrays) * point.devices
    built = attempted(lambda: _compiled(point, arrays), EXPECTED)
    machine = Machine.of(jax.local_devices()[0])
    units = jax.process_count() if machine.platform == "cpu" else point.devices
    roof = program.roof(point, arrays, machine, units)

    def run(limit: int) -> tuple[float, int]:
        nonlocal arrays

        def work() -> tuple[float, Any, int]:
            begun = time.perf_counter()
            found = jax.block_until_ready(built.run(arrays, np.int32(limit)))
            seconds = time.perf_counter() - begun
            return seconds, found[0], int(found[1].addressable_data(0))

        # Processes begin together, once each has told the others that its last run has ended.
        seconds, params, count = attempted(work, EXPECTED, is_shared=True)
        if not problem.has_rows:
            arrays = params
        return seconds, count

    times: list[float] = []
    short = problem.steps_in_a_turn
    long = (1 + experiment.iterations) * short
    for repeat in range(1 + experiment.repeats):
        if point.method in AT_ONCE:
            seconds, _ = run(1)
        else:
            (first, fewer), (second, more) = run(short), run(long)
            seconds = (second - first) / max(more - fewer, 1)
        if repeat:
            # Where iterations are shorter than the calls' noise, the difference may be negative.
            times.append(max(seconds, 0.0))
    figures = program.figures(point, built, arrays)
    median = statistics.median(times)
    spread = {"fastest_seconds": min(times), "slowest_seconds": max(times)}
    if point.method in AT_ONCE:
        return figures | {"solve_seconds": median} | spread
    # Several steps of an elementwise method are one pass over the params.
    least = problem.readings * held / problem.steps_in_a_turn
    figures |= roof | {"iteration_seconds": median, **spread, "least_bytes": least}
    if median > 0:
        figures["bytes_a_second"] = least / median
        figures["of_bandwidth"] = least / median / machine.read_bandwidth["float32"] / units
    return figures


def _prepared(point: ScalingPoint, experiment: Experiment) -> Callable[[], Any]:
    """The function that makes the point's arrays."""
    devices = jax.devices()
    if point.devices > len(devices):
        raise TooFewDevices(
            f"JAX has {len(devices)} devices, and {point.devices} are asked for: leave this number "
            f"out, or show the host's CPU as more with --virtual-devices {point.devices}."
        )
    if jax.process_count() > 1 and point.devices != len(devices):
        raise TooFewDevices(
            f"of several processes all devices must take part, got {point.devices} of "
            f"{len(devices)}: start as many processes as a point has devices."
        )
    problem, mesh = PROBLEMS[point.problem], mesh_of(devices[: point.devices], point.layout)
    if not problem.is_by_share:  # else shapes are known once arrays are made
        held = bytes_of_a_device(problem.shapes(point, mesh))
        program.require(held, "of data and params", bytes_of_each(point.devices))
    return problem.prepared(point, mesh, experiment.seed)


def _compiled(point: ScalingPoint, arrays: Any) -> Compiled:
    """The point's program, checked to fit a device's memory."""
    built = program.compiled(point, arrays)
    more = built.peak - built.arguments
    purpose = "besides data and params for what it computes with them"
    program.require(more, purpose, bytes_of_each(point.devices))
    return built
