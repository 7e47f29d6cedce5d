"""What a callable is known by: no answer is that of an object as it was before."""

import dataclasses
import functools
import gc
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdescent as jd
from jaxdescent.calls import programs
from jaxdescent.cost.structure import structure_of
from jaxdescent.inputs import functions
from jaxdescent.objectives import as_objective
from jaxdescent.second_order.curvature import Curvature

START = jnp.zeros(2)
HERE, THERE = jnp.array([1.0, 2.0]), jnp.array([5.0, -3.0])


class Model:
    """Data on an object, as its bound methods see them."""

    def __init__(self, y=HERE):
        self.y = y

    def loss(self, p):
        return jnp.sum((p - self.y) ** 2)

    def weighted(self, weight, p):
        return weight * self.loss(p)

    def __call__(self, p):
        return self.loss(p)


class Equal(Model):
    def __eq__(self, other):
        return isinstance(other, Equal)

    def __hash__(self):
        return 0


class Refusing(Model):
    def __eq__(self, other):
        raise RuntimeError("not to be compared")

    def __hash__(self):
        return 0


class Unhashable(Model):
    __hash__ = None


@dataclasses.dataclass
class Plain:
    y: object

    loss = Model.loss
    weighted = Model.weighted
    __call__ = Model.loss


@dataclasses.dataclass(unsafe_hash=True)
class Hashable(Plain):
    y: object = dataclasses.field(hash=False)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Registered:
    y: object

    loss = Model.loss
    weighted = Model.weighted
    __call__ = Model.loss


CLASSES = [Model, Equal, Refusing, Unhashable, Plain, Hashable, Registered]

FORMS = {
    "method": lambda model: model.loss,
    "object": lambda model: model,
    "partial of a method": lambda model: functools.partial(model.weighted, 2.0),
    "partial of a partial": lambda model: functools.partial(functools.partial(model.weighted), 2.0),
    "partial of a function": lambda model: functools.partial(type(model).loss, model),
    "partial by name": lambda model: functools.partial(lambda p, model: model.loss(p), model=model),
    "Partial of a method": lambda model: jax.tree_util.Partial(model.weighted, jnp.array(2.0)),
    "Partial of a partial": lambda model: jax.tree_util.Partial(
        functools.partial(model.weighted, 2.0)
    ),
    "method of a method": lambda model: types.MethodType(model.weighted, jnp.array(2.0)),
}


DESCENT = jd.GradientDescent(0.25)


def found(objective, **options):
    return jd.minimize(objective, START, DESCENT, **options).params


def assert_close(got, expected, tolerance=1e-3):
    np.testing.assert_allclose(got, expected, atol=tolerance)


@pytest.mark.first
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("kind", CLASSES)
def test_a_changed_object_is_a_new_one(kind, form):
    model = kind(HERE)
    function = form(model)
    assert_close(found(function), HERE)
    model.y = THERE
    assert_close(found(function), THERE)
    assert_close(found(form(model)), THERE)
    assert_close(found(form(kind(HERE))), HERE)


@pytest.mark.parametrize("kind", [Model, Hashable, Registered])
def test_a_numpy_array_written_to_is_seen(kind):
    model = kind(np.array(HERE))
    partial = functools.partial(lambda y, p: jnp.sum((p - y) ** 2), model.y)
    for expected in (HERE, THERE):
        model.y[:] = expected
        assert_close(found(model.loss), expected)
        assert_close(found(partial), expected)


def test_python_numbers_on_an_object_are_seen():
    class Power:
        power, shift = 2, 1.0

        def loss(self, p):
            return jnp.sum(jnp.abs(p - self.shift) ** self.power) / self.power

    model = Power()
    assert_close(found(model.loss), [1, 1])
    model.shift = 3.0
    assert_close(found(model.loss), [3, 3])
    model.power = 4
    slow = jd.minimize(model.loss, START, jd.GradientDescent(1e-6), max_iterations=1)
    assert float(slow.value) == pytest.approx(2 * 3**4 / 4, rel=1e-3)


def shared_bowl(p):
    return 0.5 * jnp.sum(p**2)


class Rooms(Model):
    """One number behind the functions of all rooms."""

    factor = 1.0

    def loss(self, p):
        return 0.5 * self.factor * jnp.sum((p - self.factor) ** 2)

    def shifted(self, p, scale):
        return jnp.sum((p - self.factor * scale) ** 2)

    def residual(self, p):
        return p - self.factor

    def hessian(self, x):
        return self.factor * x

    def forward(self, w):
        return self.factor * w

    def is_enough(self, check):
        return check.value < self.factor

    def rate(self, count):
        return 0.1 * self.factor + 0.0 * count

    def update(self, updates, state, params=None):
        return jax.tree.map(lambda g: -0.1 * self.factor * g, updates), state

    def problem(self, start):
        return self.loss, start


