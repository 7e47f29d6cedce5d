"""Bad input: an error that says what was got, what was expected and what to do."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdescent as jd

X, Y = np.ones((4, 2), np.float32), np.ones(4, np.float32)
START = jnp.ones(2)


def bowl(p):
    return jnp.sum(p**2)


def descend(objective=bowl, params=START, method=None, **options):
    method = jd.GradientDescent(0.1) if method is None else method
    return jd.minimize(objective, params, method, **options)


def regress(X=X, y=Y, params=None, **options):
    return jd.minimize(jd.LinearRegression(X, y, **options), params)


def solve(method, objective=None):
    return jd.minimize(jd.LinearRegression(X, Y) if objective is None else objective, method=method)


def damped(damping):
    return descend(jd.LeastSquares(lambda p: p), method=jd.LevenbergMarquardt(damping))


def by_map():
    """A quadratic that cannot say what its Hessian's entries are, and such a regression."""
    design = jd.MatrixFree(lambda w: w, rows=3, features=3)
    return jd.Quadratic(lambda x: 2 * x, linear=jnp.ones(3)), jd.LinearRegression(design, Y[:3])


def donate_twice():
    start = jnp.ones(2)
    descend(params=start, donate=True)
    return descend(params=start, donate=True)


def on_two_devices():
    one, two = (jax.device_put(jnp.ones(2), device) for device in jax.devices()[:2])
    return descend(lambda p: jnp.sum(p["a"]) + jnp.sum(p["b"]), {"a": one, "b": two})


def two_dtypes():
    with jax.enable_x64(True):
        return regress(X.astype(np.float64), Y)


