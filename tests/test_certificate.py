"""What kind of point it is, against dense eigenvalues, known spectra and known points."""

import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType

import jaxdescent as jd
from benchmarks.problems.classical import rosenbrock
from jaxdescent.calls import programs
from jaxdescent.kernels import memory
from jaxdescent.objectives import as_objective
from jaxdescent.second_order import hessian_matrix, lanczos, spectrum
from jaxdescent.second_order.curvature import Curvature
from tests import known_points, references
from tests.meshes import rows_over


def laplacian(x):
    """Half the squares of the differences along a chain whose two ends are held at zero."""
    return 0.5 * (jnp.sum(jnp.square(jnp.diff(x))) + x[0] ** 2 + x[-1] ** 2)


def chain(x):
    """Neighbours tied to each other and to nothing else: constants are flat."""
    return 0.5 * jnp.sum(jnp.square(jnp.diff(x)))


def tied(x):
    """A chain whose every unknown has a weight of its own: eigenvalues from 1 to 5."""
    return chain(x) + 0.5 * jnp.sum(jnp.square(x))


def signed(x, sign):
    return sign * tied(x)


def process_of(function, params, steps):
    process = lanczos.Process(Curvature.at(as_objective(function), params))
    process.advance(steps)
    return process


def polynomial(p, coefficients, center, floor):
    """A sum of monomials: its kinds of points are compiled once."""
    x, y = p - center
    monomials = [x**2, x * y, y**2, x**3, x * y**2, x**4, y**4]
    return floor + jnp.dot(coefficients, jnp.stack(monomials), precision=jax.lax.Precision.HIGHEST)


def polynomial_at(point, coefficients, center=(0, 0), floor=0, **options):
    args = [np.asarray(each, np.float32) for each in (coefficients, center, floor)]
    return jd.certify(polynomial, np.asarray(point, np.float32), args=tuple(args), **options)


# The coefficients of x^2, xy, y^2, x^3, xy^2, x^4 and y^4.
KINDS = {
    "minimum": ([2, 1, 1, 0, 0, 0, 0], "minimum"),
    "saddle": ([1, 1, -1, 0, 0, 0, 0], "saddle"),
    "maximum": ([-2, 1, -1, 0, 0, 0, 0], "maximum"),
    "flat direction": ([1, -2, 1, 0, 0, 0, 0], "degenerate"),
    "quartic": ([0, 0, 0, 0, 0, 1, 1], "degenerate"),
    "monkey saddle": ([0, 0, 0, 1, -3, 0, 0], "degenerate"),
    "a constant": ([0, 0, 0, 0, 0, 0, 0], "degenerate"),
}


QUARTIC, BOWL, TURNED = [0, 0, 1, 0, 0, 1, 0], [1, 0, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("coefficients", "kind"), KINDS.values(), ids=KINDS.keys())
def test_points_at_the_origin_are_what_calculus_says(coefficients, kind):
    found = polynomial_at([0, 0], coefficients)
    assert found.kind == kind
    assert found.gradient_norm == 0
    assert found.evidence == "all 2 eigenvalues of the Hessian"
    xx, xy, yy, *_ = coefficients
    eigenvalues = np.linalg.eigvalsh([[2 * xx, xy], [xy, 2 * yy]])
    found = found.smallest_eigenvalue, found.largest_eigenvalue
    np.testing.assert_allclose(found, eigenvalues, atol=1e-12)


@pytest.mark.parametrize("far", [0, 300])
def test_a_minimum_with_features_far_from_zero_is_one(far, rng):
    # The weights' rounding changes all curvatures alike, by far more than the smallest eigenvalue.
    X = rng.normal(far, 1, (100, 2)).astype(np.float32)
    y = (rng.random(100) < 0.3).astype(np.float32)
    centred = np.column_stack([np.ones(100), X.astype(np.float64) - far])
    w = np.zeros(3)
    for _ in range(20):
        p = 1 / (1 + np.exp(-centred @ w))
        w -= np.linalg.solve((centred.T * (p * (1 - p))) @ centred, centred.T @ (p - y))
    params = {"b": np.float32(w[0] - far * w[1:].sum()), "w": w[1:].astype(np.float32)}
    found = jd.certify(logistic, params, args=(X, y))
    assert found.kind == "minimum"


