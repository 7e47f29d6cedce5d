"""The figures of a point: of its program on the devices that are attached, or of the same program
compiled for devices that are not, with a run's predicted time.

The seconds of a rehearsed iteration are a model: bytes over the published bandwidth, a start for
each kernel, and for each collective a ring over the published links. :data:`ASSUMPTIONS` lists what
is assumed.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdescent as jd
from jaxdescent.kernels.memory import bytes_of_each, readable_bytes
from jaxdescent.machine import Machine
from jaxdescent.planning.topologies import topology
from jaxdescent.processes import attempted
from jaxdescent.scale.compiled import Compiled, Sent
from jaxdescent.scale.experiment import AT_ONCE, METHODS, Experiment, ScalingPoint
from jaxdescent.scale.problems import (
    PROBLEMS,
    NotDivisible,
    TooFewDevices,
    bytes_of_a_device,
    mesh_of,
)

EXPECTED = (NotDivisible, TooFewDevices, ImportError, MemoryError, jax.errors.JaxRuntimeError)
"""Errors of a single point, after which the experiment goes on with the next one."""

ASSUMPTIONS = (
    "Seconds are a model: published bandwidths are reached, every kernel waits for the one before "
    "it, collectives are rings that nothing overlaps, and all devices are equally fast. Hosts, "
    "networks between slices and reading the data are not in it."
)


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
    roof = _roof(point, arrays, machine, units)

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
    figures = _of_program(point, built, arrays)
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
    _require(bytes_of_a_device(shapes), "of data and params", machine.memory_bytes)
    built = compiled(point, shapes)
    purpose = "for data, params and what it computes with them"
    _require(built.peak, purpose, machine.memory_bytes)
    figures = _of_program(point, built, shapes) | {"usable_bytes": machine.memory_bytes}
    if problem.is_by_share:
        figures["layout"] = "of the rows of one device, which stand for those of the others"
    if point.method in AT_ONCE:
        return figures
    steps = problem.steps_in_a_turn
    priced = built.sent_in_an_iteration
    if steps == 1:
        priced = built.usually_sent
        kernels, moved = built.kernels_in_an_iteration, built.bytes_in_an_iteration
    else:
        # A pass stands in branches that are always taken, which the text does not say. It reads and
        # writes the params, a check reads them: a kernel for each leaf of both.
        kernels, moved = 2 * len(jax.tree.leaves(shapes)), 3 * bytes_of_a_device(shapes)
    here = moved / machine.read_bandwidth["float32"] + kernels * machine.operation_seconds
    links = machine.link_seconds(sum(_link_bytes(one, machine) for one in priced), len(priced))
    return figures | {
        **_roof(point, shapes, machine, machine.devices),
        "kernels": kernels / steps,
        "iteration_bytes": moved / steps,
        "iteration_seconds": (here + links) / steps,
        "link_seconds": links / steps,
        "efficiency": here / (here + links),
    }


def compiled(point: ScalingPoint, arrays: Any) -> Compiled:
    """The point's program for the devices of arrays, or of shapes, which need not be attached.

    The program takes the arrays and the most iterations, and returns params, iterations and value.
    """
    problem = PROBLEMS[point.problem]

    def descend(arrays: Any, limit: jax.Array) -> Any:
        objective, start = problem.pose(arrays)
        method = METHODS[point.method]()
        result = jd.minimize(objective, start, method, max_iterations=limit, tolerance=0)
        return result.params, result.iterations, result.value

    limit = jax.ShapeDtypeStruct((), jnp.int32)
    donated = () if problem.has_rows else (0,)
    return Compiled(descend, arrays, limit, donated=donated)


def _require(needed: int, purpose: str, usable: int) -> None:
    """Raise a MemoryError where a device needs more bytes than it can use."""
    if needed > usable:
        raise MemoryError(
            f"a device needs {readable_bytes(needed)} {purpose}, and about "
            f"{readable_bytes(usable)} can be used: take more devices, another layout or a smaller "
            "dtype."
        )


def _roof(point: ScalingPoint, arrays: Any, machine: Machine, units: int) -> dict[str, Any]:
    """The bounds on an iteration's speed: its operations, and the rates of the hardware.

    ``units`` is the number of devices, or of hosts where these are virtual ones of a CPU. A product
    of 16-bit data is priced in the dtype in which they are multiplied.
    """
    dtype = "float64" if point.dtype == "float64" else "float32"
    return {
        "operations": PROBLEMS[point.problem].operations(arrays) / units,
        "roof_bandwidth": machine.read_bandwidth[dtype],
        "roof_operations": machine.product_rate[dtype],
        "units": units,
    }


def _of_program(point: ScalingPoint, made: Compiled, arrays: Any) -> dict[str, Any]:
    """The figures of a point's program without a run: memory, and the data that devices send.

    The latter are whether all of the data are gathered, and the collectives of an iteration (of a
    method that solves at once, all of them) by kind and bytes, with their counts.
    """
    largest = max(bytes_of_a_device(leaf) for leaf in jax.tree.leaves(arrays))
    gathered = max((one.size for one in made.sent if one.kind == "all-gather"), default=0)
    own = made.sent if point.method in AT_ONCE else made.sent_in_an_iteration
    return {
        "compile_seconds": made.seconds,
        "argument_bytes": made.arguments,
        "temporary_bytes": made.temporaries,
        "peak_bytes": made.peak,
        "gathers_data": gathered >= largest,
        "collectives": [
            {"kind": one.kind, "bytes": one.size, "count": count}
            for one, count in sorted(Counter(own).items(), reverse=True)
        ],
    }


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
        _require(held, "of data and params", bytes_of_each(point.devices))
    return problem.prepared(point, mesh, experiment.seed)


def _compiled(point: ScalingPoint, arrays: Any) -> Compiled:
    """The point's program, checked to fit a device's memory."""
    built = compiled(point, arrays)
    more = built.peak - built.arguments
    purpose = "besides data and params for what it computes with them"
    _require(more, purpose, bytes_of_each(point.devices))
    return built


def _link_bytes(sent: Sent, machine: Machine) -> float:
    """The bytes that a device sends: in a ring those of the result, twice for an all-reduce."""
    times = 2.0 if sent.kind == "all-reduce" else 1.0
    return times * (machine.devices - 1) / machine.devices * sent.size
