"""Prices of the methods that solve: factorisations, and conjugate gradients on a Gram matrix."""

from __future__ import annotations

import math

from jaxdescent.cost.iterations import error_bound, krylov_count
from jaxdescent.cost.structure import Structure
from jaxdescent.cost.work import ITERATION_KERNELS, SCALAR_BYTES, Price, Question, Work
from jaxdescent.kernels.blocks import WIDENED_BYTES, stride_count
from jaxdescent.kernels.factors import PASSES
from jaxdescent.kernels.products import part_length, run_length
from jaxdescent.kernels.symmetric import LEAST_HALVED, block_length
from jaxdescent.regression.solve.by_lapack import is_quick, is_small
from jaxdescent.regression.solve.factor import FAIR, least_singular_value
from jaxdescent.regression.solve.refinement import DOUBLE_ENTRIES, SMALL
from jaxdescent.regression.solve.stored_regression import BLOCK, MOST_THREADS

DOUBLE_FLOPS, DOUBLE_SLOWER = 25.0, 100.0
"""The operations for an entry of X in a product in double length, and how many times longer they
take than those of a matrix product."""

REFINEMENTS = 4
"""The assumed number of refinement steps for an ill-conditioned regression (three to six)."""


HOST_SECONDS, HOST_PASSES, HOST_VECTORS = 9e-4, (6.0, 13.0), 20.0
"""The seconds that a solve on the host takes however small it is, its passes over a tall and over a
wide X, and those over arrays like the targets and the weights, in float64 on one core."""


def is_on_host(question: Question) -> bool:
    """Whether NumPy solves the regression, whose data are on one CPU."""
    structure = question.structure
    if not (structure.is_held and _is_by_rows(question)) or structure.is_rounded:
        return False
    return is_small(structure.rows, structure.features, structure.outputs, structure.itemsize)


def look_on_host(question: Question, *, estimates: bool) -> Work:
    """The work of the host's look at the claim of a method that ``estimates`` the suboptimality
    itself or not; none where the host does not look.
    """
    structure = question.structure
    size = structure.rows, structure.features, structure.outputs
    is_quick_now = is_on_host(question) and is_quick(*size, estimates=estimates)
    return _on_host(question).setup if is_quick_now else Work()


def _on_host(question: Question) -> Price:
    """The Gram matrix in float64 and its factor, or of float64 data QR, and passes over X and the
    targets: on one core, but for a Gram matrix of several blocks.
    """
    structure, smaller = question.structure, question.structure.smaller
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    passes = HOST_PASSES[not structure.is_tall]
    moved = 8.0 * (passes * structure.entries + HOST_VECTORS * (rows + features) * outputs)
    work = Work(bytes_moved=moved, flops=4.0 * passes * structure.entries * outputs)
    # QR of float64 data takes three times as long as their Gram matrix.
    times = 2.0 if structure.itemsize == 4 else 6.0
    work += question.product(4.0 * smaller**3, smaller)
    gram = question.product(times * structure.entries * smaller, smaller)
    is_shared = structure.itemsize <= 4 and structure.entries > BLOCK
    alone = work if is_shared else work + gram
    # One core has no more than a part of the memory's bandwidth.
    threads = min(question.machine.cores, MOST_THREADS)
    work += gram + Work(seconds=(threads - 1) * question.seconds(alone))
    if is_shared:
        copies = threads * (BLOCK + smaller**2)
    elif structure.itemsize == 8:  # centred, divided by units, and twice by QR
        copies = (5 - structure.is_tall) * structure.entries
    elif structure.is_tall:
        copies = (2 + structure.is_weighted) * structure.entries
    else:
        copies = 2 * structure.entries + 10 * features * outputs
    held = 8.0 * (copies + 4 * (rows + features) * outputs + 5 * smaller**2)
    if structure.data_dtype != structure.compute_dtype or not structure.is_dense:
        held += structure.entries * structure.itemsize
    if not question.machine.is_one_cpu:  # a program that may run elsewhere has XLA's solve
        held = _direct_bytes(question)
    setup = work + Work(seconds=HOST_SECONDS)
    if structure.has_own_l2 or not structure.is_tall or _is_singular(structure):
        setup += question.spectrum(smaller)
    return Price(held, setup, Work(), 1.0, structure.eps)


