"""Which rows are held out: by a hash of their number, so that blocks play no part."""

from __future__ import annotations

import numpy as np


def is_held_out(start: int, rows: int, share: float, seed: int) -> np.ndarray:
    """For rows ``start`` to ``start + rows``, whether each is held out, with this probability.

    The hash is SplitMix64's finaliser: the same row is held out in every run with the same seed.

    Reference: Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators".
    """
    number = np.arange(start, start + rows, dtype=np.uint64)
    # The products are meant to wrap around at 64 bits.
    with np.errstate(over="ignore"):
        state = number + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03) + np.uint64(1)
        state = state * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)) * 2.0**-53 < share
