"""Tables in memory: Arrow's, and every object that exports the Arrow C stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jaxdescent.data.arrow import pa
from jaxdescent.data.arrow_types import kinds_of
from jaxdescent.data.errors import DataError, one_line, reading
from jaxdescent.data.protocol import Block, Source, blocks_of

NAME = "the table"


class ArrowStream(Source):
    """An object with ``__arrow_c_stream__``: a table of pyarrow, polars, pandas or DuckDB.

    Each reading asks the object for a new stream. A reader, such as ``pyarrow.RecordBatchReader``,
    has only one.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self.can_restart = not isinstance(table, pa.RecordBatchReader)
        self._is_read = False
        self.kinds = kinds_of((self._reader() if self.can_restart else table).schema, NAME)
        self.form = f"a table of {type(table).__module__.split('.')[0]}"
        shape = getattr(table, "shape", None)
        self.rows = int(shape[0]) if isinstance(shape, tuple) and len(shape) == 2 else None
        if self.rows == 0:
            raise DataError("the table has no rows.")

    def _reader(self) -> Any:
        with reading(NAME):
            try:
                return pa.RecordBatchReader.from_stream(self._table)
            except TypeError as error:  # pandas raises it for columns that Arrow has no type for
                raise DataError(f"{NAME} cannot be read: {one_line(error)}.") from error

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[Block]:
        if self._is_read and not self.can_restart:
            raise DataError(
                "a reader gives its rows only once, and they have been read: pass a table, or "
                "read it into one with reader.read_all()."
            )
        self._is_read = True
        with reading(NAME):
            yield from blocks_of(self._reader() if self.can_restart else self._table, names)
