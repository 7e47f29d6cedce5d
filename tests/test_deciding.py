"""How processes join, what they compare of a call, and what one of two decides with another: here
with false messages of the other one.
"""

import atexit
import json
import os
import re
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax._src import distributed

import jaxdescent as jd
from jaxdescent import processes
from jaxdescent.processes import deciding, ending, joining, messages
from jaxdescent.processes.ending import INTERRUPTED
from jaxdescent.processes.same_call import differing, texts
from jaxdescent.rows import DataError
from tests.kept_messages import KeptMessages, after, fail_by_a_signal


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


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_a_signal_made_fail_is_interrupted_and_tells_no_error(service, left, is_lost):
    other_leaves(BEGUN)
    interrupted = pytest.raises(KeyboardInterrupt)
    with interrupted, processes.patience(0.05), processes.among_all("call"):
        fail_by_a_signal(is_lost)
    assert left == [()]
    assert own_messages(service) == [BEGUN]


def test_an_exit_after_an_interruption_is_told_as_an_exit(service, left):
    """It is a decision of the program: no module in C makes it of an interrupt."""

    def ends_in_good_order():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(3)

    other_leaves(BEGUN, ["all", None])
    with pytest.raises(SystemExit), processes.among_all("call"):
        ends_in_good_order()
    assert own_messages(service)[-1] == ["error", "SystemExit: 3"]
    assert not left


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("Connection closed"), OSError("own")])
@pytest.mark.parametrize("is_silent", [False, True])
def test_the_end_of_another_process_is_told_in_the_place_of_a_program_s_error(
    service, left, error, is_silent
):
    """What fails by itself, or beside a process of which nothing is heard, is its own error."""
    other_leaves(BEGUN)
    if not is_silent:
        service.end(1, INTERRUPTED)
    is_own = is_silent or isinstance(error, OSError)
    expected = type(error) if is_own else processes.OtherProcessFailed
    said = str(error) if is_own else r"see what it said \(process 1 was interrupted\)"
    with pytest.raises(expected, match=said), processes.patience(0.05), processes.among_all("call"):
        raise error
    assert left == [(1,)]


BEGUN_STEP = ["a step of a point", deciding._digest({})]
ENDED_STEP = ["end of a step of a point", None]


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("is_lost", [False, True])
def test_a_step_that_a_signal_made_fail_is_interrupted(service, left, is_shared, is_lost):
    """Errors of the program are expected there, and are figures of a point."""
    expected = (jax.errors.JaxRuntimeError,)
    other_leaves(BEGUN_STEP, ["all", None], ENDED_STEP)
    with pytest.raises(KeyboardInterrupt):
        processes.attempted(lambda: fail_by_a_signal(is_lost), expected, is_shared=is_shared)
    assert left == [()]
    assert not own_messages(service)


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


@pytest.mark.parametrize("has_heard", [False, True])
def test_who_is_interrupted_while_it_tells_an_error_does_not_wait_on(service, left, has_heard):
    """But for another that has heard of the error, and waits for this one in JAX's shutdown."""
    other_leaves(BEGUN)
    expected = pytest.raises(processes.Stopped if has_heard else KeyboardInterrupt)
    if has_heard:
        messages.leave(f"group/{deciding._digest([0, 1])}/2/error", ending.TOGETHER)
    with after(0.1, ending._interrupt), expected, processes.among_all("call"):
        raise ZeroDivisionError
    assert left == [()] * (not has_heard)


def test_who_hears_of_an_error_behind_an_interruption_leaves_too(service, left):
    other_leaves(BEGUN, ["error", "SystemError: bad"])
    messages.leave(f"group/{deciding._digest([0, 1])}/2/error", ending.ALONE)
    expected = pytest.raises(processes.OtherProcessFailed, match="1 failed with SystemError: bad")
    with expected, processes.among_all("call"):
        pass
    assert left == [(1,)]


def test_the_first_reason_to_leave_is_the_one_that_the_others_are_told(service, monkeypatch):
    registered = []
    monkeypatch.setattr(ending, "_codes", [])
    monkeypatch.setattr(ending.atexit, "register", lambda *given: registered.append(given[1:]))
    ending.leave_without_others()
    ending.leave_without_others(1, ending.FOLLOWED)
    assert service.ended(0) == [INTERRUPTED, ""]
    assert registered == [(130, True)]


def test_who_fails_in_a_program_that_others_wait_in_says_so(service, left, monkeypatch):
    def work():
        raise MemoryError("no room")

    monkeypatch.setattr(deciding, "PATIENCE", 0.05)
    said = "^process 0 failed in a program that all share: no room$"
    with pytest.raises(processes.OtherProcessFailed, match=said):
        processes.attempted(work, (MemoryError,), is_shared=True)
    assert left == [(1,)]


