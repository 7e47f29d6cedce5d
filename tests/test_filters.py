"""Conditions on rows, in every kind of source."""

import datetime

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LinearRegression

import jaxdescent as jd
from jaxdescent.data import DataError, Filtered, Source, located, open_source

ROWS = 1000


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    x[500] = np.nan
    days = [datetime.date(2013, 1, 1) + datetime.timedelta(days=i // 10) for i in range(ROWS)]
    return pl.DataFrame(
        {
            "m": np.arange(ROWS) // 100,
            "x": x,
            "c": ["a", "b b", None, "and"] * (ROWS // 4),
            "t": [True, False] * (ROWS // 2),
            "d": days,
            "n": [None if i % 3 else float(i) for i in range(ROWS)],
            "y": np.arange(float(ROWS)),
        }
    )


class Loader(Source):
    def __init__(self, table):
        self._table = {n: table[n].to_numpy() for n in ("m", "x", "t", "y")}
        self._kinds = {n: k for n, k in open_source(table).kinds.items() if n in self._table}

    @property
    def kinds(self):
        return self._kinds

    def blocks(self, names, rows):
        for start in range(0, ROWS, 37):
            yield {name: self._table[name][start : start + 37] for name in names}


@pytest.fixture(params=["parquet", "groups", "csv", "polars", "loader"])
def form(request, table, tmp_path):
    if request.param == "polars":
        return table
    if request.param == "loader":
        return Loader(table)
    path = tmp_path / ("d.csv" if request.param == "csv" else "d.parquet")
    if request.param == "csv":
        table.write_csv(path)
    else:
        size = 90 if request.param == "groups" else ROWS
        pq.write_table(table.to_arrow(), path, row_group_size=size)
    return path


CONDITIONS = {
    "m <= 3": pl.col("m") <= 3,
    "m >= 4 and c = 'b b'": (pl.col("m") >= 4) & (pl.col("c") == "b b"),
    "m>2 and m<5.5": (pl.col("m") > 2) & (pl.col("m") < 5.5),
    "`c` != a": pl.col("c").is_not_null() & (pl.col("c") != "a"),
    "c == 'and' AND m == 0": (pl.col("c") == "and") & (pl.col("m") == 0),
    "d >= 2013-02-01": pl.col("d") >= datetime.date(2013, 2, 1),
    "x != 0.5": pl.col("x").is_not_nan(),
    "x < -1e-1": pl.col("x").is_not_nan() & (pl.col("x") < -0.1),
    "t = true": pl.col("t"),
    "n > 30": pl.col("n").is_not_null() & (pl.col("n") > 30),
    "m = 9 and m != 3": pl.col("m") == 9,
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_same_rows_meet_it_in_every_source(form, table, condition):
    source = open_source(form)
    needs_text = condition.strip("`")[0] in "cdn" or "and c" in condition
    if needs_text and isinstance(form, Loader):
        pytest.skip("this loader has numbers alone")
    expected = table.filter(CONDITIONS[condition].fill_null(False))["y"].to_numpy()
    for rows in (64, ROWS):
        blocks = list(located(Filtered(source, condition), ["y"], rows))
        got = np.concatenate([np.asarray(block.columns["y"]) for block in blocks])
        np.testing.assert_array_equal(got, expected)
        assert max(block.rows for block in blocks) <= rows
        starts = np.cumsum([0, *(block.rows for block in blocks)])
        assert [block.start for block in blocks] == starts[:-1].tolist()
        # A row is called by its number in the source.
        for block in blocks:
            place = block.place(block.rows - 1).split(" of ")[0]
            assert place == f"row {int(np.asarray(block.columns['y'])[-1]) + 1:,}"


def test_groups_of_rows_that_hold_none_are_not_read(table, tmp_path, monkeypatch):
    pq.write_table(table.to_arrow(), tmp_path / "d.parquet", row_group_size=100)
    read = []
    before = pq.ParquetFile.iter_batches

    def noted(self, *arguments, row_groups, **options):
        read.extend(row_groups)
        return before(self, *arguments, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    for condition, groups in (
        ("m = 7", [7]), ("m < 2 and c = a", [0, 1]), ("m > 2 and y < 450", [3, 4]),
        ("m != 5 and d > 2013-03-01", [0, 1, 2, 3, 4, 6, 7, 8, 9]),  # not by dates
    ):  # fmt: skip
        read.clear()
        source = Filtered(open_source(tmp_path / "d.parquet"), condition)
        assert sum(block.rows for block in located(source, ["y"], 64)) > 0
        assert read == groups


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("f <= 0.1", 100),
        ("f = 0.1", 100),
        ("f > 0.1", 100),
        ("f < 1e300", 200),
        ("k < 99999999999999999999", 200),
        ("f > -99999999999999999999", 200),
    ],
)
def test_statistics_are_compared_as_rows_are(tmp_path, condition, expected):
    f = np.repeat(np.asarray([0.1, 0.5], np.float32), 100)
    rows = pa.table({"f": f, "k": np.arange(200), "y": np.arange(200.0)})
    pq.write_table(rows, tmp_path / "d.parquet", row_group_size=50)
    for data in (rows, tmp_path / "d.parquet"):
        source = Filtered(open_source(data), condition)
        assert sum(block.rows for block in located(source, ["y"], 64)) == expected


@pytest.mark.parametrize("name", ["d.parquet", "d.csv"])
def test_a_fit_is_that_of_the_rows_that_are_left(table, tmp_path, name):
    whole = table.select("m", "x", "y").filter(pl.col("x").is_not_nan())
    (whole.write_parquet if name == "d.parquet" else whole.write_csv)(tmp_path / name)
    model = jd.fit_model(tmp_path / name, "y", where="m <= 5 and m > 0", test=0.3)
    assert model.metrics["rows_read"] == len(whole.filter(pl.col("m").is_between(1, 5)))
    again = jd.fit_model(whole.filter(pl.col("m").is_between(1, 5)), "y", test=0.3)
    np.testing.assert_allclose(model.weights, again.weights)
    assert model.metrics["held_out"]["rmse"] == pytest.approx(again.metrics["held_out"]["rmse"])
    assert model.options["where"] == "m <= 5 and m > 0"
    assert model.fingerprint.endswith(" where m <= 5 and m > 0")


def test_levels_may_be_compared_as_numbers(table, tmp_path):
    table.select("m", "x", "y").filter(pl.col("x").is_not_nan()).write_csv(tmp_path / "d.csv")
    for method in ("direct", "cg"):
        model = jd.fit_model(
            tmp_path / "d.csv", "y", where="m <= 3", categorical="m", l2=1e-3, method=method
        )
        assert model.encoding.levels == {"m": ("0", "1", "2", "3")}


def test_other_data_have_to_meet_it_too(table):
    whole = table.select("m", "x", "y").filter(pl.col("x").is_not_nan())
    model = jd.fit_model(whole.head(700), "y", test_data=whole.tail(299), where="m != 8 and m != 1")
    assert model.metrics["held_out"]["rows"] == 199
    rows = whole.head(700).filter(pl.col("m") != 1)
    expected = LinearRegression().fit(rows.select("m", "x"), rows["y"])
    np.testing.assert_allclose(model.weights, expected.coef_)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("m", "cannot be read: expected is COLUMN OP VALUE"),
        ("m <", "cannot be read"),
        ("", "cannot be read"),
        ("<= 3", "cannot be read"),
        ("m < < 3", "cannot be read"),
        ("m < 3 and", "cannot be read"),
        ("m < 3 or c = a", "cannot be read at 'or'"),
        ("c = b b", "cannot be read at 'b': .* between quotes"),
        ("m ! 3", "cannot be read at '! 3'"),
        ("c = 'a", 'cannot be read at "\'a"'),
        ("m < a", "'m' is numeric, and cannot be compared with 'a'"),
        ("m < nan", "'m' is numeric, and cannot be compared with 'nan'"),
        ("mm < 3", "no column 'mm': did you mean 'm'"),
        ("m = 55", "no row meets --where 'm = 55': nothing is left"),
        ("y = 5", "at least 2 rows"),
    ],
)
def test_what_cannot_be_read_or_leaves_nothing_is_refused(table, condition, message):
    with pytest.raises(DataError, match=message):
        jd.fit_model(table.select("m", "x", "c", "y"), "y", exclude="c", where=condition)


def test_errors_name_the_row_of_the_file(table, tmp_path):
    table.write_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"'x' is NaN in row 501 of d\.parquet"):
        jd.fit_model(tmp_path / "d.parquet", "y", features="x", where="m = 5")


def test_lists_cannot_be_compared():
    data = pa.table({"l": [[1.0], [2.0]], "y": [1.0, 2.0]})
    with pytest.raises(DataError, match="'l' holds other, which cannot be compared"):
        Filtered(open_source(data), "l = 1")
