"""What methods cost: bytes held, bytes moved, operations; and what that takes on a machine.

``docs/plan.md`` derives the formulas. Each function below prices one method, in one place. A price
has three parts: what is reserved besides the data, what is done once, what is done an iteration.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs import Dense
from jaxdescent.designs.dense import WIDENED_BYTES
from jaxdescent.machine import Machine, cholesky_flops, orthogonal_flops
from jaxdescent.methods import LBFGS
from jaxdescent.methods.levenberg_marquardt import DENSE_ELEMENTS, DENSE_PARAMS
from jaxdescent.objectives.forms import dual_build_bytes, gram_build_bytes
from jaxdescent.objectives.refinement import DOUBLE_ENTRIES
from jaxdescent.objectives.regression_solvers import SMALL, normal_equations_bytes
from jaxdescent.plan.structure import Kind, Structure
from jaxdescent.preconditioners.sketch import CHUNK, NONZEROS, Sketch

REFINEMENTS = 4
"""Steps of iterative refinement of an ill-conditioned regression: three to six."""

EIGEN_FLOPS = 9.0
"""Of a symmetric eigenvalue decomposition, times n^3."""

SINGULAR_FLOPS = 22.0
"""Of a singular value decomposition of a triangle, times n^3."""

SCALAR_OPERATIONS = 60
"""Small operations an iteration, besides passes over the data: checks, rotations, norms."""

SCALAR_BYTES = 3000
"""What a program of an iterative method reserves whatever the problem's size."""

UNKNOWN_ITERATIONS = {"LBFGS": 100, "ConjugateGradient": 150, "Backtracking": 1000}
"""Of functions, of whose Hessian nothing is known: the right order for many, no more."""

NEWTON_ITERATIONS = 10


@dataclasses.dataclass(frozen=True)
class Work:
    """Something done once, in the units of :class:`jaxdescent.machine.Machine`.

    Args:
      read_bytes: of the data, by products with few columns.
      read_flops: of these products, which take whichever of the two is slower.
      update_bytes: of vectors, read and written.
      product_flops: of products of large matrices.
      cholesky_flops, orthogonal_flops: of factorisations.
      operations: small ones, whose number counts, not their size.
    """

    read_bytes: float = 0.0
    read_flops: float = 0.0
    update_bytes: float = 0.0
    product_flops: float = 0.0
    cholesky_flops: float = 0.0
    orthogonal_flops: float = 0.0
    operations: float = 0.0

    def __add__(self, other: Work) -> Work:
        """One after the other."""
        return Work(*(a + b for a, b in zip(self._amounts, other._amounts, strict=True)))

    def __mul__(self, times: float) -> Work:
        """So many times."""
        return Work(*(times * amount for amount in self._amounts))

    @property
    def _amounts(self) -> tuple[float, ...]:
        return tuple(self.__dict__.values())

    @property
    def bytes_moved(self) -> float:
        """To and from memory; what products of large matrices move is little beside their work."""
        return self.read_bytes + self.update_bytes

    @property
    def flops(self) -> float:
        """All operations on numbers."""
        return self.read_flops + self.product_flops + self.cholesky_flops + self.orthogonal_flops

    def seconds(self, machine: Machine, dtype: str, working_set: float) -> float:
        """On this machine, in the dtype that products read.

        ``working_set`` is the bytes that each iteration goes over: few of them stay in the cache.
        """
        bandwidth = machine.bandwidth(dtype, working_set)
        reading = max(self.read_bytes / bandwidth, self.read_flops / machine.product(dtype))
        return (
            reading
            + self.update_bytes / machine.update_bandwidth
            + self.product_flops / machine.product(dtype)
            + self.cholesky_flops / machine.factorisation(dtype)
            + self.orthogonal_flops / machine.factorisation(dtype, orthogonal=True)
            + self.operations * machine.operation_seconds
        )


