"""Prices of the methods that iterate, most of which are rows of passes and vectors."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxdescent.cost.iterations import (
    condition_of,
    error_bound,
    gradient_iterations,
    krylov_count,
    krylov_iterations,
)
from jaxdescent.cost.structure import ProblemKind, Structure
from jaxdescent.cost.work import ITERATION_KERNELS, SCALAR_BYTES, Price, Question, Work
from jaxdescent.kernels.blocks import SHIFTED_BYTES, WIDENED_BYTES
from jaxdescent.kernels.products import part_length, run_length
from jaxdescent.kernels.sparse_products import CACHED_BYTES, CHAIN
from jaxdescent.methods.batch_steps import SHARE as STEP_SHARE
from jaxdescent.methods.batch_steps import batch_rows
from jaxdescent.methods.levenberg_marquardt import DENSE_ELEMENTS, DENSE_PARAMS
from jaxdescent.objectives import RowBlocks
from jaxdescent.preconditioners.sketch import CHUNK, COPIES, NONZEROS, Sketch


class PricedByPasses(NamedTuple):
    """The price of a method that is made of passes over the data and of vectors."""

    # Of a regression, the products with X and those with X', once and in an iteration; of a
    # function its values and gradients.
    once: tuple[float, float]
    each: tuple[float, float]
    vectors: float  # the vectors of both sides that an iteration reads or writes
    of_params: float  # the vectors of the params' size that are reserved
    of_rows: float = 0  # the vectors of the targets' size that are reserved
    looked: tuple[float, float] = (0, 0)  # those of both sides, at the look at a claim
    # Besides, of params in 16 bits: the widened ones, and what is remembered of steps once more.
    rounded: float = 0
    widened: float = 2  # the copies that products with a Hessian of 16 bits make of it
    is_centred: bool = False  # whether products are those of a centred X
    krylov: float = 1.0  # its iterations over a Krylov method's; 0 stands for steepest descent
    # Those for a function of whose Hessian nothing is known, right to an order of magnitude.
    assumed: float = 0

    def __call__(self, question: Question) -> Price:
        """The price for a problem on a machine."""
        structure = question.structure
        widening = 1.5 * structure.entries * structure.itemsize * question.is_widened
        if self.assumed and question.condition is None:
            iterations = self.assumed
        elif self.krylov:
            iterations = self.krylov * krylov_count(question) + 1
        else:
            iterations = gradient_iterations(question)
        return Price(
            self._bytes(question),
            question.passes(*self.once) + Work(bytes_moved=widening),
            question.passes(*self.each) + question.norms() + question.vectors(self.vectors),
            iterations,
            structure.eps**0.5 if self.assumed else error_bound(question, question.tolerance),
        )

    def _bytes(self, question: Question) -> float:
        """The bytes of vectors of both sides and of copies, in an iteration or in the look at a
        claim. A look has the lengths of the columns for each output that has an ``l2`` of its own,
        and widens targets of 16 bits.
        """
        structure, itemsize = question.structure, question.structure.itemsize
        reserved = structure.evaluation_reserved + SCALAR_BYTES
        if structure.kind is not ProblemKind.REGRESSION:
            widened = self.widened * structure.entries * itemsize * question.is_widened
            vectors = self.of_params + self.rounded * structure.is_rounded
            return vectors * structure.vector_bytes + widened + reserved
        (rows, features), outputs = structure.shard, structure.outputs
        of_params, of_rows = features * outputs * itemsize, rows * outputs * itemsize
        stepping = self.of_params * of_params + self.of_rows * of_rows
        is_map = not (structure.is_dense or structure.is_sparse or structure.is_streamed)
        # A look needs the lengths of the columns, which a map does not know.
        looked_params, looked_rows = (0, 0) if is_map else self.looked
        looking = (looked_params + structure.has_own_l2) * of_params
        looking += (looked_rows + structure.has_narrow_targets) * of_rows
        # While a look multiplies, few of its vectors of the targets' size are there.
        multiplying = looked_params * of_params + self.of_rows * of_rows + _copied(question)
        if question.is_widened:
            copies, is_shifted = 0, self.is_centred and structure.has_intercept
            if outputs > 1 and part_length(rows) is not None:
                # Groups of rows are cut from one more copy: in the iteration or in the look.
                copies += self.is_centred != structure.has_intercept
            elif is_shifted and outputs == 1:
                copies -= 1  # a centred iteration has blocks, and only a look widens X as a whole
            if structure.data_dtype == "float16" and structure.has_intercept:
                copies += not self.is_centred  # for the lengths of the columns
            multiplying += copies * structure.entries * itemsize
        if self.is_centred and structure.has_intercept and structure.is_dense and question.is_cpu:
            stepping += question.block_bytes(SHIFTED_BYTES, is_cut=True)
        return max(stepping, looking, multiplying) + reserved


def _copied(question: Question) -> float:
    """The bytes of what products copy of X, and of the partial sums that they store.

    A CPU widens 16-bit data as a whole or in blocks, for the start and for an iteration. X'R has a
    sum for each run of rows, and a product with a sparse X one for each chain of entries.
    """
    structure, itemsize = question.structure, question.structure.itemsize
    (rows, features), outputs = structure.shard, structure.outputs
    if structure.is_sparse and not structure.is_streamed:
        # X'R gathers from rows, and XW from features.
        least = min(rows, features) * outputs * itemsize
        is_at_once = not question.is_cpu or least <= CACHED_BYTES
        chains = structure.evaluation_flops / 2 / CHAIN
        return chains * itemsize * (outputs if is_at_once else 1)
    if not (question.is_cpu and structure.is_dense):
        return 0.0
    if question.is_narrow:
        if question.is_widened:
            whole = 2.0 * structure.entries * itemsize
            return whole + (_partial_sums(structure) if outputs > 1 else 0.0)
        return 2 * question.block_bytes(WIDENED_BYTES)
    return _partial_sums(structure)


def _partial_sums(structure: Structure) -> float:
    """The bytes of a sum of X'R for each group of rows."""
    (rows, features), outputs = structure.shard, structure.outputs
    length = run_length(rows, features) if outputs == 1 else part_length(rows)
    return rows / length * features * outputs * structure.itemsize if length else 0.0


