"""Rows that are counted part by part, and then shared: the same ones in the same order as one
reader has, wherever parts and blocks begin.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdescent.data import DataError, filters, located, open_source
from jaxdescent.data.shares import Share


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

        return source.counted(part, parts, tell)

    with ThreadPoolExecutor(parts) as pool:
        return list(pool.map(look, range(parts)))


def shares(source, parts):
    known = counted(source, parts)
    assert len({each.rows for each in known}) == 1
    cuts = [known[0].rows * part // parts for part in range(parts + 1)]
    return [Share(*each) for each in zip(known, cuts[:-1], cuts[1:], strict=True)]


def rows_of(source, names, size, start=0):
    """Each row's number, values and place."""
    return [
        (block.start + row, *(block.columns[name][row] for name in names), block.place(row))
        for block in located(source, names, size, start)
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
            rest = rows_of(each.from_row(begin), names, size, each.first + begin)
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


def test_a_share_begins_near_its_first_row(monkeypatch):
    """Of what comes before no more is read than is counted at a time."""
    monkeypatch.setattr(filters, "COUNTED_ROWS", 10)
    source = open_source({"a": np.arange(1000)}, where="a >= 500")
    assert source.rows is None
    assert source.start_before(700) == 0
    known = counted(source, 4)[2]
    assert (known.rows, known.looks) == (500, 1)
    assert known.start_before(377) == 370
    assert next(located(known.from_row(370), ["a"], 5)).columns["a"].tolist() == [*range(870, 875)]


def test_groups_of_rows_keep_their_numbers_where_some_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(filters, "COUNTED_ROWS", 8)
    # One reader passes over whole groups by their statistics.
    a = np.repeat([1.0, 5.0, 2.0, 7.0, 1.0, 3.0], 20)
    table = pa.table({"a": a, "t": [f"t{k}" for k in range(120)]})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=20)
    pq.write_table(table.slice(30, 50), tmp_path / "e.parquet", row_group_size=7)
    source = open_source(tmp_path, where="a > 2 and t != t25").as_text(["t"]).offering(["a", "t"])
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
