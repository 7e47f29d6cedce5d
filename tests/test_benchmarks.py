"""The benchmarks' machinery: problems, referee, runner, report and guard. Nothing is timed."""

import dataclasses
import json
import pathlib
from itertools import chain

import jax
import numpy as np
import pytest

from benchmarks import peers, suites
from benchmarks.harness import check, contender, process, records, referee, runner
from benchmarks.harness.case import Case
from benchmarks.harness.passes import passes
from benchmarks.problems.batches import rosenbrock_gradient
from benchmarks.problems.classification import Classification
from benchmarks.problems.regression import Gradient, Regression
from benchmarks.report import figures, profiles, table, targets
from jaxdescent.gap import dense

SAMPLE = pathlib.Path(__file__).parent / "data" / "benchmarks.jsonl"
TINY = {"eight_billion": 1e-5}

SIZED = ("regressions", "gradient", "batches", "methods")
"""Suites whose problems are on the disk."""


@pytest.fixture
def sample():
    return records.read(SAMPLE)


@pytest.fixture
def written(tmp_path):
    """The data of a problem, which are written and read."""

    def of(problem):
        problem.write(tmp_path)
        return problem.load(tmp_path)

    return of


@pytest.mark.parametrize("name", suites.NAMES)
def test_every_suite_has_cases_with_names_of_their_own_and_someone_to_compare(name):
    suite = suites.get(name)
    cases = suite.cases(TINY.get(name, 1e-4))
    assert suite.name == name
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        labels = peers.labels(case)
        assert any(label.startswith("jaxdescent: ") for label in labels)
        assert set(case.leave_out) <= set(labels)
        for label, adapter in labels.items():
            assert callable(peers.factory(adapter, case.work, label))


@pytest.mark.parametrize("name", SIZED)
def test_problems_are_written_and_read_at_a_tiny_scale(name, tmp_path, written):
    for case in suites.get(name).cases(1e-4):
        data = written(case.problem)
        assert all(np.all(np.isfinite(x)) for x in vars(data).values() if isinstance(x, np.ndarray))
        assert case.problem.judge(tmp_path, np.full((1, 1, 1), np.nan)) == np.inf


def test_the_referee_knows_the_optimum(tmp_path, written, rng):
    for problem in (
        Regression(40, 6),
        Regression(6, 40, l2=0.5),
        Regression(40, 6, outputs=3, l2=(0.1, 10.0)),
    ):
        data = written(problem)
        X, Y = data.X.astype(float), data.Y.astype(float)
        columns = [
            np.linalg.lstsq(
                np.vstack([X, np.sqrt(l2) * np.eye(X.shape[1])]),
                np.concatenate([y, np.zeros(X.shape[1])]),
            )[0]
            for y, l2 in zip(Y.T, data.l2, strict=True)
        ]
        best = np.stack(columns, axis=1)
        assert abs(problem.judge(tmp_path, best)) < 1e-10
        away = 1e-2 * rng.standard_normal(best.shape)
        excess = 0.5 * np.sum((X @ away) ** 2, axis=0) + 0.5 * data.l2 * np.sum(away**2, axis=0)
        values = referee.ridge_values(data.X, data.Y, data.l2, best)
        expected = np.max(excess / values)
        np.testing.assert_allclose(problem.judge(tmp_path, best + away), expected, rtol=1e-6)


def test_the_referee_knows_gradients(tmp_path, written):
    problem = Gradient(30, 5, "float32")
    data = written(problem)
    gradient = data.X.T.astype(float) @ (data.X @ data.w.astype(float) - data.y)
    assert problem.judge(tmp_path, gradient) < 1e-12
    np.testing.assert_allclose(problem.judge(tmp_path, 1.5 * gradient), 0.5, rtol=1e-9)


def test_the_referee_knows_the_optimum_of_a_logistic_regression(tmp_path, written, rng):
    problem = Classification(60, 5, scales=10.0)
    X, labels, l2 = written(problem).args
    X, labels = X.astype(float), labels.astype(float)

    def value(w):
        return np.sum(np.log1p(np.exp(-labels * (X @ w)))) + 0.5 * l2 * w @ w

    best = referee.logistic_optimum(X, labels, l2)
    assert abs(problem.judge(tmp_path, best)) < 1e-12
    lower = [value(best + 1e-3 * rng.standard_normal(5)) - value(best) for _ in range(20)]
    assert min(lower) > 0
    away = best + rng.standard_normal(5)
    expected = value(away) / value(best) - 1
    np.testing.assert_allclose(problem.judge(tmp_path, away), expected, rtol=1e-9)


