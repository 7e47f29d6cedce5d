"""Long descents in chunks: equal to minimize, watched by hooks, ended by signals."""

import dataclasses
import io
import json
import os
import signal
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdescent as jd
from jaxdescent.calls import programs
from jaxdescent.minimize import set_up
from jaxdescent.objectives import as_objective
from jaxdescent.runs.chunks import Chunks
from jaxdescent.runs.driver import SECONDS, Pace
from tests.files import full_disk
from tests.meshes import rows_over
from tests.results import assert_same
from tests.short_runs import METHOD, START, Sends, X, Y, minimize, run, valley

REGRESSION = jd.LinearRegression(X, Y)
TREE = {"a": jnp.arange(7.0), "b": jnp.ones((3, 2))}


def bowl(x):
    return jnp.sum(jnp.cosh(x - 1)) + 0.1 * jnp.sum(x) ** 2


def leaves(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


METHODS = {
    "regression, LSMR": (REGRESSION, None, jd.LSMR()),
    "function, LBFGS": (valley, START, jd.LBFGS()),
    "function, backtracking": (valley, START, jd.GradientDescent()),
    "function, adam": (valley, START, optax.adam(1e-2)),
    "separable, fused steps": (jd.SumOfSquares(), TREE, jd.GradientDescent(1e-2)),
    "regression, default": (REGRESSION, None, None),
    "regression, CG": (REGRESSION, None, jd.ConjugateGradient(jd.Jacobi())),
    "regression, its Gram matrix": (
        jd.LinearRegression(X, Y, l2=1.0),
        None,
        jd.Gram(jd.ConjugateGradient()),
    ),
    "residuals": (jd.LeastSquares(lambda x: x**2 - 2), START, jd.LevenbergMarquardt()),
}


def assert_near(got, want):
    """The same params and value, but for the rounding of products that LLVM contracted."""
    for one, other in zip(leaves(got.params), leaves(want.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.value, want.value, rtol=1e-4, atol=1e-7)


def same_in_chunks(objective, start, method, *chunks, **options):
    """The result of a run, which is that of minimize in chunks of any of these lengths."""
    # Inside a program the gap is a part of it, as it is of a chunk's program.
    want = jax.jit(lambda: jd.minimize(objective, start, method, **options))()
    got, *others = (jd.run(objective, start, method, chunk=each, **options) for each in chunks)
    for other in others:
        assert_same(other, got)
    assert_near(got, want)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    return got


@pytest.mark.first
@pytest.mark.parametrize("name", METHODS)
def test_any_chunks_give_the_result_of_minimize(name, request):
    if name == "function, adam":
        request.getfixturevalue("relaxed_promotion")
    # With a history a small solve by default is XLA's too, and not the host's.
    history = 5 if METHODS[name][2] is None else 0
    same_in_chunks(*METHODS[name], 7, None, max_iterations=77, history=history)


@pytest.mark.parametrize("check_every", [1, 3])
def test_any_chunks_give_the_same_with_several_steps_between_checks(check_every):
    options = {"max_iterations": 50, "check_every": check_every, "history": 5, "tolerance": 0}
    same_in_chunks(valley, START, METHOD, 1, 4, 100, **options)


def test_double_precision(x64):
    got = same_in_chunks(valley, jnp.asarray(START, jnp.float64), jd.LBFGS(), 2)
    assert got.params.dtype == jnp.float64


def test_tolerances_predicates_and_closures():
    scale = jnp.asarray([1.0, 2.0, 3.0, 4.0])
    stop = jd.Tolerance(gradient=1e-3, predicate=lambda check: check.value < jnp.sum(scale) * 0.05)

    class Bowl:
        def __init__(self, factor):
            self.factor = factor

        def value(self, x):
            return jnp.sum(self.factor * scale * x**2)

    bowl = Bowl(1.0)
    want = jd.minimize(bowl.value, START, jd.GradientDescent(0.02), tolerance=stop)
    got = jd.run(bowl.value, START, jd.GradientDescent(0.02), tolerance=stop, chunk=3)
    assert int(got.status) == jd.Status.STOPPED
    assert_same(got, want)
    bowl.factor = 2.0
    again = jd.run(bowl.value, START, jd.GradientDescent(0.02), tolerance=stop, chunk=3)
    assert int(again.iterations) < int(got.iterations)


def test_neither_the_start_nor_the_data_are_consumed():
    start, data = jnp.array(START), jnp.asarray(np.diag(np.arange(1, 5, dtype=np.float32)))
    objective = jd.Quadratic(data, jnp.array(START))
    for method in (jd.ConjugateGradient(), jd.GradientDescent(0.1)):
        jd.run(objective, start, method, chunk=2, max_iterations=6)
        np.testing.assert_array_equal(start, START)
        np.testing.assert_array_equal(objective.linear, START)
        assert not data.is_deleted()
    jd.run(objective, start, jd.GradientDescent(0.1), chunk=2, max_iterations=6, donate=True)
    assert start.is_deleted()


@pytest.mark.slow
@pytest.mark.parametrize("objective", [jd.SumOfSquares(), valley], ids=["separable", "coupled"])
def test_no_chunk_copies_the_params(objective):
    size = 1 << 18
    setup = set_up(
        as_objective(objective, ()),
        jnp.ones(size),
        METHOD,
        max_iterations=100,
        tolerance=0,
        check_every=None,
        donate=True,
        history=0,
        rounding=None,
        is_top_level=True,
    )
    chunks = Chunks(setup, donate=True)
    loop, _ = chunks.advance(chunks.begin(setup.inputs[0]), 0, is_last=False)
    place = loop.params.unsafe_buffer_pointer()
    for until in (16, 32):
        loop, numbers = chunks.advance(loop, until, is_last=True)
        assert loop.params.unsafe_buffer_pointer() == place
    assert len(jax.tree.leaves(numbers)) <= 3  # each costs the host time in every chunk
    inputs = loop, chunks.problem, chunks.limit, chunks.limit
    memory = chunks._advance.lower(*inputs).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= 4 * size
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 1000
    whole = programs.compiled(jd.descent.loop.descend, setup.inputs, donate=(0,), **setup.flags)
    of_minimize = whole.lower(jnp.ones(size), *setup.inputs[1:]).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= of_minimize.temp_size_in_bytes + 1000


def test_the_chunks_grow_to_half_a_second():
    pace = Pace(None, 16)
    lengths = []
    for _ in range(8):
        lengths.append(pace.length)
        pace.after(pace.length, pace.length * 1e-4)
    assert lengths[:3] == [16, 128, 1024]
    assert pace.length == pytest.approx(SECONDS / 1e-4, rel=0.01)
    assert pace.length % 16 == 0
    pace.after(10, 5.0)  # one that was shorter than told says nothing
    assert pace.length == pytest.approx(SECONDS / 1e-4, rel=0.01)
    given = Pace(10, 16)
    given.after(16, 1e-9)
    assert given.length == 16


class Recorder(jd.hooks.Hook):
    """Notes every call."""

    def __init__(self):
        self.calls, self.records = [], []

    def begin(self, facts):
        self.calls.append("begin")
        self.facts = facts

    def pause(self, pause):
        self.calls.append(f"pause {pause.chunk} at {pause.iteration}")

    def report(self, record):
        self.calls.append(f"report {record.chunk} at {record.iteration}")
        self.records.append(record)

    def end(self, result, summary):
        self.calls.append("end")
        self.summary = summary

    def close(self):
        self.calls.append("close")


def test_hooks_are_told_of_a_chunk_while_the_device_works_on_the_next():
    seen = Recorder()
    result = run(max_iterations=30, chunk=12, hooks=[seen])
    assert seen.calls == [
        "begin",
        "pause 0 at 0",
        "pause 1 at 12",
        "report 0 at 12",
        "pause 2 at 24",
        "report 1 at 24",
        "report 2 at 30",
        "end",
        "close",
    ]
    last = seen.records[-1]
    assert last.status == jd.Status.MAX_ITERATIONS
    assert (last.value, last.gradient_norm) == (float(result.value), float(result.gradient_norm))
    value, gradient = jax.jit(jax.value_and_grad(valley))(START)
    assert last.first_value == pytest.approx(float(value))
    assert last.first_gradient_norm == pytest.approx(np.linalg.norm(gradient))
    assert last.evaluations == int(result.evaluations)
    assert [record.iterations for record in seen.records] == [12, 12, 6]
    assert seen.facts == jd.hooks.Facts("Function()", "GradientDescent()", 4, 16, 30, 0, None, True)
    assert seen.summary.iterations == 30
    assert 0 <= seen.summary.goodput <= 1
    assert seen.summary.seconds_in_steps == pytest.approx(
        sum(record.chunk_seconds for record in seen.records)
    )


def test_of_a_chunk_that_was_dispatched_after_the_end_nothing_is_told():
    seen = Recorder()
    result = jd.run(jd.SumOfSquares(), START, jd.GradientDescent(0.4), chunk=4, hooks=[seen])
    assert int(result.status) == jd.Status.CONVERGED
    *before, last = seen.records
    assert last.status == jd.Status.CONVERGED
    assert all(record.status is None for record in before)
    assert all(record.iterations > 0 for record in seen.records)
    assert seen.summary.iterations == int(result.iterations)


@pytest.mark.slow
def test_the_bandwidth_is_that_of_the_cost_model():
    seen = Recorder()
    start = jnp.ones(1000)
    jd.run(jd.SumOfSquares(), start, METHOD, max_iterations=64, chunk=32, hooks=[seen], tolerance=0)
    assert seen.facts.bytes_per_iteration == 2 * 4000 / 16  # one pass for sixteen steps
    for record in seen.records:
        expected = 500 * record.iterations_per_second
        assert record.bytes_per_second == pytest.approx(expected)
    jd.run(REGRESSION, method=jd.LSMR(), hooks=[seen])
    # Two passes over X, and vectors.
    assert 2 * X.nbytes < seen.facts.bytes_per_iteration < 20 * X.nbytes


@pytest.mark.parametrize(
    "name",
    [
        "regression, LSMR",
        pytest.param("function, LBFGS", marks=pytest.mark.slow),
    ],
)
def test_what_is_ended_on_the_way_is_measured_there(name):
    objective, start, method = METHODS[name]
    stop = jd.hooks.StopWhen(lambda record: True)
    result = jd.run(objective, start, method, chunk=1, hooks=[stop])
    assert int(result.status) == jd.Status.STOPPED
    assert int(result.iterations) == 2
    differentiated = jax.jit(jax.value_and_grad(as_objective(objective, ()).value))
    value, gradient = differentiated(result.params)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    assert float(result.value) == pytest.approx(float(value), rel=1e-5)
    assert float(result.gradient_norm) == pytest.approx(norm, rel=1e-3, abs=1e-4)


def test_what_is_ended_before_its_first_step_is_measured_at_the_start():
    class Ends(jd.hooks.Hook):
        def begin(self, facts):
            os.kill(os.getpid(), signal.SIGINT)

    result = jd.run(valley, START, jd.LBFGS(), hooks=[Ends()])
    assert int(result.status) == jd.Status.INTERRUPTED
    assert (int(result.iterations), int(result.evaluations)) == (0, 1)
    value, gradient = jax.jit(jax.value_and_grad(valley))(START)
    assert float(result.value) == pytest.approx(float(value), rel=1e-5)
    assert float(result.gradient_norm) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)


def test_a_run_that_ends_by_itself_keeps_its_status():
    stop = jd.hooks.StopWhen(lambda record: True)
    result = jd.run(REGRESSION, method=jd.LSMR(), chunk=100, hooks=[stop])
    assert int(result.status) == jd.Status.CONVERGED


def test_an_error_in_a_hook_ends_the_run_and_closes_the_others():
    class Broken(jd.hooks.Hook):
        def report(self, record):
            raise ZeroDivisionError("the hook's own")

    seen = Recorder()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError, match="the hook's own"):
        run(chunk=5, hooks=[seen, Broken()])
    assert seen.calls[-1] == "close"
    assert "end" not in seen.calls
    assert signal.getsignal(signal.SIGINT) is before


