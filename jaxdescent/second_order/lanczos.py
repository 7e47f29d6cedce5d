"""The Lanczos process with Hessian-vector products, and bounds that its coefficients prove.

With a random start v the process gives a tridiagonal matrix T. An eigenvalue of T, a Ritz value, is
the curvature along some direction: a negative one proves negative curvature. Let s be a number
below all Ritz values. With high probability H has no eigenvalue at or below s, as follows. The
residual of conjugate gradients on ``(H - s) x = v`` is ``p(H) v``, where the polynomial p is one at
s and has its zeros at the Ritz values, so that it is at least one everywhere below s. If u were a
unit eigenvector for an eigenvalue there, then ``|p(H) v| >= |u.v|``. For a start uniform on the
sphere in n dimensions ``P(|u.v| < r) <= r sqrt(2 n / pi)``, so a small residual r proves the claim
but for this probability. The residual is ``prod_i beta_i / d_i`` with the pivots d of ``T - s``; it
needs no second process. 1,000 steps prove a bound for which the a priori theory of Kuczynski and
Wozniakowski (1992) requires 11,000.

References: Lanczos (1950); Paige (1976), "Error analysis of the Lanczos algorithm"; Greenbaum
(1989), "Behavior of slightly perturbed Lanczos and conjugate-gradient recurrences".
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent.numerics import precision
from jaxdescent.numerics.linear_systems import add_scaled, inverse, scaled
from jaxdescent.objectives import Objective, Params
from jaxdescent.second_order.curvature import DRAWN_BY_HOST, Curvature, random_signs

EXHAUSTED = 16
"""The process ends if the next vector's norm is at most this many eps times the largest
``|alpha|``: then the vector is only rounding."""


STEPS = 64
"""The most steps that one run of the program makes."""


class State(NamedTuple):
    """The state of the process: its last two vectors, the coefficient between them, the largest
    ``|alpha|``, and a weighted sum of its vectors, or None. A coefficient of zero marks the start,
    which has no vectors before it.
    """

    previous: Params
    current: Params
    beta: Any
    largest: Any
    total: Params | None


@dataclasses.dataclass(eq=False)
class Process:
    """The Lanczos process on ``D H D`` for a positive diagonal D, which keeps the signs of H.

    One program makes at most ``STEPS`` steps, whatever the length of the process.
    """

    curvature: Curvature  # H
    scale: Params | None = None  # D, with the structure of the params; None for the identity
    state: Any = None  # the last state; None before the first step
    diagonal: list[float] = dataclasses.field(default_factory=list)  # the coefficients of T so far
    off_diagonal: list[float] = dataclasses.field(default_factory=list)
    # Whether every eigenvalue has been found whose eigenvector has a component in the start.
    is_exhausted: bool = False

    @property
    def steps(self) -> int:
        """The number of products so far."""
        return len(self.diagonal)

    def advance(self, steps: int) -> None:
        """Make ``steps`` more steps, unless the space is exhausted."""
        if self.state is None:
            self.state = self.begun(self.curvature.direction(0))
        target = self.steps + steps
        while not self.is_exhausted and self.steps < target:
            weights = np.zeros(min(target - self.steps, STEPS))
            self.state, diagonal, off_diagonal = self._continued(self.state, weights)
            self.diagonal += diagonal
            self.off_diagonal += off_diagonal
            self.is_exhausted = len(diagonal) < len(weights)

    def ends(self) -> tuple[float, float]:
        """The smallest and the largest Ritz value; NaN if a product was not finite."""
        if not np.all(np.isfinite(self.diagonal + self.off_diagonal)):
            return math.nan, math.nan
        smallest, largest = (
            extreme_pair(self.diagonal, self.off_diagonal[:-1], index)[0] for index in (0, -1)
        )
        return smallest, largest

    def failure(self, bound: float, sign: int = 1) -> float:
        """The probability that ``sign * H`` has an eigenvalue at or below ``bound`` after all."""
        log, least, pivot, before = 0.0, 0.0, math.inf, 0.0
        for alpha, beta in zip(self.diagonal, self.off_diagonal, strict=True):
            pivot = sign * alpha - bound - before * before / pivot
            if not pivot > 0:  # a Ritz value at or below the bound
                return 1.0
            log += (math.log(beta) if beta > 0 else -math.inf) - math.log(pivot)
            least, before = min(least, log), beta
        if self.is_exhausted:
            return 0.0
        return math.exp(least) * math.sqrt(2 * self.curvature.size / math.pi)

    def lowest_direction(self) -> tuple[Params, float]:
        """A unit vector of the least curvature that was seen, and this curvature, recomputed.

        The process is run again to recompute its vectors.
        """
        _, weights = extreme_pair(self.diagonal, self.off_diagonal[:-1], 0)
        state = self.begun(self.curvature.direction(0), is_summed=True)
        for first in range(0, len(weights), STEPS):
            state, *_ = self._continued(state, weights[first : first + STEPS])
        of = self.curvature
        start = of.as_column(state.total)
        start = start / np.linalg.norm(start)
        direction = start if self.scale is None else of.as_column(self.scale) * start
        length = float(np.linalg.norm(direction))
        # The curvature is the first alpha of a process that begins there.
        along = self._once(of.as_params(start))[1]
        return of.as_params(direction / length), along / length**2

    def defect(self) -> float:
        """``|S(a + b) - S a - S b| / (|S a| + |S b|)``, the relative rounding of products with
        ``S = D H D``.
        """
        direction, seeds, size = self.curvature.direction, (1101, 1102), 0.0
        both, length = self._combined(1.0, direction(seeds[0]), 1.0, direction(seeds[1]))
        both, _ = self._combined(1 / length, both, 0.0, both)
        rest, _ = self._image(both, length)
        del both  # there may be a billion unknowns
        difference = 0.0
        for seed in seeds:
            image, norm = self._image(direction(seed), 1.0)
            rest, difference = self._combined(1.0, rest, -1.0, image)
            size += norm
        return difference / (size if size > 0 else 1.0)

    def _image(self, unit: Params, factor: float) -> tuple[Params, float]:
        """The product of S with ``factor`` times a unit vector, and its length."""
        state, alpha, beta = self._once(unit)
        return self._combined(factor * alpha, unit, factor * beta, state.current)

    def _combined(self, a: float, x: Params, b: float, y: Params) -> tuple[Params, float]:
        """``a x + b y``, and its length."""
        total, length = self.curvature.run(_combined, (a, b), x, y)
        return total, float(length)

    def _once(self, start: Params) -> tuple[State, float, float]:
        """The first step of a process that begins with a vector, and its coefficients."""
        state, diagonal, off_diagonal = self._continued(self.begun(start), np.zeros(1))
        return state, diagonal[0], off_diagonal[0]

    def begun(self, start: Params, *, is_summed: bool = False) -> State:
        """The state of a process that begins with a unit vector. Short vectors are summed in any
        case, by the program that serves :meth:`lowest_direction`; long ones would take memory.
        """
        zero = np.zeros((), np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(start))))
        is_summed = is_summed or self.curvature.size <= DRAWN_BY_HOST
        return State(start, start, zero, zero, start if is_summed else None)

    def _continued(
        self, state: State, weights: np.ndarray
    ) -> tuple[State, list[float], list[float]]:
        filled = np.zeros(STEPS, state.beta.dtype)
        filled[: len(weights)] = weights
        inputs = self.scale, state, (len(weights), filled)
        state, *coefficients, count = self.curvature.run(continued, *inputs)
        diagonal, off_diagonal = (
            np.asarray(each, np.float64)[: int(count)].tolist() for each in coefficients
        )
        return state, diagonal, off_diagonal


def continued(
    objective: Objective, params: Params, scale: Params | None, state: State, steps: Any
) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """The state after more steps, their coefficients, and their number. ``steps`` are the most
    steps, and the weights of their vectors in the state's sum, (``STEPS``,).

    The three-term recurrence is used without reorthogonalisation. Rounding then produces copies of
    extreme eigenvalues, but does not move the extremes.
    """
    (most, weights), dtype = steps, state.beta.dtype
    zeros = jnp.zeros_like(weights)

    def times(tree: Params) -> Params:
        return tree if scale is None else jax.tree.map(jnp.multiply, scale, tree)

    def iterate(carry: Any) -> Any:
        state, diagonal, off_diagonal, index, _ = carry
        image = times(objective.hessian_product(params, times(state.current)))
        alpha = precision.inner(state.current, image)
        image = add_scaled(image, -alpha, state.current)
        image = add_scaled(image, -state.beta, state.previous)
        length = precision.norm(image)
        weight, is_begun = weights[index], state.beta > 0
        total = state.total
        if total is not None:
            total = jax.tree.map(
                lambda t, v: jnp.where(is_begun, t, 0) + weight.astype(v.dtype) * v,
                total,
                state.current,
            )
        diagonal = diagonal.at[index].set(alpha.astype(dtype))
        off_diagonal = off_diagonal.at[index].set(length.astype(dtype))
        largest = jnp.maximum(state.largest, jnp.abs(alpha).astype(dtype))
        goes_on = length > EXHAUSTED * jnp.finfo(dtype).eps * largest
        image, length = scaled(inverse(length), image), length.astype(dtype)
        state = State(state.current, image, length, largest, total)
        return state, diagonal, off_diagonal, index + 1, goes_on

    carry = state, zeros, zeros, jnp.zeros((), jnp.int32), jnp.array(True)
    return lax.while_loop(lambda carry: carry[-1] & (carry[-2] < most), iterate, carry)[:-1]


def row_norms(objective: Objective, params: Params, *, probes: int) -> Params:
    """D as ``(sum_j H_ij^2)^(-1/4)``, which gives the rows of ``D H D`` similar size.

    For random signs z the mean of ``(H z)_i^2`` is the squared norm of row i. Any positive D keeps
    the signs of the eigenvalues, so a rough estimate suffices; for a row of zeros D is one.
    """

    def squares(index: jax.Array) -> Params:
        signs = random_signs(params, 1000 + index)
        return jax.tree.map(jnp.square, objective.hessian_product(params, signs))

    zeros = jax.tree.map(jnp.zeros_like, params)
    total = lax.fori_loop(
        0, probes, lambda i, total: jax.tree.map(jnp.add, total, squares(i)), zeros
    )

    def inverse(total: jax.Array) -> jax.Array:
        is_known = (total > 0) & jnp.isfinite(total)
        return jnp.where(is_known, jnp.where(is_known, total / probes, 1) ** -0.25, 1)

    return jax.tree.map(inverse, total)


def _combined(
    objective: Objective, params: Params, factors: tuple[Any, Any], x: Params, y: Params
) -> tuple[Params, jax.Array]:
    a, b = map(jnp.asarray, factors)
    total = add_scaled(scaled(a, x), b, y)
    return total, precision.norm(total)


def extreme_pair(
    diagonal: list[float], off_diagonal: list[float], index: int
) -> tuple[float, np.ndarray]:
    """An eigenvalue of a symmetric tridiagonal matrix, of this index, and a unit eigenvector."""
    # JAX requires SciPy, whose import takes a fifth of a second.
    from scipy.linalg import eigh_tridiagonal

    own = index % len(diagonal)
    values, vectors = eigh_tridiagonal(diagonal, off_diagonal, select="i", select_range=(own, own))
    return float(values[0]), vectors[:, 0]
