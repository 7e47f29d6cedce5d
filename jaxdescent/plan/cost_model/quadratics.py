"""Prices of the methods for regressions and quadratics: one function each."""

from __future__ import annotations

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
from jaxdescent.plan.cost_model.iterations import (
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
    vectors,
)
from jaxdescent.plan.structure import Kind, Structure
from jaxdescent.preconditioners.sketch import CHUNK, NONZEROS, Sketch
from jaxdescent.regression.forms import dual_build_bytes, gram_build_bytes
from jaxdescent.regression.solve import (
    DOUBLE_ENTRIES,
    FAIR,
    SMALL,
    least_singular_value,
    normal_equations_bytes,
)

REFINEMENTS = 4
"""Steps of iterative refinement of an ill-conditioned regression: three to six."""


SKETCH_SHARE = 0.65
"""Of the time at a QR's rate that one of five times as many rows as columns takes: longer columns,
faster products."""


SORTING = 2.0
"""How many times longer than a row of a product a number takes in each round of a sort."""


SINGULAR_FLOPS = 12.0
"""Of a singular value decomposition of a triangle, times n^3, at the rate of a QR: it does 22."""


def derivative_regression(question: Question) -> Price:
    """Cholesky of the smaller Gram matrix; QR of X where its condition asks for it."""
    structure, machine = question.structure, question.machine
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    one = one_pass(question, outputs)
    reduced = gradient_sum(structure)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    condition = question.condition or 1.0
    # With a column of ones there are more columns than rows.
    is_singular = rows - structure.has_intercept < features <= rows and not structure.has_penalty
    is_ill = is_singular or condition > ill_condition(structure)
    is_small = structure.is_tall and rows * features**2 <= SMALL
    # Once: the means, the gradient at the start, and value and gradient at the end. Then the way
    # back from the space of the rows, and where the first solve is not as good, a second.
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
        # Cholesky factors, their inverses and products; and what is turned by them, a block and
        # its product at a time.
        turned = 2.0 / stride_count(rows, features) if structure.is_tall else 3.0
        working = structure.itemsize * (9.0 * smaller**2 + turned * structure.entries)
    elif structure.is_tall:
        # The factor is part of the result.
        working += features**2 * structure.itemsize
    touched = None if is_orthogonal else touched_bytes(structure)
    return Price(working, setup, iteration, 1.0, min(eps * condition, 1.0), touched)


def factorisation(structure: Structure, machine: Machine) -> Work:
    """The Gram matrix of the smaller side, its Cholesky factor and inverse."""
    smaller = min(structure.rows, structure.features)
    return inner_products(structure, machine) + cholesky(smaller)


def inner_products(structure: Structure, machine: Machine) -> Work:
    """The Gram matrix of the smaller side: of a device's part of X, and its sum over devices."""
    smaller = min(structure.rows, structure.features)
    share = symmetric_share(smaller, is_halved=machine.is_one_cpu)
    of_part = product(share * 2.0 * structure.entries * smaller, smaller)
    return of_part + all_reduce(structure, float(smaller) ** 2)


def triangles(structure: Structure, machine: Machine) -> Work:
    """QR of the larger side, and of its triangle above a diagonal; elsewhere than on one CPU by
    Gram matrices of ever more orthonormal columns: a product with a triangle, and one with itself.
    """
    smaller, larger = sorted((structure.rows, structure.features))
    if not _is_by_rows(structure, machine):
        once = product(4.0 * structure.entries * smaller, smaller) + cholesky(smaller)
        return (once + all_reduce(structure, float(smaller) ** 2)) * PASSES
    copies = Work(update_bytes=4.0 * larger * smaller * structure.itemsize)
    flops = orthogonal_flops(larger, smaller) + orthogonal_flops(2 * smaller, smaller)
    return orthogonal(flops, smaller) + copies


def _is_by_rows(structure: Structure, machine: Machine) -> bool:
    """Whether a QR is one of all rows: on one CPU."""
    return machine.platform == "cpu" and structure.parts == 1


