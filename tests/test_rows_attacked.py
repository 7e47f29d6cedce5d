"""Rows of files that are cut, changed, empty or gone; slices beyond the rows; read ahead."""

import gzip
import itertools
import pathlib
import re
import threading

import numpy as np
import polars as pl
import pytest

import jaxdescent
from jaxdescent.rows import DataError, Kind, Loader, open_source
from jaxdescent.rows.ahead import read_ahead

ROWS = 100
FRAME = pl.DataFrame({"a": np.arange(float(ROWS)), "s": [f"t{i}" for i in range(ROWS)]})
WRITERS = {
    "parquet": lambda frame, path: frame.write_parquet(path, row_group_size=10),
    "arrow": lambda frame, path: frame.write_ipc(path, record_batch_size=10),
    "csv": lambda frame, path: frame.write_csv(path),
    "ndjson": lambda frame, path: frame.write_ndjson(path),
}
BINARY = {"parquet", "arrow"}


def values(source, size=7, row=0, name="a"):
    blocks = list(source.blocks([name], size, row))
    return [value for block in blocks for value in block.numbers([name], np.float64)[:, 0].tolist()]


def svmlight(folder):
    path = folder / "t.svm"
    path.write_text("".join(f"{i} 1:{i}.5 3:2\n" for i in range(ROWS)))
    return path


def npy(folder):
    np.save(folder / "X.npy", np.arange(2.0 * ROWS).reshape(ROWS, 2))
    return folder / "X.npy"


@pytest.fixture(params=WRITERS)
def form(request):
    return request.param


@pytest.fixture
def file(form, tmp_path):
    path = tmp_path / f"t.{form}"
    WRITERS[form](FRAME, path)
    return path


