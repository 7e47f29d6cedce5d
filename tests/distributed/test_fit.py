"""A fit by several processes, each of which reads its own rows, against that of one."""

import gzip
import json
import shutil
import signal
import time

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("typer")

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from jaxdescent.data import DataError
from jaxdescent.fit import fit_model, load_model
from tests.distributed.fits import FILES, KEPT, KEPT_BY, REFUSED, ROWS, SUMS, TEXT, columns, told
from tests.distributed.processes import SHARED, command, ended, run

CHILD = "tests.distributed.fits"
FAILING = (
    "bad direct",
    "bad lsmr",
    "bad direct where",
    "few",
    "text direct ragged.csv",
    "lines",
    "options",
)


@pytest.fixture
def folder(tmp_path):
    table = columns()
    pq.write_table(pa.table(table), tmp_path / "d.parquet", row_group_size=50)
    numbers = {name: table[name] for name in ("a", "b", "y")}
    (tmp_path / "texts").mkdir()
    texts = pa.table({name: table[name] for name in ("a", "b", "g", "y")})
    csv.write_csv(texts.slice(0, 150), tmp_path / "texts" / "d.csv")
    csv.write_csv(texts.slice(150, 100), tmp_path / "texts" / "e.csv")
    packed = gzip.compress((tmp_path / "texts" / "e.csv").read_bytes())
    (tmp_path / "texts" / "e.csv").rename(tmp_path / "ragged.csv")
    (tmp_path / "texts" / "e.csv.gz").write_bytes(packed)
    csv.write_csv(texts.slice(250), tmp_path / "texts" / "f.csv")
    (tmp_path / "d.svm").write_text("1 1:2\n2 1:3\n4 2:1\n" * 3)
    with (tmp_path / "ragged.csv").open("a") as file:
        file.write("1,2\n")
    numbers["a"] = np.append(numbers["a"][:-1], np.inf)
    pq.write_table(pa.table(numbers), tmp_path / "bad.parquet", row_group_size=50)
    np.save(tmp_path / "X.npy", np.stack([table["a"], table["b"]], axis=1))
    np.save(tmp_path / "y.npy", table["y"])
    return tmp_path


def answers(folder, count, *names):
    said = run(CHILD, count, str(folder), *names, timeout=300, environment=SHARED)
    assert [code for _, _, code in said] == [0] * count, [errors for _, errors, _ in said]
    lines = [[line for line in out.splitlines() if line.startswith('["')] for out, _, _ in said]
    return [dict(map(json.loads, each)) for each in lines]


