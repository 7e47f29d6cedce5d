"""Conditions on rows, in every kind of source."""

import datetime
import decimal
import functools
import operator
import re
import struct
from fractions import Fraction

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

import jaxdescent as jd
from jaxdescent.data import DataError, Filtered, Kind, Source, located, open_source
from jaxdescent.data.filters import condition_of
from tests.files import loader

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


def kept(data, condition, name="y", rows=64):
    """The values in the rows that meet the condition."""
    blocks = located(Filtered(open_source(data), condition), [name], rows)
    return [value for block in blocks for value in np.asarray(block.columns[name]).tolist()]


@pytest.fixture(params=["parquet", "groups", "csv", "polars", "loader"])
def form(request, table, tmp_path):
    if request.param == "polars":
        return table
    if request.param == "loader":
        names = "m", "x", "t", "y"
        kinds = {name: open_source(table).kinds[name] for name in names}
        parts = [table[start : start + 37] for start in range(0, ROWS, 37)]
        return loader(kinds, *({name: part[name].to_numpy() for name in names} for part in parts))
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
    "m = 1 or m = 3 and y < 320 OR c = a and m > 8": (
        (pl.col("m") == 1)
        | ((pl.col("m") == 3) & (pl.col("y") < 320))
        | ((pl.col("c") == "a") & (pl.col("m") > 8))
    ),
    "(m = 1 or (m=3)) and y < 320": pl.col("m").is_in([1, 3]) & (pl.col("y") < 320),
    "x is missing or n is not missing and n < 9": pl.col("x").is_nan() | (pl.col("n") < 9),
    "c IS MISSING and m != 4": pl.col("c").is_null() & (pl.col("m") != 4),
    "d > '2013-02-01 12:30' and d <= 2013-02-03": pl.col("d").is_between(
        datetime.date(2013, 2, 2), datetime.date(2013, 2, 3)
    ),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_same_rows_meet_it_in_every_source(form, table, condition):
    source = open_source(form)
    needs_text = re.search(r"\b[cdn]\b", condition)
    if needs_text and isinstance(form, Source):
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
    # Missing values are no reason to read a group.
    with_gap = table.with_columns(
        k=pl.when(pl.col("y") != 7).then(pl.col("m")),
        h=pl.when(pl.col("y") % 2 == 0).then(pl.format("h{}", "m")),
    )
    pq.write_table(with_gap.to_arrow(), tmp_path / "d.parquet", row_group_size=100)
    read = []
    before = pq.ParquetFile.iter_batches

    def noted(self, *arguments, row_groups, **options):
        read.extend(row_groups)
        return before(self, *arguments, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    for condition, groups in (
        ("m = 7", [7]), ("m < 2 and c = a", [0, 1]), ("m > 2 and y < 450", [3, 4]),
        ("m != 5 and d > 2013-03-01", [6, 7, 8, 9]),
        ("m = 1 or d > 2013-04-01 or n < 250 and y >= 200", [1, 2, 9]),
        ("k = 1 or n >= 900", [1, 9]),
        ("k != 0 and k <= 2", [1, 2]),
        ("h = 'h3' or h > h8", [3, 9]),
        ("(m = 1 or m = 3 or x is missing) and c is not missing", [*range(10)]),  # NaN is missing
        ("(m = 1 or k is missing) and t is not missing", [0, 1]),
    ):  # fmt: skip
        read.clear()
        assert kept(tmp_path / "d.parquet", condition)
        assert read == groups


@pytest.mark.parametrize("ends", [(np.nan, np.nan), (np.nan, 8.0), (1.0, np.nan)], ids=str)
@pytest.mark.parametrize("op", ["<", ">", "=", "!="])
def test_bounds_that_are_nan_hide_no_rows(tmp_path, ends, op):
    """Some writers leave them, and Parquet's specification says that they say nothing."""
    path = tmp_path / "d.parquet"
    table = pa.table({"x": [1.0, 3.0, 5.0, 8.0]})
    pq.write_table(table, path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    # The length of the footer, which has the statistics, stands before the last four bytes.
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    rows, footer = content[:at], content[at:]
    for own, bound in zip((1.0, 8.0), ends, strict=True):
        footer = footer.replace(struct.pack("<d", own), struct.pack("<d", bound))
    path.write_bytes(rows + footer)
    known = pq.read_metadata(path).row_group(0).column(0).statistics
    np.testing.assert_array_equal([known.min, known.max], ends)
    met = [x for x in (1.0, 3.0, 5.0, 8.0) if COMPARISONS[op](x, 5)]
    assert kept(path, f"x {op} 5", "x", 4) == met


def test_a_text_that_says_nan_is_missing():
    condition = condition_of("x != 5", {"x": Kind.NUMBER})
    met = condition.is_met({"x": pa.array(["NAN", "3", None])})
    assert met.tolist() == [False, True, False]


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


@pytest.mark.slow
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
        ("m", "cannot be read: expected is COLUMN OP VALUE or COLUMN is "),
        ("m <", "cannot be read"),
        ("", "cannot be read"),
        ("<= 3", "cannot be read"),
        ("m < < 3", "cannot be read"),
        ("m < 3 and", "cannot be read"),
        ("m < 3 or", "cannot be read"),
        ("(m < 3", "cannot be read"),
        ("m < 3)", r"cannot be read at '\)'"),
        ("()", r"cannot be read at '\)'"),
        ("m is 3", "cannot be read at 'is'"),
        ("m is not", "cannot be read at 'is'"),
        ("m missing", "cannot be read at 'missing'"),
        ("mm is missing", "no column 'mm': did you mean 'm'"),
        ("(" * 200 + "m < 3" + ")" * 200, "more than 100 parentheses"),
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


MINUTE = datetime.timedelta(minutes=1)
EPOCH = datetime.datetime(2013, 6, 30)
TYPES = {
    "i": (pa.int64(), st.integers(-3, 3) | st.sampled_from([2**53, 2**53 + 1, -(2**63)])),
    "f": (pa.float32(), st.sampled_from([-1.5, 0.1, 0.5, float("nan")])),
    "b": (pa.bool_(), st.booleans()),
    "s": (pa.string(), st.sampled_from(["", "a", "b b", "a)", "or", "missing"])),
    "g": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["a", "b", "c"])),
    "c": (pa.decimal128(6, 2), st.sampled_from([decimal.Decimal(k) / 4 for k in range(-4, 5)])),
    "d": (pa.date32(), st.integers(-2, 2).map(lambda k: EPOCH.date() + 1440 * k * MINUTE)),
    "t": (pa.timestamp("ns"), st.integers(-2, 2).map(lambda k: EPOCH + 700 * k * MINUTE)),
    "u": (pa.timestamp("s", "UTC"), st.integers(-2, 2).map(lambda k: EPOCH + 40 * k * MINUTE)),
    "h": (pa.time32("ms"), st.integers(0, 3).map(lambda k: datetime.time(12, 20 * k % 60, k))),
}
COMPARED = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
            "=": pc.equal, "!=": pc.not_equal}  # fmt: skip


COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
               "=": operator.eq, "==": operator.eq, "!=": operator.ne}  # fmt: skip


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 12))
    columns = {
        name: pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), of_type)
        for name, (of_type, values) in TYPES.items()
    }
    return pa.table(columns | {"y": np.arange(float(rows))})


@st.composite
def conditions(draw, depth=2):
    """A condition as text, and a function from a table to the rows that meet it by pyarrow."""
    if depth and draw(st.booleans()):
        parts = draw(st.lists(conditions(depth=depth - 1), min_size=2, max_size=3))
        word = draw(st.sampled_from(["and", "or"]))
        join = operator.and_ if word == "and" else operator.or_
        text = f" {word} ".join(f"({text})" for text, _ in parts)
        return text, lambda table: functools.reduce(join, (mask(table) for _, mask in parts))
    name = draw(st.sampled_from(sorted(TYPES)))
    values = TYPES[name][1]
    if not draw(st.integers(0, 3)):
        op = draw(st.sampled_from(["is missing", "is not missing"]))

        def absent(table):
            missing = table[name].is_null(nan_is_null=True).to_numpy()
            return missing if op == "is missing" else ~missing

        return f"{name} {op}", absent
    op = draw(st.sampled_from(sorted(COMPARED)))
    value = draw(values.filter(lambda value: str(value) != "nan"))
    shown = str(value) if name in "ifc" else str(value).lower() if name == "b" else f"'{value}'"

    def met(table):
        column = table[name]
        if name == "g":
            column = column.cast(pa.string())
        mask = COMPARED[op](column, pa.scalar(value, column.type)).fill_null(False).to_numpy()
        return mask & ~column.is_null(nan_is_null=True).to_numpy()

    return f"{name} {op} {shown}", met


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(tables(), conditions(), st.integers(1, 5))
def test_any_condition_is_that_of_pyarrow(tmp_path_factory, table, condition, group):
    text, met = condition
    expected = table["y"].to_numpy()[met(table)].tolist()
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    pq.write_table(table, path, row_group_size=group)
    for data in (table, path):
        if not expected:
            with pytest.raises(DataError, match="no row meets"):
                kept(data, text, rows=4)
            continue
        assert kept(data, text, rows=4) == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("t = 2013-06-30", [1]),
        ("t = 2013-06-30T00:00:00.000000000", [1]),
        ("t > '2013-06-30 00:00:00.000000001'", [2]),
        ("t < 2262-12-31", [0, 1, 2]),  # beyond what the column can hold
        ("t > 0001-01-01", [0, 1, 2]),
        ("z = 2013-06-30", [1]),  # in the column's own zone
        ("z = 2013-06-29T22:00Z", [1]),
        ("z >= '2013-06-30 00:00+02:00'", [1, 2]),
        ("o = 2013-06-30", [1]),
        ("s >= 2013-06-30", [1, 2, 3]),  # texts that say times are compared as times
        ("s = '2013-06-30 00:00'", [1, 3]),
        ("h >= 12:30", [1, 2]),
        ("n > 00:00:00.0000003", [1, 2]),
        ("n = 00:00:00.0000004", [1]),
        ("d = '2013-06-30 00:00:00'", [1]),
        ("d < '2013-06-30 00:00:01'", [0, 1]),
        ("m != '2013-06-30 12:00'", [0, 1, 2]),
    ],
)
@pytest.mark.parametrize("name", ["d.parquet", None])
def test_times_are_compared_as_times(tmp_path, condition, expected, name):
    hours = datetime.timedelta(hours=5)
    times = [EPOCH - hours, EPOCH, EPOCH + hours, None]
    zoned = [None if t is None else t - datetime.timedelta(hours=2) for t in times]
    table = pa.table(
        {
            "t": pa.array(times, pa.timestamp("ns")),
            "z": pa.array(zoned, pa.timestamp("us", "Europe/Berlin")),
            "o": pa.array(zoned, pa.timestamp("ms", "+02:00")),
            "s": ["2013-06-29 19:00:00", "2013-06-30", "some text", "2013-06-30T00:00:00.0"],
            "h": pa.array([datetime.time(12, 29), datetime.time(12, 30), datetime.time(23), None]),
            "d": pa.array([None if t is None else (EPOCH + 6 * (t - EPOCH)).date() for t in times]),
            "m": pa.array([None if t is None else t.date() for t in times], pa.date64()),
            "n": pa.array([300, 400, 500, None], pa.time64("ns")),
            "y": np.arange(4.0),
        }
    )
    data = table
    if name:
        data = tmp_path / name
        pq.write_table(table, data, row_group_size=1)
    assert kept(data, condition, rows=2) == expected


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("d > soon", "'d' holds dates or times such as 2013-06-30 12:30, and cannot be compared"),
        ("d > 12:30", "'d' holds dates or times"),
        ("d > 2013-02-30", "'d' holds dates or times"),
        ("d > 2013-02-03T24:00", "'d' holds dates or times"),
        ("d > 2013-06-30T12:00Z", "'d' has no time zone, .* leave the zone out"),
        ("l = 1", "'l' holds other, which cannot be compared"),
        ("h > 2013-06-30", "'h' holds times such as 12:30, and cannot be compared"),
    ],
)
def test_times_that_are_none_are_refused(tmp_path, condition, message):
    table = pa.table({"d": [EPOCH], "h": [datetime.time(12)], "l": [[1.0]], "y": [1.0]})
    pq.write_table(table, tmp_path / "d.parquet")
    for data in (table, tmp_path / "d.parquet"):
        with pytest.raises(DataError, match=message):
            kept(data, condition)


