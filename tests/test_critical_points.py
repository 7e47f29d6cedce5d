"""Stationary points that starts reach, against published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from benchmarks.problems.classical import himmelblau, rosenbrock


def grid(low, high, count):
    axis = np.linspace(low, high, count, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def quartic(x, a, b, c, d):
    """With as many starts each time, all of these are one program."""
    return a * x**4 + b * x**3 + c * x**2 + d * x


def points_of_quartic(coefficients, starts, **options):
    starts = np.float32(starts)
    assert starts.size == 21
    return jd.critical_points(quartic, starts, args=tuple(np.float32(coefficients)), **options)


WELL = 1, 0, -2, 0


HIMMELBLAU = {
    "minimum": [(3, 2), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)],
    "maximum": [(-0.270845, -0.923039)],
    "saddle": [
        (3.385154, 0.073852),
        (0.086678, 2.884255),
        (-3.073026, -0.081353),
        (-0.127961, -1.953715),
    ],
}


@pytest.mark.parametrize(("unit", "farthest"), [(1, 2), (1, 2000), (1e-5, 2), (1e5, 2)])
def test_a_double_well_has_two_minima_and_a_maximum(unit, farthest):
    well = WELL / np.power(float(unit), [4, 3, 2, 1])
    points = points_of_quartic(well, unit * np.linspace(-farthest, farthest, 21))
    assert [point.kind for point in points] == ["minimum", "minimum", "maximum"]
    params = np.array([point.params for point in points]) / unit
    np.testing.assert_allclose(np.sort(params[:2]), [-1, 1], rtol=1e-5)
    np.testing.assert_allclose(params[2], 0, atol=1e-5)
    np.testing.assert_allclose([p.value for p in points], [-1, -1, 0], atol=1e-5)
    curvatures = np.array([p.eigenvalues[0] for p in points]) * unit**2
    np.testing.assert_allclose(curvatures, [8, 8, -4], rtol=1e-4)


def test_himmelblaus_nine_points_are_the_published_ones():
    points = jd.critical_points(himmelblau, grid(-5.0, 5.0, 15))
    assert len(points) == 9
    for kind, published in HIMMELBLAU.items():
        found = np.array([point.params for point in points if point.kind == kind])
        assert found.shape == (len(published), 2)
        distances = np.linalg.norm(found[:, None] - np.array(published)[None], axis=-1)
        assert distances.min(axis=0).max() < 1e-5
        assert distances.min(axis=1).max() < 1e-5
    assert [point.value for point in points] == sorted(point.value for point in points)
    assert sum(point.starts for point in points) <= 225
    assert min(point.starts for point in points) >= 1


def test_eigenvalues_are_those_of_the_hessian_at_the_point(x64):
    for point in jd.critical_points(himmelblau, grid(-5.0, 5.0, 9).astype(np.float64)):
        x, y = np.asarray(point.params)
        hessian = [
            [12 * x**2 + 4 * y - 42, 4 * (x + y)],
            [4 * (x + y), 12 * y**2 + 4 * x - 26],
        ]
        np.testing.assert_allclose(point.eigenvalues, np.linalg.eigvalsh(hessian), rtol=1e-9)
        assert point.gradient_norm < 1e-9


@pytest.mark.slow
def test_rosenbrocks_valley_has_one_point():
    (point,) = jd.critical_points(rosenbrock, grid(-1.5, 2.0, 6))
    assert point.kind == "minimum"
    np.testing.assert_allclose(point.params, [1, 1], rtol=1e-4)


def cubic(p, a, b, c):
    """A saddle and a slope, and a monkey saddle."""
    return a * (p[0] ** 2 - p[1] ** 2) + b * p[0] + c * (p[0] ** 3 - 3 * p[0] * p[1] ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("coefficients", "far", "kind", "at", "off"),
    [
        ((1, 1, 0), 3.0, "saddle", [-0.5, 0], 1e-6),
        ((0, 0, 1), 2.0, "degenerate", [0, 0], 0.02),
    ],
    ids=["saddle", "monkey saddle"],
)
def test_a_saddle_is_found_from_every_start(coefficients, far, kind, at, off):
    args = tuple(np.float32(coefficients))
    (point,) = jd.critical_points(cubic, grid(-far, far, 4), args=args)
    assert (point.kind, point.starts) == (kind, 16)
    np.testing.assert_allclose(point.params, at, atol=off)


def test_starts_are_pytrees_with_a_leading_axis():
    starts = {"x": np.linspace(-2, 2, 9, dtype=np.float32), "y": np.ones((9, 2), np.float32)}
    points = jd.critical_points(
        lambda p: p["x"] ** 4 - 2 * p["x"] ** 2 + jnp.sum((p["y"] - 3) ** 2), starts
    )
    assert [point.kind for point in points] == ["minimum", "minimum", "saddle"]
    for point, x in zip(points, (-1, 1, 0), strict=True):
        assert jax.tree.map(np.shape, point.params) == {"x": (), "y": (2,)}
        np.testing.assert_allclose(point.params["x"], x, atol=1e-5)
        np.testing.assert_allclose(point.params["y"], [3, 3], rtol=1e-5)


@pytest.mark.slow
def test_objectives_are_taken_as_minimize_takes_them():
    quadratic = jd.Quadratic(np.float32([[1, 2], [2, 1]]), np.float32([3, 3]))
    (point,) = jd.critical_points(quadratic, np.ones((1, 2), np.float32))
    assert point.kind == "saddle"
    np.testing.assert_allclose(point.params, [1, 1], rtol=1e-6)
    np.testing.assert_allclose(point.eigenvalues, [-1, 3], rtol=1e-6)


def test_args_are_taken_as_minimize_takes_them():
    (point,) = points_of_quartic((0, 0, 1, -8), np.linspace(0, 9, 21))
    assert (point.kind, point.starts, float(point.params)) == ("minimum", 21, 4.0)


def test_points_near_each_other_are_told_apart_beside_a_far_one():
    points = points_of_quartic((1 / 4, -1001 / 3, 500, 0), np.linspace(-1500, 1500, 21))
    assert [point.kind for point in points] == ["minimum", "minimum", "maximum"]
    np.testing.assert_allclose([point.params for point in points], [1000, 0, 1], atol=1e-3)


@pytest.mark.slow
def test_a_degenerate_point_at_zero_that_rounding_spreads_is_one():
    starts = np.random.default_rng(21).normal(size=21).astype(np.float32)
    (point,) = jd.critical_points(lambda x: quartic(x + 1, 1, -4, 6, -4), starts)
    assert abs(float(point.params)) < 1e-4


ONE_START = r"starts must have a leading axis over the starts .* x\[None\] for a single start"


@pytest.mark.parametrize(
    ("starts", "error", "message"),
    [
        (jnp.array(1.0), ValueError, ONE_START),
        ({"a": jnp.ones(3), "b": jnp.ones(4)}, ValueError, ONE_START),
        (jnp.ones((0, 2)), ValueError, ONE_START),
        ([], ValueError, ONE_START),
        (jnp.arange(3), TypeError, "must be real floating-point, got dtype int32"),
    ],
    ids=["no axis", "different axes", "no starts", "no leaves", "integers"],
)
def test_starts_that_make_no_sense_are_refused(starts, error, message):
    with pytest.raises(error, match=message):
        jd.critical_points(lambda x: jnp.sum(jnp.asarray(x) ** 2), starts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iterations": 0}, "max_iterations must be at least 1, got 0"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        points_of_quartic(WELL, FAR, **options)


def test_points_are_found_outside_transformations():
    with pytest.raises(ValueError, match="critical_points reads values: call it outside jit"):
        jax.jit(lambda starts: jd.critical_points(lambda x: x**2, starts))(FAR)


def test_starts_that_are_good_already_are_points():
    # Nothing is left to gain there, so that the gradient cannot fall by much.
    points = points_of_quartic(WELL, [1.0, 1.0 + 1e-7, -1.0 - 1e-7] * 7)
    assert {(point.kind, round(float(point.params)), point.starts) for point in points} == {
        ("minimum", -1, 7),
        ("minimum", 1, 14),
    }


FAR = np.float32([-1e4, -1e3, 1e3, 1e4, 3.0, -2.0, 0.3] * 3)


def test_far_starts_lead_to_the_points_and_to_nothing_else():
    points = points_of_quartic(WELL, FAR)
    assert [point.kind for point in points] == ["minimum", "minimum", "maximum"]
    np.testing.assert_allclose([point.params for point in points], [-1, 1, 0], atol=1e-6)
    assert sum(point.starts for point in points) == len(FAR)
    assert max(point.gradient_norm for point in points) < 1e-5


@pytest.mark.parametrize("coefficients", [(0, 1, 0, 0), (1, 0, 0, 0)], ids=["3", "4"])
def test_a_power_has_one_degenerate_point_at_zero(coefficients):
    (point,) = points_of_quartic(coefficients, FAR)
    assert (point.kind, point.starts) == ("degenerate", len(FAR))
    assert abs(float(point.params)) < 1e-12


def exponential(x, sign, slope):
    return jnp.exp(sign * x) + slope * x


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "slope", "starts"), [(1, 0, FAR), (-1, 0, FAR), (1, 1, FAR / 1e4)]
)
def test_a_slope_that_levels_off_has_no_point(sign, slope, starts):
    args = np.float32(sign), np.float32(slope)
    assert jd.critical_points(exponential, starts, args=args) == []


def test_a_slope_that_is_least_at_zero_has_no_point():
    assert points_of_quartic((0, 1 / 3, 0, 1), FAR) == []


@pytest.mark.slow
def test_all_points_of_a_sine_are_multiples():
    points = jd.critical_points(jnp.sin, np.linspace(-20, 20, 41, dtype=np.float32))
    multiples = np.array([point.params for point in points]) / np.pi - 0.5
    np.testing.assert_allclose(multiples, np.round(multiples), atol=1e-5)
    assert {point.kind for point in points} == {"minimum", "maximum"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_an_inflection_is_degenerate_though_rounding_gives_it_a_curvature(seed, x64):
    # The slope has a double root: near it the computed gradient is zero by rounding alone, at a
    # point where the curvature has either sign.
    rng, certified, seen = np.random.default_rng(seed), [], 0
    for _ in range(4):
        root, other = rng.normal(size=2)
        roots = [root, root, root + 0.3 + abs(other)]
        coefficients = np.polyint(10 ** rng.uniform(-2, 2) * np.poly(roots))
        points = jd.critical_points(with_coefficients, np.linspace(-2, 2, 9), args=(coefficients,))
        kinds = {point.kind for point in points if abs(point.params - root) < 0.1}
        # In the last digits of the inflection Newton's steps may end nowhere: no point is listed.
        assert kinds <= {"degenerate"}
        seen += kinds == {"degenerate"}
        assert {point.kind for point in points if point.params > root + 0.2} <= {"minimum"}
        for point in points:
            found = jd.certify(with_coefficients, point.params, args=(coefficients,)).kind
            if point.kind == "degenerate":
                assert found in ("degenerate", "not stationary", "undetermined")
            certified.append((point.kind, found))
    assert ("minimum", "minimum") in certified
    assert seen >= 2


def with_coefficients(x, coefficients):
    return jnp.polyval(coefficients, x)
