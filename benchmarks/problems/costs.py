"""What has no answer to judge, or a tiny one: overheads."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import referee

TARGET = np.array([1.0, -2.0, 3.0])


@dataclasses.dataclass(frozen=True)
class Unjudged:
    """A size, or a count, and nothing else."""

    size: int = 0

    def write(self, folder: pathlib.Path) -> None:
        pass

    def load(self, folder: pathlib.Path) -> int:
        return self.size

    def judge(self, folder: pathlib.Path, params: np.ndarray) -> float:
        return 0.0


@dataclasses.dataclass(frozen=True)
class ThreeParameters(Unjudged):
    """``sum weights (x - target)^2`` of three parameters after ``size`` steps, from zeros."""

    def judge(self, folder: pathlib.Path, params: np.ndarray) -> float:
        return referee.relative_error(params, descended(self.size))


WEIGHTS = np.array([1.0, 2.0, 3.0])
RATE = 0.05


def renewed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but another object: functions count by identity, and a new one compiles."""

    def same(*inputs: Any) -> Any:
        return function(*inputs)

    return same


def descended(iterations: int) -> np.ndarray:
    """Where plain descent is then."""
    return (1 - (1 - 2 * RATE * WEIGHTS) ** iterations) * TARGET
