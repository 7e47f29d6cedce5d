"""The parts of the breakdown, on tiny budgets, against independent references."""

import csv
import dataclasses
import functools
import itertools
import json
import pathlib
import shlex

import numpy as np
import pytest
from rich.console import Console

from jaxdescent import breakdown
from jaxdescent.breakdown import (
    child,
    coupled,
    estimates,
    hashed_text,
    independent_weights,
    llama_tree,
    matrix_free_regression,
    plot,
    real_data,
    report,
    settings,
    tied_weights,
    tutorial,
)
from jaxdescent.machine import Machine
from jaxdescent.rows import DataError
from tests.commands import shown as jaxdescent
from tests.files import full_disk

QUIET = Console(quiet=True)
TINY = dataclasses.replace(settings.QUICK, budget=2.0, first_size=16, studies=2, most_lines=1200)
MACHINE = Machine.default("cpu", cores=2, memory_bytes=24 * 10**9)
ALL = list(breakdown.PARTS)
EXTENTS = [settings.QUICK, settings.USUAL, settings.THOROUGH]


@functools.cache
def separable_rows():
    return list(child.separable([1000, 3000], seed=0))


def answer_here(request):
    """Measured without a child process; of separable unknowns few."""
    if request["problem"] == "separable":
        return child.Answer(separable_rows())
    return child.Answer(list(child.answer(request)))


def made_up(request):
    """Rows as of coupled unknowns, whose programs take long to compile."""
    if request["problem"] == "separable":
        return child.Answer(separable_rows())
    size = request["unknowns"]
    row = {"unknowns": size, "rows": 2 * size, "data_bytes": 8 * size * (size + 1), "error": 1e-6}
    row |= {"status": "CONVERGED", "iterations": 9, "seconds": 1e-9 * size**3, "peak_bytes": None}
    return child.Answer([{"method": name, **row} for name in request["methods"]])


@pytest.fixture
def recorded(monkeypatch):
    """Coupled unknowns are not measured."""
    monkeypatch.setattr(child, "ask", made_up)
    return made_up


@pytest.fixture
def coupled_report(recorded):
    return coupled.run(TINY, QUIET)


@pytest.fixture(scope="module")
def tutorial_report():
    return tutorial.run(TINY, QUIET)


@pytest.fixture(scope="module")
def real_report():
    return real_data.run(TINY, QUIET)


def limits(sizes):
    return sizes.most_params, sizes.most_tied, sizes.most_weights


def large_sizes(asked):
    """What part 3 takes of each problem where memory is no limit."""
    _, independent = independent_weights.chosen(asked, 1e15)
    tied, side = tied_weights.chosen(asked, 1e15), matrix_free_regression.chosen(asked, 1e15)
    return independent.size, tied.size, side**2 * matrix_free_regression.BLOCKS


class TestExtents:
    def test_each_is_larger_than_the_one_before(self):
        assert [each.extent for each in EXTENTS] == ["quick", "usual", "thorough"]
        for smaller, larger in itertools.pairwise(EXTENTS):
            assert smaller.budget < larger.budget
            assert smaller.most_lines < larger.most_lines
            assert smaller.studies <= larger.studies
            assert max(smaller.separable_sizes) <= max(larger.separable_sizes)
            for own, other in zip(limits(smaller), limits(larger), strict=True):
                assert other is None or own <= other

    def test_as_usual_eight_billion_stay_and_coupled_problems_are_small(self):
        usual = breakdown.Settings()
        assert llama_tree.tree(usual.most_params, 2**62).size == 8_030_261_248
        assert 10**8 < llama_tree.tree(usual.most_tied, 2**62).size < 10**9
        thorough = settings.THOROUGH
        assert limits(thorough) == (None, None, None)
        assert llama_tree.tree(thorough.most_tied, 4 * 10**9).size > 3.8e9
        assert max(limits(settings.QUICK)) < 10**8

    def test_what_the_user_limits_is_limited_in_all_problems(self):
        asked = dataclasses.replace(settings.THOROUGH, max_params=10**6)
        assert all(0 < size <= 10**6 for size in large_sizes(asked))
        asked = breakdown.Settings(max_params=10**9)
        assert large_sizes(asked)[2] == settings.USUAL.most_weights