def touched_bytes(structure: Structure) -> int:
    """What a well-conditioned solve of a dense regression touches, of what it reserves."""
    shape: Any = jax.ShapeDtypeStruct((structure.rows, structure.features), structure.data_dtype)
    return normal_equations_bytes(Dense(shape))


def ill_condition(structure: Structure) -> float:
    """The condition number of X from which normal equations have lost half the digits."""
    return 1 / least_singular_value(structure.compute_dtype)


def lsmr(question: Question) -> Price:
    """Two passes an iteration, four for the mean, the start and the end."""
    structure = question.structure
    one = one_pass(question, structure.outputs)
    reduced = gradient_sum(structure)
    setup = one * 4 + reduced * 3 + widening(question, 1)
    norm = norms(structure)
    return Price(
        lsmr_bytes(question),
        setup,
        one * 2 + reduced + norm + vectors(structure, 12),
        krylov_count(question) + 1,
        expected_error(question),
    )


def lsmr_bytes(question: Question) -> float:
    """Eight vectors of the params' length, three of y's, and the means."""
    structure = question.structure
    (rows, features), outputs = structure.part, structure.outputs
    elements = 8 * features * outputs + features + 3 * rows * outputs
    elements += partial_sums(question) + short_copies(question, 3, 1)
    blocks = max(widened_bytes(question, 1), shifted_bytes(question))
    return structure.itemsize * elements + blocks + SCALAR_BYTES


def is_sketched(structure: Structure) -> bool:
    """Whether X has more rows than the sketch, so that it is one."""
    is_long = structure.rows > Sketch().oversampling * structure.features
    return structure.is_dense and is_long


def sketched_lsmr(question: Question) -> Price:
    """QR of a sketch of X, after which the condition number is that of Gaussian rows."""
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
    is_rough = structure.compute_dtype == "float64"  # whose sketch is in float32
    setup = one * 4 + reduced * 3 + mixture * (0.5 if is_rough else 1.0)
    copies = 3.0 * rows * features * structure.itemsize
    setup = setup + Work(update_bytes=copies, read_rows=SORTING * rows * math.log2(rows))
    # Substitution with the triangle and its transpose, which is read twice.
    triangle = Work(read_bytes=2 * square * structure.itemsize, read_flops=2 * square * outputs)
    condition = math.sqrt(Sketch().oversampling)
    condition = (condition + 1) / (condition - 1)
    iterations = krylov_iterations(condition, question.tolerance) + 2
    columns = features + outputs
    # QR, which works on a copy, beside a rough triangle; and the triangle's inverse applied.
    factorised = 2 * stack * columns + (1.5 * square if is_rough else 0)
    working = structure.itemsize * max(factorised, 7 * square)
    # A chunk of the rows of a group with their signs, and one word a row of the shuffled order:
    # what it takes besides is free again before LSMR begins.
    chunk = min(rows / groups, CHUNK)
    working += 4 * rows + structure.itemsize * chunk * (columns + NONZEROS)
    # Rows are mixed in an order of chance: chunk by chunk each device sends what it has of them.
    setup = setup + all_reduce(structure, chunk * columns) * (rows / chunk)
    norm = norms(structure)
    iteration = one * 2 + reduced + norm + triangle + vectors(structure, 16)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    accuracy = min(eps * (question.condition or 1.0), 1.0)
    return Price(lsmr_bytes(question) + working, setup, iteration, iterations, accuracy)


