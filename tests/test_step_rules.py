"""Step rules and momentum: as optax transformations, in minimize, and against their formulas."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxdescent as jd
from benchmarks.problems.classical import rosenbrock
from jaxdescent.methods.gradient_descent import GradientDescent
from jaxdescent.objectives import as_objective
from tests import references
from tests.references import of_condition
from tests.results import assert_trees_close, status

RULES = {
    "backtracking": jd.Backtracking(),
    "exact line search": jd.ExactLineSearch(),
    "Barzilai-Borwein": jd.BarzilaiBorwein(),
    "inverse Lipschitz": jd.InverseLipschitz(margin=1.5),
}
NESTEROV = jd.Nesterov()
RESTARTED = GradientDescent(jd.Backtracking(), jd.Nesterov())
# Every rate and every momentum.
MOVING = [
    RESTARTED,
    GradientDescent(optax.linear_schedule(0.15, 0.1, 20), jd.Nesterov()),
    GradientDescent(jd.InverseLipschitz(margin=2.0), jd.Nesterov()),
    GradientDescent(0.1, jd.Nesterov()),
]
CENTER = {"a": np.float32([1.0, -2.0]), "b": np.float32(0.5)}
START = {"a": np.float32([2.0, -1.0]), "b": np.float32(-1.0)}


def bowl(p):
    """Least at CENTER, convex, not quadratic."""
    weights = jnp.array([1.0, 4.0])
    return jnp.sum(weights * (jnp.cosh(p["a"] - CENTER["a"]) - 1)) + jnp.square(p["b"] - 0.5)


def loop(transformation, function, params, steps):
    """The usual optax loop."""

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(function)(params)
        updates, state = transformation.update(
            grads, state, params, value=value, grad=grads, value_fn=function
        )
        return optax.apply_updates(params, updates), state

    state = transformation.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def conditioned_quadratic(rng, condition, size=60):
    """A random quadratic, its eigenvalues log-uniform over [1, condition]."""
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    spectrum = np.exp(rng.uniform(0, np.log(condition), size))
    spectrum[:2] = 1, condition
    return jd.Quadratic((basis * spectrum) @ basis.T, rng.normal(size=size))


# --- transformations


@pytest.mark.parametrize("rule", [*RULES.values(), NESTEROV], ids=str)
def test_a_rule_is_a_true_optax_transformation_and_a_pytree(rule):
    assert isinstance(rule, optax.GradientTransformationExtraArgs)
    init, update = rule
    assert init == rule.init
    assert update == rule.update
    assert callable(init)
    assert callable(update)
    leaves, structure = jax.tree.flatten(rule)
    fields = [getattr(rule, name) for name in rule.__dataclass_fields__]
    assert leaves == [field for field in fields if isinstance(field, float)]
    doubled = jax.tree.unflatten(structure, [leaf * 2 for leaf in leaves])
    assert type(doubled) is type(rule)
    assert jax.tree.leaves(doubled) == [leaf * 2 for leaf in leaves]
    for twin in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule)), jax.jit(lambda r: r)(rule)):
        assert type(twin) is type(rule)
        assert jax.tree.structure(twin) == structure
        jax.tree.map(np.testing.assert_allclose, twin, rule)
        assert callable(twin.init)
        state = twin.init(START)
        assert jax.tree.structure(state) == jax.tree.structure(rule.init(START))


@pytest.mark.first
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_rule_finds_the_minimum_in_a_chain_and_in_minimize(rule):
    chain = optax.chain(optax.clip_by_global_norm(5.0), rule, optax.identity())
    chained = loop(chain, bowl, START, 150)
    inside = jd.minimize(bowl, START, GradientDescent(rule))
    assert status(inside) == "CONVERGED"
    for params in (chained, inside.params):
        assert_trees_close(params, CENTER, atol=2e-3)


@pytest.mark.first
@pytest.mark.parametrize("method", MOVING, ids=str)
def test_momentum_finds_the_minimum_with_every_rate(method):
    result = jd.minimize(bowl, START, method)
    assert status(result) == "CONVERGED"
    assert_trees_close(result.params, CENTER, atol=2e-3)


# Transformations for a loop, and what minimize takes for the same steps.
ALIKE = {
    "Nesterov": (
        optax.chain(optax.scale_by_learning_rate(0.1), NESTEROV),
        GradientDescent(0.1, NESTEROV),
    ),
    **{
        name: (RULES[name], GradientDescent(RULES[name]))
        for name in ("backtracking", "Barzilai-Borwein")
    },
    "sgd": (optax.sgd(0.05),) * 2,
}
SELDOM = {
    "optax's Nesterov": optax.sgd(0.02, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "optax's LBFGS": optax.lbfgs(),
}


@pytest.mark.first
@pytest.mark.parametrize(
    ("transformation", "method"),
    [
        *(pytest.param(*pair, id=name) for name, pair in ALIKE.items()),
        *(pytest.param(t, t, id=name, marks=pytest.mark.slow) for name, t in SELDOM.items()),
    ],
)
def test_a_transformation_in_an_optax_loop_steps_as_in_minimize(
    transformation, method, x64, relaxed_promotion
):
    start = jax.tree.map(np.float64, START)
    inside = jd.minimize(bowl, start, method, max_iterations=25, tolerance=0)
    assert_trees_close(loop(transformation, bowl, start, 25), inside.params, atol=1e-9)


def test_optax_sgd_works_under_strict_promotion():
    assert bool(jd.minimize(bowl, START, optax.sgd(0.1)).converged)


@pytest.mark.parametrize("rule", [jd.Backtracking(), jd.BarzilaiBorwein()], ids=str)
def test_an_optax_loop_can_reuse_the_gradient_of_the_accepted_trial(rule):
    value_and_grad = optax.value_and_grad_from_state(bowl)

    @jax.jit
    def step(params, state):
        value, grads = value_and_grad(params, state=state)
        updates, state = rule.update(grads, state, params, value=value, grad=grads, value_fn=bowl)
        return optax.apply_updates(params, updates), state, (value, grads)

    expected_at = jax.jit(jax.value_and_grad(bowl))
    params, state = START, rule.init(START)
    for _ in range(30):
        expected = expected_at(params)
        params, state, reused = step(params, state)
        assert_trees_close(reused, expected, atol=1e-4)
    assert_trees_close(params, CENTER, atol=2e-3)


def test_updates_recompute_what_they_are_not_given():
    rule = jd.Backtracking()

    @jax.jit
    def both(params):
        state, (value, grads) = rule.init(params), jax.value_and_grad(bowl)(params)
        given = {"value": value, "grad": grads}
        with_all, _ = rule.update(grads, state, params, **given, value_fn=bowl)
        return rule.update(grads, state, params, value_fn=bowl)[0], with_all

    assert_trees_close(*both(START), atol=1e-6)


# Those that have loops of their own.
METHODS = [
    GradientDescent(jd.ExactLineSearch()),
    GradientDescent(jd.BarzilaiBorwein()),
    RESTARTED,
]


@pytest.mark.first
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_jit_equals_eager_and_vmap_equals_a_python_loop(method):
    def run(start):
        return jd.minimize(bowl, start, method, max_iterations=30)

    starts = jax.tree.map(lambda x: np.stack([x, x + 1]), START)
    batch = jax.jit(jax.vmap(run))(starts)
    for index in range(2):
        single = run(jax.tree.map(lambda x: x[index], starts))  # noqa: B023
        assert abs(int(batch.iterations[index]) - int(single.iterations)) <= 1
        member = jax.tree.map(lambda x: x[index], batch.params)  # noqa: B023
        assert_trees_close(member, single.params, atol=1e-3)


NEW_VALUES = [
    [GradientDescent(jd.BarzilaiBorwein(decrease=decrease)) for decrease in (1e-4, 1e-3)],
    [
        GradientDescent(jd.Backtracking(grow=2.0), jd.Nesterov(condition=10.0)),
        GradientDescent(jd.Backtracking(decrease=0.2, grow=3.0), jd.Nesterov(condition=30.0)),
    ],
    [
        GradientDescent(jd.InverseLipschitz(margin=1.5), jd.Nesterov()),
        GradientDescent(jd.InverseLipschitz(margin=2.0), jd.Nesterov()),
    ],
]


@pytest.mark.first
@pytest.mark.parametrize("methods", NEW_VALUES)
def test_new_hyper_parameters_trace_nothing(methods):
    traces = []

    def counted(p):
        traces.append(1)
        return bowl(p)

    counts = []
    for method in methods:
        jd.minimize(counted, START, method)
        counts.append(len(traces))
    assert counts[0] > 0
    assert counts[1] - counts[0] <= 3  # the function's first rejected candidate traces its gap


# --- memory


def vectors(tree, size):
    return sum(leaf.size >= size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("transformation", "kept"),
    [
        (jd.Backtracking(), 1),
        (jd.BarzilaiBorwein(), 1),
        (jd.ExactLineSearch(), 0),
        (jd.InverseLipschitz(), 0),
        (jd.Nesterov(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_state_holds_as_many_vectors_as_documented(transformation, kept):
    params = np.ones(1000, np.float32)
    assert vectors(jax.eval_shape(transformation.init, params), 1000) == kept
    words = {0: "no parameter-sized vector", 1: "one parameter-sized vector"}
    assert words[kept] in " ".join(type(transformation).__doc__.replace("\n", " ").split())
    if not hasattr(transformation, "has_restarted"):
        assert vectors(state_of(GradientDescent(transformation), params), 1000) == kept


def state_of(method, params):
    objective = as_objective(lambda p: jnp.sum(jnp.cosh(p)))
    return jax.eval_shape(functools.partial(method.init, objective), params)


def test_backtracking_under_momentum_keeps_its_gradient_and_the_momentum():
    assert vectors(state_of(RESTARTED, np.ones(1000, np.float32)), 1000) == 2


def test_a_regressions_image_has_the_size_of_its_rows(rng):
    X, y = rng.normal(size=(3, 1000)).astype(np.float32), np.ones(3, np.float32)
    regression = jd.LinearRegression(X, y, intercept=False).checked()
    method = GradientDescent(jd.ExactLineSearch())
    state = jax.eval_shape(lambda: method.init(regression, regression.start()))
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(3,), (), (), (), ()]


@pytest.mark.slow
def test_the_temporaries_of_a_step_are_a_few_vectors(one_cpu):
    objective = as_objective(lambda p: jnp.sum(p * p * p * p))
    params = jax.ShapeDtypeStruct((1 << 18,), np.float32)
    for method, vectors in (
        (GradientDescent(0.1, jd.Nesterov()), 2.5),
        (GradientDescent(jd.Backtracking()), 3.5),
        (GradientDescent(jd.BarzilaiBorwein()), 3.5),
    ):

        def step(params, state, method=method):
            return method.step(objective, params, state)[:2]

        state = jax.eval_shape(functools.partial(method.init, objective), params)
        program = jax.jit(step, donate_argnums=(0, 1)).lower(params, state).compile()
        assert program.memory_analysis().temp_size_in_bytes <= vectors * 4 * params.size, method


def products_outside_branches(jaxpr):
    """How many matrix products a program makes, whatever its branches add."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            if equation.params.get("branches_platforms"):  # of which one is lowered
                branch = equation.params["branches"][0]
                count += products_outside_branches(getattr(branch, "jaxpr", branch))
            continue
        count += equation.primitive.name == "dot_general"
        parts = [part for part in equation.params.values() if hasattr(part, "jaxpr")]
        count += sum(products_outside_branches(part.jaxpr) for part in parts)
    return count


