"""A fit by several processes, each of which reads its own rows, against that of one."""

import json

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("typer")

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from jaxdescent.fit import fit_model, load_model
from tests.distributed.fits import FILES, REFUSED, ROWS, SUMS, columns, told
from tests.distributed.processes import ROOT, command, ended, run

CHILD = "tests.distributed.fits"
FAILING = ("bad direct", "bad lsmr", "few", "text", "options")


@pytest.fixture
def folder(tmp_path):
    table = columns()
    pq.write_table(pa.table(table), tmp_path / "d.parquet", row_group_size=50)
    numbers = {name: table[name] for name in ("a", "b", "y")}
    csv.write_csv(pa.table(numbers), tmp_path / "d.csv")
    numbers["a"] = np.append(numbers["a"][:-1], np.inf)
    pq.write_table(pa.table(numbers), tmp_path / "bad.parquet", row_group_size=50)
    np.save(tmp_path / "X.npy", np.stack([table["a"], table["b"]], axis=1))
    np.save(tmp_path / "y.npy", table["y"])
    return tmp_path


def answers(folder, count, *names):
    said = run(CHILD, count, str(folder), *names, timeout=300)
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


def check_sums(folder, found):
    for name, options in SUMS.items():
        own = told(fit_model(folder / "d.parquet", "y", **options))
        for each in found:
            assert_same(each[name], own, 1e-8)
            assert each[name]["notes"] == own["notes"]
            assert each[name] == found[0][name]  # to the bit
    own = told(fit_model(folder / "X.npy", method="direct"))
    for index, each in enumerate(found):
        told_of_reading = each["read direct"]
        assert_same(told_of_reading, own, 1e-8)
        first, stop = (ROWS * k // len(found) for k in (index, index + 1))
        assert told_of_reading["read"] == [first, stop - 1, stop - first]
        assert told_of_reading["rows_read"] == ROWS
        assert told_of_reading["processes"] == len(found)


def check_files(folder, found):
    for name, options in FILES.items():
        # By sums, which are exact.
        direct = dict(options, method="direct", dtype=None)
        own = told(fit_model(folder / "d.parquet", "y", **direct))
        for each in found:
            assert "on rows that stay in the files, in float64" in each[name]["method"]
            assert_same(each[name], own, 1e-5)
            assert each[name] == found[0][name]
    for index, each in enumerate(found):
        first, stop = (ROWS * k // len(found) for k in (index, index + 1))
        assert each["read lsmr"]["read"] == [first, stop - 1, stop - first]


def check_failures(found):
    *others, last = found
    for name in ("bad direct", "bad lsmr"):
        assert last[name].startswith("DataError: 'a' is infinite in row 403 of bad.parquet")
        for other in others:
            expected = f"OtherProcessFailed: process {len(found) - 1} failed with {last[name]}"
            assert other[name] == expected
    for each in found:
        assert "cannot share 1 rows: start fewer of them" in each["few"]
        assert "CSV as it is here is read from its first row on: write .npy, or" in each["text"]
        assert "the options are not the same in all processes: start" in each["options"]


def test_two_processes_add_up_what_one_does_and_fail_together(folder):
    names = [*SUMS, "read direct", "other direct", *FAILING, *REFUSED, "lsmr, in files", "pieces"]
    found = answers(folder, 2, *names)
    check_sums(folder, found)
    check_failures(found)
    for each in found:
        assert each["other direct"]["held_out"]["rows"] == 1
        assert each["where"].startswith("DataError: --where leaves out rows")
        assert "--checkpoint keeps a fit of one process" in each["checkpoint"]
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
    assert not (ROOT / "never-made").exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_fit_what_one_does_in_every_way(folder, count):
    names = [*SUMS, *FILES, "read direct", "read lsmr", "other lsmr", *FAILING]
    found = answers(folder, count, *names)
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
