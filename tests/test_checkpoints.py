"""Checkpoints of a run: resumed is uninterrupted, whatever kills the process or the files."""

import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.runs import checkpoints, chunks
from jaxdescent.runs.hooks import checkpoint as module
from tests.commands import printed
from tests.meshes import rows_over
from tests.results import assert_same
from tests.short_runs import METHOD, START, Sends, X, Y, minimize, names, run, valley


def saved(folder, **options):
    return jd.hooks.Checkpoint(folder, **{"every": 0.0, **options})


class Waits(jd.hooks.Hook):
    """Waits for the checkpoint that is being written, so that every second chunk has one."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def pause(self, pause):
        self.checkpoint._folder.wait()


def stopped(folder, *, at=30, keep=3, **options):
    """Run with a checkpoint for each of the chunks, and stop."""
    checkpoint = saved(folder, keep=keep)
    stop = jd.hooks.StopWhen(lambda record: record.iteration >= at - 10)
    return run(chunk=10, checkpoint=checkpoint, hooks=[stop, Waits(checkpoint)], **options)


def resumed(folder, *, chunk=7, **options):
    return run(chunk=chunk, checkpoint=saved(folder), resume=True, **options)


PROBLEMS = {
    "function": (valley, START, METHOD, {}),
    "LBFGS": (valley, START, jd.LBFGS(), {}),
    "regression": (jd.LinearRegression(X, Y), None, jd.GradientDescent(1e-4), {}),
    "16 bits, at random": (
        jd.SumOfSquares(),
        {"a": jnp.linspace(-3, 3, 64, dtype=jnp.bfloat16), "b": jnp.ones((2, 3))},
        METHOD,
        {"rounding": jd.StochasticRounding(3)},
    ),
}


@pytest.mark.first
@pytest.mark.parametrize("name", PROBLEMS)
def test_resumed_is_uninterrupted(name, tmp_path):
    objective, start, method, options = PROBLEMS[name]
    problem = {"objective": objective, "start": start, "method": method, "history": 3, **options}
    problem |= {"max_iterations": 100, "tolerance": 0}
    first = stopped(tmp_path / "run", **problem)
    assert 0 < int(first.iterations) < 100
    got, want = resumed(tmp_path / "run", **problem), minimize(**problem)
    assert_same(got, want)
    assert jax.tree.map(jnp.result_type, got.params) == jax.tree.map(jnp.result_type, want.params)


LIMITED = {
    "LBFGS": (valley, START, jd.LBFGS(), 3, {}),
    "conjugate gradients": (jd.LinearRegression(X, Y), None, jd.ConjugateGradient(), 3, {}),
    "checks between steps": (valley, START, METHOD, 20, {"check_every": 16}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITED)
def test_a_run_that_is_over_answers_at_once_and_may_be_given_more(name, tmp_path):
    objective, start, method, few, options = LIMITED[name]
    problem = {"objective": objective, "start": start, "method": method, "history": 3, **options}
    first, whole = minimize(**problem, max_iterations=few), minimize(**problem, max_iterations=40)
    given = run(**problem, max_iterations=few, checkpoint=saved(tmp_path), chunk=10)
    assert len(names(tmp_path)) == 1
    assert_same(resumed(tmp_path, **problem, max_iterations=few), given)
    # The gap at the limit may begin the descent again: the ends agree, and not each digit.
    more = resumed(tmp_path, **problem, max_iterations=40)
    for got, expected in ((given, first), (more, whole)):
        assert int(got.status) == int(expected.status)
        np.testing.assert_allclose(got.value, expected.value, rtol=1e-2, atol=1e-6)
    assert_same(resumed(tmp_path, **problem, max_iterations=40), more)


def test_the_newest_are_kept_and_a_folder_that_has_a_run_is_not_overwritten(tmp_path):
    stopped(tmp_path, keep=2)
    assert names(tmp_path) == ["iteration-0000000020", "iteration-0000000030"]
    with pytest.raises(ValueError, match=r"has a checkpoint of iteration 30: pass resume=True"):
        run(checkpoint=tmp_path)
    assert_same(resumed(tmp_path / "new", max_iterations=20), run(max_iterations=20))


def test_the_memory_of_a_copy_is_kept_for_the_next(tmp_path, monkeypatch):
    copies = []

    def copied(self, loop, spare=None, copied=chunks.Chunks.copied):
        before = None if spare is None else spare.params.unsafe_buffer_pointer()
        copy = copied(self, loop, spare)
        copies.append((before, copy.params.unsafe_buffer_pointer()))
        return copy

    monkeypatch.setattr(chunks.Chunks, "copied", copied)
    options = {"start": jnp.linspace(-1, 1, 5000), "tolerance": 0, "max_iterations": 40}
    checkpoint = saved(tmp_path)
    got = run(chunk=5, checkpoint=checkpoint, hooks=[Waits(checkpoint)], **options)
    (first, _), *later = copies
    assert first is None
    assert len(later) >= 2
    assert all(before == after for before, after in later)
    assert_same(got, minimize(**options))


def test_without_room_for_a_copy_the_run_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(module.memory, "available_bytes", lambda device: 0)
    copied = []
    monkeypatch.setattr(
        module.checkpoints.Folder,
        "wait",
        lambda self, *seconds, wait=module.checkpoints.Folder.wait: (
            copied.append(1) or wait(self, *seconds)
        ),
    )
    options = {"max_iterations": 40, "tolerance": 0}
    got = run(checkpoint=saved(tmp_path), chunk=10, **options)
    assert_same(got, minimize(**options))
    assert names(tmp_path)[-1] == "iteration-0000000040"
    assert len(names(tmp_path)) == 3
    assert len(copied) >= 4


def test_a_start_that_is_donated_makes_room_for_what_is_restored(tmp_path):
    stopped(tmp_path, max_iterations=100)
    start = jnp.array(START)
    got = resumed(tmp_path, start=start, donate=True, max_iterations=100)
    assert start.is_deleted()
    assert_same(got, run(max_iterations=100))


def steeper(x):
    return 2 * valley(x)


OTHERS = {
    "data": (
        {"objective": jd.LinearRegression(X.at[3, 2].add(1e-3), Y)},
        r"iteration-0000000030 is of another run: objective.*X.* was float32\[60, 5\] \w+ and is "
        r"float32\[60, 5\] \w+\. Call run as it was called then",
    ),
    "rows": (
        {"objective": jd.LinearRegression(X[:50], Y[:50])},
        r"was float32\[60, 5\] \w+ and is float32\[50, 5\]",
    ),
    "objective": (
        {"objective": valley, "start": START},
        r"params\['weights'\] was float32\[5\] and is absent; objective was LinearRegression\(Dense"
        r"\(\)\) and is Function\(\); .*and \d more\. Call",
    ),
    "method": (
        {"method": jd.LBFGS()},
        r"method was GradientDescent\(0.0001\) \w+ and is LBFGS\(.*\) \w+",
    ),
    "learning rate": (
        {"method": jd.GradientDescent(2e-4)},
        r"method was GradientDescent\(0.0001\) \w+ and is GradientDescent\(0.0002\)",
    ),
    "tolerance": ({"tolerance": 1e-3}, r"tolerance was Tolerance\(.*and is Tolerance\("),
    "history": ({"history": 3}, r"history was 0 and is 3"),
}


OF_A_REGRESSION = {
    "objective": jd.LinearRegression(X, Y),
    "start": None,
    "method": jd.GradientDescent(1e-4),
}


@pytest.fixture(scope="module")
def regression_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    stopped(folder, **OF_A_REGRESSION)
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(name, regression_folder):
    changes, match = OTHERS[name]
    before = names(regression_folder)
    with pytest.raises(ValueError, match=match):
        resumed(regression_folder, **{**OF_A_REGRESSION, **changes})
    assert names(regression_folder) == before


def test_another_function_of_the_same_shapes_is_refused(tmp_path):
    stopped(tmp_path)
    with pytest.raises(ValueError, match="of another run: the computation itself: the functions"):
        resumed(tmp_path, objective=steeper)


def streamed(rows):
    return jd.LinearRegression(jd.Streamed({"X": np.asarray(rows)}), Y)


def hashed(columns):
    design = jd.Hashed(np.arange(60), np.arange(60) % 5 + columns, shape=(60, 2**33))
    return jd.LinearRegression(design, Y)


def inside(numbers):
    def power(x):
        return jnp.sum((x - numbers) ** 4)

    program = jax.jit(power)
    return lambda x: 2 * program(x)


@pytest.mark.slow
@pytest.mark.first
@pytest.mark.parametrize(
    ("make", "one", "other", "match"),
    [
        (streamed, X, X[::-1], "data 0 was arrays"),
        (hashed, 7, 8, "data 0 was 8589934592 columns"),
        (inside, START, 2 * START, "numbers that they close over"),
    ],
    ids=["rows that are read", "columns that are touched", "arrays inside a program"],
)
def test_other_data_that_are_no_leaves_are_refused(make, one, other, match, tmp_path):
    start = jnp.zeros(4) if make is inside else None
    options = {"start": start, "method": METHOD, "max_iterations": 20, "tolerance": 0.0}
    jd.run(make(one), **options, checkpoint=tmp_path)
    options["max_iterations"] = 40
    with pytest.raises(ValueError, match=match):
        jd.run(make(other), **options, checkpoint=tmp_path, resume=True)
    again = make(one)
    result = jd.run(again, **options, checkpoint=tmp_path, resume=True)
    assert_same(result.params, jd.run(again, **options).params)


def test_two_runs_at_once_do_not_share_a_folder(tmp_path):
    errors = []

    class Second(jd.hooks.Hook):
        def pause(self, pause):
            with pytest.raises(ValueError, match="another run writes its checkpoints to") as error:
                resumed(tmp_path)
            errors.append(error)

    options = {"max_iterations": 30, "tolerance": 0.0, "chunk": 10}
    result = run(**options, hooks=[Second()], checkpoint=tmp_path)
    assert len(errors) == 3
    assert_same(resumed(tmp_path, max_iterations=30, tolerance=0.0).params, result.params)


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    stopped(tmp_path, max_iterations=100)
    for end in ("unfinished", "removed"):
        (tmp_path / f"iteration-0000000040.{end}").mkdir()
    others = ["iteration-00000000001", "iteration-0000000020.mine", "iteration-12", "notes"]
    for name in others:
        (tmp_path / name).mkdir()
    got = resumed(tmp_path, max_iterations=100)
    assert_same(got, run(max_iterations=100))
    assert [name for name in names(tmp_path) if not checkpoints.NAME.match(name)] == others


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(8, 2), (2, 8), (8, 1), (1, 8)], ids=str)
def test_a_run_goes_on_with_another_number_of_devices(counts, tmp_path):
    objective = jd.SumOfSquares(center=2.0)
    start = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    first, second = (
        jax.device_put(start, rows_over(count) if count > 1 else jax.devices()[0])
        for count in counts
    )
    problem = {"objective": objective, "method": jd.GradientDescent(1e-2)}
    problem |= {"max_iterations": 100, "tolerance": 0}
    stopped(tmp_path, start=first, at=48, **problem)
    got = resumed(tmp_path, start=second, **problem)
    assert got.params.sharding.is_equivalent_to(second.sharding, 2)
    want = minimize(start=start, **problem)
    np.testing.assert_array_equal(got.params, want.params)  # each element has its own steps
    assert int(got.iterations) == 100


ROWS = 59


def filled(count, rows=ROWS, change=0.0):
    """A regression whose rows are cut over so many devices, with zeros behind them."""
    length = -(-rows // count) * count
    weight = np.zeros(length, np.float32)
    weight[:rows] = np.linspace(0.5, 2, rows)
    X_filled, y = np.zeros((length, 5), np.float32), np.zeros(length, np.float32)
    X_filled[:rows], y[:rows] = X[:rows], Y[:rows] + change
    placed = [jax.device_put(each, rows_over(count)) for each in (X_filled, y, weight)]
    objective = jd.LinearRegression(placed[0], placed[1], l2=0.1, sample_weight=placed[2])
    return objective, (rows, length)


@pytest.mark.slow
def test_rows_that_are_filled_up_go_on_over_another_number_of_devices(tmp_path):
    counts = 3, 2
    first, second = (filled(count, ROWS - 1) for count in counts)
    options = {"tolerance": 0, "max_iterations": 5}
    method = jd.ConjugateGradient()  # which carries a number for each row
    assert first[1] != second[1]

    def kept(lengths):
        return saved(tmp_path, filled=lengths)

    stop = jd.hooks.StopWhen(lambda record: record.iteration >= 2)
    begun = jd.run(
        first[0], None, method, chunk=1, hooks=[stop], checkpoint=kept(first[1]), **options
    )
    assert 0 < int(begun.iterations) < 5
    more = {"chunk": 2, "resume": True, **options}
    with pytest.raises(ValueError, match=r"objective\.X.* was float32\["):
        jd.run(second[0], None, method, checkpoint=saved(tmp_path), **more)
    for rows, change in ((ROWS - 1, 0.5), (ROWS - 2, 0.0)):
        other, lengths = filled(counts[1], rows, change)
        with pytest.raises(ValueError, match=r"is of another run: .*objective\.y"):
            jd.run(other, None, method, checkpoint=kept(lengths), **more)
    got = jd.run(second[0], None, method, checkpoint=kept(second[1]), **more)
    want = jd.minimize(first[0], None, method, **options)
    assert int(got.iterations) == int(want.iterations) == 5
    for name, leaf in want.params.items():
        np.testing.assert_allclose(got.params[name], leaf, rtol=1e-4, atol=1e-5)


def test_what_a_signal_ended_is_saved(tmp_path):
    options = {"max_iterations": 100, "tolerance": 0}
    checkpoint = jd.hooks.Checkpoint(tmp_path, every=1e9)
    first = run(chunk=10, checkpoint=checkpoint, hooks=[Sends(1)], **options)
    assert int(first.status) == jd.Status.INTERRUPTED
    assert names(tmp_path) == [f"iteration-{int(first.iterations):010d}"]
    assert_same(resumed(tmp_path, **options), minimize(**options))


def test_the_history_of_a_resumed_run_has_no_line_twice(tmp_path):
    options = {"max_iterations": 60, "tolerance": 0, "chunk": 10}
    path = tmp_path / "history.jsonl"

    class Breaks(jd.hooks.Hook):
        def report(self, record):
            checkpoint._folder.wait()
            if record.iteration == 40:
                raise ZeroDivisionError

    checkpoint, history = saved(tmp_path / "run"), jd.hooks.History(path)
    with pytest.raises(ZeroDivisionError):
        run(checkpoint=checkpoint, hooks=[history, Breaks()], **options)
    with path.open("a") as file:
        file.write('{"iteration": 5')  # a line that a kill cut off
    again = saved(tmp_path / "run")
    run(checkpoint=again, resume=True, hooks=[jd.hooks.History(path)], **options)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [10, 20, 30, 40, 50, 60]


def test_one_checkpoint_in_a_run(tmp_path):
    one = saved(tmp_path)
    with pytest.raises(ValueError, match="a run has one Checkpoint, got 2"):
        run(checkpoint=tmp_path, hooks=[one])
    run(max_iterations=10, hooks=[one])
    assert names(tmp_path)


SERVER = textwrap.dedent("""
    import json, os, random, signal, sys, time, warnings

    import jax, jax.numpy as jnp, numpy as np
    import jaxdescent as jd

    warnings.simplefilter("error")
    folder, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    jax.config.update("jax_compilation_cache_dir", folder + "/programs")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    def valley(x):
        return jnp.sum(10 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    def problem():
        start = jnp.asarray(np.random.default_rng(0).normal(size=20_000), jnp.float32) * 0.1
        return valley, start, jd.GradientDescent(1e-3, momentum=jd.Nesterov())

    class Tells(jd.hooks.Hook):
        def __init__(self, pipe):
            self.pipe = pipe
        def pause(self, pause):
            os.write(self.pipe, b"x")

    def life(pipe, iterations):
        result = jd.run(
            *problem(), max_iterations=iterations, tolerance=0, chunk=50, hooks=[Tells(pipe)],
            checkpoint=jd.hooks.Checkpoint(folder + "/run", every=0.0), resume=True)
        np.save(folder + "/params.npy", result.params)
        assert int(result.iterations) == iterations

    def without(pipe, iterations):
        result = jd.minimize(*problem(), max_iterations=iterations, tolerance=0)
        np.save(folder + "/want.npy", result.params)

    def begin(what, iterations):
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reads)
            try:
                what(writes, iterations)
            except BaseException as error:
                print("CHILD", type(error).__name__, error, flush=True)
                os._exit(1)
            os._exit(0)
        os.close(writes)
        return child, reads

    def code_of(child, reads):
        _, code = os.waitpid(child, 0)
        os.close(reads)
        return code

    def left_behind():
        return os.listdir(folder + "/run") if os.path.isdir(folder + "/run") else []

    def is_unfinished():
        return any("unfinished" in name for name in left_behind())

    generator = random.Random(seed)
    unfinished = 0
    for number in range(kills):
        child, reads = begin(life, 100_000_000)  # more than are made until it is killed
        if generator.random() < 0.9:
            os.read(reads, 1)  # its programs are compiled
        time.sleep(generator.uniform(0, 0.4))
        deadline = time.perf_counter() + 2 * (number % 2)  # every other one while it writes
        while time.perf_counter() < deadline and not is_unfinished():
            time.sleep(1e-4)
        os.kill(child, signal.SIGKILL)
        code = code_of(child, reads)
        assert code == signal.SIGKILL, code
        unfinished += is_unfinished()
    left = left_behind()
    ends = [int(n[-10:]) for n in left if n.startswith("iteration") and n[-10:].isdigit()]
    iterations = 50 + max(ends + [0])
    for what in (life, without):
        code = code_of(*begin(what, iterations))
        assert code == 0, code
    print(json.dumps({"unfinished": unfinished, "iterations": iterations}))
""")


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_bit_by_bit_as_without(tmp_path):
    said = printed(SERVER, tmp_path, 20, 1, XLA_FLAGS="")
    seen = json.loads(said.strip().splitlines()[-1])
    assert seen["unfinished"] >= 3  # some were killed while they wrote
    assert seen["iterations"] > 50
    got, want = (np.load(tmp_path / name) for name in ("params.npy", "want.npy"))
    np.testing.assert_array_equal(got, want)


def test_arrays_without_elements_are_made_again(tmp_path):
    tree = {
        "empty": jnp.zeros((2, 0), jnp.bfloat16),
        "some": jnp.arange(3),
        "flag": jnp.array(True),
    }
    folder = checkpoints.Folder(tmp_path, 1)
    folder.write(7, tree, {"of": "a test"})
    folder.wait()
    assert folder.is_free()
    assert folder.facts(7)["of"] == "a test"
    sharding = jax.device_put(np.zeros(()), jax.devices()[0]).sharding
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )
    found = folder.read(7, like)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, tree)
    assert found["empty"].dtype == jnp.bfloat16
    assert_same(found, tree)