def logistic(params, X, y):
    p = jnp.matmul(X, params["w"], precision="highest") + params["b"]
    return jnp.sum(jnp.logaddexp(0, p) - y * p)


def test_a_slope_is_no_stationary_point():
    found = polynomial_at([1, 0], [1, 1, 1, 0, 0, 0, 0])
    assert found.kind == "not stationary"
    assert found.gradient_norm == pytest.approx(5**0.5, rel=1e-6)
    assert found.evidence.startswith("|gradient| = 2.24: the value may change by 1, more than ")
    assert found.suboptimality is None


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 300])
def test_dense_eigenvalues_are_numpys(n, rng, x64):
    matrix = rng.normal(size=(n, n))
    matrix += matrix.T
    expected = np.linalg.eigvalsh(matrix)
    found = jd.certify(known_points.form, np.zeros(n), args=(matrix,))
    np.testing.assert_allclose(found.smallest_eigenvalue, expected[0], atol=1e-12 * n)
    np.testing.assert_allclose(found.largest_eigenvalue, expected[-1], atol=1e-12 * n)


def test_lanczos_extremes_are_numpys(rng, x64):
    n = 600
    matrix = rng.normal(size=(n, n)) / n**0.5
    matrix += matrix.T
    expected = np.linalg.eigvalsh(matrix)
    found = jd.certify(known_points.form, np.zeros(n), args=(matrix,))
    assert found.kind == "saddle"
    assert found.evidence == "64 Lanczos steps found curvature of both signs"
    # By Lanczos the smallest is an upper bound, the largest a lower one.
    assert expected[0] - 1e-12 <= found.smallest_eigenvalue <= expected[0] + 0.02
    assert expected[-1] - 0.02 <= found.largest_eigenvalue <= expected[-1] + 1e-12


def test_many_lanczos_steps_find_a_known_spectrum(x64):
    n = 600
    expected = 2 - 2 * np.cos(np.arange(1, n + 1) * np.pi / (n + 1))
    smallest, largest = process_of(laplacian, np.zeros(n), steps=3 * n).ends()
    np.testing.assert_allclose(smallest, expected[0], atol=1e-11)
    np.testing.assert_allclose(largest, expected[-1], rtol=1e-11)


def test_lanczos_stops_where_its_space_is_exhausted():
    # Two distinct eigenvalues: the space of Hessian powers has two dimensions.
    weights = np.repeat(np.float32([1, 3]), (200, 400))
    function = as_objective(lambda x, weights: 0.5 * jnp.sum(weights * x**2), (weights,))
    process = process_of(function, np.zeros(600, np.float32), steps=50)
    assert process.is_exhausted
    assert process.steps < 10
    np.testing.assert_allclose(process.ends(), [1, 3], rtol=1e-12)


@pytest.mark.first
@pytest.mark.parametrize(
    ("values", "kind"),
    [((1, 3), "minimum"), ((-1, 1), "saddle"), ((-3, -1), "maximum"), ((0, 1), "degenerate")],
)
def test_an_exhausted_space_decides_by_what_it_found(values, kind):
    weights = np.repeat(np.float32(values), (200, 400))
    assert jd.certify(reflected, np.zeros(600, np.float32), args=(weights,)).kind == kind


