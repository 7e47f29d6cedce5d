"""Rows of files that several processes read, each of them its own share."""

import numpy as np
import pytest

import jaxdescent as jd
from tests.distributed.cases import ROWS, data
from tests.distributed.processes import answers

CHILD = "tests.distributed.streams"
EVERYDAY = ("shared", "failing", "differing")


@pytest.fixture
def folder(tmp_path):
    X, y, _ = data()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "odd").mkdir()
    np.save(tmp_path / "odd" / "X.npy", X[:101, :3])
    for count in (2, 4):
        for part, rows in enumerate(np.split(np.arange(ROWS), count)):
            place = tmp_path / f"of{count}" / f"part{part}"
            place.mkdir(parents=True)
            np.save(place / "X.npy", X[rows])
            np.save(place / "y.npy", y[rows])
    X[-3, 2] = np.nan
    np.save(tmp_path / "bad.npy", X)
    return tmp_path


def assert_close(found, own):
    assert found["status"] == int(own.status)
    np.testing.assert_allclose(found["value"], float(own.value), rtol=1e-5)
    for name, leaf in own.params.items():
        np.testing.assert_allclose(found["params"][name], leaf, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_processes_read_their_own_shares_and_fail_together(folder):
    check(answers(CHILD, 2, folder, *EVERYDAY))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_find_what_one_finds_in_every_way(folder, count):
    for part in range(count):
        (folder / f"part{part}").symlink_to(folder / f"of{count}" / f"part{part}")
    found = answers(CHILD, count, folder, *EVERYDAY, "by_default", "filled", "own")
    check(found)
    X, y, _ = data()
    regression = jd.LinearRegression(X, y, l2=0.5)
    for told in found:
        assert_close(told["by_default"], jd.minimize(regression))
        assert_close(told["own"], jd.minimize(regression, method=jd.LSMR()))
        assert told["filled"]["rows"] == -(-101 // count) * count
        assert told["filled"]["fit"]["status"] == jd.Status.CONVERGED
        np.testing.assert_allclose(told["filled"]["fit"]["params"]["weights"], 1, rtol=1e-4)


def check(found):
    X, y, _ = data()
    own = jd.minimize(jd.LinearRegression(X, y, l2=0.5), method=jd.LSMR())
    share = ROWS // len(found)
    for index, told in enumerate(found):
        assert_close(told["shared"]["fit"], own)
        assert told["shared"]["read"] == [index * share, (index + 1) * share - 1, share]
    *others, last = [told["failing"] for told in found]
    assert last.startswith("DataError: ")
    assert "'x2' is NaN in row 238" in last
    for other in others:
        assert other == f"OtherProcessFailed: process {len(found) - 1} failed with {last}"
    for told in found:
        assert "the processes see other data" in told["differing"]
        assert "are 101, 3, float32; 240, 7, float32" in told["differing"]
