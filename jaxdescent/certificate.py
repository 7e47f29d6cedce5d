"""The kind of a point (minimum, saddle, ...), by its gradient and the Hessian's eigenvalues."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent import display, processes
from jaxdescent.calls.problem import check_params, checked
from jaxdescent.inputs import tracing
from jaxdescent.inputs.numbers import check_number
from jaxdescent.objectives import Objective, Params, as_objective, checks
from jaxdescent.result import Result
from jaxdescent.second_order import stationarity
from jaxdescent.second_order.by_factors import Spectrum
from jaxdescent.second_order.spectrum import spectrum_at, spectrum_of_all
from jaxdescent.tolerance import default_tolerance

MOST_STEPS, CONVERGING = 4, 0.5
"""The most steps of Newton's to a stationary point nearby, and the share of the step before that
each may be long."""


@dataclasses.dataclass(frozen=True)
class Certificate(display.Displayed):
    """The kind of a point, and the evidence for it.

    Attributes:
      kind: ``"minimum"``, ``"saddle"``, ``"maximum"``, ``"degenerate"`` (a zero eigenvalue, for
        which the second-derivative test decides nothing), ``"not stationary"`` or
        ``"undetermined"``.
      gradient_norm: the Euclidean norm of the gradient.
      smallest_eigenvalue: of the Hessian; beyond 512 unknowns an upper bound on it.
      largest_eigenvalue: of the Hessian; beyond 512 unknowns a lower bound on it.
      evidence: the reason for the kind, in words.
      suboptimality: at a minimum, how far the value may be above the minimum nearby. If all
        eigenvalues are known it is half the squared Newton decrement; otherwise it is the bound
        ``|g|^2 / (2 m)``, where m is a proven lower bound on the eigenvalues, and infinity if there
        is none. None if the point is not a minimum.
      region: at a minimum, the Euclidean distance from params up to which the objective was found
        to differ from its quadratic model by at most 10 % of the quadratic term. Only a few
        directions are examined, up to ``|params|`` (1 if they are zero). It is infinity for a
        quadratic, and None if the point is not a minimum.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> found = jd.certify(jd.Quadratic(jnp.diag(jnp.array([1.0, -2.0]))), jnp.zeros(2))
    >>> found.kind, found.smallest_eigenvalue, found.largest_eigenvalue
    ('saddle', -2.0, 1.0)
    """

    kind: str
    gradient_norm: float
    smallest_eigenvalue: float
    largest_eigenvalue: float
    evidence: str
    suboptimality: float | None = None
    region: float | None = None

    def __str__(self) -> str:
        text = (
            f"{self.kind}: |gradient| = {self.gradient_norm:.3g}, Hessian eigenvalues from "
            f"{self.smallest_eigenvalue:.4g} to {self.largest_eigenvalue:.4g} ({self.evidence})"
        )
        if self.suboptimality is not None and math.isfinite(self.suboptimality):
            text += f"; the value is within {self.suboptimality:.2g} of the minimum's"
        return text

    def _arguments(self) -> list[str]:
        return [str(self)]

    def _repr_html_(self) -> str:
        ends = self.smallest_eigenvalue, self.largest_eigenvalue
        rows = [
            ("evidence", self.evidence),
            ("gradient norm", display.number(self.gradient_norm)),
            ("Hessian eigenvalues", " .. ".join(display.number(end, 4) for end in ends)),
        ]
        if self.suboptimality is not None:
            rows.append(("suboptimality", display.number(self.suboptimality)))
            rows.append(("quadratic within", display.number(self.region)))
        return display.Report(f"Certificate: {self.kind}", "", rows).as_html()


def certify(
    objective: Any,
    params: Params,
    *,
    args: tuple[Any, ...] = (),
    tolerance: float | None = None,
    scale: float | None = None,
) -> Certificate:
    """Distinguish minima, saddles, maxima, degenerate points, and points that are not stationary.

    Whether params are stationary is judged by the point's own scales
    (:mod:`jaxdescent.second_order.stationarity`), not by the start of a descent: a ``Result`` and
    its params get the same certificate. Then the signs of the Hessian's eigenvalues decide
    (:mod:`jaxdescent.second_order.spectrum`). They are computed in float64, from products in
    float64 if the function can be evaluated in it, and must exceed the rounding of the data. They
    follow from the structure (``l2 > 0``); or, up to 512 unknowns, from all eigenvalues. Beyond,
    the Lanczos process on Hessian-vector products is used, with three vectors of memory (four to
    show a direction of negative curvature). If it does not decide, there follow a Cholesky factor
    of the shifted Hessian, if this is banded or has at most 6,000 unknowns, or more Lanczos steps
    on the scaled Hessian. Negative curvature is proven by a direction. That there is none is proven
    by structure, by the factor, or with probability 1 - 1e-6 over a random start; otherwise the
    kind is ``"undetermined"``. It takes a minute at most, plus the time of single products.

    Args:
      objective: as for ``minimize``.
      params: a point, or the ``Result`` of a descent.
      args: as for ``minimize``.
      tolerance: the relative tolerance; None stands for ``eps**(2/3)``, as for ``minimize``.
      scale: judge the point by ``|g| <= tolerance * scale`` instead.

    Returns:
      A :class:`Certificate`: the kind of the point, and the evidence for it.

    Raises:
      ValueError: inside ``jit``, ``vmap`` or ``grad``, because the kind is a word and not an array;
        or if ``params`` is a batch of results.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> jd.certify(lambda p: p[0] ** 2 - p[1] ** 2, jnp.zeros(2)).kind
    'saddle'
    >>> found = jd.certify(lambda p: jnp.cosh(p[0] - 1) + p[1] ** 2, jnp.array([1.001, 0.0]))
    >>> print(found.kind, f"{found.suboptimality:.1e}", f"{found.region:.2g}")
    minimum 5.0e-07 1

    Reference: Kuczyński and Woźniakowski (1992), "Estimating the largest eigenvalue by the power
    and Lanczos algorithms with a random start".
    """
    if not tracing.is_top_level():
        raise ValueError("certify reads values: call it outside jit, vmap and grad.")
    for name, number in (("tolerance", tolerance), ("scale", scale)):
        check_number(name, number, "at least 0", lambda given: given >= 0, may_be_none=True)
    if isinstance(params, Result):
        if jnp.ndim(params.status):
            raise ValueError(
                f"certify takes one point, got a batch of {params.status.size}: certify one "
                "member, jax.tree.map(lambda leaf: leaf[i], result)."
            )
        params = params.params
    with processes.among("certify", objective, params, args):
        return _certified(objective, params, args, tolerance, scale)


@np.errstate(all="ignore")  # squares of large params overflow, and are judged as infinite
def _certified(
    objective: Any, params: Params, args: tuple[Any, ...], tolerance: Any, scale: Any
) -> Certificate:
    objective, params = posed_at(objective, params, args)
    checks.check_value(objective, params)
    spectrum = spectrum_at(objective, params)
    norm = spectrum.curvature.own_norm
    ends = spectrum.smallest, spectrum.largest
    if not math.isfinite(norm):
        return Certificate("undetermined", norm, *ends, "the gradient is not finite")
    tolerance = default_tolerance(params) if tolerance is None else tolerance
    verdict = stationarity.judged(spectrum, tolerance)
    is_stationary, reason = bool(verdict.is_stationary), verdict.reason
    if scale is not None:
        is_stationary = norm <= tolerance * scale
        reason = f"|gradient| exceeds {tolerance:.2g} * {scale:.3g}"
    if not is_stationary and math.isfinite(spectrum.size):
        return Certificate("not stationary", norm, *ends, reason)
    kind, evidence = spectrum.kind, spectrum.evidence
    if verdict.step is not None and not stationarity.is_beyond_doubt(spectrum, verdict.step):
        nearby = _kind_nearby(spectrum, verdict.step)
        if nearby is None:
            evidence = f"{evidence}, which change too much on the way to the stationary point"
            kind = "undetermined" if spectrum.newton is None else "degenerate"
        else:
            kind, evidence = nearby, f"{evidence} at the stationary point nearby"
    if kind != "minimum":
        return Certificate(kind, norm, *ends, evidence)
    left = _suboptimality(spectrum, verdict, norm)
    region = stationarity.region(spectrum, verdict.step, float(verdict.size))
    if region == 0:
        evidence = f"{evidence}, which jump there: no neighbourhood is like the quadratic model"
        return Certificate("undetermined", norm, *ends, evidence)
    return Certificate(kind, norm, *ends, evidence, left, region)


def posed_at(objective: Any, params: Params, args: tuple[Any, ...]) -> tuple[Objective, Params]:
    """The checked objective and point, for a certificate."""
    objective = as_objective(objective, args)
    check_params(params)
    return checked(objective, params)


def _kind_nearby(spectrum: Spectrum, step: np.ndarray) -> str | None:
    """The kind of the stationary point that a few more of Newton's steps reach in float64; None if
    it is in doubt there too. Params of 16 bits may be too far from it for their own Hessian.
    """
    if spectrum.newton is None or not spectrum.curvature.is_double:
        return None
    scale = spectrum.newton.scale
    for _ in range(MOST_STEPS):
        moved, _ = spectrum.curvature.shifted(spectrum.curvature.as_params(step)).expanded()
        spectrum, length = spectrum_of_all(moved), np.linalg.norm(step / scale)
        if spectrum.newton is None or moved.point is None:
            return None
        step = spectrum.newton.step(moved.point[1])
        # Steps to a degenerate point shrink to a half at best.
        if not np.linalg.norm(step / scale) <= CONVERGING * length:
            return None
        if stationarity.is_beyond_doubt(spectrum, step):
            return spectrum.kind
    return None


def _suboptimality(spectrum: Spectrum, verdict: stationarity.Verdict, norm: float) -> float:
    if spectrum.newton is not None:
        return float(verdict.decrement)
    if norm == 0:
        return 0.0
    return norm**2 / (2 * spectrum.at_least) if spectrum.at_least > 0 else math.inf
