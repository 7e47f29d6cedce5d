"""Arrow's own files, ``.arrow`` and ``.feather``, read batch by batch."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxdescent.data.arrow import pa
from jaxdescent.data.errors import DataError
from jaxdescent.data.grouped_files import ColumnExtent, GroupedFiles
from jaxdescent.data.parquet_pages import Page
from jaxdescent.data.protocol import Block, blocks_of

MOST_OPENED = 64
"""How many times a file is opened at most for the look: a packed column is unpacked by it, and so
few are at a time; opening takes as long as there are columns."""


class ArrowFiles(GroupedFiles):
    """Some files of Arrow's IPC format. A batch is read as a whole, as a page of Parquet is."""

    form = "Arrow"

    def _looked_at(self, path: pathlib.Path) -> tuple[Any, list[int]]:
        # A memory map that is closed again holds no memory, and uncompressed batches are not read
        # at all.
        with pa.memory_map(str(path)) as file:
            schema = _opened(file, path).schema
            sizes = list[int]()
            at_once = max(-(-len(schema) // MOST_OPENED), 1)
            for first in range(0, len(schema), at_once):
                fields = range(len(schema))[first : first + at_once]
                reader = _opened(file, path, fields)
                for group in range(reader.num_record_batches):
                    batch = reader.get_batch(group)
                    if first == 0:
                        sizes.append(batch.num_rows)
                    for field, column in zip(batch.schema, batch, strict=True):
                        points = pa.types.is_dictionary(field.type)
                        page = Page(column.nbytes, len(column), False, points)
                        known = self._extents.get(field.name, ColumnExtent()).including(page)
                        self._extents[field.name] = known._replace(bytes=known.bytes + page.bytes)
        return schema, sizes

    def _blocks(
        self, path: pathlib.Path, groups: Mapping[int, int], names: Sequence[str], rows: int
    ) -> Iterator[Block]:
        with contextlib.closing(pa.OSFile(str(path))) as file:
            schema = _opened(file, path).schema
            reader = _opened(file, path, [schema.get_field_index(name) for name in names])
            for group, start in groups.items():
                yield from blocks_of([reader.get_batch(group)], names, path.name, start)


def _opened(file: Any, path: pathlib.Path, fields: Sequence[int] = ()) -> Any:
    try:
        options = pa.ipc.IpcReadOptions(included_fields=sorted(fields))
        return pa.ipc.open_file(file, options=options)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path} cannot be read: it is no file of Arrow's IPC format, which is not its format "
            "for streams and not the first version of Feather: write it anew."
        ) from error
