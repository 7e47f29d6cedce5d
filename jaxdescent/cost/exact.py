"""Prices of the derivative method for regressions and quadratics, and of their rewritten forms."""

from __future__ import annotations

import math

from jaxdescent.cost.iterations import error_bound, krylov_count
from jaxdescent.cost.structure import Structure
from jaxdescent.cost.work import ITERATION_KERNELS, SCALAR_BYTES, Price, Question, Work
from jaxdescent.kernels.factors import PASSES
from jaxdescent.kernels.products import LEAST_PARTED, stride_count
from jaxdescent.kernels.symmetric import LEAST_HALVED, block_length
from jaxdescent.regression.solve import DOUBLE_ENTRIES, FAIR, SMALL, least_singular_value

DOUBLE_FLOPS, DOUBLE_SLOWER = 25.0, 100.0
"""The operations for an entry of X in a product in double length, and how many times longer they
take than those of a matrix product."""

REFINEMENTS = 4
"""The assumed number of refinement steps for an ill-conditioned regression (three to six)."""


def derivative_regression(question: Question) -> Price:
    """Cholesky of the smaller Gram matrix, or QR of X if that is ill-conditioned.

    The setup includes the means, the gradient at the start, and value and gradient at the end; the
    iteration the way back from the space of the rows, and a second solve if needed.
    """
    structure = question.structure
    if structure.is_streamed:
        return _by_sums(question)
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    one, reduced = question.one_pass(outputs), question.gradient_sum()
    condition, smaller = question.condition or 1.0, structure.smaller
    # With the intercept's column of ones there are more columns than rows.
    is_singular = rows - structure.has_intercept < features <= rows and not structure.has_penalty
    is_ill = is_singular or condition * least_singular_value(structure.compute_dtype) > 1
    is_small = structure.is_tall and rows * features**2 <= SMALL
    is_once = (condition + 1) / 2 < FAIR or is_ill or is_small
    passes = (0 if structure.is_tall else 1) + (0 if is_once else 2)
    iteration = one * passes + reduced * (passes / 2) + question.vectors(20)
    setup = one * 4 + reduced * 3 + question.gram_matrix()
    if structure.has_own_l2 and structure.is_tall:
        setup = setup + question.spectrum(smaller)
    else:
        setup = setup + question.cholesky(smaller)
    is_orthogonal = is_ill or is_small or (structure.has_own_l2 and not structure.is_tall)
    if is_orthogonal:
        setup = setup + _triangles(question)
        if structure.has_own_l2 or is_singular:
            # An SVD of a triangle takes 12 n^3 operations at the rate of a QR.
            setup = setup + question.orthogonal(6.0 * smaller, smaller)
    if structure.is_tall and (is_ill or is_small):
        entries = float(structure.entries * outputs)
        turns = 2 * REFINEMENTS
        if entries <= DOUBLE_ENTRIES:
            flops = turns * DOUBLE_FLOPS * entries
            inside = question.product(DOUBLE_SLOWER * flops, math.inf)
            iteration = iteration + inside._replace(flops=flops)
        else:
            iteration = iteration + (one * 2 + reduced) * turns
        condition = 1.0
    if question.is_narrow:  # a float32 copy of all data
        setup = setup + question.updated(1.5 * structure.entries * structure.itemsize)
    working, touched = float(structure.solver_bytes), None
    if not _is_by_rows(question):
        # Cholesky factors, their inverses and products; and a block of X times the inverse.
        turned = 2.0 / stride_count(rows, features) if structure.is_tall else 3.0
        working = structure.itemsize * (9.0 * smaller**2 + turned * structure.entries)
    elif structure.is_tall:  # The factor is part of the result's memory.
        working += features**2 * structure.itemsize
    elif outputs > 1:  # The weights, before and after they are added to the start.
        working += 2.0 * features * outputs * structure.itemsize
    if not is_orthogonal:
        touched = touched_bytes(structure)
    error = min(structure.eps * condition, 1.0)
    return Price(working, setup, iteration, 1.0, error, touched)


def touched_bytes(structure: Structure) -> float:
    """The bytes that a well-conditioned solve of a dense regression uses of those it reserves: the
    Gram matrix, a scaled copy, its factor and the factor's inverse.
    """
    return 4 * structure.itemsize * float(structure.smaller) ** 2


def _by_sums(question: Question) -> Price:
    """The normal equations in float64: a pass for the sums, one for the gradient at the start and
    one for the check at the end.
    """
    structure = question.structure
    side = structure.features + structure.outputs
    return Price(
        structure.solver_bytes - structure.reading_bytes,
        question.one_pass() * 2 + _double_sums(question) + question.spectrum(side),
        question.there_and_back(structure.outputs) + question.vectors(4),
        1.0,
        structure.eps,
    )


def _double_sums(question: Question) -> Work:
    """The products of all columns with each other in float64, twice as slow as in float32."""
    side = question.structure.features + question.structure.outputs
    return question.product(2.0 * question.structure.rows * side**2, side)