def lines_of(capsys):
    return capsys.readouterr().err.strip().splitlines()


def test_progress_in_lines(capsys):
    hooks = [jd.hooks.Progress(every=0)]
    run(max_iterations=20, chunk=10, hooks=hooks)
    first, second, last = lines_of(capsys)
    assert first.startswith("GradientDescent(), 4 unknowns: 10 of 20 iterations, value ")
    assert "iterations/s, at most" in first
    assert "20 of 20" in second
    assert "left" not in second
    assert ": MAX_ITERATIONS after 20 iterations at " in last
    assert "% of them in steps" in last
    jd.run(
        REGRESSION, method=jd.LSMR(), hooks=[jd.hooks.Progress(every=1e9, label="mine")], chunk=1
    )
    first, *_, last = lines_of(capsys)
    assert "B/s" in first
    assert last.startswith("mine: CONVERGED")


def test_outside_a_terminal_there_is_a_line_every_ten_seconds(monkeypatch, capsys):
    from jaxdescent.runs.hooks import progress

    seen = Recorder()
    run(max_iterations=20, chunk=20, tolerance=0, hooks=[seen])
    (record,), times = seen.records, (0.0, 4.0, 9.9, 10.1, 15.0, 20.0, 20.2, 39.0, 40.0)
    clock = iter(times)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    hook = jd.hooks.Progress()
    hook.begin(seen.facts)
    for number, _ in enumerate(times):
        is_last = number == len(times) - 1
        status = record.status if is_last else None
        hook.report(dataclasses.replace(record, iteration=number, status=status))
    lines = lines_of(capsys)
    assert [line.split(": ")[1].split(" of ")[0] for line in lines] == ["0", "3", "6", "7", "8"]


