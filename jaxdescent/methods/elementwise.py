"""Whether an optax transformation treats each element by itself, judged by its operations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdescent.kernels.loops import equations

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

    def no_value(_: Any) -> Any:
        raise _NeedsValueError

    def updated(value: Any, gradient: Any, state: Any, params: Any) -> Any:
        return update(gradient, state, params, value=value, grad=gradient, value_fn=no_value)

    # Only the kinds of operations matter here, not the caller's strict promotion of dtypes.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        try:
            begun = jax.make_jaxpr(transformation.init)(params)
            state = transformation.init(params)
            traced = jax.make_jaxpr(updated)(jnp.zeros(()), params, state, params)
        except _NeedsValueError:
            return False
    value = traced.jaxpr.invars[0]
    is_used = any(value is one for equation in traced.jaxpr.eqns for one in equation.invars)
    return not is_used and _is_elementwise(traced.jaxpr) and _is_elementwise(begun.jaxpr)


def _is_elementwise(jaxpr: Any) -> bool:
    return all(_is_allowed(equation) for equation in equations(jaxpr))


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


class _NeedsValueError(Exception):
    """The transformation needs the function's value, which is a sum over all elements."""
