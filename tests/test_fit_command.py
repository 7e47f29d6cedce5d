"""The commands fit, predict and inspect: what they print, refuse, promise and leave behind."""

import dataclasses
import functools
import gzip
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression

import jaxdescent as jd
from jaxdescent.cli.options import byte_count
from jaxdescent.fit import fit_model
from jaxdescent.fit.model import Model
from jaxdescent.rows import DataError, open_source
from tests.commands import COMMAND, ROOT, ran, refused, run, shown, started
from tests.files import half_a_picture, zeros_below


def assert_is_interrupted(process):
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors == "Interrupted: nothing was written.\n"


def small(rows=40, **columns):
    rng = np.random.default_rng(0)
    table = {"a": rng.normal(size=rows), "b": rng.normal(size=rows)}
    table["y"] = table["a"] - 2 * table["b"] + 0.1 * rng.normal(size=rows)
    return pa.table(table | columns)


def put(folder, table, name="d.parquet"):
    pq.write_table(table, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    path = put(folder, small())
    shown("fit", path, "--target", "y", "--out", folder / "m")
    return folder


@pytest.fixture
def folder(fitted, tmp_path):
    """A place with good data, and a model of them."""
    return shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)


class TestFit:
    def test_it_shows_plan_figures_and_weights(self, folder):
        told = shown("fit", folder / "d.parquet", "--target", "y", "--test", "0.25")
        for expected in (
            "y by 2 features of 40 rows of Parquet (1 file,", "0.25 of the rows held out",
            "One pass adds up a 4 x 4 matrix",
            "training rows", "held-out rows", "R² 0.99", "RMSE", "CONVERGED", "suboptimality",
            "1 pass,", "rows a second", "intercept", "  b ", "Not kept: --out FOLDER",
        ):  # fmt: skip
            assert expected in told

    def test_json_is_one_object(self, folder):
        content = json.loads(shown("fit", folder / "d.parquet", "--target", "y", "--json"))
        expected = LinearRegression().fit(
            np.column_stack([small()["a"], small()["b"]]), small()["y"]
        )
        assert content["largest_weights"]["b"] == pytest.approx(expected.coef_[1])
        assert content["train"]["rows"] == 40
        assert content["peak_bytes"] > 0
        assert content["status"] == "CONVERGED"

    def test_lists_of_columns_are_written_with_commas_or_repeated(self, folder):
        columns = {"t,u": ["p", "q"] * 20, "v": ["r", "s"] * 20, "w": list(range(40))}
        path = put(folder, small(**columns), "e.parquet")
        fit = ("fit", path, "--target", "y", "--json", "--l2", "1", "--exclude", "w")
        # A name with a comma must be excluded or taken by auto.
        assert "no columns 't', 'u'" in refused(*fit, "--categorical", "v", "--categorical", "t,u")
        assert json.loads(shown(*fit, "--categorical", "auto"))["features"] == 6
        for names in ("a,b", "a, b ,", " a,b"):
            assert json.loads(shown(*fit[:-2], "--features", names))["features"] == 2

    def test_names_with_spaces_around_them_can_be_listed(self, tmp_path):
        text = "a, b,y\n" + "".join(f"{i % 3},{i % 5},{i % 3}\n" for i in range(15))
        (tmp_path / "d.csv").write_text(text)
        fit = ("fit", tmp_path / "d.csv", "--target", "y", "--json")
        for option, name, features in (
            ("--features", "a, b", 2), ("--categorical", " b", 6), ("--hash", " b", 6)
        ):  # fmt: skip
            assert json.loads(shown(*fit, option, name))["features"] == features
        for crosses, expected in ((" b:a", [" b:a"]), ("a: b, a:a", ["a: b", "a:a"])):
            weights = json.loads(shown(*fit, "--interact", crosses))["largest_weights"]
            assert {*weights} == {"a", " b", *expected}
        crossed = ("--categorical", "a, b", "--hash", " a: b", "--interact", "a: b")
        assert json.loads(shown(*fit, *crossed))["features"] >= 8 + 1
        assert "no column 'b'" in refused(*fit, "--exclude", "b, b")

    def test_of_names_with_and_without_spaces_the_exact_one_is_meant(self, tmp_path):
        columns = {"b": np.arange(9.0) % 4, " b": np.arange(9.0) % 5, "y": np.arange(9.0)}
        path, out = put(tmp_path, pa.table(columns)), tmp_path / "p.csv"
        run("fit", path, "--target", "y", "--out", tmp_path / "m")
        for names, expected in ((" b", [" b"]), ("b, b", ["b", " b"]), (" b ,y", ["b", "y"])):
            shown("predict", tmp_path / "m", path, "--keep", names, "--out", out, "--overwrite")
            kept = pa.csv.read_csv(out)
            assert kept.column_names == [*expected, "prediction"]
            for name in expected:
                np.testing.assert_array_equal(kept[name], columns[name])

    def test_the_target_of_npy_files_has_one_of_its_own(self, tmp_path, rng):
        X = rng.normal(size=(30, 2))
        np.save(tmp_path / "X.npy", X)
        np.save(tmp_path / "y.npy", X @ [1.0, 2.0])
        np.save(tmp_path / "z.npy", X @ [3.0, 4.0])
        for options, weight in (((), 2.0), (("--target-file", tmp_path / "z.npy"), 4.0)):
            told = json.loads(shown("fit", tmp_path / "X.npy", "--json", *options))
            assert told["largest_weights"]["x1"] == pytest.approx(weight)

    @pytest.mark.slow
    def test_the_picture_shows_a_sample_of_the_rows_and_files_that_were_fitted(
        self, tmp_path, monkeypatch
    ):
        from matplotlib.figure import Figure

        from jaxdescent.fit import fitting, plot

        residuals, save = [], Figure.savefig

        def noted(figure, path, **settings):
            residuals.extend(line.get_ydata() for line in figure.axes[1].lines[:2])
            save(figure, path, **settings)

        monkeypatch.setattr(Figure, "savefig", noted)
        table = small(rows=30_000, g=np.arange(30_000) % 2)
        far = np.where(table["g"], table["y"], 1e6)
        path = put(tmp_path, table.set_column(2, "y", pa.array(far)))
        options = ["--target", "y", "--features", "a,b", "--plot", tmp_path / "p.png"]
        options += ["--where", "g = 1", "--method", "lsmr", "--test", "0.3"]
        shown("fit", path, *options)
        assert (tmp_path / "p.png").read_bytes()[1:4] == b"PNG"
        train, held_out = residuals
        assert train.size + held_out.size == pytest.approx(plot.POINTS, rel=0.1)
        assert held_out.size / (train.size + held_out.size) == pytest.approx(0.3, abs=0.05)
        assert np.std(np.concatenate(residuals)) == pytest.approx(0.1, rel=0.1)
        before = fitting.fit_model

        def changed(*arguments, **options):
            model = before(*arguments, **options)
            os.utime(path, ns=(1, 1))
            return model

        monkeypatch.setattr(fitting, "fit_model", changed)
        assert "changed since the data were opened" in refused("fit", path, *options)

    @pytest.mark.parametrize("is_full", [True, False])
    def test_a_picture_that_is_not_drawn_does_not_cost_the_model(
        self, tmp_path, monkeypatch, is_full
    ):
        from matplotlib.figure import Figure

        def interrupted(figure, path, **settings):
            path.write_bytes(b"part")
            raise KeyboardInterrupt

        monkeypatch.setattr(Figure, "savefig", half_a_picture if is_full else interrupted)
        path, out = put(tmp_path, small(rows=300)), tmp_path / "model"
        picture = tmp_path / "p.png"
        result = run("fit", path, "--target", "y", "--out", out, "--plot", picture)
        assert result.exit_code == (2 if is_full else 130)
        full = f"Error: {picture} cannot be written: No space left on device.\n"
        assert result.stderr == (full if is_full else "Interrupted: no picture was drawn.\n")
        assert "Kept in" in result.stdout
        want = dict(jd.fit_model(path, "y").named_weights(2))
        assert dict(jd.load_model(out).named_weights(2)) == pytest.approx(want, rel=1e-6)
        assert {entry.name for entry in tmp_path.iterdir()} == {path.name, "model"}

    @pytest.mark.first
    @pytest.mark.parametrize(
        ("options", "title"),
        [
            (("--method", "cg"), "Convergence"),
            (("--l2", "auto"), "Search for l2"),
            (("--method", "cg", "--l2", "auto", "--test", "0.2"), "Search for l2"),
            ((), None),
        ],
    )
    def test_the_picture_shows_how_the_fit_went(self, tmp_path, monkeypatch, options, title):
        from matplotlib.figure import Figure

        titles = []

        def noted(figure, path, **settings):
            path.touch()  # it gets its name at the end
            titles.extend(axes.get_title() for axes in figure.axes)
            lines.extend(line.get_ydata() for line in figure.axes[-1].lines)

        lines = []
        monkeypatch.setattr(Figure, "savefig", noted)
        path = put(tmp_path, small(rows=300, e=np.arange(300.0) ** 2))
        shown("fit", path, "--target", "y", *options, "--plot", tmp_path / "p.png")
        assert titles == ["Predicted and observed", "Residuals", *([title] if title else [])]
        if title == "Convergence":
            assert lines[0].size > 1
            assert lines[0][-1] < 1e-3 * lines[0][0]

    @pytest.mark.slow
    def test_every_new_option_reaches_the_fit(self, tmp_path):
        names = {"c": ["u", "v", "w", "u"] * 10, "d": [*range(5)] * 8}
        path = put(tmp_path, small(**names))
        options = (
            "fit", path, "--target", "y", "--categorical", "c", "--hash", "d", "--interact",
            "a:b,c:d", "--interact", "a:c", "--where", "a > -1 AND c <> 'w'", "--l2", "0.5",
            "--bits", "8", "--json", "--method", "lsmr", "--dtype", "float64",
        )  # fmt: skip
        content = json.loads(shown(*options, "--out", tmp_path / "m"))
        assert "LSMR" in content["method"]
        assert "float64" in content["method"]
        inspected = shown("inspect", tmp_path / "m")
        assert "a:b, c:d, a:c" in inspected
        assert "d, c:d: " in inspected
        again = shown(*options, "--start", tmp_path / "m")
        assert json.loads(again)["iterations"] < content["iterations"]
        out = tmp_path / "p.parquet"
        shown("predict", tmp_path / "m", path, "--out", out, "--unseen", "zero")
        assert pq.read_table(out).num_rows == 40

    def test_other_files_can_be_held_out(self, folder):
        put(folder, small(rows=70), "e.parquet")
        arguments = ("fit", folder / "d.parquet", "--target", "y", "--json")
        content = json.loads(shown(*arguments, "--test-data", folder / "e.parquet"))
        assert (content["train"]["rows"], content["held_out"]["rows"]) == (40, 70)
        assert content["rows_read"] == 110
        put(folder, small().drop(["b"]), "e.parquet")
        said = refused(*arguments, "--test-data", folder / "e.parquet")
        assert "--test-data has no column 'b'" in said


