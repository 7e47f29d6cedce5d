"""The threads of NumPy's linear algebra are one while the host solves, and all afterwards."""

import os
import threading

import pytest

from jaxdescent.kernels import host_threads
from jaxdescent.kernels.host_threads import on_one_thread


@pytest.fixture
def threads(monkeypatch):
    """The number of threads of a library that is not there."""
    count = [5]
    functions = (lambda number: count.__setitem__(0, number)), (lambda: count[0])
    monkeypatch.setattr(host_threads, "_functions", lambda: functions)
    return count


def test_one_thread_computes_within_a_block(threads):
    with on_one_thread():
        assert threads == [1]
        with on_one_thread():
            assert threads == [1]
        assert threads == [1]
    assert threads == [5]
    with pytest.raises(ZeroDivisionError), on_one_thread():
        _ = 1 / 0
    assert threads == [5]


def test_blocks_that_overlap_leave_as_many_threads_as_there_were(threads):
    has_begun, may_end, seen = threading.Event(), threading.Event(), []

    @on_one_thread()
    def first():
        has_begun.set()
        may_end.wait(10)

    other = threading.Thread(target=first)
    with on_one_thread():
        other.start()
        assert has_begun.wait(10)
    seen += threads
    may_end.set()
    other.join(10)
    assert seen + threads == [1, 5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_a_forked_process_begins_anew(threads):
    with on_one_thread():
        child = os.fork()
        if child == 0:
            seen = threads[0]
            with on_one_thread():
                within = threads[0]
            os._exit(0 if [seen, within, threads[0]] == [5, 1, 5] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert threads == [1]


def test_a_library_under_another_name_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(host_threads, "NAMES", ("unknown_{}",))
    host_threads._functions.cache_clear()
    try:
        with on_one_thread():
            assert host_threads._functions() is None
    finally:
        host_threads._functions.cache_clear()


def test_the_threads_of_the_library_are_set():
    functions = host_threads._functions()
    if functions is None:
        pytest.skip("NumPy has another library of linear algebra here")
    set_threads, get_threads = functions
    before = get_threads()
    set_threads(2)
    try:
        with on_one_thread():
            assert get_threads() == 1
        assert get_threads() == 2
    finally:
        set_threads(before)
