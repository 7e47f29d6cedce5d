"""About how long each part will take, from the machine's rates, before anything runs.

The seconds of Python and of compilers, which no rate tells, are constants of an ordinary core.
Those of arithmetic follow from the cost model. Arithmetic that it does not know is given as the
work of a known kind that takes as long. The constants are from the run of docs/breakdown.json.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jaxdescent.breakdown import independent_weights, matrix_free_regression, tied_weights
from jaxdescent.breakdown.child import ROWS_PER_FEATURE
from jaxdescent.breakdown.coupled import (
    LEAST_SIZES,
    SEPARABLE_SHARE,
    data_bytes,
    working_bytes,
)
from jaxdescent.breakdown.independent_weights import IndependentWeights
from jaxdescent.breakdown.measure import SHORT_SECONDS
from jaxdescent.breakdown.settings import Settings
from jaxdescent.cost import plan_of
from jaxdescent.cost.structure import regression_structure
from jaxdescent.machine import Machine

SMALL_PART = 2.0
"""Seconds of part 1, which are those of its compilation."""

CHILD, SEPARABLE_CHILD, SEPARABLE_SIZE = 4.5, 2.0, 0.8
"""Seconds of a child process of part 2 besides arithmetic: for a size of the coupled case, for the
separable case, and for each size of that one."""

DESCENT_ITERATIONS = 145
"""The iterations of descent in part 2, whose condition number is the same for each n."""

DRAWING = 200.0
"""The operations of a matrix product that take as long as drawing a number."""

STEP = 1.3
"""The operations of a matrix product that take as long as a step on one independent weight."""

TIED_BYTES, TIED_ITERATIONS = 25.0, 32
"""The bytes that are updated while one iteration is done on a tied weight, and the iterations."""

REGRESSION_BYTES, REGRESSION_ITERATIONS = 95.0, 24
"""The bytes that are updated while one iteration is done on a weight of the matrix-free regression,
and the iterations."""

COMPILING, COMPILING_AN_ARRAY = 1.0, 0.11
"""Seconds to compile a problem of part 3, and for each array of its params."""

STUDY = 4.5
"""Seconds of a data set in part 4."""

TEXT, LINE = 5.0, 3.5e-4
"""Seconds of part 5, and for each line."""


def seconds_of_parts(
    parts: Sequence[int], settings: Settings, machine: Machine
) -> dict[int, float]:
    """The seconds of each of these parts, by its number.

    >>> machine = Machine.default("cpu", cores=2, memory_bytes=24 * 10**9)
    >>> 60 < sum(seconds_of_parts([1, 2, 3, 4, 5], Settings(), machine).values()) < 300
    True
    """
    known = {
        1: lambda: SMALL_PART,
        2: lambda: (
            _coupled(settings, machine)
            + SEPARABLE_CHILD
            + SEPARABLE_SIZE * len(settings.separable_sizes)
            + _drawing(sum(settings.separable_sizes), machine)
        ),
        3: lambda: _large(settings, machine),
        4: lambda: STUDY * settings.studies,
        5: lambda: TEXT + LINE * settings.most_lines,
    }
    return {number: known[number]() for number in parts}


def _coupled(settings: Settings, machine: Machine) -> float:
    """The sizes that are measured, until the next one exceeds the memory or the budget."""
    ends = settings.budget * (1 - SEPARABLE_SHARE)
    spent, size, count = 0.0, settings.first_size, 0
    while True:
        needed = data_bytes(size) + working_bytes("derivative", size)
        seconds = CHILD + sum(
            2 * each if each < SHORT_SECONDS else each for each in _seconds_of_both(size, machine)
        )
        if needed > machine.memory_bytes or (count >= LEAST_SIZES and spent + seconds > ends):
            return spent
        spent, size, count = spent + seconds, size * settings.growth, count + 1


def _seconds_of_both(size: int, machine: Machine) -> tuple[float, float]:
    """The arithmetic of the derivative method, and of descent."""
    plan = plan_of(regression_structure(ROWS_PER_FEATURE * size, size), machine)
    prices = {candidate.name: candidate for candidate in plan.candidates}
    descent = prices["GradientDescent(Backtracking())"]
    return (
        prices["DerivativeMethod()"].seconds,
        DESCENT_ITERATIONS * descent.seconds_per_iteration,
    )


def _large(settings: Settings, machine: Machine) -> float:
    processes, bandwidth = jax.process_count(), machine.read_bandwidth["float32"]
    room = machine.memory_bytes * processes
    _, tree = independent_weights.chosen(settings, room)
    steps = IndependentWeights.iterations * STEP * tree.size / machine.product("float32")
    problems, arrays, shared = 1, len(tree.shapes), _drawing(tree.size, machine) + steps
    if settings.everything:
        tied = tied_weights.chosen(settings, room)
        updated = TIED_ITERATIONS * TIED_BYTES * tied.size
        problems, arrays = problems + 3, arrays + len(tied.shapes)
        shared += 2 * _drawing(tied.size, machine) + updated / bandwidth
        side = matrix_free_regression.chosen(settings, room)
        weights = side * side * matrix_free_regression.BLOCKS
        shared += REGRESSION_ITERATIONS * REGRESSION_BYTES * weights / bandwidth
    return COMPILING * problems + COMPILING_AN_ARRAY * arrays + shared / processes


def _drawing(numbers: int, machine: Machine) -> float:
    return numbers * DRAWING / machine.product("float32")
