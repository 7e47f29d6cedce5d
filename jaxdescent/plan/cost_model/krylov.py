"""Prices of LSMR and of conjugate gradients for regressions and quadratics."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp

from jaxdescent.machine import orthogonal_flops
from jaxdescent.plan.cost_model.iterations import (
    expected_error,
    krylov_count,
    krylov_iterations,
)
from jaxdescent.plan.cost_model.reserved import (
    partial_sums,
    shifted_bytes,
    short_copies,
    widened_bytes,
    widening,
)
from jaxdescent.plan.cost_model.work import (
    SCALAR_BYTES,
    Price,
    Question,
    Work,
    all_reduce,
    gradient_sum,
    norms,
    one_pass,
    orthogonal,
    product,
    there_and_back,
    vectors,
)
from jaxdescent.plan.structure import Kind, Structure
from jaxdescent.preconditioners.sketch import CHUNK, COPIES, NONZEROS, Sketch

SKETCH_SHARE = 0.65
"""The time of a QR with four times as many rows as columns, relative to the rate of QR that is
measured on other shapes: longer columns make faster products."""


SORTING = 2.0
"""The time of a number in each round of a sort, relative to the time of a row in a product."""


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


def lsmr_bytes(question: Question) -> float:
    """Eight vectors of the params' length, three of y's, and the means."""
    structure = question.structure
    (rows, features), outputs = structure.shard, structure.outputs
    elements = 8 * features * outputs + features + 3 * rows * outputs
    elements += partial_sums(question) + short_copies(question, 3, 1)
    # Products with a centred X and the look at a claim share a copy of all of it, but no block.
    copies = 1 if structure.has_intercept and question.is_widened else 2
    blocks = max(widened_bytes(question, copies), shifted_bytes(question))
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
