"""Whether the gradient alone proves a claim on a tall stored regression, by a sketch of X.

With the least eigenvalue m of the Hessian no value is further than ``|g|^2 / (2 m)`` above the
minimum. The rows with random signs, added up to a few times as many as there are features, have
about the same Gram matrix, so that one pass over X tells m to a factor of two: its least eigenvalue
is no larger than that of X, but for chance. An error e of the residual, which is the difference of
larger terms, hides at most ``|e|^2 / 2`` of the value, however small m is: the square roots of both
add up. Where that does not prove the claim, two columns may be nearly equal, and LAPACK finds the
minimum (:mod:`~jaxdescent.descent.looks.singular_values`).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.designs import as_design
from jaxdescent.kernels.host_threads import on_one_thread
from jaxdescent.regression import LinearRegression
from jaxdescent.regression.solve.lapack_factor import ULPS

ROWS = 4
"""The number of rows of a sketch for each column: the least eigenvalue is then a quarter too small
at worst, and seldom a tenth too large."""

TURNS = 1024
"""The most rows that are added to one in the dtype of X; their sums are added in float64."""

CERTAIN = 2
"""The factor by which chance may make the least eigenvalue of a sketch too large."""

PRODUCTS = 32
"""The most products for each entry of X and iteration, so that a sketch takes a fraction of the
descent's time."""


def is_possible(regression: LinearRegression, iterations: int) -> bool:
    """Whether X has the rows for a sketch, which costs little beside so many iterations."""
    rows, features = as_design(regression.X).shape
    return PRODUCTS * features**2 <= rows * iterations and rows >= 2 * ROWS * features


@on_one_thread()
def proves(
    regression: LinearRegression, weights: Any, value: float, norm: float, allowed: float
) -> bool:
    """Whether the value, at weights where the gradient has this norm, is no more than ``allowed``
    above the minimum, with the rounding of both.
    """
    X = np.asarray(as_design(regression.X).to_dense())
    rows, features = X.shape
    y = np.asarray(regression.y).reshape(rows, -1)
    weights = np.asarray(weights, np.float64).reshape(features, -1)
    count, random = _prime_from(ROWS * features + 64), np.random.default_rng(0)
    share, unit = regression.sample_weight, 1.0
    if share is not None:
        share = np.asarray(share)
        unit = float(np.max(share))
    sketch, targets = np.zeros((count, features + regression.intercept)), 0.0  # in float64
    # Every ``count``-th row is added to the same one: rows that lie together are often alike.
    whole = rows // count * count
    ends = [*range(0, whole, count * TURNS), whole, rows]
    with np.errstate(all="ignore"):
        for first, last in itertools.pairwise(ends):
            if not (size := last - first):
                continue
            own, signs = slice(first, last), random.choice(np.array([-1, 1], X.dtype), size)
            squares = np.sum(np.square(y[own], dtype=np.float64), axis=1)
            if share is not None:
                signs *= np.sqrt(share[own] / unit)
                squares *= share[own]
            targets += float(np.sum(squares))
            turns = signs.reshape(-1, min(size, count))
            block = X[own].reshape(*turns.shape, features)
            into = sketch[: turns.shape[1]]
            into[:, :features] += np.einsum("kc,kcp->cp", turns, block)
            into[:, features:] += np.sum(turns, axis=0)[:, None]
        gram = sketch.T @ sketch * unit
        gram[np.arange(features), np.arange(features)] += np.min(np.asarray(regression.l2))
        if not (np.isfinite(gram).all() and allowed > 0):
            return False
        eps = float(jnp.finfo(X.dtype).eps)
        rounding = ULPS * eps * np.sqrt(np.trace(gram) * 2 * value)
        lengths = np.sqrt(np.diagonal(gram)[:features])
        terms = lengths @ np.linalg.norm(weights, axis=1) + np.sqrt(targets)
        certain = np.linalg.eigvalsh(gram)[0] / CERTAIN
        root = (norm + rounding) / np.sqrt(certain) + ULPS * eps * terms
        return bool(root**2 <= 2 * allowed)


def _prime_from(least: int) -> int:
    """The least prime that is no smaller: rows of a certain hour, or of a certain place in a panel,
    then meet all remainders of a division by it.
    """
    numbers = itertools.count(least)
    return next(n for n in numbers if all(n % k for k in range(2, math.isqrt(n) + 1)))
