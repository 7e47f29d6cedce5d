"""Foresight: predicted costs against independent formulas and compiled programs, and the choice."""

import dataclasses
import inspect
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.cost import ALLOWED_ITERATIONS, candidates, choice, plan_of, solves
from jaxdescent.cost.iterations import (
    HOPED,
    gaussian_condition,
    krylov_count,
    krylov_iterations,
)
from jaxdescent.cost.planning import largest_size, largest_sizes
from jaxdescent.cost.structure import regression_structure
from jaxdescent.cost.work import Question, Work
from jaxdescent.display import readable_seconds
from jaxdescent.kernels import memory
from jaxdescent.machine import Machine
from jaxdescent.objectives import as_objective
from tests.commands import printed
from tests.shapes import named, regression, shape

GIGABYTE = 10**9
MACHINE = Machine.default("cpu", cores=2, memory_bytes=24 * GIGABYTE)


def price(name, question):
    entries = {entry.name: entry for entry in candidates.TABLE[question.structure.kind]}
    return entries[name].price(question)


def cosh(x):
    return jnp.sum(jnp.cosh(x - 1))


def residual(x):
    return jnp.exp(x) - 2


# Predicted bytes

REGRESSIONS = [
    (regression(20_480, 64), "LSMR()"),  # in runs of rows
    (regression(5_003, 200, 10), "GradientDescent(Backtracking())"),
    (regression(5_003, 200, 10), "Gram()"),
    (regression(1_500, 100), "ConjugateGradient()"),  # one block
    (regression(100, 5_003, 10), "LSMR()"),
    (regression(5_003, 200, dtype="bfloat16"), "ConjugateGradient()"),
    (regression(50_001, 200, dtype="bfloat16"), "GradientDescent(Backtracking())"),  # in blocks
    (regression(50_001, 200, dtype="float16"), "LSMR()"),  # lengths in blocks too
    (regression(131_072, 64, 3, dtype="float16"), "ConjugateGradient()"),
    (regression(20_000, 1_000, dtype="bfloat16"), "Gram()"),
    (regression(100_000, 100, intercept=False), "Gram()"),
    (regression(20_011, 100, dtype="bfloat16", intercept=False), "LSMR()"),
]
"""Every form of a product and every method, each met with another one; the bytes of a solve are in
tests/test_derivative_method.py."""
QUADRATIC = jd.Quadratic(shape(600, 600), shape(600))
PROBLEMS = [
    (jd.SumOfSquares(), shape(1_000_003), "DerivativeMethod()"),
    (jd.SumOfSquares(), shape(1_000_003), "GradientDescent(InverseLipschitz())"),
    (jd.SumOfSquares(), shape(1_000_003, dtype="bfloat16"), "GradientDescent(Backtracking())"),
    (as_objective(cosh), shape(1_000_003), "LBFGS()"),
    (jd.LeastSquares(residual), shape(1_000_003), "LevenbergMarquardt()"),
    (QUADRATIC, None, "DerivativeMethod()"),
    (QUADRATIC, None, "ConjugateGradient()"),
    *((objective, None, name) for objective, name in REGRESSIONS),
]
"""Every kind of problem, and methods of which each reserves vectors of its own."""


def written(value):
    if not isinstance(value, jd.LinearRegression):
        return value if isinstance(value, str) else repr(value)
    form = " without intercept" if not value.intercept else ""
    return f"{value.X.shape} {value.y.shape[1:]} {value.X.dtype}{form}"


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "params", "name"), PROBLEMS, ids=written)
def test_predicted_bytes_are_those_of_the_compiled_program(objective, params, name, one_device):
    candidates = named(jd.plan(objective, params, device=MACHINE))
    assert_reserves_what_is_predicted(objective, params, candidates[name])


