"""Columns made of dates, against Python's own calendar and NumPy's least squares."""

import datetime
import json
import zoneinfo

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

import jaxdescent as jd
from jaxdescent.rows import DataError
from tests.commands import shown

ROWS = 900
START = datetime.datetime(2024, 3, 28, 5)
"""Three days before clocks go forward in Berlin."""


@pytest.fixture(name="table")
def hourly(rng):
    when = [START + datetime.timedelta(hours=i) for i in range(ROWS)]
    y = [0.3 * (w - START).total_seconds() / 86_400 + np.sin(w.hour) - w.weekday() for w in when]
    a = rng.normal(size=ROWS)
    return pa.table({"when": when, "a": a, "y": np.array(y) + 2 * a})


def in_zone(table, zone, unit="us"):
    column = table["when"].cast(pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
    return table.set_column(0, "when", column)


def designed(table, clock):
    """The columns that hour, weekday and trend become, by Python's calendar."""
    instants = table["when"].cast(pa.timestamp("us")).to_pylist()
    days = np.array([(w - instants[0]).total_seconds() / 86_400 for w in instants])
    hour = np.array([clock(w).hour for w in instants])
    weekday = np.array([clock(w).weekday() for w in instants])
    return np.column_stack(
        [table["a"], days, hour[:, None] == range(24), weekday[:, None] == range(7), np.ones(ROWS)]
    )


def expected(table, clock=lambda w: w):
    X = designed(table, clock)
    return X @ np.linalg.lstsq(X, table["y"].to_numpy())[0]


def fitted(data, date="when:hour,weekday,trend", **options):
    return jd.fit_model(data, "y", date=date, **options)


class TestParts:
    def test_hours_weekdays_and_days_since_the_first_are_those_of_the_calendar(self, table):
        model = fitted(table)
        assert model.encoding.numbers == ("a", "when.trend")
        assert [len(levels) for levels in model.encoding.levels.values()] == [24, 7]
        np.testing.assert_allclose(model.predict(table), expected(table), atol=1e-9)
        weights = dict(model.named_weights(100))
        assert weights["when.trend"] == pytest.approx(0.3, abs=1e-9)
        step = weights["when.weekday=Mon"] - weights["when.weekday=Sun"]
        assert step == pytest.approx(6, abs=1e-9)

    def test_months_of_days_without_a_clock(self):
        days = [datetime.date(2023, 1, 1) + datetime.timedelta(days=i) for i in range(365)]
        table = pl.DataFrame({"day": days, "y": [float(d.month**2) for d in days]})
        model = jd.fit_model(table, "y", date=["day:month"])
        assert list(model.encoding.levels["day.month"]) == [f"{m:02}" for m in range(1, 13)]
        np.testing.assert_allclose(model.predict(table), table["y"], atol=1e-9)

    def test_parts_cross_with_other_columns_and_may_be_kept_alone(self, table):
        model = fitted(table, "when:hour", features="a", interact="a:when.hour")
        assert set(model.encoding.levels) == {"when.hour", "a:when.hour"}

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["direct", "lsmr"])
    def test_every_way_of_fitting_and_every_format_gives_the_same(self, table, method, tmp_path):
        pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
        pa_csv.write_csv(table, tmp_path / "t.csv")
        for data in (tmp_path / "t.parquet", tmp_path / "t.csv", table):
            model = fitted(data, method=method, dtype="float64")
            np.testing.assert_allclose(model.predict(table), expected(table), atol=1e-4)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"zone": "Europe/Nowhere"}, 'zone must be a time zone, got "Europe/Nowhere"'),
            ({"zone": 3}, "zone must be text, got 3"),
            ({"parts": ["hour", "year"]}, r'parts\[1\] must be one of 4 values, got "year"'),
            ({"last": 2**63}, f"last must be a whole number from {1 - 2**63} to {2**63 - 1}, got"),
            ({"last": -5}, r"last must be at least \d+, got -5"),
        ],
    )
    def test_what_no_fit_writes_is_refused(self, table, tmp_path, change, said):
        path = fitted(table).save(tmp_path / "m") / "model.json"
        content = json.loads(path.read_text())
        content["encoding"]["dates"]["when"] |= change
        path.write_text(json.dumps(content))
        said = rf"model\.json is damaged: encoding\.dates\.when\.{said}"
        with pytest.raises(DataError, match=said):
            jd.load_model(tmp_path / "m")


