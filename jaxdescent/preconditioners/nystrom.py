"""The randomised Nyström approximation of the Hessian's largest eigenvalues."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.inputs.numbers import check_count, check_seed
from jaxdescent.kernels import factors
from jaxdescent.kernels.dtypes import HIGHEST
from jaxdescent.numerics import randomness
from jaxdescent.preconditioners.hessians import ShiftedHessian
from jaxdescent.preconditioners.protocol import Factor, Preconditioner, SymmetricFactor


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Nystrom(Preconditioner):
    """Map the largest ``rank`` eigenvalues to one value: from ``H ~ U diag(lambda) U'``, known by
    products, ``N N' = (lambda_rank + l2) U diag(1 / (lambda + l2)) U' + I - U U'``.

    For a random orthonormal Z, (n, rank), the approximation of H is ``Y (Z'Y)^-1 Y'`` with
    ``Y = H Z``. It pays where the spectrum decays fast, to ``l2`` within ``rank`` eigenvalues: the
    condition number is a small constant then. Eigenvalues below ``eps`` times the largest are noise
    (for a regression: singular values below ``sqrt(eps)`` times the largest). Any design can be
    used. It costs two passes over X once, for all ``rank`` columns together, stores ``rank``
    vectors, and reads them twice in each application; all outputs and penalties share them.

    Args:
      rank: how many eigenvalues; at most the number of unknowns is used.
      seed: an integer; the same one gives the same approximation, whatever the sharding.

    Raises:
      TypeError: if rank is not an integer.
      ValueError: if rank is not positive.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> scales = jnp.concatenate([jnp.logspace(1, 5, 20), jnp.ones(40)])
    >>> objective = jd.Quadratic(jnp.diag(scales), linear=scales)
    >>> plain, preconditioned = (
    ...     jd.minimize(objective, method=jd.ConjugateGradient(preconditioner), tolerance=1e-6)
    ...     for preconditioner in (None, jd.Nystrom(24)))
    >>> int(plain.iterations) > 100 > 20 > int(preconditioned.iterations)
    True

    Reference: Frangella, Tropp and Udell (2023), "Randomized Nyström preconditioning".
    """

    rank: int = dataclasses.field(metadata={"static": True})
    seed: Any = 0

    def factorise(self, hessian: ShiftedHessian) -> Factor:
        rank = min(self.rank, hessian.size)
        eps = float(jnp.finfo(hessian.dtype).eps)
        draw = randomness.normal((hessian.size, rank), randomness.fold(self.seed), hessian.dtype)
        test = jnp.linalg.qr(draw)[0]
        image = hessian.product(test)
        # In units of the largest entry no square overflows, nor underflows where it counts.
        peak = jnp.max(jnp.abs(image))
        unit = jnp.where((peak > 0) & (peak < jnp.inf), peak, 1)
        image, penalty = image / unit, hessian.shift / unit
        # A shift of the size of the products' rounding keeps the core positive definite; it is
        # subtracted again.
        shift = eps * jnp.linalg.norm(image)
        image = image + shift * test
        core = jnp.matmul(test.T, image, precision=HIGHEST)
        eigenvalues, vectors = factors.eigh(0.5 * (core + core.T))
        largest = jnp.max(jnp.abs(eigenvalues))
        floor = jnp.maximum(eps * largest, jnp.finfo(hessian.dtype).tiny)
        root = vectors / jnp.sqrt(jnp.maximum(eigenvalues, floor))[None, :]
        basis, singular, _ = jnp.linalg.svd(
            jnp.matmul(image, root, precision=HIGHEST), full_matrices=False
        )
        values = jnp.maximum(jnp.square(singular) - shift, 0)
        # Where H has a lower rank, its null space must not dominate the rest, or rounding errors
        # accumulate there.
        is_missing = values[-1] + jnp.min(penalty) <= 32 * eps * values[0]
        values = jnp.maximum(values, jnp.where(is_missing, eps**0.5 * values[0], 0))
        shifted = values[:, None] + penalty
        last = shifted[-1:]
        is_positive = shifted > 0
        ratio = jnp.where(is_positive, last / jnp.where(is_positive, shifted, 1), 1)
        return _LowRank(basis, jnp.sqrt(ratio) - 1)

    def check(self) -> None:
        check_count("Nystrom.rank", self.rank)
        check_seed("Nystrom.seed", self.seed)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _LowRank(SymmetricFactor):
    """``I + U diag(change) U'``."""

    basis: jax.Array  # (size, rank)
    change: jax.Array  # (rank, 1), or (rank, outputs)

    def apply(self, columns: jax.Array) -> jax.Array:
        coefficients = self.change * jnp.matmul(self.basis.T, columns, precision=HIGHEST)
        return columns + jnp.matmul(self.basis, coefficients, precision=HIGHEST)
