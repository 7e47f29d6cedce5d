"""Conjugate gradients for objectives that are not quadratic."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.methods.line_search import FoundStep
from jaxdescent.methods.line_searching import Line, LineSearching, Searching
from jaxdescent.methods.protocol import Params, StepReport
from jaxdescent.numerics import precision


class ConjugateDirection(NamedTuple):
    """The last direction, and what the next one needs of it."""

    direction: Params
    slope: jax.Array  # along the direction, at the start of its search
    step: jax.Array  # the step that the search found; zero asks for a restart
    length: jax.Array
    beta: jax.Array
    curvature: jax.Array  # along the direction, from the change of the slope

    def line(self, gradient: Params, norm: jax.Array) -> Line:
        """The search along ``-g + beta d``, or along ``-g`` if that does not descend."""
        # Vectors are in units of |g|, because the square of |g| may overflow.
        unit = jnp.where(norm > 0, norm, 1)
        share = self.beta / unit
        direction = jax.tree.map(
            lambda g, d: share.astype(g.dtype) * d - g / unit.astype(g.dtype),
            gradient,
            self.direction,
        )
        slope = precision.inner(gradient, direction)
        is_restart = ~((self.step > 0) & (slope < 0))
        direction = jax.tree.map(
            lambda d, g: jnp.where(is_restart, -g / unit.astype(g.dtype), d), direction, gradient
        )
        slope = jnp.where(is_restart, -norm, slope)
        repeated = self.step * self.slope / jnp.where(slope < 0, slope, -1)
        first_step = jnp.where(is_restart, self.length, repeated)
        return Line(direction, slope, first_step, is_restart)

    def after(
        self, line: Line, found: FoundStep, gradient: Params, norms: tuple[jax.Array, jax.Array]
    ) -> ConjugateDirection:
        """The state after a search along the line."""
        direction, slope, *_ = line
        new, step = found.point.gradient, found.step
        unit = jnp.where(norms[0] > 0, norms[0], 1)
        change = jax.tree.map(lambda a, b: (a - b) / unit.astype(a.dtype), new, gradient)
        squared = precision.squared_norm(direction)
        new_slope = precision.inner(new, direction) / unit
        along_change, squared_change = precision.inner(change, new), precision.squared_norm(change)
        curvature = new_slope - slope / unit
        is_curved = curvature > 0
        safe = jnp.where(is_curved, curvature, 1)
        beta = (along_change / unit - 2 * squared_change / safe * new_slope) / safe
        least = 0.4 * new_slope / jnp.where(squared > 0, squared, 1)
        beta = unit * jnp.where(is_curved, jnp.maximum(beta, least), 0)
        bend = jnp.maximum(unit * new_slope - slope, 0) / jnp.where(squared > 0, squared, 1)
        length = jnp.where(found.is_accepted, step * jnp.sqrt(squared), self.length)
        curvature = jnp.where(step > 0, bend / jnp.where(step > 0, step, 1), 0)
        return ConjugateDirection(direction, slope, step, length, beta, curvature)

    def at(self, gradient: Params, norm: jax.Array) -> ConjugateDirection:
        """The same direction, at params with another gradient."""
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NonlinearConjugateGradient(LineSearching):
    """Conjugate gradients whose directions descend whatever the line search finds.

    ``d <- -g + beta d`` and ``x <- x + t d``. With ``y`` the gradient's change over the last step,
    after Hager and Zhang,

        ``beta = (y - 2 d |y|^2 / d.y) . g / d.y``, but at least ``0.4 (d.g) / |d|^2``.

    The search asks for a slope of at most a tenth of the first, which takes one to two values and
    gradients in an iteration; its first trial is the step that would repeat the last first-order
    decrease. If the search fails, or ``d`` does not descend, the next direction is ``-g``. The
    descent ends ``STAGNATED`` if that fails too, or if neither the value nor the gradient has
    decreased beyond rounding for 30 steps.

    The method keeps two parameter-sized vectors besides the params, the gradient and the direction,
    and a step needs three more: the new direction, the trial and its gradient.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> result = jd.minimize(lambda x: jnp.sum(jnp.cosh(x)), jnp.array([2.0, -1.0]),
    ...                      NonlinearConjugateGradient())
    >>> result.message.split(":")[0]
    'CONVERGED'

    Reference: Hager and Zhang (2005), "A new conjugate gradient method with guaranteed descent and
    an efficient line search"; (2006), "Algorithm 851: CG_DESCENT"; (2013), "The limited memory
    conjugate gradient method", for the lower bound.
    """

    flatness: ClassVar[float] = 0.1  # directions are conjugate only if searches are accurate

    def directions(self, gradient: Params, length: jax.Array) -> ConjugateDirection:
        zero = jnp.zeros_like(length)
        zeros = jax.tree.map(jnp.zeros_like, gradient)
        return ConjugateDirection(zeros, zero, zero, length, zero, zero)

    def report(self, own: Searching) -> StepReport:
        return StepReport(own.value, own.norm, curvature=own.directions.curvature)
