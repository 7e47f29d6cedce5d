"""Rows that are counted part by part, and then shared: the same ones in the same order as one
reader has, wherever parts and blocks begin.
"""

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxdescent.data import DataError, csv_files, filters, located, open_source
from jaxdescent.data.shares import Share
from jaxdescent.fit.shared_rows import are_full


def counted(source, parts):
    """What each of so many processes comes to know, which look at their parts at the same time."""
    barrier, said = threading.Barrier(parts, timeout=30), [b""] * parts

    def look(part):
        def tell(content):
            said[part] = content
            barrier.wait()
            found = list(said)
            barrier.wait()
            return found

        try:
            return source.counted(part, parts, tell)
        except DataError:
            barrier.abort()  # as an error in one process ends all
            raise

    with ThreadPoolExecutor(parts) as pool:
        looks = [pool.submit(look, part) for part in range(parts)]
    for each in looks:
        if isinstance(each.exception(), DataError):
            raise each.exception()
    return [each.result() for each in looks]


def shares(source, parts):
    known = counted(source, parts)
    assert len({each.rows for each in known}) == 1
    cuts = [known[0].rows * part // parts for part in range(parts + 1)]
    return [Share(*each) for each in zip(known, cuts[:-1], cuts[1:], strict=True)]


def rows_of(source, names, size, number=0, row=0):
    """Each row's number, values and place."""
    return [
        (block.start + row, *(block.columns[name][row] for name in names), block.place(row))
        for block in located(source, names, size, row, number=number)
        for row in range(block.rows)
    ]


def assert_shared(source, names, parts, size):
    """All parts together have what one reader has; each of them can be entered at any row too."""
    expected = rows_of(source, names, 1000)
    of_each = shares(source, parts)
    found = [row for each in of_each for row in rows_of(each, names, size, each.first)]
    assert [row[:-1] for row in found] == [row[:-1] for row in expected]
    # A row's place is that in its file.
    assert [row[-1] for row in found] == [row[-1].split("(")[-1].rstrip(")") for row in expected]
    for each in of_each:
        assert each.rows in (len(expected) // parts, -(-len(expected) // parts))
        for row in {0, each.rows // 2, max(each.rows - 1, 0)} if each.rows else ():
            begin = each.start_before(row)
            assert begin <= row
            rest = rows_of(each, names, size, each.first, begin)
            assert rest == found[each.first + begin : each.stop]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 60),
    kept=st.sampled_from(["none", "one", "first", "last", "some", "all"]),
    parts=st.integers(1, 6),
    size=st.integers(1, 9),
)
def test_rows_that_meet_a_condition_are_shared(seed, rows, kept, parts, size):
    rng = np.random.default_rng(seed)
    met = np.zeros(rows, np.int64)
    if kept == "one":
        met[rng.integers(rows)] = 1
    elif kept == "some":
        met[:] = rng.random(rows) < 0.5
    else:
        first, last = slice(rows // 3 + 1), slice(-2, None)
        met[{"none": slice(0), "first": first, "last": last, "all": slice(None)}[kept]] = 1
    source = open_source({"met": met, "number": np.arange(rows)}, where="met = 1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "COUNTED_ROWS", 4)
        if not met.any():
            with pytest.raises(DataError, match="no row meets --where 'met = 1': nothing is left"):
                counted(source, parts)
            return
        assert_shared(source, ["number"], parts, size)
        assert counted(source, parts)[0].rows == met.sum()


@given(rows=st.integers(1, 200), count=st.integers(1, 40))
def test_full_shares_have_their_rows_in_one_order_without_gaps(rows, count):
    size = -(-rows // count)
    sizes = [min(size, max(rows - size * index, 0)) for index in range(count)]
    assert sum(sizes) == rows
    assert are_full(rows, count) == (min(sizes) > 0)


def test_a_share_begins_near_its_first_row(monkeypatch):
    """Of what comes before no more is read than is counted at a time."""
    monkeypatch.setattr(filters, "COUNTED_ROWS", 10)
    source = open_source({"a": np.arange(1000)}, where="a >= 500")
    assert source.rows is None
    assert source.start_before(700) == 0
    known = counted(source, 4)[2]
    assert (known.rows, known.looks) == (500, 1)
    assert known.start_before(377) == 370
    assert next(located(known, ["a"], 5, 370)).columns["a"].tolist() == [*range(870, 875)]


def test_groups_of_rows_keep_their_numbers_where_some_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(filters, "COUNTED_ROWS", 8)
    # One reader passes over whole groups by their statistics.
    a = np.repeat([1.0, 5.0, 2.0, 7.0, 1.0, 3.0], 20)
    table = pa.table({"a": a, "t": [f"t{k}" for k in range(120)]})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=20)
    pq.write_table(table.slice(30, 50), tmp_path / "e.parquet", row_group_size=7)
    source = open_source(tmp_path, where="a > 2 and t != t25").offering(["a", "t"], ["t"])
    for parts in (1, 2, 3, 5):
        assert_shared(source, ["a", "t"], parts, 6)
    assert source.can_share(4)
    assert not open_source(tmp_path / "e.parquet", where="a > 2").can_share(50)


def test_what_gives_its_rows_from_the_first_on_is_not_counted():
    table = pa.table({"a": [1.0, 2.0]})
    for data in (table, table.to_reader()):
        source = open_source(data, where="a > 1")
        assert not source.can_share(2)
    assert counted(open_source(table.to_reader(), where="a > 1"), 2)[0].rows is None


VALUES = st.sampled_from(
    ["", '""', '"a, b"', '"say ""x"""', '5" x', "NA", "é", "word", '"a\rb"', '"\n\n"']
)


def lines_of(rng, rows, first, values):
    """Lines of numbered rows, some of them empty, with several ends."""
    end = rng.choice(["\n", "\r\n", "\r"])
    lines = []
    for row in range(first, first + rows):
        lines += [""] * (rng.random() < 0.1) + [f"{row},{values[row % len(values)]},{row / 4}"]
    text = end.join(lines) + end * int(rng.integers(0, 3))
    mark = rng.choice(["", "\ufeff"])
    return f"{mark}{end * int(rng.integers(0, 3))}n,t,f{end}" + text


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.lists(st.integers(0, 25), min_size=1, max_size=4),
    values=st.lists(VALUES, min_size=1, max_size=3),
    parts=st.integers(1, 6),
    size=st.integers(1, 9),
    chunk=st.sampled_from([300, 1000]),
)
def test_rows_of_csv_are_shared(tmp_path_factory, seed, rows, values, parts, size, chunk):
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("csv")
    rows[0] += 1  # the first file must have rows
    for index, count in enumerate(rows):
        text = lines_of(rng, count, sum(rows[:index]), values).encode()
        is_packed = rng.random() < 0.3
        path = folder / f"{index}.csv{'.gz' * is_packed}"
        path.write_bytes(gzip.compress(text) if is_packed else text)
    with pytest.MonkeyPatch.context() as patch:
        try:
            source = open_source(folder)
        except DataError as error:  # text that looks like numbers in one file alone
            assume("different columns" not in str(error))
            raise
        patch.setattr(csv_files, "CHUNK_BYTES", chunk)
        assert_shared(source.offering((), ["t"]), ["n", "t", "f"], parts, size)
        assert counted(source, parts)[0].rows == sum(rows)
        patch.setattr(filters, "COUNTED_ROWS", 3)
        some = f"n >= {rows[0] // 2} and n != {rows[0] - 1} or n = 0"
        assert_shared(open_source(folder, where=some), ["n", "f"], parts, size)


def message_of(source, parts, names):
    """What each share says that fails while it is read."""
    said = []
    for share in shares(source, parts):
        try:
            rows_of(share, names, 7)
        except DataError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,oops", r"row 78, column 'y': 'oops' is not a number"),
        ("oops,1", r"row 78, column 'x': 'oops' is not a number"),
        ("1,2,3", r"row 78 has 3 columns, and the header 2: is a quotation mark missing?"),
    ],
)
def test_errors_in_a_share_name_the_row_of_the_file(tmp_path, monkeypatch, ending, line, message):
    monkeypatch.setattr(csv_files, "CHUNK_BYTES", 50)  # the beginning of a file tells its kinds
    lines = ["x,y", *(f"{k},{k}" for k in range(100))]
    for name in "ab":
        text = "\r\n".join(lines).encode()
        packed = gzip.compress(text) if ending == "csv.gz" else text
        (tmp_path / f"{name}.{ending}").write_bytes(packed)
        lines[78] = line  # row 78: the header is no row
    source = open_source([tmp_path / f"{name}.{ending}" for name in "ab"])
    with pytest.raises(DataError) as alone:
        rows_of(source, ["x", "y"], 7)
    assert f"b.{ending}: {message}" in str(alone.value)
    for parts in (1, 2, 5):
        if "number" in message:
            said = message_of(source, parts, ["x", "y"])
        else:
            with pytest.raises(DataError) as error:
                counted(source, parts)
            said = [str(error.value)]
        assert {*said} == {str(alone.value)}