def asked(objective, start=START, method=DESCENT, **options):
    """A question to be asked again: its objective and its options are made once."""
    return lambda: jd.minimize(objective, start, method, **options).params


def one_step(objective, method, start=HERE):
    return asked(objective, start, method, max_iterations=1)


def slope(model):
    return jax.grad(lambda scale: jnp.sum(found(model.shifted, args=(scale,))))


ROOMS = {
    "least squares": lambda model: asked(jd.LeastSquares(model.residual)),
    "a quadratic": lambda model: asked(jd.Quadratic(model.hessian, HERE)),
    "a matrix-free design": lambda model: asked(
        jd.LinearRegression(
            jd.MatrixFree(model.forward, rows=2, features=2), HERE, intercept=False
        ),
        None,
    ),
    "a predicate": lambda model: asked(
        shared_bowl, HERE, tolerance=jd.Tolerance(predicate=model.is_enough)
    ),
    "a schedule": lambda model: one_step(jd.SumOfSquares(), jd.GradientDescent(model.rate)),
    "a schedule for a function": lambda model: one_step(
        shared_bowl, jd.GradientDescent(model.rate)
    ),
    "a schedule in Gram": lambda model: one_step(
        jd.LinearRegression(jnp.eye(2), HERE, intercept=False),
        jd.Gram(jd.GradientDescent(model.rate)),
        None,
    ),
    "optax": lambda model: one_step(
        shared_bowl, optax.GradientTransformation(lambda params: (), model.update)
    ),
    "critical points": lambda model: lambda: jd.critical_points(model.loss, HERE[None])[0].params,
    "a certificate": lambda model: lambda: jd.certify(model.loss, START).smallest_eigenvalue,
    "a batch": lambda model: (
        lambda: jd.minimize_batch(model.problem, (np.stack([START, HERE]),), DESCENT).params
    ),
    "a predicate of a batch": lambda model: (
        lambda: (
            jd.minimize_batch(
                lambda start: (shared_bowl, start),
                (np.stack([THERE, HERE]),),
                jd.GradientDescent(model.rate),
                tolerance=jd.Tolerance(predicate=model.is_enough),
            ).iterations
        )
    ),
    "an argument": lambda model: asked(
        lambda p, function: function(p), args=(jax.tree_util.Partial(model.loss),)
    ),
    "a new jit": lambda model: lambda: jax.jit(lambda scale: found(model.loss) * scale)(HERE),
    "vmap": lambda model: lambda: jax.vmap(lambda scale: found(model.loss) * scale)(HERE),
    "grad": lambda model: lambda: slope(model)(1.0),
}


@pytest.mark.first
@pytest.mark.usefixtures("relaxed_promotion")
@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS.keys())
def test_no_room_answers_for_an_object_as_it_was(room):
    model = Rooms()
    answer = room(model)
    (first,) = jax.tree.leaves(answer())
    model.factor = 2.0
    (second,) = jax.tree.leaves(answer())
    assert np.all(np.asarray(first) != np.asarray(second))
    fresh = Rooms()
    fresh.factor = 2.0
    (expected,) = jax.tree.leaves(room(fresh)())
    np.testing.assert_allclose(second, expected, rtol=1e-6)


def test_residuals_of_a_changed_number_are_planned_anew():
    model = Model(jnp.ones(3))
    objective = jd.LeastSquares(functools.partial(lambda model, p: p[0] - model.y, model))
    assert structure_of(objective, START).rows == 3
    model.y = jnp.ones(7)
    assert structure_of(objective, START).rows == 7


@pytest.fixture
def traces():
    """How often the loss of a ``Counted`` was traced."""
    return []


class Counted(Model):
    def __init__(self, traces, y=HERE):
        super().__init__(y)
        self.traces = traces

    def loss(self, p):
        self.traces.append(None)
        return super().loss(p)


FIXED = {
    "function": lambda function: function,
    "jitted": jax.jit,
    "partial": functools.partial,
    "partial with arrays": lambda function: functools.partial(
        lambda scale, p: scale * function(p), jnp.array(1.0)
    ),
    "partial by name": lambda function: functools.partial(
        lambda p, scale, name: scale * function(p), scale=2, name="two"
    ),
    "partial of a jitted": lambda function: functools.partial(jax.jit(function)),
    "Partial": jax.tree_util.Partial,
}


@pytest.mark.first
@pytest.mark.parametrize("form", FIXED.values(), ids=FIXED.keys())
def test_functions_count_by_identity_and_are_traced_once(form, traces):
    def function(p):
        traces.append(None)
        return jnp.sum((p - HERE) ** 2)

    fixed = form(function)
    assert_close(found(fixed), HERE)
    before = len(traces)
    assert_close(found(fixed), HERE)
    assert len(traces) == before


