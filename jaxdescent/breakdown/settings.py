"""How far the parts go (quickly, as usual, or thoroughly), and what else the user asked for."""

from __future__ import annotations

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class Settings:
    """The sizes of the parts, by default the usual ones, and the options."""

    extent: str = "usual"  # the option that asks for these sizes, or ``usual`` for none
    budget: float = 45.0  # seconds for part 2
    first_size: int = 512  # the first n of part 2's regressions
    growth: int = 2  # the ratio of the next n of part 2 to the last one
    # The numbers of unknowns of part 2's separable case.
    separable_sizes: tuple[int, ...] = tuple(10**exponent for exponent in range(3, 9))
    most_params: int | None = None  # of part 3's separable problem; None for all of them
    # Parameters of part 3's tied weights; None for as many as fit.
    most_tied: int | None = 220_000_000  # a layer of the model
    most_weights: int | None = 2**26  # of part 3's regression; None for as many as fit, up to 2^30
    max_params: int | None = None  # the most in each of these three; None for no limit
    everything: bool = True  # whether part 3 also runs its coupled problems
    dtype: str | None = None  # of part 3's stored parameters; None for the widest that fits
    checkpoint: pathlib.Path | None = None  # where part 3 keeps its descents; None keeps none
    resume: bool = False  # whether part 3 goes on from the descents that are kept there
    studies: int = 2  # the number of data sets in part 4
    most_lines: int = 30_000  # the lines of text in part 5, to the end of a file
    seed: int = 0  # the seed of all random numbers


USUAL = Settings()
"""Sizes with which all parts end within five minutes on two cores. Of the long problems only the
one with eight billion parameters keeps its size."""

QUICK = Settings(
    "quick",
    budget=12.0,
    growth=3,
    separable_sizes=(10**3, 10**5, 10**7),
    most_params=40_000_000,
    most_tied=40_000_000,
    most_weights=2**24,
    studies=1,
    most_lines=10_000,
)
"""Sizes with which all parts end within a minute on two cores."""

THOROUGH = Settings("thorough", budget=100.0, most_tied=None, most_weights=None, most_lines=120_000)
"""The sizes with which docs/breakdown.json was measured."""
