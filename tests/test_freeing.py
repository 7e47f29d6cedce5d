"""Memory that was freed is given back to the system, which the GNU C library by itself keeps."""

import ctypes
import os
import textwrap

import pytest

from tests.commands import printed

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="other C libraries have no such functions",
)

FREEING = """
    import numpy as np

    from jaxdescent.data import freeing

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    def kept(size, count):
        '''The bytes that are resident because of arrays that were freed, but for a last one.'''
        before = resident()
        arrays = [np.ones(size, np.uint8) for _ in range(count)]
        assert resident() - before > 0.9 * size * count
        last = arrays[-1]
        del arrays
        return last, before
"""
SMALL = """
    last, before = kept(100_000, 640)  # below the size that has a mapping of its own
    assert resident() - before > 0.9 * 64e6  # the last one keeps the heap from shrinking
    passing = freeing.Passing()
    for _ in range(freeing.RETURNING - 1):
        passing.add(freeing.LEAST_BYTES // freeing.RETURNING)
    assert resident() - before > 0.9 * 64e6
    passing.add(freeing.LEAST_BYTES)
    assert resident() - before < 0.1 * 64e6
    last, before = kept(100_000, 640)
    passing.add(freeing.LEAST_BYTES - 1, is_last=True)
    assert resident() - before > 0.9 * 64e6
    passing.add(1, is_last=True)
    assert resident() - before < 0.1 * 64e6
"""
LEARNT = """
    # Of the sizes that are freed the library learns to keep larger and larger ones, to 32 MB.
    for size in range(20):
        np.ones(size << 20, np.uint8)
    last, before = kept(3 << 20, 32)
"""
LARGE_BEFORE = (
    LEARNT
    + """
    assert resident() - before > 0.9 * (96 << 20)
    freeing.return_what_is_freed()
    assert resident() - before < 0.1 * (96 << 20)
    # The next arrays may be placed where these were, and are returned at the end of the pass.
    del last
    last, before = kept(3 << 20, 32)
    freeing.Passing().add(96 << 20, is_last=True)
    assert resident() - before < 0.1 * (96 << 20)
"""
)
LARGE_AFTER = (
    """
    freeing.return_what_is_freed()
"""
    + LEARNT
    + """
    assert resident() - before < 0.1 * (96 << 20)
"""
)


@pytest.mark.parametrize(
    "code",
    [SMALL, LARGE_BEFORE, LARGE_AFTER],
    ids=["what was freed", "large arrays freed before", "large arrays freed afterwards"],
)
def test_what_passed_through_a_process_does_not_stay_with_it(code):
    printed(textwrap.dedent(FREEING) + textwrap.dedent(code))
