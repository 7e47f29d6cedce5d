"""What depends on a platform stands in kernels/ and machine/, and is asked nowhere else."""

import ast
import collections
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent
from jaxdescent.designs import Dense
from jaxdescent.kernels import blocks, factors, platform, products
from tests.commands import printed
from tests.references import of_condition

PACKAGE = pathlib.Path(jaxdescent.__file__).parent
ROOMS = ("kernels", "machine")
QUESTIONS = re.compile(
    r"default_backend|device_count\(|len\(jax\.devices\(|platform_dependent|optimization_barrier|cpu_count|getaffinity"
)


def test_nobody_else_asks_for_the_platform():
    root = pathlib.Path(jaxdescent.__file__).parent
    asked = [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in root.rglob("*.py")
        if path.relative_to(root).parts[0] not in ROOMS
        for line in path.read_text().splitlines()
        if QUESTIONS.search(line)
    ]
    assert not asked


def test_the_choice_falls_when_a_program_is_lowered():
    def choose(x):
        return platform.on_cpu(lambda x: x + 1, lambda x: x * 1000, x)

    lowered = jax.jit(choose).trace(jnp.ones(3))
    on_cpu, on_tpu = (
        lowered.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu")
    )
    assert "add" in on_cpu
    assert "1.000000e+03" not in on_cpu
    assert "1.000000e+03" in on_tpu
    np.testing.assert_array_equal(jax.jit(choose)(jnp.ones(3)), 2)
    np.testing.assert_array_equal(jax.vmap(choose)(jnp.ones((2, 3))), 2)
    np.testing.assert_array_equal(jax.grad(lambda x: choose(x).sum())(jnp.ones(3)), 1)


def test_arrays_that_may_be_sharded_take_the_plain_form():
    assert not platform.has_one_cpu()  # there are eight in these tests

    def chosen(is_whole):
        own, plain = (lambda x: x + 1), (lambda x: x + 2)
        return float(platform.on_one_cpu(own, plain, jnp.zeros(()), is_whole=is_whole))

    assert (chosen(True), chosen(False), chosen(None)) == (1, 2, 2)


@pytest.mark.parametrize("rows", [7, 64, 1024, 1040])
def test_a_sum_over_strides_is_the_sum(rows, rng, x64):
    X, weight = rng.normal(size=(rows, 5)), rng.random((rows, 1))
    summed = jax.jit(lambda *rows: blocks.sum_over_strides(lambda X, w: (w * X).T @ X, *rows))
    got = summed(X, weight)
    np.testing.assert_allclose(got, (weight * X).T @ X, rtol=1e-12)


@jax.jit
def triangle_of(A):
    def gram(T):
        turned = jnp.matmul(A, T, precision="highest")
        return jnp.matmul(turned.T, turned, precision="highest")

    return factors.triangle_by_gram(gram, jnp.linalg.norm(A, axis=0))


@pytest.mark.first
@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
@pytest.mark.parametrize("size", [5, 130, 300])
def test_a_triangle_from_gram_matrices_is_that_of_householder(size, condition, rng):
    A = of_condition(condition, rng, 3 * size, size) * 10 ** rng.uniform(-2, 2, size)
    A = A.astype(np.float32)
    R, inverse = triangle_of(A)
    R, inverse = np.asarray(R, float), np.asarray(inverse, float)
    assert np.abs(np.tril(R, -1)).max() == 0
    # Q = A R^-1 is orthonormal but for the rounding that the condition enlarges.
    Q = np.linalg.solve(R.T, np.asarray(A, float).T).T
    values = np.linalg.svd(Q, compute_uv=False)
    eps = float(np.finfo(np.float32).eps)
    rounding = size**0.5 * eps * (10 + condition)
    assert np.linalg.norm(R @ inverse - np.eye(size), 2) < rounding
    assert np.abs(values - 1).max() < 8 * rounding


@pytest.mark.first
@pytest.mark.parametrize("size", [3, 128, 129, 300])
def test_cholesky_by_blocks_is_lapacks(size, rng, x64):
    A = rng.normal(size=(2 * size, size))
    matrix = A.T @ A + np.eye(size)
    by_blocks = jax.jit(factors._by_blocks)
    upper, inverse = by_blocks(matrix)
    lower = np.linalg.cholesky(matrix)
    np.testing.assert_allclose(upper, lower.T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(inverse, np.linalg.inv(lower), rtol=1e-8, atol=1e-10)
    assert not np.isfinite(by_blocks(matrix - 1e3 * np.eye(size))[1]).all()


def test_outer_products_are_multiplications(rng):
    column = jnp.asarray(rng.normal(size=4), jnp.float32)
    for numbers in (jnp.float32(3.0), jnp.arange(3.0)):
        got = jax.jit(products.outer).lower(column, numbers)
        assert "dot_general" not in got.as_text()
        np.testing.assert_allclose(
            products.outer(column, numbers), np.multiply.outer(column, numbers), rtol=1e-6
        )


def test_nobody_asks_of_what_class_an_objective_a_design_or_a_method_is():
    root = pathlib.Path(jaxdescent.__file__).parent
    homes = {"objectives", "regression", "designs", "methods"}
    # RowReader is the state of a design's files, and none of these.
    protocols = {"Objective", "Design", "Method", "Transformation", "StepRule", "Momentum"}
    protocols |= {"RowReader"}
    defined = {}
    for room in homes:
        for path in (root / room).rglob("*.py"):
            for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE):
                defined.setdefault(name, set()).add(path)
    assert {"Dense", "LinearRegression", "LSMR", "Quadratic", "GramForm"} <= set(defined)
    asked = []
    for path in root.rglob("*.py"):
        for kinds in re.findall(r"isinstance\([^,]+,\s*\(?([\w., |]+)", path.read_text()):
            for name in re.findall(r"\w+", kinds):
                if path not in defined.get(name, {path}) and name not in protocols:
                    asked.append(f"{path.relative_to(root)}: {name}")
    assert not asked


