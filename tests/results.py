"""What tests of several modules ask of a result."""

import jax
import numpy as np

import jaxdescent as jd


def status(result):
    """The name of its status."""
    return jd.Status(int(result.status)).name


def assert_same(got, expected):
    """That all leaves of two trees have the same bits, but for NaN."""
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def assert_trees_close(got, expected, **tolerances):
    """That two trees have the same form, and leaves that are as close as NumPy is told."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), got, expected)
