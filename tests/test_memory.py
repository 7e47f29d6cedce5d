"""Memory limits: control groups, address space, and the refusal before allocation. And memory that
was freed, which the GNU C library by itself keeps from the system.
"""

import ctypes
import os
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.machine import memory
from tests.commands import printed


def group(folder, limit, usage, *, names=("memory.max", "memory.current")):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")


def remaining(tmp_path, membership):
    file = tmp_path / "cgroup"
    file.write_text(membership)
    return sorted(memory._control_group_bytes(str(file), str(tmp_path / "fs")))


def test_each_control_group_of_version_two_up_to_the_root_counts(tmp_path):
    root = tmp_path / "fs"
    group(root / "pod" / "app", 1000, 400)
    group(root / "pod", 5000, 4500)
    group(root, "max", 7)
    assert remaining(tmp_path, "0::/pod/app\n") == [500, 600]


def test_version_one_is_read_from_the_memory_controllers_folder(tmp_path):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(tmp_path / "fs" / "memory" / "job", 1000, 300, names=names)
    membership = "5:cpu,cpuacct:/job\n4:memory:/job\n1:name=systemd:/job\n"
    assert remaining(tmp_path, membership) == [700]


def test_a_path_of_the_host_falls_back_to_the_mounted_root(tmp_path):
    group(tmp_path / "fs", 900, 100)
    assert remaining(tmp_path, "0::/docker/0123\n") == [800]


def test_a_group_past_its_limit_leaves_nothing(tmp_path):
    group(tmp_path / "fs", 100, 150)
    assert remaining(tmp_path, "0::/\n") == [0]


def test_no_control_groups_means_no_limit(tmp_path):
    assert memory._control_group_bytes(str(tmp_path / "absent"), str(tmp_path)) == []
    assert remaining(tmp_path, "0::/\n") == []


def test_the_address_space_limit_counts():
    script = (
        "import resource\n"
        "from jaxdescent.machine import memory\n"
        "before = memory._address_space_bytes()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (10**12, resource.RLIM_INFINITY))\n"
        "print(before, memory._address_space_bytes()[0])\n"
    )
    before, after = printed(script).split()
    assert before == "[]"
    assert 0.9e12 < int(after) < 1e12


def test_available_bytes_is_positive_and_below_the_machines_memory():
    with open("/proc/meminfo") as lines:
        total = int(next(line for line in lines if line.startswith("MemTotal")).split()[1]) * 1024
    assert 0 < memory.available_bytes() <= total


def test_an_accelerators_own_statistics_count():
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 100, "bytes_in_use": 30}

    assert memory.available_bytes(Device()) == 70


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_600, "1 MB"),
        (2.56e20, "256 EB"),
        (1e24, "1e+03 ZB"),
    ],
)
def test_bytes_are_readable(count, text):
    assert memory.readable_bytes(count) == text


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device=None: 10_000)
    monkeypatch.setattr(memory, "SMALL_BYTES", 0)


@pytest.mark.parametrize(
    ("objective", "params"),
    [
        (lambda p: jnp.sum(jnp.cosh(p)), jnp.ones(100)),
        (jd.LinearRegression(np.ones((200, 100), np.float32), np.ones(200, np.float32)), None),
        (jd.Quadratic(np.eye(100, dtype=np.float32)), None),
    ],
    ids=["function", "regression", "quadratic"],
)
def test_a_solve_that_does_not_fit_is_refused_with_the_numbers(small_machine, objective, params):
    numbers = r"kB for 10[01] unknowns, and 10 kB are available: .* method=jd\.GradientDescent"
    with pytest.raises(jd.ProblemTooLarge, match=numbers):
        jd.minimize(objective, params, jd.DerivativeMethod())


def test_problem_too_large_is_a_memory_error():
    assert issubclass(jd.ProblemTooLarge, MemoryError)


def test_the_bytes_of_a_solve_follow_from_shapes_alone():
    tall, wide = (
        jd.LinearRegression(np.ones(shape, np.float32), np.ones(shape[0], np.float32)).checked()
        for shape in ((5000, 100), (100, 5000))
    )
    # Two copies of X, which QR would work on, beside matrices of the smaller dimension.
    for regression in (tall, wide):
        assert 4 * 2 * 500_000 < regression.stationary_solver_bytes(None) < 4 * 4 * 500_000
    separable = jd.SumOfSquares().stationary_solver_bytes(jnp.ones(1000))
    assert separable == 2 * 4000


FREEING = """
    import numpy as np

    from jaxdescent.data import freeing

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    def kept(size, count):
        '''The bytes that are resident because of arrays that were freed, but for a last one.'''
        before = resident()
        arrays = [np.ones(size, np.uint8) for _ in range(count)]
        assert resident() - before > 0.9 * size * count
        last = arrays[-1]
        del arrays
        return last, before
"""
SMALL = """
    last, before = kept(100_000, 640)  # below the size that has a mapping of its own
    assert resident() - before > 0.9 * 64e6  # the last one keeps the heap from shrinking
    passing = freeing.Passing()
    for _ in range(freeing.RETURNING - 1):
        passing.add(freeing.LEAST_BYTES // freeing.RETURNING)
    assert resident() - before > 0.9 * 64e6
    passing.add(freeing.LEAST_BYTES)
    assert resident() - before < 0.1 * 64e6
    last, before = kept(100_000, 640)
    passing.add(freeing.LEAST_BYTES - 1, is_last=True)
    assert resident() - before > 0.9 * 64e6
    passing.add(1, is_last=True)
    assert resident() - before < 0.1 * 64e6
"""
LEARNT = """
    # Of the sizes that are freed the library learns to keep larger and larger ones, to 32 MB.
    for size in range(20):
        np.ones(size << 20, np.uint8)
    last, before = kept(3 << 20, 32)
"""
LARGE_BEFORE = (
    LEARNT
    + """
    assert resident() - before > 0.9 * (96 << 20)
    freeing.return_what_is_freed()
    assert resident() - before < 0.1 * (96 << 20)
    # The next arrays may be placed where these were, and are returned at the end of the pass.
    del last
    last, before = kept(3 << 20, 32)
    freeing.Passing().add(96 << 20, is_last=True)
    assert resident() - before < 0.1 * (96 << 20)
"""
)
LARGE_AFTER = (
    """
    freeing.return_what_is_freed()
"""
    + LEARNT
    + """
    assert resident() - before < 0.1 * (96 << 20)
"""
)


@pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="other C libraries have no such functions",
)
@pytest.mark.parametrize(
    "code",
    [SMALL, LARGE_BEFORE, LARGE_AFTER],
    ids=["what was freed", "large arrays freed before", "large arrays freed afterwards"],
)
def test_what_passed_through_a_process_does_not_stay_with_it(code):
    printed(textwrap.dedent(FREEING) + textwrap.dedent(code))