def test_exact_line_search_passes_over_the_design_matrix_twice_a_step(rng):
    X, y = rng.normal(size=(30, 5)).astype(np.float32), np.ones(30, np.float32)
    regression = jd.LinearRegression(X, y).checked()
    method = GradientDescent(jd.ExactLineSearch())
    params = regression.start()
    state = method.init(regression, params)
    jaxpr = jax.make_jaxpr(lambda p, s: method.step(regression, p, s))(params, state).jaxpr
    assert products_outside_branches(jaxpr) == 2
    # What a step without a carried image does: the counter sees a third pass.
    without = jax.make_jaxpr(lambda p: method.step(regression, p, method.init(regression, p)))
    assert products_outside_branches(without(params).jaxpr) == 3


def test_momentum_passes_over_the_design_matrix_twice_a_trial(rng):
    X, y = rng.normal(size=(30, 5)).astype(np.float32), np.ones(30, np.float32)
    regression = jd.LinearRegression(X, y, intercept=False).checked()
    params = regression.start()
    state = RESTARTED.init(regression, params)
    jaxpr = jax.make_jaxpr(lambda p, s: RESTARTED.step(regression, p, s))(params, state).jaxpr
    # The first trial, and the one in the loop that follows a rejection.
    assert products_outside_branches(jaxpr) == 4


