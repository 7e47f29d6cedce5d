"""Prices of the methods for separable functions, residuals and other functions."""

from __future__ import annotations

from jaxdescent.cost.iterations import krylov_count
from jaxdescent.cost.structure import ProblemKind
from jaxdescent.cost.work import ITERATION_KERNELS, SCALAR_BYTES, Price, Question, Work
from jaxdescent.methods import LBFGS
from jaxdescent.methods.levenberg_marquardt import DENSE_ELEMENTS, DENSE_PARAMS


def division(question: Question) -> Price:
    """``x - g / diag(H)``, one division for each unknown: the solver's memory, and the result."""
    structure = question.structure
    iteration = question.vectors(12) + question.norms()
    return Price(
        structure.solver_bytes + structure.params_bytes, Work(), iteration, 1.0, structure.eps
    )


def separable_descent(question: Question) -> Price:
    """Descent leaf by leaf in place, with sixteen steps in a pass. If all curvatures are equal, the
    first pass finds the minimum.
    """
    structure = question.structure
    working = float(structure.params_bytes + structure.largest_leaf_bytes)
    a_step = question.vectors(3 / 16) + question.norms() * (1 / 16)
    return Price(working, question.vectors(6), a_step, 16.0, structure.eps)


def separable_backtracking(question: Question) -> Price:
    """Backtracking: the trial, its gradient, the gradient, the params, the result."""
    structure = question.structure
    iteration = question.vectors(16) + question.norms()
    return Price(5.0 * structure.vector_bytes, question.vectors(8), iteration, 2.0, structure.eps)


# Functions: the counts of gradients and vectors follow from the times of runs with a million
# unknowns, line search included. Residuals and their intermediate results are vectors too.


def lbfgs(question: Question) -> Price:
    """LBFGS: 1.1 gradients in an iteration. The stored pairs are read twice and written once;
    writing reads them once more.
    """
    structure, method = question.structure, LBFGS()
    count = method.vectors - 1 + 2 * (structure.kind is ProblemKind.RESIDUALS)
    matrices = 4 * method.memory**2 * structure.itemsize
    return _of_function(question, count, 1.1, 8 * method.memory + 14, 100, matrices=matrices)


def nonlinear_conjugate_gradient(question: Question) -> Price:
    """Nonlinear conjugate gradients: one to two gradients in an iteration."""
    count = 6 + 2 * (question.structure.kind is ProblemKind.RESIDUALS)
    return _of_function(question, count, 1.5, 60, 150)


def function_backtracking(question: Question) -> Price:
    """Backtracking: a value and gradient, and a value for each trial."""
    count = 6 + (question.structure.kind is ProblemKind.RESIDUALS)
    return _of_function(question, count, 2, 30, 1000)


def _of_function(
    question: Question,
    count: float,
    gradients: float,
    vectors: float,
    iterations: float,
    *,
    matrices: float = 0.0,
) -> Price:
    """A method that reserves ``count`` vectors; in an iteration it computes so many gradients, and
    reads or writes so many vectors. Where nothing is known of the Hessian, ``iterations`` are right
    to an order of magnitude.
    """
    if question.condition is not None:
        iterations = krylov_count(question)
    structure, one = question.structure, question.one_pass()
    working = count * structure.vector_bytes + matrices + SCALAR_BYTES
    working += structure.evaluation_reserved
    iteration = one * gradients + question.vectors(vectors)
    return Price(working, one, iteration, iterations, structure.eps**0.5)


def levenberg_marquardt(question: Question) -> Price:
    """Levenberg-Marquardt: J is formed for few unknowns, else conjugate gradients."""
    structure, one = question.structure, question.one_pass()
    size, residuals = structure.unknowns, structure.rows
    jacobian = float(size) * residuals
    if size <= DENSE_PARAMS and jacobian <= DENSE_ELEMENTS:
        iteration = one * size + question.orthogonal(residuals + size, size)
        iteration = iteration._replace(kernels=ITERATION_KERNELS)
        working = structure.itemsize * (3.0 * jacobian + 4.0 * size * size)
    else:
        iteration = one * 20 + question.vectors(250)
        working = 4.0 * structure.vector_bytes + 4.0 * residuals * structure.itemsize
    working += structure.evaluation_reserved
    return Price(working, Work(), iteration, 15.0, structure.eps**0.5)


def newton(question: Question) -> Price:
    """Newton's method: n products give the Hessian, which is then factorised."""
    structure = question.structure
    size = structure.unknowns
    iteration = question.one_pass(3.0 * size) + question.spectrum(size)
    # The factorisation, and the Hessian that it is computed from.
    working = 2.0 * structure.solver_bytes + structure.evaluation_reserved
    return Price(working, Work(), iteration, 10.0, structure.eps)
