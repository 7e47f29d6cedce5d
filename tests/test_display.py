"""What people read: few lines, the most important first, whatever state the arrays are in."""

import dataclasses
import functools
import html.parser
import inspect
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.custom_derivatives import SymbolicZero
from jax.sharding import NamedSharding, PartitionSpec

import jaxdescent as jd
from jaxdescent.display import Displayed, Grid, argument, numbers
from jaxdescent.display.of_results import MOST_LINES
from jaxdescent.machine import Machine
from jaxdescent.methods import OptaxMethod
from jaxdescent.objectives import as_objective
from jaxdescent.regression.gram_form import GramForm
from tests.meshes import rows_over

CONVERGED, MAX_ITERATIONS = jd.Status.CONVERGED.value, jd.Status.MAX_ITERATIONS.value
STAGNATED, DIVERGED = jd.Status.STAGNATED.value, jd.Status.DIVERGED.value
STATE = {"kept": jnp.full((3, 4), 123.456)}


def result_with(params, **changes):
    """A result that converged, its fields changed as asked."""
    fields = {
        "params": params,
        "value": jnp.float32(0.25),
        "gradient_norm": jnp.float32(1.5e-8),
        "suboptimality": jnp.float32(3e-12),
        "scale": jnp.float32(1),
        "iterations": jnp.int32(1234),
        "evaluations": jnp.int32(1),
        "status": jnp.int32(CONVERGED),
        "evidence": jnp.int32(jd.Evidence.RATE),
        "state": STATE,
        "history": (),
    }
    return jd.Result(**{**fields, **changes})


def lines(text):
    return [line.rstrip() for line in text.strip("\n").splitlines()]


# A result


def test_a_result_says_first_how_it_ended():
    shown = repr(result_with(jnp.array([1.0, -2.5])))
    assert lines(shown) == lines(f"""
Result: CONVERGED after 1,234 iterations, 1 evaluation
{jd.Status.CONVERGED.advice}
  value          0.25
  gradient norm  1.5e-08
  suboptimality  3e-12 ({jd.Evidence.RATE.explanation})
  params         float32[2]  [1, -2.5]
""")
    for code, name in ((0, "RUNNING"), (99, "status 99")):  # which are no ends
        shown = repr(result_with(jnp.ones(2), status=jnp.int32(code)))
        assert shown.startswith(f"Result: {name} after 1,234 iterations")


def test_leaves_are_shown_by_path_dtype_shape_and_range():
    params = {
        "weights": jnp.linspace(-1, 2, 20).reshape(10, 2),
        "half": jnp.ones(300, jnp.bfloat16),
        "bad": jnp.array([1, jnp.nan, jnp.inf]),
        "hidden": np.where(np.arange(50) == 7, np.nan, 0.0),
        "rate": 0.5,
    }
    history = jd.History(*(jnp.array(row) for row in ([25, 4, jnp.nan], [10, 1, jnp.nan])), STATE)
    history = history._replace(suboptimality=jnp.array([jnp.inf, jnp.inf, jnp.nan]))
    changes = {"evidence": jnp.int32(jd.Evidence.NONE), "suboptimality": jnp.float32(jnp.inf)}
    shown = repr(result_with(params, history=history, **changes))
    assert lines(shown)[2:] == lines("""
  value          0.25
  gradient norm  1.5e-08
  suboptimality  unknown: what was seen allows no estimate
  params         374 unknowns in 5 leaves
    ['bad']      float32[3]  [1, nan, inf]
    ['half']     bfloat16[300]  all 1
    ['hidden']   float64[50]  has NaN
    ['rate']     float  0.5
    ['weights']  float32[10,2]  -1 .. 2
  history        last 2 checks: value 25 -> 4, gradient norm 10 -> 1
""")


def test_of_many_leaves_the_first_are_shown():
    params = [jnp.zeros((2, 5), jnp.bfloat16)] * 291
    shown = lines(repr(result_with(params)))
    assert len(shown) == MOST_LINES
    assert shown[5:8] == lines("""
  params         2,910 unknowns in 291 leaves
    [0]          bfloat16[2,5]  all 0
    [1]          bfloat16[2,5]  all 0
""")
    assert shown[-1] == "    ... and 286 more"


