"""The memory that an exact solve needs, from shapes alone."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.designs import Design

TARGET_COPIES = 5
"""The arrays like the targets that a refinement of the solution holds at once."""

MOST_COPIED = 1 << 22
"""The most entries of an X of which XLA makes up to one copy more if it is stored in 16 bits, or
its rows are weighted: in some shapes, which nothing tells from others. So parts of a copy are
counted, which lie between what compiled programs reserve."""


def regression_solver_bytes(
    design: Design, l2: Any, targets: Any, *, is_scaled: bool, is_weighted: bool
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
    outputs = int(np.prod(np.shape(targets)[1:]))
    has_many_l2 = jnp.ndim(l2) == 1
    if rows < features and has_many_l2:
        peak = 2 * entries + 3 * square + larger * (1 + outputs)
    elif rows < features:
        means = 3 * larger if is_scaled else 0
        peak = 2 * entries + (2 if outputs == 1 else 4) * square + means
    else:
        is_widened = reading.dtype != design.dtype
        are_widened = jnp.result_type(targets) != design.dtype
        # The operand of QR, and where that is not X itself its centred, weighted copy.
        copies: float = 1 + is_scaled
        if entries <= MOST_COPIED and is_widened:
            copies += 0.8 if is_scaled else 0.9
        elif entries <= MOST_COPIED and is_weighted:
            copies += 0.45
        goals = rows * outputs
        goal_copies = 2 + 1.25 * is_widened + 1.5 * are_widened
        triangles = int(not is_scaled) if has_many_l2 else 2
        orthogonal = copies * entries + triangles * square + goal_copies * goals
        weighted = entries + 3 * square + 2 * goals if is_weighted else 0
        refined = (TARGET_COPIES + is_weighted + (2 + is_weighted) * are_widened) * goals
        peak = max(orthogonal, (3 if has_many_l2 else 6) * square, weighted, refined)
    return round(jnp.dtype(design.dtype).itemsize * peak) + design.dense_bytes()
