"""``sum x^2`` over as many parameters as a large language model has, stored in bfloat16."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

RATE = 1e-2
SAMPLES = 64
"""How many elements of each array the referee follows."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """The shapes, and integers in [-1000, 1000) drawn into them.

    Attributes:
      shapes: by name, those of Llama-3-8B or of a part of it.
      seed: of the start and of the samples.
    """

    shapes: dict[str, tuple[int, ...]]
    seed: int

    def draw(self) -> dict[str, Any]:
        """The start as JAX arrays, each born in its own memory."""
        import jax.numpy as jnp

        from jaxdescent.breakdown.independent_weights import draw

        return draw(self.shapes, jnp.bfloat16, self.seed)

    def positions(self) -> dict[str, tuple[np.ndarray, ...]]:
        rng = np.random.default_rng(self.seed)
        return {
            name: tuple(rng.integers(0, length, SAMPLES) for length in shape)
            for name, shape in self.shapes.items()
        }


def evidence(starts: Any, ends: Any, iterations: int, write_backs: int) -> np.ndarray:
    """What the referee needs: samples before and after, and how often they were rounded."""
    counts = np.zeros(len(starts))
    counts[:2] = iterations, write_backs
    return np.stack([np.asarray(starts, np.float64), np.asarray(ends, np.float64), counts])


@dataclasses.dataclass(frozen=True)
class Separable:
    """Judged by the largest error against ``(1 - 2 rate)^k x``, over that of the write-backs."""

    max_params: int | None
    seed: int = 0

    def write(self, folder: pathlib.Path) -> None:
        pass

    def load(self, folder: pathlib.Path) -> Tree:
        from jaxdescent.breakdown.llama_tree import tree

        return Tree(tree(self.max_params).shapes, self.seed)

    def judge(self, folder: pathlib.Path, params: np.ndarray) -> float:
        starts, ends, (iterations, write_backs, *_) = params
        true = (1 - 2 * RATE) ** iterations * starts
        present = true != 0
        error = np.max(np.abs(ends[present] / true[present] - 1))
        return float(error / (write_backs * 2.0**-8))