def test_a_method_of_a_registered_object_is_traced_once(traces):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Data:
        y: jax.Array

        def loss(self, p):
            traces.append(None)
            return jnp.sum((p - self.y) ** 2)

    assert_close(found(Data(HERE).loss), HERE)
    before = len(traces)
    assert_close(found(Data(THERE).loss), THERE)
    assert len(traces) == before


def test_the_data_of_a_registered_object_are_differentiated():
    jacobian = jax.jit(jax.jacobian(lambda y: found(Registered(y).loss)))
    np.testing.assert_allclose(jacobian(HERE), np.eye(2), atol=1e-5)


@pytest.mark.slow
def test_what_a_method_sees_of_a_trace_is_differentiated():
    model = Model()

    def minimiser(y):
        model.y = y
        return found(model.loss)

    for _ in range(2):
        np.testing.assert_allclose(jax.jacobian(minimiser)(HERE), np.eye(2), atol=1e-5)
    assert_close(jax.jit(minimiser)(THERE), THERE)
    assert_close(jax.vmap(minimiser)(jnp.stack([HERE, THERE])), jnp.stack([HERE, THERE]))
    model.y = HERE
    assert_close(found(model.loss), HERE)


class Indexed(Model):
    index = 0

    def loss(self, p):
        return jnp.sum((p - self.y[self.index]) ** 2)

    def rate(self, count):
        return jnp.where(self.index + count >= 0, 0.25, 0.0)

    def is_enough(self, check):
        return check.iteration > 30 + self.index


