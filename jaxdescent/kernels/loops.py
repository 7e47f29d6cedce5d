"""Loops that keep all cores busy, or that keep their data in the cache.

XLA for CPUs compiles a loop body without library calls, sorts or collectives into one kernel, which
one thread runs, if it takes the loop for small: in jaxlib 0.12 up to half a gigabyte in an
iteration. A sort of two numbers in the body prevents this: the loop then calls kernels that share
their work among all cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr, jaxpr_as_fun

from jaxdescent.kernels.platform import compiled_for, is_on_one_cpu, on_cpu

FEW_BYTES = 1 << 16
"""The most bytes of inputs that one core reads about as fast as several cores."""

LIBRARIES = frozenset(
    """
    cholesky conv_general_dilated eigh fft geqrf householder_product lu qr sort svd
    triangular_solve
    """.split()  # noqa: SIM905
)
"""Primitives other than products for which XLA for CPUs calls a library."""

LARGE_BYTES = 1 << 20
"""An iteration that touches at least this many bytes is run on all cores."""


def while_loop(
    goes_on: Callable[[Any], Any], body: Callable[[Any], Any], carry: Any, *, turn_bytes: int
) -> Any:
    """``lax.while_loop(goes_on, body, carry)``, on all cores if an iteration is large:
    ``turn_bytes`` are about the bytes that it touches.
    """
    if turn_bytes < LARGE_BYTES:
        return lax.while_loop(goes_on, body, carry)
    return lax.while_loop(
        lambda loop: (loop[0][0] >= 0) & goes_on(loop[1]),
        lambda loop: (_following(loop[0]), body(loop[1])),
        (_counter(), carry),
    )[1]


def are_few(arrays: Any) -> bool:
    """Whether inputs of a program for one CPU are so small that one core reads them about as
    fast as several.
    """
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in map(jax.typeof, jax.tree.leaves(arrays)))
    return is_on_one_cpu() and compiled_for.value.is_small and size <= FEW_BYTES


def calls_libraries(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether XLA for CPUs compiles the function to more than one kernel even in a loop, because
    it multiplies matrices or has another operation for which XLA calls a library.
    """
    return has_libraries(jax.make_jaxpr(function)(*arguments).jaxpr)


def has_libraries(jaxpr: Jaxpr) -> bool:
    """Whether XLA for CPUs calls a library in a program, as in :func:`calls_libraries`."""
    return any(_is_by_library(equation) for equation in equations(jaxpr))


def _is_by_library(equation: Any) -> bool:
    if equation.primitive.name == "dot_general":
        (out,) = equation.outvars
        return sum(length > 1 for length in out.aval.shape) > 1
    return equation.primitive.name in LIBRARIES


def equations(jaxpr: Any) -> Iterator[Any]:
    """The operations of a program, and of the programs inside them."""
    for equation in jaxpr.eqns:
        yield equation
        for program in programs_in(equation):
            yield from equations(program)


def programs_in(equation: Any) -> Iterator[Any]:
    """The programs that an operation runs, such as the body of a loop."""
    for parameter in equation.params.values():
        for inner in parameter if isinstance(parameter, tuple) else (parameter,):
            program = getattr(inner, "jaxpr", inner)  # a ClosedJaxpr holds a Jaxpr
            if isinstance(program, Jaxpr):
                yield program


def one_turn(function: Callable[[], Any]) -> Any:
    """``function()``, in programs for CPUs as a loop of one iteration.

    XLA for CPUs compiles such a loop as one kernel, instead of several kernels that take some
    milliseconds each. It is meant for many operations on little data, few of which need a library:
    one thread runs them. The function may close over arrays. A function that has effects, returns
    random keys, or computes nothing is called without the loop.
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)()
    leaves, treedef = jax.tree.flatten(shapes)
    once = jaxpr_as_fun(traced)
    has_keys = any(jnp.issubdtype(leaf.dtype, jax.dtypes.extended) for leaf in leaves)
    computes = any(equation.primitive.name != "broadcast_in_dim" for equation in traced.jaxpr.eqns)
    if has_keys or traced.effects or not computes:
        return treedef.unflatten(once())

    def looped() -> list[jax.Array]:
        start = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in leaves]
        # Without the barrier XLA would know that there is one iteration, and remove the loop.
        is_due = lax.optimization_barrier(jnp.array(True))
        turn = (is_due, start)
        return lax.while_loop(lambda turn: turn[0], lambda _: (jnp.array(False), once()), turn)[1]

    return treedef.unflatten(on_cpu(looped, once))


def one_turn_if_few(function: Callable[[], Any], inputs: Any) -> Any:
    """``function()``: :func:`one_turn` of it if its inputs are few."""
    return one_turn(function) if are_few(inputs) else function()


def fori_loop(
    count: Any, body: Callable[[jax.Array, Any], Any], carry: Any, *, turn_bytes: int
) -> Any:
    """``lax.fori_loop(0, count, body, carry)``, on all cores if an iteration is large."""
    if turn_bytes < LARGE_BYTES:
        return lax.fori_loop(0, count, body, carry)

    def turn(loop: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        counter, carry = loop
        return _following(counter), body(counter[0], carry)

    return lax.while_loop(lambda loop: loop[0][0] < count, turn, (_counter(), carry))[1]


def scan(
    length: int, body: Callable[[Any, jax.Array], tuple[Any, Any]], carry: Any, *, turn_bytes: int
) -> tuple[Any, Any]:
    """``lax.scan(body, carry, jnp.arange(length))``, on all cores if an iteration is large."""
    if turn_bytes < LARGE_BYTES:
        return lax.scan(body, carry, jnp.arange(length, dtype=jnp.int32))

    def turn(loop: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], Any]:
        counter, carry = loop
        carry, kept = body(carry, counter[0])
        return (_following(counter), carry), kept

    (_, carry), kept = lax.scan(turn, (_counter(), carry), length=length)
    return carry, kept


def by_blocks(function: Callable[..., Any], operands: tuple[Any, ...], size: int) -> Any:
    """``function(*operands)``, computed for one block of the leading axis after another.

    If ``function`` treats each entry of that axis independently and passes over the entries more
    than once, a block stays in the cache from one pass to the next. If the size of a block does not
    divide the axis, the last block overlaps the one before.
    """
    (length,) = {leaf.shape[0] for leaf in jax.tree.leaves(operands)}
    if length <= size:
        return function(*operands)

    def block_at(start: Any) -> Any:
        block = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size), operands)
        return function(*block)

    def visit(index: jax.Array, results: Any) -> Any:
        start = jnp.minimum(index * size, length - size)
        return jax.tree.map(
            # XLA refuses to write into an array without elements.
            lambda whole, new: (
                lax.dynamic_update_slice_in_dim(whole, new, start, 0) if new.size else whole
            ),
            results,
            block_at(start),
        )

    results = jax.tree.map(
        lambda like: jnp.zeros((length, *like.shape[1:]), like.dtype),
        jax.eval_shape(block_at, jnp.int32(0)),
    )
    return lax.fori_loop(0, -(-length // size), visit, results)


def _counter() -> jax.Array:
    return jnp.zeros((2,), jnp.int32)


def _following(counter: jax.Array) -> jax.Array:
    """``counter + 1``: two equal numbers, which are sorted on a CPU; XLA does not know they are
    equal and keeps the sort.
    """
    return on_cpu(lax.sort, lambda pair: pair, counter + 1)