def _triangles(question: Question) -> Work:
    """The triangular factor of an ill-conditioned X.

    On one CPU it is QR of the larger side, and of its triangle above a diagonal. Elsewhere it is
    Gram matrices of columns that are orthonormalised step by step: each pass takes a product with a
    triangle, and one of the result with itself.
    """
    structure = question.structure
    smaller, larger = sorted((structure.rows, structure.features))
    if not _is_by_rows(question):
        once = question.product(4.0 * structure.entries * smaller, smaller)
        once = once + question.cholesky(smaller) + question.all_reduce(float(smaller) ** 2)
        return once * PASSES
    copies = question.updated(4.0 * larger * smaller * structure.itemsize)
    both = question.orthogonal(larger, smaller) + question.orthogonal(2 * smaller, smaller)
    return both + copies


def _is_by_rows(question: Question) -> bool:
    """Whether QR is applied to all rows at once, which it is on one CPU."""
    return question.machine.platform == "cpu" and question.structure.shards == 1


def derivative_quadratic(question: Question) -> Price:
    """A spectral factorisation of H."""
    structure = question.structure
    size = structure.unknowns
    setup = question.spectrum(size)
    if not structure.is_dense:
        setup = setup + question.one_pass(size)
    square = question.updated(2.0 * size * size * structure.itemsize)
    iteration = square._replace(kernels=ITERATION_KERNELS) + question.one_pass() * 6
    return Price(structure.solver_bytes, setup, iteration, 1.0, error_bound(question))


def gram(question: Question) -> Price:
    """The Gram form: one pass builds X'X and X'y; an iteration costs d^2."""
    return _rewritten(question, question.structure.features, 1)


def _rewritten(question: Question, size: int, inner: int) -> Price:
    """Conjugate gradients on the Gram matrix of one side, with two products in an iteration."""
    structure, machine = question.structure, question.machine
    outputs, itemsize = structure.outputs, structure.itemsize
    square = float(size) * size * itemsize
    setup = question.one_pass(outputs) * 3 + question.gradient_sum() * 2
    if structure.is_streamed:
        built = 4.0 * 8 * size * size
        setup = setup + _double_sums(question)
    else:
        setup = setup + question.gram_matrix()
        built = _built_bytes(question, size)
    flops = 2.0 * size * size * outputs
    reading = square / machine.bandwidth(question.read_dtype, question.pass_bytes)
    one = Work(
        read_seconds=max(reading, flops / machine.product(question.read_dtype)),
        bytes_moved=square,
        flops=flops,
    )
    small = question.updated(10.0 * size * outputs * itemsize)._replace(kernels=ITERATION_KERNELS)
    condition = question.condition or 1.0
    # At the start and at the end the params are measured on the data themselves.
    widened = question.widened_bytes
    rows, features = structure.shard
    vectors = 5.0 * outputs * rows
    if not structure.is_tall and machine.platform == "cpu":
        vectors = max(vectors, (12.0 + 5.0 * outputs) * features)
    images = vectors * itemsize
    working = max(built + widened * question.is_widened, square + widened, images)
    return Price(
        working + 6.0 * size * outputs * itemsize + SCALAR_BYTES,
        setup,
        (one * 2 + small) * inner,
        math.ceil(krylov_count(question) / inner),
        max(error_bound(question, question.tolerance), min(structure.eps * condition**2, 1.0)),
    )


def _built_bytes(question: Question, size: int) -> float:
    """The bytes in which the Gram matrix of one side is built, beyond X and y.

    One CPU adds up blocks that its cache holds, in double length: besides the sum these are its low
    part and a block's own product, and for halved products two blocks. A centred or widened X is
    copied, on a CPU with its targets, and once more for the products with several of them; a TPU
    centres while it reads.
    """
    structure, machine = question.structure, question.machine
    other, outputs, itemsize = structure.entries // size, structure.outputs, structure.itemsize
    block = block_length(other, size, itemsize) if machine.is_one_cpu else other
    is_whole, is_cpu = block == other, machine.platform == "cpu"
    is_halved = machine.is_one_cpu and size > LEAST_HALVED
    is_centred = structure.has_intercept and machine.platform != "tpu"
    if is_whole and not (is_centred or question.is_narrow):
        return (3.0 if is_halved else 2.0) * size * size * itemsize
    squares = 1 if is_whole and not is_halved else 3
    has_rest = other >= 2 * block or not structure.is_tall
    lines = 2 * block if is_halved and not is_whole else block + has_rest * (other % block)
    if question.is_narrow and not (is_whole or is_halved or structure.is_tall):
        lines += lines // 2  # a block of columns is stored in 16 bits too
    targets = 0
    if is_whole and is_cpu:
        is_parted = structure.is_tall and outputs > 1 and block >= LEAST_PARTED
        lines *= 2 if is_parted and machine.is_one_cpu else 1
        targets = 2 if structure.is_tall else 3
    elements = squares * size * size + lines * size + targets * other * outputs
    return float(itemsize * max(elements, 2 * size * size))
