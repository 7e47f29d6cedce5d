"""Sources of rows: every format gives the same numbers, whatever the blocks."""

import datetime
import gc
import gzip
import io
import json
import os
import sys
import threading
import weakref
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv

import jaxdescent as jd
from jaxdescent.data import (
    Block,
    DataError,
    Kind,
    Source,
    grouped_files,
    located,
    open_source,
    parquet,
    read_ahead,
)
from jaxdescent.data.parquet import ParquetFiles
from jaxdescent.data.parquet_pages import pages_of
from jaxdescent.fit import fit_model
from jaxdescent.fit.budget import Memory
from jaxdescent.fit.columns import Labels, as_numbers, bucket_of, labels_of
from jaxdescent.fit.job import ProgressListener
from jaxdescent.fit.look import look_at
from jaxdescent.fit.rows import is_held_out
from tests.files import loader

ROWS = 1000


@pytest.fixture
def table(rng):
    return pa.table(
        {
            "a": rng.normal(size=ROWS),
            "b": rng.integers(-5, 5, ROWS),
            "c": rng.normal(size=ROWS).astype(np.float32),
            "t": rng.choice(["x", "y", "z"], ROWS),
            "flag": rng.random(ROWS) < 0.5,
        }
    )


def written(table, form, folder):
    """The table in a file of some format, or as another library's table."""
    if form == "parquet":
        pq.write_table(table, folder / "d.parquet", row_group_size=300)
        return folder / "d.parquet"
    if form == "parquet folder":
        for index in range(4):
            part = table.slice(index * 250, 250)
            pq.write_table(part, folder / f"part-{index}.parquet")
        (folder / "_SUCCESS").write_text("")
        return folder
    if form == "csv":
        csv.write_csv(table, folder / "d.csv")
        return folder / "d.csv"
    if form in ("csv.gz", "csv.zst"):
        path, codec = folder / f"d.{form}", {"gz": "gzip", "zst": "zstd"}[form[4:]]
        with pa.CompressedOutputStream(str(path), codec) as file:
            csv.write_csv(table, file)
        return path
    if form == "polars":
        return pl.from_arrow(table)
    if form == "reader":
        return table.to_reader(max_chunksize=77)
    return table


FORMS = ["parquet", "parquet folder", "csv", "csv.gz", "csv.zst", "polars", "reader", "arrow"]


def read(source, names, rows=64):
    blocks = list(located(source, names, rows))
    return blocks, {n: np.concatenate([_values(b.columns[n]) for b in blocks]) for n in names}


def _values(column):
    return as_numbers(column, nan_is_missing=False).values


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_rows_in_blocks_of_the_size_asked_for(form, table, tmp_path):
    source = open_source(written(table, form, tmp_path))
    assert [*source.kinds] == ["a", "b", "c", "t", "flag"]
    assert source.kinds["t"] is Kind.TEXT
    assert all(source.kinds[name].is_number for name in "abc")
    assert source.can_restart is (form != "reader")
    for rows in (64, 100) if source.can_restart else (64,):  # in the same order again
        blocks, columns = read(source, ["c", "a", "flag"], rows)
        assert all(block.rows <= rows for block in blocks)
        ends = np.cumsum([0, *(block.rows for block in blocks)])
        assert [block.start for block in blocks] == ends[:-1].tolist()
        for name in ("a", "flag", "c"):
            np.testing.assert_allclose(columns[name], np.asarray(table[name], float), rtol=1e-7)
    if not source.can_restart:
        with pytest.raises(DataError, match="only once"):
            read(source, ["a"])


@pytest.mark.parametrize("form", FORMS)
def test_levels_are_the_same_text_in_every_format(form, table, tmp_path):
    source = open_source(written(table, form, tmp_path)).offering((), ["t", "b"])
    texts = {"t": [], "b": []}
    for block in located(source, ["t", "b"], 64):
        for name, found in texts.items():
            labels = labels_of(block.columns[name])
            found.extend(labels.texts[code] for code in labels.codes)
    assert texts["t"] == table["t"].to_pylist()
    assert texts["b"] == [str(value) for value in table["b"].to_pylist()]