class TestPredictAndInspect:
    def test_rows_that_meet_a_condition_are_predicted_alone(self, folder):
        path, out = put(folder, small(team=["p", "q"] * 20), "g.parquet"), folder / "p.csv"
        told = shown("predict", folder / "m", path, "--out", out, "--where", "team = 'q' OR a > 9")
        assert "20 predictions of y" in told
        model = jd.load_model(folder / "m")
        expected = model.predict(small())[1::2]
        np.testing.assert_allclose(np.loadtxt(out, skiprows=1), expected, rtol=1e-12)
        np.testing.assert_allclose(model.predict(path, where="team <> 'p'"), expected)
        assert not list(folder.glob(".*"))

    def test_a_pipe_is_not_replaced_by_a_file(self, folder):
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes")
        os.mkfifo(folder / "p.csv")
        arguments = ("predict", folder / "m", folder / "d.parquet", "--out", folder / "p.csv")
        assert "is no file, and is not replaced by one" in refused(*arguments, "--overwrite")
        assert (folder / "p.csv").is_fifo()

    def test_inspect_shows_what_is_in_a_model(self, folder):
        told = shown("inspect", folder / "m", "--weights", "1")
        for expected in ("A model of y by 2 features", "R²", "jaxdescent", "sha256:", "  b "):
            assert expected in told
        assert "  a " not in told
        assert json.loads(shown("inspect", folder / "m", "--json"))["schema"] == 3