def reserved_bytes(objective, params, candidate):
    """What XLA reserves for a candidate's program: data, params, temporaries and results."""

    def descend(objective, params, method):
        # With a history a small solve is XLA's, and not the host's.
        return jd.minimize(objective, params, method, history=1)

    program = jax.jit(descend).lower(objective, params, candidate.method).compile()
    analysis = program.memory_analysis()
    return candidate.data_bytes + analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def assert_reserves_what_is_predicted(objective, params, candidate):
    """A program reserves at most 1.8 times what is predicted: the vectors of its gap come on top;
    what takes less than a megabyte always fits.
    """
    reserved = reserved_bytes(objective, params, candidate)
    least, most = (0.55, 1.25) if reserved > memory.SLACK_BYTES else (0.8, 1.6)
    assert least < candidate.peak_bytes / reserved < most, (candidate, reserved)


def test_the_data_are_every_array_and_the_params_and_seconds_add_up():
    for each in jd.plan(regression(1000, 10, 3), device=MACHINE).candidates:
        assert each.data_bytes == 4 * (1000 * 13 + 11 * 3)
        assert each.peak_bytes == each.data_bytes + each.working_bytes
        expected = each.setup_seconds + each.iterations * each.seconds_per_iteration
        assert each.seconds == pytest.approx(expected)


def test_arrays_that_exist_are_not_allocated_again_and_not_looked_at(rng):
    """What they say of a condition number is no bound: shapes decide, so one program serves all."""
    X = jnp.asarray(rng.normal(size=(1000, 10)) * np.geomspace(1, 1e-5, 10), jnp.float32)
    there, to_come = (
        jd.plan(objective, device=MACHINE)
        for objective in (jd.LinearRegression(X, X[:, 0]), regression(1000, 10))
    )
    assert there.assumptions == to_come.assumptions
    for ours, theirs in zip(there.candidates, to_come.candidates, strict=True):
        assert theirs.allocated_bytes == theirs.peak_bytes
        assert ours.allocated_bytes == ours.working_bytes + 4 * 11  # the start is to come
        assert (ours.peak_bytes, ours.seconds) == (theirs.peak_bytes, theirs.seconds)


# Operations, bytes moved, seconds


def test_the_operations_of_the_derivative_method_are_those_of_the_textbook():
    plan = jd.plan(regression(100_000, 1000), device=MACHINE)
    expected = 2 * 100_000 * 1000**2 + 4 / 3 * 1000**3 + 4 * 2 * 100_000 * 1000
    assert named(plan)["DerivativeMethod()"].flops == pytest.approx(expected)


@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("bfloat16", 2)])
def test_an_iteration_of_lsmr_reads_x_twice_as_it_is_stored(dtype, itemsize):
    structure = regression_structure(10_000, 1000, dtype=dtype)
    question = Question(structure, MACHINE, 1e-5, 10.0)
    work = price("LSMR()", question).iteration
    vectors = 12 * 4 * (10_000 + 1001)
    assert question.bytes_moved(work) == pytest.approx(2 * itemsize * 10**7 + vectors)
    assert question.flops(work) == 4 * 10**7


def test_a_small_16_bit_x_is_widened_as_a_whole_on_a_cpu_and_a_large_one_in_blocks():
    small, large = (
        Question(regression_structure(rows, 100, dtype="bfloat16"), MACHINE, 1e-5, 10.0)
        for rows in (1000, 1_000_000)
    )
    assert small.pass_bytes == 4 * 1000 * 100
    assert price("LSMR()", small).working_bytes > 4 * 1000 * 100
    assert price("LSMR()", large).working_bytes < 2 * 1_000_000 * 100
    # Accelerators read it as it is.
    machine = Machine.default("gpu", memory_bytes=80 * GIGABYTE)
    question = Question(regression_structure(10_000, 1000, dtype="bfloat16"), machine, 1e-5, 10.0)
    assert question.pass_bytes == 2 * 10**7
    assert price("LSMR()", question).working_bytes < 10**7


ROUND = dataclasses.replace(
    MACHINE,
    platform="gpu",
    read_bandwidth=dict.fromkeys(("float32", "float64", "bfloat16"), 10.0),
    product_rate={"float32": 100.0, "float64": 50.0, "bfloat16": 100.0},
    orthogonal_rate=25.0,
    operation_seconds=0.5,
    cache_bytes=0,
)