WRONG_TYPES = [
    # the objective
    (lambda: descend(3.0), r"function of params.*got 3\.0"),
    (lambda: descend("bowl"), r"function.*got 'bowl'"),
    (lambda: descend(jd.SumOfSquares), r"such as jd\.SumOfSquares\(\)"),
    (lambda: descend(lambda p: "text"), r"must return.*scalar.*got str"),
    (
        lambda: descend(lambda p: jnp.sum(p.astype(jnp.int32))),
        r"floating-point number, got dtype int32",
    ),
    (lambda: descend(lambda p: jnp.sum(p).astype(jnp.complex64)), r"real.*complex64"),
    # args
    (
        lambda: descend(lambda p, a: jnp.sum(p * a), args=START),
        r"args must be a tuple.*args=\(data,\)",
    ),
    (lambda: jd.minimize(jd.LinearRegression(X, Y), args=(1.0,)), r"takes no args"),
    (lambda: descend(lambda p, a: jnp.sum(p), args=("data",)), r"got str 'data'"),
    # params
    (lambda: descend(params={"a": jnp.arange(3)}), r"params\['a'\].*int32.*convert"),
    (lambda: descend(params=3), r"int32: write 3\.0"),
    (lambda: descend(params=np.ones(2, bool)), r"got dtype bool"),
    (
        lambda: descend(params=jnp.ones(2, jnp.complex64)),
        r"complex64: minimise over its real and imaginary parts",
    ),
    (lambda: descend(params="start"), r"got str"),
    *(
        (lambda call=call, given=given: call(bowl, given), f"must be arrays, got {got}: .* method=")
        for call in (jd.minimize, jd.run, jd.certify, jd.plan, jd.critical_points)
        for given, got in (
            (jd.LBFGS(), r"LBFGS\(\)"),
            (optax.sgd(0.1), r"OptaxMethod\(chain\)"),
            (jd.LBFGS, "the class LBFGS"),
        )
    ),
    (lambda: jd.minimize(bowl, jd.Backtracking()), r"jd\.GradientDescent\(jd\.Backtracking"),
    (lambda: jd.plan(bowl, descend()), r"params.*got a Result: pass result\.params"),
    (lambda: jd.minimize_batch(lambda p: (bowl, p), START[None]), r"members.*tuple.*\(data,\)"),
    # numbers
    *(
        (lambda flag=flag: descend(tolerance=flag), "tolerance must be a number or None.*True")
        for flag in (True, np.True_, np.array(True), jnp.array(True))
    ),
    (lambda: jd.certify(bowl, START, tolerance="1e-3"), "tolerance must be a number.*'1e-3'"),
    *(
        (lambda given=given: regress(intercept=given), "intercept must be True or False, got ")
        for given in ("no", 2, None, jnp.array(True))
    ),
    # methods
    (lambda: descend(method=0.1), r"write jd\.GradientDescent\(0\.1\)"),
    (lambda: descend(method=jd.GradientDescent), r"Call it first"),
    (lambda: descend(method=optax.adam), r"Call it first.*optax\.adam\(1e-3\)"),
    (
        lambda: descend(method=optax.constant_schedule(0.1)),
        r"schedule goes into jd\.GradientDescent",
    ),
    (
        lambda: descend(method=jd.Backtracking()),
        r"write jd\.GradientDescent\(jd\.Backtracking\(\)\)\.",
    ),
    (
        lambda: descend(method="lbfgs"),
        r"got 'lbfgs'\. .*not its name.*jd\.LBFGS\(\).*optax\.adam\(1e-3\)",
    ),
    (
        lambda: descend(method=optax.MultiSteps(optax.sgd(0.1), 2)),
        r"Pass what its gradient_transformation\(\) returns",
    ),
    (lambda: descend(method=jd.GradientDescent(jnp.ones(2))), r"must be a number"),
    (
        lambda: jax.jit(lambda rate: descend(method=jd.GradientDescent(rate)).params)(jnp.ones(2)),
        r"must be a number",
    ),
    (lambda: descend(method=jd.GradientDescent("fast")), r"got 'fast'.*schedule"),
    (
        lambda: descend(method=jd.GradientDescent(jd.Backtracking)),
        r"learning_rate.*Backtracking\(\)",
    ),
    (lambda: descend(method=jd.LBFGS(2.5)), r"must be a Python integer, got 2\.5"),
    (lambda: descend(method=jd.LBFGS(True)), "must be a Python integer, got True"),
    (lambda: damped("big"), "must be a number, positive and finite, got 'big'"),
    (lambda: damped([1.0, 2.0]), "must be a number"),
    (lambda: solve(jd.LSMR(), jd.Quadratic(np.eye(2))), r"LSMR needs a jd\.LinearRegression"),
    (lambda: solve(jd.LSMR(atol="small")), r"LSMR\.atol must be a number"),
    (lambda: solve(jd.Gram(), jd.Quadratic(np.eye(2))), r"LinearRegression, got Quadratic"),
    (lambda: solve(jd.Gram(0.1)), r"method must be a jaxdescent method.*got 0\.1"),
    (lambda: solve(jd.Gram(jd.LSMR())), r"LSMR needs a jd\.LinearRegression, got GramForm"),
    (
        lambda: descend(method=jd.ConjugateGradient(jd.Jacobi())),
        r"needs a quadratic objective.*jd\.LBFGS\(\)",
    ),
    *(
        (lambda given=given: solve(given), "preconditioner must be")
        for wrong in (jd.Jacobi, 3.0, "jacobi")
        for given in (jd.ConjugateGradient(wrong), jd.LSMR(wrong))
    ),
    (lambda: solve(jd.LSMR(jd.Nystrom(2.0))), r"Nystrom\.rank must be a Python integer"),
    (lambda: solve(jd.LSMR(jd.Jacobi()), by_map()[1]), "norms of X's columns"),
    (lambda: solve(jd.LSMR(jd.Sketch()), by_map()[1]), "needs the rows of X"),
    (lambda: solve(jd.ConjugateGradient(jd.Jacobi()), by_map()[0]), "diagonal of the Hessian"),
    (lambda: solve(jd.ConjugateGradient(jd.Sketch()), by_map()[0]), r"rows of a jd\.LinearReg"),
    (
        lambda: descend(method=jd.MiniBatches(optax.sgd(0.1))),
        "needs rows that can be read, and Function",
    ),
    (lambda: solve(jd.MiniBatches(), by_map()[1]), "LinearRegression has none"),
    (lambda: solve(jd.MiniBatches(jd.LSMR())), r"transformation or None, got LSMR\(\)"),
    (lambda: jd.MiniBatches(jd.Backtracking()), "It is a rule for the learning rate"),
    # options
    (lambda: descend(max_iterations=1.5), r"integer, got 1\.5"),
    (lambda: descend(max_iterations="many"), r"max_iterations.*integer, got 'many'"),
    (lambda: descend(max_iterations=float("nan")), r"max_iterations.*integer, got nan"),
    (lambda: descend(tolerance="low"), r"number or None.*'low'"),
    (
        lambda: descend(tolerance=jd.Tolerance(predicate=1e-3)),
        r"predicate must be a function.*0\.001",
    ),
    (
        lambda: descend(tolerance=jd.Tolerance(predicate=lambda check: check.params < 1)),
        r"scalar bool, got bool of shape \(2,\)",
    ),
    (lambda: descend(rounding="stochastic"), r"jd\.StochasticRounding\(seed\)"),
    (
        lambda: descend(rounding=jd.StochasticRounding(1.5)),
        r"StochasticRounding\.seed must be a Python integer, got 1\.5",
    ),
    (
        lambda: descend(rounding=jd.StochasticRounding(jax.random.key(0))),
        r"StochasticRounding\.seed must be an integer, got key<fry> of shape \(\)",
    ),
    # regressions
    (lambda: regress(np.ones((4, 2), int)), r"X .*int64.*astype"),
    (lambda: regress(np.full((4, 2), "a")), r"X must be real.*<U1"),
    (lambda: regress([[1.0], [1.0, 2.0]]), r"X must be an array"),
    (lambda: regress(y=Y * 1j), r"y must be real.*complex64: state .* by y\.real and y\.imag\.$"),
    (lambda: regress(np.ones((4, 2), complex)), r"complex128: state .*, by X\.real and X\.imag\.$"),
    (two_dtypes, r"one dtype.*float64.*float32"),
    (lambda: regress(l2="strong"), r"l2 must be a number.*'strong'"),
    # the other objectives
    (lambda: descend(jd.Quadratic(np.eye(2, dtype=int))), r"hessian.*int64"),
    (lambda: descend(jd.SumOfSquares(scale="large")), r"SumOfSquares\.scale.*'large'"),
    # what JAX does not have, and other libraries' names
    (
        lambda: descend(params={"a": True}),
        r"params\['a'\] must be real floating-point, got dtype bool: write 1\.0\.$",
    ),
    (
        lambda: regress(X.astype(">f4")),
        r"X must be real floating-point of a dtype that JAX has, got dtype >f4: convert it.*\.$",
    ),
    (lambda: regress(y=Y.astype(">f8")), r"^y must be.*dtype >f8"),
    (
        lambda: regress(X.astype(np.longdouble)),
        r"^X must be.*of a dtype that JAX has, got dtype float128",
    ),
    (lambda: regress(sample_weight=Y.astype(">f4")), r"^sample_weight must be.*>f4"),
    (lambda: descend(jd.Quadratic(np.eye(2, dtype=">f4"))), r"^Quadratic\.hessian must be.*>f4"),
    (
        lambda: descend(params=[np.ones(2, np.longdouble)]),
        r"^params\[0\] must be of a dtype that JAX has, got float128: convert it.*\.$",
    ),
    (
        lambda: descend(params=np.array([1.0, None])),
        r"^params must be of a dtype that JAX has, got object: convert it",
    ),
    (
        lambda: descend(lambda p, d: jnp.sum(p * d), args=({"d": X.astype(">f4")},)),
        r"^args\[0\]\['d'\] must be of a dtype that JAX has, got >f4",
    ),
    (
        lambda: descend(params=[{"a": 1.0, 1: 2.0}]),
        r"^params has a dictionary whose keys have no common order: give it keys of one type.*\.$",
    ),
    (
        lambda: descend(lambda p, d: jnp.sum(p), args=({1j: 1.0, 2j: 2.0},)),  # of one type
        r"^args has a dictionary whose keys have no common order",
    ),
    (lambda: jd.plan(bowl, {"a": 1.0, 1: 2.0}), r"^params has a dictionary whose"),
    (lambda: jd.certify(bowl, {"a": 1.0, 1: 2.0}), r"^params has a dictionary whose"),
    (
        lambda: jd.run(bowl, np.ones(2, object)),
        r"^params must be of a dtype that JAX has, got object",
    ),
    (
        lambda: descend(tolerance=jd.Tolerance(absolute_gradient=[1.0, 2.0])),
        r"^Tolerance\.absolute_gradient must be a number or None, .*got \[1\.0, 2\.0\]: 0 runs",
    ),
    (lambda: jd.minimize(fun=bowl), "write objective, the first"),
    (lambda: jd.minimize(bowl, x0=START), "write params, the second"),
    (lambda: descend(tol=1e-3), "has no keyword 'tol': write tolerance="),
    (lambda: descend(jac=bowl), "'jac': leave it out, JAX diff"),
    (lambda: descend(callback=print), r"write jd\.run\(\.\.\., hooks"),
    (lambda: descend(maxiter=3), "'maxiter': write max_iterations="),
    (
        lambda: jd.run(bowl, START, gtol=1e-3),
        r"^run has no keyword 'gtol': write tolerance=jd\.Tolerance\(absolute_gradient",
    ),
    (
        lambda: descend(max_iteration=3),
        r"has no keyword 'max_iteration': did you mean max_iterations=\?$",
    ),
    (lambda: descend(jd.LeastSquares(3.0)), r"residual must be a function.*3\.0"),
    (
        lambda: descend(jd.LeastSquares(lambda x: {"a": (x > 0).astype(int)})),
        r"residual\(params\)\['a'\] must be real floating-point, got dtype int",
    ),
    (
        lambda: descend(jd.LeastSquares(lambda x: None)),
        r"residual\(params\) must be an array .* got None: return what it computes",
    ),
]
WRONG_VALUES = [
    # the objective
    (lambda: descend(lambda p: p**2), r"scalar, got \(2,\).*sum.*LeastSquares"),
    (lambda: descend(lambda p: p[:1] ** 2), r"scalar, got \(1,\)"),
    (
        lambda: descend(lambda p: (jnp.sum(p), {"name": "text"})),
        r"must return a scalar, got a tuple of 2 items.*alone.*lambda p: f\(p\)\[0\]",
    ),
    (lambda: descend(lambda p: (p, p)), r"must return a scalar, got \(\(2,\), \(2,\)\)"),
    (lambda: descend(lambda p: None), r"must return a scalar, got None"),
    # params
    (lambda: descend(params=None), r"params must be given: Function"),
    (lambda: descend(params={}), r"at least one array, got \{\}"),
    (lambda: descend(params=jnp.zeros((0,))), r"params must not be empty.*\(0,\)"),
    (on_two_devices, r"same devices(?=.*device_put).*params\['a'\].*params\['b'\]"),
    (donate_twice, r"params.*deleted.*donate"),
    (
        lambda: descend(jd.SumOfSquares(), {"a": START, "b": START}, donate=True),
        r"same array twice.*copy",
    ),
    (
        lambda: descend(jd.SumOfSquares(center=START), START, donate=True),
        r"donated and is also the objective's \.center",
    ),
    # methods
    (lambda: descend(method=jd.GradientDescent(0)), r"positive.*got 0"),
    (lambda: descend(method=jd.GradientDescent(-1.0)), r"positive.*got -1"),
    (lambda: descend(method=jd.GradientDescent(np.inf)), r"finite, got inf"),
    (lambda: descend(method=jd.GradientDescent(np.nan)), r"finite, got nan"),
    (lambda: descend(method=jd.LBFGS(0)), "at least 1, got 0"),
    (lambda: damped(0), "positive and finite, got 0"),
    (lambda: damped(np.nan), "positive and finite, got nan"),
    (lambda: solve(jd.LSMR(atol=-1.0)), r"LSMR\.atol must be at least 0"),
    (lambda: solve(jd.LSMR(btol=np.nan)), r"LSMR\.btol must be at least 0"),
    (lambda: solve(jd.LSMR(conlim=0)), r"LSMR\.conlim must be positive"),
    (lambda: solve(jd.LSMR(jd.Nystrom(0))), r"Nystrom\.rank must be at least 1, got 0"),
    (lambda: solve(jd.LSMR(jd.Sketch(1))), r"Sketch\.oversampling must be at least 2, got 1"),
    (lambda: solve(jd.Gram(jd.GradientDescent(-1.0))), "learning_rate must be positive"),
    (lambda: solve(jd.MiniBatches(rows=0)), r"MiniBatches\.rows"),
    (lambda: solve(jd.MiniBatches(epochs=0)), r"MiniBatches\.epochs"),
    # options
    (lambda: descend(max_iterations=0), r"max_iterations.*at least 1.*got 0"),
    (lambda: descend(max_iterations=2**31), r"below 2\*\*31"),
    (
        lambda: descend(max_iterations=2**70),
        r"max_iterations must be below 2\*\*31, got 1180591620717411303424",
    ),
    (lambda: descend(check_every=0), r"check_every.*at least 1"),
    (lambda: descend(history=-1), r"history.*at least 0"),
    (lambda: descend(tolerance=np.nan), r"finite, got nan"),
    (lambda: descend(tolerance=-1e-3), r"at least 0.*-0\.001"),
    (
        lambda: descend(jd.LinearRegression(X, Y), None, jd.LSMR(jd.Sketch(seed=-1))),
        r"Sketch\.seed must be at least 0, got -1",
    ),
    # regressions
    (lambda: regress(np.ones((2, 4, 2), np.float32)), r"X .*got \(2, 4, 2\): reshape it, such as"),
    (lambda: regress(np.ones((0, 2), np.float32)), r"\(0, 2\).*empty"),
    (lambda: regress(np.ones((4, 0), np.float32)), r"\(4, 0\).*empty"),
    (lambda: regress(Y), r"\(rows, features\).*X\[:, None\]"),
    (lambda: regress(y=Y[:3]), r"X's 4 rows, got \(3,\)"),
    (lambda: regress(y=np.ones((4, 1, 1), np.float32)), r"\(4, outputs\).*\(4, 1, 1\)"),
    (lambda: regress(l2=-0.5), r"l2 must be at least 0, got -0\.5"),
    (lambda: regress(l2=np.nan), r"l2 must be at least 0, got nan"),
    (lambda: regress(l2=np.ones(3)), r"l2 .*got shape \(3,\)"),
    (lambda: regress(sample_weight=-Y), r"sample_weight must be at least 0, got -1"),
    (lambda: regress(sample_weight=Y[:3]), r"sample_weight.*\(4,\).*\(3,\)"),
    (lambda: regress(sample_weight=0 * Y), r"sample_weight.*all zero"),
    (
        lambda: regress(params={"weights": jnp.ones(3), "intercept": jnp.array(0.0)}),
        r"needs params of shapes.*\(2,\).*got.*\(3,\).*params=None",
    ),
    (lambda: regress(params={"weights": jnp.ones(2)}), r"intercept.*params=None"),
    (
        lambda: jd.LinearRegression(X, Y).predict({"weights": START}, X),
        r"dict of \['weights', 'intercept'\], got \['weights'\].*result\.params.*intercept=False",
    ),
    (
        lambda: jd.LinearRegression(X, Y, intercept=False).predict(
            {"weights": START, "intercept": 0.0}, X
        ),
        r"dict of \['weights'\], got \['weights', 'intercept'\].*intercept=True",
    ),
    (lambda: jd.LinearRegression(X, Y).predict(START, X), r"dict of .*got ArrayImpl"),
    (
        lambda: jd.LinearRegression(X, Y).predict({"weights": START, "intercept": 0.0}, X[:, :1]),
        r"2 features.*got shape \(4, 1\)",
    ),
    # the other objectives
    (
        lambda: descend(jd.SumOfSquares(scale={"a": START, "b": START}), {"a": START}),
        r"SumOfSquares\.scale must be a number or have the structure",
    ),
    (lambda: descend(jd.SumOfSquares(center=jnp.ones(3))), r"center.* shape \(3,\).*\(2,\)"),
    (lambda: descend(jd.Quadratic(np.ones((2, 3), np.float32))), r"square.*got shape \(2, 3\)"),
    (lambda: descend(jd.Quadratic(np.eye(3, dtype=np.float32))), r"shape \(3,\), got"),
    (
        lambda: descend(jd.Quadratic(np.eye(2, dtype=np.float32), jnp.ones(3))),
        r"Quadratic\.linear.*\(2,\).*\(3,\)",
    ),
]


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (error, *case)
        for error, cases in ((TypeError, WRONG_TYPES), (ValueError, WRONG_VALUES))
        for case in cases
    ],
)
def test_what_is_wrong_is_refused_with_a_clear_error(error, call, message):
    with pytest.raises(error, match=rf"(?s){message}"):
        call()


