"""A design, a loss and a method that are defined outside the package: one class each.

docs/architecture.md has the recipes that these follow.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize as scipy_minimize

import jaxdescent as jd
from jaxdescent.designs import Design
from jaxdescent.machine import Machine
from jaxdescent.methods import Method
from jaxdescent.methods.protocol import progress_at
from jaxdescent.numerics import precision
from jaxdescent.regression import LinearModel
from tests import references
from tests.results import assert_trees_close


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Powers(Design):
    """``X_ij = x_i ** (j + 1)``: a polynomial without its constant, by Horner's rule."""

    x: Any
    degree: int = dataclasses.field(metadata={"static": True})

    @property
    def shape(self):
        return len(self.x), self.degree

    @property
    def dtype(self):
        return self.x.dtype

    def product(self, weights):
        x = self.x.reshape(-1, *[1] * (weights.ndim - 1))
        total = jnp.zeros((len(self.x), *weights.shape[1:]), self.dtype)
        for row in weights[::-1]:
            total = (total + row) * x
        return total

    def transposed_product(self, residual):
        return self.to_dense().T @ residual

    def to_dense(self):
        return self.x[:, None] ** jnp.arange(1, self.degree + 1, dtype=self.dtype)[None, :]

    def dense_bytes(self):
        return len(self.x) * self.degree * self.dtype.itemsize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Logistic(LinearModel):
    """``log(1 + exp(p)) - y p`` for targets y from 0 to 1."""

    def loss(self, predictions, targets):
        return jnp.logaddexp(0, predictions) - targets * predictions


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Steepest(Method):
    """Cauchy's step, with the length that is best for the parabola along the gradient."""

    def init(self, objective, params):
        return ()

    def step(self, objective, params, state):
        value, gradient = objective.value_and_gradient(params)
        curvature = objective.curvature(params, gradient)
        rate = precision.squared_norm(gradient) / jnp.where(curvature > 0, curvature, 1)
        new = jax.tree.map(lambda x, g: x - rate * g, params, gradient)
        return new, state, progress_at(value, gradient)


MACHINE = Machine.default("cpu", cores=2, memory_bytes=2**33)

METHODS = [
    None,
    jd.DerivativeMethod(),
    jd.LSMR(),
    jd.ConjugateGradient(jd.Nystrom(3)),
    jd.LBFGS(),
    jd.LevenbergMarquardt(),
    jd.Gram(),
    jd.GradientDescent(),
    optax.adam(0.1),
    Steepest(),
]
SMOOTH = [
    None,
    jd.LBFGS(),
    jd.DerivativeMethod(),
    jd.GradientDescent(),
    Steepest(),
]


EXACT = type(None), jd.DerivativeMethod, jd.LevenbergMarquardt
EPS = float(np.finfo(np.float32).eps)
TOLERANCE = EPS ** (2 / 3)


def name_of(method):
    return str(method) if isinstance(method, Method) or method is None else "adam"


@pytest.fixture(scope="module")
def points():
    x = np.linspace(-1, 1, 40)
    y = 1 + 2 * x - x**2 + 0.1 * np.random.default_rng(0).normal(size=40)
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_every_method_takes_a_design_from_outside(method, points):
    x, y = points
    regression = jd.LinearRegression(Powers(x, 3), y, l2=0.1)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        result = jd.minimize(regression, method=method, max_iterations=3000)
    X = np.asarray(x, float)[:, None] ** np.arange(1, 4)
    assert result.converged
    # CONVERGED promises the value to the fraction eps^(2/3), of which those that are exact use
    # nothing: their weights are off by rounding times the condition number, 24.
    dense = jd.LinearRegression(X, np.asarray(y, float), l2=0.1)
    is_exact = isinstance(method, EXACT)
    fraction = (24 * EPS) ** 2 if is_exact else TOLERANCE
    least = references.value(dense, references.least_squares(dense))
    if is_exact and not isinstance(method, jd.LevenbergMarquardt):
        assert references.height(dense, result.params) <= fraction * least
    assert references.height(dense, result.params) <= TOLERANCE * least
    np.testing.assert_allclose(result.value, least, rtol=TOLERANCE)


