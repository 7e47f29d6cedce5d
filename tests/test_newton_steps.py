"""Claims on functions that are no quadratics, held against minima that are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxdescent as jd
from jaxdescent.descent.looks import newton_steps
from jaxdescent.objectives import as_objective
from tests.results import status

METHODS = {
    "LBFGS": jd.LBFGS(),
    "gradient descent": jd.GradientDescent(),
    "Barzilai-Borwein": jd.GradientDescent(jd.BarzilaiBorwein()),
}
TOLERANCE = float(np.finfo(np.float32).eps) ** (2 / 3)
FACTOR = 10.0


def drawn(rng, condition):
    """A matrix and a right-hand side: functions of ``A x - b`` have their minimum where it is 0."""
    one, other = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    A = one @ np.diag(np.geomspace(1, 1 / condition, 4)) @ other
    return A.astype(np.float32), rng.normal(size=4).astype(np.float32)


def start_of(A, b, rng):
    ahead = b + np.abs(rng.normal(size=4))
    return np.linalg.solve(A.astype(np.float64), ahead).astype(np.float32)


def absolute(x, A, b):
    return 1 + jnp.sum(jnp.abs(A @ x - b))


def bowl(x, A, b):
    return jnp.sum((A @ x - b) ** 2)


def height(function, params, A, b):
    """The value above the minimum 1 or 0, in float64."""
    residual = A.astype(np.float64) @ np.asarray(params, np.float64) - b
    return np.sum(np.abs(residual)) if function is absolute else np.sum(residual**2)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_nothing_converges_at_a_kink_far_from_the_minimum(name):
    rng = np.random.default_rng(1)
    far = 0
    for condition in (2.0, 50.0, 1000.0):
        A, b = drawn(rng, condition)
        start = start_of(A, b, rng)
        result = jd.minimize(absolute, start, METHODS[name], args=(A, b))
        above = height(absolute, result.params, A, b)
        assert not result.converged or above <= FACTOR * TOLERANCE * (1 + above)
        far += above > 0.1
        # Without a kink a claim is due, and true: of all at a condition number of 2.
        smooth = jd.minimize(bowl, start, METHODS[name], args=(A, b))
        if condition == 2 or name == "LBFGS":
            assert smooth.converged
            assert height(bowl, smooth.params, A, b) <= 1e-8
    assert far >= (0 if name == "LBFGS" else 2)  # LBFGS descends along the kinks, to 2e-5


seen_at = jax.jit(newton_steps.seen_at)


def test_a_swing_across_a_flat_valley_is_no_rate():
    rng = np.random.default_rng(0)
    A, b = drawn(rng, 1000.0)
    swinging = jd.GradientDescent(momentum=jd.Nesterov())
    for _ in range(4):
        start = start_of(A, b, rng)
        # Rounding of the params is one of the residual.
        least = np.square(np.finfo(np.float32).eps * np.linalg.norm(start))
        for method in (swinging, jd.LBFGS()):
            result = jd.minimize(bowl, start, method, args=(A, b))
            above = height(bowl, result.params, A, b)
            if method is swinging:  # still on its way, where a claim would be false
                assert above > 1e3 * TOLERANCE * least
                assert not result.converged
            else:
                assert result.converged
                assert above <= FACTOR * least


@pytest.mark.usefixtures("x64")
def test_a_look_measures_the_fall_and_bounds_the_curvature(rng):
    root = rng.normal(size=(5, 5))
    hessian, center = root @ root.T, rng.normal(size=5)

    def function(x):
        return 3 + 0.5 * (x - center) @ hessian @ (x - center)

    seen = seen_at(as_objective(function, ()), rng.normal(size=5))
    np.testing.assert_allclose(seen.lowest, 3, rtol=1e-10)
    assert np.linalg.eigvalsh(hessian)[-1] <= seen.curvature


def entropies(x, shares, scales):
    """``sum s (exp(x) - c x)``, whose minimum is at log(c)."""
    return jnp.sum(scales * (jnp.exp(x) - shares * x))


@pytest.mark.slow
def test_steps_without_a_claim_find_the_newton_decrement(rng):
    shares, scales = rng.uniform(0.1, 2, size=200), 10 ** rng.uniform(-2, 2, size=200)
    x = np.log(shares) + 0.1 * rng.normal(size=200)
    gradient, curvature = scales * (np.exp(x) - shares), scales * np.exp(x)
    objective = as_objective(lambda x: entropies(x, jnp.asarray(shares), jnp.asarray(scales)), ())
    seen = newton_steps.seen_at(objective, jnp.asarray(x), is_claim=False)
    exact = 0.5 * np.sum(gradient**2 / curvature)
    assert 0.9 * exact <= float(seen.decrement) <= (1 + 1e-5) * exact
    # A claim in no doubt takes few steps, and one that allows less takes as many.
    assert not float(newton_steps.seen_at(objective, jnp.asarray(x)).decrement) <= exact
    doubtful = newton_steps.seen_at(objective, jnp.asarray(x), allowed=exact)
    np.testing.assert_allclose(doubtful.decrement, seen.decrement, rtol=1e-5)


def test_there_is_no_decrement_at_a_saddle(rng):
    signs = np.where(np.arange(200) < 190, 1.0, -1.0)
    objective = as_objective(lambda x: jnp.sum(jnp.asarray(signs) * x**2), ())
    seen = newton_steps.seen_at(objective, jnp.asarray(rng.normal(size=200)), is_claim=False)
    assert seen.decrement == np.inf


@pytest.mark.first
@pytest.mark.parametrize("over", ["eager", "jit"])
def test_many_unknowns_have_converged_where_rounding_hides_the_rate(rng, over):
    descend = jax.jit(jd.minimize, static_argnums=0) if over == "jit" else jd.minimize
    for _ in range(4):
        shares = (np.abs(rng.normal(size=400)) + 0.1).astype(np.float32)
        scales = (10 ** rng.uniform(-2, 2, size=400)).astype(np.float32)
        start = rng.normal(size=400).astype(np.float32)
        result = descend(entropies, start, args=(shares, scales))
        wide, x = scales.astype(float), np.asarray(result.params, float)
        above = np.sum(wide * (np.exp(x) - shares * x)) - np.sum(
            wide * shares * (1 - np.log(shares))
        )
        assert result.converged
        assert 0 <= above <= TOLERANCE * float(result.value)
        # Up to a half of the last gradient is rounding.
        assert above <= 4 * float(result.suboptimality) <= 16 * above


def test_a_flat_direction_beside_steep_ones_refutes_claims(rng):
    def function(x, turned, shares, scales, flat, far):
        z = turned @ x
        return entropies(z[1:], shares, scales) + 0.5 * flat * (z[0] - far) ** 2

    above, converged = [], 0
    for _ in range(16):
        turned = np.linalg.qr(rng.normal(size=(200, 200)))[0].astype(np.float32)
        shares = (np.abs(rng.normal(size=199)) + 0.1).astype(np.float32)
        scales = (10 ** rng.uniform(0, 2, size=199)).astype(np.float32)
        flat = np.float32(10 ** rng.uniform(-9, -6))
        far = np.float32(10 ** rng.uniform(-0.5, 1) / flat**0.5)
        start = 0.1 * rng.normal(size=200).astype(np.float32)
        result = jd.minimize(function, start, args=(turned, shares, scales, flat, far))
        z, c = turned.astype(float) @ np.asarray(result.params, float), shares.astype(float)
        left = np.sum(scales * (np.exp(z[1:]) - c * z[1:] - c + c * np.log(c)))
        left += 0.5 * float(flat) * (z[0] - float(far)) ** 2
        above.append(left / (TOLERANCE * abs(float(result.value))))
        if result.converged:
            converged += 1
            assert above[-1] < FACTOR
    assert converged >= 1
    assert np.sum(np.array(above) > FACTOR) >= 4  # the descent does end in the valley


def effort(pushes, start):
    """The cost of pushes that hold a pendulum upright, from which it falls."""

    def moved(state, push):
        turn, speed = state[0] + 0.1 * state[1], state[1]
        state = jnp.stack([turn, speed + 0.1 * (jnp.sin(turn) + push)])
        return state, 1.5 - jnp.cos(turn) + 0.1 * state[1] ** 2

    last, costs = jax.lax.scan(moved, start, pushes)
    return jnp.sum(costs) + 1e-2 * jnp.sum(pushes**2) + 10 * jnp.sum(last**2)


@pytest.mark.slow
def test_claims_on_an_unstable_path_are_true():
    rng = np.random.default_rng(1)
    for _ in range(3):
        pushes, start = (np.float32(rng.normal(size=size)) for size in (160, 2))
        result = jd.minimize(effort, 0.1 * pushes, args=(start,))
        with jax.enable_x64(True):
            at = np.asarray(result.params, float), np.asarray(start, float)
            slope, matrix = (np.asarray(of(effort)(*at)) for of in (jax.grad, jax.hessian))
        values, vectors = np.linalg.eigh(matrix)
        left = 0.5 * np.sum((vectors.T @ slope) ** 2 / np.abs(values))
        is_near = left <= FACTOR * TOLERANCE * float(result.value)
        assert is_near or status(result) == "STAGNATED"


def test_a_kink_has_no_curvature():
    objective = as_objective(lambda x: jnp.sum(jnp.abs(x)), ())
    assert seen_at(objective, np.float32([1e-6, 2])).curvature == 0


def entropy(x, units):
    return units * jnp.sum(jax.nn.softplus(x) - jnp.array([0.3, 0.6]) * x)


@pytest.mark.first
@pytest.mark.parametrize("units", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", METHODS)
def test_what_is_true_stands(name, units):
    exact, args = np.log([0.3 / 0.7, 0.6 / 0.4]), (np.float32(units),)
    result = jd.minimize(entropy, np.zeros(2, np.float32), METHODS[name], args=args)
    assert result.converged
    np.testing.assert_allclose(result.params, exact, atol=2e-2)
    again = jd.minimize(entropy, result.params, METHODS[name], args=args)
    assert again.converged
    assert int(again.iterations) <= 20


@pytest.mark.slow
def test_a_function_that_only_knows_its_gradient_is_minimised_as_before():
    @jax.custom_vjp
    def function(x):
        return jnp.sum(x**4 + x**2)

    def backward(x, share):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return (share * jax.pure_callback(lambda x: 4 * x**3 + 2 * x, shape, x),)

    function.defvjp(lambda x: (function(x), x), backward)
    x = jnp.ones(2)
    assert not newton_steps.is_possible(as_objective(function, ()), x)
    assert float(jd.minimize(function, x, jd.GradientDescent()).value) < 1e-6


def huber(x, A, b, delta):
    gap = jnp.abs(A @ x - b)
    return jnp.sum(jnp.where(gap < delta, gap**2 / 2, delta * (gap - delta / 2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradient descent", "Barzilai-Borwein"])
def test_a_slope_along_directions_without_curvature_is_left_to_fall(name):
    """Where fewer residuals than unknowns are below Huber's delta, the Hessian is singular."""
    for seed in (9, 12):
        rng = np.random.default_rng(seed)
        A = rng.normal(size=(40, 5)).astype(np.float32)
        b = (A @ rng.normal(size=5) + 0.3 * rng.standard_cauchy(40)).astype(np.float32)
        args, start = (A, b, np.float32(1e-3)), np.zeros(5, np.float32)
        result = jd.minimize(huber, start, METHODS[name], args=args, max_iterations=5000)
        A, b, delta = map(np.float64, args)

        def reference(x, A=A, b=b, delta=delta):
            slopes = np.clip(A @ x - b, -delta, delta)
            return slopes @ (A @ x - b) - slopes @ slopes / 2, A.T @ slopes

        x, how = np.float64(result.params), {"jac": True, "options": {"gtol": 1e-10}}
        found = scipy.optimize.minimize(reference, x, **how)
        found = scipy.optimize.minimize(reference, found.x, **how)
        assert result.converged
        above = reference(x)[0] - found.fun
        assert above <= 10 * (float(result.suboptimality) + 1e-7 * found.fun)


