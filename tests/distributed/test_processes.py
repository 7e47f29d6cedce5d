"""Two and three real processes over loopback give what one does, and fail together."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import jaxdescent as jd
from jaxdescent.processes import joining
from tests.commands import started
from tests.distributed.cases import CASES, ends_of_spectrum, minimum, solved
from tests.distributed.processes import free_port, run

pytestmark = pytest.mark.slow

EVERYDAY = ("default", "traced", "function")
CHILD = "tests.distributed.child"


def lines_of(out):
    """What a process printed, by the names of cases and faults."""
    found, lines = {}, []
    for line in out.splitlines():
        if line.startswith("name "):
            lines = found[line.removeprefix("name ")] = []
        elif not line.startswith("[Gloo]"):
            lines.append(line)
    return found


def said(count, *names, **environment):
    """What each process printed of these cases and faults, one after another, by none of which it
    ends.
    """
    ended = run(CHILD, count, *names, environment=environment)
    assert [code for _, _, code in ended] == [0] * count, ended
    return [lines_of(out) for out, _, _ in ended]


@pytest.fixture(scope="module")
def everyday():
    """What two processes print of a few cases, and of a fault."""
    return said(2, *EVERYDAY, "bad_weights")


def assert_is_minimum(name, found):
    value, params = minimum(name)
    if name == "backtracking":  # a thousand of its steps are too few, in one process too
        own = solved(name, lambda array: array)
        assert found["status"] in (jd.Status.CONVERGED, own["status"])
        np.testing.assert_allclose(found["value"], own["value"], rtol=1e-4)
        return
    assert found["status"] == jd.Status.CONVERGED
    np.testing.assert_allclose(found["value"], value, rtol=1e-4, atol=1e-10)
    assert found["params"].keys() == params.keys()
    for leaf, values in params.items():
        np.testing.assert_allclose(found["params"][leaf], values, rtol=3e-3, atol=6e-3)


@pytest.mark.core
def test_two_processes_find_the_minimum(everyday):
    first, second = everyday
    for name in EVERYDAY:
        assert first[name] == second[name]
        assert_is_minimum(name, json.loads(*first[name]))


SELDOM = sorted({*CASES, "certificate"} - set(EVERYDAY))


FAULTS_OF_TWO = (
    "another_machine",
    "alone",
    "full_disk_of_first",
    "full_disk_of_second",
    "a_run_alone",
)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What two processes print, which solve the other cases and meet all of these faults, one after
    another.
    """
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    return said(2, *SELDOM, *FAULTS_OF_TWO, CHECKPOINTS=folder)


def test_two_processes_find_the_minimum_by_every_method(of_two):
    first, second = ({name: each[name] for name in SELDOM} for each in of_two)
    assert first == second
    certificate = json.loads(*first.pop("certificate"))
    for name in first:
        assert_is_minimum(name, json.loads(*first[name]))
    assert (certificate["kind"], certificate["away"]) == ("minimum", "not stationary")
    np.testing.assert_allclose(certificate["ends"], ends_of_spectrum(), rtol=1e-6)


def test_an_error_in_one_process_is_raised_in_all_and_they_stay_in_step(everyday):
    first, second = (each["bad_weights"] for each in everyday)
    message = "sample_weight must be at least 0, got -1.0."
    assert first == [f"OtherProcessFailed process 1 failed with ValueError: {message}", "1"]
    assert second == [f"ValueError {message}", "1"]


def test_processes_with_other_memory_and_rates_choose_the_same_method(of_two):
    first, second = (each["another_machine"] for each in of_two)
    assert first == second
    # Process 1 has no room for a matrix of features x features, so that neither solves at once.
    assert first[0] == "LSMR()"


def ended_in_hooks(count, places, way, which):
    """What processes print when runs end in a hook of one of them, well within its patience. By
    the last of these runs the processes end too.
    """
    ends = " ".join([*places, way, str(which)])
    told = run(CHILD, count, "ends_in_hooks", timeout=50, environment={"ENDS": ends})
    own = f"OSError: the disk of process {which} is gone" if way == "error" else "SystemExit: 3"
    for index, (out, errors, code) in enumerate(told):
        lines = lines_of(out)["ends_in_hooks"]
        if index == which:
            assert lines == [own.replace(":", "", 1)] * len(places), (places, lines)
            assert code == (1 if way == "error" else 3), errors
            assert way == "exit" or own in errors
        else:
            failed = f"OtherProcessFailed process {which} failed with {own}"
            assert lines == [failed] * len(places), (places, lines)
            assert code == 1, errors


@pytest.mark.parametrize(
    ("count", "which", "way", "last"),
    [
        (2, 0, "error", "begin"),
        (2, 0, "exit", "pause"),
        (2, 1, "error", "report"),
        (3, 2, "exit", "end"),
    ],
)
def test_wherever_a_process_ends_in_a_hook_all_are_told(count, which, way, last):
    """At once: they waited a minute in a chunk, of which they were told nothing."""
    others = [place for place in ("begin", "pause", "report", "end") if place != last]
    ended_in_hooks(count, [*others, last], way, which)


