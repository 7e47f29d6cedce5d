"""Fits that are kept while they go on: interrupted, killed, gone on with, and refused."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("typer")
import polars as pl
from typer.testing import CliRunner

import jaxdescent as jd
from jaxdescent.cli.commands import app
from jaxdescent.data import DataError
from jaxdescent.fit import checkpoint, in_memory, strategy
from jaxdescent.fit.checkpoint import Interrupted
from jaxdescent.fit.progress import ProgressListener

OPTIONS = {"target": "y", "categorical": ("city",), "method": "lsmr", "l2": 0.1}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    rows = 500
    X = {f"x{j}": rng.normal(size=rows) * 2.0**j for j in range(4)}
    X["x5"] = X["x0"] + X["x1"] + 0.03 * rng.normal(size=rows)
    city = rng.integers(0, 9, rows)
    y = sum(X.values()) + 0.3 * city + rng.normal(size=rows)
    return pl.DataFrame(X | {"city": city, "y": y})


@pytest.fixture
def in_files(monkeypatch):
    real = in_memory.plan_in_memory

    def plan_of(job):
        plan, counted = real(job)
        return plan._replace(bytes=10**15), counted

    monkeypatch.setattr(in_memory, "plan_in_memory", plan_of)


class Signalling(ProgressListener):
    """Raises a signal when so many of these have been told."""

    is_looking = True

    def __init__(self, after, number=signal.SIGINT, *, in_search=False):
        self.left, self.number, self.in_search, self.lines = after, number, in_search, []

    def planned(self, lines):
        self.lines += lines

    def tell(self, state):
        if state.startswith("l2") is self.in_search:
            self.left -= 1
            if not self.left:
                signal.raise_signal(self.number)


def same(one, other):
    np.testing.assert_array_equal(one.weights, other.weights)
    assert one.intercept == other.intercept
    for figure in ("l2", "iterations", "value", "train", "held_out", "status"):
        assert one.metrics[figure] == other.metrics[figure]


@pytest.mark.first
@pytest.mark.parametrize("way", ["rows in memory", "rows in the files"])
def test_an_interrupted_fit_goes_on_to_the_same_weights(table, tmp_path, request, way):
    if way == strategy.FILES:
        request.getfixturevalue("in_files")
    whole = jd.fit_model(table, **OPTIONS, checkpoint=tmp_path / "whole")
    assert whole.metrics["iterations"] > 4
    assert way.removeprefix("rows ")[:6] in whole.metrics["method"]
    assert 0 < whole.metrics["goodput"] < 1
    watch = Signalling(3, signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"iteration \d is kept in .*kept; the same command"):
        jd.fit_model(table, **OPTIONS, checkpoint=tmp_path / "kept", watch=watch)
    assert json.loads((tmp_path / "kept/fit.json").read_text())["way"] == way
    with pytest.raises(DataError, match="keeps a fit: say --resume to go on with it"):
        jd.fit_model(table, **OPTIONS, checkpoint=tmp_path / "kept")
    other = OPTIONS | {"l2": 0.2}
    with pytest.raises(DataError, match=r"another fit: the option l2 was 0\.1 and is 0\.2\. Give"):
        jd.fit_model(table, **other, checkpoint=tmp_path / "kept", resume=True)
    resumed = jd.fit_model(table, **OPTIONS, checkpoint=tmp_path / "kept", resume=True)
    same(resumed, whole)
    assert 0 < resumed.metrics["resumed_at"] < whole.metrics["iterations"]
    if way == strategy.FILES:
        return
    # What has ended is there at once.
    again = jd.fit_model(table, **OPTIONS, checkpoint=tmp_path / "kept", resume=True)
    same(again, whole)
    assert again.metrics["resumed_at"] == whole.metrics["iterations"]
    plain = jd.fit_model(table, **OPTIONS)
    np.testing.assert_allclose(plain.weights, whole.weights, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "after", "what"),
    [
        (strategy.MEMORY, 8, "the search with 8 penalties tried"),
        pytest.param(strategy.FILES, 2, r"iteration \d+", marks=pytest.mark.slow),  # of a descent
        pytest.param(
            strategy.FILES, 14, "the search with 15 penalties tried", marks=pytest.mark.slow
        ),
    ],
)
def test_an_interrupted_search_goes_on_to_the_same_penalty(
    table, tmp_path, request, way, after, what
):
    if way == strategy.FILES:
        request.getfixturevalue("in_files")
    options = OPTIONS | {"l2": "auto", "test": 0.3}
    whole = jd.fit_model(table, **options, checkpoint=tmp_path / "whole")
    with pytest.raises(Interrupted, match=f"^{what} is kept in {tmp_path / 'kept'}"):
        jd.fit_model(
            table, **options, checkpoint=tmp_path / "kept", watch=Signalling(after, in_search=True)
        )
    resumed = jd.fit_model(table, **options, checkpoint=tmp_path / "kept", resume=True)
    same(resumed, whole)
    assert not list((tmp_path / "kept").glob("search-*"))
    plain = jd.fit_model(table, **options)
    assert plain.metrics["l2"] == whole.metrics["l2"]


def test_the_command_says_how_to_go_on_and_a_second_signal_stops_at_once(
    table, tmp_path, monkeypatch
):
    table.write_parquet(tmp_path / "d.parquet")
    arguments = [
        "fit", tmp_path / "d.parquet", "--target", "y", "--categorical", "city", "--method", "lsmr",
        "--l2", "0.1", "--checkpoint", tmp_path / "kept", "--out", tmp_path / "m",
    ]  # fmt: skip
    real, count = checkpoint._Following.report, 0

    def report(self, record):
        nonlocal count
        count += 1
        if count == 1:
            signal.raise_signal(signal.SIGINT)
        return real(self, record)

    monkeypatch.setattr(checkpoint._Following, "report", report)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 130, result.output
    assert "Interrupted: iteration" in result.stderr
    assert f"is kept in {tmp_path / 'kept'}; the same command with --resume" in result.stderr
    assert not (tmp_path / "m").exists()

    def twice(self, record):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoint._Following, "report", twice)
    again = [str(a) for a in [*arguments, "--resume"]]
    result = CliRunner().invoke(app, again)
    assert result.exit_code == 130, result.output
    assert "Interrupted: what was found until a while ago is kept in" in result.stderr
    monkeypatch.undo()
    result = CliRunner().invoke(app, again)
    assert result.exit_code == 0, result.output
    assert re.search(r"goodput +\d+% of the descents' time in iterations, resumed", result.stdout)
    assert (tmp_path / "m" / "model.json").exists()


def test_one_pass_has_nothing_to_resume_and_says_so(table, tmp_path):
    watch = Signalling(99)
    options = {"target": "y", "checkpoint": tmp_path / "kept", "watch": watch}
    model = jd.fit_model(table, **options)
    assert watch.lines[-1] == (
        "--checkpoint keeps nothing of one pass: if interrupted, it begins anew."
    )
    assert not (tmp_path / "kept").exists()
    assert "goodput" not in model.metrics
    same(jd.fit_model(table, **options, resume=True), model)


@pytest.mark.slow
@pytest.mark.slow
def test_other_data_are_refused(table, tmp_path, in_files):
    table.write_parquet(tmp_path / "d.parquet")
    with pytest.raises(Interrupted):
        jd.fit_model(
            tmp_path / "d.parquet", **OPTIONS, checkpoint=tmp_path / "kept", watch=Signalling(2)
        )
    table.with_columns(x0=pl.col("x0") + 1).write_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"another fit: the data's fingerprint was .* and is"):
        jd.fit_model(tmp_path / "d.parquet", **OPTIONS, checkpoint=tmp_path / "kept", resume=True)


def test_a_fit_goes_on_in_its_way_whatever_the_memory(table, tmp_path, request):
    with pytest.raises(Interrupted):
        jd.fit_model(table, **OPTIONS, checkpoint=tmp_path / "kept", watch=Signalling(2))
    request.getfixturevalue("in_files")
    with pytest.raises(jd.ProblemTooLarge, match="gone on with has them in memory"):
        jd.fit_model(table, **OPTIONS, checkpoint=tmp_path / "kept", resume=True)


@pytest.mark.parametrize(
    ("content", "resume", "message"),
    [
        (None, True, "--resume goes on with what --checkpoint keeps"),
        ({"notes.txt": "mine"}, True, "holds other things than a fit: name another"),
        ({"fit.json": "{"}, True, r"fit\.json cannot be read"),
        ({"fit.json": "[]"}, True, "does not describe a fit"),
        ({"fit.json": '{"format": "jaxdescent fit", "schema": 9}'}, True, "has schema 9"),
        ("a file", True, "is no folder"),
    ],
)
def test_folders_that_keep_no_fit_are_refused(table, tmp_path, content, resume, message):
    folder = tmp_path / "kept"
    if isinstance(content, str):
        folder.write_text(content)
    elif content:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        jd.fit_model(table, **OPTIONS, checkpoint=folder if content else None, resume=resume)


def test_two_fits_at_once_do_not_share_a_folder(tmp_path):
    first = checkpoint.FitCheckpoint(tmp_path / "kept", resume=False)
    first.begin(strategy.MEMORY, 1)
    second = checkpoint.FitCheckpoint(tmp_path / "kept", resume=True)
    with pytest.raises(DataError, match="another process keeps its fit in"):
        second.begin(strategy.MEMORY, 1)
    first.close()


def test_which_numbers_of_processes_can_go_on(tmp_path):
    kept = checkpoint.FitCheckpoint(tmp_path / "kept", resume=False)
    kept.compare({checkpoint.PROCESSES: 3})
    kept.begin(strategy.FILES, 1)
    assert kept.units() == {}
    kept.keep_units({"shift": np.arange(3.0), "mean": 0.1})
    kept.close()
    later = checkpoint.FitCheckpoint(tmp_path / "kept", resume=True)
    units = later.units()
    assert units["shift"].tolist() == [0, 1, 2]
    assert float(units["mean"]) == 0.1
    with pytest.raises(DataError, match="the number of processes was 3 and is 1"):
        later.compare({checkpoint.PROCESSES: 1})
    for count in (3, 4):
        later.compare({checkpoint.PROCESSES: count})
        later.check_rows(403, 0)
        if count == 4:
            with pytest.raises(DataError, match=r"of 3 processes, and so few rows \(6\) cannot be"):
                later.check_rows(6, 0)  # two for each of three processes, and none for the fourth
            with pytest.raises(DataError, match="shares from which rows were dropped cannot be"):
                later.check_rows(403, 1)
        else:
            later.check_rows(6, 1)
    (later.folder / "units.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"units\.npz is damaged .*: begin anew"):
        later.units()


def test_units_that_cannot_be_kept_end_the_fit(tmp_path, monkeypatch):
    kept = checkpoint.FitCheckpoint(tmp_path / "kept", resume=False)
    kept.begin(strategy.FILES, 1)

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        kept.keep_units({"mean": 1.0})
    assert kept.units() == {}
    kept.close()


def test_a_descent_whose_folder_cannot_be_made_goes_on(tmp_path):
    """What became of the folder is no reason to lose what was found before."""
    folder = tmp_path / "kept"
    kept = checkpoint.FitCheckpoint(folder, resume=False)
    kept.begin("memory", 1)
    shutil.rmtree(folder)
    folder.write_text("a file")
    objective = jd.Quadratic(np.diag([1.0, 2.0]).astype(np.float32), np.ones(2, np.float32))
    zeros, told = np.zeros(2, np.float32), []
    with pytest.warns(RuntimeWarning, match="descent cannot be kept in .*, and goes on without: "):
        result = kept.minimize(
            objective, zeros, None, lambda *record: told.append(record), most=99, chunk=1
        )
    kept.close()
    np.testing.assert_allclose(result.params, [1.0, 0.5], rtol=1e-6)
    assert told[-1][0] == int(result.iterations)
    assert folder.read_text() == "a file"


def test_a_search_that_cannot_be_kept_goes_on(tmp_path, monkeypatch):
    kept = checkpoint.FitCheckpoint(tmp_path / "kept", resume=False)
    kept.begin(strategy.MEMORY, 1)
    kept.keep_search({"a": np.arange(3)})
    assert kept.kept_search()["a"].tolist() == [0, 1, 2]

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(RuntimeWarning, match="cannot be kept in .* No space left on device"):
        kept.keep_search({"a": np.arange(4)})
    assert kept.kept_search()["a"].size == 3
    (kept.folder / "search.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"search\.npz is damaged"):
        kept.kept_search()
    kept.close()


KILLED = """
import os, signal, sys, threading
import numpy as np, jaxdescent as jd
from jaxdescent.fit import checkpoint, in_memory
checkpoint.EVERY = 0.0
data, folder, way, l2, out, events, delay = sys.argv[1:]
left = int(events)

