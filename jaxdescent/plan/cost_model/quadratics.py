"""Prices of the methods for regressions and quadratics, one function for each method."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs import Dense
from jaxdescent.kernels.factors import PASSES
from jaxdescent.kernels.products import stride_count
from jaxdescent.kernels.symmetric import symmetric_share
from jaxdescent.machine import Machine, orthogonal_flops
from jaxdescent.methods import Dual
from jaxdescent.methods.batch_order import batch_rows
from jaxdescent.methods.batch_steps import SHARE as STEP_SHARE
from jaxdescent.objectives import RowBlocks
from jaxdescent.plan.cost_model.iterations import (
    ASSUMED_CONDITION,
    expected_error,
    gradient_iterations,
    krylov_count,
    krylov_iterations,
)
from jaxdescent.plan.cost_model.reserved import (
    copied_bytes,
    partial_sums,
    shifted_bytes,
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
    all_reduce,
    cholesky,
    gradient_sum,
    norms,
    one_pass,
    orthogonal,
    product,
    spectrum,
    there_and_back,
    vectors,
)
from jaxdescent.plan.structure import Kind, Structure
from jaxdescent.preconditioners.sketch import CHUNK, COPIES, NONZEROS, Sketch
from jaxdescent.regression.forms import dual_build_bytes, gram_build_bytes
from jaxdescent.regression.solve import (
    DOUBLE_ENTRIES,
    FAIR,
    SMALL,
    least_singular_value,
    normal_equations_bytes,
)

REFINEMENTS = 4
"""The assumed number of refinement steps for an ill-conditioned regression (three to six)."""


STEP_VECTORS = 16
"""The vectors of the params' length that a step of mini-batches reads or writes."""


PICKED_BYTES, PICKINGS, COPIED = 64, 4, 1.5
"""An entry that is picked for a batch takes as long as so many bytes of vectors, on one core; so
many times in an epoch, in which the entries are copied row by row, padded to so many times what a
product reads."""


SKETCH_SHARE = 0.65
"""The time of a QR with four times as many rows as columns, relative to the rate of QR that is
measured on other shapes: longer columns make faster products."""


SORTING = 2.0
"""The time of a number in each round of a sort, relative to the time of a row in a product."""


SINGULAR_FLOPS = 12.0
"""The operations of an SVD of a triangle, over n^3, that take as long at the rate of a QR; it needs
22."""


def derivative_regression(question: Question) -> Price:
    """The price of Cholesky of the smaller Gram matrix, or QR of X if that is ill-conditioned."""
    structure, machine = question.structure, question.machine
    if structure.is_streamed:
        return _by_sums(question)
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    one = one_pass(question, outputs)
    reduced = gradient_sum(structure)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    condition = question.condition or 1.0
    # With the intercept's column of ones there are more columns than rows.
    is_singular = rows - structure.has_intercept < features <= rows and not structure.has_penalty
    is_ill = is_singular or condition > ill_condition(structure)
    is_small = structure.is_tall and rows * features**2 <= SMALL
    # The setup includes the means, the gradient at the start, and value and gradient at the end.
    # The iteration includes the way back from the space of the rows, and a second solve if needed.
    setup = one * 4 + reduced * 3
    is_fair = (condition + 1) / 2 < FAIR
    is_once = is_fair or is_ill or is_small
    passes = (0 if structure.is_tall else 1) + (0 if is_once else 2)
    iteration = one * passes + reduced * (passes / 2) + vectors(structure, 20)
    smaller = min(rows, features)
    if structure.has_own_l2 and structure.is_tall:
        setup = setup + inner_products(structure, machine) + spectrum(smaller)
    else:
        setup = setup + factorisation(structure, machine)
    is_orthogonal = is_ill or is_small or (structure.has_own_l2 and not structure.is_tall)
    if is_orthogonal:
        setup = setup + triangles(structure, machine)
        if structure.has_own_l2 or is_singular:
            setup = setup + orthogonal(SINGULAR_FLOPS * smaller**3, smaller)
    if structure.is_tall and (is_ill or is_small):
        entries = float(structure.entries * outputs)
        turns = 2 * REFINEMENTS
        if entries <= DOUBLE_ENTRIES:
            iteration = iteration + Work(double_entries=turns * entries)
        else:
            iteration = iteration + (one * 2 + reduced) * turns
        condition = 1.0
    copied = copied_bytes(question)
    setup = setup + Work(update_bytes=1.5 * copied)
    working = float(structure.solver_bytes)
    if not _is_by_rows(structure, machine):
        # Cholesky factors, their inverses and products; and a block of X times the inverse.
        turned = 2.0 / stride_count(rows, features) if structure.is_tall else 3.0
        working = structure.itemsize * (9.0 * smaller**2 + turned * structure.entries)
    elif structure.is_tall:
        # The factor is part of the result's memory.
        working += features**2 * structure.itemsize
    touched = None if is_orthogonal else touched_bytes(structure)
    return Price(working, setup, iteration, 1.0, min(eps * condition, 1.0), touched)