@pytest.mark.slow
def test_the_plan_and_the_certificate_take_it(points):
    x, y = points
    regression = jd.LinearRegression(Powers(x, 3), y, l2=0.1)
    planned = jd.plan(regression, device=MACHINE)
    assert planned.chosen is not None
    certificate = jd.certify(regression, jd.minimize(regression))
    assert certificate.kind == "minimum"
    text = repr(Powers(x, 3))
    assert "Powers" in text


@pytest.mark.slow
def test_derivatives_go_through_it(points, x64):
    x, y = (part.astype(np.float64) for part in points)

    def slope(y, l2):
        return jd.minimize(jd.LinearRegression(Powers(x, 3), y, l2=l2)).params["weights"][0]

    of_y, of_l2 = jax.grad(slope, argnums=(0, 1))(y, 0.1)
    step = 1e-5
    moved = [slope(y, 0.1 + sign * step) for sign in (1, -1)]
    np.testing.assert_allclose(of_l2, (moved[0] - moved[1]) / (2 * step), rtol=1e-5)
    unit = np.eye(40)[7]
    moved = [slope(y + sign * step * unit, 0.1) for sign in (1, -1)]
    np.testing.assert_allclose(of_y[7], (moved[0] - moved[1]) / (2 * step), rtol=1e-5)


@pytest.fixture(scope="module")
def classes():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 4))
    chance = 1 / (1 + np.exp(-X @ [1.0, -2.0, 0.5, 0.0] - 0.3))
    y = (rng.random(200) < chance).astype(float)
    s = rng.uniform(0.5, 2, 200)

    def loss(p):
        at = X @ p[1:] + p[0]
        return np.sum(s * (np.logaddexp(0, at) - y * at)) + 0.25 * np.sum(p[1:] ** 2)

    best = scipy_minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    best.loss = loss
    return *(part.astype(np.float32) for part in (X, y, s)), best


@pytest.mark.first
@pytest.mark.parametrize("method", SMOOTH, ids=name_of)
def test_every_method_takes_a_loss_from_outside(method, classes):
    X, y, s, best = classes
    model = Logistic(X, y, l2=0.5, sample_weight=s)
    result = jd.minimize(model, method=method, max_iterations=3000)
    # In float32 the last digits of a line search may be rounding before the tolerance is met.
    assert int(result.status) in (jd.Status.CONVERGED, jd.Status.STAGNATED)
    np.testing.assert_allclose(result.value, best.fun, rtol=2 * TOLERANCE)
    found = np.append(result.params["intercept"], result.params["weights"])
    assert best.loss(found.astype(float)) - best.fun <= EPS ** (2 / 3) * best.fun
    # The smallest eigenvalue of the Hessian is 11.9 there: half of it times the distance's square
    # is no more than the tolerance allows.
    apart = np.sqrt(2 * TOLERANCE * best.fun / 11.9)
    np.testing.assert_allclose(found, best.x, rtol=0, atol=apart)


def test_a_loss_has_the_derivatives_of_its_value(classes, x64):
    X, y, s = (part.astype(np.float64) for part in classes[:3])
    params = {"weights": np.array([0.3, -0.2, 0.1]), "intercept": np.float64(0.4)}
    direction = {"weights": np.array([1.0, 2.0, -1.0]), "intercept": np.float64(0.5)}

    @jax.jit
    def both_ways(model):
        value, gradient = model.value_and_gradient(params)
        product = model.hessian_product(params, direction)
        slope, curved = jax.jvp(jax.grad(model.value), (params,), (direction,))
        return (value, gradient, product), (model.value(params), slope, curved)

    found, wanted = both_ways(Logistic(Powers(X[:, 0], 3), y, l2=0.5, sample_weight=s))
    assert_trees_close(found[0], wanted[0], rtol=1e-13)
    assert_trees_close(found[1:], wanted[1:], rtol=1e-11)


