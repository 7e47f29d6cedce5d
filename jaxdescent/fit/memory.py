"""The limit of memory that a fit keeps: block sizes that follow from it, and what the process holds
measured while rows are read.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import NamedTuple

from jaxdescent.kernels.memory import (
    ProblemTooLarge,
    host_bytes,
    peak_resident_bytes,
    physical_bytes,
    readable_bytes,
    resident_bytes,
)
from jaxdescent.rows import DataError, Kind, Source

SHARE = 0.8
"""The part of the available memory that a process may take where no limit is given."""

MOST_ROWS, LEAST_ROWS = 1 << 16, 16
"""The most rows of a block, and the fewest with which a file is read."""

BLOCK_BYTES = 1 << 26
"""The most bytes of a block's features."""

COPIES = 6
"""How many times the bytes of a block are held while it is read, encoded and multiplied."""

SAMPLED_ROWS = 256
"""The rows whose texts are measured before a reading."""


class Memory(NamedTuple):
    """What the process may hold at its peak, Python and its libraries included."""

    limit: int
    is_given: bool

    @classmethod
    def of(cls, given: int | None) -> Memory:
        """The limit that is given, or a part of what is available.

        Raises:
          DataError: where more is given than the machine has.
          TypeError: where it is no number.
        """
        if given is None:
            return cls(resident_bytes() + int(SHARE * host_bytes()), is_given=False)
        if not isinstance(given, numbers.Real):
            raise TypeError(f"memory must be a number of bytes, got {given!r}: 600 MB are 600e6.")
        if given > physical_bytes():
            raise DataError(
                f"--memory {readable_bytes(given)} is more than the "
                f"{readable_bytes(physical_bytes())} of this machine."
            )
        return cls(int(given), is_given=True)

    def block_rows(self, source: Source, names: Sequence[str], width: int, held: int = 0) -> int:
        """How many rows are read at a time, beside ``held`` bytes, where each becomes ``width``
        bytes of features.

        Raises:
          ProblemTooLarge: where even the smallest block does not fit; nothing is read.
        """
        row = width + _row_bytes(source, names)
        free = self.free - held
        self.require(held + COPIES * row * LEAST_ROWS, "reading blocks of rows")
        return int(min(MOST_ROWS, max(BLOCK_BYTES // row, LEAST_ROWS), free // (COPIES * row)))

    @property
    def free(self) -> int:
        """How many bytes more the process may hold."""
        return self.limit - resident_bytes()

    def fits(self, more: float) -> bool:
        """Whether the process may hold so many bytes more than it does."""
        return more <= self.free

    def require(self, more: float, what: str, advice: str = "raise --memory") -> None:
        """Refuse what needs so many bytes more and does not fit."""
        if not self.fits(more):
            raise ProblemTooLarge(
                f"{what} needs {readable_bytes(resident_bytes() + more)} of memory, Python and its "
                f"libraries included, and the limit is {readable_bytes(self.limit)}: {advice}; "
                "nothing was written."
            )

    def check(self, what: str = "reading", advice: str = "") -> None:
        """Stop where the process has held more than the limit that was given.

        Raises:
          ProblemTooLarge: with what to do.
        """
        if self.is_given and peak_resident_bytes() > self.limit:
            advice = advice or (
                "raise --memory, or write the files in smaller row groups (in Polars "
                "write_parquet(path, row_group_size=50_000))"
            )
            raise ProblemTooLarge(
                f"{what} has taken {readable_bytes(peak_resident_bytes())}, and the limit is "
                f"{readable_bytes(self.limit)}: {advice}; nothing was written."
            )


def _row_bytes(source: Source, names: Sequence[str]) -> int:
    """About how many bytes a row of these columns takes as it is read."""
    texts = [name for name in names if source.kinds[name] is Kind.TEXT]
    found = 8 * len(names)
    if texts:
        for block in source.slice(0, SAMPLED_ROWS).blocks(texts, SAMPLED_ROWS):
            sizes = [block.columns[name].estimated_size() for name in texts]
            found += 2 * sum(sizes) // max(block.rows, 1)
            break
    return found
