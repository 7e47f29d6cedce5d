"""The memory that a compiler reserves besides a method's own vectors."""

from __future__ import annotations

from jaxdescent.designs.shifted import SHIFTED_BYTES
from jaxdescent.kernels.products import (
    WIDENED_BYTES,
    block_rows,
    is_multiplied_in_blocks,
    part_length,
    run_length,
)
from jaxdescent.plan.cost_model.work import Question, Work


def widening(question: Question, copies: int) -> Work:
    """The work of writing float32 copies of 16-bit data."""
    if not question.is_widened:
        return Work()
    return Work(update_bytes=1.5 * widened_bytes(question, copies))


SHORT = 4096
"""The most elements of a vector for which a CPU's compiler makes copies that it avoids for longer
ones."""


def short_copies(question: Question, wide: int, tall: int) -> int:
    """The elements of copies of short vectors along the longer side, for a wide or a tall X."""
    structure = question.structure
    if question.machine.platform != "cpu":
        return 0
    longer = max(structure.rows, structure.features)
    count = tall if structure.is_tall else wide
    return count * longer if longer <= SHORT else 0


def widened_bytes(question: Question, copies: int) -> float:
    """The bytes that products with 16-bit data reserve: copies of X, or of a block of it."""
    structure = question.structure
    if not question.is_narrow:
        return 0.0
    if not question.is_widened:
        # The last, shorter block has room of its own.
        block = block_rows(structure.features, structure.itemsize)
        return (copies + bool(structure.rows % block)) * float(WIDENED_BYTES)
    return float(copies * structure.entries * structure.itemsize)


MANY_BLOCKS = 5
"""From this many blocks on, a loop keeps one block while it reads the next."""


def shifted_bytes(question: Question) -> float:
    """The bytes that products with a centred X reserve on a CPU if its means are far from zero.

    They are one or two blocks and the last, shorter one; or all of an X that is one block.
    """
    structure = question.structure
    if question.machine.platform != "cpu":
        return 0.0
    if not (structure.is_dense and structure.has_intercept):
        return 0.0
    block = block_rows(structure.features, structure.itemsize, SHIFTED_BYTES)
    whole, rest = divmod(structure.rows, block)
    rows = structure.rows if not whole else block * (2 if whole >= MANY_BLOCKS else 1) + rest
    return float(rows * structure.features * structure.itemsize)


def copied_bytes(question: Question) -> float:
    """The bytes of a float32 copy of 16-bit data, which a direct solve makes of all data."""
    structure = question.structure
    return float(structure.entries * structure.itemsize) if question.is_narrow else 0.0


def partial_sums(question: Question) -> float:
    """The elements of the partial sums of X'r that a CPU makes over runs or groups of rows, or of
    the copies of blocks.
    """
    structure = question.structure
    if question.machine.platform != "cpu" or not structure.is_dense:
        return 0.0
    if structure.outputs > 1:
        length = part_length(structure.rows)
        if length is None:
            shape = structure.rows, structure.features, structure.itemsize
            return 2 * WIDENED_BYTES / structure.itemsize if is_multiplied_in_blocks(*shape) else 0
    else:
        is_narrow = structure.data_dtype != structure.compute_dtype
        length = None if is_narrow else run_length(structure.rows, structure.features)
    if length is None:
        return 0.0
    return structure.rows / length * structure.features * structure.outputs
