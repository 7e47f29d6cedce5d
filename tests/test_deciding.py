"""What one of two processes decides with another: here with false messages of the other one."""

import json
import os
import re
import subprocess
import sys

import pytest
from jax._src import distributed

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.processes import deciding, ending, messages
from jaxdescent.processes.ending import INTERRUPTED
from tests.kept_messages import KeptMessages, after


@pytest.fixture
def service(monkeypatch):
    kept = KeptMessages.put_in_place(monkeypatch)
    monkeypatch.setattr(deciding, "_sent", {})
    messages.introduce.cache_clear()
    yield kept
    messages.introduce.cache_clear()


@pytest.fixture
def left(monkeypatch):
    """The exit codes with which this process has left the other one behind."""
    codes = []
    for module in (deciding, ending):
        monkeypatch.setattr(module, "leave_without_others", lambda *given: codes.append(given[:1]))
    return codes


def other_leaves(*told):
    """The other process leaves these messages, each of them a pair of a kind and a value."""
    for number, each in enumerate(told, start=1):
        name = f"group/{deciding._digest([0, 1])}/{number}/1"
        messages.leave(name, json.dumps(each))


def own_messages(service):
    own = [text for key, text in service.texts.items() if re.search("/group/.*/0$", key)]
    return [json.loads(text) for text in own]


BEGUN, ENDED = ["call", deciding._digest({})], ["end of call", None]


def test_each_tells_the_other_and_what_all_have_read_is_removed(service):
    other_leaves(BEGUN, ["all", [1.5, "x"]], ["least", 2.0], ["first", "second"], ENDED)
    with processes.among_all("call"):
        assert not processes.is_alone()
        assert processes.is_first()
        assert processes.told_by_all({"a": 1}) == [{"a": 1}, [1.5, "x"]]
        assert own_messages(service) == [["all", {"a": 1}]]
        assert processes.least(3.0) == 2.0
        assert processes.told_by_first("own") == "own"
    assert own_messages(service) == [ENDED]
    assert processes.is_alone()
    assert processes.told_by_all(7) == [7]


def test_an_error_of_the_other_is_raised_with_its_message(service):
    other_leaves(BEGUN, ["error", "OSError: full"])
    expected = pytest.raises(
        processes.OtherProcessFailed, match="process 1 failed with OSError: full"
    )
    with expected, processes.among_all("call"):
        processes.told_by_all(0)


def test_an_error_here_is_told_to_the_other_and_raised(service):
    other_leaves(BEGUN, ENDED)
    with pytest.raises(ZeroDivisionError), processes.among_all("call"):
        raise ZeroDivisionError("z" * 5000)
    [[kind, said]] = own_messages(service)
    assert kind == "error"
    assert said == ("ZeroDivisionError: " + "z" * 5000)[: deciding.LONGEST_ERROR]


def test_other_calls_in_another_process_are_refused(service):
    other_leaves(["other call", deciding._digest({})])
    refused = r"same calls in the same order, got \{0: 'call', 1: 'other call'\}"
    with pytest.raises(processes.OtherProcessFailed, match=refused), processes.among_all("call"):
        pass


def test_other_facts_in_another_process_are_refused(service):
    facts = {"the options": "others", "the data": deciding._digest([1])}
    other_leaves(BEGUN, ["all", facts], ["error", "DataError, too"])
    expected = pytest.raises(DataError, match="the options are not the same in")
    with expected, processes.among_all("call"):
        processes.check_alike({"the data": [1], "the options": [2]})


def test_a_process_that_has_ended_is_not_waited_for(service, left):
    other_leaves(BEGUN)
    service.end(1, INTERRUPTED)
    said = r"another process has ended, .* see what it said \(process 1 was interrupted\)"
    with pytest.raises(processes.OtherProcessFailed, match=said), processes.among_all("call"):
        processes.told_by_all(0)
    assert left == [(1,)]


def test_the_good_end_of_a_common_context_is_no_early_end(service):
    service.end(1, ending.DONE)
    assert ending.early_end(1) is None


def test_a_process_of_this_machine_that_was_killed_is_gone(service, monkeypatch):
    messages.introduce()
    own = service.texts["jaxdescent/runs/0"]
    assert own == f"{messages._namespace()} {os.getpid()}"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    messages.leave("runs/1", own.replace(str(os.getpid()), str(child.pid)))
    assert not messages.is_gone(1)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # nobody has asked for its exit code
    assert messages.is_gone(1)
    assert ending.early_end(1) == "process 1 is gone"
    monkeypatch.setattr(ending, "_common_ends", [None])  # which hear of it themselves
    assert ending.early_end(1) is None
    child.wait()
    assert messages.is_gone(1)
    messages.leave("runs/1", f"another machine {child.pid}")
    assert not messages.is_gone(1)
    messages.remove("runs/1")
    assert not messages.is_gone(1)