def conjugate_gradient(question: Question) -> Price:
    """CGLS for a regression: two passes, and one for the gradient at the start; for a quadratic, H
    and H' (its symmetric part counts).
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


def conjugate_gradient_bytes(question: Question) -> float:
    """Of a regression five vectors like the params and two like y; else four like the params."""
    structure = question.structure
    if structure.kind is not Kind.REGRESSION:
        vectors = 4.0 * structure.vector_bytes
        return vectors + widened_bytes(question, 2) + SCALAR_BYTES
    (rows, features), outputs = structure.part, structure.outputs
    elements = 5 * features * outputs + 2 * rows * outputs + partial_sums(question)
    blocks = max(widened_bytes(question, 2), shifted_bytes(question))
    return structure.itemsize * elements + blocks + SCALAR_BYTES


def backtracking(question: Question) -> Price:
    """Gradients, and a pass for each trial: the error falls by ``1 - 1/k^2`` a step."""
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
    """How many products of a step and its trial are sums over devices: with rows sharded X'r alone,
    else both images of params.
    """
    return 1 if structure.sharded == "rows" and structure.kind is Kind.REGRESSION else 2


def barzilai_borwein(question: Question) -> Price:
    """One gradient an iteration, and the root of gradient descent's number of them."""
    structure = question.structure
    one = one_pass(question, structure.outputs)
    reduced = gradient_sum(structure)
    copies = structure.itemsize * short_copies(question, 2, 0)
    return Price(
        descent_bytes(question) + copies,
        one * 4 + reduced * 2 + widening(question, 1),
        one * 2 + reduced + vectors(structure, 10),
        1.5 * krylov_count(question) + 1,
        expected_error(question),
    )


def descent_bytes(question: Question) -> float:
    """The vectors, partial sums, and copies that a CPU's compiler makes of the data."""
    structure = question.structure
    vectors = descent_vectors_bytes(structure) + SCALAR_BYTES
    if structure.kind is not Kind.REGRESSION:
        return vectors + widened_bytes(question, 1)
    sums = partial_sums(question)
    return vectors + structure.itemsize * sums + widened_bytes(question, 2 if sums else 1)


def descent_vectors_bytes(structure: Structure) -> int:
    """Five vectors like the params: the gradient, the trial, its gradient, the old gradient, the
    result; of a regression its image and residual besides.
    """
    if structure.kind is not Kind.REGRESSION:
        return 5 * structure.vector_bytes
    rows, features = structure.part
    elements = 5 * features * structure.outputs
    return structure.itemsize * (elements + rows * (structure.outputs + 1))


def gram(question: Question) -> Price:
    """One pass builds X'X and X'y in float32; an iteration then costs features^2."""
    return _rewritten(question, question.structure.features, gram_build_bytes, 1)


def dual(question: Question) -> Price:
    """One pass builds XX'; its iterations, several to a step, then cost rows^2."""
    return _rewritten(question, question.structure.rows, dual_build_bytes, Dual().iterations)


def _rewritten(question: Question, size: int, build_bytes: Callable[..., int], inner: int) -> Price:
    """Conjugate gradients on the Gram matrix of one side, two products of it an iteration."""
    structure = question.structure
    square = float(size) * size * structure.itemsize
    if question.machine.platform == "cpu":
        built = build_bytes(
            *structure.part,
            structure.outputs,
            structure.itemsize,
            is_centred=structure.has_intercept,
            is_widened=question.is_narrow,
            is_one_cpu=question.machine.is_one_cpu,
        )
    else:  # in one block, which a GPU copies to centre it, and a TPU centres as it reads it
        is_copied = structure.has_intercept and question.machine.platform == "gpu"
        built = square + max(is_copied * structure.entries * structure.itemsize, square)
    one = Work(read_bytes=square, read_flops=2.0 * size * size * structure.outputs)
    setup = one_pass(question, structure.outputs) * 3 + gradient_sum(structure) * 2
    setup = setup + inner_products(structure, question.machine)
    small = Work(
        update_bytes=10.0 * size * structure.outputs * structure.itemsize,
        operations=SCALAR_OPERATIONS,
    )
    iterations = math.ceil(krylov_count(question) / inner)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    accuracy = max(expected_error(question), min(eps * (question.condition or 1.0) ** 2, 1.0))
    # At the start and the end the params are measured on the data themselves.
    widened = widened_bytes(question, 1)
    images = 2.0 * structure.part[0] * structure.outputs * structure.itemsize
    working = (
        max(built + widened * question.is_widened, square + widened, images)
        + 6.0 * size * structure.outputs * structure.itemsize
        + SCALAR_BYTES
    )
    return Price(working, setup, (one * 2 + small) * inner, iterations, accuracy)


def derivative_quadratic(question: Question) -> Price:
    """A spectral factorisation of H."""
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
