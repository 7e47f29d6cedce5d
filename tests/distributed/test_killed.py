"""A run of two processes goes on from its checkpoint after one of them was killed."""

import numpy as np
import pytest

from tests.distributed.killed import killed


@pytest.mark.slow
def test_two_processes_killed_in_turns_end_with_the_same_bits(tmp_path):
    iterations, got, want = killed(4, tmp_path)
    assert iterations > 4 * 50
    np.testing.assert_array_equal(got, want)
