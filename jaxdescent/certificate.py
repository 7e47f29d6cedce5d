"""Is it a minimum? The gradient, the Hessian's extreme eigenvalues, and how much they prove."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent import checks, placement, precision, programs, randomness
from jaxdescent.methods.protocol import Progress, measure
from jaxdescent.objectives import Objective, as_objective
from jaxdescent.objectives.stationary import DenseSolver, dense_hessian
from jaxdescent.result import Result
from jaxdescent.tolerance import default_tolerance

Params = Any

DENSE_LIMIT = 512
"""Up to so many unknowns the Hessian is formed and every eigenvalue computed."""

LANCZOS_STEPS = (64, 256)
"""How many Hessian-vector products are spent, at first and if that leaves the kind open."""

FAILURE_PROBABILITY = 1e-6


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What kind of point params is, and on what evidence.

    Attributes:
      kind: ``"minimum"``, ``"saddle"``, ``"maximum"``, ``"degenerate"`` (a zero eigenvalue: the
        second-derivative test is silent), ``"not stationary"`` or ``"undetermined"``.
      gradient_norm: the Euclidean norm of the gradient.
      smallest_eigenvalue: of the Hessian; by Lanczos an upper bound on it.
      largest_eigenvalue: of the Hessian; by Lanczos a lower bound on it.
      evidence: what the kind rests on, in words.
    """

    kind: str
    gradient_norm: float
    smallest_eigenvalue: float
    largest_eigenvalue: float
    evidence: str

    def __str__(self) -> str:
        return (
            f"{self.kind}: |gradient| = {self.gradient_norm:.3g}, Hessian eigenvalues from "
            f"{self.smallest_eigenvalue:.4g} to {self.largest_eigenvalue:.4g} ({self.evidence})"
        )


def certify(
    objective: Any,
    params: Params,
    *,
    args: tuple[Any, ...] = (),
    tolerance: float | None = None,
    scale: float | None = None,
) -> Certificate:
    """Tell a minimum from a saddle, a maximum, a flat point, and a point that is none of them.

    ``params`` is stationary if ``|g| <= tolerance * scale``. Then the Hessian decides: from its
    diagonal where the objective is separable; from all eigenvalues up to 512 unknowns; beyond, from
    the extreme Ritz values of Lanczos' process on Hessian-vector products, three vectors of
    memory whatever the number of unknowns. A negative Ritz value proves negative curvature. A
    positive one proves nothing by itself: it is called a minimum only if the objective's
    structure says so (``l2 > 0``), or if the smallest eigenvalue is positive with probability
    1 - 1e-6 over the random start, else ``"undetermined"``.

    Args:
      objective: as for ``minimize``.
      params: a point, or the ``Result`` of a descent, which brings its scale along.
      args: as for ``minimize``.
      tolerance: None: ``eps**(2/3)``, as for ``minimize``.
      scale: what the gradient's norm is compared with. None: the gradient's norm at the
        objective's own start where it has one, else ``|H| max(|params|, 1)``.

    Raises:
      ValueError: inside ``jit``, ``vmap`` or ``grad``: the kind is a word, not an array.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> jd.certify(lambda p: p[0] ** 2 - p[1] ** 2, jnp.zeros(2)).kind
    'saddle'

    Reference: Kuczyński and Woźniakowski (1992), "Estimating the largest eigenvalue by the power
    and Lanczos algorithms with a random start".
    """
    if not programs.is_top_level():
        raise ValueError("certify reads values: call it outside jit, vmap and grad.")
    if isinstance(params, Result):
        if jnp.ndim(params.scale):
            raise ValueError(
                f"certify takes one point, got a batch of {params.scale.size}: certify one member, "
                "jax.tree.map(lambda leaf: leaf[i], result)."
            )
        scale = float(params.scale) if scale is None else scale
        params = params.params
    objective = placement.with_automatic_axes(as_objective(objective, args).checked())
    checks.check_leaves(objective)
    params = placement.with_automatic_axes(checks.checked_params(params, objective))
    objective.check_params(params)
    placement.check_one_placement({"params": params, "objective": objective})
    inputs = (objective, params, True)
    progress = programs.compiled(_checked_measure, inputs)(*inputs)
    norm = float(progress.gradient_norm)
    spectrum = _spectrum(objective, params)
    if scale is None:
        scale = _scale(objective, params, spectrum)
    tolerance = default_tolerance(params) if tolerance is None else tolerance
    if norm <= tolerance * scale:
        kind, evidence = spectrum.kind, spectrum.evidence
    elif math.isfinite(norm):
        kind, evidence = "not stationary", f"|gradient| exceeds {tolerance:.2g} * {scale:.3g}"
    else:
        kind, evidence = "undetermined", "the gradient is not finite"
    return Certificate(kind, norm, spectrum.smallest, spectrum.largest, evidence)


