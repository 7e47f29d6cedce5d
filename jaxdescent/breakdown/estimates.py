"""About how long each part will take, from the machine's rates, before anything runs.

The seconds of Python and of compilers, which no rate tells, are constants of an ordinary core.
Arithmetic is given as work of a known kind that takes as long. The constants are from the run of
docs/breakdown.json.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from jaxdescent.breakdown import independent_weights, matrix_free_regression, tied_weights
from jaxdescent.breakdown.independent_weights import IndependentWeights
from jaxdescent.breakdown.settings import Settings
from jaxdescent.machine import Machine

SMALL_PART = 2.0
"""Seconds of part 1, which are those of its compilation."""

PART_TWO, SHARE_OF_BUDGET = 20.0, 0.4
"""Seconds of part 2, and the share of its budget that comes to them: sizes grow by steps, of which
the next one seldom fits. The rates of one to 32 cores say 0.6 to 1.25 times as much."""

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
        2: lambda: PART_TWO + SHARE_OF_BUDGET * settings.budget,
        3: lambda: _large(settings, machine),
        4: lambda: STUDY * settings.studies,
        5: lambda: TEXT + LINE * settings.most_lines,
    }
    return {number: known[number]() for number in parts}


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
