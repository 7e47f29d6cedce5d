"""Double-length arithmetic: a number as the unevaluated sum of two floating-point numbers.

Such a number has twice the digits of the working precision: an operation has a relative error of a
few ``eps^2``, where eps is the working precision's. NumPy computes with float64 arrays of its own,
JAX with all others. Every product is one of numbers with half the bits, and so exact; the results
do not depend on whether the compiler contracts ``a * b + c`` into a fused multiply-add.

References: Dekker (1971), "A floating-point technique for extending the available precision";
Ogita, Rump and Oishi (2005), "Accurate sum and dot product".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Double(NamedTuple):
    """``high + low``, with ``|low|`` at most half an ulp of ``high``."""

    high: Any
    low: Any


def double(x: jax.Array | np.ndarray) -> Double:
    """``x`` as a double-length number, with a low part of zero."""
    zeros = np.zeros_like(x) if isinstance(x, np.ndarray) else jnp.zeros_like(x)
    return Double(x, zeros)


def two_sum(a: jax.Array, b: jax.Array) -> Double:
    """``a + b`` exactly (Knuth)."""
    high = a + b
    shadow = high - a
    return Double(high, (a - (high - shadow)) + (b - shadow))


def two_product(a: jax.Array, b: jax.Array) -> Double:
    """``a * b`` from four exact products of halves (Dekker).

    The relative error is of the order ``eps^2`` unless a product underflows.
    """
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    middle = two_sum(a_high * b_low, a_low * b_high)
    high = two_sum(a_high * b_high, middle.high)
    return two_sum(high.high, high.low + (middle.low + a_low * b_low))


def add(a: Double, b: Double) -> Double:
    """``a + b`` with a relative error of the order ``eps^2``, under cancellation too."""
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
    """The sum along an axis in double length; the terms are not stored.

    >>> import jax.numpy as jnp
    >>> terms = jnp.array([1.0, 1e8, 1.0, -1e8])
    >>> float(terms.sum()), float(total(double(terms), axis=0).high)
    (0.0, 2.0)
    """
    if isinstance(x.high, np.ndarray):
        return _total_by_halves(*(np.moveaxis(part, axis, 0) for part in x))
    zero = jnp.zeros((), x.high.dtype)
    high, low = lax.reduce(
        (x.high, x.low), (zero, zero), lambda a, b: tuple(add(Double(*a), Double(*b))), (axis,)
    )
    return Double(high, low)


def _total_by_halves(high: np.ndarray, low: np.ndarray) -> Double:
    """The sum along the first axis: one half of the terms is added to the other, and so on."""
    while (half := len(high) // 2) > 0:
        first, second = slice(half), slice(half, 2 * half)
        pairs = add(Double(high[first], low[first]), Double(high[second], low[second]))
        left = high[2 * half :], low[2 * half :]
        high, low = map(np.concatenate, zip(pairs, left, strict=True))
    return Double(high[0], low[0])


def product(X: jax.Array, w: Double) -> Double:
    """``X @ w`` for X of (rows, features) and w of (features, outputs)."""
    wide = Double(w.high[None, :, :], w.low[None, :, :])
    return total(multiply(X[:, :, None], wide), axis=1)


def transposed_product(X: jax.Array, r: Double) -> Double:
    """``X.T @ r`` for X of (rows, features) and r of (rows, outputs)."""
    wide = Double(r.high[:, None, :], r.low[:, None, :])
    return total(multiply(X[:, :, None], wide), axis=0)


def _halves(x: Any) -> tuple[Any, Any]:
    """``x = high + low``, two numbers of half as many bits each, so that their products are exact.

    The high half is rounded by ``reduce_precision``. Veltkamp's splitting multiplies, and a fused
    multiply-add would invalidate it.
    """
    if isinstance(x, (np.ndarray, np.generic)):
        whole = np.asarray(x, np.float64)
        high = (whole.view(np.int64) & np.int64(-(1 << 27))).view(np.float64)
        return high, whole - high
    info = jnp.finfo(x.dtype)
    high = lax.reduce_precision(x, exponent_bits=info.nexp, mantissa_bits=(info.nmant - 1) // 2)
    return high, x - high