@pytest.mark.parametrize(
    ("function", "cause", "hint"),
    [
        (lambda x: jnp.sum(np.sin(x)), "TracerArrayConversionError", "write jax.numpy (jnp)"),
        (lambda x: x[0] if x[0] > 0 else -x[0], "TracerBoolConversionError", "write jnp.where or"),
        (
            lambda x: max(x[0], x[1]),
            "TracerBoolConversionError",
            "an if, while, and, or, min or max",
        ),
        (lambda x: math.exp(x[0]), "ConcretizationTypeError", "in place of math.exp"),
        (lambda x: jnp.sum(x[x > 0]), "NonConcreteBooleanIndexError", "jnp.where(condition, x, 0)"),
        (lambda x: [1.0, 2.0][x[0].astype(int)], "TracerIntegerConversionError", "write jnp.take"),
    ],
)
def test_functions_that_cannot_be_traced_are_told_what_to_write(function, cause, hint):
    for call in (
        lambda: descend(function),
        lambda: jd.certify(function, START),
        lambda: descend(jd.LeastSquares(function)),
        lambda: jax.jit(lambda q: descend(lambda x: function(x) * q).value)(1.0),
    ):
        with pytest.raises(TypeError, match="cannot be traced by JAX: ") as raised:
            call()
        assert hint in str(raised.value)
        assert "\n" not in str(raised.value)
        assert type(raised.value.__cause__).__name__ == cause