@dataclasses.dataclass(frozen=True)
class Question:
    """What a price depends on.

    Args:
      structure: of the problem.
      machine: whose compiler makes copies, or not.
      tolerance: of the gradient's norm, relative.
      condition: the condition number of X (of H for a quadratic), None where nothing is known.
    """

    structure: Structure
    machine: Machine
    tolerance: float
    condition: float | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether data of 16 bits have to be widened: a CPU multiplies no others."""
        stored = jnp.dtype(self.structure.data_dtype).itemsize
        is_narrow = self.structure.is_dense and stored < self.structure.itemsize
        return is_narrow and self.machine.platform == "cpu"

    @property
    def is_widened(self) -> bool:
        """Whether products read a float32 copy of all of them; a large X is widened in blocks."""
        structure = self.structure
        is_in_blocks = (
            structure.kind is Kind.REGRESSION
            and structure.entries * structure.itemsize > WIDENED_BYTES
        )
        return self.is_narrow and not is_in_blocks

    @property
    def read_dtype(self) -> str:
        """What products read."""
        structure = self.structure
        if self.is_widened or not structure.is_dense:
            return structure.compute_dtype
        return structure.data_dtype

    @property
    def pass_bytes(self) -> float:
        """The data that a product reads."""
        structure = self.structure
        if structure.is_dense:
            return pass_bytes(structure, self.read_dtype)
        return 2.0 * structure.vector_bytes

    def seconds(self, work: Work) -> float:
        """That a piece of work takes."""
        return work.seconds(self.machine, self.read_dtype, self.pass_bytes)


@dataclasses.dataclass(frozen=True)
class Price:
    """What a method costs.

    Args:
      working_bytes: reserved at the peak besides params and data, the result included.
      setup: done once.
      iteration: done every iteration.
      iterations: expected.
      accuracy: the relative error of the params that rounding and the tolerance leave, at most.
    """

    working_bytes: float
    setup: Work
    iteration: Work
    iterations: float
    accuracy: float

    @property
    def total(self) -> Work:
        """The setup and all iterations."""
        return self.setup + self.iteration * self.iterations


def pass_bytes(structure: Structure, dtype: str) -> float:
    """X or H, read once in this dtype."""
    return float(structure.entries * jnp.dtype(dtype).itemsize)


def one_pass(question: Question, columns: float = 1.0) -> Work:
    """A product with X, X' or H: the data are read once, whatever the number of columns.

    Of a function, one value and gradient.
    """
    structure = question.structure
    if structure.is_dense:
        return Work(read_bytes=question.pass_bytes, read_flops=2.0 * structure.entries * columns)
    flops = structure.evaluation_flops or 4.0 * structure.unknowns
    return Work(read_bytes=columns * question.pass_bytes, read_flops=columns * flops)


def vectors(structure: Structure, count: float) -> Work:
    """So many vectors of the params' length, and of y's, read or written."""
    size = structure.vector_bytes
    if structure.kind is Kind.REGRESSION:
        size += structure.rows * structure.outputs * structure.itemsize
    return Work(update_bytes=float(count * size), operations=SCALAR_OPERATIONS)


# Regressions


def derivative_regression(question: Question) -> Price:
    """Cholesky of the smaller Gram matrix; QR of X where its condition asks for it."""
    structure = question.structure
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    one = one_pass(question, outputs)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    condition = question.condition or 1.0
    is_ill = condition > ill_condition(structure)
    is_small = structure.is_tall and rows * features**2 <= SMALL
    # A gradient for each of two corrections (or the dual solve), and value and gradient at the
    # start and at the end.
    iteration = one * 8 + vectors(structure, 20)
    setup = factorisation(structure)
    if structure.has_own_l2:
        setup = orthogonal(structure) + Work(
            orthogonal_flops=SINGULAR_FLOPS * min(rows, features) ** 3
        )
    elif is_ill or is_small:
        setup = setup + orthogonal(structure)
    if structure.is_tall and (is_ill or is_small):
        is_double = structure.entries * outputs <= DOUBLE_ENTRIES
        iteration = iteration + one * (2 * REFINEMENTS * (25 if is_double else 2))
        condition = 1.0
    copied = _copied_bytes(question)
    setup = setup + Work(update_bytes=1.5 * copied)
    working = structure.solver_bytes
    if structure.is_tall:
        # The factor is part of the result.
        working += features**2 * structure.itemsize
    return Price(working, setup, iteration, 1.0, min(eps * condition, 1.0))


def factorisation(structure: Structure) -> Work:
    """The Gram matrix of the smaller side, its Cholesky factor and inverse."""
    smaller, larger = sorted((structure.rows, structure.features))
    return Work(
        product_flops=2.0 * larger * smaller**2,
        cholesky_flops=cholesky_flops(smaller),
        operations=SCALAR_OPERATIONS,
    )


def orthogonal(structure: Structure) -> Work:
    """QR of the larger side, and of its triangle above a diagonal."""
    smaller, larger = sorted((structure.rows, structure.features))
    return Work(
        orthogonal_flops=orthogonal_flops(larger, smaller) + orthogonal_flops(2 * smaller, smaller),
        update_bytes=4.0 * structure.entries * structure.itemsize,
    )


def touched_bytes(structure: Structure) -> int:
    """What a well-conditioned solve of a dense regression touches, of what it reserves."""
    shape: Any = jax.ShapeDtypeStruct((structure.rows, structure.features), structure.data_dtype)
    return normal_equations_bytes(Dense(shape))


def ill_condition(structure: Structure) -> float:
    """The condition number of X from which normal equations have lost half the digits."""
    return 1 / (8 * float(jnp.finfo(structure.compute_dtype).eps) ** 0.5)


def lsmr(question: Question) -> Price:
    """Two passes an iteration, four for the mean, the start and the end."""
    structure = question.structure
    one = one_pass(question, structure.outputs)
    setup = one * 4 + widening(question, 1)
    iterations = krylov_iterations(question.condition, question.tolerance)
    iterations = min(iterations, 3.0 * min(structure.rows, structure.features)) + 1
    return Price(
        lsmr_bytes(question), setup, one * 2 + vectors(structure, 12), iterations, _error(question)
    )


def lsmr_bytes(question: Question) -> float:
    """Seven vectors of the params' length, four of y's, and the means."""
    structure = question.structure
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    elements = 7 * features * outputs + features + 4 * rows * outputs
    elements += (rows if structure.has_intercept else 0) + _runs(structure)
    return structure.itemsize * elements + _widened_bytes(question, 1) + SCALAR_BYTES


def sketched_lsmr(question: Question) -> Price:
    """QR of a sketch of X, after which the condition number is that of Gaussian rows."""
    structure = question.structure
    rows, features, outputs = structure.rows, structure.features, structure.outputs
    one = one_pass(question, outputs)
    wanted = Sketch().oversampling * features
    is_mixed = wanted < rows
    groups = -(-wanted // NONZEROS)
    sampled = groups * NONZEROS if is_mixed else rows
    stack = sampled + features
    square = float(features) * features
    setup = one * 4 + Work(
        orthogonal_flops=orthogonal_flops(stack, features),
        product_flops=2.0 * NONZEROS * structure.entries if is_mixed else 0.0,
        update_bytes=3.0 * structure.entries * structure.itemsize,
        operations=SCALAR_OPERATIONS,
    )
    setup = setup + Work(update_bytes=1.5 * _copied_bytes(question))
    # Substitution with the triangle and its transpose, which is read twice.
    triangle = Work(read_bytes=2 * square * structure.itemsize, read_flops=2 * square * outputs)
    condition = math.sqrt(Sketch().oversampling)
    condition = (condition + 1) / (condition - 1)
    iterations = krylov_iterations(condition, question.tolerance) + 2
    columns = features + outputs
    # QR, which works on a copy, and the triangle's inverse applied.
    working = structure.itemsize * max(2 * stack * columns + 2 * square, 7 * square)
    if not question.is_widened:
        working += _copied_bytes(question)
    if is_mixed:
        # The shuffled order, and a chunk of the rows of a group.
        working += 4 * 3 * rows + structure.itemsize * min(rows / groups, CHUNK) * columns
    iteration = one * 2 + triangle + vectors(structure, 16)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    accuracy = min(eps * (question.condition or 1.0), 1.0)
    return Price(lsmr_bytes(question) + working, setup, iteration, iterations, accuracy)


def conjugate_gradient(question: Question) -> Price:
    """CGLS for a regression: two passes; for a quadratic, H and H' (its symmetric part counts)."""
    structure = question.structure
    one = one_pass(question, structure.outputs)
    condition = question.condition
    if structure.kind is Kind.QUADRATIC and condition is not None:
        condition = math.sqrt(condition)
    iterations = krylov_iterations(condition, question.tolerance)
    iterations = min(iterations, 3.0 * min(structure.features or structure.unknowns, 10**9))
    return Price(
        conjugate_gradient_bytes(question),
        one * 6 + widening(question, 2),
        one * 2 + vectors(structure, 10),
        iterations + 1,
        _error(question),
    )


