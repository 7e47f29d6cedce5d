"""The memory of a fit: the limit, the bytes held already, and the bytes that reading will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxdescent import processes
from jaxdescent.data import Source
from jaxdescent.data.freeing import allocate_arrow_by_system
from jaxdescent.data.read_ahead import BLOCKS_HELD
from jaxdescent.inputs.numbers import check_number
from jaxdescent.kernels.memory import ProblemTooLarge, host_bytes, readable_bytes, resident_bytes

SLACK_BYTES = 64 << 20
"""An allowance for bytes that are not counted: pages of the allocators, buffers of the BLAS's
threads, code that is loaded late."""

LEVEL_BYTES = 200
"""Bytes of a level's entry in the lookup tables, beside its text."""

INDEX_BYTES = 50
"""Bytes of an index of sparse numbers while all of them are found: six copies."""

FINDING_COPIES = 5
"""Copies of the levels' texts while they are found: those that were known and those that are new,
joined by a table that doubles."""

SHARE = 0.8
"""The share of the available memory that a fit may take where no limit is given."""

BLOCK_BYTES = 16 << 20
MOST_ROWS, LEAST_ROWS, LEAST_BYTES = 1 << 16, 1 << 10, 1 << 20

LONG_BYTES = 256
"""A refusal names the column of the longest texts where they take more bytes a row than this."""

BLOCK_COPIES = 2
"""Copies of a block: one as it is read, one as it is prepared."""


class Memory(NamedTuple):
    """Bytes that a process may hold, and where the number comes from."""

    limit: int
    is_given: bool

    @classmethod
    def of(cls, limit: int | None) -> Memory:
        """The given limit, or else a share of the memory that this process can have.

        Under a given limit Arrow uses the system's allocator, since its own keeps freed memory.
        """
        most = host_bytes() + resident_bytes()
        if limit is None:
            return cls(resident_bytes() + int(SHARE * (most - resident_bytes())), False)
        hint = "it counts bytes, 600e6 for 600MB"
        check_number("memory", limit, "positive", lambda given: given > 0, hint=hint)
        if limit > most:
            raise ProblemTooLarge(
                f"a limit of {readable_bytes(limit)} is more than the {readable_bytes(most)} that "
                "this process can have: lower it."
            )
        allocate_arrow_by_system()
        return cls(limit, True)

    def fits(self, needed: float) -> bool:
        """Whether ``needed`` bytes are within the limit in every process of the fit."""
        return processes.least(self.limit - needed) >= 0

    def refuse(self, what: str, needed: float, read: str = "nothing was read") -> ProblemTooLarge:
        """The error that ``what`` needs too much memory; ``read`` says what was read by then."""
        source = "the limit" if self.is_given else "what is available"
        return ProblemTooLarge(
            f"{what} needs {readable_bytes(needed)} of memory, Python and its libraries included, "
            f"and {source} is {readable_bytes(self.limit)}: {read}."
        )

    def reading(
        self, source: Source, names: Sequence[str], width: int, what: str, beside: int = 0
    ) -> ReadingPlan:
        """The reading of a source for ``what``, where ``beside`` more bytes are held."""
        held = resident_bytes() + SLACK_BYTES + beside
        plan = reading_of([source], names, width, self.limit - held)
        if not self.fits(held + plan.bytes):
            raise self.refuse(f"{what}{_of_long_texts(source, names)}", held + plan.bytes)
        return plan

    def check(self) -> None:
        """Raise an error where the process has come to hold more than a given limit."""
        held = resident_bytes()
        if self.is_given and held > self.limit:
            raise ProblemTooLarge(
                f"the process came to hold {readable_bytes(held)} of the limit of "
                f"{readable_bytes(self.limit)}, with more to come, and stopped: raise it, or read "
                "fewer columns or levels."
            )


class ReadingPlan(NamedTuple):
    """How rows are read, and the memory that this takes."""

    bytes: int  # how many bytes reading holds; of a fit, all that the process holds at its peak
    at_once: int  # how many rows are read at a time
    rows: int = 0  # how many rows all sources have; 0 where this was not needed
    width: int = 1  # for how many penalties a pass multiplies


def reading_of(
    sources: Sequence[Source], names: Sequence[str], width: int, free: float
) -> ReadingPlan:
    """The largest blocks that fit ``free`` bytes, up to the size from which on nothing is gained;
    ``width`` is the bytes that a row takes once it is prepared.
    """
    most, at_once = 0, MOST_ROWS
    for source in sources:
        row = max(source.row_bytes(names) * BLOCK_COPIES + width, 1)
        rows = MOST_ROWS
        while rows > LEAST_ROWS and rows * row > BLOCK_BYTES:
            rows //= 2
        while True:
            held = BLOCKS_HELD * rows * row + source.reading_bytes(names, rows)
            if rows == 1 or rows * row <= LEAST_BYTES or held <= free:
                break
            rows //= 2
        most, at_once = max(most, held), min(at_once, rows)
    return ReadingPlan(most, at_once)


def _of_long_texts(source: Source, names: Sequence[str]) -> str:
    """The column of the longest texts, as a refusal names it; empty where none are long."""
    longest = max(names, key=lambda name: source.row_bytes([name]), default=None)
    if longest is None or source.row_bytes([longest]) <= LONG_BYTES:
        return ""
    return f", with texts as long as in {longest!r},"