class TestEstimates:
    def test_every_part_takes_some_seconds_and_they_grow_with_the_extent(self):
        found = [estimates.seconds_of_parts(ALL, each, MACHINE) for each in EXTENTS]
        for each in found:
            assert list(each) == ALL
            assert all(0 < seconds < 1000 for seconds in each.values())
        quick, usual, thorough = (sum(seconds.values()) for seconds in found)
        assert quick < 60 < usual < 300 < thorough
        assert list(estimates.seconds_of_parts([4, 2], EXTENTS[0], MACHINE)) == [4, 2]

    def test_part_three_scales_with_its_parameters_and_the_machine(self):
        def seconds(params, cores=2):
            machine = Machine.default("cpu", cores=cores, memory_bytes=24 * 10**9)
            asked = breakdown.Settings(max_params=params, everything=False, dtype="bfloat16")
            return estimates.seconds_of_parts([3], asked, machine)[3]

        few, some, many = seconds(10**9), seconds(4 * 10**9), seconds(8 * 10**9)
        assert few < some < many
        sizes = [llama_tree.tree(most).size for most in (10**9, 4 * 10**9, 8 * 10**9)]
        slope = (many - some) / (sizes[2] - sizes[1])
        assert slope == pytest.approx((some - few) / (sizes[1] - sizes[0]), rel=0.1)
        assert seconds(8 * 10**9, cores=4) < 0.8 * many

    def test_part_two_keeps_its_budget(self):
        for budget in (45.0, 100.0, 1000.0):
            found = estimates.seconds_of_parts([2], breakdown.Settings(budget=budget), MACHINE)[2]
            assert found < budget + 15

    def test_text_takes_as_long_as_it_has_lines(self):
        twice = dataclasses.replace(settings.USUAL, most_lines=2 * settings.USUAL.most_lines)
        one, two = (
            estimates.seconds_of_parts([5], each, MACHINE)[5] for each in (settings.USUAL, twice)
        )
        assert one < two < 2 * one

    def test_they_are_told_before_the_first_part_begins(self, monkeypatch, tmp_path, capsys):
        def run(settings, console):
            console.print("PART ONE RUNS")
            return breakdown.PartReport(1, "Two small functions")

        monkeypatch.setattr(tutorial, "run", run)
        monkeypatch.setattr(estimates, "seconds_of_parts", lambda *_: {1: 123.0})
        assert breakdown.run(TINY, [1], tmp_path, Console(width=80)) == 0
        before, after = capsys.readouterr().out.split("PART ONE RUNS")
        assert before.count("about 2 minutes") == 3  # in all, of the part, and at its head
        assert "Three things to try next" in after
        written = json.loads((tmp_path / "breakdown.json").read_text())
        assert written["parts"]["1"]["seconds_of_part"] >= 0
        assert not (tmp_path / "breakdown.png").exists()  # of no point


class TestNextSteps:
    def test_the_table_of_part_four_has_its_rows(self, tmp_path):
        real_data.write_table(tmp_path / "table.csv")
        with (tmp_path / "table.csv").open(newline="") as file:
            names, *rows = csv.reader(file)
        study = real_data.diabetes()
        assert names[-1] == "progression"
        found = np.array(rows, float)
        np.testing.assert_array_equal(found[:, :-1], study.X)
        np.testing.assert_array_equal(found[:, -1], study.y)

    def test_of_a_table_that_a_full_disk_cuts_off_nothing_stays(self, tmp_path, monkeypatch):
        monkeypatch.setattr(np, "column_stack", full_disk)
        with pytest.raises(DataError, match=r"table\.csv cannot be written: No space left"):
            real_data.write_table(tmp_path / "table.csv")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("is_in_checkout", [True, False])
    def test_they_are_three_commands_that_work(self, tmp_path, monkeypatch, is_in_checkout):
        root = pathlib.Path(__file__).parents[1]
        monkeypatch.chdir(root if is_in_checkout else tmp_path)
        monkeypatch.setattr(Machine, "measured", classmethod(lambda cls, device=None, **_: MACHINE))
        table = tmp_path / breakdown.TABLE
        real_data.write_table(table)
        plan, fit, python = breakdown.next_steps(table)
        for step, name in ((plan, "plan"), (fit, "fit")):
            words = shlex.split(step)
            jaxdescent(*words[words.index(name) :])
            assert words[0].endswith(("jaxdescent", "python")) or words[1:3] == ["-m", "jaxdescent"]
        words = shlex.split(python)
        if is_in_checkout:
            assert (root / words[1]).exists()  # tests/test_examples.py runs it
        else:
            assert words[1] == "-c"
            compile(words[2], "snippet", "exec")
            exec(words[2], {})

    def test_without_part_four_there_is_no_table_to_fit(self):
        steps = breakdown.next_steps(None)
        assert len(steps) == 3
        assert not any(" fit " in command for command in steps)