@pytest.mark.slow
def test_a_function_with_a_reverse_rule_alone_is_looked_at_and_certified():
    """The forward rule calls the function itself, so that JAX refuses derivatives along it."""

    @jax.custom_vjp
    def away(x, center):
        return jnp.sum(jnp.cosh(x - center))

    def forward(x, center):
        return away(x, center), x - center

    away.defvjp(forward, lambda gap, share: (share * jnp.sinh(gap), -share * jnp.sinh(gap)))

    def function(x, center):
        return away(x, center) + jnp.sum(x**2)

    start, center = np.zeros(2, np.float32), np.float32([1.0, 2.0])
    assert newton_steps.is_possible(as_objective(function, (center,)), start)
    result = jd.minimize(function, start, args=(center,))
    assert result.converged
    gap = np.float64(result.params) - center
    np.testing.assert_allclose(np.sinh(gap) + 2 * np.float64(result.params), 0, atol=1e-5)
    found = jd.certify(function, result, args=(center,))
    assert found.kind == "minimum"
    ends = found.smallest_eigenvalue, found.largest_eigenvalue
    np.testing.assert_allclose(ends, np.sort(np.cosh(gap) + 2), rtol=1e-5)
    moved = jax.grad(lambda c: jnp.sum(jd.minimize(function, start, args=(c,)).params))(center)
    np.testing.assert_allclose(moved, np.cosh(gap) / (np.cosh(gap) + 2), rtol=1e-4)

    def of_another(x):
        # In a program JAX refuses only what the result depends on, and when the program is lowered.
        return jnp.log(away(x, center)) + jnp.sum(x**2)

    found = jax.jit(lambda x: jd.minimize(of_another, x))(start)
    x = np.float64(found.params)
    share = np.sinh(x - center) / np.sum(np.cosh(x - center))
    np.testing.assert_allclose(share + 2 * x, 0, atol=1e-5)
    assert found.converged


