"""Any optax transformation as a method."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdescent.display import Displayed, argument, name_of
from jaxdescent.inputs.functions import as_pytree
from jaxdescent.kernels.loops import equations
from jaxdescent.methods.protocol import Method, Params, State, StepReport, progress_at
from jaxdescent.methods.step_rules import Momentum
from jaxdescent.methods.step_rules.transformation import StepRule
from jaxdescent.objectives import Objective

ELEMENTWISE = frozenset(
    """
    abs add add_any and atan2 cbrt ceil clamp convert_element_type copy copy_p cos div eq erf
    erf_inv exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul
    ne neg nextafter not or pow real reduce_precision rem round rsqrt select_n sign sin sqrt square
    stop_gradient sub tan tanh xor
    """.split()  # noqa: SIM905
)
"""JAX's operations whose results at an element follow from the operands at that element."""

CALLS = frozenset(
    ("closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "jit", "pjit", "remat2")
)
"""Operations that run programs, whose own operations are judged each by itself."""

SIDE = 3
"""The length of each axis of the params for which a transformation is traced."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OptaxMethod(Method):
    """An ``optax.GradientTransformation``, given the value, the gradient and the value function.

    The transformation is part of the program and is compared by identity: make it once and pass the
    same object again, or each call compiles anew. ``optax.inject_hyperparams`` makes its
    hyper-parameters part of the state.
    """

    transformation: optax.GradientTransformation

    def __post_init__(self) -> None:
        kind = type(self.transformation)
        if kind in (optax.GradientTransformation, optax.GradientTransformationExtraArgs):
            held = kind(*map(as_pytree, self.transformation))
            object.__setattr__(self, "transformation", held)

    def _arguments(self) -> list[str]:
        if isinstance(self.transformation, Displayed):
            return [argument(self.transformation)]
        # Only the names of the functions inside a transformation tell its name, such as ``adam``.
        return [name_of(self.transformation.update).split(".")[0]]

    def init(self, objective: Objective, params: Params) -> State:
        # Some of optax's states are weakly typed; a loop needs the dtypes that update returns.
        return jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), self.transformation.init(params)
        )

    def step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State, StepReport]:
        value, gradient = objective.value_and_gradient(params)
        update = optax.with_extra_args_support(self.transformation).update
        updates, state = update(
            gradient, state, params, value=value, grad=gradient, value_fn=objective.value
        )
        return optax.apply_updates(params, updates), state, progress_at(value, gradient)

    def acts_by_element(self, params: Params = None) -> bool:
        ranks = {leaf.ndim for leaf in jax.tree.leaves(params)}
        return all(is_elementwise(self.transformation, rank) for rank in ranks)

    @property
    def patience(self) -> int:
        # A transformation may hold its updates back for many steps (MultiSteps, a warm-up).
        return 1000


def is_elementwise(transformation: optax.GradientTransformation, rank: int = 1) -> bool:
    """Whether the update of an element depends on that element and on shared scalars alone.

    The update is traced for small params with ``rank`` axes: every operation on arrays must be
    elementwise, and the function's value must not be used. Sums (a global norm), random numbers and
    line searches are not elementwise.

    >>> is_elementwise(optax.adam(1e-3))
    True
    >>> is_elementwise(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-3)))
    False
    """
    params = jnp.zeros((SIDE,) * rank)
    update = optax.with_extra_args_support(transformation).update

    def updated(value: Any, gradient: Any, state: Any, params: Any) -> Any:
        def value_fn(params: Any, **_: Any) -> Any:
            return value * jnp.sum(params)  # a sum, and a use of the value, also in a gradient

        return update(gradient, state, params, value=value, grad=gradient, value_fn=value_fn)

    # Only the kinds of operations matter here, not the caller's strict promotion of dtypes.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        begun = jax.make_jaxpr(transformation.init)(params).jaxpr
        given = jnp.zeros(()), params, transformation.init(params), params
        traced = jax.make_jaxpr(updated)(*given).jaxpr
    value = traced.invars[0]
    is_used = any(value is one for equation in traced.eqns for one in equation.invars)
    return not is_used and all(
        _is_allowed(equation) for traced in (traced, begun) for equation in equations(traced)
    )


def _is_allowed(equation: Any) -> bool:
    operands = [jnp.shape(variable.aval) for variable in equation.invars]
    if not any(operands) and not any(variable.aval.shape for variable in equation.outvars):
        return True  # scalars alone
    name = equation.primitive.name
    if name == "broadcast_in_dim":
        return operands[0] in ((), equation.outvars[0].aval.shape)
    if name == "cond":
        return not operands[0]
    return name in CALLS or name in ELEMENTWISE


def as_method(method: Any) -> Method:
    """A method unchanged, or an optax transformation wrapped as a method.

    Raises:
      TypeError: if it is neither, such as a number, a class, or a schedule.
    """
    if isinstance(method, Method):
        return method
    is_own = isinstance(method, (StepRule, Momentum))
    if isinstance(method, optax.GradientTransformation) and not is_own:
        return OptaxMethod(method)
    hint = ""
    if isinstance(method, (int, float)):
        hint = f" For a constant learning rate write jd.GradientDescent({method})."
    elif isinstance(method, StepRule):
        hint = f" It is a rule for the learning rate: write jd.GradientDescent(jd.{method!r})."
    elif isinstance(method, Momentum):
        hint = f" It goes with a learning rate: write jd.GradientDescent(momentum=jd.{method!r})."
    elif isinstance(method, str):
        hint = " Pass the method itself, not its name: for example jd.LBFGS() or optax.adam(1e-3)."
    elif isinstance(method, optax.MultiSteps):
        hint = " Pass what its gradient_transformation() returns."
    elif isinstance(method, type) or callable(method):
        hint = (
            " Call it first: pass jd.GradientDescent(1e-2) or optax.adam(1e-3), not the class or "
            "function; a schedule goes into jd.GradientDescent(schedule)."
        )
    raise TypeError(
        "method must be a jaxdescent method, an optax.GradientTransformation or None, got "
        f"{method!r}.{hint}"
    )