def test_the_method_that_ran_is_named_and_not_advised():
    def valley(x):
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    result = jd.minimize(valley, jnp.zeros(10), jd.LBFGS(), max_iterations=2)
    shown = repr(result)
    assert "\n  method         LBFGS()\n" in shown
    needs_fewer = (
        "take a method that needs fewer: for a regression jd.DerivativeMethod() or "
        "jd.LSMR(jd.Sketch()), else "
    )
    assert needs_fewer + "jd.DerivativeMethod() for few unknowns." in result.message
    assert needs_fewer + "jd.LBFGS() or jd.Der" in jd.Status.MAX_ITERATIONS.advice
    assert "jd.LBFGS()" not in shown


@pytest.mark.parametrize(
    ("status", "ran", "said", "unsaid"),
    [
        (STAGNATED, ["DerivativeMethod()"], "takes jd.LSMR(jd.Sketch()).", "Derivative"),
        (STAGNATED, ["LSMR(Sketch())", "DerivativeMethod()"], "stochastically.", "regression"),
        (DIVERGED, ["GradientDescent(0.1)"], "lower the learning rate", "never"),
        (DIVERGED, ["GradientDescent(Backtracking())"], "if the objective is", "Backtracking"),
        (MAX_ITERATIONS, ["Gram(LBFGS())"], "else jd.DerivativeMethod() for", "LBFGS"),
    ],
)
def test_no_method_that_ran_is_advised(status, ran, said, unsaid):
    advice = jd.Status(status).advice_after(ran)
    assert said in advice
    assert unsaid not in advice


class TestKinks:
    @pytest.mark.slow
    def test_a_lasso_at_its_kink_is_told_of_it(self):
        rng = np.random.default_rng(0)
        A = rng.normal(size=(50, 8)).astype(np.float32)
        b = A @ np.array([1, 0, 0, 2, 0, 0, 0, -1], np.float32)
        b += 0.1 * rng.normal(size=50).astype(np.float32)

        def lasso(w, penalty):
            return jnp.sum((A @ w - b) ** 2) / 2 + penalty * jnp.sum(jnp.abs(w))

        for penalty in (1.0, 5.0):
            result = jd.minimize(lasso, jnp.ones(8), args=(penalty,))
            assert result.status == STAGNATED
            assert "the value has a kink there, as |x| has at 0" in result.message
            assert "Rounding hides" not in repr(result)

    def test_it_is_named_where_nothing_else_is_known(self, rng):
        A, y = rng.normal(size=(20, 4)).astype(np.float32), rng.normal(size=20).astype(np.float32)
        start = rng.normal(size=4).astype(np.float32)
        result = jd.minimize(lambda x: jnp.sum(jnp.abs(A @ x - y)), start)
        assert result.status == STAGNATED
        assert "kink there, as |x| has at 0" in result.message

    @pytest.mark.slow
    def test_so_are_the_members_of_a_batch(self, rng):
        A, y = rng.normal(size=(20, 4)).astype(np.float32), rng.normal(size=20).astype(np.float32)
        starts = rng.normal(size=(2, 4)).astype(np.float32)
        results = jax.vmap(lambda x: jd.minimize(lambda x: jnp.sum(jnp.abs(A @ x - y)), x))(starts)
        assert results.message.startswith("2 of 2 STAGNATED: Rounding hides")
        assert "kink there, as |x| has at 0" in repr(results)

    @pytest.mark.parametrize(
        ("value", "norm", "scale"),
        [(1e5, 0.05, 10.0), (2e-13, 6e-6, 70.0), (6.4e-5, 2.3e-6, 1300.0)],
    )
    def test_rounding_in_a_smooth_bowl_is_called_so(self, value, norm, scale):
        # A value far from zero, whose last digits end the descent, one that has come to zero, and
        # that of a wide ridge.
        numbers = {"value": value, "gradient_norm": norm, "scale": scale}
        numbers = {name: jnp.float32(number) for name, number in numbers.items()}
        result = result_with(jnp.array([3.0, 2.0]), status=jnp.int32(STAGNATED), **numbers)
        assert result.message.startswith("STAGNATED: Rounding hides")


def test_the_state_is_kept_and_not_printed():
    result = result_with(jnp.ones(3))
    assert "123.4" not in repr(result) + result._repr_html_()
    assert result.state is STATE
    assert str(result) == repr(result)


