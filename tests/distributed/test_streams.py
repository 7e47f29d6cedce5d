"""Rows of files that several processes read, each of them its own share."""

import json

import numpy as np
import pytest

import jaxdescent as jd
from tests.distributed.cases import ROWS, data
from tests.distributed.processes import run

CHILD = "tests.distributed.streams"
NAMES = ("shared", "filled", "own", "failing", "differing")
COUNTS = [2, pytest.param(4, marks=pytest.mark.slow)]


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


def answers(folder, count, *names):
    ended = run(CHILD, count, str(folder), *names, timeout=300)
    assert [code for _, _, code in ended] == [0] * count, [errors for _, errors, _ in ended]
    lines = [[line for line in out.splitlines() if line.startswith('["')] for out, _, _ in ended]
    return [dict(map(json.loads, each)) for each in lines]


def assert_close(found, own):
    assert found["status"] == int(own.status)
    np.testing.assert_allclose(found["value"], float(own.value), rtol=1e-5)
    for name, leaf in own.params.items():
        np.testing.assert_allclose(found["params"][name], leaf, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", COUNTS)
def test_processes_read_their_own_shares_and_find_what_one_finds(folder, count):
    for part in range(count):
        (folder / f"part{part}").symlink_to(folder / f"of{count}" / f"part{part}")
    found = answers(folder, count, *NAMES)
    X, y, _ = data()
    regression = jd.LinearRegression(X, y, l2=0.5)
    by_lsmr = jd.minimize(regression, method=jd.LSMR())
    for index, told in enumerate(found):
        assert_close(told["shared"]["lsmr"], by_lsmr)
        assert_close(told["shared"]["default"], jd.minimize(regression))
        share = ROWS // count
        assert told["shared"]["read"] == [index * share, (index + 1) * share - 1, share]
        assert_close(told["own"], by_lsmr)
    odd = X[:101, :3]
    exact = jd.minimize(jd.LinearRegression(odd, odd @ np.ones(3, np.float32)), method=jd.LSMR())
    for told in found:
        assert told["filled"]["rows"] == -(-101 // count) * count
        assert told["filled"]["fit"]["status"] == int(exact.status)
        np.testing.assert_allclose(told["filled"]["fit"]["params"]["weights"], 1, rtol=1e-4)
    *others, last = [told["failing"] for told in found]
    assert last.startswith("DataError: ")
    assert "'x2' is NaN in row 238" in last
    for other in others:
        assert other == f"OtherProcessFailed: process {count - 1} failed with {last}"
    for told in found:
        assert "the processes see other data" in told["differing"]
        assert "101, 3, float32; 240, 6, float32" in told["differing"]
