"""How far the parts go: quickly, as usual, or thoroughly."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class PartSizes:
    """The sizes of the parts.

    Attributes:
      name: the option that asks for these sizes, or ``usual`` for none.
      budget: seconds for part 2, unless the user gives others.
      first_size: the first n of part 2's regressions.
      growth: the ratio of the next n of part 2 to the last one.
      separable_sizes: the numbers of unknowns of part 2's separable case.
      most_params: the most parameters of part 3's separable problem; None for all of them.
      most_tied: the most parameters of part 3's tied weights; None for as many as fit.
      most_weights: the most weights of part 3's regression; None for as many as fit, up to 2^30.
      studies: the number of data sets in part 4.
      most_lines: the lines of text in part 5, to the end of a file.
    """

    name: str
    budget: float
    first_size: int
    growth: int
    separable_sizes: tuple[int, ...]
    most_params: int | None
    most_tied: int | None
    most_weights: int | None
    studies: int
    most_lines: int

    def within(self, most: int) -> PartSizes:
        """These sizes with at most so many parameters in each problem of part 3."""
        limits = (self.most_params, self.most_tied, self.most_weights)
        params, tied, weights = (most if each is None else min(each, most) for each in limits)
        return dataclasses.replace(self, most_params=params, most_tied=tied, most_weights=weights)


QUICK = PartSizes(
    "quick",
    budget=12.0,
    first_size=512,
    growth=3,
    separable_sizes=(10**3, 10**5, 10**7),
    most_params=40_000_000,
    most_tied=40_000_000,
    most_weights=2**24,
    studies=1,
    most_lines=10_000,
)
"""Sizes with which all parts end within a minute on two cores."""

USUAL = PartSizes(
    "usual",
    budget=45.0,
    first_size=512,
    growth=2,
    separable_sizes=tuple(10**exponent for exponent in range(3, 9)),
    most_params=None,
    most_tied=220_000_000,  # a layer of the model
    most_weights=2**26,
    studies=2,
    most_lines=30_000,
)
"""Sizes with which all parts end within five minutes on two cores. Of the long problems only the
one with eight billion parameters keeps its size."""

THOROUGH = dataclasses.replace(
    USUAL, name="thorough", budget=100.0, most_tied=None, most_weights=None, most_lines=120_000
)
"""The sizes with which docs/breakdown.json was measured."""