class TestTutorial:
    @pytest.mark.slow
    def test_descent_matches_the_closed_form(self, tutorial_report):
        shrink = {"2x²": 0.96**1000, "x² + y² + z²": 0.98**1000}
        rows = tutorial_report.numbers["descent"]
        assert [row["variable"] for row in rows] == ["x", "x", "y", "z"]
        for row in rows:
            expected = shrink[row["function"]] * row["start"]
            assert row["start"] == int(row["start"])
            assert -1000 <= row["start"] < 1000
            np.testing.assert_allclose(row["by_hand"], expected, rtol=1e-11)
            np.testing.assert_allclose(row["by_grad"], expected, rtol=1e-4)
            np.testing.assert_allclose(row["closed_form"], expected, rtol=1e-12)

    def test_the_four_steps_find_a_minimum_of_curvature_four(self, tutorial_report):
        steps = tutorial_report.numbers["derivative_method"]
        assert steps["derivative_at_start"] == 4 * steps["start"]
        assert steps["solution"] == pytest.approx(0, abs=1e-4)
        assert steps["second_derivative"] == pytest.approx(4)
        assert steps["kind"] == "minimum"

    def test_another_seed_starts_elsewhere(self, tutorial_report):
        other = tutorial.run(breakdown.Settings(seed=1), QUIET)
        starts = [[row["start"] for row in r.numbers["descent"]] for r in (tutorial_report, other)]
        assert starts[0] != starts[1]


class TestCoupled:
    @pytest.mark.slow
    def test_measured_rows_find_the_optimum_and_computed_rows_are_kept_apart(self, monkeypatch):
        monkeypatch.setattr(child, "ask", answer_here)
        found = coupled.run(TINY, QUIET)
        measured, computed = found.numbers["measured"], found.numbers["computed"]
        assert found.is_complete
        assert {row["method"] for row in measured} == {"derivative", "descent"}
        assert sorted({row["unknowns"] for row in measured})[:3] == [16, 48, 144]
        for row in measured:
            assert row["status"] == "CONVERGED"
            assert row["error"] < 1e-3
            assert row["rows"] == 2 * row["unknowns"]
            assert row["data_bytes"] == 4 * row["rows"] * (row["unknowns"] + 1)
            assert row["seconds"] > 0
        assert all("peak_bytes" not in row and "error" not in row for row in computed)
        assert computed[-1]["unknowns"] == 8_030_261_248
        solves = [row for row in computed if row["method"] == "derivative"]
        assert all(row["predicted_bytes"] == 16 * row["unknowns"] ** 2 for row in solves)
        assert not solves[-1]["fits_besides_data"]

    def test_the_separable_case_is_exact_at_every_size_and_the_other_is_refused(
        self, coupled_report
    ):
        rows = coupled_report.numbers["separable"]
        assert [row["unknowns"] for row in rows] == [1000, 3000]
        assert all(row["error"] < 1e-5 for row in rows)
        assert "44 TB" in coupled_report.numbers["refusal"]  # 24 TB, and X itself, written out

    def test_computed_times_scale_with_the_operations(self):
        row = {"method": "derivative", "unknowns": 100, "seconds": 2.0}
        assert coupled.predicted_seconds(row, 1000) == pytest.approx(2000)
        assert coupled.predicted_seconds({**row, "method": "descent"}, 1000) == pytest.approx(200)

    def test_a_size_that_does_not_fit_is_not_measured(self, recorded, monkeypatch):
        monkeypatch.setattr(coupled.memory, "available_bytes", lambda device=None: 15_000)
        found = coupled.run(TINY, QUIET)
        assert {row["unknowns"] for row in found.numbers["measured"]} == {16}
        assert found.numbers["stopped_because"] == {"descent": "memory", "derivative": "memory"}

    def test_a_child_that_fails_after_its_last_row_has_measured_all(self, recorded, monkeypatch):
        def ask(request):
            answer = recorded(request)
            return answer._replace(failure="code -11") if answer.rows else answer

        monkeypatch.setattr(child, "ask", ask)
        found = coupled.run(TINY, QUIET)
        assert {row["method"] for row in found.numbers["measured"]} == {"descent", "derivative"}
        assert "failure" not in found.numbers["stopped_because"].values()

    def test_the_regression_is_solved_by_its_known_weights(self):
        X, weights, y = child._regression(48, 3)
        design = np.column_stack([np.asarray(X, np.float64), np.ones(96)])
        found = np.linalg.lstsq(design, np.asarray(y, np.float64), rcond=None)[0]
        np.testing.assert_allclose(found[:-1], weights, atol=1e-5)
        assert found[-1] == pytest.approx(3, abs=1e-5)


