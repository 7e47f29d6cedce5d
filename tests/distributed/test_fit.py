"""A fit by several processes, each of which reads its own rows, against that of one."""

import gzip
import json
import shutil
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from jaxdescent.data import DataError
from jaxdescent.fit import fit_model, load_model
from tests.distributed.fits import (
    FILES,
    KEPT,
    KEPT_BY,
    ONE_ROW,
    REFUSED,
    ROWS,
    SUMS,
    columns,
    data_of,
    explained,
    told,
)
from tests.distributed.processes import PLAIN, answers, command, ended, run

pytestmark = pytest.mark.slow

CHILD = "tests.distributed.fits"
DIRECT = {"method": "direct", "dtype": None}
# A notice of SIGTERM would end every fit after it.
SIGNALS = {"lsmr": "SIGINT", "lbfgs": "SIGTERM"}
FIGURES = ("weights", "intercept", "train", "held_out", "iterations")
FAILING = ("bad direct", "bad lsmr", "bad direct where", "few", "ragged", "lines", "options")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("fits")
    table = columns()
    pq.write_table(pa.table(table), tmp_path / "d.parquet", row_group_size=50)
    pq.write_table(pa.table(explained()), tmp_path / "explained.parquet", row_group_size=50)
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


def check_read(folder, found, method):
    own = told(fit_model(folder / "X.npy", method="direct", test_data=ONE_ROW))
    for index, each in enumerate(found):
        told_of_reading = each[f"read {method}"]
        assert_same(told_of_reading, own, 1e-8 if method == "direct" else 1e-5)
        first, stop = share(index, len(found))
        assert told_of_reading["read"] == [first, stop - 1, stop - first]
        assert told_of_reading["held_out"]["rows"] == 1
        assert told_of_reading["processes"] == len(found)
        if method == "direct":
            assert told_of_reading["rows_read"] == ROWS + 1


def check_sums(folder, found):
    assert found[0].keys() > SUMS.keys()
    for name, options in SUMS.items():
        model = fit_model(data_of(folder, name), "y", **options)
        assert (model.metrics["iterations"] > 1) == (name == "explained")
        own = told(model)
        for each in found:
            assert_same(each[name], own, 1e-8)
            assert each[name]["notes"] == own["notes"]
            assert each[name] == found[0][name]  # to the bit
    check_read(folder, found, "direct")


def check_files(folder, found):
    for name in FILES:
        # By sums, which are exact.
        own = told(fit_model(data_of(folder, name), "y", **FILES[name] | DIRECT))
        for each in found:
            assert "on rows that stay in the files, in float64" in each[name]["method"]
            assert_same(each[name], own, 1e-5)
            assert each[name] == found[0][name]


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
        assert ragged in each["ragged"]
        assert each["ragged"].startswith("DataError")
        refused = "svmlight text as it is here is read from its first row on: write .npy, CSV, or"
        assert refused in each["lines"]
        assert "the options are not the same in all processes: start" in each["options"]


def test_two_processes_fit_rows_in_files_as_one_does_and_are_refused_together(folder):
    found = answers(CHILD, 2, folder, *FILES, "read cg", *REFUSED, "pieces")
    check_files(folder, found)
    check_read(folder, found, "cg")
    for each in found:
        assert each["none left"].startswith("DataError: no row meets --where 'a > 1e9': nothing")
        assert "2 processes cannot share 1 rows: start fewer of them" in each["one left"]
        assert "say --l2 with a number, or fit in one process: nothing was read" in each["search"]
        assert "'g' is not numeric" in each["levels"]
        told_of_pieces = each["pieces"]
        assert told_of_pieces.pop("said").startswith(
            "arrays that are added up must be of one shape"
        )
        assert told_of_pieces == {
            "is_sum": True,
            "lengths": [0, 150],
            "empty": [0, 2],
        }


@pytest.fixture(scope="module")
def ended_by_signals(folder):
    """Keeps fits of two processes: one is interrupted, and in another a process is killed."""
    names = ["kept 3-lsmr lsmr SIGINT", "kept k lbfgs SIGKILL often"]
    (out, _, code), (_, _, killed) = run(CHILD, 2, str(folder), *names, timeout=100)
    assert killed == -9
    assert code != 0
    assert '{"weights"' not in out


