"""Sums of many elements inside the pass that computes them."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.kernels.platform import on_one_cpu

CHAINS, TERMS, CHAIN_LENGTH, LANES = 2, 4, 8, 8
"""A run is summed in two chains of eight terms, each term a sum of four, in each of eight lanes. It
is short enough for XLA to unroll a chain and to add the lanes as one vector; the rounding error is
an ulp or two."""

RUN = TERMS * CHAINS * CHAIN_LENGTH * LANES
"""The number of elements in a run."""

LEAST_CHAINED = 1 << 18
"""The least number of elements, 1 MB of float32, that are summed in chains. A plain sum of fewer
stores them, and takes half the time and two kernels instead of thirteen, each of which takes 5 to
10 ms to compile."""


def total(x: jax.Array) -> jax.Array:
    """The sum of all elements in x's own dtype, with an error of a few ulps whatever their number.

    XLA sums pairwise, but on a CPU it first stores the elements that it sums, which may take as
    much memory as the params. On one CPU the sum is therefore :func:`in_chains`.
    """
    return jnp.sum(x) if x.size < LEAST_CHAINED else on_one_cpu(in_chains, jnp.sum, x)


def in_chains(x: jax.Array) -> jax.Array:
    """The sum of all elements, by runs of 512 elements inside the pass that computes them.

    Only the sums of the chains, one for 32 elements, are stored.

    >>> import jax.numpy as jnp
    >>> float(in_chains(jnp.full((1 << 22,), 0.1))) / (0.1 * 2**22) - 1 < 1e-6
    True
    """
    run = RUN
    # The rest of each row beyond whole runs is stored, so few long rows are better.
    while x.ndim > 1 and x.shape[-1] % run and x.shape[-2] * x.shape[-1] < 1 << 31:
        x = x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
    if x.ndim == 0 or x.shape[-1] < run:
        return jnp.sum(x)
    whole = x.shape[-1] - x.shape[-1] % run
    runs = lax.slice_in_dim(x, 0, whole, axis=-1)
    runs = runs.reshape(*x.shape[:-1], whole // run, TERMS * CHAINS, CHAIN_LENGTH, LANES)
    parts = [
        lax.index_in_dim(runs, part, axis=-3, keepdims=False) for part in range(TERMS * CHAINS)
    ]
    axis = parts[0].ndim - 2
    chains = at_once([_in_pairs(parts[chain::CHAINS]) for chain in range(CHAINS)], [axis])
    rest = jnp.sum(lax.slice_in_dim(x, whole, x.shape[-1], axis=-1))
    return jnp.sum(_in_pairs(at_once(chains, [axis]))) + rest


def at_once(terms: Sequence[jax.Array], axes: Sequence[int]) -> Sequence[jax.Array]:
    """The sum of each term along the axes, all in one reduction.

    XLA would pass the sum of a single array to a library and store its terms first; several
    separate sums would each recompute the operations that they share.
    """
    return lax.reduce(
        tuple(terms),
        tuple(jnp.zeros((), term.dtype) for term in terms),
        lambda a, b: tuple(map(operator.add, a, b)),
        axes,
    )


def _in_pairs(terms: Sequence[jax.Array]) -> jax.Array:
    """The elementwise sum of arrays, the number of which is a power of two."""
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [a + b for a, b in zip(terms[:half], terms[half:], strict=True)]
    return terms[0]