def test_momentums_extrapolated_gradient_is_the_gradient(rng, x64):
    quadratic = conditioned_quadratic(rng, 1e3)
    result = jd.minimize(quadratic, None, RESTARTED, max_iterations=200, tolerance=0)
    value, gradient = quadratic.value_and_gradient(result.params)
    np.testing.assert_allclose(result.value, value, rtol=1e-12)
    np.testing.assert_allclose(result.state.at[1], gradient, rtol=0, atol=1e-11)


def test_the_carried_image_stays_that_of_the_params(rng):
    X = rng.normal(size=(80, 20)) * np.geomspace(1, 30, 20)
    X, y = X.astype(np.float32), rng.normal(size=80).astype(np.float32)
    regression = jd.LinearRegression(X, y, intercept=False)
    method = GradientDescent(jd.ExactLineSearch())
    result = jd.minimize(regression, method=method, max_iterations=31 * 7 + 30, tolerance=0)
    weights = np.asarray(result.params["weights"])
    np.testing.assert_allclose(result.state.image, X @ weights, rtol=1e-4, atol=1e-4)
    exact = references.value(regression, result.params)
    np.testing.assert_allclose(result.value, exact, rtol=1e-5)


@pytest.mark.first
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_state_can_follow_the_params_rounding(rule, rng):
    X, y = rng.normal(size=(30, 5)).astype(np.float32), np.ones(30, np.float32)
    regression = jd.LinearRegression(X, y).checked()
    method = GradientDescent(rule)

    @jax.jit
    def values(regression):
        start = regression.start()
        params, state, _ = method.step(regression, start, method.init(regression, start))
        rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
        state = method.after_rounding(regression, rounded, state)
        _, _, progress = method.step(regression, rounded, state)
        return progress.value, regression.value(rounded)

    np.testing.assert_allclose(*values(regression), rtol=1e-5)


