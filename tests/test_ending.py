"""The early end of one process is the end of all: here of one of two, with false messages."""

import contextlib
import math
import threading
import time

import jax
import pytest
from jax._src import distributed

from jaxdescent.processes import OtherProcessFailed, ending, messages
from jaxdescent.processes.ending import DONE, FAILED, FOLLOWED, INTERRUPTED, CommonEnd
from jaxdescent.processes.joining import HEARTBEAT_SECONDS
from jaxdescent.processes.signals import on_a_thread
from tests.kept_messages import KeptMessages, after, fail_by_a_signal

COMPLETE, CUT = "complete", ""


def test_a_process_that_gives_no_sign_is_left_before_jax_ends_all_for_it():
    """JAX may have heard of it last half of the time ago after which it ends all."""
    waited = ending.FAREWELL + ending.PARTING + 2 * ending.LOOK_SECONDS
    assert waited < HEARTBEAT_SECONDS / 2 - 5
    assert ending.FAREWELL > ending.RESPITE + ending.GRACE  # who answers has ended by then


@pytest.fixture
def notes(monkeypatch):
    kept = KeptMessages.put_in_place(monkeypatch)
    shorter = {"LOOK_SECONDS": 0.01, "PARTING": 0.02, "RESPITE": 0.02}
    for name, seconds in (shorter | {"AGAIN_SECONDS": 30, "GRACE": 60, "FAREWELL": 30}).items():
        monkeypatch.setattr(ending, name, seconds)
    return kept