def _by_sums(question: Question) -> Price:
    """The price of the normal equations in float64: a pass for the sums, one for the gradient at
    the start and one for the check at the end.
    """
    structure = question.structure
    side = structure.features + structure.outputs
    setup = one_pass(question) * 2 + double_sums(structure) + spectrum(side)
    accuracy = float(jnp.finfo(structure.compute_dtype).eps)
    check = there_and_back(question, structure.outputs) + vectors(structure, 4)
    return Price(structure.solver_bytes - structure.reading_bytes, setup, check, 1.0, accuracy)


def double_sums(structure: Structure) -> Work:
    """The work of the products of all columns with each other, in float64, which takes twice as
    long as in float32.
    """
    side = structure.features + structure.outputs
    return product(2.0 * structure.rows * side**2, side)


def factorisation(structure: Structure, machine: Machine) -> Work:
    """The work for the Gram matrix of the smaller side, its Cholesky factor and the inverse."""
    smaller = min(structure.rows, structure.features)
    return inner_products(structure, machine) + cholesky(smaller)


def inner_products(structure: Structure, machine: Machine) -> Work:
    """The work for the Gram matrix of the smaller side, and its sum over devices."""
    smaller = min(structure.rows, structure.features)
    share = symmetric_share(smaller, is_halved=machine.is_one_cpu)
    of_shard = product(share * 2.0 * structure.entries * smaller, smaller)
    return of_shard + all_reduce(structure, float(smaller) ** 2)


def triangles(structure: Structure, machine: Machine) -> Work:
    """The work for the triangular factor of an ill-conditioned X.

    On one CPU it is QR of the larger side, and of its triangle above a diagonal. Elsewhere it is
    Gram matrices of columns that are orthonormalised step by step: each pass takes a product with a
    triangle, and one of the result with itself.
    """
    smaller, larger = sorted((structure.rows, structure.features))
    if not _is_by_rows(structure, machine):
        once = product(4.0 * structure.entries * smaller, smaller) + cholesky(smaller)
        return (once + all_reduce(structure, float(smaller) ** 2)) * PASSES
    copies = Work(update_bytes=4.0 * larger * smaller * structure.itemsize)
    flops = orthogonal_flops(larger, smaller) + orthogonal_flops(2 * smaller, smaller)
    return orthogonal(flops, smaller) + copies


def _is_by_rows(structure: Structure, machine: Machine) -> bool:
    """Whether QR is applied to all rows at once, which it is on one CPU."""
    return machine.platform == "cpu" and structure.shards == 1


def touched_bytes(structure: Structure) -> int:
    """The bytes that a well-conditioned solve of a dense regression uses of those it reserves."""
    shape: Any = jax.ShapeDtypeStruct((structure.rows, structure.features), structure.data_dtype)
    return normal_equations_bytes(Dense(shape))


def ill_condition(structure: Structure) -> float:
    """The condition number of X from which the normal equations lose half the digits."""
    return 1 / least_singular_value(structure.compute_dtype)


def lsmr(question: Question) -> Price:
    """The price of LSMR: two passes in an iteration; four for the mean, the start and the end."""
    structure = question.structure
    one = one_pass(question, structure.outputs)
    reduced = gradient_sum(structure)
    setup = one * 4 + reduced * 3 + widening(question, 1)
    norm = norms(structure)
    return Price(
        lsmr_bytes(question),
        setup,
        there_and_back(question, structure.outputs) + reduced + norm + vectors(structure, 12),
        krylov_count(question) + 1,
        expected_error(question),
    )


def scaled_lsmr(question: Question) -> Price:
    """The price of LSMR with the columns scaled: a pass for their lengths, and two vectors more."""
    price, structure = lsmr(question), question.structure
    return dataclasses.replace(
        price,
        working_bytes=price.working_bytes + 2 * structure.vector_bytes,
        setup=price.setup + one_pass(question) + gradient_sum(structure),
        iteration=price.iteration + vectors(structure, 2),
    )


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


def lsmr_bytes(question: Question) -> float:
    """Eight vectors of the params' length, three of y's, and the means."""
    structure = question.structure
    (rows, features), outputs = structure.shard, structure.outputs
    elements = 8 * features * outputs + features + 3 * rows * outputs
    elements += partial_sums(question) + short_copies(question, 3, 1)
    blocks = max(widened_bytes(question, 1), shifted_bytes(question))
    return structure.itemsize * elements + blocks + SCALAR_BYTES


def is_sketched(structure: Structure) -> bool:
    """Whether X has more rows than the sketch would have, so that a sketch is made."""
    return structure.is_dense and _is_long(structure)


def is_sketched_by_entries(structure: Structure) -> bool:
    """The same of an X whose rows are added up by their entries."""
    return structure.is_sparse and not structure.is_streamed and _is_long(structure)


def _is_long(structure: Structure) -> bool:
    return structure.rows > Sketch().oversampling * structure.features


