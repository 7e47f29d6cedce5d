"""Limited-memory BFGS: quasi-Newton steps from the last few moves and changes of the gradient."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxdescent.inputs.numbers import check_count
from jaxdescent.methods.lbfgs.inverse_by_entries import InverseByEntries
from jaxdescent.methods.lbfgs.inverse_by_pairs import InverseByPairs
from jaxdescent.methods.line_searching import LineSearching, Searching
from jaxdescent.methods.protocol import Estimate, Params, StepReport
from jaxdescent.numerics.ritz import caution
from jaxdescent.objectives import Objective


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LBFGS(LineSearching):
    """Limited-memory BFGS, with a line search that does not stall in float32.

    ``x <- x - t H g``, where H is the inverse Hessian that the last ``memory`` moves ``s`` and
    gradient changes ``y`` imply (:mod:`jaxdescent.methods.lbfgs.inverse_by_pairs` has the formula).
    For up to ``2 memory`` unknowns, H itself is no larger than the pairs and is kept instead: it
    forgets no move (BFGS, :mod:`jaxdescent.methods.lbfgs.inverse_by_entries`). The first trial is
    ``t = 1``, which is nearly always taken: an iteration takes one value and gradient. The length
    of the first step, along the gradient, is the params' own size or ``2 |f| / |g|``, whichever is
    less. On quadratics the step is exact, which takes one more product with the Hessian. A pair
    without positive curvature, ``s.y <= eps |s| |y|``, is not used. If the search fails, the pairs
    are dropped and the next step goes along the gradient. The descent ends ``STAGNATED`` if that
    fails too, or if neither the value nor the gradient has decreased beyond rounding for 30 steps.
    A regression's intercept is eliminated, as in ``jd.ConjugateGradient``: the distance of the
    features from zero does not matter.

    It keeps ``2 memory + 1`` parameter-sized vectors besides the params, and a step needs about six
    more: the newest pair, the direction, the trial and its gradient.

    Args:
      memory: the number of pairs, at least 1.

    Raises:
      TypeError: if ``memory`` is not an integer.
      ValueError: if it is less than 1.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> def rosenbrock(x):
    ...     return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
    >>> result = jd.minimize(rosenbrock, jnp.zeros(100), jd.LBFGS())
    >>> result.message.split(":")[0], bool(jnp.allclose(result.params, 1, atol=1e-2))
    ('CONVERGED', True)

    Reference: Liu and Nocedal (1989), "On the limited memory BFGS method for large scale
    optimization"; Byrd, Nocedal and Schnabel (1994), "Representations of quasi-Newton matrices and
    their use in limited memory methods".
    """

    memory: int = dataclasses.field(default=10, metadata={"static": True})

    def directions(self, gradient: Params, length: jax.Array) -> InverseByPairs | InverseByEntries:
        if sum(leaf.size for leaf in jax.tree.leaves(gradient)) <= 2 * self.memory:
            return InverseByEntries.start(gradient, length)
        return InverseByPairs.start(gradient, length, self.memory)

    @property
    def vectors(self) -> int:
        """Parameter-sized vectors at the peak, besides the params."""
        return 2 * self.memory + 7

    def estimates(self, objective: Objective) -> bool:
        return True

    def report(self, own: Searching) -> StepReport:
        # Along a direction that no step has taken so far, H has the curvature of the last step. So
        # the caution is that of a Krylov space: a direction may hardly show in the gradient.
        left, curvature = own.directions.decrement, own.directions.curvature
        forgets = own.krylov is None and own.directions.forgets
        estimate = Estimate(left, curvature, caution=caution(left.dtype), forgets=forgets)
        if own.krylov is not None:
            # Unlike the pairs, the smallest Ritz value is never forgotten.
            height = own.krylov.ritz.height(own.norm, own.norm).astype(left.dtype)
            left = jnp.where(height < jnp.inf, jnp.maximum(left, height), left)
            estimate = estimate._replace(suboptimality=left, rounding=curvature)
        return StepReport(own.value, own.norm, estimate=estimate)

    def check(self) -> None:
        check_count("LBFGS.memory", self.memory)
