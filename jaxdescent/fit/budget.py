"""The promise about memory: what the process holds, what it will hold, and what it may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxdescent import agreement
from jaxdescent.data import Source
from jaxdescent.data.read_ahead import BLOCKS_HELD
from jaxdescent.machine.memory import ProblemTooLarge, host_bytes, readable_bytes
from jaxdescent.machine.resident import resident_bytes

SLACK_BYTES = 64 << 20
"""For what is not counted: the allocators' own pages, threads' buffers of the BLAS, code that is
loaded late."""

LEVEL_BYTES = 160
"""What the place of a level takes while rows are looked up, beside its text."""

SHARE = 0.8
"""Of what is available, where no limit is given."""

BLOCK_BYTES = 16 << 20
MOST_ROWS, LEAST_ROWS = 1 << 16, 1 << 10

BLOCK_COPIES = 2
"""A block as it is read, and as it is prepared."""


class Memory(NamedTuple):
    """Bytes that a process may hold, and where the number comes from."""

    limit: int
    is_given: bool

    @classmethod
    def of(cls, limit: int | None) -> Memory:
        """A limit that was given, or else a share of what this process can have.

        Raises:
          ProblemTooLarge: if the given limit is more than there is.
        """
        most = host_bytes() + resident_bytes()
        if limit is None:
            return cls(resident_bytes() + int(SHARE * (most - resident_bytes())), False)
        if limit > most:
            raise ProblemTooLarge(
                f"a limit of {readable_bytes(limit)} is more than the {readable_bytes(most)} that "
                "this process can have: lower it."
            )
        return cls(limit, True)

    def fits(self, needed: float) -> bool:
        """Whether so much may be held, by all processes that fit together."""
        return agreement.least(self.limit - needed) >= 0

    def refuse(self, what: str, needed: float, read: str = "nothing was read") -> ProblemTooLarge:
        """The refusal of what needs more, and what has been read by then."""
        source = "the limit" if self.is_given else "what is available"
        return ProblemTooLarge(
            f"{what} needs {readable_bytes(needed)} of memory, Python and its libraries included, "
            f"and {source} is {readable_bytes(self.limit)}: {read}."
        )

    def check(self, margin: int = 0) -> None:
        """Stop where the process holds more than it may after all, or soon would.

        Sizes that nobody can know beforehand, such as how many levels a column has or how large a
        file's pages are, are watched while they grow.
        """
        held = resident_bytes()
        if self.is_given and held + margin > self.limit:
            raise ProblemTooLarge(
                f"the process came to hold {readable_bytes(held)} of the limit of "
                f"{readable_bytes(self.limit)}, with more to come, and stopped: raise it, or read "
                "fewer columns or levels."
            )


class Reading(NamedTuple):
    """How a source is read: rows of a block, and bytes that reading holds."""

    rows: int
    bytes: int


def reading_of(source: Source, names: Sequence[str], width: int, free: float) -> Reading:
    """The largest blocks that fit ``free`` bytes, up to the size from which on nothing is gained.

    Args:
      source: what is read.
      names: its columns that are read.
      width: bytes that a row takes once it is prepared.
      free: bytes that are left for reading.
    """
    row = max(source.row_bytes(names) * BLOCK_COPIES + width, 1)
    rows = MOST_ROWS
    while rows > LEAST_ROWS and rows * row > BLOCK_BYTES:
        rows //= 2

    def held(rows: int) -> int:
        return BLOCKS_HELD * rows * row + source.reading_bytes(names, rows)

    while rows > LEAST_ROWS and held(rows) > free:
        rows //= 2
    return Reading(rows, held(rows))


def reading_of_all(
    sources: Sequence[Source], names: Sequence[str], width: int, free: float
) -> Reading:
    """What suits all sources, which are read one after another."""
    plans = [reading_of(source, names, width, free) for source in sources]
    return Reading(min(plan.rows for plan in plans), max(plan.bytes for plan in plans))
