"""Text in the format of svmlight and libsvm, a line for each row, read by scikit-learn."""

from __future__ import annotations

import dataclasses
import gzip
import io
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.rows.errors import DataError, one_line, reading
from jaxdescent.rows.source import Block, Kind, Source, equal_blocks
from jaxdescent.rows.stamps import checked_blocks, stamp_of

PIECE_BYTES = 1 << 22
"""The bytes of text that are parsed at a time."""

LONGEST_LINE = 1 << 26
"""The most bytes of a line; a file with a longer one is not of this format."""

TARGET, FEATURES = "y", "x"


class _Piece(NamedTuple):
    """Some lines of a file."""

    path: pathlib.Path
    offset: int  # of the first line's first byte in the text
    row: int  # the number of the first row in all files
    rows: int


class SvmlightFiles(Source):
    """Some files of svmlight's format, one after another; ``.gz`` ones too.

    The target is called ``y``, and the features are one sparse column ``x``, by their indices as
    they are written. The files are read through when they are opened, for the largest index.
    """

    form = "svmlight text"

    def __init__(self, paths: Sequence[pathlib.Path]) -> None:
        self.files = tuple(paths)
        self._stamps = tuple(map(stamp_of, paths))
        self._pieces: list[_Piece] = []
        width, row = 1, 0
        for path in paths:
            for offset, X, _ in _parsed(path, 0, None):
                self._pieces.append(_Piece(path, offset, row, X.shape[0]))
                row += X.shape[0]
                width = max(width, X.shape[1])
        if not row:
            raise DataError(f"{paths[0]} has no rows.")
        self._first, self.rows, self._width = 0, row, width
        self.kinds = {FEATURES: Kind.SPARSE, TARGET: Kind.NUMBER}

    def blocks(self, names: Sequence[str], size: int, row: int = 0) -> Iterator[Block]:
        assert self.rows is not None
        begin = self._first + row
        at = max(i for i, piece in enumerate(self._pieces) if piece.row <= max(begin, 0))
        found = _limited(self._read(at), begin - self._pieces[at].row, self.rows - row, row)
        return checked_blocks(equal_blocks(found, size), self.files, self._stamps, None)

    def _read(self, at: int) -> Iterator[Block]:
        while at < len(self._pieces):
            path, offset, _, _ = self._pieces[at]
            for _, X, y in _parsed(path, offset, self._width):
                yield Block(0, len(y), {FEATURES: X, TARGET: y})
            at = next(
                (i for i, each in enumerate(self._pieces) if i > at and each.path != path), at
            )
            if self._pieces[at].path == path:
                return

    def slice(self, first: int, rows: int) -> SvmlightFiles:
        new = object.__new__(SvmlightFiles)
        vars(new).update(vars(self))
        new._first, new.rows = self._first + first, len(range(self.rows or 0)[first : first + rows])
        return new


def _limited(blocks: Iterator[Block], skipped: int, rows: int, start: int) -> Iterator[Block]:
    """``rows`` rows of some blocks after the first ``skipped`` ones, numbered from ``start``."""
    for block in blocks:
        first = min(skipped, block.rows)
        own = block.cut(first, min(block.rows, first + rows))
        skipped -= first
        if own.rows:
            yield dataclasses.replace(own, start=start)
        start, rows = start + own.rows, rows - own.rows
        if not rows:
            return


def _parsed(
    path: pathlib.Path, offset: int, width: int | None
) -> Iterator[tuple[int, Any, np.ndarray]]:
    """Where lines begin, their features as a sparse matrix, and their targets, piece by piece."""
    try:
        from sklearn.datasets import load_svmlight_file
    except ImportError as error:
        raise ImportError(f"{path}: svmlight files need scikit-learn: install it.") from error
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with reading(path), opened(path, "rb") as file:
        file.seek(offset)
        while text := file.read(PIECE_BYTES) + file.readline(LONGEST_LINE):
            if len(text) >= PIECE_BYTES + LONGEST_LINE:
                raise DataError(f"{path} has a line of more than {LONGEST_LINE:,} bytes.")
            try:
                parsed: Any = load_svmlight_file
                X, y = parsed(io.BytesIO(text), n_features=width, zero_based=True)
            except (ValueError, OverflowError) as error:
                raise DataError(
                    f"{path} has lines from byte {offset:,} on that cannot be read: "
                    f"{one_line(error)}; expected is a target and features in the order of their "
                    "indices, such as 1 3:0.5 7:2."
                ) from error
            if X.shape[0]:
                yield offset, X, y
            offset += len(text)