@pytest.mark.parametrize(
    ("column", "condition", "expected"),
    [
        (pa.array([f"0.{i}" for i in range(6)]).cast(pa.decimal128(5, 1)), "z = 0.3", [3]),
        (pa.array([f"0.{i}" for i in range(6)]).cast(pa.decimal128(5, 1)), "z <= 0.3", range(4)),
        (pa.array([f"0.{i}" for i in range(6)]).cast(pa.decimal128(5, 1)), "z > 0.3", [4, 5]),
        (pa.array(["0.1", None, "0.3"] * 2).cast(pa.decimal256(50, 9)), "z != 0.3", [0, 3]),
        (pa.array([10**20 + i for i in range(6)], pa.decimal128(30)), f"z > {10**20 + 3}", [4, 5]),
        (pa.array(range(6)).cast(pa.decimal128(20)), "z < 1e300", range(6)),
        (pa.array(range(6)).cast(pa.int64()).dictionary_encode(), "z = 3", [3]),
        (pa.array([10 * i for i in range(6)]).dictionary_encode(), "z > 9", range(1, 6)),
        (pa.array([1.5, None, 10.0] * 2).dictionary_encode(), "z >= 2", [2, 5]),
        (pa.array([2**60 + i for i in range(6)]), f"z <= {2.0**60}", [0]),
        (pa.array([2**60 + i for i in range(6)]), f"z > {2**60 + 3}", [4, 5]),
        (pa.array([2**63 + i for i in range(6)], pa.uint64()), "z > -1e3", range(6)),
        (pa.array(range(6), pa.int8()), "z < 1e300", range(6)),
        (pa.array(np.arange(6, dtype=np.float16)), "z < 1e300", range(6)),
        (pa.array(range(6), pa.float32()), "z > 1e300", []),
    ],
)
def test_numbers_are_compared_as_they_are_written(tmp_path, column, condition, expected):
    table = pa.table({"z": column, "n": range(6)})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=2)
    # A Parquet file keeps a dictionary of numbers as numbers.
    for data in (table, tmp_path / "d.parquet"):
        if not len(expected):
            with pytest.raises(DataError, match="no row meets"):
                kept(data, condition, "n")
            continue
        assert kept(data, condition, "n", 10) == list(expected)


