"""The signs of the Hessian's eigenvalues, by the cheapest evidence that decides.

These are tried in order: the structure (a diagonal Hessian, a known least curvature); all
eigenvalues, for up to 512 unknowns; 64 steps of the Lanczos process; a Cholesky factor, if the
Hessian is banded, or has up to 6,000 unknowns and can be formed in time; and more Lanczos steps, on
the Hessian scaled to rows of similar size, until they prove a sign or the time is up.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import processes
from jaxdescent.inputs.functions import MOST_IN_DOUBLE
from jaxdescent.objectives import Objective, Params
from jaxdescent.second_order import hessian_matrix, lanczos
from jaxdescent.second_order.by_factors import Spectrum, of_band, of_cholesky
from jaxdescent.second_order.curvature import Curvature
from jaxdescent.second_order.hessian_matrix import kind_of
from jaxdescent.second_order.newton import newton_of

FIRST_STEPS = 64
"""The number of Hessian-vector products that are spent on the extreme eigenvalues in any case."""

MOST_STEPS = 1024
"""The most steps for a direction of negative curvature that factors of the Hessian have proven."""

SECONDS = 50.0
"""The time that all evidence together may take, in seconds."""

FAILURE_PROBABILITY = 1e-6
"""The probability, over the random start, with which a proof by Lanczos steps may be wrong."""

ROW_PROBES = 16
"""The number of products from which the sizes of the Hessian's rows are estimated."""


def spectrum_at(
    objective: Objective, params: Params, *, seconds: float = SECONDS, is_to_leave: bool = False
) -> Spectrum:
    """The known facts about the eigenvalues of the Hessian at ``params``; with a direction of
    negative curvature, if there is one and the point is to be left.
    """
    deadline = processes.clock() + seconds
    curvature = Curvature.at(objective, params)
    if objective.is_separable:
        return _of_diagonal(curvature)
    if curvature.size <= MOST_IN_DOUBLE:
        return spectrum_of_all(curvature, _by_structure(objective, params))
    process = lanczos.Process(curvature)
    process.advance(FIRST_STEPS)
    known = _by_structure(objective, params)
    ends = process.ends()
    if not math.isfinite(sum(ends)):
        return Spectrum.unknown(curvature)
    if known is not None:
        return Spectrum(*ends, *known, curvature)
    found = _of_process(process)
    if found.kind != "undetermined":
        return found
    by_factors = of_band(curvature, ends) or of_cholesky(curvature, ends, deadline)
    if by_factors is None:
        return _of_longer_process(curvature, ends, deadline)
    return _with_direction(by_factors, process, deadline) if is_to_leave else by_factors


def _by_structure(objective: Objective, params: Params) -> tuple[str, str, float] | None:
    """The kind, the evidence and a lower bound on the eigenvalues, from the structure alone."""
    bounds = objective.curvature_bounds(params)
    if bounds is not None:
        lower, upper = float(bounds.lower), float(bounds.upper)
        if lower > 0:
            return "minimum", f"by structure every eigenvalue is at least {lower:.3g}", lower
        if upper < 0:
            return "maximum", f"by structure every eigenvalue is at most {upper:.3g}", -math.inf
    regression = objective.linear_regression
    if regression is not None:
        l2 = float(np.min(np.asarray(regression.l2)))
        if l2 > 0:
            evidence = f"by structure: with centred features every eigenvalue is at least {l2:.3g}"
            return "minimum", evidence, 0.0
    return None


def _of_diagonal(curvature: Curvature) -> Spectrum:
    smallest, largest = (float(end) for end in curvature.run(_diagonal_ends))
    kind = kind_of(smallest, largest, 0.0)
    lowest = curvature.run(_lowest_of_diagonal) if smallest < 0 else None
    evidence = "the Hessian is diagonal"
    return Spectrum(smallest, largest, kind, evidence, smallest, curvature, lowest=lowest)


def spectrum_of_all(curvature: Curvature, known: tuple[str, str, float] | None = None) -> Spectrum:
    """The spectrum by all eigenvalues of the formed Hessian; ``known`` is what the structure says
    of the kind.
    """
    matrix = hessian_matrix.formed(curvature, math.inf)
    assert matrix is not None
    if not np.all(np.isfinite(matrix)):
        return Spectrum.unknown(curvature)
    values, vectors = np.linalg.eigh(matrix)
    newton = newton_of(curvature, matrix, is_known=known is not None)
    evidence = f"all {len(matrix)} eigenvalues of the Hessian"
    kind, evidence, at_least = known or (newton.kind(), evidence, -math.inf)
    at_least = max(at_least, float(values[0]))
    lowest = curvature.as_params(_negative(values, vectors) if values[0] < 0 else vectors[:, 0])

    def holds(share: float) -> bool:
        return newton.kind(share) == kind

    doubted = {"newton": newton, "lowest": lowest, "holds": holds, "scale": newton.scale}
    ends = float(values[0]), float(values[-1])
    return Spectrum(*ends, kind, evidence, at_least, curvature, **doubted)


