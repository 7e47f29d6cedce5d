"""Iterative refinement of a regression in double length, to full accuracy in the working precision.

Let ``r = y - X w - b``. The augmented system has the equations ``r + X w + b = y`` and
``X'S r = l2 w`` (with an intercept also ``1'S r = 0``). The solution is kept in double length, and
r is computed from it in double length, so that the first equation holds. The residual of the
second equation, computed in double length too, corrects the solution:

    ``w <- w + (X'SX + l2 I)^-1 (X'S r - l2 w)``

The inverse comes from QR, in the working precision, of the centred X with columns of unit length.
Each step multiplies the error by about ``condition * eps``, where the condition number is that of X
with optimally scaled columns; the final error is about ``condition * eps^2``.

References: Golub and Wilkinson (1966), "Note on the iterative refinement of least squares
solution"; Björck (1967), "Iterative refinement of linear least squares solutions I";
Björck (1987), "Stability analysis of the method of seminormal equations".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxdescent.designs import as_design
from jaxdescent.kernels import double_length, loops, products
from jaxdescent.kernels.double_length import Double, double
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.platform import kept_apart, on_one_cpu
from jaxdescent.regression.solve.by_gram import turned_product
from jaxdescent.regression.solve.centred import columns
from jaxdescent.regression.solve.factor import (
    InverseFactor,
    null_level,
    spectral_factor,
    triangular_factor,
)

Params = Any

MAX_REFINEMENTS = 30
"""The most steps of refinement."""

SMALL = 1 << 14
"""The largest ``rows * features^2`` up to which every solution is refined in double length,
ill-conditioned or not: this takes less time than the overhead of the call."""

DOUBLE_ENTRIES = 1 << 20
"""The most entries of X, times outputs, for which residuals are computed in double length, which
takes half a second for a solve on one core. Beyond, refinement in the working precision has the
accuracy of QR."""


def orthogonal_factor(
    X: jax.Array, weight: jax.Array, mean: jax.Array, raw_length: jax.Array, l2: jax.Array
) -> InverseFactor:
    """The factor from the R of ``sqrt(S) (X - 1 mean') = QR``.

    If the rank is deficient or l2 differs by output, it comes from the SVD of R.

    Args:
      X: (rows, features), with at least as many rows as features.
      weight: s, (rows, 1).
      mean: the mean of each feature, (features,); zero without an intercept.
      raw_length: the norm of each column of ``sqrt(S) X``, (features,).
      l2: a scalar, or (outputs,).
    """
    null = null_level(X.dtype, X.shape[1])
    R = jnp.linalg.qr(jnp.sqrt(weight) * (X - mean[None, :]), mode="r")
    length = jnp.sqrt(jnp.sum(jnp.square(R), axis=0))
    is_noise = jnp.hypot(length, jnp.sqrt(jnp.maximum(jnp.min(l2), 0))) <= null * raw_length
    length = jnp.where(is_noise, 1, length)
    R = jnp.where(is_noise[None, :], 0, R)
    if l2.ndim == 1:
        return spectral_factor(R, l2, mean)
    ridge = jnp.diag(jnp.sqrt(l2) / length)
    triangle = jnp.linalg.qr(jnp.concatenate([R / length[None, :], ridge]), mode="r")
    scale = jnp.sqrt(jnp.sum(jnp.square(triangle), axis=0))
    scale = jnp.where(scale > 0, scale, 1)  # a column of zeros is null
    triangle, length = triangle / scale[None, :], length * scale
    inverse = solve_triangular(triangle, jnp.eye(mean.size, dtype=X.dtype))
    factor = triangular_factor(R, l2, triangle, inverse, length=length, mean=mean)
    return factor.without(is_noise)


def refined(factor: InverseFactor, objective: Any, params: Params) -> Params:
    """The regression's solution in its dtype, correctly rounded or nearly so.

    It stops when a step would not change the last digit of any unknown, or no longer halves the
    error ``|X dw|``. A step takes two passes over X, with about 25 additions and multiplications
    for an entry. Beyond ``DOUBLE_ENTRIES`` it uses the working precision, and is as accurate as QR.
    """
    design = as_design(objective.X)
    X, is_whole = design.to_dense(), design.is_whole
    dtype = X.dtype
    y = double(columns(objective.y).astype(dtype))
    l2 = jnp.asarray(objective.l2, dtype).reshape(1, -1)
    has_weight = objective.sample_weight is not None
    weight = objective.sample_weight.astype(dtype)[:, None] if has_weight else None
    weight_total = jnp.asarray(X.shape[0], dtype) if weight is None else jnp.sum(weight)
    mean = factor.feature_mean[:, None]

    def in_double_length(old: _Iterate) -> tuple[jax.Array, jax.Array]:
        # The barrier ties X to the loop's state: otherwise XLA would split every entry of X into
        # halves before the loop, and store them.
        rows, old = kept_apart((X, old))
        at = old.weights, old.intercept
        slope, total = slope_in_double_length(rows, y, *at, l2=l2, sample_weight=weight)
        if objective.intercept:
            slope = slope - mean * total[None, :]
        return jnp.matmul(factor.basis.T, slope, precision=HIGHEST), total[None, :]

    root = jnp.ones((1, 1), dtype) if weight is None else jnp.sqrt(weight)
    is_small = X.size * y.high.shape[1] <= DOUBLE_ENTRIES
    # Q has nearly orthonormal columns; products with X itself would multiply the error by the
    # condition number once more. On one CPU Q is stored; elsewhere each step computes it anew,
    # block by block.
    Q = X if is_small else jnp.matmul(root * (X - mean.T), factor.basis, precision=HIGHEST)

    def in_working_precision(old: _Iterate) -> tuple[jax.Array, jax.Array]:
        residual = y.high - jnp.matmul(X, old.weights.high, precision=HIGHEST) - old.intercept.high

        def explicit() -> jax.Array:
            return products.transposed_product(Q, root * residual, is_whole=is_whole)

        def anew() -> jax.Array:
            return turned_product(X, root, mean[:, 0], factor.basis, root * residual)

        rotated = on_one_cpu(explicit, anew, is_whole=is_whole)
        penalty = jnp.matmul(factor.basis.T, l2 * old.weights.high, precision=HIGHEST)
        return rotated - penalty, jnp.sum(root * root * residual, axis=0, keepdims=True)

    remainder = in_double_length if is_small else in_working_precision

    def refine(old: _Iterate) -> _Iterate:
        rotated, total = remainder(old)
        step = jnp.matmul(factor.basis, factor.gain * rotated, precision=HIGHEST)
        shift = jnp.zeros_like(old.intercept.high)
        if objective.intercept:
            shift = total / weight_total
        energy = jnp.sum(factor.gain * jnp.square(rotated))
        energy = energy + weight_total * jnp.sum(jnp.square(shift))
        shift = shift - jnp.matmul(mean.T, step, precision=HIGHEST)
        new = advanced(old.weights, step), advanced(old.intercept, shift)
        is_better = energy < old.energy / 4
        is_settled = is_negligible(step, new[0]) & is_negligible(shift, new[1])
        kept = jax.tree.map(
            lambda a, b: jnp.where(is_better, a, b), new, (old.weights, old.intercept)
        )
        return _Iterate(kept[0], kept[1], energy, old.steps + 1, is_better & ~is_settled)

    start = columns(params["weights"])
    start = jnp.where(factor.is_deficient, jnp.zeros_like(start), start)
    offset = (
        params["intercept"].reshape(1, -1) if objective.intercept else jnp.zeros_like(start[:1])
    )
    infinity = jnp.full((), jnp.inf, dtype)
    loop = _Iterate(double(start), double(offset), infinity, jnp.int32(0), jnp.array(True))
    loop = loops.while_loop(
        lambda it: it.goes_on & (it.steps < MAX_REFINEMENTS), refine, loop, turn_bytes=X.nbytes
    )
    new = {"weights": loop.weights.high.reshape(params["weights"].shape)}
    if objective.intercept:
        new["intercept"] = loop.intercept.high.reshape(params["intercept"].shape)
    return new


class _Iterate(NamedTuple):
    weights: Double  # (features, outputs)
    intercept: Double  # (1, outputs)
    energy: jax.Array
    steps: jax.Array
    goes_on: jax.Array


def slope_in_double_length(
    X: Any, y: Double, weights: Double, intercept: Double, *, l2: Any, sample_weight: Any
) -> tuple[Any, Any]:
    """``X'S r - l2 w``, (features, outputs), and the sums of ``S r``, (outputs,), for the residual
    ``r = y - X w - b``.
    """
    residual = double_length.subtract(y, double_length.product(X, weights))
    residual = double_length.subtract(residual, intercept)
    if sample_weight is not None:
        residual = double_length.multiply(sample_weight, residual)
    if X.size == 1 and isinstance(X, jax.Array):
        # With one entry there are no sums: XLA would write both products as one expression, with
        # the residual anew for each of its uses, and would compile it for hours.
        residual = kept_apart(residual)
    pulled = double_length.transposed_product(X, residual)
    slope = double_length.subtract(pulled, double_length.multiply(l2, weights))
    return slope.high, double_length.total(residual, axis=0).high


def advanced(x: Double, step: Any) -> Double:
    """``x + step``, where the rounding error of the high part is added to the low part."""
    high = double_length.two_sum(x.high, step)
    return double_length.two_sum(high.high, high.low + x.low)


def is_negligible(step: Any, x: Double, digits: Any = None) -> Any:
    """Whether the step changes no digit of any unknown, in the dtype ``digits`` if given."""
    share = float(jnp.finfo(step.dtype).eps) / 16
    if digits is not None:
        # The unknowns are rounded to this dtype: the minimum is known more accurately than that.
        share = max(share, float(jnp.finfo(digits).eps) / 256)
    return (abs(step) <= share * abs(x.high)).all()