def good(folder):
    return folder / "d.parquet"


def text_in_csv(folder, header="a,b,y", rows=3000, bad="oops"):
    lines = [header, *(f"{i % 7},{i % 5},{i % 3}" for i in range(rows))]
    lines.append(bad if ";" in bad else f"{bad},1,2")
    (folder / "e.csv").write_text("\n".join([*lines, ""]), errors="surrogateescape")
    return folder / "e.csv"


def damaged(change):
    """What puts a file beside the good one, whose bytes a function has changed."""

    def put_it(folder):
        (folder / "e.parquet").write_bytes(change((folder / "d.parquet").read_bytes()))
        return folder / "e.parquet"

    return put_it


def two_files(folder, **columns):
    (folder / "two").mkdir()
    put(folder / "two", small(), "1.parquet")
    put(folder / "two", pa.table(columns), "2.parquet")
    return folder / "two"


def csv_files(folder, *texts):
    (folder / "two").mkdir()
    for number, text in enumerate(texts, start=1):
        (folder / "two" / f"{number}.csv").write_text(text)
    return folder / "two"


def emptied(folder, name):
    (folder / name).write_bytes(b"")
    return folder / name


def saved(folder, array, name="X.npy", **options):
    np.save(folder / name, array, **options)
    return folder / name


def cut_npy(folder):
    path = saved(folder, np.ones((100, 2)))
    path.write_bytes(path.read_bytes()[:-8])
    return path


def saved_text(folder, text):
    (folder / "e.csv").write_text(text)
    return folder / "e.csv"


def holed(value, at=25):
    values = np.ones(40)
    values[at] = value
    return small(e=values)