LSMR_ROW = PricedByPasses((2, 2), (1, 1), 12, 9, of_rows=3, looked=(12, 7), is_centred=True)
"""Four passes for the mean, the start and the end."""


# Sketches and batches


def is_sketched(structure: Structure) -> bool:
    """Whether X is in memory, and has more rows than the sketch would have."""
    return structure.is_held and structure.rows > Sketch().oversampling * structure.features


SKETCH_SHARE = 0.65
"""The time of a QR with four times as many rows as columns, relative to the rate of QR that is
measured on other shapes: longer columns make faster products."""


SORTING = 2.4e-9
"""The seconds of a number in each round of the sort that shuffles the rows on a CPU."""


def sketched_lsmr(question: Question) -> Price:
    """LSMR with a sketch, which makes the condition number that of Gaussian rows.

    A sketch of float64 is in float32. Of a sparse X the entries are added up for each part of the
    sketch. Of a dense one rows are mixed in random order: for each chunk every device sends the
    rows that it has.
    """
    structure, base = question.structure, LSMR_ROW(question)
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    groups = -(-Sketch().oversampling * features // NONZEROS)
    stack, square = groups * NONZEROS, float(features) * features
    is_rough = structure.compute_dtype == "float64"
    setup = question.orthogonal(stack, features) * SKETCH_SHARE
    if structure.has_penalty:
        setup += question.orthogonal(2 * features, features)
    if structure.is_sparse:
        setup += Work(passes=COPIES, bytes_moved=3.0 * stack * features * structure.itemsize)
    else:
        setup += question.product(2.0 * NONZEROS * rows * features, NONZEROS)
        setup *= 0.5 if is_rough else 1.0
        sorting = SORTING * rows * math.log2(rows) if question.is_cpu else 0.0
        setup += Work(bytes_moved=3.0 * rows * features * structure.itemsize, seconds=sorting)
    # QR of a copy, with a rough triangle besides; or applying the triangle's inverse.
    columns = features + outputs
    factorised = 2 * stack * columns + (1.5 * square if is_rough else 0)
    # A chunk of a group's rows with their signs, and the shuffled order, one word for each row.
    chunk = min(rows / groups, CHUNK)
    working = max(factorised + square, 7 * square) + chunk * (columns + NONZEROS)
    setup += question.all_reduce(chunk * columns) * (rows / chunk)
    # Products with the triangle's inverse and with its transpose read it twice.
    twice = 2 * square * structure.itemsize
    products = Work(bytes_moved=twice, flops=4 * square * outputs)
    condition = math.sqrt(Sketch().oversampling)
    condition = (condition + 1) / (condition - 1)
    return Price(
        max(base.working_bytes + structure.itemsize * square, structure.itemsize * working)
        + 4 * rows,
        base.setup + setup,
        base.iteration + products + question.vectors(4)._replace(kernels=0),
        krylov_iterations(condition, question.tolerance) + 2,
        error_bound(question),
    )


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
    epoch, copied = Work(passes=1, flops=2 * question.pass_flops), 0.0
    if not structure.is_streamed:
        copied = 1.5 * structure.evaluation_bytes
        epoch = Work(bytes_moved=4 * 64.0 * rows * entries * outputs + copied)
    step = Work(bytes_moved=16.0 * structure.vector_bytes, kernels=2 * ITERATION_KERNELS)
    time = steps * STEP_SHARE / (1 + features / batch)
    decades = min(time / condition_of(question), math.log(10))
    of_rows = LSMR_ROW.looked[1] * rows * outputs * structure.itemsize
    # While entries are scattered into the copy, it is there twice.
    held = 10.0 * structure.vector_bytes + of_rows + 1.75 * copied + SCALAR_BYTES
    return Price(
        max(held, LSMR_ROW(question).working_bytes),
        Work(passes=3),
        epoch + step * steps + question.passes(1, 1) + question.vectors(12),
        max(-math.log(max(question.tolerance, 1e-16)) / decades, 1.0),
        error_bound(question, question.tolerance),
    )


# Functions


def separable_descent(question: Question) -> Price:
    """Descent leaf by leaf in place, with sixteen steps in a pass. If all curvatures are equal, the
    first pass finds the minimum.
    """
    structure = question.structure
    working = float(structure.params_bytes + structure.largest_leaf_bytes)
    a_step = question.vectors(3 / 16) + question.norms() * (1 / 16)
    return Price(working, question.vectors(6), a_step, 16.0, structure.eps)


def separable_backtracking(question: Question) -> Price:
    """Backtracking: the trial, its gradient, the gradient, the params, the result, and params of 16
    bits once more, widened.
    """
    structure = question.structure
    working = (6.0 if structure.is_rounded else 5.0) * structure.vector_bytes
    iteration = question.vectors(16) + question.norms()
    return Price(working, question.vectors(8), iteration, 2.0, structure.eps)


def levenberg_marquardt(question: Question) -> Price:
    """Levenberg-Marquardt: J is formed for few unknowns, else conjugate gradients."""
    structure = question.structure
    size, residuals = structure.unknowns, structure.rows
    jacobian = float(size) * residuals
    if size <= DENSE_PARAMS and jacobian <= DENSE_ELEMENTS:
        iteration = Work(passes=size, kernels=ITERATION_KERNELS)
        iteration += question.orthogonal(residuals + size, size)
        working = structure.itemsize * (3.0 * jacobian + 4.0 * size * size)
    else:
        iteration = Work(passes=20) + question.vectors(250)
        working = 4.0 * structure.vector_bytes + 4.0 * residuals * structure.itemsize
    working += structure.evaluation_reserved
    return Price(working, Work(), iteration, 15.0, structure.eps**0.5)
