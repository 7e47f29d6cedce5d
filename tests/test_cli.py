"""The command's options: what they do, and how wrong ones are refused."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner

from jaxdescent import breakdown, cli


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