BAD_DATA = {
    "no such file": (lambda f: f / "none.parquet", [], "no such file or folder"),
    "unknown ending": (lambda f: emptied(f, "d.xlsx"), [], "says no format"),
    "no ending": (lambda f: emptied(f, "data"), [], "says no format"),
    "empty folder": (lambda f: (f / "none").mkdir() or f / "none", [], "no file that can be read"),
    "empty CSV": (lambda f: emptied(f, "e.csv"), [], "is empty"),
    "empty Parquet": (lambda f: emptied(f, "e.parquet"), [], "cannot be read"),
    "empty npy": (lambda f: emptied(f, "X.npy"), [], "cannot be read"),
    "header alone": (lambda f: text_in_csv(f, rows=0, bad=""), [], ""),
    "no rows": (lambda f: put(f, small().slice(0, 0)), [], "has no rows"),
    "one row": (lambda f: put(f, small().slice(0, 1)), [], "at least 2 rows"),
    "truncated Parquet": (
        damaged(lambda whole: whole[: len(whole) // 2]), [], "e.parquet cannot be read",
    ),
    "damaged Parquet": (
        damaged(lambda whole: whole[:4] + bytes(596) + whole[600:]), [], "e.parquet cannot be read",
    ),
    "truncated npy": (cut_npy, [], "is truncated"),
    "npy of objects": (lambda f: saved(f, np.array([{}] * 3)), [], "real numbers"),
    "npy of one number": (lambda f: saved(f, np.ones(())), [], "must have shape"),
    "npy without target": (lambda f: saved(f, np.ones((5, 2))), [None], "--target is missing"),
    "npy of other length": (
        lambda f: saved(f, np.ones(3), "y.npy") and saved(f, np.ones((5, 2))), [None], "as many",
    ),
    "missing column": (good, ["--target", "yy"], "did you mean 'y'?"),
    "missing feature": (good, ["--features", "A,b"], "did you mean 'a'?"),
    "missing excluded": (good, ["--exclude", "zzz"], "it has 'a', 'b', 'y'"),
    "target among features": (good, ["--features", "a,y"], "cannot predict itself"),
    "target as level": (good, ["--categorical", "y"], "cannot predict"),
    "no features": (good, ["--exclude", "a,b"], "no column is left"),
    "features and exclude": (good, ["--exclude", "a", "--features", "b"], "exclude each other"),
    "two roles": (
        lambda f: put(f, small(c=["u"] * 40)), ["--hash", "c", "--categorical", "c"], "name it in",
    ),
    "floats as levels": (good, ["--categorical", "a"], "floating-point"),
    "text": (lambda f: put(f, small(c=["u"] * 40)), [], "'c' is not numeric"),
    "lists": (lambda f: put(f, small(c=[[1.0]] * 40)), [], "'c' holds neither"),
    "text as target": (lambda f: put(f, small(c=["u"] * 40)), ["--target", "c"], "must be numeric"),
    "text among numbers": (text_in_csv, [], "'a' is not numeric ('oops' in row 3,001 of e.csv)"),
    "text below a megabyte of numbers": (
        lambda f: text_in_csv(f, rows=200_000), [],
        "'a' is 'oops' in row 200,001 of e.csv: first rows hold numbers",
    ),
    "text among true and false": (
        lambda f: saved_text(f, "a,y\ntrue,1\nFalse,2\n,3\noops,4\n"), [],
        "('oops' in row 4 of e.csv)",
    ),
    "text below a megabyte of true and false": (
        lambda f: saved_text(f, "a,y\n" + "true,1\nfalse,2\n" * 100_000 + "oops,3\n"), [],
        "'a' is 'oops' in row 200,001 of e.csv: first rows hold whole numbers",
    ),
    "ragged CSV": (
        lambda f: text_in_csv(f, bad="1,2,3"), [],
        "is a quotation mark missing, or a comma",
    ),
    "semicolons and decimal commas": (
        lambda f: saved_text(f, "a;y\n1,5;2\n"), [], "has ';' between the names of its first line",
    ),
    "a header without an end": (lambda f: saved_text(f, "a,b,y"), [], "and no rows"),
    "headers alone": (
        lambda f: csv_files(f, "a,y\n", "a,y\n"), [], "1.csv has a header and no rows",
    ),
    "a header that is not UTF-8": (
        lambda f: text_in_csv(f, header="caf\udce9,b,y", bad="1"), [], "not UTF-8",
    ),
    "UTF-16": (
        lambda f: emptied(f, "e.csv").write_text("a,y\n1,2\n", "utf-16") and f / "e.csv", [],
        "not UTF-8",
    ),
    "text in the second file alone": (
        lambda f: csv_files(f, "a,y\n1,2\n2,3\n", "a,y\n3,4\noops,5\n"), [],
        "('oops' in row 2 of 2.csv)",
    ),
    "no features named": (good, ["--features", ""], "names no column"),
    "features of spaces": (good, ["--features", " "], "no column ' '"),
    "a limit beyond all memory": (good, ["--memory", "1e999999999GB"], "more than the"),
    "semicolons": (lambda f: text_in_csv(f, rows=0, header="a;b;y", bad="1;2"), [], "not ','"),
    "a row without end": (
        lambda f: text_in_csv(f, bad='"' + "z" * 3_000_000), ["--exclude", "a"], "quotation mark",
    ),
    "not UTF-8": (
        lambda f: text_in_csv(f, bad="caf\udce9"), ["--categorical", "a"], "invalid utf-8",
    ),
    "columns of one name": (lambda f: text_in_csv(f, header="a,a,y"), [], "has two columns 'a'"),
    "NaN": (lambda f: put(f, holed(np.nan)), [], "'e' is NaN in row 26 of d.parquet"),
    "infinity": (lambda f: put(f, holed(-np.inf)), [], "'e' is infinite in row 26"),
    "squares that overflow": (
        lambda f: put(f, holed(1e200)), [], "the values of 'e' are too large: their squares",
    ),
    "missing value": (lambda f: put(f, small(e=[*range(39), None])), [], "no value in row 40"),
    "missing target": (
        lambda f: put(f, small(y=[None, *range(39)])), ["--missing", "mean"], "features alone",
    ),
    "constant target": (lambda f: put(f, small(y=[0.1] * 40)), [], "nothing to fit"),
    "negative weights": (
        lambda f: put(f, small(w=[*range(39), -1])), ["--weights", "w"], "got -1 for 'w' in row 40",
    ),
    "weights of zero": (lambda f: put(f, small(w=[0] * 40)), ["--weights", "w"], "all training"),
    "other schemas": (lambda f: two_files(f, a=[1.0], y=[1.0]), [], "2.parquet has no column 'b'"),
    "other types": (lambda f: two_files(f, a=["u"], b=[1.0], y=[1.0]), [], "'a' is not numeric ('"),
    "other formats": (
        lambda f: text_in_csv(two_files(f, a=[1.0])).rename(f / "two" / "e.csv").parent, [],
        "of one format",
    ),
    "all held out": (good, ["--test", "0.999999"], "at least 2 rows"),
    "none held out": (good, ["--test", "1e-9"], "raise --test"),
    "wrong share": (good, ["--test", "1.5"], "--test must be"),
    "wrong penalty": (good, ["--l2", "-1"], "--l2 must be"),
    "no penalty": (good, ["--l2", "much"], "--l2 must be"),
    "NaN as penalty": (good, ["--l2", "nan"], "--l2 must be"),
    "wrong bits": (good, ["--bits", "64"], "--bits must be"),
    "wrong seed": (good, ["--seed", "-1"], "--seed must be"),
    "wrong memory": (good, ["--memory", "much"], "such as 600MB"),
    "no byte of memory": (good, ["--memory", "0.5"], "such as 600MB"),
    "too little memory": (good, ["--memory", "50MB"], "raise --memory; nothing was written"),
    "too much memory": (good, ["--memory", "900TB"], "more than the"),
    "wrong method": (
        good, ["--method", "newton"],
        "--method must be auto, direct, cg, lsmr, lbfgs, got 'newton'",
    ),
    "a condition on rows in memory": (
        good, ["--where", "a < -99", "--method", "cg"], "needed to fit, got 0",
    ),
    "a start that is none": (good, ["--start", "none"], "no such folder"),
    "a start for another target": (good, ["--start", "m", "--target", "b"], "is a model of 'y'"),
    "model is there": (good, ["--out", "m"], "say --overwrite"),
    "no folder for it": (good, ["--out", "none/m"], "no such folder"),
    "a file in its place": (good, ["--out", "d.parquet"], "is no folder"),
    "target file of Parquet": (good, ["--target-file", "y.npy"], "goes with .npy alone"),
    "no picture": (good, ["--plot", "p.jpg"], "must be a .png file"),
    "two kinds of test": (good, ["--test", "0.5", "--test-data", "d.parquet"], "exclude each"),
}  # fmt: skip


class TestBadData:
    @pytest.mark.parametrize("case", BAD_DATA)
    def test_it_is_one_line_with_exit_code_two_and_leaves_nothing(self, folder, case, monkeypatch):
        data, options, message = BAD_DATA[case]
        monkeypatch.chdir(folder)
        path = data(folder)
        before = sorted(p.name for p in folder.rglob("*"))
        if options[:1] == [None]:
            options = options[1:]
        elif "--target" not in options:
            options = ["--target", "y", *options]
        if "--out" not in options:
            options = [*options, "--out", folder / "new"]
        said = refused("fit", path, *options)
        assert message in said
        if not said.startswith("Usage"):
            assert said.startswith("Error: ")
            assert said.count("\n") == 1
        assert sorted(p.name for p in folder.rglob("*")) == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["predict", "none", "d.parquet", "--out", "p.parquet"], "no such folder"),
            (["predict", "m", "none.csv", "--out", "p.parquet"], "no such file"),
            (["predict", "m", "d.parquet", "--out", "p.xlsx"], "must end in"),
            (["predict", "m", "d.parquet", "--out", "d.parquet"], "say --overwrite"),
            (["predict", "m", "d.parquet", "--out", "d.parquet", "--overwrite"], "that are read"),
            (
                ["predict", "m", "m/../d.parquet", "--out", "./d.parquet", "--overwrite"],
                "that are read",
            ),
            (["predict", "m", "d.parquet", "--out", "none/p.csv"], "no such folder"),
            (["predict", "m", "e.parquet", "--out", "p.csv"], "no column 'b'"),
            (["predict", "m", "d.parquet", "--out", "p.csv", "--missing", "mean"], "no means"),
            (["predict", "m", "d.parquet", "--out", "p.csv", "--missing", "drop"], "error or mean"),
            (["predict", "m", "d.parquet", "--out", "p.csv", "--memory", "9MB"], "needs"),
            (["inspect", "none"], "no such file or folder"),
            # As a Path, an empty text is the current folder.
            *[
                (arguments, "is empty: name a path")
                for arguments in (
                    ["fit", ""],
                    ["fit", "d.parquet", "--test-data", ""],
                    ["fit", "d.parquet", "--checkpoint="],
                    ["predict", "", "d.parquet", "--out", "p.csv"],
                    ["inspect", "d.parquet", ""],
                    ["plan", "--machine", "--plot", ""],
                )
            ],
            (["inspect", "m/weights.npy", "d.parquet"], "must be of one format"),
        ],
    )
    def test_wrong_models_and_outputs_are_refused(self, folder, monkeypatch, arguments, message):
        monkeypatch.chdir(folder)
        put(folder, small().drop(["b"]), "e.parquet")
        before = sorted(p.name for p in folder.rglob("*"))
        assert message in refused(*arguments)
        assert sorted(p.name for p in folder.rglob("*")) == before


