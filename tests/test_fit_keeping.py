"""Fits that are kept while they go on: interrupted, killed, gone on with, and refused."""

import contextlib
import functools
import json
import re
import shutil
import signal
import types

import numpy as np
import polars as pl
import pytest

import jaxdescent as jd
from jaxdescent.data import DataError, located, open_source
from jaxdescent.fit import checkpoint, descents
from jaxdescent.fit.checkpoint import Interrupted
from jaxdescent.fit.descent_rows import RowsInFiles, RowsInMemory
from jaxdescent.fit.job import ProgressListener
from jaxdescent.fit.roles import Roles
from jaxdescent.fit.rows import prepared
from jaxdescent.fit.vectors import RowsDigest
from tests.commands import ran, run, shown
from tests.files import full_disk, keep_rows_in_files

MEMORY, FILES = RowsInMemory.way, RowsInFiles.way

OPTIONS = {"target": "y", "categorical": ("city",), "method": "cg", "l2": 0.1}
SEARCH = OPTIONS | {"l2": "auto", "test": 0.3}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    rows = 500
    X = {f"x{j}": rng.normal(size=rows) * 2.0**j for j in range(4)}
    X["x5"] = X["x0"] + X["x1"] + 0.03 * rng.normal(size=rows)
    city = rng.integers(0, 9, rows)
    y = sum(X.values()) + 0.3 * city + rng.normal(size=rows)
    return pl.DataFrame(X | {"city": city, "y": y})


@pytest.fixture(scope="module")
def stored(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "d.parquet"
    table.write_parquet(path)
    return path


@contextlib.contextmanager
def rows_in(way):
    """Where a fit has its rows: they fit in no memory, or do."""
    with pytest.MonkeyPatch.context() as patch:
        if way == FILES:
            keep_rows_in_files(patch)
        yield


@pytest.fixture(params=[MEMORY, FILES])
def way(request):
    with rows_in(request.param):
        yield request.param


@pytest.fixture(scope="module")
def searched(stored, tmp_path_factory):
    """The model of a search that nothing ended, by where the rows are."""

    @functools.cache
    def of(way):
        with rows_in(way):
            return jd.fit_model(stored, **SEARCH, checkpoint=tmp_path_factory.mktemp("whole") / "k")

    return of


class Signalling(ProgressListener):
    """Raises a signal when so many of what is counted have been told: by default of a fit's own
    descent.
    """

    is_looking = True

    def __init__(self, after, number=signal.SIGINT, *, counted=lambda state: state[:2] != "l2"):
        self.left, self.number, self.counted, self.lines = after, number, counted, []

    def planned(self, lines):
        self.lines += lines

    def tell(self, state):
        if self.counted(state):
            self.left -= 1
            if not self.left:
                signal.raise_signal(self.number)


def penalties_tried():
    return lambda state: "RMSE" in state


def iterations_of_the_second_descent():
    """Of those for many penalties."""
    tried = []

    def counted(state):
        tried.extend(["RMSE"] * ("RMSE" in state))
        return bool(tried) and "iteration" in state

    return counted


def same(one, other):
    np.testing.assert_array_equal(one.weights, other.weights)
    assert one.intercept == other.intercept
    for figure in ("l2", "iterations", "value", "train", "held_out", "status"):
        assert one.metrics[figure] == other.metrics[figure]


@pytest.mark.slow
def test_an_interrupted_fit_goes_on_to_the_same_weights(table, tmp_path, way):
    data, kept = table, {**OPTIONS, "checkpoint": tmp_path / "kept"}
    if way == FILES:
        data = tmp_path / "d.parquet"
        table.write_parquet(data)
    whole = jd.fit_model(data, **OPTIONS, checkpoint=tmp_path / "whole")
    assert whole.metrics["iterations"] > 4
    assert way.removeprefix("rows ")[:6] in whole.metrics["method"]
    assert 0 < whole.metrics["goodput"] < 1
    watch = Signalling(3, signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"iteration \d is kept in .*kept; the same command"):
        jd.fit_model(data, **kept, watch=watch)
    assert json.loads((tmp_path / "kept/fit.json").read_text())["way"] == way
    with pytest.raises(DataError, match="keeps a fit: say --resume to go on with it"):
        jd.fit_model(data, **kept)
    with pytest.raises(DataError, match=r"another fit: the option l2 was 0\.1 and is 0\.2\. Give"):
        jd.fit_model(data, **kept | {"l2": 0.2}, resume=True)
    if way == FILES:
        table.with_columns(x0=pl.col("x0") + 1).write_parquet(data)
        with pytest.raises(DataError, match=r"another fit: the data's fingerprint was .* and is"):
            jd.fit_model(data, **kept, resume=True)
        table.write_parquet(data)
    resumed = jd.fit_model(data, **kept, resume=True)
    same(resumed, whole)
    assert 0 < resumed.metrics["resumed_at"] < whole.metrics["iterations"]
    if way == FILES:
        return
    # What has ended is there at once.
    again = jd.fit_model(data, **kept, resume=True)
    same(again, whole)
    assert again.metrics["resumed_at"] == whole.metrics["iterations"]
    plain = jd.fit_model(data, **OPTIONS)
    np.testing.assert_allclose(plain.weights, whole.weights, rtol=2e-2, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "what", "counted", "after"),
    [
        (MEMORY, "the search with 8 penalties tried", penalties_tried, 8),
        # In a descent for many penalties, of which others have been tried before.
        (FILES, r"iteration \d+", iterations_of_the_second_descent, 2),
    ],
    indirect=["way"],
)
def test_an_interrupted_search_goes_on_to_the_same_penalty(
    stored, searched, tmp_path, way, what, counted, after
):
    kept = {**SEARCH, "checkpoint": tmp_path / "kept", "resume": True}
    with pytest.raises(Interrupted, match=f"^{what} is kept in {tmp_path / 'kept'}"):
        jd.fit_model(stored, **kept, watch=Signalling(after, counted=counted()))
    assert (tmp_path / "kept" / "search.npz").exists()
    same(jd.fit_model(stored, **kept), searched(way))
    assert not list((tmp_path / "kept").glob("search-*"))
    if way == MEMORY:
        assert jd.fit_model(stored, **SEARCH).metrics["l2"] == searched(way).metrics["l2"]


