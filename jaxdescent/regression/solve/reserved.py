"""The memory that an exact solve needs, from shapes alone."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.designs import as_design
from jaxdescent.kernels.blocks import WIDENED_BYTES
from jaxdescent.kernels.platform import has_one_cpu

TARGET_COPIES = 5
"""The arrays like the targets that a refinement of the solution holds at once."""

MOST_COPIED = 1 << 22
"""The most entries of an X of which XLA makes up to one copy more if it is stored in 16 bits, or
its rows are weighted: in some shapes, which nothing tells from others. So parts of a copy are
counted, which lie between what compiled programs reserve."""


def regression_solver_bytes(regression: Any) -> int:
    """The peak bytes of the compiled solve, including branches that may not be taken.

    These branches hold the copies of X for QR and the SVD of its triangle. On a CPU their memory
    becomes resident only if they are taken.
    """
    design, targets, intercept = as_design(regression.X), regression.y, regression.intercept
    is_weighted = regression.sample_weight is not None
    rows, features = design.shape
    reading = design.reading
    if reading.seconds:  # Sums, spectrum and basis in float64, and the factor as a result.
        return 8 * 6 * features**2 + reading.held_bytes
    square, entries = min(rows, features) ** 2, rows * features
    outputs = int(np.prod(np.shape(targets)[1:]))
    has_many_l2 = jnp.ndim(regression.l2) == 1
    itemsize, is_widened = jnp.dtype(design.dtype).itemsize, reading.dtype != design.dtype
    is_map = not design.is_stored and design.entries == entries
    # A map is written out as products with the columns of an identity, which stay.
    written_out = design.dense_bytes() if is_map else min(design.dense_bytes(), itemsize * entries)
    if rows < features:
        # The operand of QR, and Q; of a map the products with the identity, too. The numbers that
        # the operand is computed from count unless they are X as it is stored, or are fused.
        copies, written_out = 2.0 + is_map, 0
        is_centred = intercept and outputs > 1
        widened = min(entries, WIDENED_BYTES // itemsize)
        if is_widened and (is_centred or widened == entries):
            copies += is_centred + widened / entries
        squares = 3 if has_many_l2 else 2 if outputs == 1 and not is_widened else 4
        if not design.is_stored and (intercept or has_many_l2):  # X is written out beside them
            copies, squares = copies + 1, squares + 1
        factorised = copies * entries + squares * square
        is_plain = is_centred and not (is_weighted or is_widened) and design.is_stored
        if is_plain and has_one_cpu():
            # Two solves by QR, for the targets and for the residuals, share the centred X.
            factorised = max(factorised, 3 * entries + 2 * square)
        # The look at a claim holds weights, gradients and corrections instead.
        looked = (8 + 2 * has_many_l2) * outputs
        peak = max(factorised + (5 + outputs) * features, looked * features)
    else:
        are_widened = jnp.result_type(targets) != design.dtype
        is_scaled = intercept or is_weighted
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
    # While X is written out it takes more bytes than the result, but only until the solve begins.
    return max(round(itemsize * peak) + written_out, design.dense_bytes())