class Takes(jd.hooks.Hook):
    """Takes seconds of a clock that nothing else moves."""

    def __init__(self, clock):
        self.clock = clock

    def begin(self, facts):
        self.clock[0] += 1000.0

    def pause(self, pause):
        self.clock[0] += 10.0

    def report(self, record):
        self.clock[0] += 1.0

    def end(self, result, summary):
        self.summary = summary


def test_the_hooks_own_time_is_that_of_pauses_and_reports(monkeypatch):
    clock = [0.0]
    told = types.SimpleNamespace(perf_counter=lambda: clock[0])
    for module in ("run", "driver"):
        monkeypatch.setattr(sys.modules[f"jaxdescent.runs.{module}"], "time", told)
    hook = Takes(clock)
    run(max_iterations=40, chunk=10, tolerance=0, hooks=[hook])
    summary = hook.summary
    assert summary.seconds_in_hooks == 4 * 10.0 + 4 * 1.0
    assert summary.seconds == 1000.0 + 4 * 10.0 + 4 * 1.0
    assert summary.seconds_saving == 0.0


def test_progress_as_a_bar():
    console = pytest.importorskip("rich.console")
    screen = io.StringIO()
    terminal = console.Console(file=screen, force_terminal=True, width=150)
    hooks = [jd.hooks.Progress(every=0, console=terminal, label="bar")]
    run(max_iterations=20, chunk=10, hooks=hooks)
    shown = screen.getvalue()
    assert "20/20" in shown
    assert "iterations/s" in shown
    assert "bar: MAX_ITERATIONS after 20 iterations" in shown


