"""Sketches of designs that are not written out: spectrum, accuracy and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import jaxdescent as jd
from jaxdescent.kernels import memory
from jaxdescent.preconditioners import CentredRegression
from tests.meshes import rows_over
from tests.references import closed_form

ROWS = 1200


@pytest.fixture(scope="module")
def designs():
    """Nearly dependent words, levels and numbers: on one device, over eight, and written out."""
    rng = np.random.default_rng(0)
    matrix = scipy.sparse.random(ROWS, 20, 0.2, random_state=rng).tolil()
    matrix[:, 1] = matrix[:, 0] + 1e-3 * matrix[:, 2]
    codes = np.where(rng.random(ROWS) < 0.1, -1, rng.integers(0, 6, ROWS))
    x = rng.normal(size=(ROWS, 2)) * [1, 1e3]

    def made(sharding):
        words = jd.Sparse(matrix.tocsr(), sharding=sharding)
        firm = jd.Categorical(codes, 6, dtype=float, sharding=sharding)
        return jd.Concatenated({"words": words, "firm": firm, "x": jax.device_put(x, sharding)})

    with jax.enable_x64(True):
        whole, cut = made(None), made(rows_over(8))
    return whole, cut, np.column_stack([matrix.toarray(), np.eye(7)[codes][:, :6], x])


@pytest.mark.first
@pytest.mark.parametrize("is_cut", [False, True])
def test_sums_of_rows_are_those_of_the_rows_written_out(designs, is_cut, rng, x64):
    target = rng.integers(0, 30, ROWS, np.int32)
    factor = rng.normal(size=ROWS)
    expected = np.zeros((30, 28))
    np.add.at(expected, target, factor[:, None] * designs[2])
    got = jax.jit(lambda X, *rows: X.sums_of_rows(*rows, 30))(designs[is_cut], target, factor)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-9)


@jax.jit
def of_sketch(X, sketch, weight=None):
    """``A N``, and N itself."""
    posed = jd.LinearRegression(X, jnp.zeros(X.shape[0]), l2=1e-3, sample_weight=weight)
    regression = CentredRegression.from_objective(posed.checked())
    columns = sketch.factorise(regression).apply(jnp.eye(regression.size, dtype=X.dtype))
    return jnp.concatenate([regression.forward(columns), 1e-3**0.5 * columns]), columns


@pytest.mark.slow
def test_sketches_leave_a_small_condition_number_and_one_seed_is_one_whatever_the_sharding(
    designs, rng, x64
):
    whole, cut, _ = designs
    weight = rng.random(ROWS) + 0.1
    one, same, other = (
        of_sketch(X, jd.Sketch(seed=seed), weight) for X, seed in ((whole, 3), (cut, 3), (whole, 4))
    )
    for product, _ in (one, same, other):
        values = np.linalg.svd(product, compute_uv=False)
        # 2/3 and 2 for rows without end; of a few hundred, and of 28 columns, they scatter.
        assert values.max() < 2.6
        assert values.min() > 0.55
    np.testing.assert_allclose(one[1], same[1], rtol=1e-6, atol=1e-9)
    assert np.abs(one[1] - other[1]).max() > 1e-6


def test_few_rows_are_factorised_as_they_are(rng, x64):
    X = jd.Sparse(scipy.sparse.random(60, 20, 0.3, random_state=rng).tocsr())
    values = np.linalg.svd(of_sketch(X, jd.Sketch())[0], compute_uv=False)
    np.testing.assert_allclose(values, 1, atol=1e-6)


@pytest.mark.slow
def test_lsmr_comes_to_the_least_squares_of_nearly_dependent_columns(designs, rng, x64):
    X, _, columns = designs
    y = rng.normal(size=ROWS) + columns @ rng.normal(size=X.shape[1])
    *_, least = closed_form(columns, y)
    result = jd.minimize(jd.LinearRegression(X, y), method=jd.LSMR(jd.Sketch()), tolerance=1e-12)
    assert bool(result.converged)
    assert float(result.value) == pytest.approx(least, rel=1e-9)
    assert int(result.iterations) < 30


@pytest.mark.slow
def test_a_sketch_of_too_many_features_is_refused(monkeypatch):
    X = jd.Sparse.from_indices([0, 1], [5, 70_000], shape=(1_000_000, 100_000))
    regression = jd.LinearRegression(X, jnp.zeros(1_000_000))
    method = jd.LSMR(jd.Sketch())
    with pytest.raises(jd.ProblemTooLarge, match="a sketch of 100,000 features needs 480 GB"):
        jd.minimize(regression, method=method)
    monkeypatch.setattr(memory, "available_bytes", lambda device=None: 0)
    small = jd.LinearRegression(jd.Categorical(np.arange(90) % 2, 2), jnp.ones(90))
    jax.eval_shape(lambda: jd.minimize(small, method=method).params)  # is never refused
