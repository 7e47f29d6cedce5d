"""A fit by several processes, each of which reads its own rows, against that of one."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from jaxdescent.fit import fit_model, load_model
from tests.distributed.fits import (
    ONE_ROW,
    REFUSED,
    ROWS,
    SUMS,
    columns,
    data_of,
    explained,
    told,
)
from tests.distributed.processes import answers, command, ended, run

pytestmark = pytest.mark.slow

CHILD = "tests.distributed.fits"
FAILING = ("bad", "bad where", "few", "ragged", "options")


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


def check_read(folder, found):
    own = told(fit_model(folder / "X.npy", "y", test_data=ONE_ROW))
    for index, each in enumerate(found):
        of_reading = each["read"]
        assert_same(of_reading, own, 1e-8)
        first, stop = (ROWS * at // len(found) for at in (index, index + 1))
        assert of_reading["read"] == [first, stop - 1, stop - first]
        assert of_reading["held_out"]["rows"] == 1
        assert of_reading["processes"] == len(found)
        assert of_reading["rows_read"] == ROWS + 1


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
    check_read(folder, found)


def check_failures(found):
    *others, last = found
    for name in ("bad", "bad where"):
        assert last[name].startswith("DataError: 'a' is infinite in row 403 of bad.parquet")
        for other in others:
            expected = f"OtherProcessFailed: process {len(found) - 1} failed with {last[name]}"
            assert other[name] == expected
    for each in found:
        assert "at least 2 rows are needed to fit, got 1" in each["few"]
        assert "'g' has no value in row 101 of ragged.csv" in each["ragged"]
        assert "the options are not the same in all processes: start" in each["options"]
        assert "at least 2 rows are needed to fit, got 0" in each["none left"]
        assert "--distributed adds up sums: leave --method out, or say direct" in each["iterating"]
        assert "'g' is not numeric" in each["levels"]
        of_pieces = each["pieces"]
        assert of_pieces.pop("said").startswith("arrays that are added up must be of one shape")
        assert of_pieces == {"is_sum": True, "lengths": [0, 150, 300], "empty": [0, 2]}


def test_three_processes_fit_as_one_does_and_fail_together(folder):
    found = answers(CHILD, 3, folder, *SUMS, "read", *FAILING, *REFUSED, "pieces")
    check_sums(folder, found)
    check_failures(found)


@pytest.mark.core
def test_a_process_that_is_interrupted_waits_for_none_and_the_others_end(folder):
    """JAX's own end would wait for those that wait for it, for five minutes."""
    (out, _, code), (_, _, interrupted) = run(CHILD, 2, str(folder), "gone", timeout=100)
    assert interrupted == 130
    [name, said] = json.loads(next(line for line in out.splitlines() if line.startswith('["')))
    assert name == "gone"
    assert said.startswith("OtherProcessFailed: another process has ended, or cannot be reached:")
    assert code == 1


def commands(*arguments, code):
    """What ``jaxdescent fit`` prints in each of two processes, and its errors."""
    return [said[:2] for said in ended(command("fit", arguments, arguments), code=code)]


def test_the_command_tells_and_writes_in_the_first_process_and_ends_all_of_them(folder):
    options = [folder / "d.parquet", "--target", "y", "--features", "a,b", "--out"]
    first, other = commands(*options, folder / "model", code=0)
    assert other[0] == ""
    assert f"{ROWS:,} rows of Parquet (1 file," in first[0]
    assert "shared by 2 processes" in " ".join(first[0].split())
    shown = " ".join(first[0].split())
    assert "processes 2, each of which read its share of the rows" in shown
    own = fit_model(folder / "d.parquet", "y", features=["a", "b"])
    np.testing.assert_allclose(load_model(folder / "model").weights, own.weights, rtol=1e-8)
    first, other = commands(*options, folder / "nowhere" / "model", code=2)
    assert first[1].strip().splitlines()[-1].startswith("Error: ")
    assert "Error: process 0 failed with DataError: " in other[1]
