"""Before and after a fit: what inspect shows of data, and columns that predict carries along."""

import datetime
import json
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import jaxdescent as jd
from tests.commands import refused, shown

DAY = datetime.datetime(2024, 1, 2)


@pytest.fixture
def table(rng):
    a, rows = rng.normal(size=300), 300
    return pl.DataFrame(
        {
            "id": np.arange(rows) + 10**15,
            "city": pl.Series(["Bonn", None, "a\x1b[31mred"] * 100),
            "when": pl.Series(["2024-01-01 05:00", "2024-02-03", "2024-03-04"] * 100),
            "a": pl.Series(a),
            "price": 2 * a + 1,
        }
    )


WRITERS = {
    "d.parquet": lambda table, path: table.write_parquet(path),
    "d.csv": lambda table, path: table.write_csv(path),
    "d.arrow": lambda table, path: table.write_ipc(path),
    "packed.arrow": lambda table, path: table.write_ipc(path, compression="zstd"),
    "d.feather": lambda table, path: pa.feather.write_feather(
        table.to_arrow(), str(path), chunksize=70
    ),
}


@pytest.fixture(params=WRITERS)
def path(request, table, tmp_path):
    WRITERS[request.param](table, tmp_path / request.param)
    return tmp_path / request.param


class TestInspect:
    def test_data_are_shown_within_80_columns(self, path):
        title, head, *lines = told = shown("inspect", path, width=80).splitlines()
        assert title.startswith("300 rows of ")
        assert title.endswith(", 5 columns")
        assert head.split() == ["column", "kind", "missing", "first", "rows"]
        assert lines[0].split()[:4] == ["id", "whole", "number", "0"]
        assert "  100  Bonn  missing  a\\u001b[31mred" in lines[1]
        assert "dates as text" in lines[2]
        assert max(map(len, told)) <= 80

    def test_numbers_are_told_as_json(self, path, table):
        told = json.loads(shown("inspect", path, "--json"))
        assert told["rows"] == 300
        assert told["columns"]["city"]["missing"] == 100
        assert told["columns"]["a"]["first"] == pytest.approx(table["a"][:3].to_list())

    def test_several_files_and_folders_are_added_up(self, table, tmp_path):
        table.write_parquet(tmp_path / "a.parquet")
        table.write_parquet(tmp_path / "b.parquet")
        for what in ([tmp_path], [tmp_path / "a.parquet", tmp_path / "b.parquet"]):
            assert shown("inspect", *what).startswith("600 rows of Parquet (2 files, ")

    def test_sparse_numbers_and_npy(self, tmp_path):
        np.save(tmp_path / "X.npy", np.where(np.eye(4) > 0, np.nan, 1.0))
        assert json.loads(shown("inspect", tmp_path / "X.npy", "--json"))["columns"]["x0"] == {
            "kind": "number", "missing": 1, "first": [None, 1.0, 1.0]
        }  # fmt: skip
        (tmp_path / "a.svm").write_text("1 1:2 5000:3\n2 2:1\n")
        assert "sparse numbers" in shown("inspect", tmp_path / "a.svm")


class TestKeep:
    @pytest.fixture
    def model(self, table, tmp_path):
        model = jd.fit_model(table, "price", features="a")
        return model.save(tmp_path / "m")

    @pytest.mark.parametrize("out", ["p.csv", "p.parquet"])
    def test_columns_stand_beside_their_predictions(self, path, table, model, out, tmp_path):
        out = tmp_path / out
        shown("predict", model, path, "--keep", "id,city", "--keep", "price", "--out", out)
        read = pl.read_csv(out) if out.suffix == ".csv" else pl.read_parquet(out)
        assert read.columns == ["id", "city", "price", "prediction"]
        assert read["id"].cast(pl.Int64).to_list() == table["id"].to_list()
        assert read["city"].to_list() == table["city"].to_list()
        np.testing.assert_allclose(read["prediction"], table["price"], atol=1e-9)

    def test_rows_that_are_left_out_are_left_out_of_both(self, table, model, tmp_path):
        table.write_parquet(tmp_path / "d.parquet", row_group_size=50)
        out = tmp_path / "p.parquet"
        where = ("--where", "a > 0.5")
        shown("predict", model, tmp_path / "d.parquet", "--keep", "id", *where, "--out", out)
        met = table.filter(pl.col("a") > 0.5)
        assert pq.read_table(out)["id"].to_pylist() == met["id"].to_list()

    @pytest.mark.parametrize(
        ("keep", "out", "said"),
        [
            ("ids", "p.csv", "no column 'ids': did you mean 'id'?"),
            ("prediction", "p.csv", "the predictions have this name"),
            ("lists", "p.csv", "CSV format does not support nested data"),
        ],
    )
    def test_what_cannot_be_kept_is_refused(self, table, model, tmp_path, keep, out, said):
        lists = pl.Series([[1, 2]] * 300)
        data, out = tmp_path / "d.parquet", tmp_path / out
        table.with_columns(lists=lists, prediction=1.0).write_parquet(data)
        assert said in refused("predict", model, data, "--keep", keep, "--out", out)
        assert not out.exists()

    @pytest.mark.parametrize("number", [2**53 - 1, 2**53 + 1])
    def test_whole_numbers_of_csv_are_kept_as_they_are_or_refused(self, model, tmp_path, number):
        (tmp_path / "d.csv").write_text(f"a\n1\n{number}\n")
        out = tmp_path / "p.parquet"
        predict = ("predict", model, tmp_path / "d.csv", "--keep", "a", "--out", out)
        if number < 2**53:
            shown(*predict)
            assert pq.read_table(out)["a"].to_pylist() == [1, number]
        else:
            said = "--keep a: the model reads it as a number, which is rounded"
            assert said in refused(*predict)

    @pytest.mark.parametrize(
        ("types", "values"),
        [
            (("float", "double"), (0.5, 0.1)),
            (("double", "float"), (0.1, 0.5)),
            (("bool", "int64"), (True, 2)),
            ((pa.decimal128(3, 1), "double"), (Decimal("0.5"), 1.25)),
            (("date32", "timestamp[us]"), (DAY.date(), DAY.replace(hour=5))),
        ],
    )
    def test_columns_of_other_types_in_other_files_have_the_common_one(
        self, model, tmp_path, types, values
    ):
        data, out = tmp_path / "d", tmp_path / "p.parquet"
        data.mkdir()
        for file, (of_type, value) in enumerate(zip(types, values, strict=True)):
            columns = {"a": pa.array([1.0, 2.0]), "kept": pa.array([value, None], of_type)}
            pq.write_table(pa.table(columns), data / f"{file}.parquet")
        shown("predict", model, data, "--keep", "kept", "--out", out)
        first = DAY if types[0] == "date32" else values[0]
        assert pq.read_table(out)["kept"].to_pylist() == [first, None, values[1], None]


def test_a_missing_target_lists_the_columns(path):
    names = "'id', 'city', 'when', 'a', 'price'"
    assert f"--target is missing: name the column to predict, one of {names}" in refused(
        "fit", path
    )


def test_lines_of_a_fit_fit_80_columns(table, tmp_path):
    data = tmp_path / "d.parquet"
    table.with_columns(b=pl.col("a") * 2).write_parquet(data)
    for arguments in (
        ["fit", data, "--target", "price", "--features", "a,b", "--out", tmp_path / "m"],
        ["inspect", tmp_path / "m"],
    ):
        told = shown(*arguments, width=80)
        assert "The features are linearly dependent: rank 1 of 2." in told
        assert max(len(line) for line in told.splitlines() if "Kept" not in line) <= 80