def test_a_batch_shows_counts_and_its_worst_members():
    status = jnp.full(1000, CONVERGED).at[jnp.array([17, 500, 501, 502])].set(MAX_ITERATIONS)
    status = status.at[3].set(jd.Status.NON_FINITE.value)
    value = jnp.arange(1000.0).at[3].set(jnp.nan)
    result = result_with(
        {"x": jnp.zeros((1000, 2))},
        status=status,
        value=value,
        gradient_norm=value / 10,
        suboptimality=(value * 2).at[501].set(5000),
        iterations=jnp.full(1000, 7),
        evaluations=jnp.arange(1000),
        evidence=jnp.full(1000, jd.Evidence.BOUND.value).at[0].set(0),
    )
    assert lines(repr(result)) == lines(f"""
Result of 1,000 descents: 995 CONVERGED, 4 MAX_ITERATIONS, 1 NON_FINITE
{jd.Status.MAX_ITERATIONS.advice}
  worst          [3] NON_FINITE: value nan, gradient norm nan
                 [501] MAX_ITERATIONS: value 501, gradient norm 50.1, suboptimality 5e+03
                 [502] MAX_ITERATIONS: value 502, gradient norm 50.2, suboptimality 1e+03
  value          has NaN
  gradient norm  has NaN
  suboptimality  has NaN ({jd.Evidence.BOUND.explanation})
  iterations     all 7; evaluations 0 .. 999
  params         2 unknowns each in 1 leaf
    ['x']        float32[1000,2]  all 0
""")


def test_a_batch_that_converged_shows_the_largest_suboptimality_if_it_has_members():
    shape = (2, 3)
    suboptimality = jnp.arange(6.0).reshape(shape)
    constant = {
        name: jnp.full(shape, 1)
        for name in ("status", "value", "gradient_norm", "evidence", "iterations", "evaluations")
    }
    shown = lines(repr(result_with(jnp.ones(shape), **constant, suboptimality=suboptimality)))
    assert shown[0] == "Result of 6 descents: all CONVERGED"
    assert shown[2].split()[1:4] == ["[1,", "2]", "CONVERGED:"]
    nothing = {name: jnp.zeros(0, jnp.int32) for name in [*constant, "suboptimality"]}
    nothing |= {"gradient_norm": jnp.zeros(0, jnp.int32), "scale": jnp.zeros(0, jnp.int32)}
    assert repr(result_with(jnp.zeros(0), **nothing)).startswith("Result of 0 descents: none")


# Arrays that cannot be read


@pytest.mark.slow
def test_traced_arrays_are_shown_by_their_shapes():
    seen = []

    def show(x):
        result = jd.minimize(lambda x: jnp.sum(x**2), x, jd.GradientDescent(0.1), history=2)
        seen.extend([repr(result), result._repr_html_(), repr(result.history)])
        seen.append(repr(jd.GradientDescent(x[0])))
        return result.value

    jax.jit(show)(jnp.ones(3))
    assert lines(seen[0]) == lines("""
Result: status int32[] traced
Inside jit, vmap and grad there are no numbers yet: return it, then print it.
  value          float32[] traced
  gradient norm  float32[] traced
  suboptimality  float32[] traced
  method         GradientDescent()
  params         float32[3] traced
  history        value float32[2] traced
""")
    assert seen[3] == "GradientDescent(float32[] traced)"
    several = jnp.ones((2, 3))
    for transformed, x in (
        (jax.grad(show), jnp.ones(3)),
        (jax.vmap(show), several),
        (jax.vmap(jax.grad(show)), several),
        (jax.jit(jax.vmap(show)), several),
    ):
        seen.clear()
        transformed(x)
        assert seen
        assert all(0 < len(text.splitlines()) <= MOST_LINES for text in seen)


def test_concrete_arrays_are_read_inside_jit():
    params = jnp.arange(10.0)

    @jax.jit
    def show(x):
        assert "0 .. 9" in repr(result_with(params))
        return x

    assert len(jax.make_jaxpr(show)(1.0).eqns[0].params["jaxpr"].eqns) == 0


def test_donated_arrays_are_shown_as_deleted():
    result = result_with({"x": jnp.ones(3), "y": jnp.ones(())}, state=())
    result.params["x"].delete()
    assert "  ['x']        float32[3] deleted" in repr(result)
    for leaf in jax.tree.leaves(result):
        leaf.delete() if not leaf.is_deleted() else None
    shown = repr(result)
    assert shown.startswith("Result: status int32[] deleted")
    assert "  value          float32[] deleted" in shown


def test_arrays_on_other_hosts_are_shown_by_their_shapes():
    class Elsewhere:
        """Enough of an array that other processes hold a part of."""

        shape, dtype, size, ndim = (1000,), np.dtype("float32"), 1000, 1
        is_fully_addressable = is_fully_replicated = False

        def is_deleted(self):
            return False

        def __array__(self, *args, **kwargs):
            raise RuntimeError("spans non-addressable devices")

    with mock.patch.object(numbers.jax, "Array", (jax.Array, Elsewhere)):
        shown = repr(result_with(Elsewhere()))
    assert lines(shown)[-1] == "  params         float32[1000] on several hosts"