class TestSlices:
    def test_they_are_those_of_a_list(self, file):
        source, expected = open_source(file), list(range(ROWS))
        for first, rows in ((0, 1), (95, 20), (99, 1), (100, 5), (250, 3)):
            own = source.slice(first, rows)
            assert values(own) == expected[first : first + rows]
            assert own.count() == len(expected[first : first + rows])
        inner = source.slice(10, 20).slice(15, 20)
        assert values(inner, 3) == expected[25:30]
        assert values(inner, 3, 4) == [29]
        assert inner.place(2) == f"row 28 of {file.name}"

    @pytest.mark.parametrize("processes", [1, 3, 7, 200])
    def test_shares_of_processes_are_all_rows_once(self, processes, tmp_path):
        def load(row):
            yield from ({"x1": np.arange(i, i + 1.0)} for i in range(row, 5))

        path = tmp_path / "t.csv"
        pl.DataFrame({"x1": np.arange(5.0)}).write_csv(path)
        arrays = open_source({"x1": np.arange(5.0)})
        for source in (arrays, open_source(path), Loader(load)):
            size = -(-5 // processes)
            shares = [source.slice(i * size, size) for i in range(processes)]
            found = [values(share, name="x1") for share in shares]
            assert list(itertools.chain.from_iterable(found)) == list(range(5))

    def test_reading_begins_at_any_row(self, file):
        source = open_source(file)
        for row in (0, 1, 9, 10, 99, 100, 101):
            assert values(source, 7, row) == list(range(row, ROWS))


class TestDamage:
    def test_an_early_end_is_an_error(self, form, file):
        whole = file.read_bytes()
        cuts = [0, 1, len(whole) // 3, len(whole) - 3] if form in BINARY else [0]
        for stop in cuts:
            file.write_bytes(whole[:stop])
            with pytest.raises(
                DataError, match=f"^{re.escape(str(file))} (cannot be read: .+|is empty)"
            ):
                values(open_source(file))

    def test_packed_text_that_ends_early_is_an_error(self, tmp_path):
        path = tmp_path / "t.csv.gz"
        path.write_bytes(gzip.compress(FRAME.write_csv().encode())[:-100])
        with pytest.raises(DataError, match="cannot be read: unexpected end of file"):
            values(open_source(path))

    @pytest.mark.parametrize("change", ["shorter", "longer", "other columns", "gone"])
    def test_files_that_change_between_passes_are_refused(self, form, change, file):
        source = open_source(file)
        assert values(source) == list(range(ROWS))
        if change == "gone":
            file.unlink()
        else:
            frames = FRAME.head(50), pl.concat([FRAME, FRAME]), FRAME.select("s")
            WRITERS[form](frames[["shorter", "longer", "other columns"].index(change)], file)
        for part in (source, source.slice(3, 4)):
            with pytest.raises(DataError, match=f"{re.escape(str(file))} changed since"):
                values(part)

    def test_files_that_change_during_a_pass_are_refused(self, form, file):
        blocks = open_source(file).blocks(["a"], 30)
        next(blocks)
        new = file.with_name(f"new.{form}")  # Polars maps files: one cut in place is a bus error
        WRITERS[form](FRAME.head(60), new)
        new.replace(file)
        with pytest.raises(DataError, match="changed since the data were opened"):
            list(blocks)

    @pytest.mark.parametrize(("written", "name"), [(svmlight, "y"), (npy, "x1")])
    def test_matrices_that_change_are_refused(self, written, name, tmp_path):
        path = written(tmp_path)
        source = open_source(path)
        assert len(values(source, name=name)) == ROWS
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(DataError, match="changed since the data were opened"):
            values(source, name=name)

    def test_rows_that_a_table_lost_are_missed(self):
        source = open_source(FRAME).then(lambda frame: frame.head(40), ROWS)
        with pytest.raises(DataError, match="40 rows were read where 100 are expected"):
            values(source)

    def test_the_first_wrong_text_is_named_with_its_row(self, tmp_path):
        first, last = tmp_path / "t1.csv", tmp_path / "t2.csv"
        pl.DataFrame({"a": np.arange(20_000)}).write_csv(first)
        last.write_text("a\n" + "7\n" * 15_000 + "x\n")
        with pytest.raises(DataError, match=r"^'a' is 'x' in row 15,001 of t2.csv: "):
            values(open_source([first, last]), 1000)


def test_no_rows_and_one_row(form, tmp_path):
    path = tmp_path / f"t.{form}"
    WRITERS[form](FRAME.head(1), path)
    assert values(open_source(path)) == [0]
    if form == "ndjson":
        return  # of no rows no columns are known
    WRITERS[form](FRAME.head(0), path)
    with pytest.raises(DataError, match=r"no rows: there is nothing to read"):
        open_source(path)


@pytest.mark.parametrize("end", ["parquet", "csv", "arrow"])
def test_addresses_are_read_as_paths_are(end, tmp_path):
    path = tmp_path / f"t.{end}"
    WRITERS[end](FRAME, path)
    source = open_source(f"file://{path}")
    assert values(source) == list(range(ROWS))
    assert source.place(3) == f"row 4 of t.{end}"
    with pytest.raises(DataError, match="is named twice: name each address once"):
        open_source([f"file://{path}"] * 2)


@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_long_texts_and_one_group_of_all_rows(end, tmp_path):
    path = tmp_path / f"t.{end}"
    texts = [chr(97 + i % 26) * 100_000 for i in range(200)]
    pl.DataFrame({"a": np.arange(200.0), "s": texts}).write_csv(path) if end == "csv" else (
        pl.DataFrame({"a": np.arange(200.0), "s": texts}).write_parquet(path, row_group_size=200)
    )
    blocks = list(open_source(path).blocks(["s", "a"], 30))
    assert [block.rows for block in blocks] == [30] * 6 + [20]
    assert [text for block in blocks for text in block.column("s")] == texts


def test_nan_and_missing_numbers_are_nan(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": [1.0, None, float("nan"), float("inf")]}).write_parquet(path)
    np.testing.assert_array_equal(values(open_source(path), 3), [1, np.nan, np.nan, np.inf])


def test_batches_of_polars_have_one_caller():
    package = pathlib.Path(jaxdescent.__file__).parent
    callers = [p.name for p in package.rglob("*.py") if ".collect_batches(" in p.read_text()]
    assert callers == ["frames.py"]
    for size in (1, 7, 10, 1000):  # of any length, in order, and the same ones twice
        batches = FRAME.lazy().collect_batches(chunk_size=size, maintain_order=True)
        first = pl.concat(list(batches))
        again = FRAME.lazy().collect_batches(chunk_size=size, maintain_order=True)
        assert first.equals(FRAME)
        assert pl.concat(list(again)).equals(first)


def is_reading():
    return any(thread.name == "jaxdescent-read-ahead" for thread in threading.enumerate())


class TestReadAhead:
    def test_blocks_are_those_of_the_source(self, file):
        source = open_source(file)
        ahead = [block.column("a").to_list() for block in read_ahead(lambda: source.blocks("a", 7))]
        assert ahead == [block.column("a").to_list() for block in source.blocks("a", 7)]
        assert not is_reading()

    def test_one_block_is_read_ahead(self):
        made, third = [], threading.Event()

        def items():
            for i in range(9):
                made.append(i)
                if i == 2:
                    third.set()
                yield i

        ahead = read_ahead(items)
        next(ahead)
        next(ahead)
        assert third.wait(10)
        assert made == [0, 1, 2]
        ahead.close()
        assert made == [0, 1, 2]
        assert not is_reading()

    @pytest.mark.parametrize("error", [DataError("damaged"), KeyboardInterrupt()])
    def test_errors_are_raised_behind_the_blocks_before(self, error):
        def items():
            yield 1
            raise error

        ahead = read_ahead(items)
        assert next(ahead) == 1
        with pytest.raises(type(error)):
            next(ahead)
        assert not is_reading()

    def test_an_interrupt_of_the_caller_ends_the_thread(self):
        with pytest.raises(KeyboardInterrupt):
            self.interrupted()
        assert not is_reading()

    @staticmethod
    def interrupted():
        ahead = read_ahead(lambda: iter(range(9)))
        try:
            for _ in ahead:
                raise KeyboardInterrupt
        finally:
            ahead.close()


def test_numbers_with_a_plus_sign_are_numbers_and_may_be_levels(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,y\n+4,1e3,1\n-5,+2.5,2\n+4,.5,3\n")
    source = open_source(tmp_path / "t.csv")
    assert list(source.kinds.values()) == [Kind.WHOLE, Kind.NUMBER, Kind.WHOLE]
    (block,) = source.blocks(["a", "b"], 9)
    np.testing.assert_array_equal(block.numbers(["a", "b"], np.float64)[:, 1], [1e3, 2.5, 0.5])
    assert source.as_text(["a"]).frame.collect()["a"].to_list() == ["+4", "-5", "+4"]