def reflected(x, weights):
    # Not diagonal in these unknowns.
    y = x - (2 / 600) * jnp.sum(x)
    return 0.5 * jnp.sum(weights * y**2)


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "kind"), [(1, "minimum"), (-1, "maximum")])
def test_a_million_coupled_unknowns_are_certified(sign, kind):
    n = 1_000_000
    found = jd.certify(signed, np.zeros(n, np.float32), args=(np.float32(sign),))
    assert found.kind == kind
    assert found.evidence == "64 Lanczos steps, probability 1 - 1e-06"
    ends = sorted([sign * found.smallest_eigenvalue, sign * found.largest_eigenvalue])
    np.testing.assert_allclose(ends, [1, 5], atol=0.02)
    assert ends[0] + 1e-5 >= 1
    assert ends[1] <= 5 + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mass", "kind"), [(4e-6, "minimum"), (-4e-6, "saddle"), (0.0, "degenerate")]
)
def test_a_chain_of_many_unknowns_is_told_by_its_bands(mass, kind):
    # The free chain's smallest eigenvalue is zero, the next one 1e-9.
    function, params, args = known_points.chain(100_000, mass)
    found = jd.certify(function, params, args=args)
    assert (found.kind, found.evidence) == (kind, "the Hessian is banded, 3 diagonals")


@pytest.mark.slow
def test_what_is_too_close_to_zero_is_left_undetermined():
    # No band, no room for the Hessian, and far more steps needed than there is time for.
    function, params, args = known_points.reflected(100_000, 1)
    values = np.append(np.float32(1e-12), args[1][1:])
    found = spectrum.spectrum_at(as_objective(function, (args[0], values)), params, seconds=1.0)
    assert found.kind == "undetermined"
    assert "cannot tell the smallest eigenvalue from zero" in found.evidence


def test_a_higher_bound_that_is_not_proven_is_the_margin():
    process = types.SimpleNamespace(failure=lambda bound: 1.0)
    assert spectrum._highest_proven(process, 0.5, 2.0) == 0.5


def test_what_has_no_room_in_double_precision_is_not_copied(monkeypatch):
    monkeypatch.setattr(memory, "SMALL_BYTES", 0)
    for room in (0, 2**30):
        monkeypatch.setattr(memory, "available_bytes", lambda device, room=room: room)
        assert Curvature.at(as_objective(tied), np.zeros(9, np.float32)).is_double == bool(room)


def test_a_hundred_thousand_unknowns_need_no_dense_matrix():
    # Dense would be 80 GB: the program's temporaries are a few vectors.
    n = 100_000
    curvature = Curvature.at(as_objective(tied), np.zeros(n, np.float32))
    with jax.enable_x64(True):
        state = lanczos.Process(curvature).begun(curvature.direction(0))
        steps = 64, np.zeros(lanczos.STEPS)
        inputs = (curvature.objective, curvature.params, None, state, steps)
        program = programs.compiled(lanczos.continued, inputs)
        compiled = program.lower(*inputs).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 12 * 8 * n


def rows_tied(x):
    return 0.5 * jnp.sum(jnp.square(x[1:] - x[:-1])) + jnp.sum(jnp.cosh(x))