@pytest.mark.parametrize("of_type", [pa.decimal128(38, 3), pa.decimal256(70, 3), pa.int64()])
def test_fractions_of_any_length_are_compared_exactly(of_type):
    """Against Python's fractions, for columns whose digits a float64 does not hold."""
    rng = np.random.default_rng(0)
    whole = pa.types.is_integer(of_type)
    largest = 2**62 if whole else 10 ** (of_type.precision - 8)
    for _ in range(40):
        middle = int(largest * rng.uniform(1e-3, 1))
        near = [f"{middle + k}.{rng.integers(0, 1000):03d}" for k in (-1, 0, 0, 1)]
        texts = [text[:-4] for text in near] if whole else near
        column = pa.array([decimal.Decimal(text) for text in texts]).cast(of_type)
        literal = near[1] + rng.choice(["", "0", "1"])
        for op, compare in COMPARISONS.items():
            met = condition_of(f"z {op} {literal}", {"z": Kind.NUMBER}).is_met({"z": column})
            expected = [compare(Fraction(text), Fraction(literal)) for text in texts]
            assert met.tolist() == expected, (op, literal, texts)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, np.bool_])
def test_whole_numbers_of_any_length_are_compared_exactly(dtype):
    """Against Python, whose comparisons of whole and floating-point numbers are exact."""
    values = [10**400, -(10**400), 2**53 + 1, -(2**53) - 1, 2**24 + 1, 2**63, 2**64 + 1, 0, 3]
    edges = np.array([0, 3, 255, 2**24, 2**24 + 2, 2**53, 2**53 + 2, 2**63, 1e300, np.inf])
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            column = np.concatenate([edges, -edges, [np.nan]]).astype(dtype)
    else:
        column = np.concatenate([edges[:7], -edges[:7]]).astype(np.int64).astype(dtype)
    for value in values:
        for op, compare in COMPARISONS.items():
            met = condition_of(f"a {op} {value}", {"a": Kind.NUMBER}).is_met({"a": column})
            expected = [not np.isnan(x) and bool(compare(x, value)) for x in column.tolist()]
            assert met.tolist() == expected, (op, value)