@pytest.mark.slow
def test_a_logistic_regression_is_the_same_function_counted_or_not(written, rng):
    problem = Classification(60, 5)
    data = written(problem)
    w = rng.standard_normal(5).astype(np.float32)
    expected = referee.logistic_value(*data.args, w)
    count, (value, gradient) = passes(lambda: jax.value_and_grad(data.counted)(w, *data.args))
    assert count == 2
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(data.function(w, *data.args), expected, rtol=1e-5)
    same = jax.grad(data.function)(w, *data.args)
    np.testing.assert_allclose(gradient, same, rtol=1e-4, atol=1e-4)


def test_the_referee_knows_the_backward_error(tmp_path, written, rng):
    problem = Regression(40, 6, is_judged_by_gradient=True)
    data = written(problem)
    X, y, w = data.X.astype(float), data.Y[:, 0].astype(float), rng.standard_normal(6)
    residual = y - X @ w
    expected = np.linalg.norm(X.T @ residual) / np.linalg.norm(X) / np.linalg.norm(residual)
    np.testing.assert_allclose(problem.judge(tmp_path, w[:, None]), expected, rtol=1e-9)
    best = np.linalg.lstsq(X, y)[0]
    assert problem.judge(tmp_path, best[:, None]) < 1e-14


def test_the_referee_follows_each_learning_rate(tmp_path, written):
    case = suites.get("batches").cases(0.01)[2]
    data = written(case.problem)
    w = np.zeros((len(data.rates), data.X.shape[1]))
    for _ in range(data.iterations):
        w -= data.rates[:, None] * ((w @ data.X.T.astype(float) - data.y) @ data.X)
    assert case.problem.judge(tmp_path, w) < 1e-6


def test_the_referees_rosenbrock_gradient_is_that_of_scipy(rng):
    from scipy import optimize

    x = rng.standard_normal((4, 6))
    np.testing.assert_allclose(rosenbrock_gradient(x), [optimize.rosen_der(row) for row in x])


def test_the_referee_judges_functions_in_double(tmp_path):
    case = suites.get("functions").cases(1e-4)[0]
    case.problem.write(tmp_path)
    assert case.problem.judge(tmp_path, case.problem.start) == 1
    assert case.problem.judge(tmp_path, np.ones(2)) == 0
    assert case.problem.judge(tmp_path, np.ones(3)) == np.inf


def test_a_missing_peer_is_reported(monkeypatch):
    monkeypatch.setattr(peers, "is_missing", lambda name: name != "numpy")
    found = list(runner.run_suite(_suite(), runner.Settings(1.0, repeats=1, limit=60)))
    status = {record["contender"]: record["status"] for record in found}
    assert status["PyTorch: X'(Xw - y)"] == "missing"
    assert status["NumPy: X'(Xw - y)"] == "ok"
    [ours] = [record for record in found if record["contender"].startswith("NumPy")]
    assert ours["verdict"] < 1e-4
    assert ours["seconds"] > 0
    assert "missing" in table.line(found[0])


def test_only_the_contenders_that_are_named_take_part(monkeypatch):
    monkeypatch.setattr(peers, "is_missing", lambda name: True)
    settings = runner.Settings(1.0, repeats=1, limit=60, contenders=("PyTorch", "no such"))
    found = [record["contender"] for record in runner.run_suite(_suite(), settings)]
    assert found
    assert all(name.startswith("PyTorch") for name in found)


AROUND = {"hand-written JAX: jitted CG": 1, "SciPy: lsmr": 1, "jaxdescent: LSMR()": 1}
"""Passes beside two an iteration: one to begin; the gap's own steps come on top."""

GAP_PASSES = 40
"""The most passes that the gap of a candidate takes here."""


@pytest.mark.first
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # SciPy's own
@pytest.mark.parametrize("label", AROUND)
def test_passes_are_those_that_the_algorithm_makes(label, written, monkeypatch):
    monkeypatch.setattr(dense, "MOST_PRODUCTS", 0)  # LAPACK would take X as an array
    case = dataclasses.replace(suites.get("methods").cases(1e-4)[0], only=(label,))
    [adapter] = peers.labels(case).values()
    solve = peers.factory(adapter, case.work, label)(written(Regression(300, 65)))
    beside = solve.passes(1e-3) - 2 * solve(1e-3).iterations - AROUND[label]
    assert 0 <= beside <= GAP_PASSES * label.startswith("jaxdescent")


def test_a_solver_that_takes_x_as_an_array_has_no_passes(written):
    label = "jaxdescent: DerivativeMethod()"
    solve = peers.factory("jaxdescent", "descents", label)(written(Regression(60, 5)))
    assert solve.passes(1e-3) is None