def conjugate_gradient_bytes(question: Question) -> float:
    """Of a regression five vectors like the params and four like y; else six like the params."""
    structure = question.structure
    if structure.kind is not Kind.REGRESSION:
        transposed = _transposed_bytes(question, 2)
        vectors = 4.0 * structure.vector_bytes
        return vectors + transposed + _widened_bytes(question, 2) + SCALAR_BYTES
    elements = 5 * structure.features * structure.outputs + 4 * structure.rows * structure.outputs
    elements += _runs(structure)
    return structure.itemsize * elements + _widened_bytes(question, 2) + SCALAR_BYTES


def backtracking(question: Question) -> Price:
    """Gradients, and a pass for each trial: the error falls by ``1 - 1/k^2`` a step."""
    structure = question.structure
    one = one_pass(question, structure.outputs)
    return Price(
        descent_bytes(question),
        one * 4 + widening(question, 1),
        one * 3 + vectors(structure, 10),
        gradient_iterations(question),
        _error(question),
    )


def barzilai_borwein(question: Question) -> Price:
    """One gradient an iteration, and the root of gradient descent's number of them."""
    structure = question.structure
    one = one_pass(question, structure.outputs)
    condition = question.condition or 1.0
    iterations = 1.5 * krylov_iterations(condition, question.tolerance) + 5
    return Price(
        descent_bytes(question),
        one * 4 + widening(question, 1),
        one * 3 + vectors(structure, 10),
        iterations,
        _error(question),
    )


