"""Prices of the methods that iterate on regressions and quadratics."""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxdescent.cost.iterations import (
    condition_of,
    error_bound,
    gradient_iterations,
    krylov_count,
    krylov_iterations,
)
from jaxdescent.cost.structure import ProblemKind, Structure
from jaxdescent.cost.work import SCALAR_BYTES, Price, Question, Work
from jaxdescent.kernels.products import FEW_ROWS, part_length, run_length
from jaxdescent.kernels.shifted import SHIFTED_BYTES
from jaxdescent.methods.batch_order import batch_rows
from jaxdescent.methods.batch_steps import SHARE as STEP_SHARE
from jaxdescent.objectives import RowBlocks
from jaxdescent.preconditioners.sketch import CHUNK, COPIES, NONZEROS, Sketch

LOOK = 7
"""The vectors of the rows that a Krylov method's look at a claim reserves."""


def lsmr(question: Question) -> Price:
    """LSMR: two passes in an iteration; four for the mean, the start and the end."""
    structure, reduced = question.structure, question.gradient_sum()
    outputs = structure.outputs
    # Products with a centred X and the look at a claim share a copy of all of it.
    copies = 1 if question.is_widened and structure.has_intercept and outputs == 1 else 2
    return Price(
        _vectors_bytes(question, 9, 3, centred=1.0, copies=copies),
        question.one_pass(outputs) * 4 + reduced * 3 + _widening(question, 1),
        question.there_and_back(outputs) + reduced + question.norms() + question.vectors(12),
        krylov_count(question) + 1,
        error_bound(question, question.tolerance),
    )


def conjugate_gradient(question: Question) -> Price:
    """Conjugate gradients: two passes (products with H and H' for a quadratic), and for a
    regression one for the gradient at the start.
    """
    outputs, reduced = question.structure.outputs, question.gradient_sum()
    is_regression = question.structure.kind is ProblemKind.REGRESSION
    start = question.one_pass(outputs) + reduced if is_regression else Work()
    norms = question.norms() if is_regression else Work()
    return Price(
        _vectors_bytes(question, 5 if is_regression else 4, 2, centred=0.5),
        start + _widening(question, 2),
        question.one_pass(outputs) * 2 + reduced + norms + question.vectors(10),
        krylov_count(question) + 1,
        error_bound(question, question.tolerance),
    )


def scaled(unscaled: Callable[[Question], Price], passes: int) -> Callable[[Question], Price]:
    """A method with the columns scaled: passes for their means and lengths, and two vectors more in
    an iteration.
    """

    def price(question: Question) -> Price:
        price = unscaled(question)
        return price._replace(
            working_bytes=price.working_bytes + 2 * question.structure.vector_bytes,
            setup=price.setup + question.one_pass() * passes + question.gradient_sum(),
            iteration=price.iteration + question.vectors(2),
        )

    return price


def is_sketched(structure: Structure) -> bool:
    """Whether X is in memory, and has more rows than the sketch would have."""
    is_held = structure.is_dense or (structure.is_sparse and not structure.is_streamed)
    return is_held and structure.rows > Sketch().oversampling * structure.features


SKETCH_SHARE = 0.65
"""The time of a QR with four times as many rows as columns, relative to the rate of QR that is
measured on other shapes: longer columns make faster products."""

SORTING = 2.4e-9
"""The seconds of a number in each round of the sort that shuffles the rows."""


