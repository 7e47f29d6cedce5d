"""The Golub-Kahan process on a preconditioned regression, and LSMR's plane rotations.

Each output is a separate problem: its scalars are entries of (1, outputs) arrays, and its vectors
are columns.

Reference: Fong and Saunders (2011), "LSMR: an iterative algorithm for sparse least-squares
problems". The names are those of the paper.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.numerics.linear_systems import hypotenuse, inverse
from jaxdescent.numerics.ritz import SmallestRitz
from jaxdescent.preconditioners import CentredRegression, Factor


class Basis(NamedTuple):
    """The last vectors of the process; the last two are None without a preconditioner."""

    rows: jax.Array
    penalty: jax.Array  # rows and penalty together make u
    direction: jax.Array  # N v
    preconditioned: jax.Array | None  # v
    pulled: jax.Array | None  # N'^-1 v

    @property
    def v(self) -> jax.Array:
        """The right vector."""
        return self.direction if self.preconditioned is None else self.preconditioned

    @property
    def pulled_v(self) -> jax.Array:
        """``N'^-1 v``."""
        return self.direction if self.pulled is None else self.pulled


class Scalars(NamedTuple):
    """Arrays of (1, outputs), one number for each output, named as in the paper where possible."""

    alpha: jax.Array
    alpha_bar: jax.Array
    zeta: jax.Array
    zeta_bar: jax.Array
    rho: jax.Array
    rho_bar: jax.Array
    c_bar: jax.Array
    s_bar: jax.Array
    # The QR factorisation of the residual, section 5.1 of the paper.
    beta_double_dot: jax.Array
    beta_dot: jax.Array
    rho_dot: jax.Array
    tau_tilde: jax.Array
    theta_tilde: jax.Array
    # The norms of A N, of b, of r, of N'A'r and of the gradient A'r.
    squared_norm: jax.Array
    norm: jax.Array
    target: jax.Array
    residual: jax.Array
    normal: jax.Array
    gradient: jax.Array
    first: jax.Array  # |N'A'r| at the start of the process
    largest: jax.Array
    smallest: jax.Array
    condition: jax.Array
    theta: jax.Array  # the entry beside the next diagonal entry of the first QR
    ritz: SmallestRitz  # the smallest Ritz value of N'A'A N


def bidiagonalise(
    factor: Factor | None,
    rows: jax.Array,
    penalty: jax.Array,
    pulled: jax.Array,
    old: Basis | None = None,
) -> tuple[Basis, jax.Array, jax.Array]:
    """The next u and v, normalised, and their lengths beta and alpha, from the parts of the next u,
    which is not normalised, and ``A'`` times that u; ``old`` is None in the first step.
    """
    beta = (start_norms if old is None else column_norms)(rows, penalty)
    rows, penalty = rows * inverse(beta), penalty * inverse(beta)
    pulled = pulled * inverse(beta)
    direction = pulled if factor is None else factor.apply_transpose(pulled)
    if old is not None:
        direction = direction - beta * old.v
        pulled = pulled - beta * old.pulled_v
    alpha = column_norms(direction)
    direction = direction * inverse(alpha)
    if factor is None:
        return Basis(rows, penalty, direction, None, None), beta, alpha
    pulled = pulled * inverse(alpha)
    return Basis(rows, penalty, factor.apply(direction), direction, pulled), beta, alpha


def first_scalars(basis: Basis, beta: jax.Array, alpha: jax.Array, target: jax.Array) -> Scalars:
    """The scalars before any rotation, for a right-hand side of norm ``target``."""
    normal = alpha * beta
    ones = dict.fromkeys(("rho", "rho_bar", "c_bar", "rho_dot", "condition"), jnp.ones_like(beta))
    zeros = ("zeta", "s_bar", "beta_dot", "tau_tilde", "theta_tilde", "largest", "theta")
    return Scalars(
        **ones,
        **dict.fromkeys(zeros, jnp.zeros_like(beta)),
        **dict.fromkeys(("alpha", "alpha_bar", "norm"), alpha),
        **dict.fromkeys(("zeta_bar", "normal", "first"), normal),
        beta_double_dot=beta,
        squared_norm=jnp.square(alpha),
        target=target,
        residual=beta,
        gradient=normal * column_norms(basis.pulled_v),
        smallest=jnp.full_like(beta, jnp.inf),
        ritz=SmallestRitz.start(beta.shape, beta.dtype),
    )


