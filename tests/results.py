"""What tests of several modules ask of a result."""

import jax
import numpy as np

import jaxdescent as jd


def status(result):
    """The name of its status."""
    return jd.Status(int(result.status)).name


def assert_progress_is_true(method, objective, params, steps, value_error, norm_error):
    """That each step tells the value and the norm of the gradient of the params it began from."""
    begin, step, value_and_gradient = map(
        jax.jit, (method.init, method.step, type(objective).value_and_gradient)
    )
    state = begin(objective, params)
    for _ in range(steps):
        value, gradient = value_and_gradient(objective, params)
        norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
        params, state, progress = step(objective, params, state)
        np.testing.assert_allclose(progress.value, value, rtol=value_error)
        np.testing.assert_allclose(progress.gradient_norm, norm, **norm_error)


def assert_same(got, expected):
    """That all leaves of two trees have the same bits, but for NaN."""
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def assert_trees_close(got, expected, **tolerances):
    """That two trees have the same form, and leaves that are as close as NumPy is told."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), got, expected)
