"""Designs whose rows are read at each product: as in memory, and in as few passes as is said."""

import _thread
import functools
import gzip
import json
import pathlib
import threading
from fractions import Fraction
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jaxdescent as jd
from jaxdescent.calls.programs import run_reading
from jaxdescent.designs import row_reader
from jaxdescent.designs.normal_sums import NormalSums, normal_solution
from jaxdescent.machine import Machine
from jaxdescent.regression.solve.normal_equations import SumsSolver
from jaxdescent.rows import DataError, Kind, Source
from tests.commands import printed
from tests.files import zeros_below
from tests.references import assert_is_matrix, closed_form, one_hot
from tests.results import assert_same, assert_trees_close, status

ROWS, COLUMNS, LEVELS = 450, 3, 4


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(row_reader, "BLOCK_BYTES", 128 * 16)


class Loader:
    """Rows in memory, given in blocks of lengths of their own; it counts what is read."""

    def __init__(self, table, length=70):
        self.table, self.length, self.read = table, length, 0

    def __call__(self, row):
        for start in range(row, len(self.table["y"]), self.length):
            block = {
                name: column[start : start + self.length] for name, column in self.table.items()
            }
            self.read += len(block["y"])
            yield block


def table_of(rng, rows=ROWS, far=0.0):
    table = {"a": rng.normal(size=rows) + far, "b": 3 * rng.normal(size=rows) + 1}
    table |= {"c": rng.integers(0, 9, rows), "k": rng.integers(-1, LEVELS, rows)}
    table["y"] = table["a"] - far - 2 * table["b"] + 0.5 * table["c"] + np.sin(table["k"]) + 4
    table["y"] += 0.3 * rng.normal(size=rows)
    return table


def written_out(table, center=0.0):
    numbers = np.stack([table[name] for name in ("a", "b", "c")], axis=1).astype(float)
    return np.concatenate([numbers, one_hot(table["k"], LEVELS)], axis=1) - center


def streamed(data, **options):
    return jd.Streamed(data, ["a", "b", "c"], categorical={"k": LEVELS}, **options)


def arrow(table):
    return pa.table(table | {"a": pa.array(table["a"], pa.float32())})


def as_parquet(folder, table):
    half = {name: column[:200] for name, column in table.items()}
    rest = {name: column[200:] for name, column in table.items()}
    pq.write_table(arrow(half), folder / "0.parquet", row_group_size=37)
    pq.write_table(arrow(rest), folder / "1.parquet", row_group_size=1000)
    return folder


def as_csv(folder, table):
    lines = [
        ",".join(table),
        *(",".join(map(repr, map(float, row))) for row in zip(*table.values(), strict=True)),
    ]
    text = "\n".join(lines).replace(".0,", ",")
    with gzip.open(folder / "d.csv.gz", "wt") as file:
        file.write(text)
    return folder / "d.csv.gz"


FORMS = {
    "a loader": lambda folder, table: Loader(table),
    "long blocks": lambda folder, table: Loader(table, 1000),
    "arrays": lambda folder, table: table,
    "Parquet": as_parquet,
    "CSV": as_csv,
    "Arrow": lambda folder, table: arrow(table),
}


@pytest.mark.parametrize("form", FORMS)
def test_products_are_those_of_the_written_out_matrix(form, tmp_path, rng, x64):
    table = table_of(rng)
    if form in ("Parquet", "Arrow"):
        table["a"] = table["a"].astype(np.float32).astype(float)
    X, S = written_out(table), streamed(FORMS[form](tmp_path, table), dtype=jnp.float64)
    assert S.dtype == jnp.float64
    assert S.reader.blocks > 3
    center = rng.normal(size=X.shape[1])
    for design, matrix in ((S, X), (S.minus(jnp.asarray(center)), X - center)):
        assert_is_matrix(design, matrix, rng)
    np.testing.assert_allclose(S.column("y"), table["y"])
    np.testing.assert_array_equal(S.column("c"), table["c"])
    assert S.names == ("a", "b", "c", "k=0", "k=1", "k=2", "k=3")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_and_files_of_them_are_read_without_names(order, tmp_path, rng):
    X, y = rng.normal(size=(333, 5)), rng.normal(size=333).astype("f")
    X = np.asarray(X, np.float32, order=order)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for data in (tmp_path / "X.npy", {"X": X, "y": y}, {"X": mapped, "y": y}):
        S = jd.Streamed(data, exclude=["y"])
        assert S.shape == (333, 5)
        chunk = S.reader.chunk(1)
        np.testing.assert_array_equal(chunk.numbers, X[S.reader.block :][: chunk.rows])
        if not isinstance(data, pathlib.Path):  # a view, and nothing is copied
            assert np.shares_memory(chunk.numbers, data["X"])
        np.testing.assert_allclose(S.product(jnp.ones(5)), X.sum(axis=1), atol=1e-5)
        np.testing.assert_array_equal(S.column("y"), y)
        some = jd.Streamed(data, ["x3", "x0"])
        np.testing.assert_array_equal(some.reader.chunk(0).numbers, X[: some.reader.block, [3, 0]])


