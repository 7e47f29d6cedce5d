"""What an exact solve reserves, from shapes alone."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxdescent.designs import Design


def normal_equations_bytes(design: Design) -> int:
    """What a well-conditioned solve touches: the Gram matrix, a scaled copy, factor and inverse."""
    return jnp.dtype(design.dtype).itemsize * 4 * min(design.shape) ** 2 + design.dense_bytes()


def regression_solver_bytes(
    design: Design, l2: Any, *, outputs: int, is_scaled: bool, is_weighted: bool
) -> int:
    """Peak bytes of the compiled solve, with what is reserved for branches that may not be taken.

    Those are the copies of X that QR works on, and the SVD of its triangle: on a CPU they become
    real only if they are needed, and :func:`normal_equations_bytes` is what it takes else.
    ``is_scaled`` says that there is an intercept or that rows are weighted, so that what QR works
    on is not X itself.
    """
    rows, features = design.shape
    smaller, larger = min(rows, features), max(rows, features)
    square, entries = smaller * smaller, rows * features
    has_many_l2 = jnp.ndim(l2) == 1
    if rows < features and has_many_l2:
        peak = 2 * entries + 3 * square + larger * (1 + outputs)
    elif rows < features:
        means = 3 * larger if is_scaled else 0
        peak = 2 * entries + (2 if outputs == 1 else 4) * square + means
    elif has_many_l2:
        centred = entries + 2 * square if is_scaled and not is_weighted else 0
        orthogonal = 2 * entries if is_scaled else entries + square
        peak = max(centred, orthogonal, 3 * square) + 2 * larger
    else:
        # What QR works on, and where that is not X itself, its centred and weighted copy.
        orthogonal = (2 if is_scaled else 1) * entries + 2 * square
        weighted = entries + 3 * square if is_weighted else 0
        peak = max(orthogonal, 6 * square, weighted) + 2 * larger
    return jnp.dtype(design.dtype).itemsize * peak + design.dense_bytes()
