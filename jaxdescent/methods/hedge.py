"""Two methods in one: a cheap attempt first, and a reliable method if the attempt fails."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdescent.inputs.numbers import check_count, check_number
from jaxdescent.kernels.branches import seldom
from jaxdescent.methods.attempt import Attempt
from jaxdescent.methods.optax_method import as_method
from jaxdescent.methods.protocol import Estimate, LookingAhead, Method, Params, State, StepReport
from jaxdescent.objectives import Objective
from jaxdescent.result import EndedBy
from jaxdescent.status import RUNNING, Evidence, Status

FIRST, SECOND = 0, 1
"""The places of the methods in a hedge, and of their states in its own."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Hedge(LookingAhead):
    """Try ``first`` for at most ``budget`` iterations, then continue with ``then`` from there.

    The number of iterations of a Krylov method depends on the spectrum, which is unknown; the cost
    of a factorisation follows from the shapes. This is the ski rental problem: a skier who rents
    until the rent adds up to the price of skis, and then buys skis, pays at most twice the cost of
    the best choice in hindsight. With a budget of

        ``cost of all of then / cost of one iteration of first``

    the same bound holds here for any spectrum. ``minimize`` without a method and ``jd.plan``
    compute the budget from shapes and rates.

    The attempt ends sooner if ``first`` gives up (STAGNATED, DIVERGED), if a measurement does not
    confirm a minimum that its recurrences found, or if it progresses so slowly that the budget will
    not suffice. With g the gradient, m the smallest Ritz value, c the square root of the ratio of
    the largest curvature to m, f the value and t the tolerance, the iterations still needed are

        ``log(|g| / min(t |g_0|, sqrt(2 m t f))) / max(log((c + 1) / (c - 1)), observed rate)``

    where the excess of f over its minimum is multiplied by the method's own caution, and the
    observed rate is that at which ``log |g|`` fell over the last half of the iterations. This
    prediction counts after half of the budget, and only if three consecutive ones exceed three
    times the rest of the budget: predictions are wrong as long as a cluster of large curvatures
    hides the small ones.

    ``then.init``, which may factorise, runs only at the switch, in a branch: a descent that ends
    before does not pay for it. Under ``jax.vmap`` the members that have switched take their steps
    one after another. The states of both methods are kept; the second is zeros before the switch.

    ``Result.method`` tells which of the two ended the descent.

    Args:
      first: a method that knows its progress without a step: ``jd.LSMR()``,
        ``jd.ConjugateGradient()``, ``jd.LBFGS()``, ...
      then: another such method, or ``jd.DerivativeMethod()``.
      budget: the most iterations of ``first``, at least 1.
      tolerance: the relative tolerance t of ``minimize`` that predictions are made for; None stands
        for ``eps**(2/3)``.

    Raises:
      TypeError: if ``first`` or ``then`` is not a method that knows its progress without a step, or
        ``budget`` is not an integer.
      ValueError: if ``budget`` is below 1, or ``tolerance`` is negative.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jnp.linspace(-1.0, 1.0, 400)[:, None] ** jnp.arange(1.0, 6.0)[None, :]
    >>> regression = jd.LinearRegression(X, X @ jnp.arange(5.0) + 1)
    >>> result = jd.minimize(regression, method=jd.Hedge(jd.LSMR(), jd.DerivativeMethod(), 3))
    >>> print(bool(result.converged), int(result.iterations), result.method)
    True 4 DerivativeMethod()

    References: Karlin, Manasse, Rudolph and Sleator (1988), "Competitive snoopy caching"; Hestenes
    and Stiefel (1952), "Methods of conjugate gradients for solving linear systems".
    """

    first: Any
    then: Any
    budget: int = dataclasses.field(metadata={"static": True})
    tolerance: Any = dataclasses.field(default=None, kw_only=True)

    stage: ClassVar[int | None] = None
    """The index of the one method that this part of the hedge compiles; None for both."""

    @property
    def methods(self) -> tuple[Any, Any]:
        """Both methods, in their order."""
        return self.first, self.then

    def init(self, objective: Objective, params: Params) -> State:
        first = self.first.init(objective, params)
        shapes = jax.eval_shape(self.then.init, objective, params)
        second = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        progress = self.first.progress(objective, params, first)
        norm_dtype = jnp.result_type(*jax.tree.leaves(params))
        value_dtype = jnp.asarray(progress.value).dtype
        progress = _as_arrays(progress, value_dtype, norm_dtype)
        attempt = Attempt.start(progress)
        return _State(first, second, progress, attempt, jnp.array(False))

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        if self.stage == FIRST:
            return _step(self, objective, params, state, which=FIRST)
        switches = ~state.is_second & state.attempt.is_over
        second = seldom(
            switches,
            lambda _, hedge, *at: hedge.then.init(*at),
            lambda second, *_: second,
            *(state.second, self, objective, params),
        )
        state = state._replace(second=second, is_second=state.is_second | switches)
        return self._by_stage(_step, state, self, objective, params, state)

    def progress(self, objective: Objective, params: Params, state: State) -> StepReport:
        progress = state.progress
        # Where the first method gives up, the second continues.
        is_final = state.is_second | (progress.verdict == Status.CONVERGED.value)
        verdict = jnp.where(is_final, progress.verdict, RUNNING)
        return progress._replace(verdict=verdict, is_provisional=~state.is_second)

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        return self._by_stage(_rounded, state, self, objective, params, state)

    def check(self) -> None:
        for name, method in zip(("first", "then"), self.methods, strict=True):
            if not as_method(method).looks_ahead:
                raise TypeError(
                    f"Hedge.{name} must be a method that knows its progress without a step, got "
                    f"{method!r}: take jd.LSMR(), jd.ConjugateGradient(), jd.LBFGS() or "
                    "jd.DerivativeMethod()."
                )
            method.check()
        check_count("Hedge.budget", self.budget)
        check_number(
            "Hedge.tolerance", self.tolerance, "at least 0", lambda t: t >= 0, may_be_none=True
        )

    def hoisted(self) -> Method:
        return dataclasses.replace(self, first=self.first.hoisted(), then=self.then.hoisted())

    def estimates(self, objective: Objective) -> bool:
        return self.first.estimates(objective) and self.then.estimates(objective)

    def overlooks(self, state: State) -> Any:
        first, second = self.first.overlooks(state.first), self.then.overlooks(state.second)
        return True if first is True and second is True else self._of_stage(state, first, second)

    def calls_libraries(self, objective: Objective, params: Params, state: State) -> bool:
        states = state.first, state.second
        each = zip(self.methods, states, strict=True)
        return any(method.calls_libraries(objective, params, own) for method, own in each)

    def is_estimate(self, state: State) -> Any:
        first, second = self.first.is_estimate(state.first), self.then.is_estimate(state.second)
        is_none = first is False and second is False
        return False if is_none else self._of_stage(state, first, second)

    def measured(
        self, objective: Objective, params: Params, state: State, always: Any
    ) -> StepReport:
        operands = self, objective, params, state, jnp.asarray(always)
        return StepReport(*self._by_stage(_measured, state, *operands))

    def disproved(self, state: State) -> tuple[State, jax.Array] | None:
        over = state.attempt._replace(is_over=jnp.ones_like(state.attempt.is_over))
        return state._replace(attempt=over), ~state.is_second

    def first_stage(self) -> Method:
        # A subclass may have steps of its own.
        return _staged(_Attempt, self) if type(self) is Hedge else self

    def _of_stage(self, state: _State, first: Any, second: Any) -> Any:
        """What is known of the method of this stage; of both, of the one that is active."""
        if self.stage is not None:
            return (first, second)[self.stage]
        return jnp.where(state.is_second, second, first)

    def _by_stage(self, function: Callable[..., Any], state: _State, *operands: Any) -> Any:
        """The function for the method of this stage; of both, for the one that is active."""
        if self.stage is not None:
            return function(*operands, which=self.stage)
        each = (functools.partial(function, which=which) for which in (SECOND, FIRST))
        return seldom(state.is_second, *each, *operands)

    def ended_by(self, state: State) -> EndedBy:
        first, then = self.first.ended_by(state.first), self.then.ended_by(state.second)
        one, other = (0 if ended.code is None else ended.code for ended in (first, then))
        code = self._of_stage(state, one, len(first.names) + other)
        return EndedBy(first.names + then.names, jnp.asarray(code, jnp.int32))

    @property
    def patience(self) -> int:
        return self.then.patience