def test_of_an_array_stored_by_columns_no_others_are_read(tmp_path, monkeypatch):
    X, taken = np.arange(700.0).reshape(7, 100), []
    np.save(tmp_path / "X.npy", np.asfortranarray(X))
    source, fromfile = open_source(tmp_path / "X.npy"), np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *given: taken.append(given[2]) or fromfile(*given))
    blocks = list(source.blocks(["x70", "x3"], 4))
    got = {name: np.concatenate([each.columns[name] for each in blocks]) for name in ("x3", "x70")}
    np.testing.assert_array_equal(np.stack([got["x3"], got["x70"]], 1), X[:, [3, 70]])
    assert sum(taken) == 2 * 7
    assert source.row_bytes(["x70", "x3"]) < 50


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 5),
    block=st.integers(1, 50),
    by_column=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64, np.int16, np.bool_, ">f8"]),
)
def test_npy_files_are_read_in_any_blocks_and_either_order(
    rows, columns, block, by_column, dtype, tmp_path
):
    X = (np.arange(rows * columns).reshape(rows, columns) % 7).astype(dtype)
    np.save(tmp_path / "X.npy", np.asfortranarray(X) if by_column else X)
    np.save(tmp_path / "y.npy", np.arange(rows))
    source = open_source(tmp_path / "X.npy")
    assert source.rows == rows
    blocks, read_columns = read(source, [*source.kinds], block)
    assert max(b.rows for b in blocks) <= block
    for j in range(columns):
        np.testing.assert_array_equal(read_columns[f"x{j}"], X[:, j])
    np.testing.assert_array_equal(read_columns["y"], np.arange(rows))


def test_a_loader_of_ones_own_is_a_few_lines():
    tens = [{"a": np.arange(10.0) + 10 * start, "y": np.zeros(10)} for start in range(3)]
    source = loader({"a": Kind.NUMBER, "y": Kind.NUMBER}, *tens)
    blocks, columns = read(source, ["a"], 4)
    np.testing.assert_array_equal(columns["a"], np.arange(30.0))
    assert [block.rows for block in blocks] == [4, 4, 2] * 3


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"b": [1.0]}, "no column 'a'"),
        ({"a": np.ones(2), "y": np.ones(3)}, "of one length"),
        ({"a": np.ones((2, 1)), "y": np.ones(2)}, r"'a' must have one dimension, got \(2, 1\)"),
        ({"a": np.ones(2), "y": ["1", "2"]}, "'y' must hold real numbers, .* got dtype <U1"),
        ({"a": np.ones(2), "y": [{}, {}]}, "'y' must hold real numbers, .* got dtype object"),
    ],
)
def test_a_loaders_wrong_blocks_are_refused(block, message):
    source = loader({"a": Kind.NUMBER, "y": Kind.NUMBER}, block)
    with pytest.raises(DataError, match=message):
        list(located(source, ["a", "y"], 10))


@pytest.mark.parametrize("form", [list, pa.array, memoryview, jnp.asarray])
def test_a_loaders_blocks_may_be_any_arrays(form):
    a = np.arange(12)
    block = {"a": form(a % 3.0), "t": [f"level {i % 2}" for i in a]}
    block |= {"y": form(a % 3 + 5 * (a % 2))}
    source = loader({"a": Kind.NUMBER, "t": Kind.TEXT, "y": Kind.WHOLE}, block)
    model = jd.fit_model(source, "y", categorical="t")
    np.testing.assert_allclose(model.predict(source)[:3], [0, 6, 2], atol=1e-6)


def test_nulls_are_missing_and_nan_is_where_that_is_asked_for():
    column = pa.array([1.0, None, float("nan")])
    values, missing = as_numbers(column, nan_is_missing=False)
    assert np.isnan(values[2])
    np.testing.assert_array_equal(missing, [False, True, False])
    np.testing.assert_array_equal(
        as_numbers(column, nan_is_missing=True).missing, [False, True, True]
    )
    assert as_numbers(np.arange(3), nan_is_missing=True).missing is None


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "b", "a"]),
        pa.array(["a", None, "b", "a"]).dictionary_encode(),
        pa.chunked_array([["a", None], ["b", "a"]]),
        pa.array(["a", None, "b", "a"], pa.large_string()).dictionary_encode(),
        pa.array(["a", None, "b", "a"], pa.string_view()),
        pa.DictionaryArray.from_arrays(pa.array([1, 0, 2, 1]), pa.array([None, "a", "b"])),
        pa.array([*list("zzzzzza"), None, "b", "a"]).dictionary_encode()[6:],
    ],
)
def test_labels_of_texts_in_all_their_forms(column):
    labels = labels_of(column)
    texts = [labels.texts[code] if code >= 0 else None for code in labels.codes]
    assert texts == ["a", None, "b", "a"]


