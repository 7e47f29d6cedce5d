"""The command's options: what they do, and how wrong ones are refused."""

import contextlib
import dataclasses
import gc
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from typer import Exit

from jaxdescent import breakdown
from jaxdescent.cli.command_line import failing_in_one_line
from jaxdescent.machine import Machine
from tests.commands import COMMAND, printed, ran, refused, run, shown
from tests.files import half_a_picture


@pytest.fixture
def asked(monkeypatch):
    """What the command asks the breakdown to do, which is not done."""
    calls = []

    def asked(settings, parts, output, console):
        calls.append((settings, parts, output))
        return 0

    monkeypatch.setattr(breakdown, "run", asked)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return calls


class TestOptions:
    def test_by_default_everything_runs(self, asked):
        shown("breakdown")
        settings, parts, output = asked[0]
        assert parts == [1, 2, 3, 4, 5]
        assert settings == breakdown.USUAL == breakdown.Settings(budget=45.0, everything=True)
        assert output.name.startswith("breakdown-")

    def test_part_three_alone_runs_without_its_coupled_problems(self, asked):
        run("breakdown", "--part", "3", "--params", "1000000", "--dtype", "float32", "--seed", "7")
        run("breakdown", "--part", "3", "--all")
        first, second = (settings for settings, _, _ in asked)
        assert not first.everything
        assert (first.max_params, first.dtype, first.seed) == (1_000_000, "float32", 7)
        assert second.everything
        assert second.dtype is None

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["--quick"], breakdown.QUICK),
            (["--quick", "--budget", "5"], dataclasses.replace(breakdown.QUICK, budget=5)),
            (["--thorough"], breakdown.THOROUGH),
            (["--part", "3", "--all", "--thorough"], breakdown.THOROUGH),
        ],
    )
    def test_quick_and_thorough_set_sizes_and_the_budget_unless_one_is_given(
        self, asked, arguments, expected
    ):
        run("breakdown", *arguments)
        assert [settings for settings, _, _ in asked] == [expected]
        assert breakdown.THOROUGH.budget == 100

    def test_the_output_folder_is_used(self, asked, tmp_path):
        run("breakdown", "--output", str(tmp_path / "here"))
        assert asked[0][2] == tmp_path / "here"


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