@pytest.mark.parametrize("kind", ["numbers", "text", "times"])
def test_thousands_of_joined_conditions(tmp_path, kind, rng):
    numbers = rng.integers(0, 10_000, 20_000)
    days = np.datetime64("2000-01-01") + numbers
    column = {"numbers": numbers, "text": [f"w{i}" for i in numbers], "times": days}[kind]
    pq.write_table(pa.table({"a": column}), tmp_path / "d.parquet", row_group_size=10_000)
    wanted = rng.choice(10_000, 3000, replace=False)
    text = {"numbers": wanted, "text": [f"w{i}" for i in wanted],
            "times": np.datetime64("2000-01-01") + wanted}[kind]  # fmt: skip
    for join, op, expected in (
        ("or", "=", np.isin(numbers, wanted)), ("and", "!=", ~np.isin(numbers, wanted))
    ):  # fmt: skip
        where = f" {join} ".join(f"a {op} {value}" for value in text)
        assert len(kept(tmp_path / "d.parquet", where, "a", 1 << 14)) == expected.sum()


def test_a_value_is_compared_as_it_was_written_whatever_was_asked_before():
    """Floats are rounded as the numbers of the column are, whole numbers are not."""
    table = pa.table({"x": pa.array([1.0, 1e20], pa.float32()), "y": [0.0, 1.0]})
    for _ in range(2):
        with pytest.raises(DataError, match="no row meets"):
            kept(table, "x = 100000000000000000000")
        assert kept(table, "x = 1e20") == [1.0]


def test_whole_numbers_of_csv_beyond_float64_are_compared_exactly_or_refused(tmp_path):
    ids, path = [2**53 + i % 4 for i in range(40)], tmp_path / "d.csv"
    path.write_text("id,y\n" + "".join(f"{number},{number % 5}\n" for number in ids))
    table = pa.table({"id": ids, "y": [float(number % 5) for number in ids]})
    for op, rows in (("!=", 30), (">", 20), ("=", 10)):
        where = f"id {op} {2**53 + 1}"
        with pytest.raises(DataError) as refused:
            kept(path, where)
        assert str(refused.value) == (
            f"--where '{where}': 'id' is read as a number, which in row 1 of d.csv may have more "
            "digits than float64 holds: leave it out, or write the data as Parquet."
        )
        assert len(kept(table, where)) == rows
    assert len(kept(path, "id > 5")) == len(kept(path, "id < 9007199254740991 or y >= 0")) == 40
