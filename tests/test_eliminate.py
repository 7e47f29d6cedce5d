"""Elimination of the largest factor: an exact factorisation but for a diagonal, in fewer steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import jaxdescent as jd
from jaxdescent.preconditioners import CentredRegression
from tests import references


def panel(rng, rows=3000, workers=300, firms=30, move=0.05):
    """Workers who seldom move."""
    worker = rng.integers(0, workers, rows)
    usual = rng.integers(0, firms, workers)
    firm = np.where(rng.random(rows) < move, rng.integers(0, firms, rows), usual[worker])
    x = rng.normal(size=(rows, 2)) + worker[:, None] % 3
    y = x @ [1.0, -1.0] + np.sin(worker) + np.cos(firm) + 0.1 * rng.normal(size=rows)
    return x, firm, worker, y


def designs(rng, **options):
    x, firm, worker, y = panel(rng, **options)
    X = jd.Concatenated(
        {
            "x": jnp.asarray(x),
            "worker": jd.Categorical(worker, worker.max() + 1, dtype=x.dtype),
            "firm": jd.Categorical(firm, firm.max() + 1, dtype=x.dtype),
        }
    )
    return X, jnp.asarray(y)


def test_it_is_the_factorisation_but_for_the_diagonal(rng, x64):
    X, y = designs(rng, rows=200, workers=12, firms=4)
    weight = jnp.asarray(rng.random(200))
    l2 = 0.3
    regression = jd.LinearRegression(X, y, l2=l2, sample_weight=weight, intercept=False)

    @jax.jit
    def factorise(regression):
        factor = jd.Eliminate().factorise(CentredRegression.from_objective(regression))
        eye = jnp.eye(X.shape[1])
        return factor.apply(eye), factor.apply_transpose(eye)

    N, transposed = map(np.asarray, factorise(regression))
    np.testing.assert_allclose(transposed, N.T, atol=1e-12)
    dense = np.asarray(X.to_dense())
    H = dense.T @ (np.asarray(weight)[:, None] * dense) + l2 * np.eye(X.shape[1])
    workers, rest = np.arange(2, 14), np.r_[0:2, 14 : X.shape[1]]
    found = N.T @ H @ N
    np.testing.assert_allclose(found[np.ix_(workers, workers)], np.eye(12), atol=1e-12)
    np.testing.assert_allclose(found[np.ix_(workers, rest)], 0, atol=1e-10)
    # By the weights alone, without the penalty, is what elimination takes off the diagonal.
    D = np.diag(H)[workers] - l2
    B = H[np.ix_(workers, rest)]
    expected = np.diag(H)[rest] - np.sum(B**2 / D[:, None], axis=0)
    np.testing.assert_allclose(np.diag(N)[rest] ** -2, expected, rtol=1e-8)


@pytest.mark.slow
def test_fewer_iterations_find_the_same_minimum(rng, x64):
    X, y = designs(rng)
    X = X.without(X.reference_levels())
    regression = jd.LinearRegression(X, y)
    plain, eliminated = (
        jd.minimize(regression, method=jd.ConjugateGradient(preconditioner), tolerance=1e-10)
        for preconditioner in (jd.Jacobi(), jd.Eliminate())
    )
    assert bool(plain.converged & eliminated.converged)
    assert 2.5 * int(eliminated.iterations) < int(plain.iterations)
    exact, _, least = references.closed_form(X.to_dense(), y)
    np.testing.assert_allclose(eliminated.params["weights"]["x"], exact[:2], atol=1e-5)
    assert float(eliminated.value) == pytest.approx(least, rel=1e-8)


@pytest.mark.slow
def test_outputs_with_penalties_of_their_own_and_rows_without_levels(rng, x64):
    x, firm, worker, y = panel(rng, rows=400, workers=20, firms=5)
    worker[::9], firm[::7] = -1, -1
    words = scipy.sparse.random(400, 6, 0.3, random_state=rng).tocsr()
    X = jd.Concatenated(
        {
            "firm": jd.Categorical(firm, 5, dtype=jnp.float64),
            "worker": jd.Categorical(worker, 20, dtype=jnp.float64),
            "words": jd.Sparse(words),
        }
    )
    both = jnp.stack([jnp.asarray(y), jnp.asarray(x[:, 0])], axis=1)
    l2 = jnp.array([0.1, 2.0])
    regression = jd.LinearRegression(X, both, l2=l2)
    result = jax.jit(lambda r: jd.minimize(r, method=jd.LSMR(jd.Eliminate()), tolerance=1e-12))(
        regression
    )
    dummies = [np.asarray(codes)[:, None] == np.arange(n) for codes, n in ((firm, 5), (worker, 20))]
    columns = np.concatenate([*dummies, words.toarray()], axis=1)
    exact = references.least_squares(jd.LinearRegression(columns, both, l2=l2))
    weights = np.concatenate(
        [result.params["weights"][name] for name in ("firm", "worker", "words")]
    )
    np.testing.assert_allclose(weights, exact["weights"], atol=1e-6)
    np.testing.assert_allclose(result.params["intercept"], exact["intercept"], atol=1e-6)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (jnp.ones((4, 2)), "needs a jd.LinearRegression on a jd.Concatenated"),
        (jd.Categorical(np.array([0, 1, 0, 1]), 2), "needs a jd.LinearRegression on"),
        (
            jd.Concatenated(
                {
                    "a": jd.Categorical(np.array([0, 1, 0, 1]), 2),
                    "b": jd.MatrixFree(lambda w: 2 * w, rows=4, features=4),
                }
            ),
            "norms of X's columns",
        ),
    ],
)
def test_what_has_no_factor_is_refused(X, message):
    regression = jd.LinearRegression(X, jnp.ones(4))
    with pytest.raises(TypeError, match=message):
        jd.minimize(regression, method=jd.ConjugateGradient(jd.Eliminate()))
    form = jd.Quadratic(lambda x: 2 * x, linear=jnp.ones(3))
    with pytest.raises(TypeError, match=r"needs a jd\.LinearRegression"):
        jd.minimize(form, method=jd.ConjugateGradient(jd.Eliminate()))