BY_RUN = dict.fromkeys(("penalty", "history", "rounding"), "run")
DIFFERING = {
    "method": "method is LSMR() in process {0} and LBFGS() in process {1}",
    "default": "method is None in process {0} and LBFGS() in process {1}",
    "tolerance": "tolerance is 0.001 in process {0} and 1e-06 in process {1}",
    "penalty": "objective is LinearRegression(240 rows x 6 features, l2=0.5, intercept) in process "
    "{0} and LinearRegression(240 rows x 6 features, l2=1.0, intercept) in process {1}",
    "limit": "max_iterations is 9 in process {0} and 5 in process {1}",
    "bad limit": "max_iterations is 9 in process {0} and 0 in process {1}",
    "check_every": "check_every is 1 in process {0} and 4 in process {1}",
    "history": "history is 0 in process {0} and 4 in process {1}",
    "rounding": "rounding is None in process {0} and StochasticRounding(seed=3) in process {1}",
}


def test_calls_that_differ_are_refused_with_what_differs():
    """Their programs would not fit together: they aborted, after seconds, without a word."""
    first, *others = (each["other_calls"] for each in said(3, "other_calls"))
    assert all(lines == first for lines in others)
    assert first.pop() == "1"  # they are in step
    assert first.pop() == "hooks: no error"  # these may differ
    found = dict(line.split(": OtherProcessFailed: ") for line in first)
    for name, text in DIFFERING.items():
        assert found.pop(name) == (
            f"the processes must make the same call of {BY_RUN.get(name, 'minimize')}, and "
            f"{text.format('0, 1', 2)}: give all of them the same."
        )
    order = found.pop("another call")
    assert order == (
        "the processes must make the same calls in the same order, got "
        "{0: 'minimize', 1: 'minimize', 2: 'certify'}."
    )
    assert found == {}


def test_what_a_process_does_with_its_own_arrays_concerns_no_other(of_two):
    first, second = (each["alone"] for each in of_two)
    assert first == []
    assert second[0] == "1"
    assert "got (239,)" in second[1]


@pytest.mark.parametrize("of", ["first", "second"])
def test_a_full_disk_of_one_process_ends_the_run_of_all(of, of_two):
    number = ("first", "second").index(of)
    for each in of_two:
        error, *rest = each[f"full_disk_of_{of}"]
        assert re.fullmatch(
            r"the checkpoint of iteration \d+ could not be written to FOLDER \(process "
            rf"{number} failed with OSError: .*File too large\); the last one is of iteration \d+: "
            "make room for it, and call run again with resume=True.",
            error,
        )
        assert rest == ["300 ['iteration-0000000288']"]  # before the check at the limit


def test_a_run_of_one_of_several_processes_is_not_kept(of_two):
    first, second = (each["a_run_alone"] for each in of_two)
    assert first == []
    assert second == [
        "checkpoints need a run of all 2 processes, got one of [1]: lay its params over all "
        "devices, or run it in a program without jax.distributed."
    ]


STOPS = """
import os, signal, sys
from jaxdescent.processes import joining

index, address = int(sys.argv[1]), sys.argv[2]
joining.HEARTBEAT_SECONDS = int(sys.argv[3])
joining.join(address, 2, index)
print("joined", flush=True)
if index == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
signal.pause()
"""
FEWER = 12  # seconds between signs of life


def stopped():
    """What a process says whose other one is stopped: its connections stay open, and no program
    waits for it; after how many seconds, and its exit code.
    """
    address, alone = f"127.0.0.1:{free_port()}", {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    first, second = (started(STOPS, index, address, FEWER, **alone) for index in range(2))
    try:
        assert first.stdout.readline() == second.stdout.readline() == "joined\n"
        began = time.monotonic()
        _, errors = first.communicate(timeout=FEWER + 45)
        return errors, time.monotonic() - began, first.returncode
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def silent():
    """What processes print of which one dies, hangs, or is stopped: all of them wait meanwhile."""
    with ThreadPoolExecutor() as pool:
        found = {
            "death": pool.submit(run, CHILD, 2, "death", timeout=60),
            "hangs": pool.submit(run, CHILD, 3, "hangs", timeout=90),
            "stopped": pool.submit(stopped),
        }
        return {name: future.result() for name, future in found.items()}


def test_the_death_of_a_process_ends_the_others_with_an_error(silent):
    (_, errors, code), (_, _, killed) = silent["death"]
    assert code != 0
    assert killed == -9
    # Whether a program or a message of the other is what is waited for: JAX's heartbeat is not.
    assert re.search(r"Connection (closed|reset) by peer|\(process 1 is gone\)", errors)


def test_a_process_without_a_sign_of_life_ends_the_others_within_a_minute(silent):
    assert joining.HEARTBEAT_SECONDS + 15 <= 60
    errors, seconds, code = silent["stopped"]
    assert code != 0
    assert "heartbeat" in errors.lower(), errors
    assert seconds > FEWER / 2 - 2


def test_a_process_that_hangs_ends_the_others_with_an_error(silent):
    (_, errors, code), (said, _, hanging), (_, others, last) = silent["hangs"]
    assert said.endswith("hangs\n")
    message = "has waited 3 s for another one, which hangs"
    assert f"OtherProcessFailed: process 0 {message}" in errors
    # Process 0 may be gone before the last one's patience is over: JAX ends it then.
    assert f"OtherProcessFailed: process 2 {message}" in others or "coordination" in others.lower()
    assert code == 1
    assert hanging != 0  # ended by JAX, as the first process is no longer there
    assert last != 0