def test_the_command_says_how_to_go_on_and_a_second_signal_stops_at_once(
    stored, tmp_path, monkeypatch
):
    arguments = [
        "fit", stored, "--target", "y", "--categorical", "city", "--method", "cg",
        "--l2", "0.1", "--checkpoint", tmp_path / "kept", "--out", tmp_path / "m",
    ]  # fmt: skip
    real, count = descents.Following.report, 0

    def report(self, record):
        nonlocal count
        count += 1
        if count == 1:
            signal.raise_signal(signal.SIGINT)
        return real(self, record)

    monkeypatch.setattr(descents.Following, "report", report)
    result = run(*arguments)
    assert result.exit_code == 130, result.output
    assert "Interrupted: iteration" in result.stderr
    assert f"is kept in {tmp_path / 'kept'}; the same command with --resume" in result.stderr
    assert not (tmp_path / "m").exists()

    def twice(self, record):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(descents.Following, "report", twice)
    again = [*arguments, "--resume"]
    result = run(*again)
    assert result.exit_code == 130, result.output
    assert "Interrupted: what was found until a while ago is kept in" in result.stderr
    monkeypatch.undo()
    told = shown(*again)
    assert re.search(r"goodput +\d+% of the descents' time in iterations, resumed", told)
    assert (tmp_path / "m" / "model.json").exists()