@pytest.mark.first
@pytest.mark.parametrize(("axis_type", "n"), [(AxisType.Auto, 64), (AxisType.Explicit, 4096)])
def test_sharded_params_get_the_same_certificate(axis_type, n):
    start = np.zeros((n // 8, 8), np.float32)
    sharded = jax.device_put(start, rows_over(8, axis_type))
    plain, placed = jd.certify(rows_tied, start), jd.certify(rows_tied, sharded)
    assert placed.kind == plain.kind == "minimum"
    assert placed.evidence == plain.evidence
    for name in ("smallest_eigenvalue", "largest_eigenvalue"):
        np.testing.assert_allclose(getattr(placed, name), getattr(plain, name), rtol=1e-4)


def test_a_separable_objective_is_decided_by_its_diagonal():
    scale = {"a": np.float32([1.0, 0.25]), "b": np.float32(3.0)}
    found = jd.certify(jd.SumOfSquares(scale), {"a": jnp.zeros(2), "b": jnp.zeros(())})
    expected = ("minimum", 0.0, 0.5, 6.0, "the Hessian is diagonal", 0.0, np.inf)
    assert found == jd.Certificate(*expected)
    flat = jd.certify(jd.SumOfSquares(np.float32([1.0, 0.0])), jnp.zeros(2))
    assert (flat.kind, flat.smallest_eigenvalue) == ("degenerate", 0.0)
    mixed = jd.certify(jd.SumOfSquares(np.float32([1.0, -1.0])), jnp.zeros(2))
    assert (mixed.kind, mixed.smallest_eigenvalue) == ("saddle", -2.0)


@pytest.mark.slow
def test_a_penalised_regression_alone_is_a_minimum_by_structure(rng):
    # More features than rows: without the penalty most eigenvalues are zero.
    X, y = rng.normal(size=(50, 700)).astype(np.float32), rng.normal(size=50).astype(np.float32)
    ridge, plain = jd.LinearRegression(X, y, l2=0.5), jd.LinearRegression(X, y)
    found = jd.certify(ridge, rounded_minimum(ridge))
    assert found.kind == "minimum"
    assert found.evidence.startswith("by structure every eigenvalue is at least ")
    stated = float(found.evidence.rsplit(" ", 1)[1])
    smallest = np.linalg.eigvalsh(hessian_of_regression(X, 0.5, np.ones(50), True))[0]
    assert 0 < stated <= smallest * 1.01  # stated with three digits
    assert jd.certify(plain, rounded_minimum(plain)).kind == "degenerate"


def rounded_minimum(regression):
    return jax.tree.map(np.float32, references.least_squares(regression))


def hessian_of_regression(X, l2, sample_weight, intercept):
    """As NumPy has it, in double precision: the intercept is not penalised."""
    columns = X.astype(np.float64)
    penalty = np.full(X.shape[1], l2, np.float64)
    if intercept:
        columns = np.column_stack([columns, np.ones(len(X))])
        penalty = np.append(penalty, 0)
    return columns.T @ (sample_weight[:, None] * columns) + np.diag(penalty)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(1, 1), (1, 4), (8, 5)]),  # each compiles anew
    l2=st.floats(0, 10, width=32),
    weighted=st.booleans(),
    intercept=st.booleans(),
    shift=st.floats(-3, 3),
)
def test_a_regressions_bounds_enclose_its_eigenvalues(seed, shape, l2, weighted, intercept, shift):
    random = np.random.default_rng(seed)
    rows, features = shape
    X = random.normal(size=(rows, features)) + shift
    sample_weight = random.uniform(0.01, 4, rows) if weighted else np.ones(rows)
    options = {"l2": l2, "sample_weight": sample_weight if weighted else None}
    with jax.enable_x64(True):
        regression = jd.LinearRegression(X, np.zeros(rows), intercept=intercept, **options)
        regression = regression.checked()
        bounds = regression.curvature_bounds(regression.start())
        lower, upper = float(bounds.lower), float(bounds.upper)
    eigenvalues = np.linalg.eigvalsh(hessian_of_regression(X, l2, sample_weight, intercept))
    slack = 1e-12 * eigenvalues[-1]
    assert lower <= eigenvalues[0] + slack
    assert eigenvalues[-1] <= upper + slack
    assert (lower > 0) == (l2 > 0)


def test_bfloat16_params_are_judged_in_float32():
    found = jd.certify(lambda x: 1.25 * jnp.square(x - 3) + 1, jnp.array(3.0, jnp.bfloat16))
    assert found.kind == "minimum"
    assert found.smallest_eigenvalue == found.largest_eigenvalue == 2.5


