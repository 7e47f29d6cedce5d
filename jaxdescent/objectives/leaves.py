"""Sums over the leaves of the params, with the temporaries of one leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels.platform import on_cpu
from jaxdescent.numerics import precision

Scalars = tuple[jax.Array, ...]


def sum_over_leaves(
    function: Callable[[Any, Any], Scalars], terms: list[Any], leaves: list[jax.Array], always: Any
) -> Scalars:
    """``sum_k function(f_k, leaf_k)`` over objectives ``f_k`` of single leaves.

    ``always`` is a true value that XLA cannot know to be true: on a CPU a branch for each leaf
    keeps the leaves' temporaries apart. Elsewhere sums have none, and without branches devices add
    all leaves' sums at once.
    """
    zeros = tuple(
        jnp.zeros((), like.dtype) for like in jax.eval_shape(function, terms[0], leaves[0])
    )
    of_leaf = jax.jit(function)  # leaves of one shape share one trace

    def apart(always: Any, terms: list[Any], leaves: list[jax.Array]) -> list[Scalars]:
        return [
            lax.cond(always, of_leaf, lambda *_: zeros, term, leaf)
            for term, leaf in zip(terms, leaves, strict=True)
        ]

    def at_once(always: Any, terms: list[Any], leaves: list[jax.Array]) -> list[Scalars]:
        return [of_leaf(term, leaf) for term, leaf in zip(terms, leaves, strict=True)]

    sums = on_cpu(apart, at_once, always, terms, leaves)
    return tuple(precision.add(list(scalars)) for scalars in zip(*sums, strict=True))
