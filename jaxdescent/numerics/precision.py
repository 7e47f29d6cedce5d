"""Rounding and accumulation: the dtype of arithmetic, how params are stored, how sums are computed.

Params of 16 bits are stored in 16 bits and computed with in float32 (:func:`widen`); each pass
rounds them once, to nearest or stochastically (:func:`narrow`). Sums over many elements go through
:func:`total`, whose error does not grow with the number of elements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.display import Displayed
from jaxdescent.inputs.numbers import check_seed
from jaxdescent.kernels import sums
from jaxdescent.kernels.dtypes import compute_dtype
from jaxdescent.kernels.platform import is_on_one_cpu, kept_apart, on_cpu
from jaxdescent.numerics import randomness


def widen(tree: Any) -> Any:
    """Every leaf converted to its :func:`compute_dtype`."""
    return jax.tree.map(_widen_leaf, tree)


def _widen_leaf(leaf: jax.Array) -> jax.Array:
    if leaf.dtype != jnp.bfloat16:
        return leaf.astype(compute_dtype(leaf.dtype))
    # A bfloat16 is the upper half of a float32. The shift is written out because XLA's own
    # conversion takes a quarter of the whole pass on CPUs without bfloat16 instructions.
    upper = lax.bitcast_convert_type(leaf, jnp.uint16).astype(jnp.uint32)
    return lax.bitcast_convert_type(upper << 16, jnp.float32)


def is_rounded(tree: Any) -> bool:
    """Whether some leaf is stored in fewer bits than its arithmetic uses."""
    return any(compute_dtype(leaf.dtype) != leaf.dtype for leaf in jax.tree.leaves(tree))


class Rounding(Displayed):
    """The rule by which a float32 value is stored in 16 bits: :class:`Nearest` or
    :class:`StochasticRounding`.
    """

    def check(self) -> None:
        """Raise if a number that is not traced is not valid."""
        return


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Nearest(Rounding):
    """Round to the nearest stored value, ties to even.

    Small updates are lost: if ``|update| < ulp / 2``, the stored value does not change, so that a
    long descent in bfloat16 stalls early.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> start, step = jnp.ones(1, jnp.bfloat16), jd.GradientDescent(2**-11)
    >>> square = lambda x: jnp.sum(x**2)
    >>> result = jd.minimize(square, start, step, max_iterations=100, tolerance=0)
    >>> float(result.params[0])  # each step is 2^-10, a quarter of the distance to the next number
    1.0
    """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class StochasticRounding(Rounding):
    """Round up or down at random, so that the expected stored value is the computed one.

    ``round(x) = down(x) + ulp * [u < (x - down(x)) / ulp]`` with ``u`` uniform on 16 bits, a hash
    of the seed, the iteration, the leaf's number and the element's index. So no generator state is
    kept, the hash is fused into the update, and a seed gives the same result every time, whatever
    the sharding. The bias is below 2^-16 ulp for each rounding. It applies to bfloat16 (the upper
    half of a float32); other 16-bit floats are rounded to nearest.

    Args:
      seed: an integer from 0 to 2^32 - 1.

    Raises:
      TypeError: by ``minimize``, if ``seed`` is not an integer.
      ValueError: by ``minimize``, if it is out of this range.

    >>> import jax.numpy as jnp
    >>> x = jnp.full((100_000,), 1 + 2**-9)       # a quarter of the way from 1 to the next bfloat16
    >>> stored = narrow(x, jnp.zeros((100_000,), jnp.bfloat16), StochasticRounding(seed=0), 0)
    >>> bool(abs(stored.astype(jnp.float32).mean() - (1 + 2**-9)) < 1e-4)
    True

    Reference: Gupta et al. (2015), "Deep learning with limited numerical precision".
    """

    seed: Any = 0

    def check(self) -> None:
        check_seed("StochasticRounding.seed", self.seed)


def narrow(tree: Any, like: Any, rounding: Rounding, iteration: Any, first_leaf: Any = 0) -> Any:
    """Every leaf rounded to the dtype of the corresponding leaf of ``like``.

    ``iteration`` and the leaf's number, counted from ``first_leaf``, select the random bits.
    """
    leaves, treedef = jax.tree.flatten(tree)
    targets = treedef.flatten_up_to(like)
    return treedef.unflatten(
        [
            _narrow_leaf(leaf, target.dtype, rounding, iteration, first_leaf + index)
            for index, (leaf, target) in enumerate(zip(leaves, targets, strict=True))
        ]
    )


def _narrow_leaf(
    leaf: jax.Array, dtype: Any, rounding: Rounding, iteration: Any, index: Any
) -> jax.Array:
    if dtype != jnp.bfloat16 or leaf.dtype != jnp.float32:
        return leaf.astype(dtype)
    word = lax.bitcast_convert_type(leaf, jnp.uint32)
    # A number is added to the discarded half, and its carry rounds the kept half up: from half an
    # ulp on (ties to even), or with a probability equal to the discarded fraction.
    if isinstance(rounding, StochasticRounding):
        seed = randomness.fold(rounding.seed, iteration, index)
        carry = randomness.bits(leaf.shape, seed) >> 16
    else:
        carry = jnp.uint32(0x7FFF) + ((word >> 16) & 1)
    # The carry does not change infinity, whose lower bits are zero. A NaN's bits are unknown: its
    # upper half is kept, with the quiet bit set.
    kept = jnp.where(jnp.isnan(leaf), word | jnp.uint32(0x400000), word + carry) >> 16
    return lax.bitcast_convert_type(kept.astype(jnp.uint16), jnp.bfloat16)


def total(x: jax.Array) -> jax.Array:
    """The sum of all elements, with an error of a few ulps whatever their number.

    16-bit numbers are summed in float32.
    """
    return sums.total(x.astype(compute_dtype(x.dtype)))


def inner(a: Any, b: Any) -> jax.Array:
    """The inner product of two trees: sum over all leaves and elements of ``a * b``."""
    if _are_one(a):
        return total(_as_one(a) * _as_one(b))
    parts = jax.tree.leaves(jax.tree.map(lambda x, y: total(x * y), widen(a), widen(b)))
    return add(parts)


def squared_norm(tree: Any) -> jax.Array:
    """The squared Euclidean norm of a tree: the sum of squares over all leaves."""
    return inner(tree, tree)


def add(parts: list[jax.Array]) -> jax.Array:
    """The sum of a few scalars, in the widest of their dtypes."""
    if len(parts) == 1:
        return parts[0]
    dtype = jnp.result_type(*parts)
    return jnp.sum(jnp.stack([part.astype(dtype) for part in parts]))


FEW = 256
"""The most elements for which three sums, of scaled and unscaled squares, cost a CPU less than a
branch."""


MANY = 1 << 14
"""The most elements in the memory of one CPU that are copied into one array for these sums: each
leaf would be a kernel or two to compile."""


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm of a tree, correct also where its square underflows or overflows.

    >>> import jax.numpy as jnp
    >>> print(norm({"x": jnp.array([3e-30, 4e-30])}))
    5e-30
    """
    if _are_one(tree):
        return _norm_by_three(_as_one(tree))
    if sum(leaf.size for leaf in jax.tree.leaves(tree)) <= FEW:
        return _norm_by_three(tree)
    # An accelerator's compiler would store the tree for a branch; three sums take one pass.
    return on_cpu(lambda tree: root(squared_norm(tree), lambda: tree), _norm_by_three, tree)