@pytest.mark.slow
def test_rows_that_changed_between_the_ends_of_their_files_are_refused(table, tmp_path):
    data, long = tmp_path / "d.csv", table.with_columns(text=pl.lit("x" * 1000))
    kept = {**OPTIONS, "exclude": ("text",), "checkpoint": tmp_path / "kept"}
    long.write_csv(data)
    with pytest.raises(Interrupted):
        jd.fit_model(data, **kept, watch=Signalling(3))
    pl.concat([long[:250], long[251], long[250], long[252:]]).write_csv(data)
    with pytest.raises(
        DataError, match=r"a fit of other rows: the data have changed\. Give the data of then"
    ):
        jd.fit_model(data, **kept, resume=True)
    long.write_csv(data)
    assert jd.fit_model(data, **kept, resume=True).metrics["resumed_at"] > 0


def test_held_out_data_that_are_missing_or_new_are_refused(table, tmp_path, monkeypatch):
    def stopped(name, **held_out):
        kept = OPTIONS | {"checkpoint": tmp_path / name}
        with pytest.raises(Interrupted):
            jd.fit_model(table, **kept, **held_out)
        return kept | {"resume": True}

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(descents, "run", interrupted)
    held_out = {"test_data": table.reverse()}
    with pytest.raises(DataError, match=r'held-out data\'s fingerprint was "sha.*" and is null'):
        jd.fit_model(table, **stopped("with", **held_out))
    with pytest.raises(DataError, match="the held-out data's fingerprint was null and is \"sha"):
        jd.fit_model(table, **stopped("without"), **held_out)


@pytest.mark.parametrize("missing", ["mean", "drop"])
def test_a_digest_of_rows_is_that_of_any_blocks_of_them(missing, rng):
    values, levels = rng.normal(size=90), rng.choice(["a", "b", None], 90).tolist()
    table = pl.DataFrame({"x": values, "c": levels, "w": rng.random(90), "y": rng.normal(size=90)})
    table = table.with_columns(x=pl.when(pl.col("x") > 1).then(None).otherwise(pl.col("x")))

    options = {"categorical": "c", "interact": "x:c", "weights": "w", "missing": missing}
    roles = Roles("y", "w", jd.fit_model(table, "y", **options).encoding)

    def digest(table, size):
        found = RowsDigest()
        for block in located(open_source(table), roles.columns, size):
            found.add(prepared(block, roles, missing, share=0.3))
        return found.of_all()

    assert digest(table, 90) == digest(table, 7) == digest(table, 1)
    assert digest(table.reverse(), 90) != digest(table, 90)


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


def test_a_fit_goes_on_in_its_way_whatever_the_memory(table, tmp_path):
    kept = {**OPTIONS, "checkpoint": tmp_path / "kept"}
    with pytest.raises(Interrupted):
        jd.fit_model(table, **kept, watch=Signalling(2))
    with (
        rows_in(FILES),
        pytest.raises(jd.ProblemTooLarge, match="gone on with has them in memory"),
    ):
        jd.fit_model(table, **kept, resume=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--resume goes on with what --checkpoint keeps"),
        ({"notes.txt": "mine"}, "holds other things than a fit: name another"),
        ({"fit.json": "{"}, r"fit\.json cannot be read"),
        ({"fit.json": "[]"}, "does not describe a fit"),
        ({"fit.json": '{"format": "jaxdescent fit", "schema": 9}'}, "has schema 9"),
        ("a file", "is no folder"),
    ],
)
def test_folders_that_keep_no_fit_are_refused(table, tmp_path, content, message):
    folder = tmp_path / "kept"
    if isinstance(content, str):
        folder.write_text(content)
    elif content:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(DataError, match=message):
        jd.fit_model(table, **OPTIONS, checkpoint=folder if content else None, resume=True)


def test_two_fits_at_once_do_not_share_a_folder(tmp_path):
    first = checkpoint.FitCheckpoint(tmp_path / "kept", resume=False)
    first.begin(MEMORY, 1)
    second = checkpoint.FitCheckpoint(tmp_path / "kept", resume=True)
    with pytest.raises(DataError, match="another process keeps its fit in"):
        second.begin(MEMORY, 1)
    first.close()


