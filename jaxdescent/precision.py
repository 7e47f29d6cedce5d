"""Rounding and accumulation: what dtype arithmetic runs in, how params are stored, how sums add up.

Params of 16 bits are stored as they are and computed with in float32 (:func:`widen`); they are
rounded back once per pass, to nearest or stochastically (:func:`narrow`). Sums over many elements
go through :func:`total`, whose error does not grow with the number of elements.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent import randomness

HIGHEST = lax.Precision.HIGHEST
"""Matrix products that decide convergence: float32 stays float32 on GPUs (TF32) and TPUs (bf16)."""


def compute_dtype(dtype: Any) -> jnp.dtype:
    """The dtype that arithmetic on ``dtype`` runs in: float32 for 16-bit floats, else itself."""
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def widen(tree: Any) -> Any:
    """Every leaf in its :func:`compute_dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(compute_dtype(leaf.dtype)), tree)


class Rounding:
    """How a value computed in float32 is stored in 16 bits: :class:`Nearest` or
    :class:`StochasticRounding`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Nearest(Rounding):
    """Round to the nearest stored value, ties to even.

    Small updates are lost: where ``|update| < ulp / 2`` nothing changes, so a long descent in
    bfloat16 is biased towards where it stands.
    """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class StochasticRounding(Rounding):
    """Round up or down at random, so that the expected stored value is the computed one.

    ``round(x) = down(x) + ulp * [u < (x - down(x)) / ulp]`` with ``u`` uniform on 16 bits, a
    hash of the seed, the iteration, the leaf and the element's index: no generator state is
    kept, the hash is fused into the update, and one seed gives the same result every time,
    whatever the sharding. The bias is below 2^-16 ulp a rounding. It applies to bfloat16 (the
    upper half of a float32); other 16-bit floats are rounded to nearest.

    >>> import jax.numpy as jnp
    >>> x = jnp.full((100_000,), 1 + 2**-9)       # a quarter of the way from 1 to the next bfloat16
    >>> stored = narrow(x, jnp.zeros((100_000,), jnp.bfloat16), StochasticRounding(seed=0), 0)
    >>> bool(abs(stored.astype(jnp.float32).mean() - (1 + 2**-9)) < 1e-4)
    True

    Reference: Gupta et al. (2015), "Deep learning with limited numerical precision".
    """

    seed: Any = 0


def narrow(tree: Any, like: Any, rounding: Rounding, iteration: Any) -> Any:
    """Every leaf rounded to the dtype of the same leaf of ``like``."""
    leaves, treedef = jax.tree.flatten(tree)
    targets = treedef.flatten_up_to(like)
    return treedef.unflatten(
        [
            _narrow_leaf(leaf, target.dtype, rounding, iteration, index)
            for index, (leaf, target) in enumerate(zip(leaves, targets, strict=True))
        ]
    )


def _narrow_leaf(
    leaf: jax.Array, dtype: Any, rounding: Rounding, iteration: Any, index: int
) -> jax.Array:
    if not isinstance(rounding, StochasticRounding) or dtype != jnp.bfloat16:
        return leaf.astype(dtype)
    seed = randomness.fold(rounding.seed, iteration, index)
    noise = randomness.bits(leaf.shape, seed) >> 16
    bits = lax.bitcast_convert_type(leaf, jnp.uint32)
    # Adding noise below the kept half and cutting carries upwards with the right probability;
    # infinities and NaN, whose exponent is all ones, must not be touched.
    rounded = jnp.where(jnp.isfinite(leaf), bits + noise, bits)
    kept = rounded & jnp.uint32(0xFFFF0000)
    return lax.bitcast_convert_type(kept, jnp.float32).astype(jnp.bfloat16)


def total(x: jax.Array) -> jax.Array:
    """The sum of all elements."""
    return jnp.sum(x.astype(compute_dtype(x.dtype)))


def inner(a: Any, b: Any) -> jax.Array:
    """The inner product of two trees: sum over all leaves and elements of ``a * b``."""
    parts = jax.tree.leaves(jax.tree.map(lambda x, y: total(x * y), widen(a), widen(b)))
    return add(parts)


def squared_norm(tree: Any) -> jax.Array:
    """The squared Euclidean norm of a tree: the sum of squares over all leaves."""
    return inner(tree, tree)


def add(parts: list[jax.Array]) -> jax.Array:
    dtype = jnp.result_type(*parts)
    return jnp.sum(jnp.stack([part.astype(dtype) for part in parts]))


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm of a tree."""
    return jnp.sqrt(squared_norm(tree))


def epsilon(tree: Any) -> float:
    """The unit roundoff that limits a descent on ``tree``: the coarsest of its leaves' dtypes."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(tree))