def assert_same(found, own, rtol):
    assert isinstance(found, dict), found
    assert found["weights"].keys() == own["weights"].keys()
    scale = max(map(abs, own["weights"].values()))
    for name, weight in own["weights"].items():
        np.testing.assert_allclose(found["weights"][name], weight, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(found["intercept"], own["intercept"], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(found["l2"], own["l2"], rtol=rtol)
    for part in ("train", "held_out"):
        if own[part] is None:
            assert found[part] is None
            continue
        assert found[part]["rows"] == own[part]["rows"]  # the same rows are held out
        np.testing.assert_allclose(found[part]["rmse"], own[part]["rmse"], rtol=rtol)


def share(index, count):
    """As many rows each, but for the last."""
    size = -(-ROWS // count)
    return size * index, min(size * (index + 1), ROWS)


def check_sums(folder, found):
    for name in SUMS.keys() & found[0].keys():
        own = told(fit_model(folder / "d.parquet", "y", **SUMS[name]))
        for each in found:
            assert_same(each[name], own, 1e-8)
            assert each[name]["notes"] == own["notes"]
            assert each[name] == found[0][name]  # to the bit
    own = told(fit_model(folder / "X.npy", method="direct"))
    for index, each in enumerate(found):
        told_of_reading = each["read direct"]
        assert_same(told_of_reading, own, 1e-8)
        first, stop = share(index, len(found))
        assert told_of_reading["read"] == [first, stop - 1, stop - first]
        assert told_of_reading["rows_read"] == ROWS
        assert told_of_reading["processes"] == len(found)


def check_text(folder, found, name):
    own = told(fit_model(folder / "texts", "y", **dict(TEXT[name], method="direct", dtype=None)))
    for each in found:
        assert_same(each[f"text {name}"], own, 1e-8 if name == "direct" else 1e-5)


def check_files(folder, found):
    for name in FILES.keys() & found[0].keys():
        # By sums, which are exact.
        direct = dict(FILES[name], method="direct", dtype=None)
        own = told(fit_model(folder / "d.parquet", "y", **direct))
        for each in found:
            assert "on rows that stay in the files, in float64" in each[name]["method"]
            assert_same(each[name], own, 1e-5)
            assert each[name] == found[0][name]
    for index, each in enumerate(found):
        first, stop = share(index, len(found))
        assert each["read lsmr"]["read"] == [first, stop - 1, stop - first]


def check_failures(found):
    *others, last = found
    for name in ("bad direct", "bad lsmr", "bad direct where"):
        assert last[name].startswith("DataError: 'a' is infinite in row 403 of bad.parquet")
        for other in others:
            expected = f"OtherProcessFailed: process {len(found) - 1} failed with {last[name]}"
            assert other[name] == expected
    for each in found:
        assert "cannot share 1 rows: start fewer of them" in each["few"]
        ragged = "ragged.csv: row 101 has 2 columns, and the header 4: is a quotation mark missing?"
        assert ragged in each["text direct ragged.csv"]
        assert each["text direct ragged.csv"].startswith("DataError")
        refused = "svmlight text as it is here is read from its first row on: write .npy, CSV, or"
        assert refused in each["lines"]
        assert "the options are not the same in all processes: start" in each["options"]


@pytest.mark.slow
def test_two_processes_add_up_what_one_does_and_fail_together(folder):
    names = [*SUMS, "read direct", "other direct", "text direct", *FAILING, *REFUSED]
    found = answers(folder, 2, *names, "lsmr, in files", "pieces")
    check_sums(folder, found)
    check_text(folder, found, "direct")
    check_failures(found)
    for each in found:
        assert each["other direct"]["held_out"]["rows"] == 1
        assert each["none left"].startswith("DataError: no row meets --where 'a > 1e9': nothing")
        assert "2 processes cannot share 1 rows: start fewer of them" in each["one left"]
        assert "say --l2 with a number, or fit in one process: nothing was read" in each["search"]
        assert "'g' is not numeric" in each["levels"]
        assert "rows that stay in the files" in each["lsmr, in files"]["method"]
        told_of_pieces = each["pieces"]
        assert told_of_pieces.pop("said").startswith(
            "arrays that are added up must be of one shape"
        )
        assert told_of_pieces == {
            "is_sum": True,
            "lengths": [0, 150],
            "first": [1.0, 1.0, 1.0],
            "empty": [0, 2],
        }


@pytest.mark.slow
def test_two_and_four_processes_fit_what_one_does_in_every_way(folder):
    common = [*SUMS, "read direct", "read lsmr", "other lsmr", *FAILING]
    # Four of them go two of the ways in files: each process compiles what it runs.
    for count, texts, files in ((2, list(TEXT), list(FILES)), (4, [], list(FILES)[:2])):
        names = [*common, *files, *(f"text {name}" for name in texts)]
        found = answers(folder, count, *names)
        assert found[0].keys() == {*names}
        for name in texts:
            check_text(folder, found, name)
        check_sums(folder, found)
        check_files(folder, found)
        check_failures(found)
        for each in found:
            assert each["other lsmr"]["held_out"]["rows"] == 1


def test_a_process_that_is_interrupted_waits_for_none_and_the_others_end(folder):
    """JAX's own end would wait for those that wait for it, for five minutes."""
    (out, _, code), (_, _, interrupted) = run(CHILD, 2, str(folder), "gone", timeout=100)
    assert interrupted == 130
    [name, said] = json.loads(next(line for line in out.splitlines() if line.startswith('["')))
    assert name == "gone"
    assert said.startswith("OtherProcessFailed: another process has ended, or cannot be reached:")
    assert code == 1


def commands(*arguments, count=2):
    """What ``jaxdescent fit`` prints in each of several processes, its errors, and exit codes."""
    return ended(command("fit", *[arguments] * count))


@pytest.mark.slow
def test_the_command_tells_and_writes_in_the_first_process(folder):
    options = ["--target", "y", "--features", "a,b", "--test", "0.2"]
    first, other = commands(folder / "d.parquet", *options, "--json", "--out", folder / "model")
    assert [first[2], other[2]] == [0, 0], (first, other)
    assert other[0] == ""
    content = json.loads(first[0])  # and nothing else, of gloo for example
    own = fit_model(folder / "d.parquet", "y", features=["a", "b"], test=0.2)
    assert content["held_out"]["rows"] == own.metrics["held_out"]["rows"]
    assert content["processes"] == 2
    kept = load_model(folder / "model")
    np.testing.assert_allclose(kept.weights, own.weights, rtol=1e-8)


@pytest.mark.slow
def test_the_command_shows_processes_and_ends_all_of_them(folder):
    options = [folder / "d.parquet", "--target", "y", "--features", "a,b"]
    first, other = commands(*options)
    assert f"{ROWS:,} rows of Parquet (1 file," in first[0]
    assert "shared by 2 processes: 2 features" in first[0]
    shown = " ".join(first[0].split())
    assert "processes 2, each of which read its share of the rows" in shown
    first, other = commands(*options, "--out", folder / "nowhere" / "model")
    assert [first[2], other[2]] == [2, 2]
    assert first[1].strip().splitlines()[-1].startswith("Error: ")
    assert "Error: process 0 failed with DataError: " in other[1]


DIRECT = {"method": "direct", "dtype": None}
FIGURES = ("weights", "intercept", "train", "held_out", "iterations")


def same_bits(one, other):
    assert [one[name] for name in FIGURES] == [other[name] for name in FIGURES]


@pytest.mark.slow
def test_a_signal_to_one_process_keeps_the_fit_of_both(folder):
    found = answers(folder, 2, "kept k SIGINT", "kept k", "kept k resume", "kept x alone")
    for each in found:
        assert each["kept k SIGINT"].startswith("Interrupted: iteration ")
        assert each["kept k SIGINT"].endswith(
            f"is kept in {folder / 'k'}; the same command with --resume goes on."
        )
        assert f"{folder / 'k'} keeps a fit: say --resume" in each["kept k"]
        assert each["kept x alone"].startswith("DataError: --checkpoint and --resume are not the")
        same_bits(each["kept k resume"], found[0]["kept k resume"])
        assert 0 < each["kept k resume"]["resumed_at"] < each["kept k resume"]["iterations"]
    own = told(fit_model(folder / "d.parquet", "y", **dict(KEPT, method="direct")))
    assert_same(found[0]["kept k resume"], own, 1e-3)
    with pytest.raises(DataError, match=r"number of processes was 2 and is 1\. Give the options"):
        fit_model(folder / "d.parquet", "y", **KEPT, checkpoint=folder / "k", resume=True)


@pytest.mark.slow
def test_fits_of_three_processes_that_are_kept_end_with_the_same_bits(folder):
    names = ["kept whole", "kept k SIGINT", "kept k resume other", "kept k resume", "kept m mine"]
    names += ["kept u SIGINT often", "unreadable u resume"]
    found = answers(folder, 3, *names, "kept t SIGTERM")
    again = answers(folder, 3, "kept t resume")
    for index, (each, later) in enumerate(zip(found, again, strict=True)):
        whole = found[0]["kept whole"]
        assert whole["resumed_at"] == 0
        for name in ("kept k SIGINT", "kept u SIGINT often", "kept t SIGTERM"):
            assert each[name].startswith("Interrupted: iteration ")
        assert "the option l2 was 0.001 and is 1.0" in each["kept k resume other"]
        resumed, said = each["unreadable u resume"]
        for model in (each["kept whole"], each["kept k resume"], later["kept t resume"], resumed):
            same_bits(model, whole)
        # What one of them cannot read none of them takes.
        assert len(said) == 1
        assert said[0].endswith("the one before is used (it is truncated)")
        other = "process 1 does not see the fit that the first one keeps in"
        assert other in each["kept m mine"] or (
            index == 2 and "process 2 does not see" in each["kept m mine"]
        )


@pytest.mark.slow
def test_other_numbers_of_processes_go_on_with_a_fit(folder):
    ways = {f"kept {name} {name}": KEPT_BY[name] for name in ("lbfgs", "lsmr", "cg")}
    begun = answers(folder, 3, *(f"{name} SIGINT" for name in ways), "kept drop drop SIGINT")
    for name in (*ways, "kept drop drop"):
        for each in begun:
            assert each[f"{name} SIGINT"].startswith("Interrupted: iteration ")
    whole = answers(folder, 3, *(name.replace("kept ", "kept whole-") for name in ways))[0]
    for count in (4, 2):
        if count == 2:
            ways = {"kept cg cg": KEPT_BY["cg"]}
        copies = {name: name.replace("kept ", f"kept {count}-") for name in ways}
        for name in ("lbfgs", "lsmr", "cg", "drop"):
            shutil.copytree(folder / name, folder / f"{count}-{name}")
        resumed = [f"{copy} resume" for copy in copies.values()]
        found = answers(folder, count, *resumed, f"kept {count}-drop drop resume")
        for name, options in ways.items():
            own = told(fit_model(folder / "d.parquet", "y", **dict(KEPT, **options) | DIRECT))
            uninterrupted = whole[name.replace("kept ", "kept whole-")]
            for each in found:
                model = each[f"{copies[name]} resume"]
                same_bits(model, found[0][f"{copies[name]} resume"])
                assert 0 < model["resumed_at"] < model["iterations"]
                # The method goes on with all that it knew.
                at = model["resumed_at"]
                expected = uninterrupted["values"][at : at + 4]
                np.testing.assert_allclose(model["values"][:4], expected, rtol=1e-7)
                assert_same(model, own, 1e-3)
        for each in found:
            said = each[f"kept {count}-drop drop resume"]
            assert "keeps a fit of 3 processes, and shares from which rows were dropped" in said


@pytest.mark.slow
def test_a_fit_goes_on_after_one_of_its_processes_was_killed(folder):
    (out, _, code), (_, _, killed) = run(CHILD, 2, str(folder), "kept k SIGKILL often", timeout=100)
    assert killed == -9
    assert code != 0
    assert '{"weights"' not in out
    for each in answers(folder, 2, "kept k resume", "kept whole"):
        same_bits(each["kept k resume"], each["kept whole"])
        assert each["kept k resume"]["resumed_at"] > 0


@pytest.mark.slow
def test_the_command_keeps_what_a_signal_ends(tmp_path):
    rng = np.random.default_rng(2)
    # So many iterations that the notice of SIGTERM, which takes seconds, comes before the end.
    X = rng.normal(size=(20_000, 60)) @ np.diag(10.0 ** np.linspace(0, 4, 60))
    X[:, 1:] += 3 * X[:, :-1]
    table = {f"x{j}": X[:, j] for j in range(60)} | {"y": X.sum(axis=1) + rng.normal(size=20_000)}
    pq.write_table(pa.table(table), tmp_path / "big.parquet", row_group_size=5_000)
    options = [tmp_path / "big.parquet", "--target", "y", "--method", "lbfgs", "--l2", "1e-3"]
    options += ["--dtype", "float64", "--json", "--checkpoint"]
    whole = json.loads(commands(*options, tmp_path / "whole")[0][0])
    kept = tmp_path / "kept"
    own = [*options, kept]
    started = command("fit", own, own, module="tests.distributed.often")
    try:
        deadline = time.monotonic() + 100
        while not list(kept.glob("descent/*-*1")) and time.monotonic() < deadline:
            time.sleep(0.1)
        started[1].send_signal(signal.SIGTERM)
    finally:
        both = ended(started, timeout=100)
    for out, errors, code in both:
        assert (out, code) == ("", 130), errors
        assert f"is kept in {kept}; the same command with --resume" in errors
    first, other = commands(*own, "--resume")
    assert [first[2], other[2]] == [0, 0], (first, other)
    resumed = json.loads(first[0])
    assert 0 < resumed["resumed_at"] < resumed["iterations"]
    for name in ("largest_weights", "intercept", "train", "iterations"):
        assert resumed[name] == whole[name]
