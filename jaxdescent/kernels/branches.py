"""Branches that a batch executes only if one of its members needs them.

Under ``vmap`` a ``lax.cond`` with a batched predicate becomes a select, which computes both
branches for every member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from jaxdescent.kernels import loops


def seldom(
    is_needed: jax.Array,
    costly: Callable[..., Any],
    usual: Callable[..., Any],
    *operands: Any,
    at_once: int = 1,
) -> Any:
    """``lax.cond(is_needed, costly, usual, *operands)`` that stays a branch under ``vmap``.

    Under ``vmap``, ``usual`` runs for all members at once. If any member needs ``costly``, a loop
    over the members runs it for those that do; or over blocks of ``at_once`` members, for blocks in
    which any member does. The functions must not close over arrays.
    """
    given, treedef = jax.tree.flatten(operands)

    # Of leaves, because an objective that holds flags instead of arrays may have other leaves.
    @custom_vmap
    def choose(is_needed: jax.Array, leaves: list[jax.Array]) -> Any:
        return lax.cond(is_needed, costly, usual, *treedef.unflatten(leaves))

    @choose.def_vmap
    def choose_each(
        axis_size: int, in_batched: Any, is_needed: jax.Array, leaves: list[jax.Array]
    ) -> Any:
        flags = in_batched[1]
        axes = [0 if is_batched else None for is_batched in flags]
        of_leaves = jax.vmap(
            lambda leaves: usual(*treedef.unflatten(leaves)), in_axes=(axes,), axis_size=axis_size
        )
        results, needs = of_leaves(leaves), jnp.broadcast_to(is_needed, (axis_size,))

        def replace(needs: jax.Array, leaves: list[jax.Array], results: Any) -> Any:
            mapped = [leaf for leaf, flag in zip(leaves, flags, strict=True) if flag]

            def operands_of(own: list[jax.Array]) -> Any:
                rest, pairs = iter(own), zip(leaves, flags, strict=True)
                return treedef.unflatten([next(rest) if flag else leaf for leaf, flag in pairs])

            def of_member(slices: tuple[jax.Array, list[jax.Array], Any]) -> Any:
                needs, own, result = slices
                return lax.cond(needs, lambda: costly(*operands_of(own)), lambda: result)

            def of_block(slices: tuple[jax.Array, list[jax.Array], Any]) -> Any:
                # ``costly`` is batched, and not a branch that holds what was traced of it: it may
                # set another precision, which JAX would not know where it batches the branch.
                needs, own, usual = slices
                each = jax.vmap(lambda _, own: costly(*operands_of(own)))
                new = lax.cond(jnp.any(needs), lambda: each(needs, own), lambda: usual)
                return jax.vmap(where)(needs, new, usual)

            if at_once == 1:
                return lax.map(of_member, (needs, mapped, results))
            return loops.by_blocks(of_block, ((needs, mapped, results),), at_once)

        at = needs, leaves, results
        results = seldom(jnp.any(needs), replace, lambda *at: at[-1], *at)
        return results, jax.tree.map(lambda _: True, results)

    return choose(is_needed, given)


def where(condition: jax.Array, new: Any, old: Any) -> Any:
    """The leaves of one tree or those of another; those that both share stay unbatched under
    ``vmap``.
    """
    return jax.tree.map(lambda a, b: b if a is b else jnp.where(condition, a, b), new, old)


def unless_batched(is_needed: jax.Array) -> jax.Array:
    """True without ``vmap``, and ``is_needed`` under ``vmap``."""
    alone = custom_vmap(lambda is_needed: jnp.full_like(is_needed, True))
    alone.def_vmap(lambda axis_size, in_batched, is_needed: (is_needed, in_batched[0]))
    return alone(is_needed)


def of_any(flag: jax.Array) -> jax.Array:
    """The flag, and under ``vmap`` one flag for all members: whether it is true for any of them.

    A ``lax.cond`` by this flag stays a branch under ``vmap``: all members take it if any needs it,
    and arrays that they share are not copied for each. A batched one becomes a select of its
    operands and of these behind ``lax.stop_gradient``, which JAX cannot transpose: in the rule of a
    custom derivative, the gradient of a ``vmap`` would be an error.
    """
    alone = custom_vmap(lambda flag: flag)
    alone.def_vmap(lambda axis_size, in_batched, flag: (of_any(jnp.any(flag)), False))
    return alone(lax.stop_gradient(flag))