def test_sharded_arrays_are_read_shard_by_shard():
    rows = rows_over(8)
    for sharding in (rows, NamedSharding(rows.mesh, PartitionSpec())):
        sharded = jax.device_put(jnp.arange(80.0) - 3, sharding)
        assert numbers.values(sharded) == "-3 .. 76"


def test_huge_arrays_have_no_range(monkeypatch):
    monkeypatch.setattr(numbers, "LARGEST_RANGE", 10)
    assert lines(repr(result_with(jnp.ones(11))))[-1] == "  params         float32[11]"


def test_arrays_whose_computation_fails_are_shown():
    def fails(*_, **__):
        raise RuntimeError("the computation failed")

    class Broken(np.ndarray):
        __array__ = tolist = min = fails

    broken = np.ones(3).view(Broken)
    assert "float64[3]" in repr(result_with({"x": broken}))


@pytest.mark.parametrize(
    "placeholder",
    [
        lambda leaf: object(),
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)),
        lambda leaf: SymbolicZero(jax.typeof(leaf)),
        lambda leaf: None,
        lambda leaf: "text",
        lambda leaf: np.float64(jnp.sum(leaf)),
        lambda leaf: mock.Mock(),
    ],
    ids=["object", "shape", "symbolic zero", "None", "text", "numpy", "mock"],
)
def test_placeholders_in_place_of_arrays_are_shown(placeholder):
    things = [
        result_with({"x": jnp.ones((2, 3))}, history=jd.History(*jnp.ones((3, 4)))),
        result_with(jnp.ones((2, 3)), status=jnp.ones(2, jnp.int32)),
        jd.LinearRegression(jnp.ones((3, 2)), jnp.ones(3), l2=1.0, sample_weight=jnp.ones(3)),
        jd.Quadratic(jnp.eye(2), jnp.ones(2)),
        jd.SumOfSquares({"x": jnp.ones(2)}, 3.0),
        jd.GradientDescent(0.1, momentum=jd.Nesterov(condition=9.0)),
        jd.GradientDescent(jd.Backtracking(decrease=0.1)),
        jd.Tolerance(gradient=1e-3, predicate=lambda check: check.value < 1),
        jd.MatrixFree(jax.tree_util.Partial(jnp.dot, jnp.eye(3)), rows=3, features=3),
    ]
    for thing in things:
        leaves, structure = jax.tree.flatten(thing)
        replaced = structure.unflatten([placeholder(leaf) for leaf in leaves])
        assert 0 < len(repr(replaced).splitlines()) <= MOST_LINES
        if isinstance(replaced, jd.Result):
            assert replaced._repr_html_().count("<tr>") <= MOST_LINES


leaf_strategy = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=20),
    st.just(object()),
    st.builds(
        np.zeros,
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
        st.sampled_from(
            [np.float64, np.int8, np.bool_, np.complex64, np.str_, np.object_, "M8[s]"]
        ),
    ),
    st.builds(
        lambda shape, dtype: jnp.full(shape, jnp.nan).astype(dtype),
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
        st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn, jnp.int32, jnp.int4]),
    ),
    st.just(jax.random.key(0)),
    st.just(jax.ShapeDtypeStruct((3,), jnp.float32)),
    st.just(np.zeros(3, jax.dtypes.float0)),
)
tree_strategy = st.recursive(
    leaf_strategy,
    lambda inside: st.one_of(
        st.lists(inside, max_size=9),
        st.tuples(inside, inside),
        st.dictionaries(st.text(max_size=40), inside, max_size=9),
    ),
    max_leaves=30,
)