@pytest.fixture(scope="module")
def by_three(folder, ended_by_signals):
    """What three processes print of fits, the last of which are kept and sent a signal."""
    del ended_by_signals
    names = [*SUMS, "read direct", *FAILING]
    names += ["kept whole drop", "kept drop drop SIGINT often", "kept drop drop", "kept x alone"]
    names += ["kept m mine", "kept drop drop resume other", "unreadable drop drop resume"]
    names += [f"kept {way} {way} {number}" for way, number in SIGNALS.items()]
    return answers(CHILD, 3, folder, *names[:-1], "kept 3-lsmr lsmr resume", names[-1])


def test_three_processes_fit_by_sums_as_one_does_and_fail_together(folder, by_three):
    check_sums(folder, by_three)
    check_failures(by_three)


@pytest.mark.core
def test_a_process_that_is_interrupted_waits_for_none_and_the_others_end(folder):
    """JAX's own end would wait for those that wait for it, for five minutes."""
    (out, _, code), (_, _, interrupted) = run(CHILD, 2, str(folder), "gone", timeout=100)
    assert interrupted == 130
    [name, said] = json.loads(next(line for line in out.splitlines() if line.startswith('["')))
    assert name == "gone"
    assert said.startswith("OtherProcessFailed: another process has ended, or cannot be reached:")
    assert code == 1


def test_a_signal_to_one_process_inside_a_program_ends_both_in_one_line(folder):
    options = [folder / "d.parquet", "--target", "y", "--features", "a,b", "--method", "lbfgs"]
    started = command(
        "fit", options, options, module="tests.distributed.signalled", environment=PLAIN
    )
    (out, errors, code), (_, own, other) = ended(started, timeout=100)
    assert (code, other) == (1, 130), (errors, own)
    assert own.strip().splitlines()[-1] == "Interrupted: nothing was written."
    assert errors.strip().splitlines()[-1].startswith("Error: another process has ended, or cannot")
    assert "Traceback" not in errors + own
    assert "R²" not in out


def commands(*arguments, code):
    """What ``jaxdescent fit`` prints in each of two processes, and its errors."""
    return [said[:2] for said in ended(command("fit", arguments, arguments), code=code)]


def test_the_command_tells_and_writes_in_the_first_process_and_ends_all_of_them(folder):
    options = [folder / "d.parquet", "--target", "y", "--features", "a,b", "--out"]
    first, other = commands(*options, folder / "model", code=0)
    assert other[0] == ""
    assert f"{ROWS:,} rows of Parquet (1 file," in first[0]
    assert "shared by 2 processes: 2 features" in first[0]
    shown = " ".join(first[0].split())
    assert "processes 2, each of which read its share of the rows" in shown
    own = fit_model(folder / "d.parquet", "y", features=["a", "b"])
    np.testing.assert_allclose(load_model(folder / "model").weights, own.weights, rtol=1e-8)
    first, other = commands(*options, folder / "nowhere" / "model", code=2)
    assert first[1].strip().splitlines()[-1].startswith("Error: ")
    assert "Error: process 0 failed with DataError: " in other[1]


def same_bits(one, other):
    assert [one[name] for name in FIGURES] == [other[name] for name in FIGURES]


def own_options(way):
    """Those of a kept fit, by sums of one process."""
    return KEPT | KEPT_BY[way] | DIRECT


@pytest.fixture(scope="module")
def resumed_by_two(folder, by_three):
    """What two processes print that go on with fits of three, and of two of which one is killed."""
    del by_three
    for way in (*SIGNALS, "drop"):
        shutil.copytree(folder / way, folder / f"2-{way}")
    names = ["kept 2-lsmr lsmr resume changed"]
    names += [f"kept 2-{way} {way} resume" for way in (*SIGNALS, "drop")]
    names += [f"kept whole-{way} {way}" for way in SIGNALS]
    return answers(CHILD, 2, folder, *names, "kept k lbfgs resume")