@pytest.fixture
def second(notes, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    return notes


@pytest.fixture
def left(monkeypatch):
    """The exit codes with which this process has left the others behind."""
    codes = []
    monkeypatch.setattr(ending, "leave_without_others", codes.append)
    return codes


def test_the_first_process_tells_of_parts_that_are_complete(notes, left):
    notes.end(1, DONE)
    with CommonEnd() as others:
        assert others.by_first(lambda: COMPLETE) is COMPLETE
        assert list(messages.found("complete")) == ["1"]
        assert others.by_first(lambda: CUT) is CUT
        assert list(messages.found("complete")) == ["1"]
    assert notes.ended(0) == [DONE, ""]
    assert not left


def test_the_others_wait_for_each_part_and_for_the_end(second, left):
    calls = []
    with after(0.4, second.end, 0, DONE), CommonEnd() as others:
        for number in (1, 2):
            with after(0.1, messages.leave, f"complete/{number}", ""):
                began = time.perf_counter()
                assert others.by_first(lambda: calls.append(1) or COMPLETE) is None
                assert time.perf_counter() - began > 0.05
    assert second.ended(0)  # which was waited for
    assert not left
    assert not calls


@pytest.mark.parametrize("where", ["caught", "raised", "at the end"])
def test_an_error_of_another_is_raised_here(second, left, where):
    def waits():
        with after(0.1, second.end, 0, FAILED, "with OSError: full"), CommonEnd() as others:
            if where == "at the end":  # as the first process may have one when it writes
                return
            try:
                others.by_first(lambda: COMPLETE)
            except KeyboardInterrupt:
                others.stops()
                if where == "raised":
                    raise

    expected = r"^process 0 failed with OSError: full$"
    with pytest.raises(OtherProcessFailed, match=expected):
        waits()
    assert second.ended(1)[0] == (DONE if where == "at the end" else FOLLOWED)
    assert left == [2]


def test_an_interruption_of_another_is_one_here(second, left, capsys):
    expected = pytest.raises(KeyboardInterrupt)
    with after(0.1, second.end, 0, INTERRUPTED), expected, CommonEnd() as others:
        others.by_first(lambda: COMPLETE)
    said = "Interrupted: process 0 was interrupted, and this one ends with it.\n"
    assert capsys.readouterr().err == said
    assert second.ended(1)[0] == FOLLOWED
    assert left == [130]


def test_who_is_ending_already_is_not_interrupted(second, left, monkeypatch, capsys):
    """Ctrl-C in a terminal comes to all processes at once."""
    monkeypatch.setattr(ending, "RESPITE", 0.2)
    monkeypatch.setattr(ending, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(ending, "GRACE", 0.15)
    second.end(0, INTERRUPTED)
    with CommonEnd() as others:
        time.sleep(0.05)
        others.stops()
        time.sleep(0.4)  # what is written
    assert capsys.readouterr().err == ""
    assert left == [130]


def test_an_error_here_is_told_and_is_no_others(notes, left, capsys):
    with pytest.raises(ZeroDivisionError), after(0.2, notes.end, 1, FOLLOWED), CommonEnd():
        raise ZeroDivisionError("by\nzero")
    assert notes.ended(0) == [FAILED, "with ZeroDivisionError: by zero"]
    assert capsys.readouterr().err == "process 0 failed with ZeroDivisionError: by zero\n"
    assert left == [2]


def test_ctrl_c_here_is_told(second, left, capsys):
    second.end(0, DONE)
    with CommonEnd() as others:
        others.stops()
    assert second.ended(1)[0] == INTERRUPTED
    assert "the first process keeps" in capsys.readouterr().err
    assert left == [130]


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_a_signal_made_fail_is_told_as_an_interruption(second, left, capsys, is_lost):
    second.end(0, DONE)
    with pytest.raises(jax.errors.JaxRuntimeError), CommonEnd():
        fail_by_a_signal(is_lost)
    assert second.ended(1) == [INTERRUPTED, ""]
    assert "the first process keeps" in capsys.readouterr().err
    assert left == [130]


@pytest.mark.parametrize(("stops", "code"), [(True, 130), (False, 2)])
def test_who_does_not_answer_is_left_behind(notes, left, monkeypatch, stops, code):
    monkeypatch.setattr(ending, "FAREWELL", 0.1)
    with contextlib.suppress(ZeroDivisionError), CommonEnd() as others:
        if not stops:
            raise ZeroDivisionError
        others.stops()
    assert left == [code]


def test_who_has_ended_early_is_not_waited_for_by_jax(notes, left):
    notes.end(1, FOLLOWED)
    with CommonEnd():
        pass
    assert left == [0]


def test_ctrl_c_while_the_others_are_waited_for_leaves_them(notes, left):
    with after(0.2, ending._interrupt), CommonEnd():
        pass
    assert left == [0]
    assert notes.ended(0)[0] == FOLLOWED


@pytest.mark.parametrize("has_seen", [True, False])
def test_ctrl_c_after_all_are_done_leaves_nobody_in_jaxs_shutdown(second, left, has_seen):
    """The first process sees that all are done before this one is interrupted, or after."""
    common = ending.COMMON_END, ending.TOGETHER

    def first_sees_and_ctrl_c():
        second.end(0, DONE)
        assert not has_seen or messages.settled(*common) == ending.TOGETHER
        ending._interrupt()

    with after(0.1, first_sees_and_ctrl_c), CommonEnd():
        ending.LOOK_SECONDS = 30.0
    assert left == ([] if has_seen else [0])
    assert second.ended(1)[0] == (DONE if has_seen else FOLLOWED)
    assert messages.settled(*common) == (ending.TOGETHER if has_seen else ending.ALONE)


@pytest.mark.parametrize("is_told", [True, False])
def test_a_second_ctrl_c_here_leaves_the_others_with_the_first(second, left, monkeypatch, is_told):
    """Also where it comes before the first one has been told."""
    tell, waits = ending.tell, [] if is_told else [True]

    def told(end):
        if waits:
            waits.pop()
            time.sleep(30)
        tell(end)

    monkeypatch.setattr(ending, "tell", told)
    with after(0.2, ending._interrupt), CommonEnd() as others:
        others.stops()
    assert second.ended(1)[0] == INTERRUPTED
    assert left == [130]


def test_who_waits_in_a_program_follows_an_early_end(notes, monkeypatch):
    left, over, given, waited = [], threading.Event(), [], []
    monkeypatch.setattr(ending, "leave_without_others", lambda *how: left.append(how))
    notes.end(1, DONE)
    assert on_a_thread(lambda: time.sleep(0.2) or 3, look=ending.follow_early_end) == 3
    expected = pytest.raises(OtherProcessFailed, match="process 1 was interrupted")
    with expected, after(0.1, notes.end, 1, INTERRUPTED):
        on_a_thread(
            lambda: waited.append(over.wait(20)), math.inf, given.append, ending.follow_early_end
        )
    # The program may wait for the other process itself.
    assert (len(given), waited) == (1, [])
    over.set()
    assert left == [(1, FOLLOWED)]


def test_a_first_process_that_cannot_be_reached_is_named(second, left, capsys):
    def gone():
        second.is_reached = False

    expected = pytest.raises(OtherProcessFailed, match=r"process 0 .*be reached")
    with expected, after(0.1, gone), CommonEnd() as others:
        others.by_first(lambda: COMPLETE)
    assert left == [2]
    assert "Interrupted" not in capsys.readouterr().err


def test_a_program_that_broke_off_says_who_failed(second, left):
    second.end(0, FAILED, "with MemoryError: no room")
    expected = pytest.raises(OtherProcessFailed, match="process 0 failed with MemoryErr")
    with expected, CommonEnd():
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(30)
        raise jax.errors.JaxRuntimeError("connection closed by peer")


def test_a_process_that_cannot_be_interrupted_is_ended(second, left, monkeypatch, capsys):
    codes, has_ended = [], threading.Event()
    monkeypatch.setattr(ending, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(ending, "GRACE", 0.2)
    monkeypatch.setattr(ending.os, "_exit", lambda code: codes.append(code) or has_ended.set())
    second.end(0, FAILED, "with MemoryError: no room")
    interruptions = 0
    with contextlib.suppress(OtherProcessFailed), CommonEnd():
        while not has_ended.is_set():
            try:
                has_ended.wait(10)
            except KeyboardInterrupt:
                interruptions += 1
        assert second.ended(1)[0] == FOLLOWED
    assert (codes, interruptions) == ([2], 2)
    said = "Error: process 0 failed with MemoryError: no room, while this one waited for it.\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("is_closed", [True, False])
def test_who_leaves_with_an_output_that_nobody_reads_waits_for_no_other(monkeypatch, is_closed):
    class Unread:
        def flush(self):
            raise BrokenPipeError

    codes, slept = [], []
    monkeypatch.setattr(ending.sys, "stdout", None if is_closed else Unread())
    monkeypatch.setattr(ending.time, "sleep", slept.append)
    monkeypatch.setattr(ending.os, "_exit", codes.append)
    ending.leave_now(130, True)
    assert (codes, slept) == ([130], [ending.PARTING])


def test_of_one_process_nothing_is_told(monkeypatch, capsys):
    monkeypatch.setattr(distributed.global_state, "client", None)
    with contextlib.suppress(ZeroDivisionError), CommonEnd() as others:
        assert others.by_first(lambda: CUT) is CUT
        others.stops()
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""
