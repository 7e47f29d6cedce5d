"""The price of a method: the bytes that it reserves, and its work once and in an iteration.

In the formulas X has n rows and d features, and y has t outputs; of a sharded X, n and d are those
of a device's shard. ``docs/plan.md`` has the formulas as a table.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxdescent.cost.structure import Kind
from jaxdescent.cost.work import Question, Work
from jaxdescent.kernels.products import FEW_ROWS, part_length, run_length
from jaxdescent.kernels.shifted import SHIFTED_BYTES

SCALAR_BYTES = 3000
"""The bytes that a program of an iterative method reserves whatever the problem's size."""


class Price(NamedTuple):
    """The predicted costs of a method.

    Attributes:
      working_bytes: bytes reserved at the peak besides params and data, including the result.
      setup: the work that is done once.
      iteration: the work of each iteration.
      iterations: the expected number of iterations.
      accuracy: a bound on the relative error of the params due to rounding and the tolerance.
      touched_bytes: how many of the reserved bytes are written to; None stands for all.
    """

    working_bytes: float
    setup: Work
    iteration: Work
    iterations: float
    accuracy: float
    touched_bytes: float | None = None


LOOK = 7
"""The vectors of the rows that a Krylov method's look at a claim reserves."""


def vectors_bytes(
    question: Question,
    of_params: float,
    of_rows: float,
    *,
    look: float = LOOK,
    centred: float = 0.0,
    copies: int = 2,
) -> float:
    """The bytes of vectors of both sides, and of the copies of X that products make on a CPU.

    These are ``copies`` of widened 16-bit data, the partial sums of X'R, and
    for a method whose X is centred so many blocks of it. Beside 16-bit data that are widened as a
    whole, the ``look`` vectors of the rows have room of their own.
    """
    structure = question.structure
    blocks = copies * question.widened_bytes
    if structure.kind is not Kind.REGRESSION:
        return of_params * structure.vector_bytes + blocks + SCALAR_BYTES
    (rows, features), outputs, itemsize = structure.shard, structure.outputs, structure.itemsize
    elements = of_params * features * outputs
    if question.machine.platform == "cpu" and structure.is_dense:
        is_single = outputs == 1
        length = run_length(rows, features) if is_single else part_length(rows)
        if length and not (is_single and question.is_narrow):
            elements += rows / length * features * outputs
        if structure.has_intercept:
            # Few rows are one block, of which no runs are copied.
            whole = (1.0 if rows < FEW_ROWS else 2.0) * structure.entries * itemsize
            blocks = max(blocks, centred * min(whole, 3.0 * SHIFTED_BYTES))
    look *= structure.is_dense
    vectors, looked = (itemsize * count * rows * outputs for count in (of_rows, look))
    at_rows = looked + blocks if question.is_widened else max(vectors + blocks, looked)
    return itemsize * elements + at_rows + SCALAR_BYTES


def widening(question: Question, copies: int) -> Work:
    """The work of writing float32 copies of 16-bit data."""
    return question.updated(1.5 * copies * question.widened_bytes * question.is_widened)


def rounding_error(question: Question) -> float:
    """A bound on the relative error of a solution: the condition number times eps."""
    eps = float(jnp.finfo(question.structure.compute_dtype).eps)
    return min(eps * (question.condition or 1.0), 1.0)