class TagCounter(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        assert tag in ("p", "b", "table", "tbody", "tr", "th", "td")
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.slow
@given(tree_strategy, tree_strategy)
def test_nothing_raises_whatever_the_leaves_are(params, other):
    for result in (
        result_with(params, history=other),
        result_with(params, value=other, gradient_norm=other, suboptimality=other, evidence=other),
        result_with(params, status=other),
        result_with(params, status=jnp.ones((2, 3), jnp.int32), value=other, iterations=other),
        result_with(params, history=jd.History(other, other, other)),
    ):
        assert repr(result).startswith("Result")
        assert len(repr(result).splitlines()) <= MOST_LINES
        parser = TagCounter()
        parser.feed(result._repr_html_())
        assert not parser.open
    for thing in (jd.GradientDescent(params), jd.LinearRegression(params, other, l2=other)):
        assert len(repr(thing).splitlines()) == 1
    assert len(argument(params)) < 200


# Notebooks


def test_html_is_escaped_and_has_the_numbers_of_the_text():
    params = {"<script>x</script>": jnp.ones(3), "a&b": jnp.ones(3)}
    shown = result_with(params)._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "a&amp;b" in shown
    certificate = jd.Certificate("minimum", 1e-9, 1.0, 2.0, "<b>proof</b>")
    assert "&lt;b&gt;proof&lt;/b&gt;" in certificate._repr_html_()
    result = result_with({"x": jnp.arange(9.0)})
    parser = TagCounter()
    parser.feed(result._repr_html_())
    assert "float32[9]  0 .. 8" in parser.text
    for text in parser.text:
        assert text in repr(result)


# What is passed in


def squared(x):
    return jnp.sum(x**2)


NAMES = {name: getattr(jd, name) for name in jd.__all__} | {"squared": squared}


@pytest.mark.parametrize(
    "text",
    [
        "LBFGS()",
        "LBFGS(memory=5)",
        "DerivativeMethod()",
        "GradientDescent(Backtracking(shrink=0.7))",
        "Nesterov(condition=9)",
        "Nystrom(20)",
        "Gram(LBFGS())",
        "Quadratic(squared)",
        "LeastSquares(squared)",
        "MatrixFree(squared, rows=3, features=4)",
        "GradientDescent(0.25)",
        "GradientDescent(BarzilaiBorwein(memory=3))",
        "GradientDescent(InverseLipschitz(margin=2.0), momentum=Nesterov(condition=9.0))",
        "LSMR(Nystrom(3, seed=4), conlim=100000000.0)",
        "ConjugateGradient(Jacobi())",
        "Gram(ConjugateGradient(Jacobi()))",
        "Tolerance(gradient=0.1, suboptimality=0.2)",
        "LevenbergMarquardt(damping=1)",
        "SumOfSquares(scale=2.0)",
        "Tolerance(gradient=1e-06, predicate=squared)",
        "LSMR(Sketch(seed=3), atol=0.001)",
        "GradientDescent(Backtracking(), momentum=Nesterov(restart=False))",
    ],
)
def test_what_is_shown_can_be_pasted_back(text):
    assert repr(eval(text, NAMES)) == text


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (jd.GradientDescent(), "GradientDescent(Backtracking())"),
        (jd.GradientDescent(jnp.float32(0.1)), "GradientDescent(0.1)"),
        (
            jd.GradientDescent(optax.cosine_decay_schedule(0.1, 3)),
            "GradientDescent(cosine_decay_schedule.schedule)",
        ),
        (jd.StochasticRounding(3), "StochasticRounding(seed=3)"),
        (
            jd.SumOfSquares(center={"a": jnp.ones(3), "b": 1.0}),
            "SumOfSquares(center={'a': float32[3], 'b': 1.0})",
        ),
        (jd.Quadratic(jnp.eye(3), jnp.ones(3)), "Quadratic(float32[3,3], linear=float32[3])"),
        (as_objective(squared, (jnp.ones(3),)), "Function(squared, args=(float32[3],))"),
        (as_objective(functools.partial(squared)), "Function(squared)"),
        (
            jd.LinearRegression(np.ones((1000, 20)), np.ones(1000), l2=0.5),
            "LinearRegression(1,000 rows x 20 features, l2=0.5, intercept)",
        ),
        (
            jd.LinearRegression(
                jd.MatrixFree(squared, rows=3, features=4),
                jnp.ones((3, 2)),
                l2=jnp.ones(2),
                sample_weight=jnp.ones(3),
                intercept=False,
            ),
            "LinearRegression(3 rows x 4 features, 2 outputs, l2=float32[2], weighted, "
            "no intercept)",
        ),
        (jd.LinearRegression(jnp.eye(3), jnp.ones(3))._design, "Dense(float32[3,3])"),
        (
            GramForm.of(jd.LinearRegression(jnp.eye(3, 2), jnp.ones(3), l2=0.5))[0],
            "GramForm(float32[2,2], l2=0.5)",
        ),
        (OptaxMethod(optax.adam(1e-3)), "OptaxMethod(chain)"),
        (
            jd.Certificate("saddle", 0.0, -2.0, 2.0, "all 2 eigenvalues of the Hessian"),
            "Certificate(saddle: |gradient| = 0, Hessian eigenvalues from -2 to 2 (all 2 "
            "eigenvalues of the Hessian))",
        ),
        (jd.History(*jnp.full((3, 2), jnp.nan)), "History(no check)"),
        (
            jd.History(jnp.array([1.0]), jnp.array([2.0]), jnp.array([0.5])),
            "History(last check: value 1, gradient norm 2, suboptimality 0.5)",
        ),
        (jd.Status.DIVERGED, f"<Status.DIVERGED: {jd.Status.DIVERGED.advice}>"),
        (jd.Evidence.BOUND, f"<Evidence.BOUND: {jd.Evidence.BOUND.explanation}>"),
    ],
    ids=str,
)
def test_an_object_is_shown_as_the_call_that_makes_it(thing, expected):
    assert repr(thing) == expected


