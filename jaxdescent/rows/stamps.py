"""Files that must stay as they were when they were opened: each pass reads them again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from jaxdescent.rows.errors import DataError, listed
from jaxdescent.rows.source import Block

Stamp = tuple[int, ...] | None
"""A file's inode, size and times of change; None for an address, and where there is no file."""


def stamp_of(path: Any) -> Stamp:
    """The state of a file, which every write changes."""
    if isinstance(path, str):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def check_unchanged(files: Sequence[Any], stamps: Sequence[Stamp]) -> None:
    """Refuse files whose stamps are no longer these.

    Raises:
      DataError: with the names of the files that changed.
    """
    changed = [
        str(path)
        for path, stamp in zip(files, stamps, strict=True)
        if stamp is not None and stamp_of(path) != stamp
    ]
    if changed:
        raise DataError(
            f"{listed(changed)} changed since the data were opened: open them again when nobody "
            "writes to them."
        )


def checked_blocks(
    blocks: Iterator[Block], files: Sequence[Any], stamps: Sequence[Stamp], rows: int | None
) -> Iterator[Block]:
    """Some blocks, of which there must be ``rows`` rows in all where that is known, of files that
    must not change until the last block was read.

    A reader may fail in any way, or end early, where a file changes below it: the change is what is
    reported then.

    Raises:
      DataError: where a file changed, or the number of rows is another one.
    """
    check_unchanged(files, stamps)
    found = 0
    try:
        for block in blocks:
            found += block.rows
            yield block
    except Exception:
        check_unchanged(files, stamps)
        raise
    check_unchanged(files, stamps)
    if rows is not None and found != rows:
        raise DataError(
            f"{found:,} rows were read where {rows:,} are expected: the data are damaged, or a "
            "source gives other rows each time."
        )
