"""Memory limits: control groups, address space, and the refusal before allocation."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.kernels import memory
from tests.commands import printed

V2 = ("memory.max", "memory.current")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
GROUPS = {
    "each of version two up to the root": (
        "0::/pod/app\n", V2, {"pod/app": (1000, 400), "pod": (5000, 4500), "": ("max", 7)},
        [500, 600],
    ),
    "version one, in the memory controller's folder": (
        "5:cpu,cpuacct:/job\n4:memory:/job\n1:name=systemd:/job\n", V1,
        {"memory/job": (1000, 300)}, [700],
    ),
    "a path of the host: the root that is mounted": (
        "0::/docker/0123\n", V2, {"": (900, 100)}, [800],
    ),
    "past its limit": ("0::/\n", V2, {"": (100, 150)}, [0]),
    "none": ("0::/\n", V2, {}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_what_control_groups_leave(name, tmp_path):
    membership, files, groups, expected = GROUPS[name]
    for folder, figures in groups.items():
        (tmp_path / "fs" / folder).mkdir(parents=True, exist_ok=True)
        for file, figure in zip(files, figures, strict=True):
            (tmp_path / "fs" / folder / file).write_text(f"{figure}\n")
    file = tmp_path / "cgroup"
    assert memory._control_group_bytes(str(file), str(tmp_path / "fs")) == []
    file.write_text(membership)
    assert sorted(memory._control_group_bytes(str(file), str(tmp_path / "fs"))) == expected


def test_the_address_space_limit_counts():
    script = (
        "import resource\n"
        "from jaxdescent.kernels import memory\n"
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