class TestChild:
    @pytest.mark.slow
    def test_rows_come_back_from_a_process_of_their_own(self):
        request = {"problem": "separable", "sizes": [3_000_000], "seed": 0}
        answer = child.ask(request)
        assert answer.failure is None
        assert not answer.is_interrupted
        (row,) = answer.rows
        assert row["error"] < 1e-5
        if row["peak_bytes"] is not None:
            # The solution is 12 MB; a copy of it may live at the same time.
            assert 12e6 < 1.1 * row["peak_bytes"] < 60e6

    def test_a_failure_is_told_in_words(self):
        request = {"problem": "separable", "sizes": [-5], "seed": 0}
        answer = child.ask(request)
        assert answer.rows == []
        assert "Error" in answer.failure

    def test_a_line_that_was_cut_off_is_left_out_and_death_by_the_system_is_named(self):
        assert child._rows('{"a": 1}\n{"a": 2') == [{"a": 1}]
        assert "memory" in child._failure(-9, "")


class TestRealData:
    @pytest.mark.slow
    def test_both_methods_agree_with_scikit_learn_at_a_certified_minimum(self, real_report):
        from sklearn.linear_model import Ridge

        for study, outcome in zip(
            (real_data.diabetes(), real_data.digits()), real_report.numbers["studies"], strict=True
        ):
            order = np.random.default_rng(0).permutation(len(study.X))
            held_out, kept = np.split(order, [int(0.2 * len(order))])
            mean, spread = study.X[kept].mean(axis=0), study.X[kept].std(axis=0)
            X = (study.X - mean)[:, spread > 0] / spread[spread > 0]
            ridge = Ridge(alpha=study.l2, solver="svd").fit(X[kept], study.y[kept])
            for method in ("derivative_method", "descent"):
                np.testing.assert_allclose(
                    outcome["shown"][method],
                    ridge.predict(X[held_out[: real_data.SHOWN_ROWS]]),
                    atol=0.05,
                )
            if study.name == "Diabetes":
                np.testing.assert_allclose(outcome["weights"], ridge.coef_, atol=0.02)
            assert outcome["certificate_kind"] == "minimum"
            assert outcome["smallest_eigenvalue"] > 0
            assert outcome["relative_difference"] < 1e-3
            assert outcome["descent"]["status"] == "CONVERGED"

    def test_r_squared_is_that_of_scikit_learn(self, rng):
        from sklearn.metrics import r2_score

        observed, predicted = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
        centred = observed - observed.mean(axis=0)
        expected = r2_score(centred.ravel(), (predicted - observed.mean(axis=0)).ravel())
        assert real_data.r_squared(observed, predicted) == pytest.approx(expected)