@pytest.mark.parametrize("where", ["l2", "learning rate"])
def test_traced_values_that_make_no_sense_end_in_a_status(where):
    def status(value):
        if where == "l2":
            objective = jd.LinearRegression(X, Y, l2=value)
            return jd.minimize(objective, method=jd.GradientDescent(0.01)).status
        return jd.minimize(bowl, START, jd.GradientDescent(value)).status

    assert int(jax.jit(status)(jnp.nan)) == jd.Status.NON_FINITE


MASKED = np.ma.array(np.ones(4, np.float32), mask=[1, 0, 0, 0])
MASKED_X = np.ma.array(X, mask=[[1, 0]] * 4)
WITH_MASKS = [
    ("X", lambda: regress(MASKED_X)),
    ("y", lambda: regress(y=MASKED)),
    ("sample_weight", lambda: regress(sample_weight=MASKED)),
    ("LinearRegression.l2", lambda: regress(l2=np.ma.array(1.0, mask=True))),
    ("X", lambda: jd.LinearRegression(X, Y).predict(regress().params, MASKED_X)),
    ("params", lambda: descend(params=MASKED)),
    ("params", lambda: jd.certify(bowl, MASKED)),
    ("params", lambda: jd.run(bowl, MASKED, jd.GradientDescent(0.1))),
    ("params['a']", lambda: descend(lambda p: jnp.sum(p["a"]), {"a": MASKED})),
    ("Function.args[0]", lambda: descend(lambda p, a: bowl(p - a), Y, args=(MASKED,))),
    (
        "LeastSquares.args[0]",
        lambda: descend(jd.LeastSquares(lambda p, a: p - a), Y, args=(MASKED,)),
    ),
    ("SumOfSquares.center", lambda: descend(jd.SumOfSquares(center=MASKED), Y)),
    ("codes", lambda: jd.Categorical(np.ma.array([0, 1], mask=[1, 0]), 2)),
    ("row indices", lambda: jd.Hashed(np.ma.array([0]), [0], shape=(1, 9))),
]


@pytest.mark.parametrize(("name", "call"), WITH_MASKS)
def test_masked_arrays_are_refused_by_name(name, call):
    said = f"{name} is a masked array, whose mask would be ignored: leave out or fill what it masks"
    with pytest.raises(TypeError) as raised:
        call()
    assert str(raised.value) == f"{said}."


@pytest.mark.parametrize("flag", [1, 0, np.True_, np.int64(1), np.int64(0)])
def test_whole_numbers_are_flags(flag):
    start = jd.LinearRegression(np.eye(3), np.ones(3), intercept=flag).checked().start()
    assert ("intercept" in start) == bool(flag)