def test_passes_are_counted_beside_the_timed_runs(monkeypatch):
    monkeypatch.setattr(peers, "is_missing", lambda name: name != "scipy")
    [record] = _run("methods", "well-conditioned tall", "SciPy: lsmr")
    assert record["passes"] == 2 * record["iterations"] + 1
    assert "passes" in table.render([record])


def test_a_case_in_float64_is_solved_in_float64(monkeypatch):
    monkeypatch.setattr(peers, "is_missing", lambda name: name != "handwritten")
    [record] = _run("methods", "ill-conditioned tall, float64", "hand-written JAX: jitted CG")
    assert record["status"] == "ok"
    assert record["verdict"] <= 1e-12


@pytest.fixture
def by_numpy(monkeypatch):
    """What is recorded of NumPy in the gradient's suite at one size."""
    monkeypatch.setattr(peers, "is_missing", lambda name: name != "numpy")

    def of(repeats=1, **changes):
        settings = runner.Settings(1.0, repeats=repeats, limit=60)
        found = runner.run_suite(_suite(**changes), settings)
        [record] = [each for each in found if each["contender"].startswith("NumPy")]
        return record

    return of


def test_a_long_run_is_timed_once(by_numpy, monkeypatch):
    monkeypatch.setattr(contender, "STEADY", 0.0)
    assert len(by_numpy(repeats=3)["times"]) == 1


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"dtype": "bfloat16"}, "left out", "bfloat16"),
        ({"bar": 1e-30}, "not reached", ""),
        ({"limit": 1e-9}, "failed", "did not end"),  # a case may have one of its own
    ],
)
def test_contenders_that_fail_or_fall_short_are_reported(by_numpy, changes, status, reason):
    record = by_numpy(**changes)
    assert (record["status"], record["seconds"]) == (status, None)
    assert reason in record["reason"]


def _run(name, case, label):
    """The records of one contender of one case, at a tiny scale."""
    suite = suites.get(name)

    def cases(scale):
        return [dataclasses.replace(each, only=(label,)) for each in suite.cases(scale)]

    settings = runner.Settings(1e-4, repeats=1, limit=60, only=case)
    found = list(runner.run_suite(dataclasses.replace(suite, cases=cases), settings))
    return [record for record in found if record["case"] == case]


def _suite(dtype="float32", bar=1e-4, limit=None):
    """The gradient's suite at one size: the worker finds it by its name."""
    suite = suites.get("gradient")
    suffix = f"1024x524288 {dtype}"

    def cases(scale):
        found = [each for each in suite.cases(1e-5) if each.name == suffix]
        return [dataclasses.replace(each, bar=bar, limit=limit) for each in found]

    return dataclasses.replace(suite, cases=cases)


def test_a_process_that_ends_is_reported_and_one_that_hangs_is_ended():
    worker = process.Process({"PYTHONPATH": ""})
    reply = worker.ask({"do": "prepare", "contender": {"suite": "none"}}, 60)
    assert "failure" in reply
    worker.close()
    assert not worker.is_alive


@pytest.fixture
def requests(monkeypatch):
    """What workers were started for and asked, by ones that do nothing."""
    said = []

    class Idler:
        is_alive = True

        def __init__(self, environment):
            said.append("start")

        def ask(self, request, limit):
            said.append(request["do"])
            if request["do"] == "prepare":
                said.append(request["contender"]["case"])
                return {"threads": {}}
            if request["answer"]:
                np.save(request["answer"], np.zeros(1))
            keys = "seconds", "wall_seconds", "iterations", "peak_bytes", "working_bytes"
            return dict.fromkeys(keys, 1) | {"figures": {}}

        def close(self):
            said.append("close")

    monkeypatch.setattr(contender, "Process", Idler)
    return said


def test_who_was_idle_for_long_runs_once_before_it_is_timed(requests, monkeypatch):
    monkeypatch.setattr(peers, "is_missing", lambda name: name != "numpy")
    settings = runner.Settings(1e-4, repeats=2, limit=60, contenders=("NumPy",))
    suite = _suite(bar=np.inf)
    found = [each for each in runner.run_suite(suite, settings) if each["status"] == "ok"]
    assert found
    assert requests.count("run") == 3 * len(found)
    requests.clear()
    monkeypatch.setattr(contender, "IDLE", -1.0)
    list(runner.run_suite(suite, settings))
    assert requests.count("run") == 5 * len(found)