class TestRecord:
    def test_numbers_json_does_not_know_become_null(self, tmp_path):
        path = tmp_path / "breakdown.json"
        part = report.PartReport(1, "t", numbers={"a": float("nan"), "b": np.float32(2), "c": (1,)})
        report.write_record(path, TINY, report.describe_machine(), [part], 1.0)
        written = json.loads(path.read_text(), parse_constant=pytest.fail)
        assert written["parts"]["1"]["a"] is None
        assert written["parts"]["1"]["b"] == 2
        assert written["settings"]["seed"] == 0
        assert written["machine"]["memory_bytes"] > 1e9
        assert [p.name for p in tmp_path.iterdir()] == ["breakdown.json"]

    def test_a_full_disk_is_told_with_the_file_and_nothing_is_left(self, tmp_path, monkeypatch):
        path = tmp_path / "breakdown.json"

        def write_text(path, text):
            path.write_bytes(b"half")
            full_disk()

        monkeypatch.setattr(pathlib.Path, "write_text", write_text)
        with pytest.raises(DataError, match=r"breakdown\.json cannot be written: No space left"):
            report.write_record(path, TINY, {}, [], 1.0)
        assert list(tmp_path.iterdir()) == []

    def test_the_machine_names_no_folder_and_no_person(self):
        text = json.dumps(report.describe_machine())
        assert str(pathlib.Path.home()) not in text


