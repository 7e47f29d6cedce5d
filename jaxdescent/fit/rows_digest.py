"""A digest of rows, by which a fit that is resumed knows that they are those of then."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from jaxdescent.fit.rows import Rows


class RowsDigest:
    """A digest of rows that come block by block; it does not depend on the blocks' sizes."""

    def __init__(self) -> None:
        self._columns: list[Any] = []

    def add(self, rows: Rows) -> None:
        """Add the features, targets and weights of a block."""
        columns = [rows.target, rows.is_test, rows.weight]
        for number in rows.encoded.numbers:
            absent = number.missing
            columns += [
                number.values,
                np.zeros(rows.encoded.rows, bool) if absent is None else absent,
            ]
        for coded in rows.encoded.coded:
            columns += [coded.codes.astype(np.int64, copy=False), coded.values]
        for entries in rows.encoded.entries:
            columns += [np.diff(entries.starts), entries.index, entries.values]
        if not self._columns:
            self._columns = [hashlib.sha256() for _ in columns]
        for digest, column in zip(self._columns, columns, strict=True):
            digest.update(b"" if column is None else np.ascontiguousarray(column).data)

    def __str__(self) -> str:
        return hashlib.sha256(b"".join(each.digest() for each in self._columns)).hexdigest()
