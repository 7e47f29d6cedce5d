"""The threads of NumPy's linear algebra are one while the host solves, and all afterwards; sums of
many products have several of their own.
"""

import os
import signal
import textwrap
import threading

import numpy as np
import pytest

from jaxdescent.kernels import host_threads
from jaxdescent.kernels.host_threads import on_one_thread, summed
from tests.commands import printed


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


def test_a_sum_has_all_its_parts_and_the_errors_of_the_one_who_asked():
    seen = {}

    def part(index):
        seen[index] = threading.current_thread()
        return np.full(2, 10.0**index) / np.zeros(2)

    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(summed(part, 5), np.inf)
    assert sorted(seen) == list(range(5))
    assert seen[0] is threading.current_thread() is not seen[1]
    np.testing.assert_array_equal(summed(lambda index: np.full(2, 10**index), 3), 111)
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        summed(lambda index: np.ones(1) / (1 if index == 0 else np.zeros(1)), 2)


def test_a_sum_is_whole_where_no_thread_begins_any_more():
    program = """
        import threading
        import numpy as np
        from jaxdescent.kernels.host_threads import summed

        def later():
            threading.main_thread().join()
            print(summed(lambda index: np.full(1, 10**index), 3))

        threading.Thread(target=later).start()
    """
    assert printed(textwrap.dedent(program)) == "[111]\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_a_forked_process_begins_anew_and_adds_up_by_threads_of_its_own(threads):
    assert summed(lambda _: np.ones(()), 3) == 3
    with on_one_thread():
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # threads that are not there would be waited for
            seen = threads[0]
            with on_one_thread():
                within = threads[0]
            total = summed(lambda _: np.ones(()), 3)
            os._exit(0 if [seen, within, threads[0], total] == [5, 1, 5, 3] else 1)
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
