"""The breakdown by several processes: part 3 by all of them, the others by the first one."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from rich.console import Console

from jaxdescent.breakdown import large_problem
from jaxdescent.breakdown.matrix_free_regression import MatrixFreeRegression
from jaxdescent.breakdown.settings import Settings
from jaxdescent.breakdown.tied_weights import TiedWeights
from tests.distributed.processes import PLAIN, command, ended

pytestmark = pytest.mark.slow

MODULE = "tests.distributed.breakdowns"
CPU = ("--device", "cpu")
AS_USUAL = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}  # a replay has the bits of what LLVM polishes
FEW = (*CPU, "--params", "5000")
OWN_PROGRAMS = {}


@pytest.fixture(scope="module", autouse=True)
def own_programs(tmp_path_factory):
    """Part 1 comes before what most tests are about: its programs, which the first process runs
    alone, are compiled by the first test and loaded by the others.
    """
    OWN_PROGRAMS.update(
        JAX_COMPILATION_CACHE_DIR=str(tmp_path_factory.mktemp("programs")),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )


def breakdown(*each, change="", environment=None):
    told = {"TEST_BREAKDOWN": change} | (environment or PLAIN | OWN_PROGRAMS)
    return command("breakdown", *each, module=MODULE, environment=told)


def record(folder):
    return json.loads((folder / "breakdown.json").read_text())


def last_line(text):
    return text.strip().splitlines()[-1]


def same_minima(parts, quiet, most):
    """Whether the coupled problems came to the same ends as here, in one process."""
    settings = Settings(max_params=most)
    alone = large_problem.run(TiedWeights(settings, quiet), settings, quiet)
    own, found = alone.numbers["tied"], parts["tied"]
    for name in ("unknowns", "iterations", "params_bytes"):
        assert found[name] == own[name]
    for name in ("gradient_norm", "gradient_norm_at_start", "distance_root_mean_square"):
        np.testing.assert_allclose(found[name], own[name], rtol=1e-3)
    alone = large_problem.run(MatrixFreeRegression(settings, quiet), settings, quiet)
    own, found = alone.numbers["matrix_free_regression"], parts["matrix_free_regression"]
    for name in ("weights", "iterations"):
        assert found[name] == own[name]
    for name in ("gradient_norm", "gradient_norm_at_start", "largest_error"):
        np.testing.assert_allclose(found[name], own[name], rtol=1e-2)


ALL = (*CPU, "--part", "3", "--all", "--params", "100000", "--dtype", "bfloat16")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """What two processes say of part 3, and their folder."""
    folder = tmp_path_factory.mktemp("whole")
    own = [[*ALL, "--output", folder / str(index)] for index in range(2)]
    return ended(breakdown(*own, environment=AS_USUAL)), folder


def test_two_processes_share_the_parameters_of_part_three(by_two):
    (first, other), folder = by_two
    assert [first[2], other[2]] == [0, 0], (first, other)
    parts = record(folder / "0")["parts"]["3"]
    numbers = parts["independent"]
    assert numbers["bit_equal_to_replay"] == numbers["sampled_elements"] > 0
    sizes = {"independent": "params_bytes", "tied": "params_bytes"}
    for name, size in (sizes | {"matrix_free_regression": "weights_bytes"}).items():
        assert parts[name]["processes"] == 2
        assert parts[name]["params_bytes_of_this_process"] == parts[name][size] / 2
    same_minima(parts, Console(quiet=True), 100_000)
    assert not (folder / "1").exists()
    assert " ".join(first[0].split()).count("over 2 processes") == 3
    assert other[0] == ""


def test_three_processes_that_cannot_share_an_array_each_have_a_copy(tmp_path):
    """Neither 4,096 nor a power of two is a multiple of three."""
    arguments = [*CPU, "--part", "3", "--all", "--params", "10000", "--output", tmp_path]
    ended(breakdown(*[arguments] * 3, environment=AS_USUAL), code=0)
    parts = record(tmp_path)["parts"]["3"]
    assert parts["independent"]["bit_equal_to_replay"] == parts["independent"]["sampled_elements"]
    assert parts["tied"]["params_bytes_of_this_process"] == parts["tied"]["params_bytes"]
    assert parts["tied"]["distance_largest"] < 1e-2
    regression = parts["matrix_free_regression"]
    assert regression["weights"] == 16 * 15**2  # 16 is the next power of two
    assert regression["params_bytes_of_this_process"] == regression["weights_bytes"] / 3
    assert regression["largest_error"] < 1e-3


class Ending(NamedTuple):
    """How processes that measure, or take steps, are ended."""

    processes: int
    change: str
    number: int  # of the signal
    to: tuple[int, ...]  # the processes that it is sent to, one after another
    options: tuple[str, ...] = FEW


STEPS = (*FEW, "--part", "3")
ENDINGS = {
    "the first interrupted": Ending(3, "endless", signal.SIGINT, (0,)),
    "the second terminated": Ending(3, "endless", signal.SIGTERM, (1,)),
    "both interrupted": Ending(2, "endless", signal.SIGINT, (0, 1)),
    "the first killed": Ending(2, "endless", signal.SIGKILL, (0,)),
    "the first interrupted twice": Ending(2, "endless_steps", signal.SIGINT, (0, 0), STEPS),
    "the second interrupted twice": Ending(2, "endless_steps", signal.SIGINT, (1, 1), STEPS),
}


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """The folder that the processes of each ending keep results in, the number of the process that
    measures, and what each of them said before it ended, within a minute of the signals. They take
    seconds to end: all of them meanwhile.
    """

    def within_a_minute(started):
        began = time.monotonic()
        said = ended(started, timeout=60)
        assert time.monotonic() - began < 60
        return said

    begun = {}
    with ThreadPoolExecutor(len(ENDINGS)) as pool:
        for name, ending in ENDINGS.items():
            folder = tmp_path_factory.mktemp("ended")
            arguments = [*ending.options, "--output", folder]
            started = breakdown(*[arguments] * ending.processes, change=ending.change)
            child = measuring(started)
            for who in ending.to:
                started[who].send_signal(ending.number)
                time.sleep(0.01)
            begun[name] = folder, child, pool.submit(within_a_minute, started)
    return begun


def codes(said):
    return [code for _, _, code in said]


@pytest.mark.parametrize(
    ("name", "who"), [("the first interrupted", 0), ("the second terminated", 1)]
)
def test_a_signal_to_one_process_ends_all_and_keeps_what_was_measured(endings, name, who):
    folder, child, ending = endings[name]
    said = ending.result()
    assert codes(said) == [130] * 3, said
    assert "Interrupted: what was measured until then has been kept." in said[0][0]
    for index, (_, errors, _) in enumerate(said):
        own = f"process {who} was interrupted, and this one ends with it."
        kept = "the first process keeps what was measured."
        if index != who or index:
            assert last_line(errors) == f"Interrupted: {kept if index == who else own}"
    parts = record(folder)["parts"]
    assert list(parts) == ["1", "2"]
    assert parts["1"]["is_complete"]
    assert not parts["2"]["is_complete"]
    assert has_ended(child)


def test_ctrl_c_in_all_of_them_keeps_what_was_measured(endings):
    """As a terminal sends it, or a launcher."""
    folder, _, ending = endings["both interrupted"]
    said = ending.result()
    assert codes(said) == [130] * 2, said
    parts = record(folder)["parts"]
    assert list(parts) == ["1", "2"]
    assert "Traceback" not in "".join(errors for _, errors, _ in said)


@pytest.mark.parametrize(
    ("name", "who"), [("the first interrupted twice", 0), ("the second interrupted twice", 1)]
)
def test_a_second_ctrl_c_breaks_off_what_all_compute(endings, name, who):
    folder, _, ending = endings[name]
    said = ending.result()
    assert said[who][2] == 130, said
    assert said[1 - who][2] in (130, 1, 2), said  # it is told, or finds that the other has gone
    assert not any("Traceback" in errors for _, errors, _ in said)
    assert (folder / "breakdown.json").exists()


def test_a_first_process_that_is_killed_ends_the_others_and_its_child(endings):
    folder, child, ending = endings["the first killed"]
    _, (_, errors, code) = ending.result()
    assert code not in (0, None)
    assert "another task died" in errors or "cannot be reached" in errors
    assert has_ended(child)
    assert list(record(folder)["parts"]) == ["1"]  # kept before part 2 began


def test_what_fails_beside_a_program_that_all_share_ends_the_others(tmp_path):
    arguments = [*CPU, "--part", "3", "--params", "5000", "--output", tmp_path]
    started = breakdown(arguments, arguments, change="no_room impatient")
    first, other = ended(started, timeout=60, code=2)
    assert "Error: process 1 failed with MemoryError: no room for the params" in first[1]
    assert last_line(other[1]) == "Error: no room for the params"


def test_other_options_in_one_process_are_refused_in_all(tmp_path):
    arguments = [*CPU, "--part", "1", "--output", tmp_path / "new"]
    for _, errors, _ in ended(breakdown(arguments, [*arguments, "--seed", "7"]), 60, code=2):
        assert "the options are not the same in all processes" in " ".join(errors.split())
    assert not (tmp_path / "new").exists()


def test_a_folder_that_the_first_process_cannot_make_ends_all(tmp_path):
    (tmp_path / "file").write_text("")
    good, bad = tmp_path / "new", tmp_path / "file" / "new"
    arguments = [*CPU, "--part", "1", "--output"]
    first, other = ended(breakdown([*arguments, bad], [*arguments, good]), code=2)
    assert "Not a directory" in last_line(first[1])
    assert "process 0 failed with NotADirectoryError" in last_line(other[1])


def test_coupled_problems_that_were_interrupted_go_on_to_the_same_bits(tmp_path, by_two):
    _, folder = by_two
    whole, kept = folder / "0", tmp_path / "kept"
    saving = [*ALL, "--output", kept, "--checkpoint", tmp_path / "checkpoints"]
    interrupted = breakdown(saving, saving, change="tied_are_interrupted", environment=AS_USUAL)
    ended(interrupted, code=130)
    cut = record(kept)["parts"]["3"]
    assert 0 < cut["tied"]["iterations"] < record(whole)["parts"]["3"]["tied"]["iterations"]
    assert "matrix_free_regression" not in cut
    for _, errors, _ in ended(breakdown(saving, saving), code=2):
        assert "say --resume to go on from it" in errors
    resuming = [*saving, "--resume"]
    ended(breakdown(resuming, resuming, environment=AS_USUAL), code=0)
    found, expected = (record(folder)["parts"]["3"] for folder in (kept, whole))
    # Another number of processes has nothing left to do.
    ended(breakdown(resuming, environment=AS_USUAL), code=0)
    assert record(kept)["parts"]["3"]["matrix_free_regression"]["processes"] == 1
    assert found["tied"]["resumed_at"] == cut["tied"]["iterations"]
    for name in ("iterations", "gradient_norm", "distance_root_mean_square", "distance_largest"):
        assert found["tied"][name] == expected["tied"][name]
    for name in ("iterations", "gradient_norm", "largest_error"):
        regression = "matrix_free_regression"
        assert found[regression][name] == expected[regression][name]


def measuring(started):
    """The number of the process in which part 2 measures; the other processes have come to wait."""
    try:
        for line in started[0].stdout:
            if line.startswith("child "):
                return int(line.split()[1])
        raise AssertionError(started[0].stderr.read())
    except BaseException:
        ended(started)
        raise


def has_ended(child):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.2)
    return False