class TestPlan:
    def test_it_shows_the_table_the_choice_and_how_far_each_goes(self, machine):
        told = shown("plan", "--rows", "1000", "--features", "10")
        assert "linear regression, 1,000 rows x 10 features, float32" in told
        (marked,) = [line for line in told.splitlines() if line.startswith("*")]
        assert "DerivativeMethod()" in marked
        *_, last = told.split("\n\n")
        sentence = " ".join(last.split())
        assert sentence.startswith("With 100 rows a feature and 24 GB of memory, data included")
        assert "the derivative method can solve" in sentence
        assert "the largest that descent can" in sentence
        assert machine == [False]

    def test_eight_billion_rows_are_refused_in_words(self, machine):
        told = shown("plan", "--rows", "8000000000", "--features", "1000000")
        assert not any(line.startswith("*") for line in told.splitlines())
        assert "no method fits" in told

    def test_options_reach_the_plan(self, machine):
        def problem(*options):
            return json.loads(shown("plan", "--features", "2e1", "--json", *options))["problem"]

        told = problem("--rows", "500", "--outputs", "3", "--dtype", "f64", "--l2", "0.5")
        assert told["data_dtype"] == told["compute_dtype"] == "float64"
        assert told["data_bytes"] == 8 * 500 * 23
        assert (told["outputs"], told["has_penalty"]) == (3, True)
        long, short = (problem("--rows", "5", "--dtype", name) for name in ("bfloat16", "bf16"))
        assert long == short
        assert long["data_bytes"] == 2 * 5 * 21
        for rows in ("1000", "1e3", "1_000", "1,000"):
            told = problem("--rows", rows)
            assert (told["rows"], told["features"]) == (1000, 20)

    def test_the_machine_alone_and_with_a_plan(self, machine):
        told = shown("plan", "--machine", "--recalibrate")
        for expected in ("abacus", "matrix products, float64", "GB/s", "Gflop/s", "not measured"):
            assert expected in told
        assert machine == [True]
        assert json.loads(shown("plan", "--machine", "--json"))["kind"] == "abacus"
        told = shown("plan", "--machine", "--rows", "100", "--features", "10")
        assert "abacus" in told
        assert "DerivativeMethod()" in told

    def test_devices_that_are_not_here(self, machine):
        told = shown("plan", "--rows", "1e9", "--features", "8192", "--device", "v5p:8x8x8")
        for expected in (
            "linear regression, 1,000,000,000 rows x 8,192 features", "512 x TPU v5p",
            "sharded by rows", "  links  ",
        ):  # fmt: skip
            assert expected in told
        assert "on v5p:8x8x8 has" in " ".join(told.split())
        told = shown("plan", "--machine", "--device", "8xh100")
        for expected in ("8 x NVIDIA H100", "datasheet", "3.35 TB/s", "450 GB/s", "72 GB"):
            assert expected in told
        assert "cores" not in told
        told = json.loads(shown("plan", "--machine", "--device", "h200", "--json"))
        assert told["name"] == "h200"
        assert not machine  # nothing is measured

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_exact_asks_the_compiler(self, machine, monkeypatch, dtype):
        asked = []

        def reserved(compiler, program, objective, params):
            asked.append(objective)
            return 12_345_678

        monkeypatch.setattr(
            importlib.import_module("jaxdescent.plan")._Compiler, "reserved", reserved
        )
        arguments = ("--rows", "1000", "--features", "10", "--outputs", "2", "--dtype", dtype)
        told = shown("plan", *arguments, "--exact")
        assert "compiled" in told
        assert "12.3 MB" in told
        assert asked[0].X.shape == (1000, 10)
        assert str(asked[0].y.dtype) == dtype
        plain = json.loads(shown("plan", *arguments, "--json"))
        exact = json.loads(shown("plan", *arguments, "--json", "--exact"))
        assert plain["problem"] == exact["problem"]

    def test_exact_says_what_to_install(self, machine, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        arguments = ("--rows", "8", "--features", "2", "--device", "v6e", "--exact")
        assert "pip install libtpu" in refused("plan", *arguments)

    def test_the_picture_is_written_as_a_whole_or_not_at_all(self, machine, tmp_path, monkeypatch):
        path = tmp_path / "plan.png"
        arguments = ("plan", "--rows", "100", "--features", "10", "--plot", path)
        shown(*arguments)
        assert path.read_bytes()[1:4] == b"PNG"
        path.unlink()
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", half_a_picture)
        said = f"Error: {path} cannot be written: No space left on device.\n"
        assert refused(*arguments) == said
        assert list(tmp_path.iterdir()) == []


WRONG = {
    "breakdown": [
        (["--output", __file__], "--output"),
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
        (["--part", "2", "--checkpoint", "run"], "belongs to part 3"),
        (["--part", "3", "--resume"], "needs --checkpoint FOLDER"),
        (["--quick", "--thorough"], "contradicts --quick"),
        (["--fast"], "--fast"),
    ],
    "plan": [
        ([], "--rows"),
        (["--rows", "5"], "--features"),
        (["--features", "5"], "--rows"),
        (["--machine", "--rows", "5"], "--features"),
        (["--machine", "--plot", "a.png"], "--rows"),
        (["--rows", "0", "--features", "5"], "--rows"),
        (["--rows", "1.5", "--features", "5"], "a whole number from 1 to"),
        (["--rows", "1e400", "--features", "5"], "a whole number from 1 to"),
        (["--rows", "5", "--features", "inf"], "--features"),
        (["--exact", "--machine"], "--rows"),
        (["--rows", "5", "--features", "5", "--device", "abacus"], "no device is called"),
        (["--rows", "5", "--features", "5", "--device", "v5e:16"], "write v5e:2x2"),
        (["--machine", "--device", "h100", "--recalibrate"], "a device of this host"),
        (["--rows", "5", "--features", "5", "--density", "0.1"], "what a sparse X costs"),
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
}


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [(command, *case) for command, cases in WRONG.items() for case in cases],
)
def test_what_is_wrong_is_named_with_exit_code_two(asked, machine, command, arguments, named):
    told = refused(command, *arguments)
    assert named in told
    assert "Traceback" not in told
    assert asked == machine == []


WITHOUT_JAX = """
import json, sys
from jaxdescent.cli import main
sys.stderr = sys.stdout
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        print("ended with", end.code or 0)
    heavy = {"jax", "numpy", "pyarrow", "matplotlib", "sklearn"} & set(sys.modules)
    assert not heavy, (arguments, heavy)
    assert "jaxdescent.fit" not in sys.modules and "jaxdescent.machine" not in sys.modules
"""
SHOWN_WITHOUT_JAX = [
    (["--help"], 0, "breakdown"),
    (["--version"], 0, f"jaxdescent {importlib.metadata.version('jaxdescent')}\n"),
    (["fit", "--help"], 0, "--target"),
    (["fit", "", "--help"], 0, "--target"),
    (["fti"], 2, "No such command 'fti'"),
    (["scale", "--colour"], 2, "No such option: --colour"),
    (["plan", "--rows", "many"], 2, "a number such as 1000 or 1e9"),
]


OPTIONS = {
    "fit": "target target-file features exclude categorical hash bits interact weights where l2 "
    "method dtype start checkpoint resume standardize missing test test-data seed memory out "
    "overwrite json plot",
    "predict": "",
    "inspect": "",
    "scale": "",
    "breakdown": "part all params dtype budget quick device output",
    "plan": "rows features outputs density dtype l2 device exact machine recalibrate json plot",
}
"""What the help of each command has to name, besides the options of its examples."""


class TestBeforeJAXIsImported:
    def test_help_and_what_is_mistyped_are_shown(self):
        given = json.dumps([arguments for arguments, _, _ in SHOWN_WITHOUT_JAX])
        *told, rest = re.split(r"^ended with (\d)\n", printed(WITHOUT_JAX, given), flags=re.M)
        assert rest == ""
        for text, code, case in zip(told[::2], told[1::2], SHOWN_WITHOUT_JAX, strict=True):
            arguments, expected, said = case
            assert int(code) == expected, (arguments, text)
            assert said in text, (arguments, text)
            assert "Traceback" not in text

    @pytest.mark.parametrize("command", OPTIONS)
    def test_help_names_every_option_and_has_two_examples(self, command):
        told = shown(command, "--help", width=120)
        examples = re.findall(rf"^ jaxdescent ({command} .*\S)\s*$", told, re.MULTILINE)
        assert len(examples) == 2
        assert "<bool>" not in told
        named = told.split("For example")[0]
        for option in [*OPTIONS[command].split(), *re.findall(r"--([\w-]+)", " ".join(examples))]:
            assert re.search(rf"--{option}\b", named)

    def test_options_of_a_fit_are_in_groups(self):
        told = shown("fit", "--help", width=120)
        titles = re.findall(r"^╭─ ([A-Z][a-z -]*\w) ─", told, re.MULTILINE)
        assert titles[2:] == [
            "Columns and rows", "The fit", "Interruptions", "Held-out rows",
            "What is kept and shown", "Several processes",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("module", "arguments"),
        [("typer", ["fit"]), ("rich", ["plan", "--rows", "9", "--features", "2"])],
    )
    def test_without_the_extra_one_line_says_what_to_install(self, module, arguments):
        done = ran(f"import sys; sys.modules[{module!r}] = None; {COMMAND}", *arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert f"needs {module}, which is not installed: pip install 'jaxdescent[cli]'" in line

    @pytest.mark.skipif(os.name != "posix", reason="signals")
    @pytest.mark.parametrize(
        ("module", "number"),
        [
            ("typer.main", signal.SIGINT),
            ("jax._src.core", signal.SIGINT),
            ("jaxdescent.fit.fitting", signal.SIGINT),
            ("", signal.SIGINT),
            ("", signal.SIGTERM),
        ],
    )
    def test_a_signal_is_a_line_whatever_is_imported(self, module, number, tmp_path):
        program = f"""
import os, signal, sys

class Signal:
    def find_spec(self, name, path, target=None):
        if name == {module!r} or not {module!r}:
            os.kill(os.getpid(), {int(number)})

# A shell's background jobs are born deaf to Ctrl-C, and so are their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
from jaxdescent.cli import main
heavy = {{"typing", "typer", "jaxdescent.cli.commands", "numpy"}} & set(sys.modules)
assert heavy <= {{"typing"}}, heavy
sys.meta_path.insert(0, Signal())
main()
"""
        done = ran(program, "fit", str(tmp_path), "--target", "y")
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_numbers_of_files_are_read_without_pandas(tmp_path):
    (tmp_path / "d.csv").write_text("a,b\n1,2.5\n3,4.5\n")
    program = """
import sys
from jaxdescent.rows import open_source
(block,) = open_source(sys.argv[1]).blocks(["a", "b"], 9)
print(block.numbers(["a", "b"], float).T.tolist())
assert not {"pandas", "pyarrow"} & set(sys.modules)
"""
    done = ran(program, str(tmp_path / "d.csv"))
    assert (done.stdout, done.stderr) == ("[[1.0, 3.0], [2.5, 4.5]]\n", "")


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("closed", "end"),
    [("stdout", "sys.exit(130)"), ("stderr", "os.kill(os.getpid(), signal.SIGTERM)")],
)
def test_a_signal_ends_a_command_whose_output_is_closed(closed, end):
    program = f"""
import os, signal, sys
from jaxdescent.cli import commands, main
os.close(sys.{closed}.fileno())
sys.{closed} = None  # as Python has it after ">&-"
commands.app = lambda: {end}
main()
"""
    done = ran(program)
    assert (done.returncode, done.stdout + done.stderr) == (130, "")


NOTHING_WRITTEN = "Interrupted: nothing was written.\n"


def assert_interrupted(work, capsys, printed="", said=NOTHING_WRITTEN):
    """That a command is told to be interrupted, once, that does this work."""
    with pytest.raises(Exit) as ended, failing_in_one_line("jaxdescent"):
        work()
    assert ended.value.exit_code == 130
    assert capsys.readouterr() == (printed, said)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


def terminated_in_c():
    with contextlib.suppress(KeyboardInterrupt):
        terminate()
    raise SystemError("returned a result with an exception set")


def test_a_command_that_tells_of_its_interruption_is_not_told_of_again(capsys):
    def work():
        try:
            terminate()
        except KeyboardInterrupt:
            print("Interrupted: what was measured has been kept.")
            raise Exit(130) from None

    assert_interrupted(work, capsys, "Interrupted: what was measured has been kept.\n", "")


def test_an_interrupt_that_a_callback_turned_into_an_error_is_not_lost(capsys):
    def work():
        Calling(terminated_in_c)
        for _ in range(200):
            time.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    try:
        assert_interrupted(work, capsys)
    finally:
        signal.signal(signal.SIGINT, before)


class Calling:
    """Calls a function when it is deleted, whose errors Python drops."""

    def __init__(self, function):
        self.function = function

    def __del__(self):
        self.function()


def lost_before_an_error():
    Calling(terminate)
    raise SystemError("returned a result with an exception set")


def lost_in_the_garbage_collector():
    def interrupt(phase, info):
        gc.callbacks.remove(interrupt)
        raise KeyboardInterrupt

    gc.callbacks.append(interrupt)
    gc.collect()
    for _ in range(600):
        time.sleep(0.1)


@pytest.mark.parametrize(
    "work",
    [
        terminated_in_c,
        lost_before_an_error,
        lost_in_the_garbage_collector,
    ],
)
def test_an_interrupt_is_one_whatever_became_of_it(work, capsys):
    assert_interrupted(work, capsys)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_is_cleaned_up_after_an_interrupt_is_not_interrupted():
    program = """
import os, signal, sys, time
from typer import Exit
from jaxdescent.cli import leave
from jaxdescent.cli.command_line import failing_in_one_line

class Wrong:
    def __del__(self):
        raise ValueError

def rows():
    try:
        yield from range(9)
    finally:
        Wrong()  # an error that Python drops is no other interrupt
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        print("closed")

def read():
    for row in rows():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

signal.signal(signal.SIGTERM, leave)
try:
    with failing_in_one_line("jaxdescent"):
        try:
            read()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # another thread may ask for an end as well
            time.sleep(0.5)
            print("cleaned")
except Exit as end:
    sys.exit(end.exit_code)
"""
    done = ran(program)
    line = "Interrupted: nothing was written.\n"
    assert (done.returncode, done.stdout, done.stderr) == (130, "closed\ncleaned\n", line)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_interpreters_end_does_not_change_how_a_command_ended(number):
    program = f"""
import os, signal

class Last:
    def __del__(self, kill=os.kill, process=os.getpid()):
        kill(process, {int(number)})

last = Last()
signal.signal(signal.SIGINT, signal.default_int_handler)
from jaxdescent.cli import main
main()
"""
    done = ran(program, "--version")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_characters_that_the_output_lacks_are_escaped(tmp_path):
    (tmp_path / "d.csv").write_text("ä,y\n1,2\n", encoding="utf-8")
    done = ran(COMMAND, "inspect", tmp_path / "d.csv", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xe4" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full device")
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_a_full_disk_under_the_output_is_told_in_one_line(option):
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "jaxdescent", option]
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE)
    line = b"Error: the output cannot be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == (2, line)