def question_of(rows, features, machine=ROUND, dtype="float32", **options):
    return Question(regression_structure(rows, features, dtype=dtype, **options), machine, 1e-5)


def test_a_pass_takes_the_longer_of_reading_and_computing():
    assert question_of(50, 4).seconds(Work(passes=1)) == pytest.approx(4 * 200 / 10)
    slow = dataclasses.replace(ROUND, product_rate=dict.fromkeys(ROUND.product_rate, 1.0))
    assert question_of(50, 4, slow).seconds(Work(passes=1)) == pytest.approx(2 * 200)
    several = question_of(50, 4, outputs=3)  # read once, and multiplied by each
    assert several.seconds(Work(passes=1)) == pytest.approx(4 * 200 / 10 + 3 * 2 * 200 / 100)


def test_amounts_of_work_add_up():
    work = Work(seconds=1.0, kernels=4.0, bytes_moved=30.0, flops=200.0)
    question = question_of(50, 4)
    assert question.seconds(work) == 1 + 4 * 0.5 + 30 / 10 + 200 / 100
    assert question.seconds(work + work * 2) == 3 * question.seconds(work)
    assert (work * 3).bytes_moved == 90


def test_short_sides_are_slower_by_the_stated_halves():
    # A rate R m / (m + half): of a side of half it is half, of an endless one whole.
    question, ratios = question_of(50, 4), ROUND.ratios
    for side, slower in ((ratios.product_half, 2), (1e9, 1)):
        assert question.seconds(question.product(300, side)) == pytest.approx(slower * 300 / 100)
    half = ratios.orthogonal_half
    flops = 2 * half**2 * (1e6 - half / 3)
    assert question.orthogonal(1e6, half).seconds == pytest.approx(2 * flops / 25)
    double = question_of(50, 4, dtype="float64")
    assert double.orthogonal(1e6, half).seconds == pytest.approx(4 * flops / 25)


def test_a_turn_that_touches_little_is_one_kernel_on_one_core_of_a_cpu():
    work = Work(kernels=8, passes=3.0)
    for rows, features, platform, is_one in (
        (1000, 100, "cpu", True),
        (10_000, 100, "cpu", False),
        (10, 10, "gpu", False),
    ):
        machine = dataclasses.replace(ROUND, platform=platform)
        question = question_of(rows, features, machine)
        spread, alone = 8 * 0.5 + 3 * question.pass_seconds, 2 * 3 * question.pass_seconds
        seconds = question.seconds(work, is_loop=True)
        assert seconds == pytest.approx(alone if is_one else spread)


def test_gram_iterates_on_the_square_of_its_features():
    question = Question(regression_structure(10_000, 500), MACHINE, 1e-5, 3.0)
    gram = solves.gram(question)
    assert question.flops(gram.iteration) == 2 * 2 * 500**2
    passes = 3 * 2 * 500 * 10_000
    assert question.flops(gram.setup) == 2 * 500**2 * 10_000 + passes


def test_iterations_follow_chebyshev():
    for condition, tolerance in ((2.0, 1e-3), (50.0, 1e-6), (1e4, 1e-10)):
        rate = (condition - 1) / (condition + 1)
        count = krylov_iterations(condition, tolerance)
        assert 2 * rate**count == pytest.approx(tolerance)
    assert krylov_iterations(1.0, 1e-6) == 1
    structure = regression_structure(10**6, 10**5)
    unknown, assumed = (krylov_count(Question(structure, MACHINE, 1e-6, c)) for c in (None, 100.0))
    assert unknown == assumed == krylov_iterations(100.0, 1e-6)


def test_whatever_the_condition_iterations_end_with_the_last_direction():
    for size in (50, 3000):
        question = Question(regression_structure(size, size), MACHINE, 1e-4, 1e9)
        assert price("ConjugateGradient()", question).iterations == 2 * size + 1
        assert price("LSMR()", question).iterations == 2 * size + 1