def derivative_regression(question: Question) -> Price:
    """Cholesky of the smaller Gram matrix, or QR of X if that is ill-conditioned.

    The setup includes the means, the gradient at the start, and value and gradient at the end; the
    iteration the way back from the space of the rows, and a second solve if needed.
    """
    structure = question.structure
    if structure.is_streamed:
        return _by_sums(question)
    if is_on_host(question):
        return _on_host(question)
    rows, features, is_tall = structure.rows, structure.features, structure.is_tall
    condition, smaller = question.condition or 1.0, structure.smaller
    is_singular = _is_singular(structure)
    is_ill = is_singular or condition * least_singular_value(structure.compute_dtype) > 1
    is_small = is_tall and rows * features**2 <= SMALL
    is_orthogonal = is_ill or is_small or (structure.has_own_l2 and not is_tall)
    setup = question.passes(2, 2) + question.gram_matrix()
    is_spectral = structure.has_own_l2 and is_tall
    setup += question.spectrum(smaller) if is_spectral else question.cholesky(smaller)
    if is_orthogonal:
        setup += _triangles(question)
    if is_orthogonal and (structure.has_own_l2 or is_singular):
        # An SVD of a triangle takes 12 n^3 operations at the rate of a QR.
        setup += question.orthogonal(6.0 * smaller, smaller)
    if question.is_narrow:  # a float32 copy of all data
        setup += Work(bytes_moved=1.5 * structure.entries * structure.itemsize)
    corrections = 0 if is_ill or is_small or (condition + 1) / 2 < FAIR else 1
    if is_tall and (is_ill or is_small):
        condition, corrections = 1.0, 2 * REFINEMENTS
    entries, inside = structure.entries * structure.outputs, Work()
    if corrections > 1 and entries <= DOUBLE_ENTRIES:
        flops, corrections = corrections * DOUBLE_FLOPS * entries, 0
        inside = question.product(flops, question.machine.ratios.product_half / DOUBLE_SLOWER)
    iteration = question.passes(corrections, corrections + (not is_tall))
    iteration += inside + question.vectors(20)
    # A well-conditioned X takes its Gram matrix, a scaled copy, a factor and the factor's inverse.
    touched = None if is_orthogonal else 4 * structure.itemsize * float(smaller) ** 2
    error = min(structure.eps * condition, 1.0)
    return Price(_direct_bytes(question), setup, iteration, 1.0, error, touched)


def _is_singular(structure: Structure) -> bool:
    """Whether a tall X has more columns than rows with the intercept's column of ones."""
    rows, features = structure.rows, structure.features
    return rows - structure.has_intercept < features <= rows and not structure.has_penalty


def _direct_bytes(question: Question) -> float:
    """The bytes of a direct solve, with the branches that may not be taken."""
    structure, itemsize = question.structure, question.structure.itemsize
    rows, features = structure.rows, structure.features
    if not _is_by_rows(question):
        # Cholesky factors, their inverses and products; and a block of X times the inverse.
        turned = 2.0 / stride_count(rows, features, structure.shards) if structure.is_tall else 3.0
        return itemsize * (9.0 * structure.smaller**2 + turned * structure.entries)
    # The result holds the factor; of a wide X the weights, before and after they are added.
    more = features * features if structure.is_tall else 2 * structure.unknowns
    return float(structure.solver_bytes + more * itemsize)