def sketched_lsmr(question: Question) -> Price:
    """LSMR with a sketch, which makes the condition number that of Gaussian rows."""
    structure, base = question.structure, lsmr(question)
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    groups = -(-Sketch().oversampling * features // NONZEROS)
    stack, square = groups * NONZEROS, float(features) * features
    factor = question.orthogonal(stack, features) * SKETCH_SHARE
    if structure.has_penalty:
        factor = factor + question.orthogonal(2 * features, features)
    is_rough = structure.compute_dtype == "float64"  # then the sketch is in float32
    if structure.is_sparse:
        # The entries are added up for each part of the sketch, into rows that are written out.
        setup = base.setup + question.one_pass(outputs) * COPIES + factor
        setup = setup + question.updated(3.0 * stack * features * structure.itemsize)
    else:
        mixture = question.product(2.0 * NONZEROS * rows * features, NONZEROS) + factor
        setup = base.setup + mixture * (0.5 if is_rough else 1.0)
        setup = setup + question.updated(3.0 * rows * features * structure.itemsize)
        if question.machine.platform == "cpu":
            setup = setup + Work(seconds=SORTING * rows * math.log2(rows))
    # QR of a copy, with a rough triangle besides; or applying the triangle's inverse.
    columns = features + outputs
    factorised = 2 * stack * columns + (1.5 * square if is_rough else 0)
    # A chunk of a group's rows with their signs, and the shuffled order, one word for each row.
    chunk = min(rows / groups, CHUNK)
    working = max(factorised, 7 * square) + chunk * (columns + NONZEROS)
    # Rows are mixed in random order: for each chunk every device sends the rows that it has.
    setup = setup + question.all_reduce(chunk * columns) * (rows / chunk)
    # Substitution with the triangle and with its transpose reads it twice.
    reading = (
        2
        * square
        * structure.itemsize
        / question.machine.bandwidth(structure.compute_dtype, question.pass_bytes)
    )
    triangle = Work(read_seconds=reading, flops=2 * square * outputs)
    condition = math.sqrt(Sketch().oversampling)
    condition = (condition + 1) / (condition - 1)
    return Price(
        base.working_bytes + structure.itemsize * working + 4 * rows,
        setup,
        base.iteration + triangle + question.vectors(4)._replace(kernels=0),
        krylov_iterations(condition, question.tolerance) + 2,
        error_bound(question),
    )


# Descents


def mini_batches(question: Question) -> Price:
    """Mini-batches: passes for means, lengths and the look at the start; and in each iteration an
    epoch of three products with each batch, whose steps touch 16 vectors of all features, and a
    look at all rows. Entries in memory are copied row by row first, padded to 1.5 times what a
    product reads, and each is picked four times, which takes as long as 64 bytes of vectors.

    In unknowns that are scaled to a mean eigenvalue of one, an epoch goes as far as gradient flow
    in a time of ``steps * rate``. The smallest eigenvalue is taken to be one over the condition
    number. What noise leaves is a tenth of the error at best.
    """
    structure = question.structure
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    entries = round(structure.evaluation_flops / 2 / rows)
    batch = batch_rows(structure.unknowns, features, RowBlocks(rows, rows, entries))
    steps = -(-rows // batch)
    epoch, copied = question.one_pass(3 * outputs), 0.0
    if not structure.is_streamed:
        copied = 1.5 * structure.evaluation_bytes
        epoch = question.updated(4 * 64.0 * rows * entries * outputs + copied)
    step = question.updated(16.0 * structure.vector_bytes)._replace(kernels=60)
    time = steps * STEP_SHARE / (1 + features / batch)
    decades = min(time / condition_of(question), math.log(10))
    looked = question.there_and_back(outputs) + question.vectors(12)
    of_rows = 2.0 * rows * outputs * structure.itemsize
    return Price(
        10.0 * structure.vector_bytes + of_rows + copied + SCALAR_BYTES,
        question.one_pass(outputs) * 3,
        epoch + step * steps + looked,
        max(-math.log(max(question.tolerance, 1e-16)) / decades, 1.0),
        error_bound(question, question.tolerance),
    )


def backtracking(question: Question) -> Price:
    """Backtracking: gradients, and a pass for each trial. The error falls by a factor of
    ``1 - 1/k^2`` in a step.
    """
    structure, reduced = question.structure, question.gradient_sum()
    one = question.one_pass(structure.outputs)
    # If rows are sharded only X'r is a sum over devices; otherwise both images of params are.
    is_by_rows = structure.sharded == "rows" and structure.kind is ProblemKind.REGRESSION
    return Price(
        _descent_bytes(question),
        one * 4 + reduced * 2 + _widening(question, 1),
        one * 3 + reduced * (1 if is_by_rows else 2) + question.vectors(10),
        gradient_iterations(question),
        error_bound(question, question.tolerance),
    )


def barzilai_borwein(question: Question) -> Price:
    """Barzilai and Borwein's rule: one gradient in an iteration, and about the square root of plain
    gradient descent's iterations.
    """
    outputs, reduced = question.structure.outputs, question.gradient_sum()
    return Price(
        _descent_bytes(question),
        question.one_pass(outputs) * 4 + reduced * 2 + _widening(question, 1),
        question.there_and_back(outputs) + reduced + question.vectors(10),
        1.5 * krylov_count(question) + 1,
        error_bound(question, question.tolerance),
    )


def _descent_bytes(question: Question) -> float:
    """The vectors of a descent, and three vectors of the rows for the look at a claim."""
    of_params = 5 if question.structure.outputs == 1 else 6
    return _vectors_bytes(question, of_params, 5, look=5)


def _vectors_bytes(
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
    if structure.kind is not ProblemKind.REGRESSION:
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


def _widening(question: Question, copies: int) -> Work:
    """The work of writing float32 copies of 16-bit data."""
    return question.updated(1.5 * copies * question.widened_bytes * question.is_widened)