def test_new_memory_counts_where_it_is_large_or_the_result():
    def share(objective, params, device):
        """The share of the reserved bytes that each call is to map anew."""
        fresh, known = (
            jd.plan(objective, params, device=dataclasses.replace(device, platform=platform))
            for platform in ("cpu", "gpu")
        )
        seconds = fresh.candidates[0].setup_seconds - known.candidates[0].setup_seconds
        bandwidth = device.ratios.fresh * device.read_bandwidth["float32"]
        return seconds * bandwidth / fresh.candidates[0].working_bytes

    quiet = dataclasses.replace(MACHINE, operation_seconds=1e-15)
    shares = [share(jd.SumOfSquares(), shape(size), quiet) for size in (1000, 10**6, 10**8)]
    # On an accelerator it takes an eighth as long.
    assert shares == pytest.approx([0, 7 / 8 / 3, 7 / 8], abs=1e-6)


def test_a_tighter_tolerance_takes_more_iterations():
    loose, tight = (
        named(jd.plan(regression(10_000, 100), tolerance=tolerance, device=MACHINE))["LSMR()"]
        for tolerance in (1e-2, jd.Tolerance(gradient=1e-6))
    )
    assert loose.iterations < tight.iterations
    assert loose.accuracy > tight.accuracy


# The condition number


def test_a_gaussian_matrix_has_the_condition_of_marchenko_and_pastur(rng):
    for rows, features in ((1200, 300), (300, 1200)):
        measured = np.linalg.cond(rng.normal(size=(rows, features)))
        assert gaussian_condition(rows, features) == pytest.approx(measured, rel=0.05)


def test_an_ill_conditioned_regression_is_priced_with_qr():
    structure = regression_structure(500_000, 20)
    prices = [
        solves.derivative_regression(Question(structure, MACHINE, 1e-5, number))
        for number in (2.0, 1 / structure.eps)
    ]
    question = Question(structure, MACHINE, 1e-5)
    well, ill = (question.flops(price.setup + price.iteration) for price in prices)
    assert ill > 2 * well


def test_a_regression_that_cannot_have_full_rank_is_priced_with_a_decomposition():
    def flops(intercept, l2=0.0):
        objective = jd.LinearRegression(shape(800, 800), shape(800), intercept=intercept, l2=l2)
        return named(jd.plan(objective, device=MACHINE))["DerivativeMethod()"].flops

    assert flops(intercept=True) > 1.5 * flops(intercept=False)
    assert flops(intercept=True, l2=1.0) == flops(intercept=False, l2=1.0)


# The front door


