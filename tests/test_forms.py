"""The forms of a regression: the same function, the same iterates, without the rows of X."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.kernels import symmetric
from jaxdescent.regression import gram_form
from jaxdescent.regression.gram_form import GramForm
from tests import references
from tests.results import assert_trees_close

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day


def regression(rng, rows=60, features=5, outputs=(), *, far=2.0, **options):
    X = rng.normal(size=(rows, features)) + far
    y = rng.normal(size=(rows, *outputs)) + 0.5 * far
    if options.pop("is_weighted", False):
        options["sample_weight"] = rng.integers(0, 4, size=rows).astype(float)
    return jd.LinearRegression(jnp.asarray(X), jnp.asarray(y), **options).checked()


def random_params(rng, form):
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), form)


OPTIONS = [
    {},
    {"intercept": False},
    {"l2": 0.7, "is_weighted": True},
    {"l2": 0.7, "is_weighted": True, "intercept": False},
    {"outputs": (2,), "l2": jnp.array([0.1, 3.0])},
    {"outputs": (2,), "is_weighted": True},
]


# In one program each: one operation after another compiles each of them.
@functools.partial(jax.jit, static_argnames="block")
def both(objective, block=None):
    """The form and the means, by blocks of so many rows whatever the platform."""
    with pytest.MonkeyPatch.context() as patch:
        if block is not None:
            patch.setattr(gram_form, "block_length", lambda rows, *_: min(block, rows))
            patch.setattr(gram_form, "on_one_cpu", lambda own, plain: own())
        return GramForm.of(objective)


def made(objective, block=None):
    return both(objective, block)[0]


@jax.jit
def alone(objective):
    elimination = objective.eliminated()
    return objective if elimination is None else elimination.objective


def start_of(objective):
    return {"weights": objective.start()["weights"]}


@jax.jit
def solved(form):
    """The zero of the gradient, and whether the curvature is negative, by two solves."""
    params = {"weights": jnp.zeros_like(form.cross)}
    solver = form.stationary_solver(params)
    for _ in range(2):
        params, is_negative = solver.solve(form, params, form.gradient(params))
    return params, is_negative


@jax.jit
def answers(function, params, direction):
    value, gradient = function.value_and_gradient(params)
    return {
        "value": value,
        "gradient": gradient,
        "gradient alone": function.gradient(params),
        "derivative": jax.grad(function.value)(params),
        "product": function.hessian_product(params, direction),
        "curvature": function.curvature(params, direction),
    }


@pytest.mark.parametrize(
    ("options", "block"),
    [
        *((options, 7) for options in OPTIONS),
        *((OPTIONS[4], None), (OPTIONS[2], 60), (OPTIONS[5], 1)),
        ({"rows": 1, "features": 1, "l2": 0.3}, 1),
        ({"rows": 1, "features": 6, "l2": 0.3, "intercept": False}, 50),  # the one of equal size
    ],
    ids=str,
)
def test_the_gram_form_is_the_same_function(options, block, rng, x64):
    objective = regression(rng, **options)
    form, means = both(objective, block=block)
    params, direction = (random_params(rng, start_of(objective)) for _ in range(2))
    got = answers(form, params, direction)
    assert_trees_close(got, answers(alone(objective), params, direction), rtol=1e-11, atol=1e-11)
    assert_trees_close(got["gradient alone"], got["derivative"], rtol=1e-11)
    assert (means is not None) == objective.intercept
    if means is not None:
        A, t = (np.asarray(array, float) for array in (objective.X.array, objective.y))
        weight = objective.sample_weight
        np.testing.assert_allclose(means.features.mean, np.average(A, axis=0, weights=weight))
        np.testing.assert_allclose(means.targets, np.average(t, axis=0, weights=weight))


@pytest.mark.parametrize("options", [OPTIONS[i] for i in (0, 3, 4)], ids=str)
def test_the_stationary_solver_finds_the_closed_form(options, rng, x64):
    objective = regression(rng, **options)
    for l2 in (objective.l2, *np.logspace(-3, 3, 7)):
        same = dataclasses.replace(objective, l2=jnp.asarray(l2)).checked()
        form = made(same)
        params, is_negative = solved(form)
        expected = references.least_squares(same)["weights"]
        np.testing.assert_allclose(params["weights"], expected, rtol=1e-9, atol=1e-11)
        gradient = answers(form, params, params)["gradient"]["weights"]
        np.testing.assert_allclose(gradient, 0, atol=1e-8)
        assert not is_negative


@jax.jit
def hessian(form, start):
    flat, unravel = jax.flatten_util.ravel_pytree(start)
    return jax.hessian(lambda x: form.value(unravel(x)))(flat)


def test_curvature_bounds_enclose_every_eigenvalue(rng, x64):
    for options in ({"l2": 0.3}, {"l2": 0.3, "intercept": False}):
        objective = regression(rng, 12, 4, **options)
        form, start = made(objective), start_of(objective)
        eigenvalues = np.linalg.eigvalsh(hessian(form, start))
        bounds = form.curvature_bounds(start)
        assert bounds.lower <= eigenvalues[0] + 1e-12
        assert eigenvalues[-1] <= bounds.upper


@pytest.mark.core
def test_far_from_zero_no_digits_are_lost_in_float32(rng):
    objective = regression(rng, 5000, 3, far=1e3)
    X, y = (np.asarray(a, float) for a in (objective.X.array, objective.y))
    exact = np.cov(X.T, bias=True) * len(X)
    form = made(objective, block=100)
    np.testing.assert_allclose(form.gram, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())
    np.testing.assert_allclose(form.squares, len(y) * y.var(), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 256, 257, 700, 1090])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_symmetric_product_is_the_product(rng, x64, size, axis, one_device):
    X = rng.normal(size=(7, size))
    scaled = rng.uniform(size=7)[:, None] * X
    a, b = (jnp.asarray(M if axis == 0 else M.T) for M in (scaled, X))
    product = jax.jit(lambda a, b: symmetric.whole(symmetric.symmetric_product(a, b, axis)))(a, b)
    np.testing.assert_allclose(product, scaled.T @ X, rtol=1e-12, atol=1e-12)


def test_a_symmetric_product_takes_little_more_than_half_the_operations(one_device):
    X = jnp.ones((64, 2048))
    flops = [
        jax.jit(f).lower(X).compile().cost_analysis()["flops"]
        for f in (lambda X: symmetric.symmetric_product(X, X, 0), lambda X: X.T @ X)
    ]
    assert flops[0] < 0.6 * flops[1]


@pytest.mark.parametrize("block", [4096, 1024])
def test_the_sums_of_several_outputs_on_one_cpu_are_numpys(rng, x64, block, one_device):
    objective = regression(rng, 4096, 300, (3,), far=2.0, is_weighted=True)
    form = made(objective, block=block)
    weight, columns = objective.sample_weight, np.column_stack([objective.X.array, objective.y])
    sums = np.cov(columns.T, aweights=weight, bias=True) * np.sum(weight)
    np.testing.assert_allclose(form.gram, sums[:300, :300], rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(form.cross, sums[:300, 300:], rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(form.squares, np.trace(sums[300:, 300:]), rtol=1e-12)


def test_on_one_cpu_a_product_with_several_outputs_goes_in_parts(rng, one_device):
    def ranks_in(jaxpr):
        found = set()
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                found.add(eqn.invars[0].aval.ndim)
            for branch in eqn.params.get("branches", ()):
                found |= ranks_in(getattr(branch, "jaxpr", branch))
        return found

    def ranks(outputs):
        objective = regression(rng, 2048, 300, outputs)
        return ranks_in(jax.make_jaxpr(GramForm.of)(objective).jaxpr)

    assert 3 in ranks((3,))
    assert 3 not in ranks(())


def test_the_sum_of_many_blocks_loses_nothing_in_float32(rng):
    rows = 100_000
    X = np.asarray(1 + rng.random((rows, 2)), np.float32)
    objective = jd.LinearRegression(X, X[:, 0], intercept=False).checked()
    exact = X.T.astype(float) @ X.astype(float)
    gram = made(objective, block=8).gram
    np.testing.assert_allclose(gram, exact, rtol=2e-7)


@pytest.mark.core
def test_the_value_is_never_below_zero(rng):
    X = rng.normal(size=(500, 4)).astype(np.float32)
    weights = np.array([100.0, 200.0, -300.0, 50.0], np.float32)
    objective = jd.LinearRegression(X, X @ weights, intercept=False).checked()
    form, value = made(objective), jax.jit(GramForm.value)
    for scale in np.linspace(1 - 1e-6, 1 + 1e-6, 21, dtype=np.float32):
        assert value(form, {"weights": scale * weights}) >= 0


@pytest.mark.parametrize("options", [OPTIONS[i] for i in (0, 3, 4)], ids=str)
def test_a_matrix_free_design_gives_the_same_form(options, rng, x64):
    objective = regression(rng, 12, 7, **options)
    X = objective.X.array
    design = jd.MatrixFree(
        jax.tree_util.Partial(lambda X, w: X @ w, X), rows=12, features=7, weights_dtype=jnp.float64
    )
    free = dataclasses.replace(objective, X=design)
    got, expected = both(free), both(objective)
    assert_trees_close(got, expected, rtol=1e-10, atol=1e-10)


def test_jit_and_vmap_give_what_single_eager_calls_give(rng, x64):
    objective = regression(rng, 20, 6, l2=0.2)
    ys = jnp.asarray(rng.normal(size=(3, 20)))

    def build(y):
        same = jd.LinearRegression(objective.X, y, l2=0.2)
        return both(same, block=3)

    batched = jax.jit(jax.vmap(build))(ys)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[build(y) for y in ys])
    assert_trees_close(batched, stacked, rtol=1e-11, atol=1e-11)


def test_a_bfloat16_x_is_computed_with_in_float32_and_never_copied(rng):
    X = jnp.asarray(rng.normal(size=(40_000, 32)), jnp.bfloat16)
    y = jnp.asarray(rng.normal(size=40_000), jnp.float32)

    def build(X, y):
        objective = jd.LinearRegression(X, y).checked()
        return made(objective, block=500)

    program = jax.jit(build).lower(X, y).compile()
    memory = program.memory_analysis()
    widened = 4 * X.size
    assert memory.temp_size_in_bytes < 0.2 * widened
    form = program(X, y)
    exact = np.cov(np.asarray(X, float).T, bias=True) * len(X)
    assert form.gram.dtype == jnp.float32
    np.testing.assert_allclose(form.gram, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())


def test_several_weight_vectors_share_one_product_with_x(rng):
    objective = regression(rng, 30, 4, intercept=False)
    weights = np.ones((3, 4), np.float32)

    def value(weights, objective):
        return objective.value({"weights": weights})

    for which, matrix in ((objective, (30, 4)), (made(objective), (4, 4))):
        jaxpr = jax.make_jaxpr(jax.vmap(value, in_axes=(0, None)))(weights, which)
        products = [
            [variable.aval.shape for variable in equation.invars]
            for equation in jaxpr.jaxpr.eqns
            if equation.primitive.name == "dot_general"
        ]
        own = [shapes for shapes in products if matrix in shapes]
        assert len(own) == 1
        assert (3, 4) in own[0] or (4, 3) in own[0]


@pytest.mark.core
def test_a_penalty_keeps_the_directions_of_small_eigenvalues(rng):
    # In float32 the smallest eigenvalue of G is rounding; with the penalty its direction counts.
    basis = np.linalg.qr(rng.normal(size=(60, 5)))[0]
    scales = np.array([1, 1, 1, 1, 1e-4])
    X, y = basis * scales, basis @ np.array([1.0, -2, 3, -4, 5])
    penalty = 1e-4
    expected = scales * (basis.T @ y) / (scales**2 + penalty)
    X, y = X.astype(np.float32), y.astype(np.float32)
    params, _ = solved(made(jd.LinearRegression(X, y, l2=np.float32(penalty), intercept=False)))
    np.testing.assert_allclose(params["weights"], expected, rtol=2e-3)