class _State(NamedTuple):
    first: State
    second: State
    progress: StepReport  # the progress at the params, by the method that is active
    attempt: Attempt
    is_second: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Attempt(Hedge):
    """The part of a hedge that the host compiles first."""

    stage: ClassVar[int | None] = FIRST

    def next_stage(self, state: State) -> tuple[Method, jax.Array] | None:
        return _staged(_Continuation, self), state.attempt.is_over


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Continuation(Hedge):
    """The part of a hedge that the host compiles where the attempt is over."""

    stage: ClassVar[int | None] = SECOND
    disproved = Method.disproved  # no other method is left

    def solves_at_once(self, objective: Objective) -> bool:
        return self.then.solves_at_once(objective)


def _staged(kind: type[Hedge], hedge: Hedge) -> Hedge:
    return kind(hedge.first, hedge.then, hedge.budget, tolerance=hedge.tolerance)


def _step(
    hedge: Hedge, objective: Objective, params: Params, state: _State, *, which: int
) -> tuple[Params, _State]:
    params, own = hedge.methods[which].blind_step(objective, params, state[which])
    state = _with(hedge, objective, params, state, own, which=which)
    if which == FIRST:
        attempt = state.attempt.after(state.progress, hedge.budget, hedge.tolerance)
        state = state._replace(attempt=attempt)
    return params, state