def descent_bytes(question: Question) -> float:
    """The vectors, partial sums, and copies that a CPU's compiler makes of the data."""
    structure = question.structure
    vectors = descent_vectors_bytes(structure) + SCALAR_BYTES
    if structure.kind is not Kind.REGRESSION:
        return vectors + _transposed_bytes(question, 1) + _widened_bytes(question, 1)
    partial_sums = _runs(structure)
    copies = 2 if partial_sums else 1
    return vectors + structure.itemsize * partial_sums + _widened_bytes(question, copies)


def descent_vectors_bytes(structure: Structure) -> int:
    """Five vectors like the params: the gradient, the trial, its gradient, the old gradient, the
    result; of a regression its image and residual besides.
    """
    if structure.kind is not Kind.REGRESSION:
        return 5 * structure.vector_bytes
    elements = 5 * structure.features * structure.outputs
    return structure.itemsize * (elements + structure.rows * (structure.outputs + 1))


def gram(question: Question) -> Price:
    """One pass builds X'X and X'y in float32; an iteration then costs features^2."""
    structure = question.structure
    built = gram_build_bytes(
        structure.rows,
        structure.features,
        structure.outputs,
        structure.itemsize,
        is_centred=structure.has_intercept,
        is_widened=question.is_narrow,
    )
    return _rewritten(question, structure.features, built)


def dual(question: Question) -> Price:
    """One pass builds XX'; an iteration then costs rows^2, with the same iterates."""
    structure = question.structure
    built = dual_build_bytes(
        structure.rows,
        structure.features,
        structure.outputs,
        structure.itemsize,
        is_centred=structure.has_intercept,
        is_widened=question.is_narrow,
    )
    return _rewritten(question, structure.rows, built)