def test_labels_of_numbers_booleans_and_dates_are_their_text():
    for order_of_bytes in "<>":
        assert labels_of(np.array([10, -1], f"{order_of_bytes}i8")).texts == ["10", "-1"]
    assert labels_of(np.array([True, False])).texts == labels_of(pa.array([True, False])).texts
    assert labels_of(pa.array([datetime.date(2024, 2, 29)])).texts == ["2024-02-29"]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")], "2024-02-29 03:00:05"),
        ([pa.timestamp(unit, "UTC") for unit in ("s", "ns")], "2024-02-29 03:00:05Z"),
        ([pa.timestamp(unit, "+02:00") for unit in ("s", "ns")], "2024-02-29 05:00:05+0200"),
        ([pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")], "03:00:05"),
    ],
)
def test_labels_of_times_are_the_same_in_every_unit(times, expected):
    stamp = datetime.datetime(2024, 2, 29, 3, 0, 5)
    moment = stamp.time() if pa.types.is_time(times[0]) else stamp
    for each in times:
        assert labels_of(pa.array([moment], each)).texts == [expected]
        assert labels_of(pa.array([moment], each).dictionary_encode()).texts == [expected]
    half = pa.array([1_500_000_000, 20, 3_000_000_100], pa.time64("ns"))
    assert labels_of(half).texts == ["00:00:01.5", "00:00:00.00000002", "00:00:03.0000001"]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_column_without_any_value_in_one_file_is_what_it_is_in_others(form, first, tmp_path):
    y = np.arange(12.0) % 3
    text = pa.array([f"level {i % 3}" for i in range(12)])
    for number in range(2):
        full = number == first
        table = pa.table(
            {
                "t": text if full else pa.nulls(12),
                "n": pa.array(y) if full else pa.nulls(12),
                "y": y + (1 if full else 5),
            }
        )
        path = tmp_path / f"{number}.{form}"
        if form == "parquet":
            pq.write_table(table, path)
        else:
            csv.write_csv(table, path)
    source = open_source(tmp_path)
    assert source.kinds["t"] is Kind.TEXT
    assert source.kinds["n"].is_number
    model = jd.fit_model(tmp_path, "y", categorical="t", exclude="n", missing="drop")
    assert model.metrics["train"]["rows"] == 12
    assert model.predict(pa.table({"t": ["level 2"]}))[0] == pytest.approx(3)
    model = jd.fit_model(tmp_path, "y", exclude="t", missing="drop")
    assert model.predict(pa.table({"n": [2.0]}))[0] == pytest.approx(3)


def test_numbers_of_one_file_of_text_are_levels_where_others_hold_text(tmp_path):
    (tmp_path / "1.csv").write_text("id,y\n007,1\n8,2\n")
    (tmp_path / "2.csv").write_text("id,y\nx,3\n8,2\n")
    (tmp_path / "3.csv").write_text("id,y\n")
    model = jd.fit_model(tmp_path, "y", categorical="id")
    assert model.encoding.levels["id"] == ("007", "8", "x")
    np.testing.assert_allclose(model.predict(tmp_path), [1, 2, 3, 2], atol=1e-9)
    (tmp_path / "test.csv").write_text("id,y\n8,2\n8,4\n")
    given = [tmp_path / f"{number}.csv" for number in (1, 2)]
    model = jd.fit_model(given, "y", categorical="auto", test_data=tmp_path / "test.csv")
    assert model.metrics["held_out"]["rmse"] == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize(
    "options", [{"categorical": "b"}, {"hashed": "b"}, {"exclude": "b", "where": "b != a"}]
)
def test_bytes_that_are_no_text_are_refused(options):
    offsets = pa.array(range(5), pa.int32()).buffers()[1]
    wrong = pa.Array.from_buffers(pa.string(), 4, [None, offsets, pa.py_buffer(b"a\xffbc")])
    table = pa.table({"a": np.arange(4.0), "b": wrong, "y": np.arange(4.0) ** 2})
    with pytest.raises(DataError, match="'b' holds text that is not UTF-8: convert the data"):
        jd.fit_model(table, "y", **options)


def test_labels_are_found_among_levels():
    levels = pa.array(["-1", "10", "é"], pa.string())
    assert labels_of(np.array([10, -1, 10, 4])).places(levels).tolist() == [1, 0, -1]
    assert labels_of(pa.array(["é", None, "x"])).places(levels).tolist() == [2, -1]
    assert Labels(np.array([0, 1]), pa.array(["x", "10"])).places(levels).tolist() == [-1, 1]
    assert Labels(np.zeros(0, int), pa.array([], pa.string())).places(levels).tolist() == []


def test_buckets_are_the_same_for_ever():
    assert bucket_of("city", "Ulm", 20) == 329717
    assert bucket_of("city", "Ulm", 20) != bucket_of("town", "Ulm", 20)
    counts = np.bincount([bucket_of("n", str(i), 4) for i in range(4000)], minlength=16)
    assert counts.min() > 180


def test_rows_are_held_out_by_their_number_whatever_the_blocks():
    whole = is_held_out(0, 10_000, 0.3, 7)
    parts = np.concatenate([is_held_out(s, 1000, 0.3, 7) for s in range(0, 10_000, 1000)])
    np.testing.assert_array_equal(whole, parts)
    assert abs(whole.mean() - 0.3) < 0.02
    assert np.mean(whole == is_held_out(0, 10_000, 0.3, 8)) < 0.7
    assert not is_held_out(0, 100, 0.0, 7).any()


