"""Whether a matrix's columns differ so much in length that iterations should scale them."""

from __future__ import annotations

import numpy as np

UNEVEN = 16.0
"""The ratio of the largest squared length to the median beyond which scaling pays. Below it the
condition number due to the lengths alone is at most 4, and scaling would worsen the conditioning
that a penalty gives to columns of similar length."""


def are_uneven(squared_lengths: np.ndarray) -> bool:
    """Whether the lengths of the columns that are not zero differ by more than ``UNEVEN``.

    >>> are_uneven(np.array([1.0, 2.0, 0.0, 3.0])), are_uneven(np.array([1.0, 2.0, 99.0]))
    (False, True)
    """
    lengths = squared_lengths[squared_lengths > 0]
    return bool(lengths.size) and bool(np.max(lengths) > UNEVEN * np.median(lengths))
