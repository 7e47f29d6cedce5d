"""Sketches of designs that are not written out: spectrum, accuracy and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdescent as jd
from jaxdescent.machine import memory
from jaxdescent.preconditioners import CentredRegression

ROWS = 1200


def designs(rng, sharding=None, dtype=jnp.float64):
    """Words, levels and numbers side by side, of columns that are nearly dependent."""
    matrix = scipy.sparse.random(ROWS, 20, 0.2, random_state=rng).tolil()
    matrix[:, 1] = matrix[:, 0] + 1e-3 * matrix[:, 2]
    codes = np.where(rng.random(ROWS) < 0.1, -1, rng.integers(0, 6, ROWS))
    x = jnp.asarray(rng.normal(size=(ROWS, 2)) * [1, 1e3], dtype)
    return jd.Concatenated(
        {
            "words": jd.Sparse(matrix.tocsr().astype(dtype), sharding=sharding),
            "firm": jd.Categorical(codes, 6, dtype=dtype, sharding=sharding),
            "x": x if sharding is None else jax.device_put(x, NamedSharding(sharding.mesh, P("d"))),
        }
    )


def eight():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    return NamedSharding(mesh, P("d"))


@pytest.mark.first
@pytest.mark.parametrize("is_cut", [False, True])
def test_sums_of_rows_are_those_of_the_rows_written_out(is_cut, rng, x64):
    X = designs(rng, eight() if is_cut else None)
    target = rng.integers(0, 30, ROWS)
    factor = rng.normal(size=ROWS)
    expected = np.zeros((30, X.shape[1]))
    np.add.at(expected, target, factor[:, None] * np.asarray(X.to_dense()))
    got = jax.jit(lambda X, *rows: X.sums_of_rows(*rows, 30))(
        X, jnp.asarray(target, jnp.int32), jnp.asarray(factor)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-9)


def singular_values(X, weight, l2):
    """Of ``A N``."""
    objective = jd.LinearRegression(X, jnp.zeros(X.shape[0], X.dtype), l2=l2, sample_weight=weight)

    @jax.jit
    def preconditioned(objective):
        regression = CentredRegression.from_objective(objective)
        columns = jd.Sketch().factorise(regression).apply(jnp.eye(X.shape[1], dtype=X.dtype))
        return jnp.concatenate([regression.forward(columns), np.sqrt(l2) * columns])

    return np.linalg.svd(preconditioned(objective), compute_uv=False)


@pytest.mark.parametrize("is_cut", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_sketch_leaves_a_small_condition_number(is_cut, rng, x64):
    X = designs(rng, eight() if is_cut else None)
    weight = jnp.asarray(rng.random(ROWS) + 0.1)
    values = singular_values(X, weight, 1e-3)
    # 2/3 and 2 for rows without end; of a few hundred, and of 28 columns, they scatter.
    assert values.max() < 2.6
    assert values.min() > 0.55


def test_few_rows_are_factorised_as_they_are(rng, x64):
    X = jd.Sparse(scipy.sparse.random(60, 20, 0.3, random_state=rng).tocsr())
    np.testing.assert_allclose(singular_values(X, None, 1e-3), 1, atol=1e-6)


@pytest.mark.slow
@pytest.mark.slow
def test_lsmr_comes_to_the_least_squares_of_nearly_dependent_columns(rng, x64):
    X = designs(rng)
    y = rng.normal(size=ROWS) + np.asarray(X.to_dense()) @ rng.normal(size=X.shape[1])
    dense = np.column_stack([X.to_dense(), np.ones(ROWS)])
    exact = np.linalg.lstsq(dense, y, rcond=None)[0]
    least = np.sum((dense @ exact - y) ** 2) / 2
    result = jd.minimize(
        jd.LinearRegression(X, jnp.asarray(y)), method=jd.LSMR(jd.Sketch()), tolerance=1e-12
    )
    assert bool(result.converged)
    assert float(result.value) == pytest.approx(least, rel=1e-9)
    assert int(result.iterations) < 30


@pytest.mark.slow
def test_one_seed_gives_one_sketch_whatever_the_sharding(rng, x64):
    X, cut = designs(np.random.default_rng(0)), designs(np.random.default_rng(0), eight())
    y = jnp.asarray(rng.normal(size=ROWS))
    one, same, other = (
        jd.minimize(
            jd.LinearRegression(design, y), method=jd.LSMR(jd.Sketch(seed=seed)), max_iterations=1
        ).params["weights"]["words"]
        for design, seed in ((X, 3), (cut, 3), (X, 4))
    )
    np.testing.assert_allclose(one, same, rtol=1e-6, atol=1e-9)
    assert np.abs(one - other).max() > 1e-6


@pytest.mark.slow
def test_a_sketch_of_too_many_features_is_refused(rng, monkeypatch):
    X = jd.Sparse.from_indices([0, 1], [5, 70_000], shape=(1_000_000, 100_000))
    regression = jd.LinearRegression(X, jnp.zeros(1_000_000))
    with pytest.raises(jd.ProblemTooLarge, match="a sketch of 100,000 features needs 480 GB"):
        jd.minimize(regression, method=jd.LSMR(jd.Sketch()))
    monkeypatch.setattr(memory, "available_bytes", lambda device=None: 0)
    jd.minimize(  # a small one is never refused
        jd.LinearRegression(jd.Categorical(np.arange(90) % 2, 2), jnp.ones(90)),
        method=jd.LSMR(jd.Sketch()),
    )
