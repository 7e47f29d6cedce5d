"""Sums of squares of columns about their means, added up block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdescent import processes
from jaxdescent.data.chunk import Chunk

EXACT = 64 * np.finfo(float).eps
"""Squares about the mean that add up to less than this part of the sum of squares are rounding."""


class ColumnSquares:
    """``sum_i s_i x_ij`` and ``sum_i s_i x_ij^2`` of all features, in float64.

    Args:
      features: how many there are; the first ones are columns of numbers.
      dtype: the dtype of the numbers: a column that varies within its rounding counts as constant.
    """

    def __init__(self, features: int, dtype: Any) -> None:
        self.first, self.second = np.zeros(features), np.zeros(features)
        self.total = 0.0
        self._eps = float(np.finfo(dtype).eps)
        self._numbers = 0

    def add(self, chunk: Chunk, weight: np.ndarray) -> None:
        """Add rows, and their weights, (rows,)."""
        self._numbers = chunk.numbers.shape[1]
        chunk.add(weight[:, None], None, self.first[:, None])
        chunk.add_squares(weight, None, self.second)
        self.total += float(weight.sum())

    def squares(
        self,
        shift: np.ndarray,
        fills: np.ndarray | None = None,
        absent: np.ndarray | None = None,
    ) -> np.ndarray:
        """``sum_i s_i (x_ij - mean_j)^2`` over the rows of all processes, (features,); zero where a
        column does not vary.

        Args:
          shift: (numbers,), subtracted from the numbers before: a column that varies by less than
            float64 rounds such numbers counts as constant.
          fills: (numbers,), which stand for missing numbers, which were added as zeros.
          absent: (numbers,), the sum of the weights of the rows without the number.
        """
        first, second = processes.added(np.stack([self.first, self.second]))
        total = float(processes.added(np.array([self.total]))[0])
        if fills is not None and absent is not None:
            first[: self._numbers] += absent * fills
            second[: self._numbers] += absent * np.square(fills)
        mean = first / total
        squares = second - first * mean
        least = EXACT * second
        numbers = slice(0, self._numbers)
        rounding = np.maximum(
            self._eps * np.abs(mean[numbers]), np.finfo(float).eps * np.abs(mean[numbers] + shift)
        )
        least[numbers] = np.maximum(least[numbers], total * np.square(4 * rounding))
        return np.where(squares > least, squares, 0.0)


def deviations(squares: np.ndarray, total: float) -> np.ndarray:
    """Standard deviations from squares about the means; one where a column does not vary."""
    return np.sqrt(np.where(squares > 0, squares / total, 1.0))
