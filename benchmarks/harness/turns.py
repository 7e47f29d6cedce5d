"""Times of contenders that are called in turn, so that what else runs slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax

Name = TypeVar("Name", bound=Hashable)


def timed(contenders: Mapping[Name, Callable[[], Any]], repeats: int) -> dict[Name, list[float]]:
    """Seconds of each, called in turn; the first call, which compiles, does not count."""
    seconds: dict[Name, list[float]] = {name: [] for name in contenders}
    for function in contenders.values():
        jax.block_until_ready(function())
    for _ in range(repeats):
        for name, function in contenders.items():
            begin = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def medians(contenders: Mapping[Name, Callable[[], Any]], repeats: int) -> dict[Name, float]:
    """The median seconds of each."""
    return {n: statistics.median(times) for n, times in timed(contenders, repeats).items()}