class TestReadAhead:
    def test_items_come_in_order(self):
        assert list(read_ahead(lambda: iter(range(100)))) == list(range(100))

    def test_errors_are_raised_where_the_items_are_used(self):
        def items():
            yield 1
            raise DataError("there")

        ahead = read_ahead(items)
        assert next(ahead) == 1
        with pytest.raises(DataError, match="there"):
            next(ahead)

    def test_no_thread_outlives_who_stops_early(self):
        ended = threading.Event()

        def items():
            try:
                while True:
                    yield 1
            finally:
                ended.set()

        ahead = read_ahead(items)
        next(ahead)
        ahead.close()
        assert ended.is_set()
        assert not [t for t in threading.enumerate() if t.name == "jaxdescent-read-ahead"]

    def test_it_holds_three_blocks_at_most(self):
        alive = []

        class Thing:
            def __init__(self):
                alive.append(self)

        def items():
            kept = []
            for _ in range(6):
                thing = Thing()
                alive.clear()
                kept.append(weakref.ref(thing))
                yield thing
                del thing
                gc.collect()
                counts.append(sum(ref() is not None for ref in kept))

        counts = []
        for thing in read_ahead(items):
            del thing
        assert max(counts) <= 3


def test_a_place_names_the_row_of_the_file_too():
    assert Block({}, 5, 0, "a.csv", 0).place(2) == "row 3 of a.csv"
    assert Block({}, 5, 1000, "b.csv", 10).place(2) == "row 1,003 (row 13 of b.csv)"
    assert Block({}, 5, 1000).place(0) == "row 1,001"


def test_fingerprints_tell_files_apart(tmp_path):
    prints = []
    for value in (1.0, 2.0):
        pq.write_table(pa.table({"a": [value], "y": [1.0]}), tmp_path / "d.parquet")
        prints.append(open_source(tmp_path / "d.parquet").fingerprint())
    assert len(set(prints)) == 2
    assert prints[1] == open_source(str(tmp_path / "d.parquet")).fingerprint()


def test_without_pyarrow_the_error_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "d.csv").write_text("a,y\n1,2\n")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxdescent\[data\]'"):
        open_source(tmp_path / "d.csv")
    assert open_source({"X": np.ones((3, 2)), "y": np.ones(3)}).rows == 3


def test_a_build_of_pyarrow_that_lacks_a_format_says_so(monkeypatch, tmp_path):
    pq.write_table(pa.table({"a": [1.0], "y": [2.0]}), tmp_path / "d.parquet")
    for name in ("pyarrow.parquet", "pyarrow.parquet.core", "pyarrow._parquet"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow._parquet", None)
    with pytest.raises(ImportError, match="not built with support for the Parquet file format"):
        open_source(tmp_path / "d.parquet")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"X": np.ones((2, 2, 2))}, "one or two dimensions"),
        ({"a": np.array(["p", "q"])}, "got dtype <U1: .*text and dates come in a table"),
        ({"a": np.ones(2), "b": np.ones(3)}, "as many rows each"),
        ({"a": np.zeros(0)}, "no rows"),
        ({"a": np.array(["x"])}, "real numbers"),
        ({"a": np.ones(2, "m8[s]")}, "real numbers"),
        ({"X": np.ones((2, 1)), "x0": np.zeros(2)}, "gives a column 'x0', which is there already"),
        ({"x0": np.zeros(2), "X": np.ones((2, 1))}, "gives a column 'x0', which is there already"),
        ({"a": np.ma.array([1.0, 2.0], mask=[True, False])}, r"masked values: .*filled\(np.nan\)"),
        ({0: np.ones(2)}, "must be text, got 0"),
        ((np.ones((2, 2)), np.ones(2)), "data must be a path"),
        ([1, 2], "data must be a path"),
        ("", "a path is empty"),
        (["d.csv", b""], "a path is empty"),
        (pl.Series([1.0, 2.0]), "the table cannot be read"),
        ({}, "as many rows each"),
        ([], "data must be a path"),
        (3.0, "data must be a path"),
    ],
)
def test_what_is_no_data_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        open_source(data)


def test_a_file_that_is_named_twice_is_refused_however_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "d.csv").write_text("a,y\n1,2\n")
    monkeypatch.chdir(tmp_path)
    for paths in (["d.csv", "d.csv"], ["d.csv", tmp_path / "d.csv"], [".", "../" + tmp_path.name]):
        with pytest.raises(DataError, match=r"is named twice.*: name each file once"):
            open_source(paths)
    (tmp_path / "newest.csv").symlink_to("d.csv")
    with pytest.raises(DataError, match=r"newest\.csv is named twice, as .*d\.csv too"):
        open_source(tmp_path)
    (tmp_path / "npy").mkdir()
    for name in ("X", "t"):
        np.save(tmp_path / "npy" / f"{name}.npy", np.ones(3))
    assert open_source("npy", target_file=tmp_path / "npy" / "t.npy").kinds.keys() == {"x0", "y"}


