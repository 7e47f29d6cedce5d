"""Sources of rows: every form gives the values that were written, in the same order each time."""

import datetime
import gzip
import io

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from jaxdescent.rows import Kind, open_source

TEXTS = st.text("aé,\"' ;#\\\t1", max_size=6).filter(lambda text: text.strip() == text)
COLUMNS = {
    "float64": (np.float64, st.floats(-1e300, 1e300, allow_subnormal=False)),
    "float32": (np.float32, st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)),
    "int64": (np.int64, st.integers(-(2**52), 2**52)),
    "uint8": (np.uint8, st.integers(0, 255)),
    "bool": (np.bool_, st.booleans()),
    "text": (object, TEXTS),
    "date": (object, st.dates(datetime.date(1970, 1, 1), datetime.date(2100, 1, 1))),
}


@st.composite
def tables(draw, kinds=tuple(COLUMNS)):
    """A dictionary of lists, in which None is missing, and the kinds of its columns."""
    rows = draw(st.integers(1, 40))
    named = {}
    for j, kind in enumerate(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5))):
        values = COLUMNS[kind][1]
        if draw(st.booleans()):
            values = st.none() | values
        named[f"{kind} {j}"] = draw(st.lists(values, min_size=rows, max_size=rows))
    return named


def polars_of(table):
    types = {
        "float64": pl.Float64,
        "float32": pl.Float32,
        "int64": pl.Int64,
        "uint8": pl.UInt8,
        "bool": pl.Boolean,
        "text": pl.String,
        "date": pl.Date,
    }
    return pl.DataFrame({n: pl.Series(v, dtype=types[n.split()[0]]) for n, v in table.items()})


WRITERS = {
    "parquet": lambda frame, path: frame.write_parquet(path, row_group_size=7),
    "arrow": lambda frame, path: frame.write_ipc(path, record_batch_size=7),
    "feather": lambda frame, path: frame.write_ipc(path, compression="zstd"),
    "csv": lambda frame, path: frame.write_csv(path, quote_style="non_numeric"),
    "csv.gz": lambda frame, path: path.write_bytes(gzip.compress(text_of(frame).encode())),
    "ndjson": lambda frame, path: frame.write_ndjson(path),
}


def text_of(frame):
    made = io.StringIO()
    frame.write_csv(made)
    return made.getvalue()


def expected(values, kind):
    """The numbers that a column of numbers has, missing ones NaN."""
    dtype = COLUMNS[kind][0]
    return np.array([np.nan if value is None else float(dtype(value)) for value in values])


@pytest.mark.parametrize("form", WRITERS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_files_give_what_was_written(form, tmp_path_factory, data):
    table = data.draw(tables())
    frame, path = polars_of(table), tmp_path_factory.mktemp("files") / f"t.{form}"
    WRITERS[form](frame, path)
    source, size = open_source(path), data.draw(st.integers(1, 50))
    row = data.draw(st.integers(0, frame.height - 1))
    assert list(source.kinds) == frame.columns
    blocks = list(source.blocks(list(table), size, row))
    assert [block.start for block in blocks] == list(range(row, frame.height, size))
    assert all(block.rows == size for block in blocks[:-1])
    assert sum(block.rows for block in blocks) == source.count() - row == frame.height - row
    is_text = form in ("csv", "csv.gz", "ndjson")  # of whose empty columns no type is known
    for name, values in table.items():
        kind, nothing = name.split()[0], all(value is None for value in values)
        found = source.kinds[name]
        if kind in ("text", "date"):
            if nothing and is_text:
                continue
            got = [value for block in blocks for value in block.column(name).to_list()]
            if kind == "text" and form.startswith("csv"):
                if found is not Kind.TEXT:  # numbers in quotation marks are numbers
                    continue
                missing = {"", None}
                assert [(None if g in missing else g) for g in got] == [
                    None if v in missing else v for v in values[row:]
                ]
            elif kind == "date" and form == "ndjson":
                assert got == [v and v.isoformat() for v in values[row:]]
            else:
                assert found is (Kind.TEXT if kind == "text" else Kind.DATE)
                assert got == values[row:]
            continue
        assert found.is_number
        got = np.concatenate([block.numbers([name], np.float64) for block in blocks])[:, 0]
        if kind == "float32":  # as text it is the shortest decimal that is rounded to it
            got = got.astype(np.float32)
        np.testing.assert_array_equal(got, expected(values, kind)[row:])
