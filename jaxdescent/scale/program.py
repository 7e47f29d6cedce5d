"""The program of a point: the same for a run here and for a rehearsal of one elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxdescent as jd
from jaxdescent.machine import Machine
from jaxdescent.machine.memory import readable_bytes
from jaxdescent.scale.compiled import Compiled
from jaxdescent.scale.point import ScalingPoint
from jaxdescent.scale.problems import PROBLEMS, bytes_of_a_device

METHODS: dict[str, Callable[[], Any]] = {
    "cg": jd.ConjugateGradient,
    "cg-jacobi": lambda: jd.ConjugateGradient(jd.Jacobi()),
    "lsmr": jd.LSMR,
    "lbfgs": jd.LBFGS,
    "gradient": lambda: jd.GradientDescent(jd.Backtracking()),
    "barzilai-borwein": lambda: jd.GradientDescent(jd.BarzilaiBorwein()),
    "constant": lambda: jd.GradientDescent(1e-3),
    "gram": jd.Gram,
    "direct": jd.DerivativeMethod,
}

AT_ONCE = ("gram", "direct")
"""The methods without iterations: a whole solve is timed for them."""


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


def require(needed: int, purpose: str, usable: int) -> None:
    """Raise a MemoryError where a device needs more bytes than it can use."""
    if needed > usable:
        raise MemoryError(
            f"a device needs {readable_bytes(needed)} {purpose}, and about "
            f"{readable_bytes(usable)} can be used: take more devices, another layout or a smaller "
            "dtype."
        )


def roof(point: ScalingPoint, arrays: Any, machine: Machine, units: int) -> dict[str, Any]:
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


def figures(point: ScalingPoint, made: Compiled, arrays: Any) -> dict[str, Any]:
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