def test_a_loss_is_planned_certified_and_predicts(classes):
    X, y, s, _ = classes
    model = Logistic(X, y, l2=0.5, sample_weight=s)
    assert jd.plan(model, device=MACHINE).chosen is not None
    result = jd.minimize(model)
    assert jd.certify(model, result).kind == "minimum"
    expected = X @ np.asarray(result.params["weights"]) + np.asarray(result.params["intercept"])
    np.testing.assert_allclose(model.predict(result.params, X), expected, rtol=1e-5, atol=1e-5)
    assert repr(model) == "Logistic(200 rows x 4 features, l2=0.5, weighted, intercept)"
    with pytest.raises(TypeError, match=r"LSMR needs a jd.LinearRegression, got Logistic"):
        jd.minimize(model, method=jd.LSMR())
    with pytest.raises(ValueError, match="Logistic needs params of shapes"):
        jd.minimize(model, {"weights": np.zeros(3, np.float32), "intercept": np.float32(0)})


@pytest.mark.first
@pytest.mark.parametrize(
    ("objective", "start", "best"),
    [
        (jd.SumOfSquares(center=2.0), np.zeros(5, np.float32), np.full(5, 2.0)),
        (
            jd.Quadratic(np.diag(np.float32([1, 4])), np.ones(2, np.float32)),
            None,
            np.array([1, 0.25]),
        ),
        (
            lambda p: (p["a"] - 1) ** 2 + 3 * (p["b"] + 2) ** 2,
            {"a": 0.0, "b": 0.0},
            {"a": 1.0, "b": -2.0},
        ),
    ],
    ids=["separable", "quadratic", "function"],
)
def test_a_method_from_outside_takes_every_objective(objective, start, best):
    result = jd.minimize(objective, start, Steepest())
    assert result.converged
    assert_trees_close(result.params, best, rtol=1e-2)


def test_a_method_from_outside_is_batched():
    def solved(shift):
        return jd.minimize(lambda x: (x - shift) ** 2, 0.0, Steepest())

    batched = jax.vmap(solved)(np.arange(3, dtype=np.float32))
    np.testing.assert_allclose(batched.params, np.arange(3), atol=1e-5)


def loss_model(of):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True, eq=False)
    class Model(LinearModel):
        def loss(self, predictions, targets):
            return of(predictions, targets)

    return Model


def test_a_loss_that_mixes_predictions_is_refused(rng):
    # Its slope by all of them at once is no gradient: that of a softmax would be zero everywhere.
    X, y = rng.normal(size=(6, 2)).astype(np.float32), np.eye(3, dtype=np.float32)[[0, 1, 2] * 2]
    softmax = loss_model(lambda p, y: -jax.nn.log_softmax(p) * y)
    for _ in range(2):
        with pytest.raises(TypeError, match="element by element"):
            jd.minimize(softmax(X, y))
    with pytest.raises(TypeError, match=r"of shape \(6, 3\) .* got \(\): they are added up"):
        jd.minimize(loss_model(lambda p, y: jnp.sum(jnp.square(p - y)))(X, y))
    result = jd.minimize(loss_model(lambda p, y: jnp.square(p - y) / 2)(X, y))
    regression = jd.LinearRegression(X, y)
    expected = references.value(regression, references.least_squares(regression))
    np.testing.assert_allclose(result.value, expected, rtol=TOLERANCE)


def test_a_loss_whose_class_jax_does_not_know_is_refused():
    class Model(LinearModel):
        def loss(self, predictions, targets):
            return jnp.square(predictions - targets)

    with pytest.raises(TypeError, match="class Model must be registered with JAX: decorate it"):
        jd.minimize(Model(np.ones((2, 1), np.float32), np.ones(2, np.float32)))