@pytest.mark.parametrize(("sign", "kind"), [(1, "minimum"), (-1, "maximum")])
def test_the_kind_of_coarse_params_is_that_of_the_stationary_point(sign, kind):
    # Half an ulp of bfloat16 from its well: the Hessian changes sixfold on the way.
    def function(x):
        return sign * (jnp.square(jnp.square(x - 100.2) - 1) + 40)

    found = jd.certify(function, jnp.array(101.0, jnp.bfloat16))
    assert found.kind == kind


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap], ids=["jit", "grad", "vmap"])
def test_certify_inside_a_transformation_is_refused(transform):
    def inside(x):
        jd.certify(jd.SumOfSquares(), x)
        return x

    argument = jnp.ones(2) if transform is jax.vmap else jnp.array(1.0)
    with pytest.raises(ValueError, match="call it outside jit, vmap and grad"):
        transform(inside)(argument)


@pytest.mark.parametrize(
    ("ends", "kind"),
    [
        ((2.0, 3.0), "minimum"),
        ((-3.0, -2.0), "maximum"),
        ((-2.0, 2.0), "saddle"),
        ((0.5, 2.0), "degenerate"),
        ((-2.0, 0.5), "degenerate"),
        ((-0.5, 2.0), "degenerate"),
        ((np.nan, 2.0), "undetermined"),
        ((2.0, np.inf), "undetermined"),
    ],
)
def test_an_eigenvalue_within_the_margin_may_be_zero(ends, kind):
    assert hessian_matrix.kind_of(*ends, 1.0) == kind


@pytest.mark.first
@pytest.mark.parametrize("point", known_points.POINTS, ids=lambda point: point.name)
def test_a_point_of_known_kind_is_called_that(point):
    began = time.process_time()
    function, params, args = point.pose()
    found = jd.certify(function, params, args=args)
    assert found.kind == point.kind
    assert time.process_time() - began < 60  # of all threads, whatever else runs


def hanging(x, minimiser, floor):
    return jnp.cosh(x - minimiser) + floor


def parabola(x, minimiser, floor):
    return (x - minimiser) ** 2 + floor


# A function, its start and the rest of its arguments.
DESCENTS = {
    "rosenbrock": (rosenbrock, [-1.2, 1.0], ()),
    "rosenbrock from afar": (rosenbrock, [-100.0, 100.0], ()),
    "cosh": (hanging, 40.0, (1, 0)),
    "cosh at zero": (hanging, -2.0, (0, -1)),
    "square": (parabola, 1e8, (0, 0)),
    "square on a floor": (parabola, 1e4, (0, 5)),
    "large minimiser": (parabola, 0.0, (1e6, 0)),
}


@pytest.mark.first
@pytest.mark.parametrize("method", [None, jd.DerivativeMethod()], ids=["default", "Newton"])
@pytest.mark.parametrize(("function", "start", "args"), DESCENTS.values(), ids=DESCENTS.keys())
def test_a_result_and_its_params_are_of_one_kind(function, start, args, method):
    args = tuple(np.float32(arg) for arg in args)
    result = jd.minimize(function, np.asarray(start, np.float32), method, args=args)
    found = jd.certify(function, result, args=args)
    assert found == jd.certify(function, result.params, args=args)
    # Newton's way through the valley from so far away is longer than its iterations.
    is_lost = start == [-100.0, 100.0] and method is not None
    # A minimiser at zero sets no scale: the descent may go on to where rounding ends it.
    assert is_lost != (result.converged or args == (0, -1))
    assert found.kind == ("not stationary" if is_lost else "minimum")