class TestWhole:
    def test_parts_are_shown_and_written(self, coupled_report, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(coupled, "run", lambda settings, console: coupled_report)
        console = Console(width=80, highlight=False)
        code = breakdown.run(TINY, [1, 2], tmp_path / "new" / "folder", console)
        shown = capsys.readouterr().out
        assert code == 0
        lines = shown.splitlines()
        commands = lines[lines.index("Three things to try next:") + 2 :: 3]
        assert len(commands) == 3
        # Names of files and commands are left whole.
        short = [line for line in lines if "Written" not in line and line not in commands]
        assert max(map(len, short)) <= 80
        assert "…" not in shown
        assert "Verdict" in shown
        assert "never breaks down" in shown
        written = json.loads((tmp_path / "new" / "folder" / "breakdown.json").read_text())
        assert set(written["parts"]) == {"1", "2"}
        assert len(written["verdict"]) >= 4
        assert (tmp_path / "new" / "folder" / "breakdown.png").read_bytes()[1:4] == b"PNG"

    def test_an_interrupted_part_keeps_its_rows_and_ends_the_run(
        self, recorded, monkeypatch, tmp_path
    ):
        asked, ask = [], recorded

        def interrupted(request):
            if asked:
                return child.Answer([], is_interrupted=True)
            asked.append(request)
            return ask(request)

        monkeypatch.setattr(child, "ask", interrupted)
        assert breakdown.run(TINY, [2, 4], tmp_path, QUIET) == 130
        written = json.loads((tmp_path / "breakdown.json").read_text())
        assert set(written["parts"]) == {"2"}
        assert not written["parts"]["2"]["is_complete"]
        assert len(written["parts"]["2"]["measured"]) == 2


class TestPlot:
    def test_every_kind_of_point_can_be_drawn(self, tmp_path):
        points = [
            report.PlottedPoint("derivative method, coupled", 512, 1e7, 0.1, True),
            report.PlottedPoint("derivative method, coupled", 10**6, 1e13, 1e9, False),
            report.PlottedPoint("something new", 10**9, 0, None, True),
        ]
        alone = report.PlottedPoint(hashed_text.SERIES, 800_000, 5e8, 10.0, True)
        for name, drawn in (("plot.png", points), ("single", [alone])):
            plot.draw(drawn, 25 * 10**9, tmp_path / name)
            assert (tmp_path / name).stat().st_size > 10_000
            assert (tmp_path / name).read_bytes()[1:4] == b"PNG"


class TestHashedText:
    TEXT = (
        "def f(x):\n    if x:\n        return x  # one\n\n    return 2\n",
        "class A:\n\n\tvalue = 1\n",
        "x = 1\n",
        "",
    )

    @pytest.fixture
    def files(self, tmp_path):
        for number, text in enumerate(self.TEXT):
            (tmp_path / f"{number}.py").write_text(text)
        return sorted(tmp_path.iterdir())

    def test_each_line_asks_for_the_indentation_of_the_next_of_its_file(self, files):
        lines = hashed_text.read(files, 100)
        assert lines.files == 4
        np.testing.assert_array_equal(lines.file, [0, 0, 0, 1])
        np.testing.assert_array_equal(lines.indent, [0, 4, 8, 0])
        np.testing.assert_array_equal(lines.next_indent, [4, 8, 4, 8])
        assert lines.text[3] == "class A:"
        assert hashed_text.read(files, 1).files == 1  # whole files, until there are enough lines
        assert lines.digest == hashed_text.read(files, 100).digest
        assert lines.digest != hashed_text.read(files[1:], 100).digest

    def test_rows_have_the_ngrams_of_three_lines_of_their_file(self, files):
        lines = hashed_text.read(files, 100)
        # Of 6, 3 and 4 words: singles, pairs and triples; singles and pairs of the line above,
        # singles of the one above that; four of the line itself, and three for each above it.
        words = [6, 3, 4]
        own = [n + (n - 1) + (n - 2) for n in words]
        expected = [
            own[0] + 4,
            own[1] + 4 + words[0] + words[0] - 1 + 3,
            own[2] + 4 + words[1] + words[1] - 1 + 3 + words[0] + 3,
            3 + 2 + 1 + 4,  # the first line of the next file knows none above it
        ]
        np.testing.assert_array_equal(np.bincount(lines.row), expected)
        assert np.all(lines.column < 2**33)
        # "return" of the third and of the fifth line is the same word, "x" as another is not.
        again = hashed_text.read(files[:1] * 2, 100)
        first, second = (set(again.ngram[again.file[again.row] == n].tolist()) for n in (0, 1))
        assert first == second

    @pytest.mark.slow
    def test_it_is_scipys_regression_and_certified(self):
        import scipy.sparse
        from scipy.sparse.linalg import aslinearoperator, lsmr

        found = hashed_text.run(TINY, QUIET)
        row = found.numbers
        assert row["weights"] == 2**33 == row["touched_weights"] + row["untouched_weights"]
        assert row["status"] == "CONVERGED"
        assert row["certificate_kind"] == "minimum"
        assert row["r2"] > row["r2_held_out"]
        lines = hashed_text.read(hashed_text.library_files(0), 1200)
        kept = lines.where(lines.file >= row["held_out_files"])
        names, place = np.unique(kept.column, return_inverse=True)
        assert names.size == row["touched_weights"]
        ones = np.ones(place.size)
        A = scipy.sparse.coo_matrix((ones, (kept.row, place)), (kept.file.size, names.size)).tocsr()
        mean = np.asarray(A.mean(axis=0)).ravel()
        means = aslinearoperator(np.ones((kept.file.size, 1))) @ aslinearoperator(mean[None, :])
        centred = aslinearoperator(A) - means
        y = kept.next_indent.astype(float) - kept.next_indent.mean(dtype=float)
        exact = lsmr(centred, y, damp=hashed_text.L2**0.5, atol=1e-12, btol=1e-12, maxiter=3000)[0]
        value = (np.sum((centred @ exact - y) ** 2) + hashed_text.L2 * np.sum(exact**2)) / 2
        assert row["value"] == pytest.approx(value, rel=1e-5)
        r2 = 1 - np.sum((centred @ exact - y) ** 2) / np.sum(y**2)
        assert row["r2"] == pytest.approx(r2, abs=1e-3)
        assert found.points[0].unknowns == row["touched_weights"]
        assert "zero" in found.verdict[0]
        cells = [cell for table in found.shown[2:4] for row in table.rows for cell in row]
        assert max(map(len, cells)) <= 40

    def test_a_library_without_source_code_is_told(self, monkeypatch):
        monkeypatch.setattr(hashed_text, "library_files", lambda seed: [])
        found = hashed_text.run(TINY, QUIET)
        assert found.numbers == {"lines": 0}
        assert "left out" in found.shown[0]
