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
from jaxdescent.objectives import Objective
from jaxdescent.second_order.curvature import Curvature, random_direction

Params = Any

EXHAUSTED = 16
"""The process ends if the next vector's norm is at most this many eps times the largest
``|alpha|``: then the vector is only rounding."""


class State(NamedTuple):
    """The state of the process: its last two vectors and the coefficient between them."""

    previous: Params
    current: Params
    beta: jax.Array


@dataclasses.dataclass(eq=False)
class Process:
    """The Lanczos process on ``D H D`` for a positive diagonal D, which keeps the signs of H.

    Attributes:
      curvature: H.
      scale: D, with the structure of the params; None for the identity.
      diagonal, off_diagonal: the coefficients of T so far.
      is_exhausted: whether the process has found every eigenvalue whose eigenvector has a component
        in the start.
      state: the last state; None before the first step.
      at_once: the steps of the program that ran last.
    """

    curvature: Curvature
    scale: Params | None = None
    state: Any = None
    diagonal: list[float] = dataclasses.field(default_factory=list)
    off_diagonal: list[float] = dataclasses.field(default_factory=list)
    is_exhausted: bool = False
    at_once: int = 1

    @property
    def steps(self) -> int:
        """The number of products so far."""
        return len(self.diagonal)

    def advance(self, steps: int) -> None:
        """Make ``steps`` more steps, unless the space is exhausted."""
        if self.is_exhausted:
            return
        if self.state is None:
            self.state = self.curvature.run(first_state)
        largest = max(map(abs, self.diagonal), default=0.0)
        self.at_once = steps
        self.state, diagonal, off_diagonal, count = self._continued(self.state, largest)
        used = int(count)
        self.diagonal += np.asarray(diagonal, np.float64)[:used].tolist()
        self.off_diagonal += np.asarray(off_diagonal, np.float64)[:used].tolist()
        self.is_exhausted = used < steps

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
        return (
            0.0
            if self.is_exhausted
            else math.exp(least) * math.sqrt(2 * self.curvature.size / math.pi)
        )

    def lowest_direction(self) -> tuple[Params, float]:
        """A unit vector of the least curvature that was seen, and this curvature, recomputed."""
        _, weights = extreme_pair(self.diagonal, self.off_diagonal[:-1], 0)
        dtype = jnp.result_type(*jax.tree.leaves(self.curvature.params))
        rows = np.stack([self.diagonal, self.off_diagonal, weights]).astype(dtype)
        first = self.curvature.run(first_state)
        start, direction, length = self.curvature.run(combined, self.scale, first, rows)
        # The curvature is the first alpha of a process that begins there, by the compiled program.
        # It takes one step, because no next vector exceeds an infinite norm.
        along = self._continued(start, math.inf)[1][0]
        return direction, float(along) / float(length) ** 2

    def _continued(self, state: State, largest: float) -> Any:
        return self.curvature.run(continued, self.scale, state, largest, steps=self.at_once)


def first_state(objective: Objective, params: Params) -> State:
    """The state with a random unit vector as the first one."""
    del objective
    start = random_direction(params, 0)
    first = _normalised(start, precision.norm(start))
    zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params)))
    return State(jax.tree.map(jnp.zeros_like, first), first, zero)


def continued(
    objective: Objective,
    params: Params,
    scale: Params | None,
    state: State,
    largest: Any,
    *,
    steps: int,
) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """The state after at most ``steps`` more steps, their coefficients, and their number.

    The three-term recurrence is used without reorthogonalisation. Rounding then produces copies of
    extreme eigenvalues, but does not move the extremes.
    """
    dtype = state.beta.dtype
    zeros = jnp.zeros((steps,), dtype)

    def iterate(carry: Any) -> Any:
        state, diagonal, off_diagonal, largest, index, _ = carry
        image = _product(objective, params, scale, state.current)
        alpha = precision.inner(state.current, image)
        image = _recurrence(image, state, alpha)
        length = precision.norm(image)
        diagonal = diagonal.at[index].set(alpha.astype(dtype))
        off_diagonal = off_diagonal.at[index].set(length.astype(dtype))
        largest = jnp.maximum(largest, jnp.abs(alpha).astype(dtype))
        goes_on = length > EXHAUSTED * jnp.finfo(dtype).eps * largest
        state = State(state.current, _normalised(image, length), length.astype(dtype))
        return state, diagonal, off_diagonal, largest, index + 1, goes_on

    carry = (
        state,
        zeros,
        zeros,
        jnp.asarray(largest, dtype),
        jnp.zeros((), jnp.int32),
        jnp.array(True),
    )
    carry = lax.while_loop(lambda carry: carry[-1] & (carry[-2] < steps), iterate, carry)
    return carry[0], carry[1], carry[2], carry[4]


