"""Double-length arithmetic: a number as the unevaluated sum of two of the working precision.

Twice the digits: a relative error of a few ``eps^2`` an operation, in float32 as in float64. No
step depends on the rounding of a product: every product is one of halves, exact, so that it makes
no difference whether the compiler contracts ``a * b + c`` into one operation.

References: Dekker (1971), "A floating-point technique for extending the available precision";
Ogita, Rump and Oishi (2005), "Accurate sum and dot product".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Double(NamedTuple):
    """``high + low``, with ``|low|`` at most half an ulp of ``high``."""

    high: jax.Array
    low: jax.Array


def double(x: jax.Array) -> Double:
    """``x`` with a second half of zeros."""
    return Double(x, jnp.zeros_like(x))


def two_sum(a: jax.Array, b: jax.Array) -> Double:
    """``a + b`` exactly (Knuth)."""
    high = a + b
    shadow = high - a
    return Double(high, (a - (high - shadow)) + (b - shadow))


def two_product(a: jax.Array, b: jax.Array) -> Double:
    """``a * b``, to ``eps^2`` and barring underflow, from the four products of halves (Dekker)."""
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    middle = two_sum(a_high * b_low, a_low * b_high)
    high = two_sum(a_high * b_high, middle.high)
    return two_sum(high.high, high.low + (middle.low + a_low * b_low))


def add(a: Double, b: Double) -> Double:
    """``a + b``, to ``eps^2`` of the sum itself."""
    high, low = two_sum(a.high, b.high), two_sum(a.low, b.low)
    high = two_sum(high.high, high.low + low.high)
    return two_sum(high.high, high.low + low.low)


def subtract(a: Double, b: Double) -> Double:
    """``a - b``."""
    return add(a, Double(-b.high, -b.low))


def multiply(a: jax.Array, b: Double) -> Double:
    """``a * b``, element by element."""
    product = two_product(a, b.high)
    return two_sum(product.high, product.low + a * b.low)


def total(x: Double, axis: int) -> Double:
    """The sum along an axis, whose terms are not stored.

    >>> import jax.numpy as jnp
    >>> terms = jnp.array([1.0, 1e8, 1.0, -1e8])
    >>> float(terms.sum()), float(total(double(terms), axis=0).high)
    (0.0, 2.0)
    """
    zero = jnp.zeros((), x.high.dtype)
    high, low = lax.reduce(
        (x.high, x.low), (zero, zero), lambda a, b: tuple(add(Double(*a), Double(*b))), (axis,)
    )
    return Double(high, low)


def product(X: jax.Array, w: Double) -> Double:
    """``X @ w`` for X of (rows, features) and w of (features, outputs)."""
    wide = Double(w.high[None, :, :], w.low[None, :, :])
    return total(multiply(X[:, :, None], wide), axis=1)


def transposed_product(X: jax.Array, r: Double) -> Double:
    """``X.T @ r`` for X of (rows, features) and r of (rows, outputs)."""
    wide = Double(r.high[:, None, :], r.low[:, None, :])
    return total(multiply(X[:, :, None], wide), axis=0)


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``x`` as a sum of two numbers of half as many bits, so that their products are exact.

    By rounding, not by Veltkamp's multiplication, which a contracted multiplication would spoil.
    """
    info = jnp.finfo(x.dtype)
    high = lax.reduce_precision(x, exponent_bits=info.nexp, mantissa_bits=(info.nmant - 1) // 2)
    return high, x - high