def test_many_unknowns_are_not_looked_at():
    objective = as_objective(lambda x: jnp.sum(jnp.cosh(x)), ())
    shape = jax.ShapeDtypeStruct((newton_steps.MOST_UNKNOWNS + 1,), jnp.float32)
    assert not newton_steps.is_possible(objective, shape)


def uneven(p, scale, unit, target):
    return jnp.sum(scale * (p[:3] * unit - target) ** 2) + jnp.sum((1000 * p[3:] - 1) ** 4)


class Uneven:
    """An object whose attributes may change: its method is traced anew in each call."""

    def __init__(self, *data):
        self.data = data

    def value(self, p):
        return uneven(p, *self.data)


@pytest.mark.slow
def test_claims_on_objects_that_may_change_are_examined_in_float64():
    # Curvatures over many decades: in float32 a Newton step shows nothing of the flat unknowns.
    rng = np.random.default_rng(5)
    converged = 0
    for _ in range(40):
        scale, unit = (np.float32(10 ** rng.uniform(-3, 3, 3)) for _ in range(2))
        data = scale, unit, np.float32(rng.normal(size=3))
        start = np.float32(rng.normal(size=5))
        partial = functools.partial(uneven, scale=data[0], unit=data[1], target=data[2])
        for function in (partial, Uneven(*data).value):
            result = jd.minimize(function, start)
            p, a, b, c = (np.asarray(each, float) for each in (result.params, *data))
            value = np.sum(a * (p[:3] * b - c) ** 2) + np.sum((1000 * p[3:] - 1) ** 4)
            assert not result.converged or value <= max(1e-4, 10 * float(result.suboptimality))
            converged += bool(result.converged)
    assert converged >= 70


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True], ids=["the value", "the params"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_function_that_casts_is_looked_at_in_its_own_dtype(inside, dtype, relaxed_promotion):
    def cosh(x, center):
        given = (x - center).astype(dtype if inside else x.dtype)
        return jnp.sum(jnp.cosh(given)).astype(dtype)

    def minimized(x, center):
        return jd.minimize(cosh, x, args=(center,))

    rng = np.random.default_rng(3)
    for _ in range(3):
        start, center = (np.float32(rng.normal(size=3)) for _ in range(2))
        for call in (minimized, jax.jit(minimized)):
            result = call(start, center)
            above = np.sum(np.cosh(np.asarray(result.params, float) - center)) - 3
            assert above <= 10 * float(jnp.finfo(dtype).eps)


def test_a_value_in_float16_ends_without_warnings(relaxed_promotion):
    result = jd.minimize(lambda x: jnp.sum((x - 1) ** 2).astype(jnp.float16), jnp.zeros(200))
    np.testing.assert_allclose(result.params, 1, atol=1e-2)


def near_one(p, A, b, l2):
    """Small residuals in a function whose terms are about one, and rounded as such."""
    return jnp.sum(jnp.sqrt(1 + (A @ p - b) ** 2) - 1) + 0.5 * l2 * jnp.sum(p**2)


def least_near_one(A, b, l2):
    """The minimum of ``near_one``, by steps without differences of nearly equal numbers."""
    p = np.linalg.solve(A.T @ A + l2 * np.eye(A.shape[1]), A.T @ b)
    for _ in range(20):
        r = A @ p - b
        curved = (A / (1 + r**2)[:, None] ** 1.5).T @ A + l2 * np.eye(len(p))
        p = p - np.linalg.solve(curved, A.T @ (r / np.sqrt(1 + r**2)) + l2 * p)
    r = A @ p - b
    return np.sum(r**2 / (1 + np.sqrt(1 + r**2))) + 0.5 * l2 * np.sum(p**2)


@pytest.mark.parametrize("method", [jd.GradientDescent(), jd.LBFGS(1), jd.LBFGS()], ids=str)
def test_a_minimum_whose_value_is_rounded_more_than_its_size_tells_is_claimed(method, x64, rng):
    met = []
    for _ in range(10):
        A, l2 = rng.normal(size=(12, 3)), rng.choice([0, 1e-3])
        b = A @ rng.normal(size=3) + 0.01 * rng.normal(size=12)
        least = least_near_one(A, b, l2)
        result = jd.minimize(near_one, np.zeros(3), method, args=(A, b, l2))
        assert status(result) == "CONVERGED"
        assert abs(float(result.value) - least) < 1e-10 * least
        assert float(result.suboptimality) < 1e-10 * least
        for least in (1e-9, 1e-11, 1e-15):  # a tolerance that is named is met by the gradient
            own = jd.Tolerance(gradient=least, suboptimality=1e-9)
            strict = jd.minimize(near_one, np.zeros(3), method, args=(A, b, l2), tolerance=own)
            if status(strict) == "CONVERGED":
                met.append(least)
                assert strict.gradient_norm <= least * strict.scale
    assert met.count(1e-9) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("power", [4, 6])
def test_a_value_that_underflows_at_a_flat_minimum_has_converged(power, rng):
    def flat(p, factor):
        return jnp.sum(jnp.abs(factor * p) ** power)

    for _ in range(5):
        start, factor = np.float32(10 ** rng.uniform(-3, 1, size=(2, 3)))
        result = jd.minimize(flat, start, jd.LBFGS(), args=(factor,))
        assert status(result) == "CONVERGED"
        assert float(result.value) < 1e-37
        assert float(result.suboptimality) < 1e-37
        assert jd.certify(flat, result, args=(factor,)).kind != "not stationary"


def test_a_decrease_beyond_the_dtype_refutes_a_claim_without_a_warning():
    wide = jd.minimize(
        lambda p: jnp.sum(jnp.logaddexp(p - 1, 1 - p)), np.float32([50]), jd.DerivativeMethod()
    )
    assert status(wide) != "CONVERGED"