def combined(
    objective: Objective, params: Params, scale: Params | None, first: State, rows: jax.Array
) -> tuple[State, Params, jax.Array]:
    """For the unit vector v along ``sum_j w_j v_j``, where v_j are the vectors of the process: the
    first state of a process that begins with v, ``D v / |D v|``, and ``|D v|``.

    The process is run again to recompute its vectors. ``rows`` holds the coefficients of T and the
    weights w.
    """

    def iterate(carry: Any, row: jax.Array) -> Any:
        state, total = carry
        alpha, length, weight = row
        total = jax.tree.map(lambda t, v: t + weight.astype(v.dtype) * v, total, state.current)
        image = _recurrence(_product(objective, params, scale, state.current), state, alpha)
        return (State(state.current, _normalised(image, length), length), total), None

    zeros = jax.tree.map(jnp.zeros_like, first.current)
    (_, total), _ = lax.scan(iterate, (first, zeros), rows.T)
    start = _normalised(total, precision.norm(total))
    direction = _scaled(scale, start)
    length = precision.norm(direction)
    return State(zeros, start, jnp.zeros_like(first.beta)), _normalised(direction, length), length


def row_norms(objective: Objective, params: Params, *, probes: int) -> Params:
    """D as ``(sum_j H_ij^2)^(-1/4)``, which gives the rows of ``D H D`` similar size.

    For random signs z the mean of ``(H z)_i^2`` is the squared norm of row i. Any positive D keeps
    the signs of the eigenvalues, so a rough estimate suffices; for a row of zeros D is one.
    """

    def squares(index: jax.Array) -> Params:
        signs = jax.tree.map(jnp.sign, _direction(params, index))
        return jax.tree.map(jnp.square, objective.hessian_product(params, signs))

    zeros = jax.tree.map(jnp.zeros_like, params)
    total = lax.fori_loop(
        0, probes, lambda i, total: jax.tree.map(jnp.add, total, squares(i)), zeros
    )

    def inverse(total: jax.Array) -> jax.Array:
        is_known = (total > 0) & jnp.isfinite(total)
        return jnp.where(is_known, jnp.where(is_known, total / probes, 1) ** -0.25, 1)

    return jax.tree.map(inverse, total)


def defect(objective: Objective, params: Params, scale: Params | None) -> jax.Array:
    """``|S(a + b) - S a - S b| / (|S a| + |S b|)``, the relative rounding of products with S."""
    a, b = _direction(params, 101), _direction(params, 102)

    def image(weights: jax.Array) -> Params:
        def sum_of(x: jax.Array, y: jax.Array) -> jax.Array:
            of_x, of_y = weights.astype(x.dtype)
            return of_x * x + of_y * y

        return _product(objective, params, scale, jax.tree.map(sum_of, a, b))

    # A loop over the products, so that the program contains the function once.
    dtype = jnp.result_type(*jax.tree.leaves(params))
    images = lax.map(image, jnp.array([[1, 0], [0, 1], [1, 1]], dtype))
    first, second, both = (jax.tree.map(lambda of: of[i], images) for i in range(3))  # noqa: B023
    difference = jax.tree.map(lambda s, x, y: s - x - y, both, first, second)
    size = precision.norm(first) + precision.norm(second)
    return precision.norm(difference) / jnp.where(size > 0, size, 1)


def extreme_pair(
    diagonal: list[float], off_diagonal: list[float], index: int
) -> tuple[float, np.ndarray]:
    """An eigenvalue of a symmetric tridiagonal matrix, of this index, and a unit eigenvector."""
    # JAX requires SciPy, whose import takes a fifth of a second.
    from scipy.linalg import eigh_tridiagonal

    own = index % len(diagonal)
    values, vectors = eigh_tridiagonal(diagonal, off_diagonal, select="i", select_range=(own, own))
    return float(values[0]), vectors[:, 0]


def _direction(params: Params, index: Any) -> Params:
    return random_direction(params, 1000 + index)


def _product(
    objective: Objective, params: Params, scale: Params | None, direction: Params
) -> Params:
    image = objective.hessian_product(params, _scaled(scale, direction))
    return _scaled(scale, image)


def _scaled(scale: Params | None, direction: Params) -> Params:
    if scale is None:
        return direction
    return jax.tree.map(jnp.multiply, scale, direction)


def _recurrence(image: Params, state: State, alpha: jax.Array) -> Params:
    return jax.tree.map(
        lambda w, v, u: w - alpha.astype(w.dtype) * v - state.beta.astype(w.dtype) * u,
        image,
        state.current,
        state.previous,
    )


def _normalised(vector: Params, length: jax.Array) -> Params:
    inverse = jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)
    return jax.tree.map(lambda v: v * inverse.astype(v.dtype), vector)