def test_processes_notice_within_45_seconds_that_one_gives_no_sign(monkeypatch):
    """And who finds no others may go on without them, to an end of its own."""
    given = {}
    monkeypatch.setattr(atexit, "register", lambda *call: pytest.fail(f"{call} at the end"))

    def initialize(*processes, **options):
        given.update(options, processes=processes)
        raise RuntimeError("nobody answers\nin this test")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(joining.NoCluster, match=r"not found \(nobody answers\): start this under"):
        joining.join("localhost:1", 2, 1)
    # Outside of clusters a process uses all devices of its host.
    assert given == {"processes": ("localhost:1", 2, 1, []), "heartbeat_timeout_seconds": 45}


def test_who_is_interrupted_while_it_joins_others_does_not_wait_for_them(service, monkeypatch):
    """It leaves no message before they have met: JAX would abort it."""

    def interrupted(*processes, **options):
        raise KeyboardInterrupt

    registered = []
    monkeypatch.setattr(jax.distributed, "initialize", interrupted)
    monkeypatch.setattr(atexit, "register", lambda *call: registered.append(call))
    with pytest.raises(KeyboardInterrupt):
        joining.join("localhost:1", 2, 0)
    assert registered == [(ending.leave_now, 130, False)]
    assert not service.texts


@pytest.mark.parametrize("process", [0, 1])
def test_who_is_interrupted_while_it_meets_the_others_tells_them(service, monkeypatch, process):
    """One process is interrupted while it waits for the other, which hears of it, and ends too."""
    registered = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *processes, **options: None)
    monkeypatch.setattr(joining.multihost_utils, "sync_global_devices", lambda name: time.sleep(3))
    monkeypatch.setattr(atexit, "register", lambda *call: registered.append(call))
    monkeypatch.setattr(distributed.global_state, "process_id", process)
    with pytest.raises(KeyboardInterrupt), after(0.2, ending._interrupt):
        joining.join("localhost:1", 2, process)
    assert registered == [(ending.leave_now, 130, process == 0)]
    monkeypatch.setattr(distributed.global_state, "process_id", 1)
    registered.clear()
    said = rf"another process has ended, .* see what it said \(process {process} was interrupted\)"
    with pytest.raises(processes.OtherProcessFailed, match=said):
        joining.join("localhost:1", 2, 1)
    assert registered == [(ending.leave_now, 2, False)]


def test_what_names_the_processes_is_given_together():
    with pytest.raises(joining.NoCluster, match="together, got localhost:1, None and 1"):
        joining.join("localhost:1", None, 1)


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has this policy")
def test_all_threads_let_others_finish():
    try:
        os.sched_setscheduler(0, os.sched_getscheduler(0), os.sched_getparam(0))
    except OSError as error:
        pytest.skip(f"no policy may be set here: {error}")
    program = (
        "import os, threading; from jaxdescent.processes.joining import let_threads_finish;"
        "end = threading.Event(); other = threading.Thread(target=end.wait); other.start();"
        "let_threads_finish();"
        "print({os.sched_getscheduler(int(t)) for t in os.listdir('/proc/self/task')});"
        "end.set()"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said.strip() == str({os.SCHED_BATCH})


PAIRS = {
    "a learning rate": lambda factor: jd.GradientDescent(0.1 * factor),
    "a tolerance": lambda factor: jd.Tolerance(gradient=1e-3 * factor),
    "a penalty": lambda factor: jd.LinearRegression(np.ones((90, 2)), np.ones(90), l2=factor),
    "a number": lambda factor: factor,
    "nothing": lambda factor: None if factor == 1.0 else factor,
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_made_anew_is_alike_and_other_numbers_are_not(name):
    make = PAIRS[name]
    assert texts(part=make(1.0)) == texts(part=make(1.0))
    assert texts(part=make(1.0)) != texts(part=make(2.0))


def test_addresses_of_objects_are_not_compared():
    assert texts(part=[object()]) == texts(part=[object()])


def test_of_data_the_shapes_are_compared():
    """Each process has its own part of them."""
    one, other, longer = np.ones((100, 3)), np.zeros((100, 3)), np.ones((101, 3))
    assert texts(X=one) == texts(X=other)
    assert texts(X=one) != texts(X=longer)


def test_the_refusal_names_what_differs():
    told = [
        {"method": "A(1)", "start": "1.0", "l2": "0.5"},
        {"method": "A(2)", "start": "1.0"},
        {"method": "A(1)", "start": "1.0", "l2": "0.5"},
    ]
    assert differing("minimize", (0, 3, 5), told) == (
        "the processes must make the same call of minimize, and method is A(1) in process 0, 5 and "
        "A(2) in process 3; l2 is 0.5 in process 0, 5 and absent in process 3: give all of them "
        "the same."
    )