class Frame:
    """What pandas' frames export: an Arrow stream, or an error about a column."""

    def __init__(self, table, error=None):
        self.table, self.error = table, error

    def __arrow_c_stream__(self, requested_schema=None):
        if self.error is not None:
            raise self.error
        return self.table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("Duplicate column names found: ['a', 'a']"), None),
        (TypeError("Sparse pandas data (column b) not supported."), None),
        (pa.ArrowNotImplementedError("Unsupported numpy type 15"), None),
        (
            # As pandas says of a column in which 1 and 'x' stand.
            pa.ArrowInvalid(
                "Could not convert 'x':\n tried int64", "Conversion failed for column c"
            ),
            "Could not convert 'x': tried int64; Conversion failed for column c",
        ),
    ],
)
def test_a_table_that_cannot_be_exported_is_refused_in_one_line(error, said):
    with pytest.raises(DataError) as caught:
        jd.fit_model(Frame(None, error), "y")
    said = said or str(error).rstrip(".")
    assert str(caught.value).startswith(f"the table cannot be read: {said}: give one with columns")


def test_an_index_of_pandas_without_a_name_is_no_feature(tmp_path):
    columns = {"a": np.arange(8.0) % 3, "y": np.arange(8.0) % 3, "__index_level_0__": np.arange(8)}
    described = {"index_columns": ["__index_level_0__"], "columns": []}
    plain = pa.table(columns)
    table = plain.replace_schema_metadata({"pandas": json.dumps(described)})
    pq.write_table(table, tmp_path / "d.parquet")
    for data in (table, tmp_path / "d.parquet"):
        model = jd.fit_model(data, "y")
        assert model.encoding.numbers == ("a",)
        assert model.predict(pa.table({"a": [2.0]}))[0] == pytest.approx(2)
    assert jd.fit_model(plain, "y").encoding.numbers == ("a", "__index_level_0__")
    # A range is no column, and an index with a name is one as others.
    for index in ({"kind": "range", "start": 0, "stop": 8, "step": 1}, "a"):
        table = plain.replace_schema_metadata(
            {"pandas": json.dumps({"index_columns": [index], "columns": []})}
        )
        assert open_source(table).kinds.keys() == columns.keys()
    described = {"pandas": json.dumps({"index_columns": ["__index_level_0__"]})}
    table = plain.select(["__index_level_0__"]).replace_schema_metadata(described)
    with pytest.raises(DataError, match="no columns but pandas' index"):
        open_source(table)


@pytest.mark.parametrize("index", ["pandas", "R", "commas", "two"])
def test_columns_of_csv_without_a_name_are_no_features(tmp_path, rng, index):
    x = rng.normal(size=50)
    y = 2 * x + rng.normal(size=50)
    if index == "pandas":
        pl.DataFrame({"": np.arange(50), "x": x, "y": y}).write_csv(tmp_path / "d.csv")
    else:
        lines = [("x", "y"), *zip(x.tolist(), y.tolist(), strict=True)]
        forms = {"R": '"{2}","{0}","{1}"\n', "commas": "{0},{1},\n", "two": "{2},{0},{1},{2}\n"}
        text = (forms[index].format(*line, i or "") for i, line in enumerate(lines))
        (tmp_path / "d.csv").write_text("".join(text))
    model = fit_model(tmp_path, "y")
    assert model.encoding.numbers == ("x",)
    np.testing.assert_allclose([*model.weights, model.intercept], np.polyfit(x, y, 1), rtol=1e-9)


def test_an_empty_line_of_a_csv_of_one_column_is_a_row_without_a_value(tmp_path, rng):
    x = rng.normal(size=50)
    model = fit_model({"a": x, "y": 2 * x + 1}, missing="mean")
    (tmp_path / "one.csv").write_text("a\n1\n\n3\n")
    expected = [3, 2 * x.mean() + 1, 7]
    np.testing.assert_allclose(model.predict(tmp_path / "one.csv"), expected, rtol=1e-9)
    with pytest.raises(DataError, match=r"'a' has no value in row 2 of one\.csv"):
        fit_model({"a": x, "y": 2 * x + 1}).predict(tmp_path / "one.csv")
    (tmp_path / "two.csv").write_text("a,b\n1,0\n\n3,0\n")
    np.testing.assert_allclose(model.predict(tmp_path / "two.csv"), [3, 7], rtol=1e-9)