def test_which_numbers_of_processes_can_go_on(tmp_path):
    kept = checkpoint.FitCheckpoint(tmp_path / "kept", resume=False)
    kept.compare({checkpoint.PROCESSES: 3})
    kept.begin(FILES, 1)
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


def test_a_descent_whose_folder_cannot_be_made_goes_on(tmp_path):
    """What became of the folder is no reason to lose what was found before."""
    folder = tmp_path / "kept"
    kept = checkpoint.FitCheckpoint(folder, resume=False)
    kept.begin("memory", 1)
    shutil.rmtree(folder)
    folder.write_text("a file")
    objective = jd.Quadratic(np.diag([1.0, 2.0]).astype(np.float32), np.ones(2, np.float32))
    zeros, told = np.zeros(2, np.float32), []
    job = types.SimpleNamespace(checkpoint=kept, watch=Signalling(99))
    with pytest.warns(RuntimeWarning, match="descent cannot be kept in .*, and goes on without: "):
        result = descents.descend(
            job, objective, zeros, jd.ConjugateGradient(), lambda *each: told.append(each)
        )
    kept.close()
    np.testing.assert_allclose(result.params, [1.0, 0.5], rtol=1e-6)
    assert told[-1][0] == int(result.iterations)
    assert folder.read_text() == "a file"


def test_a_search_that_cannot_be_kept_goes_on_and_units_end_the_fit(tmp_path, monkeypatch):
    kept = checkpoint.FitCheckpoint(tmp_path / "kept", resume=False)
    kept.begin(MEMORY, 1)
    kept.keep_search({"a": np.arange(3)})
    assert kept.kept_search()["a"].tolist() == [0, 1, 2]

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.warns(RuntimeWarning, match="cannot be kept in .* No space left on device"):
        kept.keep_search({"a": np.arange(4)})
    assert kept.kept_search()["a"].size == 3
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        kept.keep_units({"mean": 1.0})
    assert kept.units() == {}
    (kept.folder / "search.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"search\.npz is damaged"):
        kept.kept_search()
    kept.close()


KILLED = """
import os, signal, sys, threading
import numpy as np, jaxdescent as jd
import pytest
from jaxdescent.fit import checkpoint, descents
from tests.files import keep_rows_in_files
checkpoint.EVERY = 0.0
data, folder, way, out, events, delay = sys.argv[1:]
left = int(events)

def count():
    global left
    left -= 1
    if left == 0:
        threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL)).start()

class Counting(descents.Following):
    def report(self, record):
        count()

keep_search = checkpoint.FitCheckpoint.keep_search

def counted(self, found):
    keep_search(self, found)
    count()

descents.Following, checkpoint.FitCheckpoint.keep_search = Counting, counted
if way == "rows in the files":
    keep_rows_in_files(pytest.MonkeyPatch())
model = jd.fit_model(data, "y", categorical="city", method="cg", l2="auto", test=0.3,
                     checkpoint=folder, resume=True)
np.save(out, np.append(model.weights, model.intercept))
"""
"""Kills itself a moment after so many chunks of descents and penalties."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "kills"),
    [
        (MEMORY, [(1, 0.0), (7, 0.03)]),  # at once, and later in what was gone on with
        (FILES, [(2, 0.03)]),  # in the first descent for many penalties
    ],
)
def test_killed_fits_go_on_to_the_same_weights(stored, searched, tmp_path, way, kills):
    out = tmp_path / "killed.npy"
    programs = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
    programs |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for events, delay in (*kills, (0, 0.0)):
        ended = ran(KILLED, stored, tmp_path / "killed", way, out, events, delay, **programs)
        assert ended.returncode == (-signal.SIGKILL if events else 0), ended.stderr
    whole = searched(way)
    np.testing.assert_array_equal(np.load(out), np.append(whole.weights, whole.intercept))