def _by_sums(question: Question) -> Price:
    """The normal equations in float64: a pass for the sums, one for the gradient at the start and
    one for the check at the end.
    """
    structure = question.structure
    spectrum = question.spectrum(structure.features + structure.outputs)
    return Price(
        structure.solver_bytes - structure.reading_bytes,
        Work(passes=2) + _double_sums(question) + spectrum,
        question.passes(1, 1) + question.vectors(4),
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
        once += question.cholesky(smaller) + question.all_reduce(float(smaller) ** 2)
        return once * PASSES
    copies = Work(bytes_moved=4.0 * larger * smaller * structure.itemsize)
    both = question.orthogonal(larger, smaller) + question.orthogonal(2 * smaller, smaller)
    return both + copies


def _is_by_rows(question: Question) -> bool:
    """Whether QR is applied to all rows at once, which it is on one CPU."""
    return question.is_cpu and question.structure.shards == 1


def derivative_quadratic(question: Question) -> Price:
    """A spectral factorisation of H, whose columns are products if it is no array: eight matrices
    of its size with those of the branches that may not be taken.
    """
    structure = question.structure
    size = structure.unknowns
    setup = question.spectrum(size) + Work(passes=0 if structure.is_dense else size)
    square = float(size) * size * structure.itemsize
    iteration = Work(passes=6, bytes_moved=2 * square, kernels=ITERATION_KERNELS)
    return Price(8 * square, setup, iteration, 1.0, error_bound(question))


def division(question: Question) -> Price:
    """``x - g / diag(H)``, one division for each unknown: the solver's memory, and the result."""
    structure = question.structure
    working = structure.solver_bytes + structure.params_bytes
    return Price(working, Work(), question.vectors(12) + question.norms(), 1.0, structure.eps)


def newton(question: Question) -> Price:
    """Newton's method: n products give the Hessian, which is then factorised."""
    structure = question.structure
    size = structure.unknowns
    iteration = Work(passes=3.0 * size) + question.spectrum(size)
    # The factorisation, and the Hessian that it is computed from.
    working = 2.0 * structure.solver_bytes + structure.evaluation_reserved
    return Price(working, Work(), iteration, 10.0, structure.eps)


def gram(question: Question) -> Price:
    """Conjugate gradients on the Gram form of a tall regression: one pass builds X'X and X'y; an
    iteration makes two products with X'X.
    """
    structure = question.structure
    size, outputs, itemsize = structure.features, structure.outputs, structure.itemsize
    square = float(size) * size * itemsize
    setup = question.passes(1, 2)
    if structure.is_streamed:
        built = 4.0 * 8 * size * size
        setup += _double_sums(question)
    else:
        setup += question.gram_matrix()
        built = _built_bytes(question)
    iteration = Work(bytes_moved=10.0 * size * outputs * itemsize, kernels=ITERATION_KERNELS)
    if structure.is_dense:  # a product with the square is a part of a pass
        iteration += Work(passes=2.0 * size * size / structure.entries)
    else:
        iteration += Work(bytes_moved=2 * square, flops=4.0 * size * size * outputs)
    condition = question.condition or 1.0
    # At the start and at the end the params are measured on the data themselves, of which two
    # blocks are widened at a time. Runs of rows are cut from one more copy of widened data.
    widened = 0.0
    if question.is_widened:
        widened = float(structure.entries * itemsize)
        built += widened * (run_length(structure.rows, size) is not None)
    elif question.is_narrow:
        widened = 2 * question.block_bytes(WIDENED_BYTES)
    images = 5.0 * outputs * structure.shard[0] * itemsize
    working = max(built, square + widened, images)
    return Price(
        working + 6.0 * size * outputs * itemsize + SCALAR_BYTES,
        setup,
        iteration,
        math.ceil(krylov_count(question)),
        max(error_bound(question, question.tolerance), min(structure.eps * condition**2, 1.0)),
    )


def _built_bytes(question: Question) -> float:
    """The bytes in which X'X is built, beyond X and y.

    One CPU adds up blocks that its cache holds, in double length: besides the sum these are its low
    part and a block's own product, and for halved products two blocks. A centred or widened X is
    copied, on a CPU with its targets, and once more for the products with several of them; a TPU
    centres while it reads. Weighted rows are copies besides.
    """
    structure, machine = question.structure, question.machine
    size = structure.features
    rows = structure.entries // size  # of one device
    outputs, itemsize = structure.outputs, structure.itemsize
    block = block_length(rows, size, itemsize) if machine.is_one_cpu else rows
    is_whole, is_cpu = block == rows, machine.platform == "cpu"
    is_halved = machine.is_one_cpu and size > LEAST_HALVED
    is_centred = structure.has_intercept and machine.platform != "tpu"
    if is_whole and not (is_centred or question.is_narrow):
        return (3.0 if is_halved else 2.0) * size * size * itemsize
    squares = 1 if is_whole and not is_halved else 3
    rest = rows % block if rows >= 2 * block else 0
    lines = block + rest
    if is_halved and not is_whole:
        lines = (2 + (size > 2 * LEAST_HALVED)) * block
    targets = 0
    if is_whole and is_cpu:
        is_parted = outputs > 1 and part_length(block) is not None
        lines *= 2 if is_parted and machine.is_one_cpu else 1
        targets = 2
    if structure.is_weighted:
        lines *= 2 if is_whole else 3
    elements = squares * size * size + lines * size + targets * rows * outputs
    return float(itemsize * max(elements, 2 * size * size))