def _rounded(
    hedge: Hedge, objective: Objective, params: Params, state: _State, *, which: int
) -> _State:
    own = hedge.methods[which].after_rounding(objective, params, state[which])
    return _with(hedge, objective, params, state, own, which=which)


def _with(
    hedge: Hedge, objective: Objective, params: Params, state: _State, own: State, *, which: int
) -> _State:
    """The state with a new one of either method, and its progress."""
    progress = hedge.methods[which].progress(objective, params, own)
    like = state.progress
    progress = _as_arrays(progress, like.value.dtype, like.gradient_norm.dtype)
    return state._replace(**{_State._fields[which]: own, "progress": progress})


def _measured(
    hedge: Hedge,
    objective: Objective,
    params: Params,
    state: _State,
    always: jax.Array,
    *,
    which: int,
) -> tuple[jax.Array, jax.Array]:
    truth = hedge.methods[which].measured(objective, params, state[which], always)
    value = jnp.asarray(truth.value, state.progress.value.dtype)
    return value, jnp.asarray(truth.gradient_norm, state.progress.gradient_norm.dtype)


def _as_arrays(progress: StepReport, value: Any, norm: Any) -> StepReport:
    """The progress of either method, with arrays of these dtypes."""
    estimate = progress.estimate
    if estimate is None:
        estimate = Estimate(jnp.full((), jnp.inf), jnp.zeros((), norm), Evidence.NONE.value)
    given = progress._replace(estimate=estimate)
    code, flag = jnp.int32, jnp.bool_
    of_estimate = Estimate(value, norm, code, value, norm, norm, norm, flag)
    dtypes = StepReport(value, norm, code, code, of_estimate, norm, flag)
    return jax.tree.map(jnp.asarray, given, dtypes)