def test_there_and_back_is_both_products_and_reads_once(rng, x64):
    table = table_of(rng)
    X, loader = written_out(table), Loader(table)
    S, y = streamed(loader, dtype=jnp.float64), jnp.asarray(table["y"])
    w, b = jnp.asarray(rng.normal(size=X.shape[1])), jnp.asarray(2.0)

    def change(product, rows):
        y, nothing = rows
        assert nothing is None
        residual = jnp.tanh(product + b) - y
        return (residual, product), 2 * residual

    def both(w, b, y):
        kept, columns = S.there_and_back(
            w, lambda p, rows: ((jnp.tanh(p + b) - rows, p), 2 * (jnp.tanh(p + b) - rows)), y
        )
        return kept[1].sum() + jnp.sum(jnp.sin(columns))

    def plain(w, b, y):
        p = jnp.asarray(X) @ w
        return p.sum() + jnp.sum(jnp.sin(jnp.asarray(X).T @ (2 * (jnp.tanh(p + b) - y))))

    before = loader.read
    (residual, product), columns = jax.jit(lambda: S.there_and_back(w, change, (y, None)))()
    jax.block_until_ready(columns)
    assert loader.read - before == ROWS
    np.testing.assert_allclose(product, X @ w)
    np.testing.assert_allclose(residual, np.tanh(X @ w + 2) - y)
    np.testing.assert_allclose(columns, X.T @ (2 * np.asarray(residual)))
    # Backwards and forwards, by what is passed and by what is closed over.
    gradients = jax.jit(jax.grad(both, (0, 1, 2)))(w, b, y)
    wanted = jax.jit(jax.grad(plain, (0, 1, 2)))(w, b, y)
    assert_trees_close(gradients, wanted, rtol=1e-9, atol=1e-9)
    moved = jax.jit(lambda *at: jax.jvp(both, at, at)[1])(w, b, y)
    np.testing.assert_allclose(
        moved, sum(np.sum(g * x) for g, x in zip(wanted, (w, b, y), strict=True))
    )


def test_a_batch_of_operands_shares_the_pass(rng, x64):
    table = table_of(rng)
    X, loader = written_out(table), Loader(table)
    S = streamed(loader, dtype=jnp.float64)
    W, R = rng.normal(size=(5, X.shape[1], 2)), rng.normal(size=(5, ROWS))
    before = loader.read
    np.testing.assert_allclose(jax.vmap(S.product)(jnp.asarray(W)), X @ W)
    got = jax.vmap(S.transposed_product)(jnp.asarray(R))
    np.testing.assert_allclose(got, R @ X, atol=1e-10)
    assert loader.read - before == 2 * ROWS
    centers = rng.normal(size=(5, X.shape[1]))
    got = jax.vmap(lambda c, w: S.minus(c).product(w))(jnp.asarray(centers), jnp.asarray(W))
    np.testing.assert_allclose(got, X @ W - np.einsum("bi,bik->bk", centers, W)[:, None])


def test_derivatives_of_products(rng, x64):
    table = table_of(rng)
    X, S = written_out(table), streamed(Loader(table), dtype=jnp.float64)
    w, c, r = (jnp.asarray(rng.normal(size=n)) for n in (X.shape[1], X.shape[1], ROWS))

    def value(design):
        return lambda c, w, r: (
            jnp.sum(jnp.square(design.minus(c).product(w)))
            + jnp.sum(jnp.sin(design.minus(c).transposed_product(r)))
        )

    slopes = (
        jax.jit(jax.grad(value(design), (0, 1, 2)))(c, w, r)
        for design in (S, jd.designs.Dense.from_array(X))
    )
    assert_trees_close(*slopes, rtol=1e-9)
    slope = jax.grad(lambda w: jnp.sum(S.product(w) ** 2))
    second = jax.jit(lambda w: jax.jvp(slope, (w,), (w,))[1])(w)
    np.testing.assert_allclose(second, 2 * X.T @ (X @ w))


