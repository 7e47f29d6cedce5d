"""Prices of the methods for separable functions, residuals and other functions."""

from __future__ import annotations

import jax.numpy as jnp

from jaxdescent.machine import orthogonal_flops
from jaxdescent.methods import LBFGS
from jaxdescent.methods.levenberg_marquardt import DENSE_ELEMENTS, DENSE_PARAMS
from jaxdescent.plan.cost_model.iterations import (
    NEWTON_ITERATIONS,
    UNKNOWN_ITERATIONS,
    default_error,
)
from jaxdescent.plan.cost_model.work import (
    NORMS,
    SCALAR_BYTES,
    SCALAR_OPERATIONS,
    Price,
    Question,
    Work,
    all_reduce,
    one_pass,
    orthogonal,
    spectrum,
    vectors,
)
from jaxdescent.plan.structure import Kind


def division(question: Question) -> Price:
    """The price of ``x - g / diag(H)``, one division for each unknown."""
    structure = question.structure
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    iteration = vectors(structure, 12) + all_reduce(structure, NORMS)
    # The solver's memory, and the result.
    working = structure.solver_bytes + structure.params_bytes
    return Price(working, Work(handovers=1), iteration, 1.0, eps, is_result_large=True)


def separable_descent(question: Question) -> Price:
    """The price of descent leaf by leaf in place, with sixteen steps in a pass.

    If all curvatures are equal, the first pass finds the minimum.
    """
    structure = question.structure
    working = float(structure.params_bytes + structure.largest_leaf_bytes)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    a_step = vectors(structure, 3 / 16) + all_reduce(structure, NORMS) * (1 / 16)
    setup = vectors(structure, 6) + Work(handovers=1)
    return Price(working, setup, a_step, 16.0, eps, is_result_large=True)


def separable_backtracking(question: Question) -> Price:
    """The price of backtracking: the trial, its gradient, the gradient, the params, the result."""
    structure = question.structure
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    working = 5.0 * structure.vector_bytes
    iteration = vectors(structure, 16) + all_reduce(structure, NORMS)
    setup = vectors(structure, 8) + Work(handovers=1)
    return Price(working, setup, iteration, 2.0, eps, is_result_large=True)


def levenberg_marquardt(question: Question) -> Price:
    """The price of Levenberg-Marquardt: J is formed for few unknowns, else conjugate gradients."""
    structure = question.structure
    size, residuals = structure.unknowns, structure.rows
    one = one_pass(question)
    accuracy = default_error(structure)
    jacobian = float(size) * residuals
    if size <= DENSE_PARAMS and jacobian <= DENSE_ELEMENTS:
        iteration = one * size + orthogonal(orthogonal_flops(residuals + size, size), size)
        iteration = iteration + Work(operations=SCALAR_OPERATIONS)
        working = structure.itemsize * (3.0 * jacobian + 4.0 * size * size)
        working += structure.evaluation_reserved
        return Price(working, Work(), iteration, 15.0, accuracy)
    working = 4.0 * structure.vector_bytes + 4.0 * residuals * structure.itemsize
    working += structure.evaluation_reserved
    inner = one * 20 + vectors(structure, 250)
    return Price(working, Work(), inner, 15.0, accuracy)


def newton(question: Question) -> Price:
    """The price of Newton's method: n products give the Hessian, which is then factorised."""
    structure = question.structure
    size = structure.unknowns
    iteration = one_pass(question, 3.0 * size) + spectrum(size)
    eps = float(jnp.finfo(structure.compute_dtype).eps)
    # The factorisation, and the Hessian that it is computed from.
    working = 2.0 * structure.solver_bytes + structure.evaluation_reserved
    return Price(working, Work(), iteration, NEWTON_ITERATIONS, eps)


def lbfgs(question: Question) -> Price:
    """The price of LBFGS: one value and gradient in an iteration.

    The stored pairs are read twice and written once; writing reads them once more.
    """
    structure = question.structure
    method = LBFGS()
    iteration = one_pass(question) * 1.1 + vectors(structure, 8 * method.memory + 14)
    # Two more vectors hold the residuals and their intermediate results.
    count = method.vectors - 1 + (2 if structure.kind is Kind.RESIDUALS else 0)
    matrices = 4 * method.memory**2 * structure.itemsize
    working = float(count * structure.vector_bytes + matrices + SCALAR_BYTES)
    working += structure.evaluation_reserved
    iterations = UNKNOWN_ITERATIONS["LBFGS"]
    return Price(working, one_pass(question), iteration, iterations, default_error(structure))


def nonlinear_conjugate_gradient(question: Question) -> Price:
    """The price of nonlinear conjugate gradients: one to two gradients in an iteration.

    The counts of gradients and vectors follow from the times of a run with a million unknowns, line
    search included.
    """
    structure = question.structure
    iteration = one_pass(question) * 1.5 + vectors(structure, 60)
    iterations = UNKNOWN_ITERATIONS["ConjugateGradient"]
    # Two more vectors hold the residuals and their intermediate results.
    count = 6.0 + (2 if structure.kind is Kind.RESIDUALS else 0)
    working = count * structure.vector_bytes + SCALAR_BYTES + structure.evaluation_reserved
    return Price(working, one_pass(question), iteration, iterations, default_error(structure))


def function_backtracking(question: Question) -> Price:
    """The price of backtracking: a value and gradient, and a value for each trial.

    The counts of gradients and vectors follow from the times of a run with a million unknowns, line
    search included.
    """
    structure = question.structure
    iteration = one_pass(question) * 2 + vectors(structure, 30)
    iterations = UNKNOWN_ITERATIONS["Backtracking"]
    count = 6.0 + (structure.kind is Kind.RESIDUALS)
    working = count * structure.vector_bytes + SCALAR_BYTES + structure.evaluation_reserved
    return Price(working, one_pass(question), iteration, iterations, default_error(structure))
