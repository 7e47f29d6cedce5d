"""The inverse of a regression's normal matrix by singular values, for the derivatives of its
solution.

NumPy computes the singular values in float64 where X is in the memory of one CPU, and of a larger X
a triangle; on accelerators, and for an X over several devices, the singular values are those of the
platform in the dtype of X.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.designs import as_design
from jaxdescent.kernels import factors
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.kernels.host_calls import host_call
from jaxdescent.kernels.host_threads import on_one_thread
from jaxdescent.kernels.platform import on_one_cpu
from jaxdescent.regression.linear_model import scaled_rows
from jaxdescent.regression.solve.factor import certain_lengths, in_units, is_uneven, null_level

MOST_SIDE, MOST_ENTRIES, MOST_OPERATIONS = 512, 1 << 24, 1 << 30
"""The largest smaller side of X, the most of its entries, and the most of its entries times this
side, for which the singular values take about a second and some hundred megabytes."""

MOST_SIDE_ON_HOST, MOST_STORED_ON_HOST, MOST_OPERATIONS_ON_HOST = 2048, 1 << 25, 1 << 36
"""The largest smaller side of X, the most entries of a stored X, and the most entries times this
side, for which the triangle on one CPU takes some seconds and three copies of X in float64."""

WELL_CONDITIONED = 8
"""The condition number up to which the product of X with the inverse of its triangle is computed in
the dtype of X, in half the time."""

LEAST_LEVEL = 1e-7
"""The smallest singular value, relative to the norm, that a Gram matrix in float64 shows."""


Solve = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""The solution x of ``p + B x = f, B'p - l2 x = g`` for f and g, and its image ``B x``, for one B:
``sqrt(S) X`` with at least as many rows as features, or its transpose. All have a column for each
output. If there are several x, it is the one of least norm."""


