"""Lazy frames over files: Parquet, Arrow, CSV and NDJSON, as Polars reads them."""

from __future__ import annotations

import codecs
import functools
import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from jaxdescent.rows.errors import DataError, check_columns, reading
from jaxdescent.rows.frames import File, FrameSource, collected, polars_errors
from jaxdescent.rows.stamps import stamp_of

HEAD_ROWS = 10_000
"""The first rows of each file of text, from which the types of its columns are inferred."""

MISSING = ["NA", "N/A", "NaN", "nan", "null", "NULL"]
"""Values that are missing in CSV, besides empty ones."""

HEADER_BYTES = 1 << 20
"""The most bytes of a first line that are looked at."""

FILE = "__file__"
"""The column with the path of each row's file, from which its folders are read."""

Types = Mapping[str, Any]

CASTS = pl.ScanCastOptions(
    integer_cast=["upcast", "allow-float"],
    float_cast=["upcast", "downcast"],
    datetime_cast="nanosecond-downcast",
    missing_struct_fields="insert",
    extra_struct_fields="ignore",
    categorical_to_string="allow",
)
"""Casts between the types of one column in several files that lose nothing of a feature."""


def file_source(form: str, files: tuple[File, ...]) -> FrameSource:
    """The source of all rows of some files of one form.

    Files have the same columns, in any order. Where their types differ they are read as the common
    one: numbers as floating point, and all as text where one of them is text. Folders named
    ``key=value`` are columns.
    """
    is_text = form in ("CSV", "NDJSON")
    stamps = tuple(map(stamp_of, files))
    with polars_errors(_named(form, files)):
        heads = [_head(form, file) for file in files]
    schemas = [schema for schema, _ in heads]
    if is_text and not any(rows for _, rows in heads):
        raise DataError(f"{files[0]} has a header and no rows: there is nothing to read.")
    for file, schema in zip(files[1:], schemas[1:], strict=True):
        check_columns(schemas[0], schema, who=str(file))
        check_columns(schema, schemas[0], who=str(files[0]))
    types = {name: _common([own[name] for own in schemas]) for name in schemas[0]}
    whole: list[str] = []
    if is_text:
        # Later rows may have fractions, although the first ones have none.
        whole = [name for name, kind in types.items() if kind.is_integer()]
        types |= dict.fromkeys(whole, pl.Float64)
    keys = _keys(files)
    are_alike = is_text or all(dict(own) == types for own in schemas)
    is_same_order = all(list(own) == list(schemas[0]) for own in schemas)

    def scan(chosen: Sequence[File], given: Types) -> pl.LazyFrame:
        own = types | {name: kind for name, kind in given.items() if name in types}
        together = chosen if is_same_order and are_alike else None
        parts = [together] if together else [[file] for file in chosen]
        frames = [_scan(form, part, own, bool(keys)) for part in parts]
        if together is None:
            cast = [pl.col(name).cast(kind) for name, kind in own.items()]
            frames = [frame.with_columns(cast).select(*own, *added) for frame in frames]
        return _with_keys(frames[0] if together else pl.concat(frames), keys).select(*types, *keys)

    added = [FILE] if keys else []
    rows = None
    if not is_text:
        frame = scan(files, {})
        rows = int(collected(frame.select(pl.len()), _named(form, files)).item())
        if not rows:
            raise DataError(f"{_named(form, files)} has no rows: there is nothing to read.")
    return FrameSource(
        scan,
        form,
        files,
        whole=tuple(whole),
        known_rows=rows,
        text_files=is_text,
        stamps=stamps,
    )


def _named(form: str, files: Sequence[File]) -> str:
    return str(files[0]) if len(files) == 1 else f"the {form} files"


def _scan(
    form: str, files: Sequence[File], types: Types, with_file: bool, **text: Any
) -> pl.LazyFrame:
    path: dict[str, Any] = {"include_file_paths": FILE if with_file else None}
    given: Any = list(files)
    if form == "Parquet":
        return pl.scan_parquet(
            given, hive_partitioning=False, cast_options=CASTS, glob=False, **path
        )
    if form == "Arrow":
        return pl.scan_ipc(given, hive_partitioning=False, glob=False, **path)
    if form == "NDJSON":
        return pl.scan_ndjson(
            given, schema_overrides=dict(types), infer_schema_length=HEAD_ROWS, **path, **text
        )
    return _scan_csv(given, schema_overrides=dict(types), **path, **text)