METHODS = {
    # method: passes before and after the iterations, and in each
    "LSMR()": (jd.LSMR(), 3, 1),
    "ConjugateGradient()": (jd.ConjugateGradient(), 2, 2),
    "DerivativeMethod()": (jd.DerivativeMethod(), 2, 1),
    "Gram()": (jd.Gram(), 2, 0),
    "LBFGS()": (jd.LBFGS(), None, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_the_minimum_in_the_passes_that_are_said(name, rng):
    method, once, each = METHODS[name]
    table = table_of(rng)
    loader, s = Loader(table), rng.random(ROWS).astype("f") + 0.5
    S = streamed(loader)
    y = S.column("y")
    regression = jd.LinearRegression(S, y, l2=0.5, sample_weight=s)
    before = loader.read, S.passes
    result = jd.minimize(regression, method=method)
    weights, b, _ = closed_form(written_out(table), table["y"], 0.5, s)
    assert result.converged
    np.testing.assert_allclose(result.params["weights"], weights, atol=3e-3)
    np.testing.assert_allclose(result.params["intercept"], b, atol=1e-2)
    # The look at 64 rows reads no further than the first block.
    passes = S.passes - before[1]
    if once is not None:
        looks = passes - (once + each * int(result.iterations))
        # The gap's own steps at the candidate.
        assert 0 <= looks <= 12
        assert (loader.read - before[0]) // ROWS >= passes - 2
    again = jd.minimize(regression, method=method)
    assert_same(result.params, again.params)
    if name == "LSMR()":  # by the same program rows far from zero, which are centred as they come
        loader.table = table_of(rng, far=1e4)
        loader.table["a"] = loader.table["a"].astype("f").astype(float)
        far = jd.LinearRegression(S, S.column("y"), l2=1e-3, sample_weight=s)
        result = jd.minimize(far, method=method)
        y = loader.table["y"].astype("f")
        weights, *_ = closed_form(written_out(loader.table), y, 1e-3, s)
        assert result.converged
        np.testing.assert_allclose(result.params["weights"], weights, rtol=2e-3, atol=2e-3)


def test_the_default_adds_up_where_features_are_few_and_iterates_where_they_are_many(rng):
    machine = Machine.default("cpu", cores=2, memory_bytes=2**32)
    S = streamed(Loader(table_of(rng)))
    plan = jd.plan(jd.LinearRegression(S, S.column("y")), device=machine)
    assert plan.chosen.name == "DerivativeMethod()"
    assert plan.chosen.form == "sums of one pass"
    assert "9 kB read in each pass" in str(plan)
    assert S.passes == 0  # prices are from shapes

    class Wide(Source):
        kinds: ClassVar = {f"x{j}": Kind.NUMBER for j in range(20_000)}
        rows = 10_000_000

        def blocks(self, names, size, row=0):
            raise AssertionError

        def slice(self, first, rows):
            raise AssertionError

    y = jax.ShapeDtypeStruct((10_000_000,), jnp.float32)
    plan = jd.plan(jd.LinearRegression(jd.Streamed(Wide()), y), device=machine)
    assert plan.chosen.name == "LSMR()"
    names = [candidate.name for candidate in plan.candidates]
    assert not plan.candidates[names.index("DerivativeMethod()")].feasible
    # What is held does not grow with the columns times the rows.
    assert plan.chosen.peak_bytes < 2**29


@pytest.mark.slow
def test_columns_that_vary_little_far_from_zero_are_no_constants_in_float64(rng, x64):
    """Beside true constants, whose weights alone the normal equations leave free."""
    a, b = rng.normal(size=(2, 300))
    y = a + b + 0.1 * rng.normal(size=300)
    expected, _, least = closed_form(np.column_stack([a, b]), y)
    table = {"a": a.copy(), "b": b}
    table |= {str(each): np.full(300, each) for each in (1e7, 2013.0, 0.0, 1.0)}
    S = jd.Streamed(table, dtype=jnp.float64)
    for spread in (1e-1, 1e-2):  # by the same program
        table["a"][:] = 1e6 + spread * a
        result = jd.minimize(jd.LinearRegression(S, y), method=jd.DerivativeMethod())
        assert jd.Status(int(result.status)) is jd.Status.CONVERGED
        np.testing.assert_allclose(float(result.value), least, rtol=1e-5)
        scaled = np.asarray(result.params["weights"]) * [spread, *[1] * 5]
        np.testing.assert_allclose(scaled, [*expected, *[0] * 4], atol=1e-5)


@pytest.mark.slow
def test_derivatives_of_the_minimum(rng):
    table = table_of(rng)
    S, X, y = streamed(Loader(table)), written_out(table), table["y"]

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def slopes(y, l2):
        regression = jd.LinearRegression(S, y, l2=l2)
        return jnp.sum(jd.minimize(regression, method=jd.DerivativeMethod()).params["weights"])

    centred = X - X.mean(axis=0)
    weights, *_ = closed_form(X, y, 2.0)
    column = np.linalg.solve(centred.T @ centred + 2 * np.eye(7), np.ones(7))
    of_y, of_l2 = slopes(y.astype(np.float32), np.float32(2))
    np.testing.assert_allclose(of_y, centred @ column, atol=2e-5)
    np.testing.assert_allclose(of_l2, -column @ weights, atol=2e-5)


@pytest.mark.slow
def test_a_certificate(rng):
    table = table_of(rng)
    S = streamed(Loader(table))
    regression = jd.LinearRegression(S, S.column("y"), l2=0.1)
    certificate = jd.certify(regression, jd.minimize(regression))
    assert certificate.kind == "minimum"
    Z = written_out(table)
    Z = np.concatenate([Z, np.ones((ROWS, 1))], axis=1)
    hessian = Z.T @ Z + np.diag([0.1] * (Z.shape[1] - 1) + [0.0])
    smallest, *_, largest = np.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(certificate.smallest_eigenvalue, smallest, rtol=1e-3)
    np.testing.assert_allclose(certificate.largest_eigenvalue, largest, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "overlooks", "is_exact"),
    [(jnp.float32, 0.0, True), (jnp.float32, 1.0, False), (jnp.float64, 0.0, False)],
)
def test_only_sums_that_are_more_exact_than_a_gradient_are_no_gradient_asked(
    dtype, overlooks, is_exact, rng, x64
):
    S = jd.Streamed(
        {"X": rng.normal(size=(60, 3)), "y": rng.normal(size=60)}, exclude=["y"], dtype=dtype
    )
    regression = jd.LinearRegression(S, S.column("y"))
    solver = SumsSolver.of(regression)
    solver = SumsSolver(solver.solution._replace(overlooks=jnp.asarray(overlooks, dtype)))
    gradient = jax.tree.map(jnp.ones_like, params := regression.start())
    said, _ = solver.height(regression, params, gradient, jnp.array(True))
    by_gradient, _ = solver.height(regression, params, gradient, jnp.array(False))
    assert by_gradient > 0
    assert said == (0 if is_exact else by_gradient)
    assert bool(solver.overlooks) != is_exact


def test_float64_rows_show_what_their_sums_have_lost(rng, x64):
    X, y, hidden = rng.normal(size=(300, 4)), np.empty(300), rng.normal(size=300)
    S = jd.Streamed({"X": X, "y": y}, exclude=["y"], dtype=jnp.float64)
    for near in (0, 1e-6, 1e-8, 1e-10):  # by the same program
        X[:, 3] = X[:, 0] + near * hidden
        y[:] = X @ np.ones(4) + hidden + rng.normal(size=300)
        result = jd.minimize(jd.LinearRegression(S, S.column("y")), method=jd.DerivativeMethod())
        apart = X - X[:, :1] * [0, 0, 0, 1]  # the difference of two nearly equal numbers is exact
        least = closed_form(apart / [1, 1, 1, near or 1], y)[2]
        w, b = (np.asarray(result.params[name]).astype(object) for name in ("weights", "intercept"))
        exactly = np.vectorize(Fraction)
        residual = exactly(y) - exactly(X) @ exactly(w) - Fraction(b.item())
        assert status(result) == "CONVERGED", near
        np.testing.assert_allclose(float(residual @ residual / 2), least, rtol=1e-10)


class TestNormalEquations:
    def sums(self, X, y, intercept=True):
        Y = y.reshape(len(y), -1)
        mean, target = (X.mean(axis=0), Y.mean(axis=0)) if intercept else (0 * X[0], 0 * Y[0])
        Z, T = X - mean, Y - target
        gram = Z.T @ Z
        return NormalSums(gram, Z.T @ T, np.sum(T**2), mean, target, float(len(y)), np.diag(gram))

    @pytest.mark.parametrize("intercept", [True, False])
    def test_sums_are_those_of_all_rows(self, intercept, rng):
        table = table_of(rng, far=1e5)
        stream = streamed(Loader(table), dtype=jnp.float32).reader
        table["a"] = table["a"].astype("f").astype(float)
        table["b"] = table["b"].astype("f").astype(float)
        y = table["y"].astype("f").astype(float)
        got = stream.normal_sums(None, y.astype("f")[:, None], intercept=intercept)
        expected = self.sums(written_out(table), y, intercept)
        for one, right in zip(got[:-1], expected[:-1], strict=True):
            np.testing.assert_allclose(one, right, rtol=1e-9, atol=1e-6)
        assert np.all(got.summed >= np.diagonal(got.gram))

    def test_the_weights_of_least_norm(self, rng):
        X = rng.normal(size=(50, 3)) * [1, 100, 0.01]
        X = np.concatenate([X, X @ [[1.0], [0.5], [0]], np.full((50, 1), 7.0)], axis=1)
        y = rng.normal(size=50)
        Z = X - X.mean(axis=0)
        Z[:, -1] = 0
        total = np.concatenate([X, y[:, None], np.ones((50, 1))], axis=1)
        sums = NormalSums.of(total.T @ total, np.zeros(6), 5, intercept=True)
        got = normal_solution(sums, np.zeros(()))
        np.testing.assert_allclose(
            got.weights[:, 0], np.linalg.lstsq(Z, y - y.mean(), rcond=1e-10)[0], atol=1e-7
        )
        assert not got.is_negative

    def test_what_rounding_may_hide_is_said(self, rng):
        X, y = rng.normal(size=(60, 4)), rng.normal(size=60)
        uneven, near = X * [1e-9, 1, 1e5, 1e9], X.copy()
        near[:, 1] = near[:, 0] + 1e-8 * near[:, 1]
        far = near.copy()
        far[:, 1] = far[:, 0] + 1e-4 * X[:, 1]
        for given, mean, overlooks in (
            (X, 0, False),
            (uneven, 0, False),
            (near, 0, True),
            (far, 0, False),
            (far, 1e5, True),
            (X, 1e5, False),
        ):
            sums = self.sums(given, y)
            sums = sums._replace(summed=sums.summed + len(y) * mean**2)
            assert normal_solution(sums, np.zeros(())).overlooks == overlooks

    @pytest.mark.parametrize("weighted", [False, True])
    def test_products_of_directions_are_exact_where_those_of_columns_have_cancelled(
        self, weighted, rng, x64
    ):
        X, moved = rng.normal(size=(300, 3)), rng.normal(size=(300, 2))
        X = np.concatenate([X + 1e3, X[:, :2] + 1e3 + 1e-9 * moved], axis=1)
        weight = rng.uniform(0.5, 2, 300) if weighted else None
        stream = jd.Streamed({"X": X}, dtype=jnp.float64).reader
        V = np.zeros((5, 2))
        V[[0, 1], [0, 1]], V[[3, 4], [0, 1]] = 1, -1
        share = np.ones(300) if weight is None else weight
        T = (X[:, :2] - X[:, 3:]).astype(np.longdouble)
        T = T - np.average(T, axis=0, weights=share)
        got = stream.gram_of(V, weight, np.average(X, axis=0, weights=weight))
        assert np.max(np.abs(got)) < 1e-14
        np.testing.assert_allclose(got, (T.T @ (share[:, None] * T)).astype(float), rtol=1e-6)

    @pytest.mark.parametrize("l2", [0.0, 1e-18, [0.0, 1e-18]], ids=str)
    def test_directions_that_sums_lose_have_the_curvatures_of_the_rows(self, l2, rng):
        X = rng.normal(size=(60, 4))
        near = np.concatenate([X, X[:, :1] + 1e-10 * rng.normal(size=(60, 1))], axis=1)
        Z, y = near - near.mean(axis=0), rng.normal(size=(60, np.size(l2)))
        sums, penalty = self.sums(near, y), np.array(l2)
        got = normal_solution(sums, penalty, lambda V: (Z @ V).T @ (Z @ V))
        assert got.overlooks
        for gain, own in zip(got.gain.T, np.atleast_1d(penalty), strict=True):
            inverse = np.linalg.pinv(np.concatenate([Z, own**0.5 * np.eye(5)]), rcond=1e-14)
            np.testing.assert_allclose(
                got.basis @ np.diag(gain) @ got.basis.T, inverse @ inverse.T, rtol=1e-4
            )
        # The sums alone show none of it.
        alone = normal_solution(sums, penalty)
        assert np.min(alone.gain) == 0 < np.min(got.gain)
        np.testing.assert_allclose(got.weights, alone.weights)

    def test_a_penalty_for_each_output(self, rng):
        X, Y = rng.normal(size=(40, 4)), rng.normal(size=(40, 2))
        got = normal_solution(self.sums(X, Y), np.array([0.1, 10.0]))
        for k, l2 in enumerate([0.1, 10.0]):
            np.testing.assert_allclose(got.weights[:, k], closed_form(X, Y[:, k], l2)[0])
            inverse = got.basis @ np.diag(got.gain[:, k]) @ got.basis.T
            Z = X - X.mean(axis=0)
            np.testing.assert_allclose(inverse, np.linalg.inv(Z.T @ Z + l2 * np.eye(4)), atol=1e-9)

    def test_what_curves_down_has_no_minimum(self, rng):
        sums = self.sums(rng.normal(size=(40, 4)), rng.normal(size=40))
        assert normal_solution(sums, np.array(-100.0)).is_negative
        assert normal_solution(sums, np.array([1.0, -100.0])).is_negative
        assert normal_solution(sums._replace(weight_total=0.0), np.array(1.0)).is_negative

    def test_values_whose_squares_overflow(self):
        S = jd.Streamed({"X": np.full((9, 2), 1e200)}, dtype=jnp.float32)
        with pytest.raises(DataError, match="infinite in row 1"):
            S.reader.normal_sums(None, None, intercept=True)
        with jax.enable_x64(True):
            S = jd.Streamed({"X": 1e200 * np.arange(18.0).reshape(9, 2)}, dtype=jnp.float64)
        with pytest.raises(DataError, match="their squares overflow"):
            S.reader.normal_sums(None, None, intercept=True)


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("options", "message"),
        {
            "no such column": ({"columns": ["a", "z"]}, "no column 'z'"),
            "text": ({"columns": ["a", "t"]}, "'t' holds text"),
            "twice": ({"columns": ["a", "a"]}, "'a' is named twice"),
            "a code and a number": ({"columns": ["k"], "categorical": {"k": 3}}, "named twice"),
            "codes that are none": ({"columns": ["a"], "categorical": {"b": 3}}, "whole numbers"),
            "nothing left": ({"exclude": ["a", "b", "t", "k", "y"]}, "no column is left"),
            "excluding what is not there": ({"exclude": ["z"]}, "'z', which is no column"),
        }.values(),
    )  # fmt: skip
    def test_columns(self, options, message):
        table = pa.table({"a": [1.0], "b": [2.0], "t": ["x"], "k": [1], "y": [3.0]})
        with pytest.raises(DataError, match=message):
            jd.Streamed(table, **options)

    def test_arguments(self):
        table = {"a": np.ones(3)}
        for call, error, message in (
            (lambda: jd.Streamed(table, "a"), TypeError, "lists of names"),
            (lambda: jd.Streamed(table, dtype=jnp.bfloat16), TypeError, "float32 or float64, got"),
            (lambda: jd.Streamed(table, categorical={"a": 0}), ValueError, r"categorical\['a'\]"),
            (lambda: jd.Streamed(table).product(jnp.ones(2)), ValueError, "as many as features"),
            (lambda: jd.Streamed(table).column("z"), DataError, "'z'"),
        ):
            with pytest.raises(error, match=message):
                call()

    @pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (-np.inf, "infinite")])
    def test_values_are_named_with_their_row(self, value, what, rng):
        table = table_of(rng)
        S = streamed(Loader(table))
        S.product(jnp.ones(7))
        table["b"][333] = value
        for product, operand in ((S.product, jnp.ones(7)), (S.transposed_product, jnp.ones(ROWS))):
            with pytest.raises(DataError, match=f"'b' is {what} in row 334: correct the data"):
                product(operand)
        table["y"][7] = value
        with pytest.raises(DataError, match=f"'y' is {what} in row 8"):
            S.column("y")
        assert not np.isfinite(S.product(jnp.ones(7) * jnp.nan)[0])  # not the data's fault

    def test_missing_values_and_codes_of_no_level(self, rng):
        table = table_of(rng)
        missing = pa.table(table | {"b": pa.array([None if i == 5 else 1.0 for i in range(ROWS)])})
        with pytest.raises(DataError, match="'b' has no value in row 6: leave out such rows"):
            streamed(missing).product(jnp.ones(7))
        table["k"][400] = 4
        with pytest.raises(DataError, match="'k' is 4 in row 401: codes of 4 levels are from 0"):
            streamed(Loader(table)).product(jnp.ones(7))
        # The largest number of 64 bits is -1 where it is cast.
        table["k"] = np.where(table["k"] == 4, -1, 0).astype(np.uint64)
        with pytest.raises(DataError, match="'k' is 18446744073709551615 in row 401"):
            streamed(Loader(table)).product(jnp.ones(7))
        S = streamed(Loader(table))
        for wrong in (np.nan, 1.5):  # CSV gives numbers after whole ones
            table["k"] = np.where(np.arange(ROWS) == 400, wrong, 1)
            with pytest.raises(DataError, match=f"'k' is {wrong} in row 401"):
                S.product(jnp.ones(7))

    def test_rows_that_come_and_go(self, rng):
        table = table_of(rng)
        for rows, now in ((ROWS - 100, "fewer"), (ROWS - 3, "fewer"), (ROWS + 1, "more")):
            S = streamed(loader := Loader(table))
            loader.table = table_of(rng, rows)
            for ask in (lambda S=S: S.product(jnp.ones(7)), lambda S=S: S.column("y")):
                with pytest.raises(DataError, match=f"had 450 rows at first, and now have {now}"):
                    ask()

    def test_files_that_change(self, tmp_path, rng):
        path = as_parquet(tmp_path, table_of(rng)) / "1.parquet"
        S = streamed(tmp_path)
        S.product(jnp.ones(7))
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(DataError, match=r"1\.parquet changed since the data were opened"):
            S.product(jnp.ones(7))
        path.unlink()
        with pytest.raises(DataError, match=r"1\.parquet changed"):
            S.column("y")

    @pytest.mark.parametrize("change", ["columns", "types", "rows"])
    def test_files_that_change_during_a_pass(self, change, tmp_path, rng):
        table = table_of(rng)
        path = as_parquet(tmp_path, table) / "1.parquet"
        S = streamed(tmp_path)
        S.reader.chunk(0)
        other = arrow({name: column[:9] for name, column in table.items()})
        if change == "columns":
            other = other.drop_columns(["b"])
        elif change == "types":
            other = other.set_column(0, "a", pa.array(["text"] * 9))
        pq.write_table(other, path)
        with pytest.raises(DataError, match=r"1\.parquet changed since the data were opened"):
            for _ in S.reader.all_chunks():
                pass

    def test_readers_of_one_reading_and_no_rows(self, rng):
        table = arrow(table_of(rng))  # a reader's rows are held
        assert_same(streamed(table.to_reader()).column("y"), streamed(table).column("y"))
        with pytest.raises(DataError, match="no rows"):
            streamed(Loader(table_of(rng, 0)))

    def test_lengths_of_columns_are_not_nan(self):
        x = np.arange(400.0, dtype=np.float32).reshape(200, 2)
        x[150, 1] = np.nan
        with pytest.raises((DataError, jax.errors.JaxRuntimeError), match="'x1' is NaN in row 151"):
            jd.Streamed({"x": x}).column_squared_norms(None, None).block_until_ready()

    @pytest.mark.slow
    def test_a_descent_raises_it_in_one_line_and_the_next_one_runs(self, rng, capfd):
        table = table_of(rng)
        S = streamed(Loader(table))
        regression, method = jd.LinearRegression(S, S.column("y"), l2=0.5), jd.ConjugateGradient()
        good, table["a"][300] = table["a"][300], np.nan
        with pytest.raises(DataError, match="'a' is NaN in row 301") as caught:
            jd.minimize(regression, method=method)
        assert "\n" not in str(caught.value)
        table["a"][300] = good
        assert jd.minimize(regression, method=method).converged
        assert not capfd.readouterr().err
        assert not [t for t in threading.enumerate() if t.name == "jaxdescent-run"]
        # Under a jit of one's own nobody can raise it but XLA.
        table["a"][300] = np.nan
        with pytest.raises(jax.errors.JaxRuntimeError, match="'a' is NaN in row 301"):
            jax.block_until_ready(jax.jit(S.product)(jnp.ones(7)))

    def test_a_stream_that_is_dropped_ends_its_thread(self, rng):
        def readers():
            return [t for t in threading.enumerate() if t.name == "jaxdescent-read-ahead"]

        before = len(readers())
        stream = streamed(Loader(table_of(rng))).reader
        stream.chunk(0)
        assert len(readers()) == before + 1
        del stream
        assert len(readers()) == before

    def test_ctrl_c_ends_it(self, rng):
        S = streamed(Loader(table_of(rng)))
        product = jax.jit(S.product)
        product(jnp.ones(7)).block_until_ready()

        def for_ever():
            while not bool(jnp.any(jnp.isnan(product(jnp.ones(7))))):
                pass

        timer = threading.Timer(0.3, _thread.interrupt_main)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            run_reading((S.reader,), for_ever)
        timer.join()
        S.product(jnp.ones(7))  # and reads again