class _Spectrum(NamedTuple):
    smallest: float
    largest: float
    kind: str
    evidence: str


def kind_of(smallest: float, largest: float, margin: float) -> str:
    """The second-derivative test, where eigenvalues within ``margin`` of zero may be zero."""
    if not math.isfinite(smallest + largest + margin):
        return "undetermined"
    if smallest > margin:
        return "minimum"
    if largest < -margin:
        return "maximum"
    if smallest < -margin and largest > margin:
        return "saddle"
    return "degenerate"


def dense_spectrum(objective: Objective, params: Params) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All eigenvalues of the Hessian, how far they are in doubt, and the length of Newton's step.

    The doubt is rounding, and what the Hessian changes by within twice Newton's step to the
    stationary point: near a degenerate point the step is long and the eigenvalues are not
    those of the point itself.
    """
    params = precision.widen(params)
    hessian = dense_hessian(objective, params)
    solver = DenseSolver.from_hessian(hessian)
    step, _ = solver.newton_step(objective.gradient(params))
    beyond = jax.tree.map(lambda x, d: x + 2 * d, params, step)
    change = jnp.linalg.norm(dense_hessian(objective, beyond) - hessian)
    largest = jnp.max(jnp.abs(solver.eigenvalues))
    rounding = jnp.finfo(hessian.dtype).eps * hessian.shape[0] * largest
    return solver.eigenvalues, rounding + 2 * change, precision.norm(step)


def _spectrum(objective: Objective, params: Params) -> _Spectrum:
    inputs = (objective, params)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if objective.is_separable:
        ends = programs.compiled(_diagonal_ends, inputs)(*inputs)
        smallest, largest = (float(end) for end in ends)
        return _Spectrum(
            smallest, largest, kind_of(smallest, largest, 0.0), "the Hessian is diagonal"
        )
    if size <= DENSE_LIMIT:
        eigenvalues, margin, _ = programs.compiled(dense_spectrum, inputs)(*inputs)
        smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
        kind = kind_of(smallest, largest, float(margin))
        return _Spectrum(smallest, largest, kind, f"all {size} eigenvalues of the Hessian")
    lower = -math.inf
    bounds = objective.curvature_bounds(params)
    if bounds is not None:
        lower = float(bounds.lower)
    few, many = LANCZOS_STEPS
    spectrum = _lanczos_spectrum(objective, params, size, few, lower)
    if spectrum.kind != "undetermined":
        return spectrum
    return _lanczos_spectrum(objective, params, size, many, lower)


def _lanczos_spectrum(
    objective: Objective, params: Params, size: int, steps: int, lower: float
) -> _Spectrum:
    inputs = (objective, params)
    diagonal, off_diagonal, count = programs.compiled(lanczos, inputs, steps=steps)(*inputs)
    used = int(count)
    ritz = np.linalg.eigvalsh(
        np.diag(np.asarray(diagonal, np.float64)[:used])
        + np.diag(np.asarray(off_diagonal, np.float64)[: used - 1], 1).T
        + np.diag(np.asarray(off_diagonal, np.float64)[: used - 1], 1)
    )
    if not np.all(np.isfinite(ritz)):
        return _Spectrum(math.nan, math.nan, "undetermined", "a Hessian product is not finite")
    smallest, largest = float(ritz[0]), float(ritz[-1])
    eps = float(jnp.finfo(diagonal.dtype).eps)
    rounding = 8 * used * eps * max(abs(smallest), abs(largest))
    # The largest eigenvalue lies above the largest Ritz value by more than a share e of the
    # spectrum's width with probability at most 1.648 sqrt(n) exp(-sqrt(e) (2 k - 1)); both ends.
    share = (math.log(2 * 1.648 * math.sqrt(size) / FAILURE_PROBABILITY) / (2 * used - 1)) ** 2
    is_exhausted = used < steps  # every eigenvalue that the start has a part along was found
    if is_exhausted:
        slack = rounding
    elif share < 0.5:
        slack = rounding + (largest - smallest) * share / (1 - 2 * share)
    else:
        slack = math.inf
    if lower > 0:
        return _Spectrum(
            smallest, largest, "minimum", f"by structure every eigenvalue is at least {lower:.3g}"
        )
    proof = f"{used} Lanczos steps exhausted the space of the start"
    if not is_exhausted:
        proof = f"{used} Lanczos steps, probability 1 - {FAILURE_PROBABILITY:g}"
    if smallest - slack > 0:
        return _Spectrum(smallest, largest, "minimum", proof)
    if largest + slack < 0:
        return _Spectrum(smallest, largest, "maximum", proof)
    if smallest < -rounding and largest > rounding:
        found = f"{used} Lanczos steps found curvature of both signs"
        return _Spectrum(smallest, largest, "saddle", found)
    open_end = f"{used} Lanczos steps cannot tell the smallest eigenvalue from zero"
    return _Spectrum(smallest, largest, "undetermined", open_end)


def _checked_measure(objective: Objective, params: Params, always: Any) -> Progress:
    checks.check_value(objective, params)
    return measure(objective, params, always)


def _scale(objective: Objective, params: Params, spectrum: _Spectrum) -> float:
    own = objective.start()
    if own is not None:
        inputs = (objective, own, True)
        norm = float(programs.compiled(measure, inputs)(*inputs).gradient_norm)
        if norm > 0:
            return norm
    size = float(programs.compiled(precision.norm, (params,))(params))
    return max(abs(spectrum.smallest), abs(spectrum.largest)) * max(size, 1.0)


def _diagonal_ends(objective: Objective, params: Params) -> tuple[jax.Array, jax.Array]:
    params = precision.widen(params)
    diagonal = objective.hessian_product(params, jax.tree.map(jnp.ones_like, params))
    leaves = jax.tree.leaves(diagonal)
    return (
        jnp.min(jnp.stack([jnp.min(leaf) for leaf in leaves])),
        jnp.max(jnp.stack([jnp.max(leaf) for leaf in leaves])),
    )


def lanczos(
    objective: Objective, params: Params, *, steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The tridiagonal matrix of ``steps`` Lanczos steps on the Hessian from a random start.

    Three-term recurrence without reorthogonalisation: rounding makes copies of extreme
    eigenvalues appear, which leaves the extremes where they are. Returns the diagonal (steps,),
    the off-diagonal (steps,), and how many steps were made before the space was exhausted.

    Reference: Lanczos (1950); Paige (1976), "Error analysis of the Lanczos algorithm".
    """
    params = precision.widen(params)
    leaves, treedef = jax.tree.flatten(params)
    start = treedef.unflatten(
        [
            randomness.normal(leaf.shape, randomness.fold(0, index), leaf.dtype)
            for index, leaf in enumerate(leaves)
        ]
    )
    dtype = jnp.result_type(*leaves)
    zeros = jnp.zeros((steps,), dtype)

    def normalised(vector: Params, length: jax.Array) -> Params:
        inverse = jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)
        return jax.tree.map(lambda v: v * inverse.astype(v.dtype), vector)

    def iterate(carry: Any) -> Any:
        previous, current, beta, diagonal, off_diagonal, index, _ = carry
        image = objective.hessian_product(params, current)
        alpha = precision.inner(current, image)
        image = jax.tree.map(
            lambda w, v, u: w - alpha.astype(w.dtype) * v - beta.astype(w.dtype) * u,
            image,
            current,
            previous,
        )
        length = precision.norm(image)
        diagonal = diagonal.at[index].set(alpha.astype(dtype))
        off_diagonal = off_diagonal.at[index].set(length.astype(dtype))
        floor = jnp.finfo(dtype).eps * jnp.max(jnp.abs(diagonal))
        goes_on = length > floor
        return (
            current,
            normalised(image, length),
            length,
            diagonal,
            off_diagonal,
            index + 1,
            goes_on,
        )

    first = normalised(start, precision.norm(start))
    carry = (
        jax.tree.map(jnp.zeros_like, first),
        first,
        jnp.zeros((), dtype),
        zeros,
        zeros,
        jnp.zeros((), jnp.int32),
        jnp.array(True),
    )
    carry = lax.while_loop(lambda carry: carry[-1] & (carry[-2] < steps), iterate, carry)
    return carry[3], carry[4], carry[5]