# --- Barzilai-Borwein


def iterations_of(objective, method, most=100_000):
    result = jd.minimize(objective, None, method, tolerance=1e-6, max_iterations=most)
    assert status(result) == "CONVERGED"
    return int(result.iterations)


def constant_step_iterations(hessian, linear):
    """Of the best constant step, ``2 / (L + mu)``, from zero, in closed form."""
    eigenvalues, basis = np.linalg.eigh(hessian)
    coefficients = basis.T @ linear
    factors = np.abs(1 - 2 / (eigenvalues[0] + eigenvalues[-1]) * eigenvalues)
    target = 1e-6 * np.linalg.norm(coefficients)
    low, high = 0, 10**7
    while high - low > 1:
        middle = (low + high) // 2
        is_enough = np.linalg.norm(coefficients * factors**middle) <= target
        low, high = (low, middle) if is_enough else (middle, high)
    return high


FAST = [
    GradientDescent(jd.BarzilaiBorwein()),
    RESTARTED,
    GradientDescent(jd.InverseLipschitz(), jd.Nesterov()),
]


@pytest.mark.first
@pytest.mark.parametrize("method", FAST, ids=str)
def test_ten_times_fewer_iterations_than_the_best_constant_step_at_condition_1e4(method, rng, x64):
    quadratics = [conditioned_quadratic(np.random.default_rng(seed), 1e4) for seed in range(3)]
    posed = [(each, each.hessian, each.linear) for each in quadratics]
    X = 100 * of_condition(100, rng, 120, 30)
    y = X @ rng.normal(size=30) + rng.normal(size=120)
    posed.append((jd.LinearRegression(X, y, intercept=False), X.T @ X, X.T @ y))
    for objective, hessian, linear in posed:
        best = constant_step_iterations(hessian, linear)
        assert 10 * iterations_of(objective, method) <= best