def _negative(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """A random unit vector in the space of nearly the most negative curvature.

    A saddle may have hundreds of such directions, and a descent that leaves along a single one may
    stay at zero along the others.
    """
    space = vectors[:, values <= 0.1 * values[0]]
    vector = space @ (space.T @ np.random.default_rng(3).normal(size=len(values)))
    return vector / np.linalg.norm(vector)


def _of_process(process: lanczos.Process) -> Spectrum:
    """The facts about the eigenvalues that the Lanczos coefficients so far prove."""
    curvature = process.curvature
    smallest, largest = ends = process.ends()
    size = max(abs(smallest), abs(largest))
    doubt = process.defect()
    eps = float(jnp.finfo(jnp.result_type(*jax.tree.leaves(curvature.params))).eps)
    margin = size * max(2 * curvature.eps, hessian_matrix.SAFETY * doubt, 4 * process.steps * eps)
    of = "" if process.scale is None else " of the scaled Hessian"
    begun = f"{process.steps} Lanczos steps{of}"
    proof = f"{begun}, probability 1 - {FAILURE_PROBABILITY:g}"
    if process.is_exhausted:
        proof = f"{begun} exhausted the space of the start"
    kind, lowest, at_least = "undetermined", None, -math.inf
    is_negative = smallest < -margin
    if process.failure(margin) <= FAILURE_PROBABILITY:
        kind, evidence = "minimum", proof
        at_least = _highest_proven(process, margin, smallest)
    elif process.failure(margin, sign=-1) <= FAILURE_PROBABILITY:
        kind, evidence = "maximum", proof
    elif is_negative and largest > margin:
        kind, evidence = "saddle", f"{begun} found curvature of both signs"
    else:
        evidence = f"{begun} cannot tell the smallest eigenvalue from zero"
    if is_negative and kind in ("saddle", "maximum"):
        lowest, measured = process.lowest_direction()
        if not measured < 0:
            kind, evidence = "undetermined", f"{begun} cannot tell the smallest eigenvalue's sign"

    def holds(less: float) -> bool:
        return process.failure(margin + less) <= FAILURE_PROBABILITY

    scale = 1.0 if process.scale is None else curvature.as_column(process.scale)
    doubted = {"holds": holds if kind == "minimum" else None, "scale": scale}
    return Spectrum(*ends, kind, evidence, at_least, curvature, lowest=lowest, **doubted)


def _with_direction(found: Spectrum, process: lanczos.Process, deadline: float) -> Spectrum:
    """The spectrum of factors, which show no direction, with the lowest that Lanczos steps see."""
    if found.kind not in ("saddle", "maximum"):
        return found
    while not (process.ends()[0] < 0 or process.is_exhausted):
        if process.steps >= MOST_STEPS or processes.clock() > deadline:
            return found
        process.advance(process.steps)
    lowest, measured = process.lowest_direction()
    return dataclasses.replace(found, lowest=lowest) if measured < 0 else found


def _highest_proven(process: lanczos.Process, margin: float, smallest: float) -> float:
    """A larger lower bound that is proven too, within about a factor of two of the best one."""
    for share in (0.95, 0.8, 0.5, 0.2):
        bound = margin + share * (smallest - margin)
        if process.failure(bound) <= FAILURE_PROBABILITY:
            return bound
    return margin


def _of_longer_process(
    curvature: Curvature, ends: tuple[float, float], deadline: float
) -> Spectrum:
    smallest, largest = ends
    scale = curvature.run(lanczos.row_norms, probes=ROW_PROBES)
    process = lanczos.Process(curvature, scale)
    target = 2 * FIRST_STEPS
    while True:
        before, steps = processes.clock(), process.steps
        process.advance(target - process.steps)
        found = _of_process(process)
        now = processes.clock()
        if found.kind != "undetermined" or process.is_exhausted:
            break
        a_step = (now - before) / max(process.steps - steps, 1)
        left = (deadline - now) / a_step
        if left < FIRST_STEPS:
            break
        target = process.steps + int(min(process.steps, left))
    at_least = -math.inf
    if found.at_least > 0:
        at_least = found.at_least * float(1 / np.max(found.scale) ** 2)
    if found.lowest is not None:
        smallest = min(smallest, float(curvature.run(_curvature_along, found.lowest)))
    return dataclasses.replace(found, smallest=smallest, largest=largest, at_least=at_least)


def _curvature_along(objective: Objective, params: Params, direction: Params) -> jax.Array:
    return objective.curvature(params, direction)


def _diagonal(objective: Objective, params: Params) -> Params:
    return objective.hessian_product(params, jax.tree.map(jnp.ones_like, params))


def _diagonal_ends(objective: Objective, params: Params) -> tuple[jax.Array, jax.Array]:
    leaves = jax.tree.leaves(_diagonal(objective, params))
    return (
        jnp.min(jnp.stack([jnp.min(leaf) for leaf in leaves])),
        jnp.max(jnp.stack([jnp.max(leaf) for leaf in leaves])),
    )


def _lowest_of_diagonal(objective: Objective, params: Params) -> Params:
    """A unit vector with equal entries where the diagonal is smallest, and zeros elsewhere."""
    least, _ = _diagonal_ends(objective, params)
    units = jax.tree.map(
        lambda leaf: (leaf == least).astype(leaf.dtype), _diagonal(objective, params)
    )
    total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(units))
    return jax.tree.map(lambda leaf: leaf / jnp.sqrt(total).astype(leaf.dtype), units)