def tables_of(library):
    """The same table as the library's own objects."""
    rows = 30
    numbers = {"a": np.arange(rows) % 7, "b": np.linspace(0, 1, rows)}
    text = {"c": [f"level {i % 3}" for i in range(rows)]}
    y = {"y": 2.0 * numbers["a"] + numbers["b"] + (np.arange(rows) % 3)}
    plain = numbers | text | y
    if library == "pandas":
        pd = pytest.importorskip("pandas")
        frame = pd.DataFrame(plain)
        indexed = frame.set_index(np.arange(rows) ** 2)  # which is no range
        return plain, [frame, indexed, frame.astype({"c": "category"})]
    if library == "duckdb":
        duckdb = pytest.importorskip("duckdb")
        table = pa.table(plain)
        own = duckdb.connect()
        own.register("t", table)
        return plain, [own.sql("select * from t"), own.sql("from t where true")]
    frame = pl.DataFrame(plain)
    return plain, [frame, frame.with_columns(pl.col("c").cast(pl.Categorical)), pa.table(plain)]


@pytest.mark.parametrize("library", ["polars", "pandas", "duckdb"])
def test_tables_of_other_libraries_are_fitted_as_they_are(library):
    plain, tables = tables_of(library)
    for table in tables:
        for options in ({}, {"method": "cg"}, {"where": "a < 6"}):
            own = dict(options)
            kept = plain["a"] < 6 if "where" in own else np.ones(30, bool)
            model = jd.fit_model(table, "y", categorical="c", l2=1e-6, **own)
            assert model.metrics["train"]["rows"] == kept.sum()
            assert model.encoding.numbers == ("a", "b")  # and no index
            predicted = model.predict(table)
            np.testing.assert_allclose(predicted, plain["y"], atol=2e-3)


