"""Features far from zero: every method finds what the stored numbers say, whatever their mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxdescent as jd
from benchmarks.harness.passes import Counted, passes
from jaxdescent.calls import problem
from jaxdescent.designs import Center, Dense, as_design
from jaxdescent.designs.center import is_far_on_host
from jaxdescent.objectives.elimination import Means
from jaxdescent.regression.gram_form import GramForm
from jaxdescent.status import Status
from tests import references
from tests.meshes import rows_over
from tests.references import closed_form

pytestmark = pytest.mark.slow  # most tests compile a few solvers: the core is for every day

METHODS = {
    "default": lambda: None,
    "CG": jd.ConjugateGradient,
    "CG Jacobi": lambda: jd.ConjugateGradient(jd.Jacobi()),
    "CG Sketch": lambda: jd.ConjugateGradient(jd.Sketch()),
    "LSMR": jd.LSMR,
    "LSMR Sketch": lambda: jd.LSMR(jd.Sketch()),
    "Gram": jd.Gram,
    "LBFGS": jd.LBFGS,
}
SHIFTS = [0.0, 300.0, 3000.0, 1e4]
TOLERANCE = float(np.finfo(np.float32).eps) ** (2 / 3)


def data(rng, shift, rows=400, features=8, outputs=(), dtype=np.float32):
    X = (rng.normal(size=(rows, features)) + shift).astype(dtype)
    weights = rng.normal(size=(features, *outputs))
    noise = 0.1 * rng.normal(size=(rows, *outputs))
    y = (X.astype(float) - shift) @ weights + noise + 5
    return X, y.astype(dtype)


def error(result, weights):
    got = np.asarray(result.params["weights"], float)
    return np.linalg.norm(got - weights) / np.linalg.norm(weights)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "LSMR Sketch"])
def test_the_weights_are_those_of_the_stored_numbers(name, rng):
    method = METHODS[name]()
    for shift in SHIFTS:
        X, y = data(rng, shift)
        weights, intercept, value = closed_form(X, y)
        objective = jd.LinearRegression(X, y)
        if name.startswith(("CG", "LSMR", "LBFGS")):
            usual = jd.minimize(objective, method=method)
            assert error(usual, weights) < 1e-3
            # Far out the rounding of params alone may be more than the tolerance allows: the
            # result says so, and by how much.
            own, said = references.value(objective, usual.params), float(usual.suboptimality)
            above, said = own / value - 1, said / value
            assert above <= 1.05 * said + 1e-9, shift
            assert bool(usual.converged) or (shift > 300 and said > TOLERANCE), shift
            assert above <= TOLERANCE or not bool(usual.converged), shift
        result = jd.minimize(objective, method=method, tolerance=1e-6)
        assert error(result, weights) < 1e-4
        # The intercept is the best for these weights, but for its own rounding.
        got = np.asarray(result.params["weights"], float)
        intercept = intercept - X.astype(float).mean(axis=0) @ (got - weights)
        spacing = np.spacing(np.float32(shift * np.abs(weights).sum() + 10))
        assert abs(float(result.params["intercept"]) - intercept) < 4 * spacing
        assert float(result.value) < 1.01 * value


@pytest.mark.parametrize("name", ["CG", "LSMR", "LBFGS", "Gram"])
def test_so_they_are_with_weights_outputs_and_penalties(name, rng):
    X, y = data(rng, 1e4, outputs=(3,))
    l2, sample_weight = np.float32([0, 1, 50]), rng.random(400).astype(np.float32)
    objective = jd.LinearRegression(X, y, l2=l2, sample_weight=sample_weight)
    weights, _, _ = closed_form(X, y, l2, sample_weight)
    result = jd.minimize(objective, method=METHODS[name](), tolerance=1e-6)
    assert error(result, weights) < 2e-4


@given(
    seed=st.integers(0, 2**16),
    shape=st.sampled_from([(30, 1), (400, 8)]),
    exponent=st.floats(0, 4),
    is_steep=st.booleans(),
)
def test_so_they_are_in_any_shape(seed, shape, exponent, is_steep):
    rng = np.random.default_rng(seed)
    rows, features = shape
    shift = 10**exponent * rng.choice([-1, 1], size=features) * rng.random(features)
    X, y = data(rng, shift, rows, features)
    if is_steep:
        y = y + np.float32(10**exponent)
    weights, _, _ = closed_form(X, y)
    for method in (jd.ConjugateGradient(), jd.LSMR()):
        result = jd.minimize(jd.LinearRegression(X, y), method=method, tolerance=1e-6)
        # The mean of X and each y are rounded to their own last digit.
        assert error(result, weights) < 3e-4 + 2e-7 * 10**exponent


@pytest.mark.parametrize("name", ["CG", "LSMR", "LBFGS", "Gram"])
def test_in_float64_to_as_many_digits_as_it_has_and_a_wrong_intercept_alone_is_no_minimum(
    name, rng, x64
):
    def minimum(shift, scale, tolerance):
        """From the best weights and an intercept that is 10 off, times the scale."""
        X, y = data(rng, shift, dtype=np.float64)
        weights, intercept, value = closed_form(X, y)
        start = {"weights": scale * weights, "intercept": scale * (intercept + 10)}
        objective, method = jd.LinearRegression(X, y), METHODS[name]()
        result = jd.minimize(objective, start, method, tolerance=tolerance)
        return result, weights, intercept, value

    result, weights, _, value = minimum(1e4, 0.0, 1e-12)
    assert error(result, weights) < 1e-5
    np.testing.assert_allclose(result.value, value, rtol=1e-7)
    result, _, intercept, _ = minimum(300.0, 1.0, None)
    assert int(result.iterations) > 0
    np.testing.assert_allclose(result.params["intercept"], intercept, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "form"),
    [("LSMR", "jit"), ("CG", "vmap"), ("LBFGS", "vmap")],
    ids=str,
)
def test_jit_and_vmap_do_the_same(name, form, rng):
    cases = [data(rng, shift, 60, 4) for shift in (0.0, 1e3, 1e4)]
    exact = np.stack([closed_form(X, y)[0] for X, y in cases])
    Xs, ys = map(np.stack, zip(*cases, strict=True))

    @jax.jit
    def solve(X, y):
        objective, method = jd.LinearRegression(X, y), METHODS[name]()
        return jd.minimize(objective, method=method, tolerance=1e-6).params["weights"]

    got = [solve(*case) for case in cases] if form == "jit" else jax.vmap(solve)(Xs, ys)
    np.testing.assert_allclose(got, exact, rtol=3e-4, atol=3e-4)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [("CG", (3,)), ("LSMR Sketch", ()), ("LBFGS", (3,)), ("Gram", ())],
    ids=str,
)
def test_rows_on_eight_devices_do_the_same(name, outputs, rng):
    for shift in (0.0, 1e4):
        X, y = data(rng, shift, outputs=outputs)
        placed = jax.device_put((X, y), rows_over(8))
        result = jd.minimize(jd.LinearRegression(*placed), method=METHODS[name](), tolerance=1e-6)
        # Rounding of the Gram matrix ends a descent on it before so small a tolerance.
        assert bool(result.converged) or shift or name == "Gram"
        assert error(result, closed_form(X, y)[0]) < 2e-4


@pytest.mark.parametrize(("name", "dtype"), [("CG", jnp.float16), ("LSMR", jnp.bfloat16)])
def test_16_bit_features_do_the_same(name, dtype, rng):
    X, y = data(rng, 0.0)
    X = jnp.asarray(20 * X + 1000, dtype)
    result = jd.minimize(jd.LinearRegression(X, y), method=METHODS[name](), tolerance=1e-6)
    assert error(result, closed_form(X.astype(jnp.float32), y)[0]) < 2e-4


@pytest.mark.parametrize("name", ["CG", "CG Jacobi", "LBFGS", "LSMR", "Gram"])
def test_the_given_intercept_counts_in_the_suboptimality_of_the_start(name, rng, x64):
    X, y = data(rng, 3.0, dtype=np.float64)
    regression = jd.LinearRegression(X, y, l2=1e7)  # far above the curvature for the intercept
    start = {"weights": jnp.zeros(8), "intercept": jnp.array(50.0)}
    seen = jd.minimize(regression, start, METHODS[name](), max_iterations=1, history=2).history
    least = jd.minimize(regression, method=jd.DerivativeMethod()).value
    assert seen.suboptimality[0] >= (1 - 1e-9) * (seen.value[0] - least)


def test_a_far_intercept_at_the_start_is_not_in_the_estimates_after_it(rng, x64):
    X, y = data(rng, 0.0, dtype=np.float64)
    starts = [{"weights": jnp.zeros(8), "intercept": jnp.array(b)} for b in (0.0, 1e8)]
    method = jd.ConjugateGradient(jd.Jacobi())
    near, far = (
        jd.minimize(jd.LinearRegression(X, y), start, method, max_iterations=1) for start in starts
    )
    np.testing.assert_allclose(far.suboptimality, near.suboptimality, rtol=1e-6)


def test_a_column_of_ones_besides_the_intercept_is_no_reason_to_subtract(rng):
    X, y = data(rng, 0.0)
    X[:, -1] = 1
    assert not Center.of(Dense.from_array(jnp.asarray(X)), None).is_far
    result = jd.minimize(jd.LinearRegression(X, y), method=jd.LSMR(), tolerance=1e-6)
    assert error(result, np.append(closed_form(X[:, :-1], y)[0], 0)) < 1e-4


@pytest.mark.parametrize("constant", [2013.0, 1e4, 1e7])
@pytest.mark.parametrize("beside", ["alone", "levels", "entries"])
def test_a_constant_column_hides_nothing(constant, beside, rng):
    """Its mean is subtracted from its entries, which are exactly zero then."""
    X, y = data(rng, 0.0)
    X[:, 3] = constant
    design, codes = jnp.asarray(X), rng.integers(0, 3, 400)
    levels = np.eye(3)[codes]
    if beside == "levels":
        design = jd.Concatenated({"x": X, "level": jd.Categorical(codes, 3)})
    if beside == "entries":
        entries = jd.Sparse.from_indices(np.arange(400), codes, shape=(400, 3))
        design = jd.Concatenated({"x": X, "level": entries})
    A = X if beside == "alone" else np.column_stack([X, levels])
    *_, least = closed_form(np.delete(A, 3, axis=1), y)
    result = jd.minimize(jd.LinearRegression(design, jnp.asarray(y)), method=jd.LSMR())
    assert jd.Status(int(result.status)) is jd.Status.CONVERGED
    np.testing.assert_allclose(float(result.value), least, rtol=2e-4)


@pytest.mark.core
def test_nothing_but_constant_columns_is_far_from_zero():
    X = jnp.full((50, 2), 3.0)
    assert Center.of(Dense.from_array(X), None).is_far
    assert not Center.of(Dense.from_array(0 * X), None).is_far


@jax.jit
def is_far(design, row_weight):
    return Center.of(design, row_weight).is_far


@pytest.mark.first
@pytest.mark.core
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_in_memory_tell_the_host_what_they_tell_a_program(dtype, rng):
    for rows, features in [(1, 2), (37, 5), (64, 1), (300, 8)] * 8:  # few shapes compile little
        X = rng.normal(size=(rows, features)) + rng.choice([0, 1, 3, 100, 1000], features)
        X[:, rng.integers(features)] *= rng.choice([0, 1])
        weight = rng.choice([0, 1, 2], rows).astype(np.float32)
        for own in (None, weight) if np.any(weight) else (None,):
            design = Dense.from_array(jnp.asarray(X.astype(dtype)))
            expected = is_far(design, own)
            if own is None or rows <= 64:  # another sample of few weights may decide otherwise
                assert is_far_on_host(design, own) == expected
    assert is_far_on_host(as_design(jd.Categorical(np.zeros(5, int), 2)), None) is None


def test_data_that_lie_elsewhere_have_a_program_of_their_own(rng, monkeypatch):
    """Whose products subtract the means before or after, as the data ask for; again as well."""
    said, ask = [], problem.is_far_on_host
    monkeypatch.setattr(problem, "is_far_on_host", lambda *of: said.append(ask(*of)) or said[-1])
    X, y = data(rng, 0.0, rows=40_000)
    for shift in (0, 0, 3e3, 3e3, 0):
        moved = X + np.float32(shift)
        objective = jd.LinearRegression(jnp.asarray(moved), jnp.asarray(y))
        result = jd.minimize(objective, method=jd.LSMR())
        assert error(result, closed_form(moved, y)[0]) < 1e-3
    # A repeated call whose data lie elsewhere is asked about twice: it is a new call then.
    assert said == [False, False, True, True, True, False, False]


@pytest.mark.parametrize(
    ("name", "devices", "outputs"),
    [("CG", 1, ()), ("LSMR", 8, (2,))],
    ids=str,
)
def test_x_is_never_copied(name, devices, outputs):
    rows, features = 1 << 16, 64
    placement = rows_over(devices)
    X = jax.ShapeDtypeStruct((rows, features), jnp.float32, sharding=placement)
    y = jax.ShapeDtypeStruct((rows, *outputs), jnp.float32, sharding=placement)

    def solve(X, y):
        design = Dense(X, is_on_one_device=devices == 1)
        return jd.minimize(jd.LinearRegression(design, y), method=METHODS[name]()).params

    memory = jax.jit(solve).lower(X, y).compile().memory_analysis()
    # Blocks that are shifted, on one device, and some vectors of the size of y.
    blocks = (4 << 20) * (devices == 1)
    room = blocks + 14 * 4 * rows * (outputs[0] if outputs else 1) / devices
    assert memory.temp_size_in_bytes < room < 4 * rows * features / devices


@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_passes_over_x_are_two_an_iteration_and_those_for_the_means(shift, rng):
    X, y = data(rng, shift, 2000, 20)
    objective = jd.LinearRegression(Counted(jnp.asarray(X), is_on_one_device=True), y)
    is_far = shift > 0
    sampled, means = 64 / 2000, 1 + is_far
    count, result = passes(lambda: jd.minimize(objective, method=jd.ConjugateGradient()))
    np.testing.assert_allclose(count, 2 * int(result.iterations) + 1 + means + sampled)
    count, result = passes(lambda: jd.minimize(objective, method=jd.LSMR()))
    # Going there and back block by block, X is read once for both products.
    each = 1 if is_far else 2
    visits = int(result.iterations) + int(result.state.is_estimate)
    expected = each * visits + 1 + means + sampled  # the host looks at a claim without a pass
    np.testing.assert_allclose(count, expected)


def test_the_own_start_is_the_best_constant_model_and_its_gradient_the_scale(rng):
    X, y = data(rng, 3000.0)
    sample_weight = rng.random(400).astype(np.float32)
    objective = jd.LinearRegression(X, y, sample_weight=sample_weight)
    A = X.astype(float) - np.average(X.astype(float), axis=0, weights=sample_weight)
    target = np.average(y.astype(float), weights=sample_weight)
    slope = np.linalg.norm(A.T @ (sample_weight * (y - target)))
    for method in (jd.ConjugateGradient(), jd.LSMR(), jd.LBFGS(), jd.Gram()):
        halted = jd.minimize(objective, method=method, max_iterations=1, tolerance=0, history=2)
        np.testing.assert_allclose(halted.history.gradient_norm[0], slope, rtol=1e-3)
        np.testing.assert_allclose(
            halted.history.value[0],
            0.5 * np.sum(sample_weight * (y - target) ** 2),
            rtol=1e-4,
        )
    start = jax.jit(lambda checked: (checked.start_norm(), checked.placed_start(checked.start())))
    norm, placed = start(objective.checked())
    np.testing.assert_allclose(norm, slope, rtol=1e-3)
    np.testing.assert_allclose(placed["intercept"], target, rtol=1e-6)
    assert not np.any(placed["weights"])


@pytest.mark.core
def test_a_repeated_call_with_other_targets_starts_at_their_mean(rng):
    X, y = data(rng, 0.0)
    X, weight = jnp.asarray(X), jnp.asarray(rng.random(400), jnp.float32)
    options = {"method": jd.ConjugateGradient(), "max_iterations": 1, "history": 2, "tolerance": 0}
    for shift in (0, 100, -7):
        targets = y + np.float32(shift)
        regression = jd.LinearRegression(X, jnp.asarray(targets), sample_weight=weight)
        result = jd.minimize(regression, **options)
        apart = targets - np.average(targets.astype(float), weights=weight)
        np.testing.assert_allclose(result.history.value[0], 0.5 * weight @ apart**2, rtol=1e-4)


@pytest.mark.parametrize("kind", ["regression", "form"])
def test_what_is_left_without_the_intercept_is_the_same_function(kind, rng, x64):
    X, y = data(rng, 3.0, 50, 4, (2,), np.float64)
    regression = jd.LinearRegression(X, y, l2=0.3, sample_weight=rng.random(50)).checked()
    weights = rng.normal(size=(4, 2))

    @jax.jit
    def answers(regression):
        alone, means = regression.eliminated() if kind == "regression" else GramForm.of(regression)
        assert isinstance(means, Means)
        params = means.with_intercept(weights)
        inner = alone.value_and_gradient({"weights": weights})
        other = params | {"intercept": params["intercept"] + jnp.array([1.0, -2.0])}
        got = means.at_given_intercept(other, inner[0], inner[1]["weights"])
        again = regression.eliminated(means).objective.value({"weights": weights})
        outer = (regression.value_and_gradient(each) for each in (params, other))
        return *outer, inner, got, again

    (value, gradient), (elsewhere, slope), inner, got, again = answers(regression)
    np.testing.assert_allclose(inner[0], value, rtol=1e-10)
    np.testing.assert_allclose(inner[1]["weights"], gradient["weights"], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(gradient["intercept"], 0, atol=1e-10)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in slope.values()))
    np.testing.assert_allclose(got, (elsewhere, norm), rtol=1e-9)
    np.testing.assert_allclose(again, inner[0], rtol=1e-12)


def test_a_wide_x_far_from_zero_has_its_solution_of_least_norm(rng):
    X, y = data(rng, 1e3, 20, 60)
    weights, _, _ = closed_form(X, y, 0.5)
    objective = jd.LinearRegression(X, y, l2=0.5)
    result = jd.minimize(objective, method=jd.ConjugateGradient(), tolerance=1e-6)
    assert error(result, weights) < 2e-3


SIGNED = {
    "derivative": jd.DerivativeMethod,
    "CG": jd.ConjugateGradient,
    "LSMR": jd.LSMR,
    "Gram": jd.Gram,
    "LBFGS": jd.LBFGS,
}
ROWS = data(np.random.default_rng(0), 0.0, 60, 4)
CENTRED, TARGETS = (part - part.mean(axis=0) for part in ROWS)
LEAST = np.linalg.eigvalsh(CENTRED.T @ CENTRED)[0]
ONES = np.ones(60, np.float32)


@functools.partial(jax.jit, static_argnames="name")
def solved(name, l2, sample_weight=None, y=ROWS[1]):
    objective = jd.LinearRegression(ROWS[0], y, l2=l2, sample_weight=sample_weight)
    return jd.minimize(objective, method=SIGNED[name]())


@pytest.mark.parametrize("name", [name for name in SIGNED if name != "LBFGS"])
def test_a_traced_negative_penalty_without_a_minimum_ends_diverged(name):
    for l2 in (-1.2 * max(LEAST, 1), -1e5):
        assert int(solved(name, np.float32(l2), ONES).status) == Status.DIVERGED
    if name in ("derivative", "CG"):
        both = np.stack([ROWS[1], 2 * ROWS[1]], axis=1)
        assert int(solved(name, np.float32([1, -1e5]), y=both).status) == Status.DIVERGED


@pytest.mark.parametrize("name", ["derivative", "CG", "LBFGS"])
def test_directions_that_no_row_has_curve_down_too(name, rng):
    X, y = data(rng, 0.0, 10, 30)

    @jax.jit
    def status(y, l2):
        return jd.minimize(jd.LinearRegression(X, y, l2=l2), method=SIGNED[name]()).status

    for l2 in (-1.2, -1e5):
        assert int(status(y, np.float32(l2))) == Status.DIVERGED
    if name == "derivative":  # another solve
        both = np.stack([y, 2 * y], axis=1)
        assert int(status(both, np.float32([1, -1e5]))) == Status.DIVERGED


@pytest.mark.parametrize("name", ["derivative", "CG", "Gram"])
def test_a_traced_negative_penalty_that_leaves_a_minimum_is_solved(name):
    result = solved(name, np.float32(-0.5 * LEAST), ONES)
    normal = CENTRED.T.astype(float) @ CENTRED - 0.5 * LEAST * np.eye(4)
    exact = np.linalg.solve(normal, CENTRED.T @ TARGETS)
    # No gap is known of a negative penalty that is traced: the minimum may be called STAGNATED.
    assert int(result.status) in (Status.CONVERGED, Status.STAGNATED)
    np.testing.assert_allclose(result.params["weights"], exact, rtol=1e-3)


@pytest.mark.parametrize("name", SIGNED)
def test_traced_negative_weights_without_a_minimum_end_diverged(name):
    few = ONES.copy()
    few[7] = -100
    for sample_weight in (few, -ONES):
        assert int(solved(name, np.float32(0), sample_weight).status) == Status.DIVERGED