def test_barzilai_borwein_takes_the_rates_of_its_formulas(rng, x64):
    quadratic = conditioned_quadratic(rng, 30.0, size=5)
    # The minimum is farther than the first trial, and a long memory accepts the later ones.
    quadratic = jd.Quadratic(quadratic.hessian, 30 * quadratic.linear)
    hessian, linear = quadratic.hessian, quadratic.linear
    x, gradient = np.zeros(5), -linear
    rate, shorts, has_taken_short = 1 / np.linalg.norm(gradient), [], []
    for _ in range(12):
        s = -rate * gradient
        x, y = x + s, hessian @ s
        gradient = gradient + y
        long, short = s @ s / (s @ y), s @ y / (y @ y)
        shorts.append(short)
        has_taken_short.append(short < 0.5 * long)
        rate = min(shorts[-5:]) if has_taken_short[-1] else long
    assert set(has_taken_short) == {False, True}
    method = GradientDescent(jd.BarzilaiBorwein(memory=100))
    result = jd.minimize(quadratic, None, method, max_iterations=12, tolerance=0)
    assert int(result.evaluations) == 13
    np.testing.assert_allclose(result.state.rate, rate, rtol=1e-6)
    np.testing.assert_allclose(result.params, x, rtol=1e-6, atol=1e-9)


NEAR = jd.Tolerance(gradient=2.4e-5)
"""Nearer than this, rounding of the start decides whether it takes 150 steps or 1,500."""