def test_without_a_service_processes_are_told_to_join(service, monkeypatch):
    monkeypatch.setattr(distributed.global_state, "client", None)
    with pytest.raises(processes.OtherProcessFailed, match=r"initialize before anything else"):
        messages.leave("a", "b")


def test_a_process_that_hangs_is_waited_for_with_patience(service, left):
    other_leaves(BEGUN)
    said = "process 0 has waited 0 s for another one, which hangs"
    with (
        pytest.raises(processes.OtherProcessFailed, match=said),
        processes.among_all("call"),
        processes.patience(0.05),
    ):
        processes.told_by_all(0)
    assert left == [(1,)]


def test_a_service_that_is_gone_is_an_error_of_its_process(service):
    service.is_reached = False
    said = r"^process 0 has ended, or cannot be reached \(UNAVAILABLE: connection refused\)"
    with pytest.raises(processes.OtherProcessFailed, match=said), processes.among_all("call"):
        pass


def test_who_is_interrupted_leaves_word_and_does_not_wait(service, left):
    other_leaves(BEGUN)
    with pytest.raises(KeyboardInterrupt), processes.among_all("call"):
        raise KeyboardInterrupt
    assert left == [()]


BEGUN_STEP = ["a step of a point", deciding._digest({})]
ENDED_STEP = ["end of a step of a point", None]


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_step_succeeds_or_fails_in_both(service, is_shared):
    def work():
        return 3

    other_leaves(BEGUN_STEP, ["all", None], ENDED_STEP, BEGUN_STEP, ["all", "no room"], ENDED_STEP)
    assert processes.attempted(work, (MemoryError,), is_shared=is_shared) == 3
    with pytest.raises(processes.FailedElsewhere, match="process 1: no room"):
        processes.attempted(work, (MemoryError,), is_shared=is_shared)


@pytest.mark.parametrize("is_shared", [False, True])
def test_what_fails_here_is_told_and_raised(service, capsys, is_shared):
    def work():
        raise MemoryError("no\nroom")

    other_leaves(BEGUN_STEP, ["all", None], ENDED_STEP, BEGUN_STEP, ENDED_STEP)
    with pytest.raises(MemoryError):
        processes.attempted(work, (MemoryError,), is_shared=is_shared)
    with pytest.raises(MemoryError):  # which nobody expects
        processes.attempted(work, is_shared=is_shared)
    assert own_messages(service) == [["error", "MemoryError: no\nroom"]]
    assert capsys.readouterr().err == "process 0: no room\n" * 2 * is_shared


def test_who_fails_while_the_others_compute_says_what_it_waits_for(service, capsys, monkeypatch):
    def work():
        raise MemoryError("no room")

    monkeypatch.setattr(deciding, "PATIENCE", 0.05)
    other_leaves(BEGUN_STEP)
    with after(0.3, other_leaves, BEGUN_STEP, ENDED_STEP), pytest.raises(MemoryError):
        processes.attempted(work)
    said = "process 0 waits for the others to tell them that it failed with MemoryError: no room\n"
    assert capsys.readouterr().err == said


def test_who_is_interrupted_while_it_tells_an_error_does_not_wait_on(service, left):
    other_leaves(BEGUN)
    expected = pytest.raises(KeyboardInterrupt)
    with after(0.1, ending._interrupt), expected, processes.among_all("call"):
        raise ZeroDivisionError
    assert left == [()]


def test_the_first_reason_to_leave_is_the_one_that_the_others_are_told(service, monkeypatch):
    registered = []
    monkeypatch.setattr(ending, "_codes", [])
    monkeypatch.setattr(ending.atexit, "register", lambda *given: registered.append(given[1:]))
    ending.leave_without_others()
    ending.leave_without_others(1, ending.FOLLOWED)
    assert service.ended(0) == [INTERRUPTED, ""]
    assert registered == [(130,)]


def test_who_fails_in_a_program_that_others_wait_in_says_so(service, left, monkeypatch):
    def work():
        raise MemoryError("no room")

    monkeypatch.setattr(deciding, "PATIENCE", 0.05)
    said = "^process 0 failed in a program that all share: no room$"
    with pytest.raises(processes.OtherProcessFailed, match=said):
        processes.attempted(work, (MemoryError,), is_shared=True)
    assert left == [(1,)]