class PseudoInverse(NamedTuple):
    """``(B'B + l2 I)^+ = basis diag(gain) basis'``, for each output."""

    basis: Any  # (columns, columns)
    image: Any  # B basis, (rows, columns)
    gain: Any  # (columns, outputs), or one column for all outputs
    rank: Any

    def solve(self, f: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As in :data:`Solve`. No rounding takes ``B'f`` out of the range of B', where it would
        be divided by a small penalty.
        """
        shares = self.gain * (_product(self.image.T, f) - _product(self.basis.T, g))
        return _product(self.basis, shares), _product(self.image, shares)


def of_transpose(inverse: PseudoInverse, serves: jax.Array) -> Solve:
    """Solutions without a penalty for the transpose of the matrix that was factorised, with the
    part of g that the transpose has in its range.

    They serve where the rank is deficient, and are NaN there where the columns were in units of
    their own: these are the rows of a regression, whose weights count as they are.
    """
    unit = jnp.max(jnp.abs(inverse.basis))
    basis, image = inverse.basis / unit, inverse.image
    # The rows of the basis are of equal lengths unless the columns had units or the rank is full.
    lengths = jnp.linalg.norm(basis, axis=1)
    are_lost = serves & is_uneven(lengths, null_level(lengths.dtype, lengths.size))
    gain = jnp.where(are_lost, jnp.nan, inverse.gain)

    def solve(f: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = f - unit * _product(basis, gain * _product(image.T, g))
        shares = _product(basis.T, rows)
        # Vectors beyond the range are there only if the basis is orthogonal.
        beyond = _product(basis, jnp.where(gain == 0, shares, 0)) / jnp.square(jnp.max(lengths))
        is_there = lengths[:, None] > 0
        return _product(image, gain * unit * shares), jnp.where(is_there, rows - beyond, 0)

    return solve


def is_possible(regression: Any) -> bool:
    """Whether X, which may be sharded or in files, is small enough to be factorised as a whole, and
    one factor serves all outputs: with several penalties no columns can be in units of their own.
    """
    rows, features = as_design(regression.X).shape
    side = min(rows, features)
    is_within = rows * features <= MOST_ENTRIES and side <= MOST_SIDE
    is_one = rows < features or jnp.size(regression.l2) == 1
    return is_one and is_within and rows * features * side <= MOST_OPERATIONS


def is_possible_on_host(regression: Any) -> bool:
    """Whether NumPy can factorise X, if it is in the memory of one CPU."""
    design = as_design(regression.X)
    entries, side = design.shape[0] * design.shape[1], min(design.shape)
    is_within = entries <= (MOST_STORED_ON_HOST if design.is_stored else MOST_ENTRIES)
    is_within = is_within and side <= MOST_SIDE_ON_HOST
    is_within = is_within and entries * side <= MOST_OPERATIONS_ON_HOST
    return is_possible(regression) or (is_within and jnp.size(regression.l2) == 1)


def lengths_of(regression: Any, alone: Any) -> jax.Array | None:
    """The lengths of the columns without an intercept, as :func:`of_regression` has the arguments:
    zero where a column is constant; None where X does not know.
    """
    weight = regression.sample_weight
    lengths = as_design(alone.X).column_lengths(weight, None)
    if lengths is None or not regression.intercept:
        return lengths
    whole = as_design(regression.X).column_lengths(weight, None)
    return lengths if whole is None else certain_lengths(lengths, whole)


def of_regression(regression: Any, alone: Any, *, dtype: Any, is_wide: bool) -> PseudoInverse:
    """The factors for a regression; NaN where a penalty or the weight of a row is negative. If only
    NumPy can factorise an X so large, they are zeros in programs for other platforms than one CPU.

    Args:
      regression: any design is X.
      alone: the same problem without an intercept, so that X has no mean.
      dtype: of the factors.
      is_wide: whether B is the transpose of ``sqrt(S) X``.
    """
    own, design = as_design(regression.X), as_design(alone.X)
    (rows, features), size = design.shape, jnp.size(regression.l2)
    level = null_level(dtype, min(rows, features))
    side, length = (rows, features) if is_wide else (features, rows)
    of = functools.partial(jax.ShapeDtypeStruct, dtype=dtype)
    numbers = of((side, side)), of((length, side)), of((side, size))
    like = PseudoInverse(*numbers, of((), dtype=np.int32))
    is_small = is_possible(regression)
    how = {"has_intercept": regression.intercept, "is_wide": is_wide, "is_small": is_small}
    compute = functools.partial(_on_host, like=like, level=level, **how)

    def on_host(*given: Any) -> PseudoInverse:
        return host_call(compute, like, *given, vmap_method="sequential")

    def in_program(X: jax.Array, weight: Any, l2: jax.Array) -> PseudoInverse:
        B, lengths = design.to_dense().astype(dtype), lengths_of(regression, alone)
        if lengths is not None:
            B = jnp.where(lengths[None] == 0, 0, B)  # of constant columns rounding is left
        B = B if weight is None else scaled_rows(B, jnp.sqrt(weight))
        B = B.T if is_wide else B
        with jax.default_matmul_precision("highest"):
            R = factors.triangle(B)
            made = _factorised(R, l2, levels=(level, level), xp=jnp, svd=factors.svd)
            return made._replace(image=jnp.matmul(B, made.image))

    def of_zeros(*_: Any) -> PseudoInverse:
        made = jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), like)
        return made._replace(rank=jnp.asarray(side, jnp.int32))  # a full rank: it is not known

    elsewhere = in_program if is_small else of_zeros
    l2 = jnp.atleast_1d(jnp.asarray(regression.l2, dtype))
    weight = regression.sample_weight
    weight = None if weight is None else weight.astype(dtype)
    given = own.to_dense().astype(dtype), weight, l2
    return on_one_cpu(on_host, elsewhere, *given, is_whole=design.is_whole)


@on_one_thread()
def _on_host(
    X: np.ndarray,
    weight: np.ndarray | None,
    l2: np.ndarray,
    *,
    has_intercept: bool,
    is_wide: bool,
    level: float,
    is_small: bool,
    like: Any,
) -> PseudoInverse:
    B, l2 = X.astype(np.float64), l2.astype(np.float64)  # a copy, which is changed in place
    weight = np.ones(1) if weight is None else weight.astype(np.float64)
    svd = functools.partial(np.linalg.svd, full_matrices=False)

    def squares() -> np.ndarray:
        return np.einsum("i,ij,ij->j", np.broadcast_to(weight, len(B)), B, B)

    with np.errstate(all="ignore"):
        if has_intercept:
            whole = squares()
            B -= np.mean(B, axis=0) if weight.size == 1 else weight @ B / np.sum(weight)
            B[:, squares() <= level**2 * whole] = 0
        B *= np.sqrt(weight)[:, None]
        B = B.T if is_wide else B
        without = np.sqrt(weight) if has_intercept and is_wide else np.zeros(1)
        made = None
        if not is_small and l2[0] >= 0:
            made = _by_triangle(B, without, float(l2[0]), level=level, dtype=X.dtype)
        if made is None:
            R = np.linalg.qr(B, mode="r")
            if not (np.all(np.isfinite(R)) and np.min(l2) >= 0):
                return PseudoInverse(*(np.full(of.shape, np.nan).astype(of.dtype) for of in like))
            # A penalty keeps directions that the dtype of X could not tell from its rounding.
            levels = level, null_level(np.float64, len(R))
            made = _factorised(R, l2, levels=levels, xp=np, svd=svd)
        made = made._replace(image=B.astype(made.image.dtype, copy=False) @ made.image)
    return PseudoInverse(*(np.asarray(part, of.dtype) for part, of in zip(made, like, strict=True)))


def _by_triangle(
    B: np.ndarray, without: np.ndarray, l2: float, *, level: float, dtype: Any
) -> PseudoInverse | None:
    """As :func:`_factorised`, from the triangle R of ``A = [B; sqrt(l2) I] = Q R``, whose inverse
    is the basis. None where the condition number for columns of unit length is ``1 / level``.

    The Gram matrix in float64 keeps what float32 data have; for float64 data the one of the nearly
    orthonormal Q follows.

    Args:
      B: the matrix.
      without: the direction that is lost with the mean of a wide X, or zeros. What is solved has
        no share of it, so that A may have it as a further row.
      l2: the penalty.
      level: as for a matrix without a penalty: above it rounding of the image does not count.
      dtype: of the data.
    """
    squares = np.einsum("ij,ij->j", B, B)
    is_there = squares + l2 > 0
    lost = np.broadcast_to(without, squares.shape)
    lost = lost * np.sqrt(np.mean(squares) / max(np.sum(lost**2), 1e-300))
    below = np.where(is_there, l2, 1)
    gram = B.T @ B + np.outer(lost, lost) + np.diag(below)
    lengths = np.sqrt(np.diagonal(gram))
    try:
        basis = _inverse_triangle(gram)
        condition = _norm(gram / lengths / lengths[:, None]) ** 0.5 * _norm(
            lengths[:, None] * basis
        )
        if not max(level, LEAST_LEVEL) * condition < 1:
            return None
        if dtype == np.float64:
            Q = np.vstack([B, lost[None], np.diag(np.sqrt(below))]) @ basis
            basis = basis @ _inverse_triangle(Q.T @ Q)
    except np.linalg.LinAlgError:
        return None
    basis[~is_there] = 0
    # The rounding errors of the image are amplified by the square of the condition number.
    image = basis.astype(dtype if condition < WELL_CONDITIONED else np.float64)
    return PseudoInverse(basis, image, np.ones((len(basis), 1)), np.sum(squares > 0))


def _inverse_triangle(gram: np.ndarray) -> np.ndarray:
    """``R^-1`` from ``R'R``, by halves: NumPy has no inverse of a triangle, and the one of a full
    matrix takes three times the time.
    """
    half = len(gram) // 2
    if half <= 32:
        return np.linalg.inv(np.linalg.cholesky(gram).T)
    first = _inverse_triangle(gram[:half, :half])
    beside = first.T @ gram[:half, half:]
    second = _inverse_triangle(gram[half:, half:] - beside.T @ beside)
    zeros = np.zeros((len(second), half))
    return np.block([[first, -first @ (beside @ second)], [zeros, second]])


def _norm(matrix: np.ndarray) -> float:
    """As :func:`~jaxdescent.regression.solve.factor.spectral_norm`."""
    vector = matrix[np.argmax(np.einsum("ij,ij->i", matrix, matrix))]
    for _ in range(3):
        vector = matrix.T @ (matrix @ (vector / np.linalg.norm(vector)))
    return float(np.linalg.norm(vector)) ** 0.5


def _factorised(
    R: Any, l2: Any, *, levels: tuple[float, float], xp: Any, svd: Any
) -> PseudoInverse:
    """The factors by the functions of NumPy or of JAX, with the basis of the image for the image:
    zero in directions that B does not have.

    Args:
      R: the triangle of ``B = Q R``.
      l2: a penalty, or one for each output.
      levels: up to which a direction counts as none, without a penalty and with one
        (:func:`~jaxdescent.regression.solve.factor.null_level`).
      xp: ``numpy`` or ``jax.numpy``.
      svd: ``U, s, V'`` of a matrix.
    """
    # In units of the largest entry, or of the penalty's root if that is larger, no square of an
    # entry and no inverse of a square overflows.
    peak = xp.max(xp.abs(R))
    peak = xp.where((peak > 0) & (peak < xp.inf), peak, 1)
    unit = xp.maximum(peak, xp.sqrt(xp.maximum(xp.max(l2), 0)))
    is_free = l2 == 0
    R, l2 = R / unit, l2 / unit / unit
    A, lengths, is_below = R, xp.linalg.norm(R, axis=0), l2.size == 1
    if is_below:
        # A penalty on a short column is lost beside a long one, unless both have unit length.
        below = xp.sqrt(l2[0]) * xp.eye(R.shape[1], dtype=R.dtype)
        A, lengths = xp.concatenate([R, below]), xp.hypot(lengths, xp.sqrt(l2[0]))
        l2 = xp.zeros_like(l2)
    A, units = in_units(A, lengths, is_below | xp.all(is_free), levels[0], xp)
    _, sizes, right = svd(A)
    basis = right.T / units[:, None]
    # Along a direction that is not in B's range of rows the image has nothing but rounding.
    lengths = xp.linalg.norm(xp.matmul(R, basis) * (unit / peak), axis=0)
    is_null = lengths <= xp.where(xp.any(is_free), *levels) * xp.max(lengths)
    squares = xp.square(sizes)[:, None] + l2[None]
    is_without = is_null[:, None] & is_free[None] | (squares == 0)
    gain = xp.where(is_without, 0, 1 / xp.where(is_without, 1, squares))
    gain = xp.where(xp.min(l2) < 0, xp.nan, gain)
    basis = basis / unit
    image = xp.where(is_null[None], 0, basis)
    return PseudoInverse(basis, image, gain, xp.sum(~is_null, dtype=np.int32))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=HIGHEST)
