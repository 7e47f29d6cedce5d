"""The result of a descent: the params, why it stopped, and what to do about it."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent import display
from jaxdescent.display import of_results
from jaxdescent.status import Status


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EndedBy:
    """The method that took the last step, among the methods that make up a descent's method.

    Attributes:
      names: the names of all these methods, which are part of the program like their structure.
      code: the index of the last one, int32; None if there is only one.
    """

    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    code: Any = None

    @property
    def is_known(self) -> bool:
        """Whether a descent has told its methods."""
        return self != _UNKNOWN


_UNKNOWN = EndedBy(("unknown",))


class History(NamedTuple):
    """The values at the last checks, oldest first; NaN if there were fewer checks than asked for.

    Attributes:
      value: the objective, (history,).
      gradient_norm: the norm of its gradient, (history,).
      suboptimality: the estimate of how far the value was above the minimum, (history,).

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> half = jd.GradientDescent(0.25)  # each step halves x
    >>> result = jd.minimize(lambda x: x**2, jnp.ones(()), half, history=3, max_iterations=4)
    >>> result.history.value * 4**4
    Array([16.,  4.,  1.], dtype=float32)
    """

    value: jax.Array
    gradient_norm: jax.Array
    suboptimality: jax.Array

    def __repr__(self) -> str:
        return f"History({display.guarded(lambda: of_results.checks(self), '...')})"


# A named tuple, which JAX flattens and builds in a tenth of the time of a dataclass.
class Result(NamedTuple):
    """The outcome of :func:`jaxdescent.minimize`; under ``vmap`` every array gains a batch axis.

    Attributes:
      params: the params where the descent ended, with the structure, dtypes and shardings of the
        start.
      value: the objective at exactly these params.
      gradient_norm: the Euclidean norm of the gradient at exactly these params. Methods that
        eliminate the intercept of a regression (conjugate gradients, LSMR, LBFGS, Gram) report both
        at the best intercept for the weights, from which the one in the params differs by rounding:
        targets far from zero show it.
      suboptimality: how far ``value`` is above the minimum nearby, estimated or bounded; infinity
        if nothing is known.
      scale: the scale that the tolerance compared the gradient's norm with.
      iterations: how many steps were taken, int32.
      evaluations: how many gradients (or values alone) were computed, int32; those of an optax
        transformation's own line search are not counted.
      status: a :class:`Status` code, int32; ``print(Status(result.status))`` shows its name.
      evidence: an :class:`Evidence` code, int32, the evidence for ``suboptimality``.
      state: the method's last state; ``()`` for a small regression that was solved at once.
      history: a :class:`History` of the last ``history`` checks; ``()`` if ``history`` is zero.
      ended_by: an :class:`EndedBy`, which encodes the method that took the last step; ``method``
        has its name.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> result = jd.minimize(lambda x: jnp.sum((x - 3.0) ** 2), jnp.zeros(2))
    >>> bool(jnp.allclose(result.params, 3.0)), bool(result.converged), result.method
    (True, True, 'LBFGS()')
    """

    params: Any
    value: jax.Array
    gradient_norm: jax.Array
    suboptimality: jax.Array
    scale: jax.Array
    iterations: jax.Array
    evaluations: jax.Array
    status: jax.Array
    evidence: jax.Array
    state: Any
    history: Any
    ended_by: EndedBy = _UNKNOWN

    @property
    def converged(self) -> jax.Array:
        """Whether the status is ``CONVERGED``, as a bool array of the batch's shape."""
        return jnp.asarray(self.status) == Status.CONVERGED.value

    @property
    def method(self) -> Any:
        """The name of the method that took the last step.

        For a batch with a ``jd.Hedge`` it is a NumPy array of names, because members may differ.

        Raises:
          ValueError: for a ``jd.Hedge`` inside ``jit`` or ``vmap``, where it is not known yet.
        """
        names, code = self.ended_by.names, self.ended_by.code
        if code is None:
            return names[0]
        if isinstance(code, Tracer):
            raise ValueError(
                "Result.method was read inside jit, vmap or grad, where it is not known yet which "
                "method ends the descent: return the result, then read it outside; inside, "
                "Result.ended_by.code is its place in Result.ended_by.names."
            )
        named = np.asarray(names)[np.asarray(code)]
        return str(named) if named.ndim == 0 else named

    @property
    def message(self) -> str:
        """The status and its advice, and for a ``jd.Hedge`` the method that took the last step.

        For a batch it says how many members ended with each status.

        Raises:
          ValueError: inside ``jit`` or ``vmap``, where the status is not known yet.
        """
        if isinstance(self.status, Tracer):
            raise ValueError(
                "Result.message was read inside jit, vmap or grad, where the status is not known "
                "yet: return the result, then read its message outside."
            )
        return of_results.message(self)

    def __repr__(self) -> str:
        return display.guarded(lambda: of_results.report(self).as_text(), "Result")

    def _repr_html_(self) -> str:
        return display.guarded(lambda: of_results.report(self).as_html(), "<p><b>Result</b></p>")
