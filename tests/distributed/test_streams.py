"""Rows of files that several processes read, each of them its own share."""

import numpy as np
import pytest

import jaxdescent as jd
from tests.distributed.cases import ROWS, data
from tests.distributed.processes import answers

CHILD = "tests.distributed.streams"


def write(folder, X, y, rows=slice(None)):
    folder.mkdir(exist_ok=True)
    np.save(folder / "X.npy", X[rows])
    np.save(folder / "y.npy", y[rows])


def assert_close(found, own):
    assert found["status"] == int(own.status)
    np.testing.assert_allclose(found["value"], float(own.value), rtol=1e-5)
    for name, leaf in own.params.items():
        np.testing.assert_allclose(found["params"][name], leaf, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_three_processes_read_their_own_shares_find_what_one_finds_and_fail_together(tmp_path):
    X, y, _ = data()
    write(tmp_path, X, y)
    (tmp_path / "odd").mkdir()
    np.save(tmp_path / "odd" / "X.npy", X[:101, :3])
    bad = X.copy()
    bad[-3, 2] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    names = ("shared", "failing", "differing", "by_default", "filled")
    found = answers(CHILD, 3, tmp_path, *names)
    regression = jd.LinearRegression(X, y, l2=0.5)
    by_default, by_lsmr = (jd.minimize(regression, method=method) for method in (None, jd.LSMR()))
    share = ROWS // 3
    for index, told in enumerate(found):
        assert_close(told["by_default"], by_default)
        assert_close(told["shared"]["fit"], by_lsmr)
        assert told["shared"]["read"] == [index * share, (index + 1) * share - 1, share]
        assert told["filled"]["rows"] == 102
        assert told["filled"]["fit"]["status"] == jd.Status.CONVERGED
        np.testing.assert_allclose(told["filled"]["fit"]["params"]["weights"], 1, rtol=1e-4)
        assert "the processes see other data" in told["differing"]
        of_first, of_others = "101, 3, float32", "240, 7, float32"
        assert f"are {of_first}; {of_others}; {of_others}: open" in told["differing"]
    *others, last = [told["failing"] for told in found]
    assert last.startswith("DataError: ")
    assert "'x2' is NaN in row 238" in last
    assert others == [f"OtherProcessFailed: process 2 failed with {last}"] * 2