def count():
    global left
    left -= 1
    if left == 0:
        threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL)).start()

class Counting(checkpoint._Following):
    def report(self, record):
        count()

keep_search = checkpoint.FitCheckpoint.keep_search

def counted(self, found):
    keep_search(self, found)
    count()

checkpoint._Following, checkpoint.FitCheckpoint.keep_search = Counting, counted
if way == "files":
    real = in_memory.plan_in_memory
    in_memory.plan_in_memory = lambda job: (real(job)[0]._replace(bytes=10**15), 0)
model = jd.fit_model(data, "y", categorical="city", method="lsmr", test=0.3, checkpoint=folder,
                     resume=True, l2="auto" if l2 == "auto" else float(l2))
np.save(out, np.append(model.weights, model.intercept))
"""
"""Kills itself a moment after so many chunks of descents and penalties."""


@pytest.mark.slow
@pytest.mark.parametrize(("way", "l2"), [("memory", "0"), ("memory", "auto"), ("files", "auto")])
def test_killed_fits_go_on_to_the_same_weights(table, tmp_path, way, l2):
    table.write_parquet(tmp_path / "d.parquet")
    rng, kills = np.random.default_rng(5), 0

    def code_of(name, events, delay):
        arguments = (tmp_path / "d.parquet", tmp_path / name, way, l2, tmp_path / f"{name}.npy")
        command = [sys.executable, "-c", KILLED, *arguments, events, delay]
        root = pathlib.Path(jd.__file__).parents[1]
        return subprocess.run([str(a) for a in command], cwd=root, check=False).returncode

    assert code_of("whole", 0, 0) == 0
    while not (tmp_path / "killed.npy").exists():
        # At once, and then later and later, so that it comes to its end.
        events, delay = 1 + kills * rng.integers(1, 4), rng.uniform(0, 0.05) * (kills > 0)
        code = code_of("killed", events, delay)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
    assert kills
    np.testing.assert_array_equal(np.load(tmp_path / "killed.npy"), np.load(tmp_path / "whole.npy"))