def test_status_and_evidence_are_printed_by_name():
    assert f"{jd.Status.CONVERGED} {jd.Evidence.NONE}" == "CONVERGED NONE"
    assert f"{jd.Status.STAGNATED:d}" == "3"
    assert f"{jd.Status(jnp.int32(2))}" == "MAX_ITERATIONS"


PUBLIC = [thing for name in jd.__all__ if inspect.isclass(thing := getattr(jd, name))]


def empty(cls):
    """An instance without fields: what a traceback may have to show."""
    if issubclass(cls, tuple) and hasattr(cls, "_fields") and not issubclass(cls, Displayed):
        return cls(*[None] * len(cls._fields))
    return tuple.__new__(cls, (None, None)) if issubclass(cls, tuple) else object.__new__(cls)


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_every_public_class_is_shown_in_few_lines(cls):
    if issubclass(cls, int):
        shown = [repr(member) for member in cls]
    elif issubclass(cls, Exception):
        shown = [repr(cls("too large"))]
    else:
        assert not inspect.isabstract(cls)
        # A dataclass that wrote its own would print its arrays.
        assert "<string>" not in cls.__repr__.__code__.co_filename
        shown = [repr(empty(cls))]
    for text in shown:
        assert cls.__name__ in text
        assert 1 <= len(text.splitlines()) <= MOST_LINES
        assert all(len(line) <= 300 for line in text.splitlines())


def test_a_new_class_has_nothing_to_remember():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True, eq=False)
    class New(jd.LBFGS):
        data: object = None

    assert repr(New(data=jnp.ones((100, 3)))) == "New(data=float32[100,3])"

    @dataclasses.dataclass(frozen=True, eq=False)
    class Own(New):
        def __repr__(self):
            return "mine"

    @dataclasses.dataclass(frozen=True, eq=False)
    class Heir(Own):
        more: int = 0

    assert repr(Heir()) == "mine"


# Plans


def test_a_plan_says_first_what_it_takes():
    machine = Machine.default("cpu", cores=2, memory_bytes=24 * 10**9)
    shape = jax.ShapeDtypeStruct
    regression = jd.LinearRegression(shape((1000, 10), "float32"), shape((1000,), "float32"))
    shown = lines(repr(jd.plan(regression, device=machine)))
    assert shown[0] == (
        "Plan: DerivativeMethod() for linear regression, 1,000 rows x 10 features, float32"
    )
    assert shown[1].startswith("  costs     ")
    assert (
        shown[-3]
        == "  rests on  cpu, 2 cores, 24 GB available; rates: default numbers, not measured."
    )
    assert len(shown) <= MOST_LINES
    rows, features = 10**9, 10**6
    regression = jd.LinearRegression(shape((rows, features), "float32"), shape((rows,), "float32"))
    plan = jd.plan(regression, device=machine)
    assert repr(plan).startswith("Plan: no method fits linear regression")
    assert repr(plan.candidates[1]).startswith("Candidate(LSMR(), ")
    assert repr(plan.structure) == f"Structure({plan.structure.describe()})"


def test_a_grid_aligns_numbers_to_the_right_and_words_to_the_left():
    grid = Grid("Sizes", ("name", "n"), [("a<b", "5"), ("b", "1,000")], ["A note."], ["name"])
    lines = ["Sizes", "", "name      n", "a<b       5", "b     1,000", "", "A note."]
    assert grid.as_text().splitlines() == lines
    shown = grid.as_html()
    assert '<td style="text-align:left">a&lt;b</td><td style="text-align:right">5</td>' in shown
    assert shown.count("<tr>") == 3
    assert shown.endswith("<p>A note.</p>")