def test_a_signal_to_one_process_keeps_the_fit_of_all(folder, by_three):
    for index, each in enumerate(by_three):
        assert each["kept drop drop SIGINT often"].startswith("Interrupted: iteration ")
        assert each["kept drop drop SIGINT often"].endswith(
            f"is kept in {folder / 'drop'}; the same command with --resume goes on."
        )
        for way, number in SIGNALS.items():
            assert each[f"kept {way} {way} {number}"].startswith("Interrupted: iteration ")
        assert f"{folder / 'drop'} keeps a fit: say --resume" in each["kept drop drop"]
        assert each["kept x alone"].startswith("DataError: --checkpoint and --resume are not the")
        assert "the option l2 was 0.001 and is 1.0" in each["kept drop drop resume other"]
        other = "process 1 does not see the fit that the first one keeps in"
        assert other in each["kept m mine"] or (
            index == 2 and "process 2 does not see" in each["kept m mine"]
        )
    options = KEPT | KEPT_BY["lbfgs"]
    with pytest.raises(DataError, match=r"number of processes was 3 and is 1\. Give the options"):
        fit_model(folder / "d.parquet", "y", **options, checkpoint=folder / "lbfgs", resume=True)


def test_a_fit_that_goes_on_ends_with_the_same_bits(folder, by_three):
    whole = by_three[0]["kept whole drop"]
    assert whole["resumed_at"] == 0
    # Three processes add in another order: what the tolerance of the value leaves of the weights.
    assert_same(whole, told(fit_model(folder / "d.parquet", "y", **own_options("drop"))), 5e-3)
    for each in by_three:
        resumed, said = each["unreadable drop drop resume"]
        same_bits(each["kept whole drop"], whole)
        same_bits(resumed, whole)
        assert 0 < resumed["resumed_at"] < resumed["iterations"]
        # What one of them cannot read none of them takes.
        assert len(said) == 1
        assert said[0].endswith("the one before is used (it is truncated)")


def test_other_numbers_of_processes_go_on_with_a_fit(folder, by_three, resumed_by_two):
    for way in SIGNALS:
        exact = told(fit_model(folder / "d.parquet", "y", **own_options(way)))
        uninterrupted = resumed_by_two[0][f"kept whole-{way} {way}"]
        for found in (resumed_by_two, by_three) if way == "lsmr" else (resumed_by_two,):
            name = f"kept {len(found)}-{way} {way} resume"
            for each in found:
                model = each[name]
                same_bits(model, found[0][name])
                assert 0 < model["resumed_at"] < model["iterations"]
                # The method goes on with all that it knew.
                at = model["resumed_at"]
                expected = uninterrupted["values"][at : at + 4]
                np.testing.assert_allclose(model["values"][:4], expected, rtol=1e-3)
                assert_same(model, exact, 1e-2)
    for each in resumed_by_two:
        said = each["kept 2-lsmr lsmr resume changed"]
        assert "keeps a fit of other rows: the data have changed. Give the data of then" in said
        said = each["kept 2-drop drop resume"]
        assert "keeps a fit of 3 processes, and shares from which rows were dropped" in said


def test_a_fit_goes_on_after_one_of_its_processes_was_killed(folder, resumed_by_two):
    whole = resumed_by_two[0]["kept whole-lbfgs lbfgs"]
    for each in resumed_by_two:
        same_bits(each["kept k lbfgs resume"], whole)
        same_bits(each["kept whole-lbfgs lbfgs"], whole)
        assert each["kept k lbfgs resume"]["resumed_at"] > 0


def test_the_command_keeps_what_a_signal_ends(folder, resumed_by_two):
    kept = folder / "of-the-command"
    options = [folder / "d.parquet", "--target", "y", "--hash", "g", "--exclude", "w,gaps"]
    options += ["--bits", "5", "--method", "lbfgs", "--l2", "1e-3", "--test", "0.3", "--json"]
    options += ["--dtype", "float64", "--checkpoint", kept]
    started = command("fit", options, options, module="tests.distributed.often")
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
    first, other = commands(*options, "--resume", code=0)
    assert other[0] == ""
    resumed = json.loads(first[0])  # and nothing else
    whole = resumed_by_two[0]["kept whole-lbfgs lbfgs"]
    assert resumed["processes"] == 2
    assert 0 < resumed["resumed_at"] < resumed["iterations"]
    for name in ("intercept", "train", "held_out", "iterations"):
        assert resumed[name] == whole[name]
    for name, weight in resumed["largest_weights"].items():
        assert weight == whole["weights"][name]
