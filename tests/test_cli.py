"""The command's options: what they do, and how wrong ones are refused."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner

from jaxdescent import breakdown, cli
from jaxdescent.machine import Machine


@pytest.fixture
def asked(monkeypatch):
    """What the command asks the breakdown to do, which is not done."""
    calls = []

    def run(settings, parts, output, console):
        calls.append((settings, parts, output))
        return 0

    monkeypatch.setattr(breakdown, "run", run)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return calls


def invoke(*arguments: str):
    return CliRunner().invoke(cli.app, ["breakdown", *arguments], env={"COLUMNS": "200"})


class TestOptions:
    def test_by_default_everything_runs(self, asked):
        assert invoke().exit_code == 0
        settings, parts, output = asked[0]
        assert parts == [1, 2, 3, 4]
        assert settings == breakdown.Settings(budget=100.0, everything=True)
        assert output.name.startswith("breakdown-")

    def test_part_three_alone_runs_without_its_coupled_problems(self, asked):
        invoke("--part", "3", "--params", "1000000", "--dtype", "float32", "--seed", "7")
        invoke("--part", "3", "--all")
        first, second = (settings for settings, _, _ in asked)
        assert not first.everything
        assert (first.max_params, first.dtype, first.seed) == (1_000_000, "float32", 7)
        assert second.everything
        assert second.dtype is None

    def test_quick_lowers_the_budget_unless_one_is_given(self, asked):
        invoke("--quick")
        invoke("--quick", "--budget", "5")
        assert [settings.budget for settings, _, _ in asked] == [cli.QUICK_BUDGET, 5]

    def test_the_output_folder_is_used(self, asked, tmp_path):
        invoke("--output", str(tmp_path / "here"))
        assert asked[0][2] == tmp_path / "here"


class TestWrongOptions:
    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["--part", "7"], "--part"),
            (["--part", "two"], "--part"),
            (["--budget", "-1"], "positive number of seconds"),
            (["--budget", "nan"], "positive number of seconds"),
            (["--dtype", "int8"], "bfloat16"),
            (["--device", "abacus"], "--device"),
            (["--device", "tpu"], "finds no tpu"),
            (["--params", "0"], "--params"),
            (["--seed", "-1"], "--seed"),
            (["--part", "2", "--dtype", "float32"], "belongs to part 3"),
            (["--part", "1", "--params", "10"], "belongs to part 3"),
            (["--part", "4", "--all"], "belongs to part 3"),
            (["--fast"], "--fast"),
        ],
    )
    def test_it_is_named_with_exit_code_two(self, asked, arguments, named):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert named in result.output
        assert "Traceback" not in result.output
        assert not asked

    def test_output_must_not_be_a_file(self, asked, tmp_path):
        (tmp_path / "file").write_text("")
        assert invoke("--output", str(tmp_path / "file")).exit_code == 2


@pytest.fixture
def machine(monkeypatch):
    """A machine that is not measured, and whether it was asked to be measured anew."""
    asked = []

    def measured(device=None, *, recalibrate=False):
        asked.append(recalibrate)
        return Machine.default("cpu", kind="abacus", cores=2, memory_bytes=24 * 10**9)

    monkeypatch.setattr(Machine, "measured", measured)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return asked


def invoke_plan(*arguments: str):
    return CliRunner().invoke(cli.app, ["plan", *arguments], env={"COLUMNS": "200"})


class TestPlan:
    def test_it_shows_the_table_the_choice_and_how_far_each_goes(self, machine):
        result = invoke_plan("--rows", "1000", "--features", "10")
        assert result.exit_code == 0, result.output
        assert "linear regression, 1,000 rows x 10 features, float32" in result.output
        (marked,) = [line for line in result.output.splitlines() if line.startswith("*")]
        assert "DerivativeMethod()" in marked
        *_, last = result.output.split("\n\n")
        sentence = " ".join(last.split())
        assert sentence.startswith("With 100 rows a feature and 24 GB of memory, data included")
        assert "the derivative method can solve" in sentence
        assert "the largest that descent can" in sentence
        assert machine == [False]

    def test_eight_billion_rows_are_refused_in_words(self, machine):
        result = invoke_plan("--rows", "8000000000", "--features", "1000000")
        assert result.exit_code == 0
        assert not any(line.startswith("*") for line in result.output.splitlines())
        assert "no method fits" in result.output

    def test_options_reach_the_plan(self, machine):
        result = invoke_plan("--rows", "500", "--features", "20", "--outputs", "3", "--dtype",
                             "f64", "--l2", "0.5", "--json")  # fmt: skip
        problem = json.loads(result.output)["problem"]
        assert problem["data_dtype"] == problem["compute_dtype"] == "float64"
        assert problem["data_bytes"] == 8 * 500 * 23
        assert (problem["outputs"], problem["has_penalty"]) == (3, True)
        long, short = (
            json.loads(invoke_plan("--rows", "5", "--features", "2", "--dtype", dtype, "--json")
                       .output)["problem"]
            for dtype in ("bfloat16", "bf16")
        )  # fmt: skip
        assert long == short
        assert long["data_bytes"] == 2 * 5 * 3

    def test_the_machine_alone(self, machine):
        result = invoke_plan("--machine", "--recalibrate")
        assert result.exit_code == 0
        for expected in ("abacus", "matrix products, float64", "GB/s", "Gflop/s", "not measured"):
            assert expected in result.output
        assert machine == [True]
        assert json.loads(invoke_plan("--machine", "--json").output)["kind"] == "abacus"

    def test_the_machine_with_a_plan(self, machine):
        result = invoke_plan("--machine", "--rows", "100", "--features", "10")
        assert "abacus" in result.output
        assert "DerivativeMethod()" in result.output

    def test_the_picture_is_written(self, machine, tmp_path):
        path = tmp_path / "plan.png"
        result = invoke_plan("--rows", "100", "--features", "10", "--plot", str(path))
        assert result.exit_code == 0, result.output
        assert path.read_bytes()[1:4] == b"PNG"

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ([], "--rows"),
            (["--rows", "5"], "--features"),
            (["--features", "5"], "--rows"),
            (["--machine", "--rows", "5"], "--features"),
            (["--machine", "--plot", "a.png"], "--rows"),
            (["--rows", "0", "--features", "5"], "--rows"),
            (
                ["--rows", "5", "--features", "5", "--density", "0.1"],
                "sparse designs are not built",
            ),
            (["--rows", "5", "--features", "5", "--density", "0"], "above 0 and at most 1"),
            (["--rows", "5", "--features", "5", "--density", "2"], "above 0 and at most 1"),
            (["--rows", "5", "--features", "5", "--l2", "-1"], "at least 0 and finite"),
            (["--rows", "5", "--features", "5", "--l2", "nan"], "at least 0 and finite"),
            (["--rows", "5", "--features", "5", "--dtype", "int8"], "bfloat16"),
            (["--rows", "5", "--features", "5", "--outputs", "0"], "--outputs"),
            (["--rows", "5", "--features", "5", "--device", "tpu"], "finds no tpu"),
            (["--rows", "5", "--features", "5", "--plot", "a.txt"], ".png"),
            (["--rows", "5", "--features", "5", "--plot", "nowhere/a.png"], "nowhere"),
        ],
    )
    def test_what_is_wrong_is_named_with_exit_code_two(self, machine, arguments, named):
        result = invoke_plan(*arguments)
        assert result.exit_code == 2
        assert named in result.output
        assert "Traceback" not in result.output
        assert not machine

    def test_help_names_every_option(self):
        result = invoke_plan("--help")
        for option in ("rows", "features", "outputs", "density", "dtype", "l2", "device",
                       "machine", "recalibrate", "json", "plot"):  # fmt: skip
            assert f"--{option}" in result.output


class TestCommand:
    def test_help_names_every_option(self):
        result = invoke("--help")
        assert result.exit_code == 0
        for option in ("part", "all", "params", "dtype", "budget", "quick", "device", "output"):
            assert f"--{option}" in result.output

    def test_python_m_runs_it_in_a_process_of_its_own(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "jaxdescent", "breakdown", "--part", "1", "--device", "cpu",
             "--output", str(tmp_path / "one")],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert "f'(x) = 4x" in done.stdout
        written = json.loads((tmp_path / "one" / "breakdown.json").read_text())
        assert written["parts"]["1"]["iterations"] == 1000
        assert written["machine"]["platform"] == "cpu"
        assert not (tmp_path / "one" / "breakdown.png").exists()