def test_columns_in_another_order_keep_their_names(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "CHUNK_BYTES", 50)
    rows = [f"{k},{-k}" for k in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["x,y", *rows]))
    (tmp_path / "b.csv").write_text("\n".join(["y,x", *rows]))
    (tmp_path / "c.csv").write_text("y,x\n")
    (tmp_path / "d.csv").write_text("\n".join(["y,x", *rows, "oops,5"]))
    source = open_source([tmp_path / f"{name}.csv" for name in "abc"])
    assert_shared(source, ["x", "y"], 3, 8)
    source = open_source([tmp_path / f"{name}.csv" for name in "ad"])
    for said in (*message_of(source, 4, ["x", "y"]), *message_of(source, 1, ["x", "y"])):
        assert "d.csv: row 61, column 'y': 'oops' is not a number" in said


def test_files_without_rows_and_long_lines(tmp_path, monkeypatch):
    blank = "\n" * 60
    (tmp_path / "a.csv").write_text(f'{blank}"x",y\n1,{"2" * 30}\n\n1,{"3" * 30}')
    (tmp_path / "b.csv").write_text("x,y\r")
    (tmp_path / "c.csv").write_text("x,y\n\n\n\n")
    for parts in (1, 2, 3, 7):
        assert_shared(open_source(tmp_path), ["x", "y"], parts, 3)
    (tmp_path / "d.csv").write_text(f"x,y\n1,{'2' * 100}\n")
    source = open_source(tmp_path / "d.csv")
    monkeypatch.setattr(csv_files, "CHUNK_BYTES", 20)
    with pytest.raises(DataError, match="a row of more than 20 bytes, which is not read as CSV"):
        counted(source, 2)


def test_a_share_of_several_files_is_entered_at_a_file(tmp_path):
    rows, each = 1000, [300, 0, 500, 200]
    begins = [0, 300, 300, 800]
    for number, (begin, count) in enumerate(zip(begins, each, strict=True)):
        text = "\n".join(["n,x", *(f"{k},{k % 7}" for k in range(begin, begin + count)), ""])
        (tmp_path / f"{number}.csv").write_text(text)
    source = open_source(tmp_path)
    assert (source.rows, source.start_before(9), source.looks) == (None, 0, 0)
    known = counted(source, 3)[1]
    assert (known.rows, known.looks) == (rows, 1)
    for row, begin in ((0, 0), (299, 0), (300, 300), (799, 300), (800, 800), (999, 800)):
        assert known.start_before(row) == begin
        block = next(located(known, ["n"], 10, begin))
        assert block.columns["n"].to_pylist() == [*range(begin, begin + 10)]
        assert block.place(0).split("(")[-1].rstrip(")").startswith("row 1 of ")