def _rewritten(question: Question, size: int, built: int) -> Price:
    """Conjugate gradients on the Gram matrix of one side, two products of it an iteration."""
    structure = question.structure
    square = float(size) * size * structure.itemsize
    one = Work(read_bytes=square, read_flops=2.0 * size * size * structure.outputs)
    setup = one_pass(question, structure.outputs) * 4 + Work(
        product_flops=2.0 * structure.entries * size
    )
    small = Work(
        update_bytes=10.0 * size * structure.outputs * structure.itemsize,
        operations=SCALAR_OPERATIONS,
    )
    iterations = krylov_iterations(question.condition, question.tolerance)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    accuracy = max(_error(question), min(eps * (question.condition or 1.0) ** 2, 1.0))
    # At the start and the end the params are measured on the data themselves.
    widened = _widened_bytes(question, 1)
    working = (
        max(built + widened * question.is_widened, square + widened)
        + 6.0 * size * structure.outputs * structure.itemsize
    )
    return Price(working, setup, one * 2 + small, iterations, accuracy)


# Quadratics, separable functions, residuals, functions


def derivative_quadratic(question: Question) -> Price:
    """A spectral factorisation of H."""
    structure = question.structure
    size = structure.unknowns
    setup = Work(orthogonal_flops=EIGEN_FLOPS * size**3)
    if not structure.is_dense:
        setup = setup + one_pass(question, size)
    square = Work(read_bytes=2.0 * size * size * structure.itemsize, operations=SCALAR_OPERATIONS)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    accuracy = min(eps * (question.condition or 1.0), 1.0)
    iteration = square + one_pass(question) * 6
    return Price(structure.solver_bytes, setup, iteration, 1.0, accuracy)


def division(question: Question) -> Price:
    """``x - g / diag(H)``, one division for each unknown."""
    structure = question.structure
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    iteration = vectors(structure, 8)
    # The step's and the result.
    working = structure.solver_bytes + structure.params_bytes
    return Price(working, Work(), iteration, 1.0, eps)


def separable_descent(question: Question) -> Price:
    """Leaf by leaf in place, sixteen steps a pass; equal curvatures are solved by the first one."""
    structure = question.structure
    working = float(structure.params_bytes + structure.largest_leaf_bytes)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    a_step = vectors(structure, 3 / 16)
    return Price(working, vectors(structure, 3), a_step, 16.0, eps)


def separable_backtracking(question: Question) -> Price:
    """The trial, its gradient and the gradient, beside the result."""
    structure = question.structure
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    return Price(4.0 * structure.vector_bytes, Work(), vectors(structure, 6), 10.0, eps)


def levenberg_marquardt(question: Question) -> Price:
    """J formed for few unknowns, else conjugate gradients within an iteration."""
    structure = question.structure
    size, residuals = structure.unknowns, structure.rows
    one = one_pass(question)
    accuracy = _default_error(structure)
    jacobian = float(size) * residuals
    if size <= DENSE_PARAMS and jacobian <= DENSE_ELEMENTS:
        iteration = one * size + Work(
            orthogonal_flops=orthogonal_flops(residuals + size, size), operations=SCALAR_OPERATIONS
        )
        working = structure.itemsize * (3.0 * jacobian + 4.0 * size * size)
        return Price(working, Work(), iteration, 15.0, accuracy)
    working = 4.0 * structure.vector_bytes + 4.0 * residuals * structure.itemsize
    inner = one * 20 + vectors(structure, 100)
    return Price(working, Work(), inner, 15.0, accuracy)


def newton(question: Question) -> Price:
    """The Hessian by n products, and its spectral factorisation, at each iteration."""
    structure = question.structure
    size = structure.unknowns
    iteration = one_pass(question, 3.0 * size) + Work(orthogonal_flops=EIGEN_FLOPS * size**3)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    return Price(structure.solver_bytes, Work(), iteration, NEWTON_ITERATIONS, eps)


def lbfgs(question: Question) -> Price:
    """One value and gradient an iteration; the stored pairs are read twice."""
    structure = question.structure
    method = LBFGS()
    iteration = one_pass(question) * 1.1 + vectors(structure, 4 * method.memory + 12)
    # Two more hold residuals and what they are made of.
    count = method.vectors - 1 + (2 if structure.kind is Kind.RESIDUALS else 0)
    matrices = 4 * method.memory**2 * structure.itemsize
    working = float(count * structure.vector_bytes + matrices + SCALAR_BYTES)
    iterations = UNKNOWN_ITERATIONS["LBFGS"]
    return Price(working, one_pass(question), iteration, iterations, _default_error(structure))