def test_the_history_has_every_chunk(tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    seen = Recorder()
    hooks = [seen, jd.hooks.History(path)]
    for _ in range(2):  # a run that begins anew replaces the file
        seen.records = []
        run(max_iterations=25, chunk=10, hooks=hooks)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [10, 20, 25]
    for row, record in zip(rows, seen.records, strict=True):
        assert row["value"] == record.value
        assert row["evidence"] == str(record.evidence)
    assert [row["status"] for row in rows] == [None, None, "MAX_ITERATIONS"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_trace_of_one_chunk(tmp_path):
    run(max_iterations=30, chunk=10, hooks=[jd.hooks.Profile(tmp_path, chunk=1)])
    assert list(tmp_path.rglob("*.xplane.pb"))
    elsewhere = tmp_path / "none"
    run(max_iterations=10, hooks=[jd.hooks.Profile(elsewhere, chunk=99)])
    assert not elsewhere.exists()


class FullDisk(io.StringIO):
    """A console's file on which nothing can be written."""

    write = full_disk


class FillsTheDisk(jd.hooks.Hook):
    """Gives a history whose file is open one on a device that is always full."""

    def __init__(self, history):
        self.history = history

    def begin(self, facts):
        self.history._file.close()
        self.history._file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")


def hooks_that_cannot_write(kind, folder):
    place = folder / "place"
    if kind == "lines":
        history = jd.hooks.History(place / "run.jsonl")
        return [history, FillsTheDisk(history)]
    if kind == "trace":
        place.write_text("no folder")
        return [jd.hooks.Profile(place / "trace", chunk=1)]
    console = pytest.importorskip("rich.console").Console(
        file=FullDisk(), width=150, force_terminal=kind == "bar"
    )
    return [jd.hooks.Progress(every=0, console=console)]


@pytest.mark.parametrize("kind", ["lines", "trace", "console", "bar"])
def test_a_hook_that_cannot_write_does_not_cost_the_result(kind, tmp_path):
    hooks = hooks_that_cannot_write(kind, tmp_path)
    told = f"{hooks[0]!r} could not write; the run goes on without it ("
    with pytest.warns(RuntimeWarning) as warned:
        result = run(max_iterations=40, chunk=10, hooks=hooks)
    (warning,) = warned
    assert str(warning.message).startswith(told)
    want = minimize(max_iterations=40)
    np.testing.assert_array_equal(result.params, want.params)
    assert not list(tmp_path.rglob(".*"))  # no file that was to take the place of another


BY_A_SIGNAL = "INTERRUPTED: A signal ended the run"
STOPS = jd.hooks.StopWhen(lambda record: record.iteration >= 20)


@pytest.mark.parametrize(
    ("hook", "message", "said"),
    [
        (Sends(1), BY_A_SIGNAL, "SIGINT: the steps under way"),
        (Sends(1, number=signal.SIGTERM), BY_A_SIGNAL, "SIGTERM: the steps under way"),
        (STOPS, "STOPPED: ", ""),
    ],
)
def test_what_ends_a_run_leaves_everything_so_far(hook, message, said, capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    result = run(chunk=10, hooks=[hook])
    assert result.message.startswith(message)
    assert int(result.iterations) == 30  # the next chunk was under way
    want = minimize(max_iterations=30)
    np.testing.assert_array_equal(result.params, want.params)
    # The step that is checked with the next one has been measured where it led.
    assert float(result.value) == pytest.approx(float(want.value), rel=1e-6)
    assert float(result.gradient_norm) == pytest.approx(float(want.gradient_norm), rel=1e-6)
    assert float(result.value) == pytest.approx(float(valley(result.params)), rel=1e-6)
    assert said in capsys.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_signal_need_not_wait_for_the_device():
    """The main thread takes signals while a long chunk is computed."""
    size, before = 1 << 20, signal.getsignal(signal.SIGINT)
    started = threading.Event()

    class Begins(jd.hooks.Hook):
        def pause(self, pause):
            started.set()

    def interrupt():
        started.wait()
        for _ in range(2):
            threading.Event().wait(0.05)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    seen, steps = Recorder(), {"max_iterations": 100, "chunk": 100, "tolerance": 0}
    with pytest.raises(KeyboardInterrupt, match="a second SIGINT"):
        jd.run(
            valley, jnp.ones(size) * 0.5, jd.GradientDescent(1e-5), hooks=[Begins(), seen], **steps
        )
    thread.join()
    assert "report 0 at 100" not in seen.calls
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_run_without_handlers():
    found = []
    thread = threading.Thread(target=lambda: found.append(run(max_iterations=20, chunk=10)))
    thread.start()
    thread.join()
    assert_same(found[0], run(max_iterations=20, chunk=10))


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = run(max_iterations=40, chunk=10, hooks=[Sends(0)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert int(result.status) == jd.Status.MAX_ITERATIONS


NAN = jnp.asarray([1.0, jnp.nan, 2.0, 3.0])
REFUSED = [
    (
        lambda: jax.jit(lambda x: jd.run(valley, x).params)(START),
        TypeError,
        r"run drives a descent from the host and cannot be traced.*call minimize",
    ),
    (
        lambda: run(hooks=jd.hooks.Progress()),
        TypeError,
        r"hooks must be a list of hooks, got Progress\(\)",
    ),
    (
        lambda: run(hooks=[jd.hooks.Progress]),
        TypeError,
        r"must be instances of jd.hooks.Hook.*Call it first",
    ),
    (
        lambda: run(hooks=[print]),
        TypeError,
        r"must be instances of jd.hooks.Hook.*got <built-in function print>",
    ),
    (lambda: run(chunk=0), ValueError, r"chunk must be at least 1, got 0"),
    (lambda: jd.run(valley, {"x": NAN}["x"]), ValueError, r"start holds NaN"),
    (
        lambda: jd.run(jd.LinearRegression(X.at[3, 2].set(jnp.nan), Y), method=jd.LSMR()),
        ValueError,
        r"the data.*X.* holds NaN",
    ),
    (lambda: run(resume=True), ValueError, r"resume=True needs the folder.*checkpoint=folder"),
    (
        lambda: run(checkpoint=3),
        TypeError,
        r"checkpoint must be a folder or jd.hooks.Checkpoint\(folder\), got 3",
    ),
    (
        lambda: jd.hooks.History("run.parquet"),
        ValueError,
        r"History writes lines of JSON, got 'run.parquet': name a file that ends in .jsonl",
    ),
    (lambda: jd.hooks.StopWhen(0.5), TypeError, r"StopWhen needs a function of a record, got 0.5"),
    (lambda: jd.hooks.Profile(3), TypeError, r"Profile needs the path of a folder, got 3"),
    (lambda: jd.hooks.Profile(""), TypeError, r"Profile needs the path of a folder, got ''"),
    (lambda: run(max_iterations=0), ValueError, r"max_iterations"),
    (lambda: jd.hooks.Checkpoint("run", keep=0), ValueError, "keep must be at least 1"),
    (
        lambda: jd.hooks.Checkpoint("run", every=-1.0),
        ValueError,
        "every must be at least 0 seconds, got -1.0",
    ),
    (lambda: jd.hooks.Checkpoint(3), TypeError, "Checkpoint needs the path of a folder, got 3"),
    (lambda: jd.hooks.Checkpoint(""), TypeError, "Checkpoint needs the path of a folder, got ''"),
]


@pytest.mark.parametrize(("call", "kind", "match"), REFUSED)
def test_errors_say_what_to_do(call, kind, match):
    with pytest.raises(kind, match=match):
        call()


@pytest.mark.slow
def test_values_that_are_nan_elsewhere_are_a_status():
    result = jd.run(lambda x: jnp.sum(jnp.log(x)), -jnp.ones(2), jd.GradientDescent(0.1))
    assert int(result.status) == jd.Status.NON_FINITE
    masked = jnp.asarray([1.0, jnp.nan])

    def without_missing(x, data):
        return jnp.sum(jnp.where(jnp.isnan(data), 0, x - jnp.nan_to_num(data)) ** 2)

    result = jd.run(without_missing, jnp.zeros(2), jd.GradientDescent(0.1), args=(masked,))
    assert bool(result.converged)


@pytest.mark.slow
def test_sharded_params_stay_sharded():
    start = jax.device_put(jnp.linspace(-1, 1, 64), rows_over(8))
    method = jd.GradientDescent(1e-3, momentum=jd.Nesterov())  # whose state is sharded, too
    got = same_in_chunks(bowl, start, method, 3, max_iterations=20)
    assert got.params.sharding.is_equivalent_to(start.sharding, 1)


# At the end: it forgets the programs of the tests before it, which would be compiled again.
@pytest.mark.slow
def test_optimised_code_gives_the_same_in_any_chunks(polished):
    """Chunks of any length are one program; LLVM may contract that of minimize otherwise."""
    options = {"max_iterations": 40, "tolerance": 0}
    for name in ("function, LBFGS", "separable, fused steps"):
        want = jd.minimize(*METHODS[name], **options)
        first, *others = (jd.run(*METHODS[name], chunk=chunk, **options) for chunk in (1, 7, None))
        for other in others:
            assert_same(other, first)
        assert_near(first, want)
