"""Prices of descents on regressions and quadratics: by steps, by batches, on rewritten forms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp

from jaxdescent.methods import Dual
from jaxdescent.methods.batch_order import batch_rows
from jaxdescent.methods.batch_steps import SHARE as STEP_SHARE
from jaxdescent.objectives import RowBlocks
from jaxdescent.plan.cost_model.exact import double_sums, inner_products
from jaxdescent.plan.cost_model.iterations import (
    ASSUMED_CONDITION,
    expected_error,
    gradient_iterations,
    krylov_count,
)
from jaxdescent.plan.cost_model.reserved import (
    partial_sums,
    short_copies,
    widened_bytes,
    widening,
)
from jaxdescent.plan.cost_model.work import (
    SCALAR_BYTES,
    SCALAR_OPERATIONS,
    Price,
    Question,
    Work,
    gradient_sum,
    one_pass,
    there_and_back,
    vectors,
)
from jaxdescent.plan.structure import Kind, Structure
from jaxdescent.regression.forms import dual_build_bytes, gram_build_bytes

STEP_VECTORS = 16
"""The vectors of the params' length that a step of mini-batches reads or writes."""


PICKED_BYTES, PICKINGS, COPIED = 64, 4, 1.5
"""An entry that is picked for a batch takes as long as so many bytes of vectors, on one core; so
many times in an epoch, in which the entries are copied row by row, padded to so many times what a
product reads."""