def denied(mode, name=""):
    """The system's own answer: chmod does not stop a superuser."""

    def access(path, asked, allowed=os.access):
        return not (asked == mode and pathlib.Path(path).match(name or "*")) and allowed(
            path, asked
        )

    return os, "access", access


def not_permitted(*arguments, **options):
    raise PermissionError(13, "Permission denied")


def terminated(*arguments):
    signal.raise_signal(signal.SIGTERM)


def in_little_room(self, place, write=Model._write):
    """The system refuses some of an array."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, limits[1]))
    try:
        write(dataclasses.replace(self, weights=np.zeros(9_000)), place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


WHAT_STOPS = {
    "no permission to read": (denied(os.R_OK), 2, "no permission to read it"),
    "no permission to write": (denied(os.W_OK | os.X_OK), 2, "no permission to write"),
    "none to replace": (denied(os.W_OK | os.X_OK, "m"), 2, "no permission to replace it"),
    "a file that cannot be opened": (
        (pl, "scan_parquet", not_permitted), 2, "d.parquet cannot be read: [Errno 13] Permission",
    ),
    "a full disk": (
        (Model, "_write", in_little_room), 2, "new cannot be written: File too large.\n",
    ),
    "SIGTERM": ((Model, "_write", terminated), 130, "Interrupted: nothing was written.\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", WHAT_STOPS)
def test_what_stops_a_fit_is_said_in_one_line_and_changes_nothing(folder, monkeypatch, case):
    patched, code, said = WHAT_STOPS[case]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(*patched)
    before = signal.getsignal(signal.SIGTERM)
    out = ("m", "--overwrite") if case == "none to replace" else ("new",)
    result = run("fit", "d.parquet", "--target", "y", "--out", *out)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1), result.stderr
    assert said in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["d.parquet", "m"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_every_command_and_block_of_the_document_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        exec(block, {})
    commands = re.findall(r"^jaxdescent (.*)$", text, re.MULTILINE)
    assert len(commands) >= 4
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    others = re.findall(r"^jaxdescent ((?:fit|predict|plan) [^#\n]*)", readme, re.MULTILINE)
    assert [command.split()[0] for command in others] == ["fit", "predict", "plan"]
    commands += [
        command.replace("homes-model", "shown-model").replace("predictions", "shown")
        for command in others
    ]
    for command in commands:
        if "--memory" in command:  # which counts what this process holds already
            done = subprocess.run(
                [sys.executable, "-m", "jaxdescent", *command.split()],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            continue
        shown(*command.split())


@pytest.mark.parametrize(
    ("text", "count"), [("600MB", 600_000_000), ("4GB", 4e9), ("1.5GiB", 1.5 * 2**30), ("7", 7)]
)
def test_sizes_are_written_in_many_ways(text, count):
    assert byte_count(text) == count


CHILD = """
import sys
from benchmarks.harness import resident
from jaxdescent.cli import main
sys.argv[0] = 'jaxdescent'
try:
    main()
