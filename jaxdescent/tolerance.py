"""The conditions on the point where a descent stops: gap, gradient, or a predicate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdescent.display import Displayed
from jaxdescent.inputs.functions import as_pytree, hinting, hoist
from jaxdescent.inputs.numbers import check_number
from jaxdescent.numerics import precision

Params = Any


class Check(NamedTuple):
    """The argument of a predicate in :class:`Tolerance`: the params, and numbers at this point."""

    params: Params
    value: jax.Array
    gradient_norm: jax.Array
    iteration: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Tolerance(Displayed):
    """When to stop; the first rule that holds ends the descent.

    =====================  ======================================================  =========
    rule                   holds where                                             status
    =====================  ======================================================  =========
    ``gradient``           ``|g| <= gradient * gradient scale``                    CONVERGED,
    ``suboptimality``      ``f - f* <= suboptimality * value scale`` (the gap)     both hold
    ``absolute_gradient``  ``|g| <= absolute_gradient``                            CONVERGED
    ``predicate``          ``predicate(check)`` is true                            STOPPED
    =====================  ======================================================  =========

    :mod:`jaxdescent.descent.stopping` derives the scales. No rule but ``absolute_gradient`` depends
    on the units of the objective or the params. Where no tolerance is given, a gap that is small
    enough stands for a small gradient. Without a tolerance for the suboptimality no gap is
    computed, and ``Result.suboptimality`` is what the structure bounds.

    Args:
      gradient: the tolerance for the gradient; 0 turns the rule off. None turns the rule off if
        ``suboptimality`` or ``absolute_gradient`` is given, and else stands for ``eps**(2/3)`` by
        dtype.
      suboptimality: the tolerance for the suboptimality; 0 turns the rule off. None turns it off if
        ``gradient`` or ``absolute_gradient`` is given, and else stands for ``eps**(2/3)``.
      absolute_gradient: the largest Euclidean norm of the gradient, in its own units, at which the
        descent ends. SciPy calls this ``gtol``, by default for the largest element instead of the
        norm, and JAXopt ``tol``. It is compared with :attr:`Result.gradient_norm`, which leaves out
        the rounding of an intercept that a method eliminates. None turns the rule off.
      predicate: a function from a :class:`Check` (params, value, gradient_norm, iteration) to a
        scalar bool. It is compared by identity, so that a new one compiles.

    Raises:
      TypeError: by ``minimize``, if a tolerance is not a number, or ``predicate`` not a function
        to a scalar bool.
      ValueError: by ``minimize``, if a tolerance is negative or not finite.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> stop = jd.Tolerance(predicate=lambda check: check.value < 1.0)
    >>> result = jd.minimize(lambda x: jnp.sum(x**2), jnp.array([3.0, 4.0]),
    ...                      jd.GradientDescent(0.1), tolerance=stop)
    >>> print(result.message.split(":")[0], int(result.iterations))
    STOPPED 8
    """

    gradient: Any = None
    suboptimality: Any = dataclasses.field(default=None, kw_only=True)
    absolute_gradient: Any = dataclasses.field(default=None, kw_only=True)
    predicate: Callable[[Check], Any] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.predicate is not None:
            object.__setattr__(self, "predicate", as_pytree(self.predicate))

    def resolved(self, params: Params) -> ResolvedTolerance:
        """This tolerance with numbers in place of None for gradient and suboptimality."""
        gradient, suboptimality = self.gradient, self.suboptimality
        named = gradient, suboptimality, self.absolute_gradient
        is_default = all(number is None for number in named)
        if is_default:
            gradient = suboptimality = default_tolerance(params)
        gradient = 0.0 if gradient is None else gradient
        suboptimality = 0.0 if suboptimality is None else suboptimality
        off = Ignored(_is_zero(gradient), _is_zero(suboptimality))
        is_known = all(isinstance(is_off, bool) for is_off in off)
        own: dict[str, Any] = vars(self) | {"gradient": gradient, "suboptimality": suboptimality}
        return ResolvedTolerance(**own, ignored=off if is_known else None, is_default=is_default)

    def check(self) -> None:
        """Raise if a number is not valid."""
        for name in ("gradient", "suboptimality", "absolute_gradient"):
            _check(f"Tolerance.{name}", getattr(self, name))
        if self.predicate is not None and not callable(self.predicate):
            raise TypeError(
                "Tolerance.predicate must be a function of a check (params, value, "
                f"gradient_norm, iteration) to a bool, got {self.predicate!r}."
            )


class Ignored(NamedTuple):
    """Whether the rules for gradient and suboptimality are off."""

    gradient: jax.Array | bool
    suboptimality: jax.Array | bool

    @property
    def both(self) -> jax.Array | bool:
        """Whether neither rule can end the descent."""
        if isinstance(self.gradient, bool) and isinstance(self.suboptimality, bool):
            return self.gradient and self.suboptimality
        return jnp.logical_and(self.gradient, self.suboptimality)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ResolvedTolerance(Tolerance):
    """A :class:`Tolerance` with its numbers for certain params, and the tests by these numbers.

    A method with an argument ``xp`` computes with this module, ``jax.numpy`` or ``numpy``.

    ``gradient`` and ``suboptimality`` are 0 if their rules are off.

    Args:
      ignored: which of these two rules are off, if known: then a program has no kernel for a rule
        that is off.
      is_default: whether these two are the default.
    """

    ignored: Ignored | None = dataclasses.field(kw_only=True, metadata={"static": True})
    is_default: bool = dataclasses.field(kw_only=True, metadata={"static": True})

    def __repr__(self) -> str:
        """The call that makes a tolerance with these numbers."""
        names = [field.name for field in dataclasses.fields(Tolerance)]
        return repr(Tolerance(**{name: getattr(self, name) for name in names}))

    def hoisted(self, params: Params, value_dtype: Any) -> ResolvedTolerance:
        """This tolerance with the arrays that its predicate closes over as leaves."""
        if self.predicate is None:
            return self
        norm_dtype = jnp.result_type(*jax.tree.leaves(precision.widen(params)))
        value, norm = jnp.zeros((), value_dtype), jnp.zeros((), norm_dtype)
        example = Check(params, value, norm, jnp.zeros((), jnp.int32))
        return dataclasses.replace(self, predicate=hoist(self.predicate, example))

    @property
    def off(self) -> Ignored:
        """Which of the rules for gradient and suboptimality are off."""
        return self.ignored or Ignored(_is_zero(self.gradient), _is_zero(self.suboptimality))

    @property
    def is_endless(self) -> jax.Array | bool:
        """Whether every iteration is asked for: no rule but a predicate can end the descent."""
        return self.off.both if self.absolute_gradient is None else False

    def allowed(self, value: Any, floor: Any, xp: Any = jnp) -> Any:
        """``suboptimality * max(|value|, floor)``: how far the value may be above the minimum."""
        return xp.asarray(self.suboptimality, value.dtype) * xp.maximum(xp.abs(value), floor)

    def allows(self, suboptimality: Any, value: Any, floor: Any, xp: Any = jnp) -> Any:
        """Whether the suboptimality is small, or its rule is off."""
        if self.off.suboptimality is True:
            return True
        return (suboptimality <= self.allowed(value, floor, xp)) | self.off.suboptimality

    def is_small_gradient(self, norm: Any, scale: Any, xp: Any = jnp) -> Any:
        """Whether the gradient's norm is small, or the rule is off."""
        if self.off.gradient is True:
            return True
        return (norm <= xp.asarray(self.gradient, scale.dtype) * scale) | self.off.gradient

    def is_level(self, norm: Any, scale: Any, is_near: Any, xp: Any = jnp) -> Any:
        """Whether the gradient is small, or a gap that is small enough stands for that: where the
        caller named no tolerance for the gradient.
        """
        is_small = self.is_small_gradient(norm, scale, xp)
        return is_small | is_near if self.is_default else is_small

    def is_below_bound(self, norm: jax.Array) -> jax.Array | bool:
        """Whether the gradient's norm is at most the absolute bound, if there is one."""
        if self.absolute_gradient is None:
            return False
        return norm <= jnp.asarray(self.absolute_gradient, norm.dtype)

    def asks_to_stop(self, check: Check) -> jax.Array | bool:
        """Whether the predicate holds."""
        if self.predicate is None:
            return False
        with hinting("Tolerance.predicate"):
            answer = self.predicate(check)
        if jnp.shape(answer) != () or jnp.result_type(answer) != jnp.bool_:
            raise TypeError(
                "Tolerance.predicate must return a scalar bool, got "
                f"{jnp.result_type(answer)} of shape {jnp.shape(answer)}: compare scalars, for "
                "example check.value < 1e-3."
            )
        return jnp.asarray(answer)


def as_tolerance(tolerance: Any) -> Tolerance:
    """A ``Tolerance`` for gradient and suboptimality from a number, or None for the default."""
    if isinstance(tolerance, Tolerance):
        return tolerance
    _check("tolerance", tolerance)
    return Tolerance(gradient=tolerance, suboptimality=tolerance)


def default_tolerance(params: Params) -> float:
    """``eps**(2/3)`` for the coarsest dtype among the params.

    >>> import jax.numpy as jnp
    >>> round(default_tolerance(jnp.zeros(3)), 7)
    2.42e-05
    """
    return precision.epsilon(params) ** (2 / 3)


def _check(name: str, number: Any) -> None:
    check_number(
        name,
        number,
        "at least 0 and finite",
        lambda t: 0 <= t < float("inf"),
        may_be_none=True,
        hint="0 runs every iteration, None takes the dtype's default",
    )


def _is_zero(tolerance: Any) -> jax.Array | bool:
    if isinstance(tolerance, Tracer):
        return jnp.asarray(tolerance) == 0
    return not bool(np.any(tolerance))