class TestZones:
    def test_the_clock_is_that_of_the_column(self, table):
        berlin = zoneinfo.ZoneInfo("Europe/Berlin")
        local = in_zone(table, "Europe/Berlin")
        wanted = expected(table, lambda w: w.replace(tzinfo=datetime.UTC).astimezone(berlin))
        model = fitted(local)
        np.testing.assert_allclose(model.predict(local), wanted, atol=1e-9)
        # The same instants in another zone and unit are the same rows.
        np.testing.assert_allclose(model.predict(in_zone(table, "UTC", "ns")), wanted, atol=1e-9)

    def test_texts_show_the_clock_that_they_write(self, table, tmp_path):
        local = in_zone(table, "Europe/Berlin", "s")
        pa_csv.write_csv(local, tmp_path / "t.csv")
        assert "+0100" in (tmp_path / "t.csv").read_text()
        np.testing.assert_allclose(
            fitted(tmp_path / "t.csv").predict(tmp_path / "t.csv"),
            fitted(local).predict(local),
            atol=1e-9,
        )

    @pytest.mark.parametrize(
        ("first", "then", "said"), [("UTC", None, "no time zone"), (None, "UTC", "a time zone")]
    )
    def test_a_zone_in_one_alone_is_refused(self, table, first, then, said):
        model = fitted(in_zone(table, first))
        with pytest.raises(DataError, match=f"'when' has {said} in row 1, and (one|none) in the"):
            model.predict(in_zone(table, then))


class TestWhatIsMissingOrOutside:
    def test_missing_dates_are_missing_values(self, table):
        holes = pl.DataFrame(table).with_columns(
            when=pl.when(pl.int_range(ROWS) % 7 == 0).then(None).otherwise(pl.col("when"))
        )
        with pytest.raises(DataError, match=r"'when\.trend' has no value in row 1: --missing drop"):
            fitted(holes)
        model = fitted(holes, missing="drop")
        assert model.metrics["dropped_rows"] == len(range(0, ROWS, 7))

    def test_a_trend_is_continued_with_a_warning_and_unseen_levels_are_refused(self, table):
        model = fitted(table.slice(0, 400))
        with pytest.warns(
            UserWarning,
            match=r"500 rows are outside of the dates of the fit \('when': 2024-03-28T05:00 to",
        ):
            predicted = model.predict(table)
        np.testing.assert_allclose(predicted, table["y"], atol=1e-6)
        with pytest.raises(DataError, match=r"'when\.month' is '04' .* none of the 1 levels"):
            fitted(table.slice(0, 24), "when:month").predict(table)

    @pytest.mark.parametrize(
        ("date", "said"),
        [
            ("when", "--date must be such as date:weekday,hour,trend"),
            ("when:minute", "of month, weekday, hour and trend, once for a column"),
            ("wen:hour", r"no column 'wen': did you mean 'when'\?"),
            ("a:hour", "'a' holds number and no dates"),
            (["when:hour", "when:month"], "once for a column, got 'when:month'"),
        ],
    )
    def test_what_is_no_date_is_refused(self, table, date, said):
        with pytest.raises(DataError, match=said):
            fitted(table, date)

    def test_texts_that_are_no_dates_are_refused_with_their_row(self):
        table = {"when": ["2024-01-01", "02/01/2024"], "y": [1.0, 2.0]}
        with pytest.raises(DataError, match=r"'when' is '02/01/2024' in row 2, and --date takes"):
            fitted(pa.table(table))


@pytest.mark.parametrize("option", ["categorical", "hashed", "weights", "target"])
def test_a_column_of_dates_has_no_other_role(table, option):
    options = {"target": "y", option: "when"}
    with pytest.raises(DataError, match="'when' is named in --date and in --"):
        jd.fit_model(table, date="when:hour", **options)


def test_naming_its_column_as_a_feature_takes_its_parts(table):
    model = fitted(table, "when:hour", features=["when"])
    assert (model.encoding.columns, list(model.encoding.levels)) == (["when"], ["when.hour"])
    assert fitted(table, "when:hour", exclude=["when"]).encoding.columns == ["a", "when"]


@pytest.mark.parametrize("kind", [pl.Categorical, pl.String])
def test_texts_of_all_kinds_are_read(table, kind):
    texts = pl.DataFrame(table).with_columns(
        when=pl.col("when").dt.strftime("%Y-%m-%dT%H:%M:%S.000000000").cast(kind)
    )
    np.testing.assert_allclose(fitted(texts).predict(texts), expected(table), atol=1e-9)


def test_levels_for_nearly_every_row_are_noted(table):
    (note,) = [n for n in fitted(table, (), categorical="when").metrics["notes"] if "levels" in n]
    assert note.startswith("'when' has 900 levels in 900 training rows: nearly every row has")
    assert not any("900 training" in note for note in fitted(table).metrics["notes"])


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_dates_are_kept_beside_predictions_of_their_parts(table, zone, tmp_path):
    table = table if zone is None else in_zone(table, zone)
    pq.write_table(table, tmp_path / "d.parquet")
    model, out = fitted(table).save(tmp_path / "m"), tmp_path / "p.parquet"
    shown("predict", model, tmp_path / "d.parquet", "--keep", "a,when", "--out", out)
    kept = pq.read_table(out)
    assert kept["when"].equals(table["when"])
    np.testing.assert_allclose(kept["prediction"], jd.load_model(model).predict(table))
