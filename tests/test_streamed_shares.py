"""Rows that several devices read, each of them its own share: the same as one that reads all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.designs import row_reader
from jaxdescent.rows import DataError, open_source
from tests.meshes import rows_over
from tests.references import closed_form

ROWS, FEATURES = 248, 4


@pytest.fixture(scope="module")
def sharding():
    return rows_over(8)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(3)
    means = np.array([0, 1, -3, 100])
    X = (rng.normal(size=(ROWS, FEATURES)) + means).astype(np.float32)
    y = (X @ [1.0, -2.0, 0.5, 3.0] + rng.normal(size=ROWS)).astype(np.float32)
    return {"X": X, "y": y}


@pytest.fixture
def blocks_of_ten_rows(monkeypatch):
    """A share of 31 rows has three blocks and a rest."""
    monkeypatch.setattr(row_reader, "BLOCK_BYTES", 10 * FEATURES * 4)


def test_products_and_columns_are_those_of_all_rows(arrays, sharding, blocks_of_ten_rows):
    X, y = arrays["X"], arrays["y"]
    design = jd.Streamed(arrays, exclude=["y"], sharding=sharding)
    assert repr(design) == "Streamed(248 rows, 4 features, arrays, 8 shares)"
    assert design.shares.block == 10
    assert design.names == ("x0", "x1", "x2", "x3")
    w = np.float32([[1, 2], [0, 1], [3, -1], [0.5, 0]])
    index, weight = np.array([0, 30, 31, 247]), np.linspace(0, 1, ROWS, dtype=np.float32)
    mean = X.mean(axis=0)

    @jax.jit
    def answers(w, y, weight, mean):
        squares = design.column_squared_norms(weight, mean)
        there, away = (each.product(w) for each in (design, design.minus(mean)))
        return there, away, design.transposed_product(y), squares, design.rows_at(index)

    there, away, back, squares, rows = answers(w, y, weight, mean)
    np.testing.assert_allclose(there, X @ w, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(away, (X - mean) @ w, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(back, X.T @ y, rtol=1e-4)
    np.testing.assert_allclose(squares, weight @ np.square(X - mean), rtol=1e-4)
    np.testing.assert_array_equal(rows, X[index])
    np.testing.assert_allclose(design.column("y"), y)
    np.testing.assert_array_equal(design.row_weight, 1)
    assert design.column("y").sharding.is_equivalent_to(sharding, 1)
    assert design.product(w).sharding.is_equivalent_to(sharding, 2)


def test_a_gradient_reads_each_row_once_and_adds_up_over_devices_once(
    arrays, sharding, blocks_of_ten_rows
):
    design = jd.Streamed(arrays, exclude=["y"], sharding=sharding)
    weight = jax.device_put(np.linspace(0, 1, ROWS, dtype=np.float32), sharding)
    objective = jd.LinearRegression(design, design.column("y"), sample_weight=weight)
    at = {"weights": np.ones(FEATURES, np.float32), "intercept": np.float32(0)}

    def gradient(objective, at):
        return objective.gradient(at)

    compiled = jax.jit(gradient).lower(objective, at).compile()
    before = design.passes
    found = compiled(objective, at)
    X, residual = arrays["X"], weight * (arrays["X"].sum(axis=1) - arrays["y"])
    np.testing.assert_allclose(found["weights"], X.T @ np.asarray(residual), rtol=1e-4)
    np.testing.assert_allclose(found["intercept"], np.sum(residual), rtol=1e-4)
    assert design.passes - before == 1
    text = compiled.as_text()
    assert "all-gather(" not in text
    assert "all-to-all(" not in text

    def squares(w):
        return jnp.sum(jnp.square(design.product(w)))

    of_squares = jax.jit(jax.grad(squares))(np.ones(FEATURES, np.float32))
    np.testing.assert_allclose(of_squares, 2 * X.T @ X @ np.ones(FEATURES), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "intercept"), [(jd.LSMR(), False), (None, True)])
def test_a_fit_is_that_of_one_reader(arrays, sharding, method, intercept):
    design = jd.Streamed(arrays, exclude=["y"], sharding=sharding)
    regression = jd.LinearRegression(design, design.column("y"), intercept=intercept)
    found = jd.minimize(regression, method=method)
    weights, _, value = closed_form(arrays["X"], arrays["y"], intercept=intercept)
    np.testing.assert_allclose(float(found.value), value, rtol=1e-4)
    np.testing.assert_allclose(found.params["weights"], weights, rtol=3e-2, atol=3e-3)


def test_rows_that_do_not_come_out_even_are_filled_with_rows_without_weight(arrays, sharding):
    odd = {name: array[:101] for name, array in arrays.items()}
    with pytest.raises(ValueError, match=r"101 rows cannot be cut into 8 shares .* is_filled=True"):
        jd.Streamed(odd, sharding=sharding)
    design = jd.Streamed(odd, exclude=["y"], sharding=sharding, is_filled=True)
    assert design.shape == (104, FEATURES)
    np.testing.assert_array_equal(design.row_weight, np.arange(104) < 101)
    np.testing.assert_array_equal(design.column("y")[101:], 0)
    few = {name: array[:3] for name, array in arrays.items()}
    tiny = jd.Streamed(few, exclude=["y"], sharding=sharding, is_filled=True)
    expected = np.concatenate([few["X"] @ np.ones(FEATURES), np.zeros(5)])
    np.testing.assert_allclose(tiny.product(jnp.ones(FEATURES)), expected, rtol=1e-5)


def test_what_goes_wrong_in_a_share_is_raised(arrays, sharding):
    bad = arrays | {"X": arrays["X"].copy()}
    bad["X"][200, 1] = np.nan
    design = jd.Streamed(bad, exclude=["y"], sharding=sharding)
    objective = jd.LinearRegression(design, design.column("y"), intercept=False)
    with pytest.raises(DataError, match=r"'x1' is NaN in row 201"):
        jd.minimize(objective, method=jd.GradientDescent(1e-6), max_iterations=1)
    with pytest.raises(TypeError, match="sharding must be a"):
        jd.Streamed(arrays, sharding=1)
    with pytest.raises(DataError, match="exclude names 'z'"):
        jd.Streamed(arrays, exclude=["z"], sharding=sharding)


def test_a_share_reads_its_own_rows_of_every_format(arrays, tmp_path):
    np.save(tmp_path / "X.npy", arrays["X"])
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    table = pa.table({f"x{j}": arrays["X"][:, j] for j in range(FEATURES)})
    pq.write_table(table, tmp_path / "X.parquet", row_group_size=50)
    sources = [
        open_source({"X": arrays["X"]}),
        open_source(str(tmp_path / "X.npy")),
        open_source(str(tmp_path / "X.parquet")),
        open_source(table),
    ]
    for source in sources:
        for first, stop in ((0, 31), (93, 155), (240, 248)):
            part = source.slice(first, stop - first)
            for row in (0, 3):
                blocks = part.blocks(["x1"], 17, row)
                found = np.concatenate([b.numbers(["x1"], np.float32)[:, 0] for b in blocks])
                np.testing.assert_array_equal(found, arrays["X"][first + row : stop, 1])
            assert part.rows == stop - first


@pytest.mark.slow
def test_shares_have_one_fingerprint(arrays, sharding):
    design = jd.Streamed(arrays, exclude=["y"], sharding=sharding)
    assert len({stream.fingerprint() for stream in design.shares.readers}) == 1