class TestParquetPages:
    """What headers of pages say, against the sums that a file's metadata hold."""

    @pytest.mark.parametrize("seed", range(12))
    def test_pages_are_all_of_a_column(self, seed):
        rng = np.random.default_rng(seed)
        rows, width = int(rng.integers(1, 3000)), int(rng.choice([0, 3, 50, 2000]))
        kinds = int(rng.choice([5, 10**6]))
        texts = [
            f"{rng.integers(kinds):06d}" * (width // 6) if rng.random() > 0.1 else None
            for _ in range(rows)
        ]
        table = pa.table(
            {
                "t": pa.array(texts, pa.string()),
                "n": rng.normal(size=rows),
                "b": rng.random(rows) > 0.5,
            }
        )
        file = io.BytesIO()
        names = "use_dictionary", "write_page_checksum", "write_page_index"
        pq.write_table(
            table,
            file,
            compression=str(rng.choice(["snappy", "zstd", "none", "gzip"])),
            data_page_version=str(rng.choice(["1.0", "2.0"])),
            row_group_size=-(-rows // int(rng.integers(1, 4))),
            data_page_size=int(rng.choice([100, 10_000, 1 << 20])),
            **{name: bool(rng.integers(2)) for name in names},
        )
        metadata = pq.ParquetFile(file).metadata
        for group in range(metadata.num_row_groups):
            for column in map(metadata.row_group(group).column, range(3)):
                pages = list(pages_of(file, column))
                own = [page for page in pages if not page.is_dictionary]
                assert sum(page.values for page in own) == column.num_values
                total, headers = sum(page.bytes for page in pages), 8000 * len(pages)
                assert total <= column.total_uncompressed_size <= total + headers
                assert column.has_dictionary_page == (len(own) < len(pages))

    @pytest.mark.parametrize("form", ["parquet", "feather"])
    def test_files_of_many_columns_are_opened_a_few_times(self, tmp_path, form, monkeypatch):
        """Opening takes as long as there are columns: once for each would take minutes."""
        module, opened = parquet.ParquetFiles if form == "parquet" else grouped_files, []
        before = module._opened
        names = [f"c.{j}" for j in range(300)]
        texts = [f"{i:08d}" * 20 for i in range(50)]
        table = pa.table(dict.fromkeys(names, texts))
        if form == "parquet":
            pq.write_table(table, tmp_path / "d.parquet", use_dictionary=False)
        else:
            with pa.ipc.new_file(tmp_path / "d.feather", table.schema) as writer:
                writer.write_table(table, max_chunksize=20)

        def noted(*arguments):
            opened.append(arguments)
            return before(*arguments)

        monkeypatch.setattr(module, "_opened", noted)
        source = open_source(tmp_path)
        alone = source.reading_bytes(names[:1], 10)
        assert alone > 8 * 10 * 160
        assert source.reading_bytes(names, 10) == 300 * alone
        assert len(opened) < 70

    def test_text_is_read_as_a_dictionary_where_it_is_stored_as_one(self, tmp_path):
        table = pa.table({"few": ["a", "b"] * 200_000, "many": [f"id-{i}" for i in range(400_000)]})
        pq.write_table(table, tmp_path / "d.parquet")
        source = open_source(tmp_path / "d.parquet")
        block = next(source.blocks(["few", "many"], 1000))
        assert pa.types.is_dictionary(block.columns["few"].type)
        assert pa.types.is_string(block.columns["many"].type)
        assert source.row_bytes(["few"]) == 64
        # A page of texts has their bytes, here nine or fewer, and four for the length of each.
        assert source.row_bytes(["many"]) == 64 + 9 + 4

    def test_text_in_small_row_groups_has_its_width(self, tmp_path):
        texts = [f"{i:01000}" for i in range(4000)]
        for name, width in (("plain", 1000 + 4), ("levels", 0), ("mixed", 3000)):
            table = pa.table({"t": ["x" * 3000] * 4000 if name == "mixed" else texts})
            path = tmp_path / name
            path.mkdir()
            pq.write_table(
                table, path / "a.parquet", row_group_size=100, use_dictionary=name != "plain"
            )
            if name == "mixed":
                pq.write_table(
                    pa.table({"t": ["y"] * 10}), path / "b.parquet", use_dictionary=False
                )
            source = open_source(path)
            assert width <= source.row_bytes(["t"]) - 64 < 1.05 * width + 1
            # A block that ends with its group leaves the groups read with it in memory.
            assert source.reading_bytes(["t"], 4000) > len(texts) * len(texts[0])


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
@pytest.mark.parametrize("rows", [3, 2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_quotation_mark_that_is_not_closed_up_to_the_end_is_refused(tmp_path, rows, ending):
    path = tmp_path / f"d.{ending}"
    opened = gzip.open if ending.endswith("gz") else open
    for place in (0, 1, rows // 2, rows - 1):
        lines = [f"{i},word {i}\n" for i in range(rows)]
        lines[place] = lines[place].replace(",", ',"')
        with opened(path, "wt") as file:
            file.write("a,t\n" + "".join(lines))
        for columns in (["a"], ["t"], ["a", "t"]):
            with pytest.raises(DataError, match=r"quotation mark (that is not closed|missing)"):
                sum(block.rows for block in located(open_source(path), columns, 1000))


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize(
    "last", ['"', '"word', '"a, b', '"say ""hi""', '"a\nb', '"""', '"\n', '"12', '"true']
)
def test_a_file_that_ends_within_quotation_marks_is_refused(tmp_path, last, is_read):
    known = last[1:] if last[1:] in ("12", "true") else "word"
    for before, row in (("a,t\n1,{}\n2,", 2), ("t\n{}\n{}\n", 3), ('a,t\n"x\ny",{}\n"b",', 2)):
        (tmp_path / "d.csv").write_text(before.replace("{}", known) + last, newline="")
        source = open_source(tmp_path / "d.csv")
        with pytest.raises(DataError, match=f"row {row} has a quotation mark that is not closed"):
            list(located(source, ["t"] if is_read else list(source.kinds)[:1], 1000))


@pytest.mark.parametrize("end", ["", "\n", "\r\n\r\n"])
@pytest.mark.parametrize(
    "last",
    [
        '"two\nlines"',
        '"two\nlines "" "',
        '"two\nlines with """',
        '"x"',
        '"\n"',
        '5" pipe',
        '""',
        '"x,"',
        '"x,"""',
    ],
)
def test_values_of_several_lines_are_closed(tmp_path, last, end):
    rows = 150_000
    text = "a,t\n" + "".join(f'{i},"one\nand {i % 3}"\n' for i in range(rows))
    (tmp_path / "d.csv").write_bytes((text + f"7,{last}{end}").encode())
    source = open_source(tmp_path / "d.csv")
    assert sum(block.rows for block in located(source, ["a"], 5000)) == rows + 1


def test_bits_of_parquet_that_have_flipped_are_noticed_where_pages_have_checksums(tmp_path, rng):
    path, values = tmp_path / "d.parquet", rng.normal(size=50)
    options = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}
    pq.write_table(pa.table({"a": values, "y": values}), path, **options)
    whole = path.read_bytes()
    at = whole.index(values[20:22].tobytes())
    path.write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])
    with pytest.raises(DataError, match=r"d\.parquet cannot be read: .*CRC"):
        list(located(open_source(path), ["a", "y"], 20))


def test_folders_say_which_of_their_links_cannot_be_read(tmp_path):
    folder, other = tmp_path / "d", tmp_path / "other"
    folder.mkdir(), other.mkdir()
    (folder / "a.csv").write_text("a\n1\n")
    (other / "b.csv").write_text("a\n2\n")
    assert sum(block.rows for block in located(open_source(folder), ["a"], 10)) == 1
    for make, said in (
        (lambda path: path.symlink_to(other), "x.csv is a link to a folder, which is not followed"),
        (lambda path: path.symlink_to(tmp_path / "none"), "x.csv is a link to nothing: remove it"),
        (os.mkfifo, "x.csv is no file: remove it"),
        (lambda path: os.link(folder / "a.csv", path), "x.csv is named twice, as .*a.csv too"),
        (lambda path: path.with_suffix(".csv.bz2").touch(), "x.csv.bz2 is packed in a way that"),
        (lambda path: path.with_suffix(".csv.Z").touch(), "x.csv.Z is packed in a way that"),
        (lambda path: path.with_suffix(".csv.lzma").touch(), "x.csv.lzma is packed in a way that"),
    ):
        make(folder / "x.csv")
        with pytest.raises(DataError, match=said):
            open_source(folder)
        (made,) = folder.glob("x.*")
        hidden = made.rename(folder / "_x.csv")  # as is hidden, it is none of the data
        open_source(folder)
        hidden.unlink()
    (folder / "x.csv").symlink_to(other / "b.csv")
    assert sum(block.rows for block in located(open_source(folder), ["a"], 10)) == 2
    (folder / "c.csv.gz").write_bytes(gzip.compress(b"a\n3\n"))
    assert sum(block.rows for block in located(open_source(folder), ["a"], 10)) == 3


def test_pipes_and_names_that_are_not_utf_8_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe.csv is no file: write its rows to one"):
        open_source(tmp_path / "pipe.csv")
    name = os.fsencode(tmp_path) + b"/caf\xe9.csv"
    with open(name, "w") as file:
        file.write("a\n1\n")
    with pytest.raises(DataError, match=r"the name is not UTF-8: rename it"):
        open_source(name)


def test_folders_named_key_value_are_no_columns(tmp_path, rng):
    """Spark and pyarrow write them for columns that they leave out of the files."""
    x = rng.normal(size=90)
    for number, year in enumerate((2019, 2020, 2021)):
        (tmp_path / f"year={year}" / "month=1").mkdir(parents=True)
        own = slice(30 * number, 30 * number + 30)
        table = pa.table({"x": x[own], "y": 3 * x[own] + year})
        pq.write_table(table, tmp_path / f"year={year}" / "month=1" / "part-0.parquet")
    source = open_source(tmp_path)
    assert list(source.kinds) == ["x", "y"]
    read = np.concatenate([block.columns["x"] for block in located(source, ["x"], 7)])
    np.testing.assert_array_equal(read, x)
    with pytest.raises(DataError, match="no column 'year'"):
        jd.fit_model(tmp_path, "y", categorical=("year",))
    assert jd.fit_model(tmp_path, "y").encoding.numbers == ("x",)


@pytest.mark.parametrize("name", ["D.CSV.GZ", "D.Csv.Zst", "d.csv"])
@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_packed_csv_is_unpacked_whatever_its_name(tmp_path, name, codec):
    with pa.CompressedOutputStream(str(tmp_path / name), codec) as file:
        file.write(b"a,y\n1,2\n3,6\n5,10\n")
    assert fit_model(tmp_path / name, "y").weights == pytest.approx([2.0])


def test_a_batch_without_rows_changes_nothing(rng):
    """Sums are shifted by the means of the first block, which has rows."""
    x = 1e9 + rng.normal(size=200)
    y = 3 * (x - 1e9) + 7 + 0.1 * rng.normal(size=200)
    rows = pa.table({"x": x, "y": y})
    batches = [rows.slice(0, 0), rows.slice(0, 120), rows.slice(0, 0), rows.slice(120)]
    table = pa.concat_tables(batches)
    assert [block.rows for block in located(open_source(table), ["x"], 100)] == [100, 20, 80]
    slope = np.polyfit(x - 1e9, y, 1)[0]
    assert fit_model(table, "y").weights[0] == pytest.approx(slope, rel=1e-6)
    looked = look_at(open_source(table), Memory.of(None), ProgressListener())
    assert looked.columns["x"].first[0] == x[0]


def test_a_source_is_of_the_form_of_its_class_or_of_the_one_it_extends():
    class Loader(Source):
        kinds: ClassVar = {"a": Kind.NUMBER}

        def blocks(self, names, rows):
            yield {"a": np.arange(3.0)}

    class Other(Loader):
        pass

    class Special(ParquetFiles):
        pass

    assert (Loader().form, Other().form, Special.form) == ("Loader", "Other", "Parquet")
    del Loader.kinds
    with pytest.raises(TypeError, match="Loader must have an attribute `kinds`"):
        open_source(Loader())