def nonlinear_conjugate_gradient(question: Question) -> Price:
    """One to two values and gradients an iteration."""
    structure = question.structure
    iteration = one_pass(question) * 1.5 + vectors(structure, 14)
    iterations = UNKNOWN_ITERATIONS["ConjugateGradient"]
    # Two more hold residuals and what they are made of.
    count = 7.0 + (2 if structure.kind is Kind.RESIDUALS else 0)
    working = count * structure.vector_bytes + SCALAR_BYTES
    return Price(working, one_pass(question), iteration, iterations, _default_error(structure))


def function_backtracking(question: Question) -> Price:
    """A value and gradient, and a value for each trial."""
    structure = question.structure
    iteration = one_pass(question) * 2 + vectors(structure, 6)
    iterations = UNKNOWN_ITERATIONS["Backtracking"]
    count = 6.0 + (structure.kind is Kind.RESIDUALS)
    working = count * structure.vector_bytes + SCALAR_BYTES
    return Price(working, one_pass(question), iteration, iterations, _default_error(structure))


# Iterations and errors


def krylov_iterations(condition: float | None, tolerance: float) -> float:
    """``2 ((k - 1) / (k + 1))^i = tolerance`` for a condition number k of X.

    >>> round(krylov_iterations(2.0, 1e-6)), round(krylov_iterations(100.0, 1e-6))
    (13, 725)
    """
    if condition is None:
        condition = ASSUMED_CONDITION
    tolerance = max(tolerance, 1e-16)
    rate = (condition - 1) / (condition + 1)
    if rate <= 0:
        return 1.0
    return max(math.log(tolerance / 2) / math.log(rate), 1.0)


ASSUMED_CONDITION = 100.0
"""Of X (of H: its square root) where nothing is known."""


def gradient_iterations(question: Question) -> float:
    """``(1 - 2 / (k^2 + 1))^i = tolerance``, with the step of the steepest descent."""
    condition = question.condition or ASSUMED_CONDITION
    if question.structure.kind is Kind.QUADRATIC and question.condition:
        condition = math.sqrt(condition)
    squared = min(condition * condition, 1e16)
    tolerance = max(question.tolerance, 1e-16)
    return max(-math.log(tolerance) * (squared + 1) / 4, 1.0) + 5


def widening(question: Question, copies: int) -> Work:
    """Writing float32 copies of 16-bit data."""
    if not question.is_widened:
        return Work()
    return Work(update_bytes=1.5 * _widened_bytes(question, copies))


def _transposed_bytes(question: Question, copies: int) -> float:
    """Of a dense Hessian, which a CPU's compiler transposes ahead of the loop."""
    structure = question.structure
    is_copied = structure.is_dense and question.machine.platform == "cpu"
    return float(copies * structure.entries * structure.itemsize) if is_copied else 0.0


def _widened_bytes(question: Question, copies: int) -> float:
    """What products with 16-bit data reserve: copies of X, or of two blocks of it."""
    structure = question.structure
    if not question.is_narrow:
        return 0.0
    if not question.is_widened:
        return 2.0 * WIDENED_BYTES
    return float(copies * structure.entries * structure.itemsize)


def _copied_bytes(question: Question) -> float:
    """Of 16-bit data that a direct solve widens as a whole."""
    structure = question.structure
    return float(structure.entries * structure.itemsize) if question.is_narrow else 0.0


def _runs(structure: Structure) -> float:
    """Elements of the partial sums that a CPU makes of X'r with one column, in runs of rows."""
    rows = structure.rows
    if structure.outputs > 1 or rows < 1 << 14:
        return 0.0
    run = next((run for run in range(128, 1025) if rows % run == 0), None)
    return 0.0 if run is None else rows / run * structure.features


def _error(question: Question) -> float:
    """A gradient of relative size ``tolerance`` bounds the params' error by k times as much."""
    condition = question.condition or 1.0
    eps = float(jnp.finfo(question.structure.compute_dtype).eps)
    return min(max(question.tolerance, eps) * condition, 1.0)


def _default_error(structure: Structure) -> float:
    return float(jnp.finfo(structure.compute_dtype).eps) ** 0.5