def mini_batches(question: Question) -> Price:
    """The price of mini-batches: passes for means, lengths and the look at the start; and in each
    iteration an epoch of three products with each batch, whose steps touch the vectors of all
    features, and a look at all rows. Entries in memory are copied row by row first, and picked.

    In unknowns that are scaled to a mean eigenvalue of one, an epoch goes as far as gradient flow
    in a time of ``steps * rate``. The smallest eigenvalue is taken to be one over the condition
    number. What noise leaves is a tenth of the error at best.
    """
    structure = question.structure
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    entries = round(structure.evaluation_flops / 2 / rows)
    batch = batch_rows(structure.unknowns, features, RowBlocks(rows, rows, entries))
    steps = -(-rows // batch)
    one = one_pass(question, outputs)
    epoch, copied = dataclasses.replace(one, read_flops=3 * one.read_flops), 0.0
    if not structure.is_streamed:
        copied = COPIED * structure.evaluation_bytes
        picked = float(PICKINGS * PICKED_BYTES) * rows * entries * outputs
        epoch = Work(update_bytes=picked, read_bytes=copied)
    step = Work(update_bytes=float(STEP_VECTORS * structure.vector_bytes), operations=60)
    time = steps * STEP_SHARE / (1 + features / batch)
    decades = min(time / (question.condition or ASSUMED_CONDITION), math.log(10))
    tolerance = max(question.tolerance, 1e-16)
    vectors_of_rows = rows * outputs * structure.itemsize
    return Price(
        10.0 * structure.vector_bytes + 2 * vectors_of_rows + copied + SCALAR_BYTES,
        one * 3,
        epoch + step * steps + there_and_back(question, outputs) + vectors(structure, 12),
        max(math.log(1 / tolerance) / decades, 1.0),
        expected_error(question),
    )


def backtracking(question: Question) -> Price:
    """The price of backtracking: gradients, and a pass for each trial.

    The error falls by a factor of ``1 - 1/k^2`` in a step.
    """
    structure = question.structure
    one = one_pass(question, structure.outputs)
    reduced = gradient_sum(structure)
    return Price(
        descent_bytes(question),
        one * 4 + reduced * 2 + widening(question, 1),
        one * 3 + reduced * sums_of_a_trial(structure) + vectors(structure, 10),
        gradient_iterations(question),
        expected_error(question),
    )


def sums_of_a_trial(structure: Structure) -> int:
    """The number of sums over devices in a step and its trial.

    If rows are sharded only X'r is such a sum; otherwise both images of params are.
    """
    return 1 if structure.sharded == "rows" and structure.kind is Kind.REGRESSION else 2


def barzilai_borwein(question: Question) -> Price:
    """The price of Barzilai and Borwein's rule: one gradient in an iteration.

    The number of iterations is about the square root of plain gradient descent's.
    """
    structure = question.structure
    one = one_pass(question, structure.outputs)
    reduced = gradient_sum(structure)
    copies = structure.itemsize * short_copies(question, 2, 0)
    return Price(
        descent_bytes(question) + copies,
        one * 4 + reduced * 2 + widening(question, 1),
        there_and_back(question, structure.outputs) + reduced + vectors(structure, 10),
        1.5 * krylov_count(question) + 1,
        expected_error(question),
    )


def descent_bytes(question: Question) -> float:
    """The vectors, the partial sums, and the copies of data that a CPU's compiler makes."""
    structure = question.structure
    vectors = descent_vectors_bytes(structure) + SCALAR_BYTES
    if structure.kind is not Kind.REGRESSION:
        return vectors + widened_bytes(question, 1)
    # The look at a claim: three vectors of the rows, and a product of its own.
    looked = 3 * structure.shard[0] * structure.outputs + partial_sums(question)
    return vectors + structure.itemsize * looked + widened_bytes(question, 2)


def descent_vectors_bytes(structure: Structure) -> int:
    """Five vectors like the params: the gradient, the trial, its gradient, the old gradient, the
    result; for a regression also the image and the residual.
    """
    if structure.kind is not Kind.REGRESSION:
        return 5 * structure.vector_bytes
    rows, features = structure.shard
    elements = 5 * features * structure.outputs
    return structure.itemsize * (elements + rows * (structure.outputs + 1))


def gram(question: Question) -> Price:
    """The price of the Gram form: one pass builds X'X and X'y; an iteration costs features^2."""
    return _rewritten(question, question.structure.features, gram_build_bytes, 1)


def dual(question: Question) -> Price:
    """The price of the dual form: one pass builds XX'; an iteration costs rows^2.

    A step makes several iterations.
    """
    return _rewritten(question, question.structure.rows, dual_build_bytes, Dual().iterations)


def _rewritten(question: Question, size: int, build_bytes: Callable[..., int], inner: int) -> Price:
    """The price of conjugate gradients on the Gram matrix of one side, with two products each."""
    structure = question.structure
    square = float(size) * size * structure.itemsize
    if question.machine.platform == "cpu":
        built = build_bytes(
            *structure.shard,
            structure.outputs,
            structure.itemsize,
            is_centred=structure.has_intercept,
            is_widened=question.is_narrow,
            is_one_cpu=question.machine.is_one_cpu,
        )
    else:  # In one block, which a GPU copies to centre it; a TPU centres it while reading.
        is_copied = structure.has_intercept and question.machine.platform == "gpu"
        built = square + max(is_copied * structure.entries * structure.itemsize, square)
    one = Work(read_bytes=square, read_flops=2.0 * size * size * structure.outputs)
    setup = one_pass(question, structure.outputs) * 3 + gradient_sum(structure) * 2
    if structure.is_streamed:
        built = 4.0 * 8 * size * size
        setup = setup + double_sums(structure)
    else:
        setup = setup + inner_products(structure, question.machine)
    small = Work(
        update_bytes=10.0 * size * structure.outputs * structure.itemsize,
        operations=SCALAR_OPERATIONS,
    )
    iterations = math.ceil(krylov_count(question) / inner)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    accuracy = max(expected_error(question), min(eps * (question.condition or 1.0) ** 2, 1.0))
    # At the start and at the end the params are measured on the data themselves.
    widened = widened_bytes(question, 1)
    images = 2.0 * structure.shard[0] * structure.outputs * structure.itemsize
    working = (
        max(built + widened * question.is_widened, square + widened, images)
        + 6.0 * size * structure.outputs * structure.itemsize
        + SCALAR_BYTES
    )
    return Price(working, setup, (one * 2 + small) * inner, iterations, accuracy)