def _are_one(tree: Any) -> bool:
    """Whether several leaves are better copied into one array."""
    leaves = jax.tree.leaves(tree)
    return is_on_one_cpu() and len(leaves) > 1 and sum(leaf.size for leaf in leaves) <= MANY


def _as_one(tree: Any) -> jax.Array:
    """The elements of several leaves in one array."""
    leaves = jax.tree.leaves(widen(tree))
    dtype = jnp.result_type(*leaves)
    return jnp.concatenate([leaf.astype(dtype).ravel() for leaf in leaves])


def _norm_by_three(tree: Any) -> jax.Array:
    wide = jax.tree.leaves(widen(tree))
    dtype = jnp.result_type(*wide)
    limits = jnp.finfo(dtype)
    factor = 2.0 ** (25 * limits.maxexp // 32)  # scaled by it, squares at either end are in range

    def scaled(leaf: jax.Array) -> Sequence[jax.Array]:
        shares = [leaf.astype(dtype) * f for f in (1.0, factor, 1 / factor)]
        if leaf.size == 1:
            # For one number, XLA in jaxlib 0.10 turns (x f)^2 into x^2 f^2: zero times infinity.
            return [jnp.square(share).reshape(()) for share in kept_apart(shares)]
        return sums.at_once([jnp.square(share) for share in shares], range(leaf.ndim))

    plain, raised, lowered = (add(list(parts)) for parts in zip(*map(scaled, wide), strict=True))
    is_ordinary, is_low = _is_ordinary(plain), plain < 1
    squared = jnp.where(is_ordinary, plain, jnp.where(is_low, raised, lowered))
    return jnp.sqrt(squared) * jnp.where(is_ordinary, 1, jnp.where(is_low, 1 / factor, factor))


def root(squared: jax.Array, tree: Callable[[], Any]) -> jax.Array:
    """The norm of ``tree()``, whose squared norm is known: the square's root if that is accurate.

    If the square is zero, infinite or so small that terms underflowed, the tree is divided by its
    largest element first. That is another pass over the tree, in a branch.
    """

    def scaled() -> jax.Array:
        wide = widen(tree())
        peaks = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(wide)]
        peak = jnp.max(jnp.stack([leaf.astype(squared.dtype) for leaf in peaks]))
        divisor = jnp.where((peak > 0) & (peak < jnp.inf), peak, 1)
        shares = jax.tree.map(lambda leaf: leaf / divisor.astype(leaf.dtype), wide)
        return jnp.where(peak < jnp.inf, divisor * jnp.sqrt(squared_norm(shares)), peak)

    return lax.cond(_is_ordinary(squared), lambda: jnp.sqrt(squared), scaled)


def _is_ordinary(squared: jax.Array) -> jax.Array:
    limits = jnp.finfo(squared.dtype)
    return (squared > limits.tiny / limits.eps) & (squared < jnp.inf)


def epsilon(tree: Any) -> float:
    """The unit roundoff that limits a descent on ``tree``: the largest of its leaves' dtypes."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(tree))