def test_who_was_idle_is_warmed_by_the_loosest_tolerance(monkeypatch, tmp_path):
    case = Case("any", "regression", None, ladder=(1e-1, 1e-2))
    options = {"suite": "any", "scale": 1.0, "case": case, "limit": 1.0, "folder": tmp_path}
    idle = contender.Contender("any", "numpy", contender.Seat(), **options)
    idle.tolerance, idle.seat.occupant, idle.seat.last_used = 1e-2, idle, -np.inf
    runs = []

    def run(tolerance, answer, limit, *, is_timed):
        runs.append((tolerance, is_timed))

    monkeypatch.setattr(idle, "_run", run)
    idle.repeat()
    assert runs == [(1e-1, False), (1e-2, True)]


def test_the_report_renders_a_stored_sample(sample, tmp_path):
    page = table.render(sample, tmp_path)
    for suite in suites.every():
        assert f"## {suite.title}" in page
        assert f"--suite {suite.name}" in page
    assert "missing" in page
    assert "| passes | verdict |" in page
    for target in targets.TARGETS:
        assert target.sentence in page
    assert {file.name for file in tmp_path.iterdir()} >= {"regressions.svg", "functions.svg"}


def test_targets_are_met_or_missed(sample):
    # By hand from the sample's seconds; of a caller's own jit it has none.
    expected = {
        "8B in the command's own process": ("met", 0.01048 / 0.00112),
        "the same through the plain library": ("missed", 0.01048 / 0.00201),
        "import over `import jax, optax`": ("missed", 1.828 / 1.384),
        "compiled `minimize` of 3 parameters": ("missed", 0.000768 / 7.98e-05),
        "the same inside the caller's own `jit`": ("not measured", None),
        "compilation over that loop's": ("missed", 0.8548 / 0.1812),
    }
    found = {target.sentence: (target, figure) for target, figure in targets.evaluated(sample)}
    for beginning, (word, figure) in expected.items():
        [(target, evaluated)] = [found[key] for key in found if key.startswith(beginning)]
        assert targets.verdict(target, evaluated) == word
        assert evaluated == (figure and pytest.approx(figure, rel=1e-12))
    assert targets.verdict(targets.TARGETS[0], 8.1) == "met"
    assert targets.verdict(targets.TARGETS[0], 7.9) == "missed"
    assert targets.verdict(targets.TARGETS[2], 1.2) == "missed"
    assert targets.verdict(targets.TARGETS[2], None) == "not measured"


def _measured(case, contender, seconds, suite="functions", x=10, **more):
    """A record with what the figures read."""
    found = {"kind": "record", "suite": suite, "case": case, "x": x, "contender": contender}
    return found | {"seconds": seconds, "status": "ok" if seconds else "failed", **more}


def test_a_lead_is_over_the_fastest_peer_that_arrives():
    ours, first, second = (
        _measured("a", label, seconds) for label, seconds in (("us", 2.0), ("x", 6.0), ("y", 8.0))
    )
    lead = figures.lead("functions", "a", "us", "x", "y")
    assert lead([ours, first, second]) == 3
    assert lead([ours, first | {"seconds": None}, second]) == 4
    assert lead([ours, first | {"seconds": None}]) == np.inf
    assert lead([ours | {"seconds": None}, first]) == 0
    assert lead([]) is None


def test_iterations_are_compared_with_the_slowest_of_several():
    rows = [
        _measured("a", label, 1.0, iterations=count)
        for label, count in (("constant", 1000), ("rule, one", 10), ("rule, two", 50))
    ]
    ratio = figures.iterations_ratio("functions", "a", "constant", "rule")
    assert ratio(rows) == 20
    assert ratio(rows[:1]) is None


def test_the_default_is_compared_with_scipy_by_functions_solved_evaluations_and_time():
    def rows(case, ours, lbfgs, bfgs, x=10):
        labels = "jaxdescent: default", "SciPy: L-BFGS-B", "SciPy: BFGS"
        pairs = zip(labels, (ours, lbfgs, bfgs), strict=True)
        return [
            _measured(case, label, count and count / 10, x=x, figures={"evaluations": count})
            for label, count in pairs
        ]

    found = rows("a", 10, 20, 10) + rows("b", 30, 10, None) + rows("c", 10, 10, 10, x=10_000)
    assert figures.solved_more(found) == 0
    assert figures.solved_more(found + rows("d", None, 10, None)) == -1
    assert figures.evaluations_ratio(found) == 1  # of 1/2, 3 and 1; of 1 and 1
    assert figures.evaluations_ratio(rows("a", 10, 20, 5)) == 2  # the worse of 1/2 and 2
    end = ", in a jit of the caller's"
    compiled = [
        row | {"contender": row["contender"].replace("default", f"default{end}")} for row in found
    ]
    assert figures.small_functions_lead(min)(compiled) == 1 / 3
    assert figures.small_functions_lead(max)(compiled) == 1
    assert figures.small_functions_lead(max)(rows("c", 1, 1, 1, x=10_000)) is None