def sketched_lsmr(question: Question) -> Price:
    """The price of LSMR with a sketch, which makes the condition number that of Gaussian rows."""
    structure = question.structure
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    one = one_pass(question, outputs)
    groups = -(-Sketch().oversampling * features // NONZEROS)
    stack = groups * NONZEROS
    square = float(features) * features
    flops = SKETCH_SHARE * orthogonal_flops(stack, features)
    if structure.has_penalty:
        flops += orthogonal_flops(2.0 * features, features)
    reduced = gradient_sum(structure)
    mixture = orthogonal(flops, features) + product(2.0 * NONZEROS * rows * features, NONZEROS)
    is_rough = structure.compute_dtype == "float64"  # then the sketch is in float32
    setup = one * 4 + reduced * 3 + mixture * (0.5 if is_rough else 1.0)
    if structure.is_sparse:
        # The entries are added up for each part of the sketch, into rows that are written out.
        setup = one * (4 + COPIES) + reduced * 3 + orthogonal(flops, features)
        setup = setup + Work(update_bytes=3.0 * stack * features * structure.itemsize)
    else:
        copies = 3.0 * rows * features * structure.itemsize
        setup = setup + Work(update_bytes=copies, read_rows=SORTING * rows * math.log2(rows))
    # Substitution with the triangle and with its transpose reads it twice.
    triangle = Work(read_bytes=2 * square * structure.itemsize, read_flops=2 * square * outputs)
    condition = math.sqrt(Sketch().oversampling)
    condition = (condition + 1) / (condition - 1)
    iterations = krylov_iterations(condition, question.tolerance) + 2
    columns = features + outputs
    # QR of a copy, with a rough triangle besides; or applying the triangle's inverse.
    factorised = 2 * stack * columns + (1.5 * square if is_rough else 0)
    working = structure.itemsize * max(factorised, 7 * square)
    # A chunk of a group's rows with their signs, and the shuffled order, one word for each row. The
    # other memory of the shuffle is free again before LSMR begins.
    chunk = min(rows / groups, CHUNK)
    working += 4 * rows + structure.itemsize * chunk * (columns + NONZEROS)
    # Rows are mixed in random order: for each chunk every device sends the rows that it has.
    setup = setup + all_reduce(structure, chunk * columns) * (rows / chunk)
    norm = norms(structure)
    iteration = one * 2 + reduced + norm + triangle + vectors(structure, 16)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    accuracy = min(eps * (question.condition or 1.0), 1.0)
    return Price(lsmr_bytes(question) + working, setup, iteration, iterations, accuracy)


def conjugate_gradient(question: Question) -> Price:
    """The price of conjugate gradients.

    For a regression (CGLS) it is two passes, and one for the gradient at the start; for a quadratic
    two products, with H and H' (the symmetric part is used).
    """
    structure = question.structure
    one = one_pass(question, structure.outputs)
    reduced = gradient_sum(structure)
    start = one + reduced if structure.kind is Kind.REGRESSION else Work()
    norm = norms(structure) if structure.kind is Kind.REGRESSION else Work()
    return Price(
        conjugate_gradient_bytes(question),
        start + widening(question, 2),
        one * 2 + reduced + norm + vectors(structure, 10),
        krylov_count(question) + 1,
        expected_error(question),
    )


def scaled_conjugate_gradient(question: Question) -> Price:
    """The price of conjugate gradients with the columns scaled: a pass for their lengths, one for
    their means, and two vectors more.
    """
    price, structure = conjugate_gradient(question), question.structure
    lengths = one_pass(question) * 2 + gradient_sum(structure)
    return dataclasses.replace(
        price,
        working_bytes=price.working_bytes + 2 * structure.vector_bytes,
        setup=price.setup + lengths,
        iteration=price.iteration + vectors(structure, 2),
    )


def conjugate_gradient_bytes(question: Question) -> float:
    """Five vectors like the params and two like y for a regression; else four like the params."""
    structure = question.structure
    if structure.kind is not Kind.REGRESSION:
        vectors = 4.0 * structure.vector_bytes
        return vectors + widened_bytes(question, 2) + SCALAR_BYTES
    (rows, features), outputs = structure.shard, structure.outputs
    elements = 5 * features * outputs + 2 * rows * outputs + partial_sums(question)
    blocks = max(widened_bytes(question, 2), shifted_bytes(question))
    return structure.itemsize * elements + blocks + SCALAR_BYTES


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
    sums = partial_sums(question)
    working = vectors + structure.itemsize * sums + widened_bytes(question, 2 if sums else 1)
    if not structure.has_intercept or structure.is_rounded:
        return working
    # The look at the centred problem, where the descent says that it has converged: the targets
    # less their mean, an image, and what products with a centred X reserve, twice if they widen it.
    return working + shifted_bytes(question) * (2 if question.is_narrow else 1)


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


def derivative_quadratic(question: Question) -> Price:
    """The price of a spectral factorisation of H."""
    structure = question.structure
    size = structure.unknowns
    setup = spectrum(size)
    if not structure.is_dense:
        setup = setup + one_pass(question, size)
    square = Work(read_bytes=2.0 * size * size * structure.itemsize, operations=SCALAR_OPERATIONS)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    accuracy = min(eps * (question.condition or 1.0), 1.0)
    iteration = square + one_pass(question) * 6
    return Price(structure.solver_bytes, setup, iteration, 1.0, accuracy)
