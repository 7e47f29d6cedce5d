"""The memory that an exact solve needs, from shapes alone."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxdescent.designs import Design


def regression_solver_bytes(
    design: Design, l2: Any, *, outputs: int, is_scaled: bool, is_weighted: bool
) -> int:
    """The peak bytes of the compiled solve, including branches that may not be taken.

    These branches hold the copies of X for QR and the SVD of its triangle. On a CPU their memory
    becomes resident only if they are taken. ``is_scaled`` says that there is an intercept or that
    rows are weighted, so that QR needs a copy of X.
    """
    rows, features = design.shape
    reading = design.reading
    if reading.seconds:  # Sums, spectrum and basis in float64, and the factor as a result.
        return 8 * 6 * features**2 + reading.held_bytes
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
        # The operand of QR, and where that is not X itself, its centred, weighted or widened copy.
        is_copied = is_scaled or reading.dtype != design.dtype
        orthogonal = (2 if is_copied else 1) * entries + 2 * square
        weighted = entries + 3 * square if is_weighted else 0
        peak = max(orthogonal, 6 * square, weighted) + 2 * larger
    return jnp.dtype(design.dtype).itemsize * peak + design.dense_bytes()