@pytest.mark.first
# Above zero: a minimum of zero would be one of rounding, which differs from program to program.
@pytest.mark.parametrize(
    ("method", "size", "floor", "tolerance", "most", "rounding"),
    [
        (GradientDescent(), 2, 0, None, 20_000, 8),
        (GradientDescent(jd.BarzilaiBorwein()), 2, 0, NEAR, 699, None),
        (GradientDescent(jd.BarzilaiBorwein()), 10, 0, NEAR, 699, None),
        (GradientDescent(jd.BarzilaiBorwein(memory=1)), 2, 0, NEAR, 10_000, 40),
        (RESTARTED, 2, 1, None, 499, None),
    ],
    ids=str,
)
def test_it_descends_the_rosenbrock_valley(method, size, floor, tolerance, most, rounding):
    """Some with every step, up to so much rounding of the value."""
    start = np.tile(np.float32([-1.2, 1.0]), size // 2)
    options = {"max_iterations": most, "tolerance": tolerance, "history": most}
    result = jd.minimize(lambda x: floor + rosenbrock(x), start, method, **options)
    assert status(result) == "CONVERGED"
    assert tolerance is NEAR or float(rosenbrock(result.params)) < 9e-5
    if rounding is not None:
        values = np.asarray(result.history.value)
        values = values[~np.isnan(values)]
        rises = rounding * np.finfo(np.float32).eps * np.abs(values[:-1])
        assert np.all(np.diff(values) <= rises)


def bowl_in_offset(p, offset, scale):
    """Against the offset the last differences of the values drown in rounding."""
    return offset + scale * jnp.sum(jnp.array([1.0, 3.0, 10.0]) * (jnp.cosh(p - 1) - 1))


# Smaller offsets than the bowl's own values hide nothing but are its minimum: how many digits of it
# can be had is another question.
OFFSETS = st.just(0.0) | st.floats(1, 1e4) | st.floats(-1e4, -1)


@pytest.mark.slow
@given(offset=OFFSETS, scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_line_searches_do_not_stall_near_a_float32_optimum(offset, scale):
    for method in (GradientDescent(), GradientDescent(jd.BarzilaiBorwein()), RESTARTED):
        start, args = np.zeros(3, np.float32), (offset * scale, scale)
        result = jd.minimize(bowl_in_offset, start, method, args=args, max_iterations=500)
        assert status(result) == "CONVERGED"


SEARCHING = {
    "backtracking": GradientDescent(),
    "exact line search": GradientDescent(jd.ExactLineSearch()),
    "Barzilai-Borwein": GradientDescent(jd.BarzilaiBorwein()),
    "momentum": RESTARTED,
}


@pytest.mark.first
@pytest.mark.parametrize("name", SEARCHING)
def test_values_in_any_units_take_as_many_steps(name):
    """Products of two gradients would underflow and overflow in these units. The gap takes about
    twenty evaluations.
    """
    start = np.zeros(3, np.float32)
    result = jd.minimize(bowl_in_offset, start, SEARCHING[name], args=(2.0, 1.0))
    assert status(result) == "CONVERGED"
    np.testing.assert_allclose(result.params, 1, atol=2e-2)
    for scale in np.exp2(np.float32([-97, -40, 40, 97])):
        scaled = jd.minimize(bowl_in_offset, start, SEARCHING[name], args=(2 * scale, scale))
        assert status(scaled) == "CONVERGED"
        assert abs(int(scaled.iterations) / int(result.iterations) - 1) < 0.2
        assert int(scaled.evaluations) < 2.1 * int(scaled.iterations) + 60
        np.testing.assert_allclose(scaled.params, 1, atol=2e-2)


def bowl_in_units(p, unit):
    return bowl_in_offset(p / unit, 2.0, 1.0) / jnp.sqrt(unit)


@pytest.mark.parametrize("name", SEARCHING)
def test_params_in_any_units_take_no_more_than_twice_the_steps(name):
    """Products of two steps would underflow and overflow here, those of gradients would not."""

    def steps(unit):
        start = np.float32([2, 0, 3]) * unit
        result = jd.minimize(bowl_in_units, start, SEARCHING[name], args=(unit,))
        assert status(result) == "CONVERGED"
        np.testing.assert_allclose(result.params / unit, 1, atol=2e-2)
        return int(result.iterations)

    for unit in np.exp2(np.float32([-45, 45])):
        assert steps(unit) <= 2 * steps(np.float32(1)), unit


# --- inverse Lipschitz


def spectrum_quadratic(seed, size, shape):
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.normal(size=(size, size)))
    spectrum = {
        "uniform": generator.uniform(0, 1, size),
        "one large": np.r_[generator.uniform(0, 0.8, size - 1), 1.0],
        "flat": np.ones(size),
        "signed": generator.uniform(-1, 1, size),
    }[shape]
    return jd.Quadratic(((basis * spectrum) @ basis.T).astype(np.float32)), np.abs(spectrum).max()


@pytest.mark.parametrize("shape", ["uniform", "one large", "flat", "signed"])
def test_the_inverse_lipschitz_rate_is_never_too_large(shape):
    rate_of = jax.jit(jd.InverseLipschitz().init)
    for seed in range(5):
        quadratic, largest = spectrum_quadratic(seed, 100, shape)
        rate = float(rate_of(jnp.ones(100), quadratic))
        assert 0.85 / largest < rate <= 1.001 / largest


def test_the_inverse_lipschitz_rate_is_the_same_in_an_optax_loop(rng):
    matrix = rng.normal(size=(4, 4)).astype(np.float32)
    rule, params = jd.InverseLipschitz(), np.ones(4, np.float32)

    @jax.jit
    def rates(quadratic):
        grads, state = quadratic.gradient(params), rule.init(params)
        _, state = rule.update(grads, state, params, value_fn=quadratic.value)
        return state, rule.init(params, quadratic)

    np.testing.assert_allclose(*rates(jd.Quadratic(matrix @ matrix.T)), rtol=1e-4)


def test_a_known_bound_caps_the_curvature_but_not_the_rate():
    X, y = np.ones((4, 1), np.float32), np.ones(4, np.float32)
    regression = jd.LinearRegression(X, y, intercept=False).checked()
    # |X|_F^2 is the largest eigenvalue itself here, and needs no margin.
    rule = jd.InverseLipschitz(margin=3.0)
    rate = jax.jit(lambda regression: rule.init(regression.start(), regression))(regression)
    np.testing.assert_allclose(rate, 1 / 4, rtol=1e-6)


def test_a_separable_objectives_rate_is_exact_and_its_steps_fuse():
    bowl = jd.SumOfSquares(scale=np.float32([1.0, 5.0]))
    method = GradientDescent(jd.InverseLipschitz())
    assert method.is_elementwise
    result = jd.minimize(bowl, jnp.array([3.0, 4.0]), method)
    np.testing.assert_allclose(result.state, 0.1)
    assert status(result) == "CONVERGED"
    assert int(result.iterations) % 16 == 0


def test_without_curvature_at_the_start_the_rate_is_one():
    assert float(jax.jit(jd.InverseLipschitz().init)(jnp.ones(2), as_objective(jnp.sum))) == 1


# --- momentum


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("condition", [None, 20.0])
def test_nesterov_steps_equal_the_formula(restart, condition, rng, x64):
    quadratic = conditioned_quadratic(rng, 50.0, size=6)
    hessian, linear = quadratic.hessian, quadratic.linear
    rate, limit = 1 / 50, 1.0
    if condition is not None:
        limit = (np.sqrt(condition) - 1) / (np.sqrt(condition) + 1)
    y = x = np.zeros(6)
    steps, restarts = 0, 0
    for _ in range(60):
        u = -rate * (hessian @ y - linear)
        new = y + u
        if restart and u @ (new - x) < 0:
            steps, restarts = 0, restarts + 1
        y, x, steps = new + min(steps / (steps + 3), limit) * (new - x), new, steps + 1
    assert (restarts > 0) == (restart and condition is None)
    method = GradientDescent(rate, jd.Nesterov(restart=restart, condition=condition))
    result = jd.minimize(quadratic, None, method, max_iterations=60, tolerance=0)
    np.testing.assert_allclose(result.params, y, rtol=1e-7, atol=1e-10)


def test_known_bounds_limit_the_momentum(rng, x64):
    # With l2 = 1 and no intercept the least curvature is known: the limit is that of condition 50.
    X, y = rng.normal(size=(3, 6)), rng.normal(size=3)
    regression = jd.LinearRegression(X, y, l2=1.0, intercept=False)
    one, other = (
        jd.minimize(regression, None, method, max_iterations=80, tolerance=0).params["weights"]
        for method in (
            GradientDescent(1 / 50, jd.Nesterov()),
            GradientDescent(1 / 50, jd.Nesterov(condition=50.0)),
        )
    )
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_momentum_on_a_quadratic_takes_one_evaluation_a_step():
    quadratic = jd.Quadratic(np.diag([1.0, 30.0]).astype(np.float32), np.ones(2, np.float32))
    result = jd.minimize(quadratic, None, RESTARTED, tolerance=jd.Tolerance(gradient=2.4e-5))
    assert status(result) == "CONVERGED"
    assert int(result.evaluations) <= 1.3 * int(result.iterations) + 5
    # At most |g|^2 / g.Hg, which lies between 1/30 and 1, and at least half the least of these.
    assert 1 / 60 < float(result.state.rate.rate) <= 1


# --- statuses and errors

SADDLE = jd.Quadratic(np.diag([1.0, -2.0]).astype(np.float32))


@pytest.mark.parametrize(
    "method",
    [
        *METHODS,
        jd.DerivativeMethod(),
        *(
            pytest.param(jd.ConjugateGradient(each), marks=pytest.mark.slow)
            for each in (None, jd.Jacobi(), jd.Nystrom(2))
        ),
    ],
    ids=str,
)
def test_negative_curvature_in_a_quadratic_diverges(method):
    assert status(jd.minimize(SADDLE, np.float32([0.1, 1]), method)) == "DIVERGED"


@pytest.mark.parametrize(
    "method",
    [
        GradientDescent(jd.Backtracking(max_trials=1)),
        GradientDescent(jd.BarzilaiBorwein(max_trials=1)),
        GradientDescent(jd.Backtracking(max_trials=1), jd.Nesterov()),
    ],
    ids=str,
)
def test_a_rule_that_finds_no_step_has_stagnated(method):
    # The first trial moves by the length of the params, far past the minimum of a narrow valley.
    tolerance = jd.Tolerance(1e-5)  # a gap would lead on by Newton's step
    result = jd.minimize(
        lambda p: jnp.sum((p - 1) ** 4), np.float32([1, 1.1]), method, tolerance=tolerance
    )
    assert status(result) == "STAGNATED"
    assert int(result.iterations) == 0


@pytest.mark.slow
def test_a_rule_takes_no_step_to_where_the_gradient_is_no_number():
    # Beyond an exponent of 88 the value is lower, and its derivative infinity over infinity.
    function = lambda p: jnp.sum(jnp.square(1 / (1 + jnp.exp(p)) - 1e-3))  # noqa: E731
    result = jd.minimize(function, np.float32([-6]), GradientDescent(jd.BarzilaiBorwein()))
    assert status(result) in ("STAGNATED", "CONVERGED")  # on the plateau
    assert result.value < 0.9
    assert np.isfinite(result.gradient_norm)


def of_rule(make, *args, **options):
    return lambda: GradientDescent(make(*args, **options))


def with_rate(make, *args, **options):
    return lambda: GradientDescent(0.1, make(*args, **options))


BAD = {
    "decrease": (of_rule(jd.Backtracking, decrease=0.5), ValueError, r"in \(0, 1/2\), got 0.5"),
    "shrink": (of_rule(jd.Backtracking, shrink=1.0), ValueError, r"shrink must be in \(0, 1\)"),
    "grow": (of_rule(jd.Backtracking, grow=0.5), ValueError, r"grow must be at least 1, got 0.5"),
    "trials": (of_rule(jd.Backtracking, max_trials=0), ValueError, r"max_trials.*got 0"),
    "memory": (of_rule(jd.BarzilaiBorwein, memory=2.5), TypeError, r"memory.*integer, got 2.5"),
    "memory zero": (of_rule(jd.BarzilaiBorwein, memory=0), ValueError, r"memory.*at least 1"),
    "share": (of_rule(jd.BarzilaiBorwein, decrease=-1.0), ValueError, r"decrease.*got -1"),
    "margin": (of_rule(jd.InverseLipschitz, margin=0.9), ValueError, r"margin.*at least 1"),
    "iterations": (of_rule(jd.InverseLipschitz, iterations=0), ValueError, r"iterations"),
    "text": (of_rule(jd.InverseLipschitz, margin="2"), TypeError, r"must be a number.*got '2'"),
    "condition": (with_rate(jd.Nesterov, condition=0.5), ValueError, r"condition.*at least 1"),
    "restart": (with_rate(jd.Nesterov, restart=1), TypeError, r"restart.*True or False"),
    "a number": (lambda: GradientDescent(0.1, 0.9), TypeError, r"momentum must be jd\.Nesterov"),
    "as the rate": (of_rule(jd.Nesterov), TypeError, r"GradientDescent\(momentum=jd\.Nesterov"),
    "as the method": (
        jd.Nesterov,
        TypeError,
        r"jd\.GradientDescent\(momentum=jd\.Nesterov\(\)\)\.",
    ),
    "a rule as the method": (jd.BarzilaiBorwein, TypeError, r"GradientDescent\(jd\.Barzilai"),
} | {
    f"with {name}": (
        lambda rule=RULES[name]: GradientDescent(rule, jd.Nesterov()),
        ValueError,
        r"momentum goes with",
    )
    for name in ("exact line search", "Barzilai-Borwein")
}


@pytest.mark.parametrize(("make", "error", "match"), BAD.values(), ids=BAD.keys())
def test_a_bad_rule_or_momentum_raises(make, error, match):
    with pytest.raises(error, match=match):
        jd.minimize(bowl, START, make())


def test_updates_without_params_or_the_function_say_what_to_pass():
    rule, grads = jd.Backtracking(), START
    with pytest.raises(ValueError, match=r"Backtracking needs the params"):
        rule.update(grads, rule.init(START))
    with pytest.raises(ValueError, match=r"value_fn=function"):
        rule.update(grads, rule.init(START), START)
    with pytest.raises(ValueError, match=r"Nesterov needs the params"):
        jd.Nesterov().update(grads, jd.Nesterov().init(START))