CHILD = """
import json, sys
import jaxdescent as jd
from benchmarks.harness import resident
X = jd.Streamed(sys.argv[1], exclude=["y"])
y = X.column("y")
regression = jd.LinearRegression(X, y, l2=1.0, intercept=False)
result = jd.minimize(regression, method=jd.GradientDescent(1e-4), max_iterations=1)
first = float(result.params["weights"][0])
print(json.dumps({"peak": resident.peak(), "passes": X.passes, "first": first}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads /proc")
def test_data_three_times_the_memory(tmp_path, rng):
    rows, columns, limit = 98_000, 4000, 520_000_000
    known = rng.normal(size=(6000, columns))
    zeros_below(tmp_path / "X.npy", known, rows)
    zeros_below(tmp_path / "y.npy", known[:, 0], rows)
    assert (tmp_path / "X.npy").stat().st_size > 3 * limit
    told = json.loads(printed(CHILD, tmp_path / "X.npy"))
    assert told["peak"] <= limit, f"{told['peak']:,}"
    assert told["passes"] >= 2
    assert 0.3 < told["first"] < 1  # one iteration on the way to the minimum


class TestWholeNumbers:
    """None is rounded without a word: ids and times would become alike."""

    @staticmethod
    def source(folder, form, column):
        table = {"t": column, "b": np.arange(len(column))}
        if form == "arrays":
            return table
        if form == "a matrix":
            return {"X": np.stack(list(table.values()), axis=1)}
        if form == "npy":
            np.save(folder / "X.npy", np.stack(list(table.values()), axis=1))
            return folder / "X.npy"
        if form == "parquet":
            pq.write_table(pa.table(table), folder / "d.parquet")
            return folder / "d.parquet"
        rows = "".join(f"{t},{b}\n" for t, b in zip(*table.values(), strict=True))
        (folder / "d.csv").write_text("t,b\n" + rows)
        return folder / "d.csv"

    @pytest.mark.parametrize("form", ["arrays", "a matrix", "npy", "parquet", "csv"])
    @pytest.mark.parametrize("double", [False, True])
    def test_they_are_held_exactly_or_refused_by_name(self, tmp_path, form, double):
        most = 2**53 if double else 2**24
        name = "x0" if form in ("a matrix", "npy") else "t"
        names = [name, "x1" if name == "x0" else "b"]
        if double and form == "csv":
            most = 2**51  # beyond 2**53 they are rounded as they are parsed
        held = np.array([most, -most, 3, 2 * most, -2 * most + 8, 0] * 40)
        with jax.enable_x64(double):
            dtype = jnp.float64 if double else jnp.float32
            source = self.source(tmp_path, form, held)
            design = jd.Streamed(source, names, dtype=dtype)
            assert np.array_equal(design.reader.rows_at(np.arange(240))[:, 0].astype(int), held)
            assert np.array_equal(np.asarray(design.column(name)).astype(int), held)
            if double and form == "csv":
                most *= 8
            for wrong in (most + 1, -most - 1, 2 * most + 2 + 1):
                held[200] = wrong
                design = jd.Streamed(self.source(tmp_path, form, held), names, dtype=dtype)
                shown = "[0-9-]+" if double and form == "csv" else wrong
                said = f"'{name}' is {shown} in row .*, and {dtype.__name__} would round it"
                with pytest.raises(DataError, match=said):
                    design.reader.rows_at(np.arange(240))
                with pytest.raises(DataError, match=said):
                    design.column(name)

    def test_a_fit_centres_them_before_it_rounds(self, tmp_path, rng):
        t = 1_700_000_000 + rng.integers(0, 3600, 500)
        y = 0.25 * (t - t[0]) + 0.01 * rng.normal(size=500)
        pq.write_table(pa.table({"t": t, "y": y}), tmp_path / "d.parquet")
        expected = np.polyfit(t - t.mean(), y, 1)[0]
        for method in ("direct", "cg"):
            model = jd.fit_model(tmp_path / "d.parquet", "y", method=method)
            assert model.weights[0] == pytest.approx(expected, rel=1e-5)