def test_the_check_names_what_got_worse_and_only_that(sample):
    assert check.worsened(sample, sample) == []
    slower = json.loads(json.dumps(sample))
    for record in slower:
        is_rate = record["suite"] == "batches" and record.get("case") == "learning rates"
        if is_rate and records.is_ours(record) and record["seconds"]:
            record["seconds"] *= 1.5
    named = [str(each) for each in check.worsened(sample, slower)]
    assert named
    assert all("learning rates" in line or "batches" in line for line in named)
    for record in slower:  # times are not compared: a machine half as fast changes nothing
        for field in ("seconds", "fastest", "slowest"):
            if record.get(field):
                record[field] *= 2
    assert len(check.worsened(sample, slower)) == len(named)


def test_the_check_names_a_contender_of_ours_that_no_longer_passes(sample):
    failing = json.loads(json.dumps(sample))
    ours = [r for r in failing if r["kind"] == "record" and records.is_ours(r) and r["seconds"]]
    ours[0] |= {"seconds": None, "status": "not reached", "reason": ""}
    assert any(ours[0]["contender"] in str(each) for each in check.worsened(sample, failing))


def test_profiles_count_what_is_not_solved():
    def row(contender, seconds):
        return {"contender": contender, "seconds": seconds, "status": "ok", "reason": ""}

    cases = {
        "a": [row("x", 1.0), row("y", 2.0)],
        "b": [row("x", None), row("y", 1.0)],
        "nobody": [row("x", None), row("y", None)],
    }
    found = profiles.profiles(cases)
    np.testing.assert_array_equal(found["x"], [1, np.inf])
    np.testing.assert_array_equal(found["y"], [1, 2])
    areas = profiles.areas(cases)
    np.testing.assert_allclose(areas["x"], 0.5)
    np.testing.assert_allclose(areas["y"], 1 - 0.5 * np.log(2) / np.log(100))


def _piece(case, commit="c", options=""):
    head = {
        "kind": "provenance",
        "suite": "regressions",
        "commit": commit,
        "scale": 0.02,
        "is_whole": False,
        "is_complete": False,
        "command": f"python -m benchmarks run --suite regressions --case '{case}'{options}",
        "seconds_in_all": 2.0,
    }
    limits = {"kind": "limits", "suite": "regressions", "of": case}
    return [head, limits, {"kind": "record", "suite": "regressions", "case": case}]


def test_runs_of_single_cases_make_a_whole_one():
    suite = suites.get("regressions")
    names = [case.name for case in suite.cases(0.02)]
    pieces = [_piece(name) for name in names]
    head, limits, *rest = records.joined(list(chain(*pieces)), suite)
    assert head["is_complete"]
    assert head["command"] == "python -m benchmarks run --suite regressions"
    assert head["seconds_in_all"] == 2.0 * len(names)
    assert limits["kind"] == "limits"
    assert [record["case"] for record in rest] == names
    with pytest.raises(ValueError, match="needs each case once"):
        records.joined(list(chain(*pieces[1:])), suite)
    with pytest.raises(ValueError, match="needs each case once"):
        records.joined(list(chain(*pieces, pieces[0])), suite)
    for other in (_piece(names[0], commit="d"), _piece(names[0], options=" --contender 'SciPy'")):
        with pytest.raises(ValueError, match="several commits or scales, or of few"):
            records.joined(list(chain(other, *pieces[1:])), suite)


def test_new_records_replace_a_suites_old_ones():
    old = [{"suite": "a", "n": 1}, {"suite": "b", "n": 1}]
    assert records.merged(old, [{"suite": "a", "n": 2}]) == [
        {"suite": "b", "n": 1},
        {"suite": "a", "n": 2},
    ]


def test_at_the_whole_size_only_those_take_part_who_were_quick_at_the_everyday_one():
    everyday = records.cases(records.read(records.stored_file(is_whole=False)), "regressions")
    for case in suites.get("regressions").cases(1.0):
        rows = {row["contender"]: row for row in everyday[case.name]}
        best = records.measured(rows.values())[0]["seconds"]
        left = [label for label in peers.labels(case) if label not in case.leave_out]
        assert "jaxdescent: default" in left
        assert any(not label.startswith("jaxdescent") for label in left)
        for label in left:
            if label in rows and label != "jaxdescent: default":
                assert rows[label]["seconds"] <= 10 * best
    assert "everyday" in case.leave_out["scikit-learn: Ridge sag"]