def rotated(
    old: Scalars, beta: jax.Array, alpha: jax.Array
) -> tuple[Scalars, jax.Array, jax.Array, jax.Array]:
    """The scalars after both rotations, and the coefficients for updating h_bar, w and h."""
    rho = hypotenuse(old.alpha_bar, beta)
    c, s = old.alpha_bar * inverse(rho), beta * inverse(rho)
    theta = s * alpha
    theta_bar = old.s_bar * rho
    last_pivot = old.c_bar * rho
    rho_bar = hypotenuse(last_pivot, theta)
    c_bar, s_bar = last_pivot * inverse(rho_bar), theta * inverse(rho_bar)
    zeta, zeta_bar = c_bar * old.zeta_bar, -s_bar * old.zeta_bar

    beta_hat, beta_double_dot = c * old.beta_double_dot, -s * old.beta_double_dot
    rho_tilde = hypotenuse(old.rho_dot, theta_bar)
    c_tilde, s_tilde = old.rho_dot * inverse(rho_tilde), theta_bar * inverse(rho_tilde)
    rho_dot = c_tilde * rho_bar
    beta_dot = c_tilde * beta_hat - s_tilde * old.beta_dot
    tau_tilde = (old.zeta - old.theta_tilde * old.tau_tilde) * inverse(rho_tilde)
    theta_tilde = s_tilde * rho_bar
    tau_dot = (zeta - theta_tilde * tau_tilde) * inverse(rho_dot)

    norm = jnp.sqrt(old.squared_norm + jnp.square(beta))
    normal = jnp.abs(zeta_bar)
    least = jnp.minimum(old.smallest, jnp.abs(last_pivot))
    most = jnp.maximum(old.largest, jnp.abs(last_pivot))
    scalars = old._replace(
        alpha=alpha,
        alpha_bar=c * alpha,
        zeta=zeta,
        zeta_bar=zeta_bar,
        rho=rho,
        rho_bar=rho_bar,
        c_bar=c_bar,
        s_bar=s_bar,
        beta_double_dot=beta_double_dot,
        beta_dot=beta_dot,
        rho_dot=rho_dot,
        tau_tilde=tau_tilde,
        theta_tilde=theta_tilde,
        squared_norm=jnp.square(norm) + jnp.square(alpha),
        norm=jnp.maximum(norm, old.norm),
        residual=hypotenuse(beta_dot - tau_dot, beta_double_dot),
        normal=normal,
        gradient=normal,
        largest=jnp.maximum(old.largest, rho_bar),
        smallest=jnp.minimum(old.smallest, rho_bar),
        condition=jnp.where(most > 0, most / jnp.where(most > 0, least, 1), 1),
        theta=theta,
        ritz=old.ritz.after(rho, old.theta),
    )
    of_search = theta_bar * rho * inverse(old.rho * old.rho_bar)
    return scalars, of_search, zeta * inverse(rho * rho_bar), theta * inverse(rho)


def column_norms(*parts: jax.Array) -> jax.Array:
    """The Euclidean norm of each output over all arrays, (1, outputs)."""
    norms = [jnp.linalg.norm(part, axis=0, keepdims=True) for part in parts]
    return jnp.linalg.norm(jnp.concatenate(norms), axis=0, keepdims=True)


def start_norms(*parts: jax.Array) -> jax.Array:
    """As :func:`column_norms`, also where squares underflow: residuals that are small numbers at
    the start are no residuals of zero, which would end the descent there.
    """
    peaks = [jnp.max(jnp.abs(part), axis=0, keepdims=True, initial=0) for part in parts]
    unit = functools.reduce(jnp.maximum, peaks)
    return unit * column_norms(*(part * inverse(unit) for part in parts))


def rounding_of_means(
    regression: CentredRegression, factor: Factor | None, ulps: float
) -> jax.Array:
    """The rounding of ``N'A'u`` for a unit vector u where means are subtracted after products.

    It is ``ulps`` eps times ``sqrt(S) |N'x_bar|``, and all that A has of constant columns:
    directions that it alone makes would move their weights without bound.
    """
    if regression.means is None:
        return jnp.zeros((1, 1), regression.dtype)
    mean, is_far = regression.means.features
    if is_far is not None:  # from those that are far the means are subtracted before products
        widths = np.array([part.shape[1] for part in regression.design.side_by_side])
        flags = jnp.repeat(is_far.reshape(-1), widths, total_repeat_length=regression.size)
        mean = jnp.where(flags, 0, mean)
    pulled = mean[:, None] if factor is None else factor.apply_transpose(mean[:, None])
    eps = ulps * jnp.finfo(pulled.dtype).eps
    return eps * jnp.sqrt(regression.means.weight_total) * column_norms(pulled)
