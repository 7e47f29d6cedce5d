"""Prices of the derivative method for regressions and quadratics."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs import Dense
from jaxdescent.kernels.factors import PASSES
from jaxdescent.kernels.products import stride_count
from jaxdescent.kernels.symmetric import symmetric_share
from jaxdescent.machine import Machine, orthogonal_flops
from jaxdescent.plan.cost_model.reserved import (
    copied_bytes,
)
from jaxdescent.plan.cost_model.work import (
    SCALAR_OPERATIONS,
    Price,
    Question,
    Work,
    all_reduce,
    cholesky,
    gradient_sum,
    one_pass,
    orthogonal,
    product,
    spectrum,
    there_and_back,
    vectors,
)
from jaxdescent.plan.structure import Structure
from jaxdescent.regression.solve import (
    DOUBLE_ENTRIES,
    FAIR,
    SMALL,
    least_singular_value,
    normal_equations_bytes,
)

REFINEMENTS = 4
"""The assumed number of refinement steps for an ill-conditioned regression (three to six)."""


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
