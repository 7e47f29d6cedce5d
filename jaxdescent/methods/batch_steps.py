"""How many rows a mini-batch has, their order, and the arithmetic of a step for least squares.

:class:`jaxdescent.MiniBatches` derives the rule, and has the loop over batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent.designs import as_design, sample_index
from jaxdescent.methods.protocol import Params
from jaxdescent.numerics import precision, randomness
from jaxdescent.objectives import Objective, RowBlocks

LEAST_ROWS, MOST_ROWS = 64, 1024
"""The bounds on the number of rows in a batch, which by default is the number of unknowns."""

LEAST_STEPS, SWEPT = 64, 16
"""For sparse rows MOST_ROWS is raised, because a step reads and writes vectors of all features: to
a LEAST_STEPS-th of all rows at most, or as many rows as touch a SWEPT-th of the features."""

SAMPLED, SAMPLED_BATCHES, SAMPLED_NUMBERS = 512, 4, 1 << 22
"""The rows from which the largest curvature is estimated: SAMPLED_BATCHES batches of rows with at
most SAMPLED_NUMBERS numbers, but at least SAMPLED rows."""

POWER_STEPS = 12

SHORTER, ROUNDING = 0.25, 64
"""The factor on the step after a rejected iteration; and the rise of the value, in eps times the
value, that counts as rounding."""

SHARE = 0.5
"""The ratio of the step to the largest one that is stable for batches of Gaussian rows."""


class Scaling(NamedTuple):
    """The scaling of the unknowns and the learning rate for least squares."""

    inverse: jax.Array  # (features,), one over the sum of a column's squares
    rate: jax.Array  # the learning rate in the scaled unknowns


class BatchLook(NamedTuple):
    """The value and gradient of all rows at the params."""

    value: jax.Array
    gradient: Params


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


def accepted(
    new: tuple[Params, BatchLook],
    old: tuple[Params, BatchLook],
    scaling: Scaling,
    is_known: jax.Array,
) -> tuple[Params, BatchLook, Scaling]:
    """The new params if their value is no higher; else the old ones, and a shorter step. The first
    iteration, before which no gradient of all rows ``is_known``, is accepted in any case.

    The weight of a feature in few batches follows the gradient of all rows in all other batches,
    and then that of its own batch: a step that suits the others may move it far beyond the minimum.
    """
    before, after = old[1].value, new[1].value
    rounding = ROUNDING * jnp.finfo(after.dtype).eps * jnp.abs(before)
    is_worse = is_known & (after > before + rounding)
    params, look = jax.tree.map(lambda was, is_: jnp.where(is_worse, was, is_), old, new)
    rate = jnp.where(is_worse, scaling.rate * SHORTER, scaling.rate)
    return params, look, scaling._replace(rate=rate)


def scaling_of(objective: Objective, params: Params, batch: int) -> Scaling:
    """The scaling of a regression without an intercept, from a pass over X and products with some
    rows.
    """
    regression = objective.linear_regression
    design = as_design(regression.X)
    squares = design.column_squared_norms(regression.sample_weight, None)
    if squares is None:
        raise TypeError(
            "MiniBatches() needs the lengths of X's columns, which this design does not tell: pass "
            "an optax transformation, for example jd.MiniBatches(optax.adam(1e-3))."
        )
    of_rows, squares = squares, squares + jnp.mean(jnp.asarray(regression.l2, squares.dtype))
    is_there = squares > 0
    inverse = jnp.where(is_there, 1 / jnp.where(is_there, squares, 1), 0)
    most = SAMPLED_NUMBERS * design.shape[0] // max(design.entries, 1)
    index = jnp.asarray(sample_index(design, max(min(SAMPLED_BATCHES * batch, most), SAMPLED)))
    rows = objective.by_rows().of_rows(index)
    assert rows is not None  # the objective has blocks of rows
    weights = params["weights"]
    root = jnp.sqrt(_by_feature(inverse, weights)) * (design.shape[0] / index.shape[0]) ** 0.5

    def power(_: Any, carry: Any) -> Any:
        direction, _ = carry
        norm = jnp.sqrt(jnp.sum(jnp.square(direction)))
        given = {"weights": root * direction / jnp.where(norm > 0, norm, 1)}
        new = root * rows.hessian_product(params, given)["weights"]
        return new, jnp.sqrt(jnp.sum(jnp.square(new)))

    start = randomness.normal(weights.shape, randomness.fold(1), weights.dtype)
    zero = jnp.zeros((), weights.dtype)
    _, largest = lax.fori_loop(0, POWER_STEPS, power, (start, zero))
    trace = jnp.sum(of_rows * inverse)  # without the penalty, which all batches share
    # With fewer rows than features, even orthogonal rows have an eigenvalue of trace / rows.
    largest = largest - trace / index.shape[0]
    return Scaling(inverse, SHARE / (jnp.maximum(largest, 1) + trace / batch))


def _by_feature(numbers: jax.Array, weights: jax.Array) -> jax.Array:
    return numbers.reshape(-1, *[1] * (weights.ndim - 1))


def scaled_step(
    scaling: Scaling,
    params: Params,
    gradient: Params,
    curvature: Callable[[Params], jax.Array],
) -> Params:
    """A step along the scaled gradient, no further than to the batch's minimum along it."""
    columns = gradient["weights"]
    direction = {"weights": _by_feature(scaling.inverse, columns) * columns}
    slope = precision.inner(gradient, direction)
    bend = curvature(direction)
    farthest = jnp.where(bend > 0, slope / jnp.where(bend > 0, bend, 1), jnp.inf)
    rate = jnp.minimum(scaling.rate, farthest).astype(columns.dtype)
    return {"weights": params["weights"] - rate * direction["weights"]}