# Coefficients, a point, what else is told, the kind, and the evidence where that is the point.
ELSEWHERE = {
    # x^4 at x: the Hessian there, 12 x^2, is positive, but not that of the stationary point.
    "near a quartic's point": (QUARTIC, [0.03, 0], {"scale": 1.0, "tolerance": 1e-3}, "degenerate"),
    "very near it": (QUARTIC, [-1e-3, 0], {"scale": 1.0, "tolerance": 1e-3}, "degenerate"),
    "early on a quartic": (QUARTIC, [3.0125, 0], {"center": [3, 0]}, "not stationary"),
    "early on a floor": (BOWL, [0, 0], {"center": [3, 0], "floor": 1e6}, "not stationary"),
    "early in small units": (
        [1e12, 0, 1, 0, 0, 0, 0], [0, 0], {"center": [1e-6, 0]}, "not stationary"
    ),
    "not a number": (
        [np.nan, 1, 1, 0, 0, 0, 0], [1, 0], {}, "undetermined", "the gradient is not finite"
    ),
    "early": (TURNED, [1e-3, 1], {}, "not stationary"),
    "in the caller's scale": (TURNED, [1e-3, 1], {"scale": 1e8}, "minimum"),
    "by the caller's tolerance": (
        TURNED, [1e-3, 1], {"tolerance": 1e-6, "scale": 1.0},
        "not stationary", "|gradient| exceeds 1e-06 * 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_points_elsewhere_are_what_calculus_and_the_caller_say(name):
    coefficients, point, options, kind, *evidence = ELSEWHERE[name]
    found = polynomial_at(point, coefficients, **options)
    assert found.kind == kind
    assert not evidence or found.evidence == evidence[0]


def test_on_a_curve_a_descent_that_stopped_early_is_not_stationary():
    assert jd.certify(rosenbrock, np.float32([-10.06, 101.27])).kind == "not stationary"
    args = tuple(np.float32(DESCENTS["cosh"][2]))
    assert jd.certify(hanging, np.float32(1.0144), args=args).kind == "not stationary"


def residual_squares(w, X, y):
    return 0.5 * jnp.sum(jnp.square(jnp.matmul(X, w) - y))


@pytest.mark.parametrize("seed", range(10))
def test_a_singular_least_squares_problem_is_never_called_a_minimum(seed):
    random = np.random.default_rng(seed)
    column = random.normal(size=(50, 1)).astype(np.float32)
    args = np.hstack([column, 3 * column]), random.normal(size=50).astype(np.float32)
    result = jd.minimize(residual_squares, np.ones(2, np.float32), args=args)
    assert jd.certify(residual_squares, result, args=args).kind in ("degenerate", "undetermined")


@pytest.mark.parametrize("l2", [1e-3, 0.0])
def test_features_far_from_zero_hide_no_minimum(rng, l2):
    X = (rng.normal(size=(1000, 20)) + 300).astype(np.float32)
    regression = jd.LinearRegression(X, rng.normal(size=1000).astype(np.float32), l2=l2)
    found = jd.certify(regression, jd.minimize(regression))
    assert found.kind == "minimum"
    assert found.suboptimality < 1e-5
    assert found.region == np.inf


@pytest.mark.parametrize("factor", [1e-30, 1e-10, 1e30])
def test_the_units_of_the_objective_do_not_matter(factor):
    result = jd.minimize(in_units, np.zeros(2, np.float32), args=(np.float32(1),))
    minimiser = np.asarray(result.params)
    args = (np.float32(factor),)
    assert jd.certify(in_units, minimiser, args=args).kind == "minimum"
    assert jd.certify(in_units, minimiser + 0.1, args=args).kind == "not stationary"


def in_units(p, factor):
    return factor * (jnp.cosh(p[0] - 1) + p[0] * p[1] + p[1] ** 2 + 1)


def test_a_function_that_insists_on_its_dtype_is_taken_as_it_is():
    def function(x):
        assert x.dtype == jnp.float32
        return jnp.sum(jnp.cosh(x)) + x[0] * x[1]

    found = jd.certify(function, jnp.zeros(2))
    assert (found.kind, found.smallest_eigenvalue) == ("degenerate", pytest.approx(0, abs=1e-6))


def test_a_function_that_draws_by_dtype_is_taken_as_it_is():
    key = jax.random.key(0)

    def function(x):
        matrix = jax.random.normal(key, (20, 20), x.dtype)
        return jnp.sum(jnp.square(jnp.matmul(matrix, x))) + jnp.sum(jnp.square(x))

    matrix = np.asarray(jax.random.normal(key, (20, 20)), np.float64)
    expected = np.linalg.eigvalsh(2 * matrix.T @ matrix + 2 * np.eye(20))
    found = jd.certify(function, jnp.zeros(20))
    assert found.kind == "minimum"
    np.testing.assert_allclose(found.smallest_eigenvalue, expected[0], rtol=1e-4)


def test_suboptimality_is_half_the_squared_newton_decrement():
    # f = f* + 1/2 d.Hd exactly.
    H = np.array([[2.0, 1.0], [1.0, 3.0]])
    d = np.array([2e-3, -1e-3])
    found = polynomial_at(1 + d, [1, 1, 1.5, 0, 0, 0, 0], center=[1, 1], floor=1)
    assert found.kind == "minimum"
    assert found.suboptimality == pytest.approx(0.5 * d @ H @ d, rel=1e-3)


def test_the_region_of_a_fourth_power_is_known():
    # With c x^2 + x^4 the model errs by r^4, a tenth of c r^2 at r = sqrt(c / 10).
    found = jd.certify(lambda x: 1e-2 * x**2 + x**4, 0.0)
    exact = (1e-2 / 10) ** 0.5
    assert exact / 2 < found.region <= exact
    quadratic = jd.Quadratic(np.eye(2, dtype=np.float32), np.ones(2, np.float32))
    assert jd.certify(quadratic, np.ones(2, np.float32)).region == np.inf


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([2, 40]),  # each size compiles anew
    is_negative=st.booleans(),
)
def test_a_millionth_of_either_sign_is_told(seed, size, is_negative):
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(random.normal(size=(size, size)))
    values = 10 ** random.uniform(-6, 0, size)
    values[:2] = (-1e-6 if is_negative else 1e-6), 1
    matrix = ((basis * values) @ basis.T).astype(np.float32)
    kind = jd.certify(known_points.form, np.zeros(size, np.float32), args=(matrix,)).kind
    assert kind == ("saddle" if is_negative else "minimum")


def test_a_curved_valley_of_equal_values_is_stationary(rng):
    # At a rate of zero the curve is a constant, a + b, however the two share it. Beside the rate of
    # zero the curvature along this valley is as small as rounding of the data, and negative.
    times = np.linspace(0, 3, 30)

    def squares(p, y):
        curve = p[0] * jnp.exp(-(p[1] ** 2) * jnp.asarray(times, jnp.float32)) + p[2]
        return jnp.sum(jnp.square(curve - y))

    kinds = []
    for _ in range(12):
        y = rng.normal(size=30)
        rate = 1e-3 * rng.uniform(0.3, 1)
        # With this sign the value is lowest at a rate of zero.
        a = -np.sign(times @ (np.mean(y) - y)) * rng.uniform(0.5, 2)
        curve = a * np.exp(-(rate**2) * times)
        b = np.mean(y - curve)
        falls = np.sum((curve + b - y) ** 2) - np.sum((np.mean(y) - y) ** 2)
        assert 0 < falls < 2e-5 * np.sum((np.mean(y) - y) ** 2)  # the tolerance is 2.4e-5
        point = jnp.array([a, rate, b], jnp.float32)
        kinds.append(jd.certify(squares, point, args=(jnp.asarray(y, jnp.float32),)).kind)
    assert kinds.count("degenerate") == 12


@pytest.mark.parametrize("far", [1e155, 1e300])
def test_params_whose_squares_overflow_are_judged_without_a_warning(far, x64):
    def bowl(p):
        return jnp.sum(jnp.sqrt(1 + jnp.square(p / far)))

    assert jd.certify(bowl, np.array([far, -far / 3])).kind != "minimum"
    assert jd.certify(lambda p: jnp.sum(p**2), np.array([far, -far])).kind != "minimum"