def frames_to(monkeypatch, owner, name, run):
    """The frames of the package that lie on the way from ``run`` to a function of its own."""
    import traceback

    found, honest = [], getattr(owner, name)
    root = str(pathlib.Path(jaxdescent.__file__).parent)

    def seen(*args, **kwargs):
        stack = traceback.extract_stack()
        found.append(sum(frame.filename.startswith(root) for frame in stack))
        return honest(*args, **kwargs)

    monkeypatch.setattr(owner, name, seen)
    run()
    return min(found)  # the others are those of the gap


def test_few_frames_lie_between_a_call_and_the_arithmetic(monkeypatch, rng):
    X = rng.normal(size=(31, 3)).astype(np.float32)
    regression = jaxdescent.LinearRegression(X, X[:, 0])
    method = jaxdescent.GradientDescent(0.01)

    def descend():
        jaxdescent.minimize(regression, method=method)

    assert frames_to(monkeypatch, Dense, "there_and_back", descend) <= 9  # and its own is the tenth

    class Arithmetic:
        @staticmethod
        def of(x):
            return jnp.sum(x**2)

    def function():
        jaxdescent.minimize(Arithmetic.of, jnp.ones(3), method)

    assert frames_to(monkeypatch, Arithmetic, "of", function) <= 10


MOST_LINES = 350

# What a result reports, and the hook of a run that keeps the same in a file.
TWICE = {"History"}


def test_no_file_is_long():
    lengths = {path: path.read_text().count("\n") for path in PACKAGE.rglob("*.py")}
    assert not [path for path, lines in lengths.items() if lines > MOST_LINES]


def test_no_public_class_has_the_name_of_another():
    names = [
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    counts = collections.Counter(names)
    assert {name for name, count in counts.items() if count > 1} == TWICE


def test_benchmarks_and_examples_import_nothing_of_the_tests():
    root = pathlib.Path(jaxdescent.__file__).parents[1]
    imports = re.compile(r"^\s*(from|import) tests\b", re.MULTILINE)
    for folder in ("benchmarks", "examples", "jaxdescent"):
        for path in (root / folder).rglob("*.py"):
            assert not imports.search(path.read_text()), path


def test_type_checkers_and_programs_see_the_same_names():
    tree = ast.parse(pathlib.Path(jaxdescent.__file__).read_text())
    (choice,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        name.asname: node.module
        for node in choice.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert seen == {name: f"jaxdescent.{room}" for name, room in jaxdescent._HOMES.items()}
    assert set(seen) == set(jaxdescent.__all__) <= set(dir(jaxdescent))


LOADED = """
import sys

def rooms():
    return {name.split(".")[1] for name in sys.modules if name.startswith("jaxdescent.")}

import jaxdescent as jd
assert not rooms() and "jax" not in sys.modules and "numpy" not in sys.modules

jd.minimize, jd.LinearRegression
seldom = {"_critical_points", "_minimize_batch", "certificate", "cli", "fit", "plan", "runs"}
assert not rooms() & seldom, rooms() & seldom
assert "jaxdescent.machine.calibration" not in sys.modules

import jaxdescent.cost.structure
assert callable(jd.plan) and callable(jd.minimize)
assert jd.designs.Dense is sys.modules["jaxdescent.designs"].Dense
assert not hasattr(jd, "minimise") and not hasattr(jd, "__main__")
from jaxdescent import *
assert Nesterov is jd.Nesterov and callable(plan) and callable(critical_points)
assert "jaxdescent.fit.fitting" in sys.modules
"""


def test_a_room_is_loaded_when_one_of_its_names_is_used():
    printed(LOADED)


@pytest.mark.slow
def test_no_trace_outlives_a_call(rng):
    """What a branch closes over would: arrays of traces that have ended."""
    X, y = rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=60).astype(np.float32)

    def solve(y, method):
        return jaxdescent.minimize(jaxdescent.LinearRegression(X, y), method=method)

    with jax.checking_leaks():
        solve(y, jaxdescent.LSMR())
        for method in (jaxdescent.LSMR(), jaxdescent.DerivativeMethod()):
            of_one = functools.partial(solve, method=method)
            jax.eval_shape(jax.jit(jax.vmap(of_one)), np.stack([y, 2 * y]))
