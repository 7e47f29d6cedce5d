"""Contenders that JAX runs, once more with their passes over the data counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from benchmarks.harness.case import Counting, Factory, Solve
from benchmarks.problems import functions, regression


def of_function(prepare: Factory) -> Factory:
    """The factory of a function's contender: what it counts is what the function does."""

    def both(data: functions.Data) -> Solve:
        if data.counted is None:
            return prepare(data)
        counted = dataclasses.replace(data, function=data.counted)
        return Counting(prepare(data), lambda tolerance: counts(prepare(counted), tolerance))

    return both


def of_products(prepare: Callable[[regression.Data, Any], Solve]) -> Factory:
    """The factory of a regression's contender, from what it makes with a product ``X @ w``."""

    def both(data: regression.Data) -> Solve:
        import jax.numpy as jnp

        from benchmarks.harness.passes import counted_product

        return Counting(
            prepare(data, jnp.matmul),
            lambda tolerance: counts(prepare(data, counted_product), tolerance),
        )

    return both


def counts(solve: Solve, tolerance: float) -> float | None:
    """The passes of a run on an X, or with a product, that counts them."""
    from benchmarks.harness.passes import passes_if_seen

    return passes_if_seen(lambda: solve(tolerance).params)