def test_every_argument_may_be_a_shape():
    for objective, params, args in (
        (jd.Quadratic(shape(30, 30), shape(30)), None, ()),
        (jd.SumOfSquares(shape(8), shape(8)), shape(8), ()),
        (jd.LeastSquares(lambda p, t: p * t), shape(5), (shape(5),)),
        (lambda p, t: jnp.sum((p["a"] - t) ** 2), {"a": shape(5)}, (shape(5),)),
        (jd.LinearRegression(shape(9, 3), shape(9), l2=shape(), sample_weight=shape(9)), None, ()),
        (jd.LinearRegression(shape(9, 3), shape(9, 2), l2=shape(2)), None, ()),
        (jd.LinearRegression(jd.MatrixFree(lambda w: w, rows=3, features=3), shape(3)), None, ()),
    ):
        plan = jd.plan(objective, params, args=args, device=MACHINE)
        assert plan.chosen is not None
        assert all(candidate.seconds > 0 for candidate in plan.candidates)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jd.plan(3.0), TypeError, "objective must be a function"),
        (lambda: jd.plan(cosh), ValueError, "params must be given"),
        (
            lambda: jd.plan(jd.LinearRegression(shape(9, 3), shape(8))),
            ValueError,
            "y must have shape",
        ),
        (
            lambda: jd.plan(regression(9, 3, dtype="int32")),
            TypeError,
            "X must be real floating-point",
        ),
        (lambda: jd.plan(jd.Quadratic(shape(3, 4))), ValueError, "must be a square matrix"),
        (lambda: jd.plan(regression(9, 3), shape(4)), ValueError, "needs params of shapes"),
        (lambda: jd.plan(regression(9, 3), tolerance=-1.0), ValueError, "at least 0 and finite"),
        (lambda: jd.plan(regression(9, 3), device="abacus"), ValueError, "name of a platform"),
        (lambda: jd.plan(regression(9, 3), device=7), TypeError, "device must be a JAX device"),
        (lambda: jd.plan(lambda p: p, shape(4)), ValueError, "return a scalar"),
        (lambda: jd.plan(jd.SumOfSquares("a"), shape(4)), TypeError, "an array or a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said(call, error, message, monkeypatch):
    monkeypatch.setattr(Machine, "measured", lambda device=None, **_: MACHINE)
    with pytest.raises(error, match=message):
        call()


def test_it_measures_unless_it_is_traced(monkeypatch):
    asked = []
    monkeypatch.setattr(Machine, "measured", lambda device: asked.append(device) or MACHINE)

    @jax.jit
    def under_jit(x):
        assert jd.plan(jd.SumOfSquares(), x).chosen is not None
        return x

    under_jit(jnp.ones(3))
    assert not asked
    jd.plan(jd.SumOfSquares(), jnp.ones(3))
    assert asked == [jax.devices()[0]]


# What it looks like


def test_the_table_is_aligned_and_marks_the_choice():
    plan = jd.plan(regression(1000, 10), device=MACHINE)
    lines = str(plan).splitlines()
    assert lines[0] == "Plan for linear regression, 1,000 rows x 10 features, float32"
    header, *rows = lines[2 : 3 + len(plan.candidates)]
    ends = header.index("memory") + len("memory")
    assert all(row[ends - 1] == "B" and row[ends] == " " for row in rows)
    assert [row.startswith("*") for row in rows] == [c is plan.chosen for c in plan.candidates]
    assert "not measured" in str(plan)
    assert "is assumed to be 10" in str(plan)
    assert max(map(len, rows)) <= 132
    in_a_notebook = plan._repr_html_()
    assert in_a_notebook.count("<tr>") == 8
    assert "Cholesky of X&#x27;X" in in_a_notebook


def test_json_has_all_numbers():
    plan = jd.plan(regression(1000, 10), device=MACHINE)
    content = json.loads(plan.to_json())
    assert content["chosen"] == plan.chosen.name
    assert content["problem"]["kind"] == "regression"
    assert content["machine"]["memory_bytes"] == MACHINE.memory_bytes
    for candidate, row in zip(plan.candidates, content["candidates"], strict=True):
        assert row["peak_bytes"] == candidate.peak_bytes
        assert row["seconds"] == candidate.seconds
        assert row["reason"] == ""


# The choice


@pytest.mark.parametrize(
    ("objective", "params", "expected"),
    [
        (regression(100, 10), None, "DerivativeMethod()"),
        (regression(10, 1000), None, "DerivativeMethod()"),
        (regression(1000, 200), None, "DerivativeMethod()"),
        (regression(131_072, 4096), None, "Hedge(ConjugateGradient(), LSMR(Sketch()), {budget})"),
        (regression(131_072, 4096, 3), None, "Hedge(LSMR(), LSMR(Sketch()), {budget})"),
        (
            regression(8_000, 4_000),
            None,
            "Hedge(ConjugateGradient(), DerivativeMethod(), {budget})",
        ),
        (
            regression(1_000, 30_000),
            None,
            "Hedge(ConjugateGradient(), DerivativeMethod(), {budget})",
        ),
        (regression(40_000, 40_000), None, "LSMR()"),  # whose solve does not fit
        (
            jd.Quadratic(shape(3000, 3000)),
            None,
            "Hedge(ConjugateGradient(), DerivativeMethod(), {budget})",
        ),
        # What remembers no directions.
        (cosh, shape(1000, dtype="bfloat16"), "GradientDescent(Backtracking())"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_takes_longer_than_a_moment_is_hedged(objective, params, expected):
    chosen = jd.plan(objective, params, device=MACHINE).chosen
    budget = getattr(chosen.method, "budget", None)
    assert chosen.name == expected.format(budget=budget)
    assert chosen.entry.is_memoryless == (params is not None)


def test_what_the_host_solves_compiles_nothing_and_is_not_hedged():
    """However slow the machine is; a device that is no CPU compiles in any case."""
    rates = dict.fromkeys(MACHINE.product_rate, 1e9)
    slow = dataclasses.replace(MACHINE, product_rate=rates)
    of_host, larger = (
        jd.plan(regression(rows, 100), device=slow).chosen for rows in (80_000, 90_000)
    )
    assert of_host.name == "DerivativeMethod()"
    assert of_host.seconds > 2 * 80_000 * 100**2 / 1e9
    assert larger.name.startswith("Hedge(")
    looked_at, plain = (
        named(jd.plan(regression(rows, 50), device=MACHINE))["LSMR()"].setup_seconds
        for rows in (5_000, 6_000)
    )
    assert looked_at > plain + 5e-4  # the host looks at the claims on the smaller one


@pytest.mark.parametrize(("rows", "features"), [(131_072, 4096), (8_000, 4_000), (1_000, 30_000)])
def test_a_budget_is_what_the_sure_way_costs(rows, features):
    plan = plan_of(regression_structure(rows, features, has_penalty=True), MACHINE)
    hedge, first = plan.chosen, named(plan)["ConjugateGradient()"]
    direct, sketch = (named(plan).get(name) for name in ("DerivativeMethod()", "LSMR(Sketch())"))
    then = sketch if "Sketch" in hedge.name else direct
    assert hedge.method.budget == int(then.seconds / first.seconds_per_iteration)
    assert hedge.method.budget >= krylov_iterations(HOPED, plan.structure.default_tolerance)
    spent = first.setup_seconds + hedge.method.budget * first.seconds_per_iteration
    assert hedge.worst_seconds >= 0.99 * (spent + then.seconds)
    # One after the other; the params and their gradient are handed on.
    least = max(first.working_bytes, then.working_bytes)
    assert hedge.peak_bytes - hedge.data_bytes == pytest.approx(least, abs=2 * 4 * (features + 1))
    assert plan.candidates[-1] is hedge
    assert "nobody knows the condition number" in plan.assumptions[-1]
    # What the hedge is for shows beside the others: as quick as the attempt where that suffices,
    # and twice the sure way at most where it does not, when the attempt alone takes longer still.
    assert hedge.best_seconds == pytest.approx(first.best_seconds, rel=0.05)
    assert first.best_seconds < then.best_seconds
    assert hedge.worst_seconds == pytest.approx(spent + then.worst_seconds, rel=0.01)
    assert hedge.worst_seconds < 2.1 * then.worst_seconds
    assert f"* {hedge.name}" in " ".join(str(plan).split())


def test_seconds_in_all_are_a_range():
    plan = jd.plan(regression(40_000, 4_000), device=MACHINE)
    shown = {row[1]: row[plan.columns().index("seconds")] for row in plan.rows()}
    for candidate in plan.candidates:
        assert candidate.best_seconds <= candidate.worst_seconds
        ends = shown[candidate.name].split(" to ")
        assert ends[0] == readable_seconds(candidate.best_seconds)
        assert ends[-1] == readable_seconds(candidate.worst_seconds)
    lsmr, sketch = (named(plan)[name] for name in ("LSMR()", "LSMR(Sketch())"))
    most = lsmr.setup_seconds + ALLOWED_ITERATIONS * lsmr.seconds_per_iteration
    assert lsmr.worst_seconds == pytest.approx(most)
    assert sketch.best_seconds == pytest.approx(sketch.worst_seconds)
    assert " to " not in shown["LSMR(Sketch())"]
    assert "from a condition number of 2" in str(plan)


def test_the_budget_does_not_depend_on_who_asks():
    structure = regression_structure(131_072, 4096)
    names = {
        plan_of(structure, dataclasses.replace(MACHINE, memory_bytes=size)).chosen.name
        for size in (24 * GIGABYTE, 80 * GIGABYTE)
    }
    assert len(names) == 1


def test_an_attempt_that_could_not_succeed_is_not_made():
    structure = regression_structure(20_000, 500, outputs=1)
    slow = dataclasses.replace(MACHINE, read_bandwidth=dict.fromkeys(MACHINE.read_bandwidth, 2e9))
    assert plan_of(structure, slow).chosen.name in ("DerivativeMethod()", "LSMR(Sketch())")
    assert plan_of(structure, MACHINE).chosen.name.startswith("Hedge(")


def test_what_is_allowed_leaves_room_for_the_sure_way():
    structure = regression_structure(8_000, 4_000)
    most = inspect.signature(jd.minimize).parameters["max_iterations"].default
    assert most == ALLOWED_ITERATIONS
    budgets = [
        plan_of(structure, MACHINE, most_iterations=count).chosen.method.budget
        for count in (ALLOWED_ITERATIONS, most, 40)
    ]
    assert budgets[0] == budgets[1] > budgets[2] == 40 - 2
    assert plan_of(structure, MACHINE, most_iterations=5).chosen.name == "DerivativeMethod()"


def test_the_sure_way_is_the_one_that_is_wrong_by_least():
    """A sketch takes longer than Cholesky, of which nothing is kept if X is ill-conditioned."""
    structure = regression_structure(65_536, 1024)
    prices = named(plan_of(structure, MACHINE))
    direct, sketched = prices["DerivativeMethod()"], prices["LSMR(Sketch())"]
    assert choice.surest(structure, [direct, sketched]).name == sketched.name
    assert direct.worst_seconds > 1.5 * sketched.worst_seconds
    quick = dataclasses.replace(direct, seconds=sketched.seconds / 4, worst_seconds=1.0)
    assert choice.surest(structure, [quick, sketched]) is quick
    assert choice.surest(structure, []) is None


def test_a_moment_is_never_weighed():
    slow = dataclasses.replace(MACHINE, orthogonal_rate=2e9, operation_seconds=1e-8)
    plan = plan_of(regression_structure(1000, 150), slow)
    assert 1e-3 < named(plan)["DerivativeMethod()"].seconds < choice.MOMENT
    assert named(plan)["LSMR()"].seconds * 2 < named(plan)["DerivativeMethod()"].seconds
    assert plan.chosen.name == "DerivativeMethod()"


def test_under_jit_a_large_regression_takes_the_surer_method(monkeypatch):
    monkeypatch.setattr(Machine, "measured", None)
    monkeypatch.setattr(memory, "available_bytes", lambda device=None: 24 * GIGABYTE)
    enders = []

    def solve(X, y):
        result = jd.minimize(jd.LinearRegression(X, y))
        enders.append(result.ended_by.names)
        return result.value

    jax.eval_shape(solve, shape(131_072, 4096), shape(131_072))
    jax.eval_shape(solve, shape(1024, 64), shape(1024))
    assert enders == [("LSMR(Sketch())",), ("DerivativeMethod()",)]


# Refusal


def test_what_fits_nowhere_is_refused_with_every_need_and_the_ways_out():
    plan = jd.plan(regression(10**6, 10**5), device=MACHINE)
    assert plan.chosen is None
    assert not any(candidate.feasible for candidate in plan.candidates)
    lsmr = named(plan)["LSMR()"]
    assert lsmr.reason == "needs 403 GB, 24 GB available"
    with pytest.raises(jd.ProblemTooLarge) as refused:
        plan.require()
    message = str(refused.value)
    for expected in (
        "24 GB are available",
        *(f"{c.name} {memory.readable_bytes(c.allocated_bytes)}" for c in plan.candidates),
        f"over {math.ceil(lsmr.peak_bytes / (0.9 * 24e9))} such devices",
        "jd.Streamed reads them in blocks",
    ):
        assert expected in message
    assert "no method fits" in str(plan)


def test_another_dtype_is_a_way_out(x64):
    plan = jd.plan(regression(80_000, 40_000, dtype="float64"), device=MACHINE)
    with pytest.raises(jd.ProblemTooLarge, match="In float32"):
        plan.require()
    machine = Machine.default("gpu", memory_bytes=24 * GIGABYTE)
    plan = jd.plan(regression(80_000, 80_000), device=machine)
    with pytest.raises(jd.ProblemTooLarge, match="Stored in bfloat16"):
        plan.require()


def test_minimize_refuses_before_allocation(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device=None: 3 << 20)
    with pytest.raises(jd.ProblemTooLarge, match=r"LBFGS\(\) 104 MB; LBFGS\(memory=1\) 32 MB"):
        jd.minimize(cosh, jnp.zeros(1_000_000))
    result = jd.minimize(cosh, jnp.zeros(1000), max_iterations=2)
    assert int(result.iterations) <= 2


def test_a_limit_on_the_process_is_respected():
    program = (
        "import resource, jax, jax.numpy as jnp, jaxdescent as jd\n"
        "jnp.zeros(3).block_until_ready()\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + 10**9\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "from jaxdescent.machine import Machine\n"
        "machine = Machine.of()\n"
        "assert machine.memory_bytes <= 10**9, machine.memory_bytes\n"
        "X = jax.ShapeDtypeStruct((100_000, 5_000), 'float32')\n"
        "y = jax.ShapeDtypeStruct((100_000,), 'float32')\n"
        "plan = jd.plan(jd.LinearRegression(X, y), device=machine)\n"
        "assert plan.chosen is None\n"
        "try:\n"
        "    jax.eval_shape(lambda x: jd.minimize(lambda p: jnp.sum(jnp.cosh(p)), x),\n"
        "                   jax.ShapeDtypeStruct((10**9,), 'float32'))\n"
        "except jd.ProblemTooLarge as error:\n"
        "    print('refused', error)\n"
    )
    assert printed(program).startswith("refused no method fits")


def test_a_donated_start_is_not_counted_twice(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device=None: 5_000_000)
    params = jnp.ones(1_000_000)
    with pytest.raises(jd.ProblemTooLarge):
        jd.minimize(jd.SumOfSquares(), params)
    result = jd.minimize(jd.SumOfSquares(), params, donate=True)
    assert float(jnp.max(jnp.abs(result.params))) < 1e-6


# How far it goes


def test_the_largest_size_is_the_last_that_fits():
    def structure_at(size):
        return regression_structure(2 * size, size)

    for name in ("DerivativeMethod()", "LSMR()"):
        size = largest_size(structure_at, MACHINE, name)
        fits, does_not = (
            named(plan_of(structure_at(n), MACHINE))[name].feasible for n in (size, size + 1)
        )
        assert fits
        assert not does_not
    sizes = largest_sizes(structure_at, MACHINE)
    direct, descent = sizes.pop("DerivativeMethod()"), max(sizes.values())
    assert direct < descent < math.sqrt(MACHINE.memory_bytes / 8)
    assert largest_size(structure_at, dataclasses.replace(MACHINE, memory_bytes=0), "LSMR()") == 0


@pytest.mark.parametrize("shape", [(3000, 3000), (200_000, 300), (40, 9000), (10, 1)])
@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_the_range_of_seconds_holds_the_expected_ones(shape, l2):
    X, y = jax.ShapeDtypeStruct(shape, "float32"), jax.ShapeDtypeStruct(shape[:1], "float32")
    for candidate in jd.plan(jd.LinearRegression(X, y, l2=l2)).candidates:
        assert 0 < candidate.best_seconds <= candidate.seconds <= candidate.worst_seconds
