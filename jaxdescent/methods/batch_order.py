"""How many rows a mini-batch has, and the order in which blocks of rows are read in an epoch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.numerics import randomness
from jaxdescent.objectives import RowBlocks

LEAST_ROWS, MOST_ROWS = 64, 1024
"""The rows of a batch are as many as there are unknowns, within these bounds."""

LEAST_STEPS, SWEPT = 64, 16
"""For sparse rows MOST_ROWS is raised, because a step reads and writes vectors of all features: to
a LEAST_STEPS-th of all rows at most, or as many rows as touch a SWEPT-th of the features."""


def batch_rows(unknowns: int, features: int, blocks: RowBlocks) -> int:
    """The default number of rows in a batch."""
    touching_all = features // max(blocks.entries, 1)
    most = max(blocks.rows // LEAST_STEPS, touching_all // SWEPT)
    most = max(min(touching_all, most, blocks.block), MOST_ROWS)
    return min(max(1 << (unknowns - 1).bit_length(), LEAST_ROWS), most, blocks.rows)


def steps_of(blocks: RowBlocks, size: int) -> int:
    """The number of steps in an epoch."""
    if size >= blocks.rows:
        return 1
    whole, rest = divmod(blocks.rows, blocks.block)
    return whole * -(-blocks.block // size) + -(-rest // size)


def order_of(count: int, sections: tuple[int, ...], word: jax.Array) -> jax.Array:
    """The order of the blocks: sections are shuffled, the blocks of a section stay in order."""
    sizes = np.diff([*sections, count])
    shuffled = jnp.argsort(randomness.bits((len(sections),), word))
    numbers = jnp.arange(len(sections), dtype=jnp.int32)
    turn = jnp.zeros_like(numbers).at[shuffled].set(numbers)
    return jnp.argsort(jnp.repeat(turn, sizes, total_repeat_length=count)).astype(jnp.int32)