_scan_csv: Callable[..., pl.LazyFrame] = functools.partial(
    pl.scan_csv,
    null_values=MISSING,
    infer_schema_length=HEAD_ROWS,
    try_parse_dates=True,
    glob=False,
)


def _head(form: str, file: File) -> tuple[Mapping[str, pl.DataType], int]:
    """The types of a file's columns, null for those that have no value in a text's first rows, and
    how many of these there are.
    """
    if form == "CSV":
        _check_header(file)
    frame = _scan(form, [file], {}, with_file=False)
    if form not in ("CSV", "NDJSON"):
        return dict(frame.collect_schema()), 0
    # Polars parses rows behind the first ones with them: their errors belong to their reading.
    lenient = _scan(form, [file], {}, with_file=False, ignore_errors=True)
    head = lenient.head(HEAD_ROWS).collect()
    if form == "CSV":
        for name in head.columns:
            if (found := re.fullmatch(r"(.*)_duplicated_\d+", name)) and found[1] in head.columns:
                raise DataError(f"{file} has two columns {found[1]!r}: rename one.")
    rows = head.height
    return {
        name: pl.Null() if column.null_count() == rows else _read_as(column)
        for name, column in zip(head.columns, head.get_columns(), strict=True)
        if name or form != "CSV"  # a column without a name is an index
    }, rows


def _read_as(column: pl.Series) -> pl.DataType:
    """The type of a column of text's first rows: Polars takes +4 for text, and reads it as 4."""
    if column.dtype == pl.String:
        for kind in (pl.Int64(), pl.Float64()):
            if column.cast(kind, strict=False).null_count() == column.null_count():
                return kind
    return column.dtype


def _check_header(file: File) -> None:
    """Refuse a first line that is not UTF-8, or that separates names by other than commas."""
    if isinstance(file, str) or file.suffix.lower() == ".zst":  # which Polars alone opens
        return
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    try:
        with reading(file), opened(file, "rb") as stream:
            line = codecs.getincrementaldecoder("utf-8-sig")().decode(stream.readline(HEADER_BYTES))
    except UnicodeDecodeError:
        raise DataError(
            f"{file} is not UTF-8: convert it, for example by iconv -t UTF-8."
        ) from None
    if not line:
        raise DataError(f"{file} is empty: its first line has to name columns.")
    other = next((mark for mark in ";\t|" if mark in line and "," not in line), None)
    if other is not None:
        raise DataError(
            f"{file} has {other!r} between the names of its first line, not ',': write it with "
            "commas, and with points in numbers."
        )


def _common(kinds: Sequence[pl.DataType]) -> Any:
    """The type that holds the values of all of these."""
    known = [kind for kind in kinds if kind != pl.Null]
    if not known:
        return pl.Float64()
    if all(kind == known[0] for kind in known):
        return known[0]
    if all(kind.is_numeric() or kind == pl.Boolean for kind in known):
        whole = all(kind.is_integer() or kind == pl.Boolean for kind in known)
        return pl.Int64() if whole else pl.Float64()
    if all(kind.is_temporal() for kind in known):
        return pl.Datetime("us")
    return pl.String()


def _keys(files: Sequence[File]) -> dict[str, Any]:
    """The columns that folders named ``key=value`` make, with their types."""
    found = [dict(re.findall(r"([^/\\=]+)=([^/\\]*)(?=[/\\])", str(file))) for file in files]
    keys = {}
    for key in found[0]:
        values = [own[key] for own in found if key in own]
        if len(values) == len(files):
            is_whole = all(re.fullmatch(r"0|-?[1-9]\d{0,17}", value) for value in values)
            keys[key] = pl.Int64 if is_whole else pl.String
    return keys


def _with_keys(frame: pl.LazyFrame, keys: Mapping[str, Any]) -> pl.LazyFrame:
    if not keys:
        return frame
    own = [
        pl.col(FILE).str.extract(rf"[/\\]{re.escape(key)}=([^/\\]*)[/\\]").cast(kind).alias(key)
        for key, kind in keys.items()
    ]
    return frame.with_columns(own).drop(FILE)