@pytest.mark.parametrize("transformation", [jax.jit, jax.vmap, lambda f: jax.jit(jax.vmap(f))])
def test_a_traced_integer_on_an_object_does_not_leak(transformation):
    model = Indexed(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    method = jd.GradientDescent(model.rate)
    tolerance = jd.Tolerance(predicate=model.is_enough, gradient=0.0)

    def minimiser(index):
        model.index = index
        try:
            return jd.minimize(model.loss, START, method, tolerance=tolerance).params
        finally:
            model.index = 0

    with jax.checking_leaks():
        for number in (0, 1, 0):
            index = jnp.array(number)
            batched = index if transformation is jax.jit else index[None]
            got = transformation(minimiser)(batched)
            assert_close(got.reshape(2), model.y[index])
    assert_close(jd.minimize(model.loss, START, method, tolerance=tolerance).params, model.y[0])


def test_a_traced_integer_in_a_closure_does_not_leak():
    table = jnp.array([[1.0, 2.0], [3.0, 4.0]])

    @jax.jit
    def minimiser(index):
        return found(lambda p: jnp.sum((p - table[index]) ** 2))

    with jax.checking_leaks():  # and none is reported where there is none
        assert_close(minimiser(1), table[1])
        assert_close(found(Model().loss), HERE)
        assert_close(found(shared_bowl), START)
        jax.grad(lambda y: found(lambda p, y: jnp.sum((p - y) ** 2), args=(y,)).sum())(HERE)


def test_objects_are_not_kept_alive():
    references = []
    for index in range(4):
        model = Model(HERE + index)
        references.append(weakref.ref(model))
        assert_close(found(model.loss), HERE + index)
        assert_close(found(model), HERE + index)
    del model
    gc.collect()
    assert not any(reference() for reference in references)


def test_identities_that_are_used_again_are_told_apart():
    """Each object dies before the next, which often takes over its address."""
    for index in range(30):
        scale = 1.0 + index
        assert_close(found(Model(HERE * scale).loss), HERE * scale, 1e-2)
        assert_close(found(functools.partial(Model.loss, Model(HERE * scale))), HERE * scale, 1e-2)


def test_methods_of_arrays_are_data():
    matrix = jnp.array([[2.0, 0.0], [0.0, 4.0]])
    objective = jd.Quadratic(matrix.__matmul__, jnp.ones(2))
    np.testing.assert_array_equal(jax.tree.leaves(objective.hessian)[0], matrix)
    assert_close(jd.minimize(objective, START).params, [0.5, 0.25])


def test_what_is_no_data_stays_on_its_object():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Sliced:
        y: jax.Array
        count: int

        def loss(self, p):
            return jnp.sum((p[: self.count] - self.y[: self.count]) ** 2)

    model = Sliced(HERE, 1)
    assert_close(found(model.loss), [1, 0])
    model.count = 2
    assert_close(found(model.loss), HERE)


def test_what_was_traced_refuses_other_shapes():
    function = functions.hoist(functions.as_pytree(Model().loss), START)
    assert_close(function(HERE), 0)
    with pytest.raises(TypeError, match=r"traced for .*\(2,\).*called with .*\(3,\)"):
        function(jnp.ones(3))


def test_equal_computations_are_equal_and_others_are_not():
    def content(function, *example):
        return jax.tree.structure(
            functions.hoist(functions.as_pytree(Method(function).call), *example)
        )

    class Method:
        def __init__(self, function):
            self.function = function

        def call(self, *args):
            return self.function(*args)

    def smooth(p):
        return jnp.sum(jnp.logaddexp(p, 1.0)) + jax.lax.fori_loop(0, 3, lambda i, x: 2 * x, p)[0]

    same = [lambda p, y=y: jnp.sum(p - y) for y in (HERE, THERE)]
    assert content(same[0], HERE) == content(same[1], HERE)
    assert content(smooth, HERE) == content(smooth, HERE)
    others = [
        (jnp.sum, HERE),
        (jnp.sum, jnp.ones(3)),
        (lambda p: jnp.sum(2.0 * p), HERE),
        (lambda p: jnp.sum(3.0 * p), HERE),
        (lambda p: jnp.sum(0.0 * p), HERE),
        (lambda p: jnp.sum(-0.0 * p), HERE),
        (lambda p: jnp.sum(p - p[::-1]), HERE),
        (lambda p: jnp.sum(p[::-1] - p), HERE),
        (jnp.max, HERE),
        (lambda p: p, HERE),
        (lambda p: {"p": p}, HERE),
        (lambda p: [p], HERE),
        (lambda p: jax.lax.fori_loop(0, 3, lambda i, x: 2 * x, p), HERE),
        (lambda p: jax.lax.fori_loop(0, 4, lambda i, x: 2 * x, p), HERE),
        (lambda p: jax.lax.fori_loop(0, 3, lambda i, x: 3 * x, p), HERE),
        (same[0], HERE),
        (smooth, HERE),
    ]
    structures = [content(*other) for other in others]
    for index, structure in enumerate(structures):
        assert structure not in structures[:index]


@pytest.mark.slow
def test_float64_data_are_those_of_each_precision(rng):
    X = rng.normal(size=(300, 3))
    y = X @ np.array([1.0, -2.0, 3.0]) + rng.normal(size=300)

    def loss(p):
        return jnp.sum(jnp.square(X @ p - y))

    start, least = np.zeros(3, np.float32), np.linalg.lstsq(X, y)[1][0]
    in_single = jd.minimize(loss, start, jd.GradientDescent(1e-4), max_iterations=2)
    assert in_single.value.dtype == np.float32
    exact = Curvature.at(as_objective(loss), start)
    np.testing.assert_allclose(exact.point[0], np.sum(y**2), rtol=1e-13)
    starts = rng.normal(size=(2, 3)).astype(np.float32)
    batch = jd.minimize_batch(lambda start: (loss, start), (starts,))
    for result in (jd.minimize(loss, start), batch):
        assert np.all(result.converged)
        np.testing.assert_allclose(result.value, np.full_like(result.value, least), rtol=1e-5)
    assert jax.jit(lambda x: x)(X).dtype == np.float32  # and the caller's next program
    y[:] = 2.0
    assert jnp.sum(y) == 600
    exact = Curvature.at(as_objective(loss), start)
    np.testing.assert_allclose(exact.point[0], np.sum(y**2), rtol=1e-13)


def test_arrays_of_the_callers_own_programs_are_converted_once():
    for dtype in (np.float32, np.float64):
        array = np.full(3, np.nan, dtype)
        kept = jax.make_jaxpr(lambda x, array=array: x * array + array)(1.0)
        other = jax.make_jaxpr(lambda x, array=array: x * array)(1.0)
        assert {id(each) for each in kept.consts + other.consts} == {id(kept.consts[0])}
    data = np.array([1.0, 2.0])
    with jax.enable_x64(True):
        kept = jax.make_jaxpr(lambda x: x * data)(1.0)
    result = jd.minimize(lambda p: jnp.sum(jnp.square(p - data)), START)
    np.testing.assert_allclose(result.params, HERE)
    assert kept.consts[0].dtype == data.dtype


# At the end: it forgets the programs of the tests before it, which would be compiled again.
def test_a_method_of_an_object_is_traced_in_each_call_but_compiled_once(traces):
    programs._compiled.cache_clear()
    for y in (HERE, THERE, np.array(HERE)):
        before = len(traces)
        assert_close(found(Counted(traces, y).loss), y)
        assert len(traces) > before
    # Of the descent, and of the expansion in float64 and the values by which its end is verified.
    assert programs._compiled.cache_info().currsize == 3
