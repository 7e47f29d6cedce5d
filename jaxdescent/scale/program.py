"""The program of a point: the same for a run here and for a rehearsal of one elsewhere."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import jaxdescent as jd
from jaxdescent.descent.loop import CHECK_EVERY
from jaxdescent.scale.compiled import Compiled
from jaxdescent.scale.experiment import Point
from jaxdescent.scale.methods import METHODS
from jaxdescent.scale.problems import PROBLEMS


class Program(NamedTuple):
    """A compiled descent of any number of iterations.

    Attributes:
      compiled: takes the arrays and the most iterations, and returns params, iterations and value.
      seconds: how long it took to trace and to compile.
      shapes: of the arrays that it takes.
      steps_in_a_turn: the iterations that one turn of its loop makes.
    """

    compiled: Compiled
    seconds: float
    shapes: Any
    steps_in_a_turn: int


def shapes_of(point: Point, mesh: Mesh) -> Any:
    """The point's arrays without numbers, with their shardings."""
    return PROBLEMS[point.problem].shapes(point.rows, point.features, point.dtype, mesh)


def compiled(point: Point, mesh: Mesh) -> Program:
    """The point's program for the devices of a mesh, which need not be attached.

    Raises:
      NotDivisible, TooFewDevices: as the problem's shapes do.
    """
    problem, shapes = PROBLEMS[point.problem], shapes_of(point, mesh)

    def descend(arrays: Any, limit: jax.Array) -> Any:
        objective, start = problem.pose(arrays)
        method = METHODS[point.method]()
        result = jd.minimize(objective, start, method, max_iterations=limit, tolerance=0)
        return result.params, result.iterations, result.value

    limit = jax.ShapeDtypeStruct((), jnp.int32)
    donated = (0,) if problem.donated else ()
    begun = time.perf_counter()
    program = Compiled(descend, shapes, limit, donated=donated)
    seconds = time.perf_counter() - begun
    return Program(program, seconds, shapes, 1 if problem.has_rows else CHECK_EVERY)