finally:
    print("peak", resident.peak(), file=sys.stderr)
"""
"""The peak is that of the process itself: what wait4 reports begins with its parent's."""


def peaking(*arguments):
    done = ran(CHILD, *arguments)
    return done, int(done.stderr.split("peak ")[-1]) if "peak " in done.stderr else 0


def within(limit, *arguments):
    """How a command ended whose process kept to this limit of memory, or said that it cannot."""
    done, peak = peaking(*arguments, "--memory", limit)
    assert peak <= limit or done.returncode == 2, f"{arguments}: {peak:,} of {limit:,}"
    return done


def large_parquet(folder, rows, columns, rng, **options):
    X = rng.normal(size=(columns, rows))
    table = {f"x{j}": X[j] for j in range(columns)} | {"y": X.sum(axis=0)}
    pq.write_table(pa.table(table), folder / "d.parquet", **options)
    return folder / "d.parquet"


def long_texts(path, rows, length, rng):
    """Different texts of about this length, and a target."""
    schema = pa.schema([("t", pa.string()), ("y", pa.float64())])
    with pq.ParquetWriter(path, schema) as writer:
        each = max(min(100_000_000 // length, rows), 1)
        for first in range(0, rows, each):
            size = min(each, rows - first)
            texts = [f"{first + i:08d}" * (length // 8) for i in range(size)]
            table = {"t": texts, "y": rng.normal(size=size)}
            writer.write_table(pa.table(table, schema=schema))


needs_proc = pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="the peak is read from /proc"
)


@functools.cache
def started_bytes(form="parquet"):
    """What a process holds when it refuses a file of this form before it reads rows: Python, JAX
    and mostly pyarrow, which no limit of ours can lower. How many pages of a library count depends
    on what the system has in its cache, by 50 MB, so that all libraries must be loaded in what is
    compared.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, f"X.{form}")
        if form == "npy":
            np.save(path, np.ones((9, 2)))
            np.save(path.with_name("y.npy"), np.ones(9))
        elif form == "csv":
            path.write_text("a,y\n1,2\n")
        else:
            put(path.parent, small(), path.name)
        done, peak = peaking("fit", path, "--target", "y", "--memory", "1MB")
    assert done.returncode == 2, done.stderr
    return peak


@needs_proc
class TestMemory:
    """Limits are what the command holds when it refuses, before it reads, and ``room`` bytes."""

    ROOM = 330_000_000

    def fits(self, *arguments, room=ROOM):
        limit = started_bytes(arguments[0].suffix[1:] or "parquet") + room
        done = within(limit, "fit", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @pytest.mark.slow
    @pytest.mark.parametrize(("columns", "test"), [(3, 0), (400, 0.3)])
    def test_parquet(self, tmp_path, rng, columns, test):
        path = large_parquet(tmp_path, 40_000_000 // columns // 4, columns, rng)
        room = self.ROOM + 2**22 * columns
        self.fits(path, "--target", "y", "--test", test, room=room)

    @pytest.mark.slow
    def test_parquet_of_text_and_levels(self, tmp_path, rng):
        rows = 1_500_000
        cities = np.array([f"a city with a long name {i}" for i in range(300)])
        table = {"city": cities[rng.integers(0, 300, rows)], "y": rng.normal(size=rows)}
        table |= {"id": rng.integers(0, 100, rows)}
        pq.write_table(pa.table(table), tmp_path / "d.parquet")
        self.fits(tmp_path, "--target", "y", "--categorical", "city,id", "--test", "0.1")

    @pytest.mark.slow
    def test_csv(self, tmp_path, rng):
        from pyarrow import csv

        X = rng.normal(size=(12, 400_000))
        csv.write_csv(pa.table({f"x{j}": x for j, x in enumerate(X)}), tmp_path / "d.csv")
        self.fits(tmp_path / "d.csv", "--target", "x3")

    @pytest.mark.slow
    @pytest.mark.parametrize("by_column", [False, True])
    def test_npy(self, tmp_path, rng, by_column):
        X = rng.standard_normal((1_000_000, 50), np.float32)
        np.save(tmp_path / "X.npy", np.asfortranarray(X) if by_column else X)
        np.save(tmp_path / "y.npy", X[:, 0])
        self.fits(tmp_path / "X.npy")

    @pytest.mark.slow
    def test_data_three_times_the_limit(self, tmp_path, rng):
        columns, room = 20, 260_000_000
        rows = 3 * (room + started_bytes()) // (4 * columns)
        zeros_below(tmp_path / "X.npy", rng.normal(size=(5000, columns)), rows)
        np.save(tmp_path / "y.npy", rng.standard_normal(rows, np.float32))
        assert (tmp_path / "X.npy").stat().st_size > 3 * (room + started_bytes())
        assert self.fits(tmp_path / "X.npy", room=room)["train"]["rows"] == rows

    @pytest.mark.slow
    def test_many_features(self, tmp_path, rng):
        np.save(tmp_path / "X.npy", rng.normal(size=(6000, 2000)))
        np.save(tmp_path / "y.npy", rng.normal(size=6000))
        self.fits(tmp_path / "X.npy", "--test", "0.2", room=770_000_000)

    @pytest.mark.slow
    @pytest.mark.parametrize("options", [("--l2", "1"), ("--l2", "auto", "--test", "0.2")])
    def test_rows_in_memory(self, tmp_path, rng, options):
        rows = 500_000
        table = {f"c{k}": rng.integers(0, 20_000, rows) for k in range(3)}
        pq.write_table(pa.table(table | {"y": rng.normal(size=rows)}), tmp_path / "d.parquet")
        room = 850_000_000 if options[1] == "1" else 1_400_000_000
        self.fits(tmp_path, "--target", "y", "--categorical", "c0,c1", "--hash", "c2",
                  *options, room=room)  # fmt: skip

    @pytest.mark.slow
    def test_rows_that_stay_in_the_files(self, tmp_path, rng):
        columns, room = 3_000, 700_000_000
        size = 1.1 * (room + started_bytes())  # of X: more than the limit
        rows = int(size / (4 * columns))
        known = rng.normal(size=(5000, columns))
        zeros_below(tmp_path / "X.npy", known, rows)
        zeros_below(tmp_path / "y.npy", known[:, :3].sum(axis=1), rows)
        # With so large a penalty it converges soon.
        content = self.fits(tmp_path / "X.npy", "--l2", "5e6", "--test", "0.2", room=room)
        assert "read in each pass" in content["method"]
        assert content["status"] == "CONVERGED"
        assert content["bytes_read"] > 5 * size

    @pytest.mark.slow
    def test_a_search_on_dense_rows(self, tmp_path, rng):
        X = rng.standard_normal((120, 200_000), np.float32)
        y = rng.normal(size=200_000)  # no weight is worth it, so that the search ends soon
        table = pa.table({f"x{j}": x for j, x in enumerate(X)} | {"y": y})
        path = tmp_path / "d.parquet"
        # Small groups of rows leave room for many penalties in a pass.
        pq.write_table(table, path, row_group_size=20_000)
        options = ("--method", "lsmr", "--l2", "auto", "--test", "0.2", "--standardize")
        content = self.fits(path, "--target", "y", *options, room=2_000_000_000)
        assert content["l2_chosen_by"] == "held-out rows"
        assert content["l2"] > 0

    @pytest.mark.slow
    def test_more_levels_than_there_is_room_for(self, tmp_path, rng):
        rows = 2_000_000
        table = pa.table({"id": [f"user-{i}" for i in range(rows)], "y": rng.normal(size=rows)})
        pq.write_table(table, tmp_path / "d.parquet")
        for room in (130_000_000, 530_000_000):
            self.refused("fit", tmp_path, "--target", "y", "--categorical", "id", room=room)

    def refused(self, *arguments, room):
        """The line of a refusal, before which the process keeps to its limit."""
        done = within(started_bytes() + room, *arguments)
        assert done.returncode == 2, done.stdout
        line, _ = done.stderr.splitlines()  # the error, and the peak
        return line

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("rows", "length", "rooms"),
        [
            # The first is refused before anything is read, some levels while they are found.
            (40, 3_000_000, {110: ("hash", "predict"), 1300: ("categorical", "hash", "predict")}),
            (5, 40_000_000, {980: ("hash", "predict")}),
            (200_000, 300, {160: ("categorical", "hash", "predict")}),
        ],
    )
    def test_long_texts(self, tmp_path, rng, rows, length, rooms):
        data, out = tmp_path / "d.parquet", tmp_path / "p.parquet"
        long_texts(data, rows, length, rng)
        table = pa.table({"t": ["a", "b"] * 9, "y": np.arange(18.0)})
        model = fit_model(table, "y", hashed=("t",), bits=8)
        model.save(tmp_path / "m")
        commands = {
            "categorical": ("fit", data, "--target", "y", "--categorical", "t"),
            "hash": ("fit", data, "--target", "y", "--hash", "t", "--bits", "8"),
            "predict": ("predict", tmp_path / "m", data, "--overwrite", "--out", out),
        }
        for room, names in rooms.items():
            for name in names:
                done = within(started_bytes() + room * 10**6, *commands[name])
                assert done.returncode in (0, 2), done.stderr
                said = re.search(" needs | has taken ", done.stderr)
                assert done.returncode == 0 or said, done.stderr

    @pytest.mark.slow
    def test_predictions(self, tmp_path, rng):
        fit_model(large_parquet(tmp_path, 100, 20, rng), "y").save(tmp_path / "m")
        path = large_parquet(tmp_path, 1_500_000, 20, rng, row_group_size=200_000)
        limit = started_bytes() + self.ROOM
        done = within(limit, "predict", tmp_path / "m", path, "--out", tmp_path / "p.parquet")
        assert done.returncode == 0, done.stderr

    def test_what_does_not_fit_is_refused_before_it_is_read(self, tmp_path, rng):
        zeros_below(tmp_path / "X.npy", rng.normal(size=(5, 20_000)), 100_000)
        np.save(tmp_path / "y.npy", rng.normal(size=100_000))
        said = refused("fit", tmp_path / "X.npy", "--memory", "300MB", "--l2", "auto")
        assert "needs" in said
        assert "nothing was written" in said


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_real_ctrl_c_in_the_middle_of_a_pass(tmp_path, rng):
    zeros_below(tmp_path / "X.npy", rng.normal(size=(5000, 100)), 100_000_000)
    zeros_below(tmp_path / "y.npy", [], 100_000_000)
    process = started(COMMAND, "fit", tmp_path / "X.npy", "--out", tmp_path / "m")
    process.stdout.readline()  # the plan: reading begins
    process.send_signal(signal.SIGINT)
    assert_is_interrupted(process)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["X.npy", "y.npy"]


@pytest.mark.first
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("end", ["SIGTERM", "a full disk", "SIGINT, and no row meets"])
def test_predict_ends_whatever_stops_it(tmp_path, rng, end):
    X = rng.normal(size=(99, 4))
    fit_model({"X": X, "y": X[:, 0]}).save(tmp_path / "m")
    zeros_below(tmp_path / "X.npy", rng.normal(size=(5000, 4)), 1_000_000_000)
    (tmp_path / "room").mkdir()
    is_full, is_filtered = "full" in end, "meets" in end

    program = COMMAND
    if is_full:  # the system refuses a file of more bytes
        limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
        program = f"import resource; {limit}; {program}"
    arguments = ["predict", tmp_path / "m", tmp_path / "X.npy"]
    arguments += ["--where", "x0 > 99"] if is_filtered else []
    process = started(program, *arguments, "--out", tmp_path / "room" / "p.csv")
    if not is_full:
        # The file is there with the first rows, and its folder before any is read.
        while not any((tmp_path / "room").glob(".p.csv*" + "/p.csv" * (not is_filtered))):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.5 * is_filtered)
        process.send_signal(getattr(signal, end[:7].rstrip(",")))
    _, errors = process.communicate(timeout=30)
    said = "p.csv cannot be written: " if is_full else "Interrupted: nothing was written."
    assert process.returncode == (2 if is_full else 130), errors
    assert said in errors
    assert errors.count("\n") == 1
    assert not list((tmp_path / "room").iterdir())


def test_names_bring_no_commands_to_a_terminal(tmp_path):
    """Escapes, as bytes of seven and of eight bits, and turns of the direction."""
    bad = ["\x1b[31mred", "\x9b2Jclear", "\u202eturned", "bell\x07"]
    table = pa.table({name: np.arange(9.0) ** k for k, name in enumerate(bad, 1)})
    path = put(tmp_path, table.append_column("y\x1b]0;title\x07", [np.arange(9.0) ** 5]))
    levels = pa.table({"c": ["\x1b[2Ja", "b"] * 6, "y": np.arange(12.0)})
    runs = [
        ("fit", path, "--target", "y\x1b]0;title\x07", "--out", tmp_path / "m"),
        ("inspect", tmp_path / "m"),
        ("inspect", tmp_path / "m", "--json"),
        ("fit", path, "--target", "\x1b[31mnone"),
        ("predict", tmp_path / "m", put(tmp_path, levels, "l.parquet"),
         "--out", tmp_path / "\x1b[31m.csv"),
        ("fit", tmp_path / "l.parquet", "--target", "y", "--categorical", "c"),
        ("fit", tmp_path / "\x1b[31m.parquet", "--target", "y"),
    ]  # fmt: skip
    for arguments in runs:
        result = run(*arguments)
        told = result.stdout + result.stderr
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", told), told
    assert "c=\\u001b[2Ja" in run(*runs[-2]).stdout
    model = jd.load_model(tmp_path / "m")
    assert "\x1b" not in repr(model)
    content = json.loads(run(*runs[2]).stdout)
    assert content["encoding"]["numbers"] == bad  # to a program they are what they are


def cut_at_a_line(path):
    text = path.read_bytes()
    os.truncate(path, text.index(b"\n", len(text) // 2) + 1)


def overwritten(path):
    """In place, by as many bytes; the time of change is put back."""
    before = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    os.utime(path, ns=(before, before))


def replaced(path):
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_mtime_ns,) * 2)
    other.replace(path)


def longer(path):
    with path.open("ab") as file:
        file.write(b"1,1\n")


def without_its_columns(path):
    path.write_text("c,d\n1,1\n")


@pytest.mark.parametrize("at", ["at once", "after a block"])
@pytest.mark.parametrize(
    "change", [cut_at_a_line, overwritten, replaced, longer, without_its_columns, os.unlink]
)
def test_predictions_of_a_file_that_changes_are_refused(tmp_path, change, at):
    model = fit_model({"a": np.arange(9.0), "y": 2 * np.arange(9.0)}, "y")
    path = tmp_path / "d.csv"
    path.write_text("a,b\n" + "1.25,111111111111111111111111\n" * 250_000)
    source = open_source(path)
    parts = model.predictions(source)
    if at != "at once":
        next(parts)
    change(path)
    with pytest.raises(DataError, match=r"d\.csv changed since the data were opened"):
        list(parts)


@pytest.mark.parametrize("form", ["parquet", "npy", "svm", "csv.gz"])
def test_predictions_of_every_format_notice_a_change(tmp_path, form):
    X = np.arange(60.0).reshape(20, 3) ** 2
    path = tmp_path / f"X.{form}"
    if form == "parquet":
        pq.write_table(pa.table({f"x{j}": X[:, j] for j in range(3)}), path)
    elif form == "npy":
        np.save(path, X)
    elif form == "svm":
        path.write_text("".join(f"{a} 0:{a} 1:{b} 2:{c}\n" for a, b, c in X + 1))
    else:
        with gzip.open(path, "wt") as file:
            file.write("x0,x1,x2\n" + "".join(f"{a},{b},{c}\n" for a, b, c in X))
    model = fit_model(path, "x0" if form != "svm" else None)
    source = open_source(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="changed since the data were opened"):
        list(model.predictions(source))


def test_a_program_ends_though_a_reading_was_begun_and_left():
    program = (
        "import itertools\n"
        "from jaxdescent.rows.ahead import read_ahead\n"
        "kept = read_ahead(itertools.count)\n"
        "print(next(kept))\n"
    )
    process = started(program)
    assert process.communicate(timeout=60) == ("0\n", "")
    assert process.returncode == 0
