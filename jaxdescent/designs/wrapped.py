"""A design that is another one with something done to its columns."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np

from jaxdescent.designs.protocol import Design


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Wrapped(Design):
    """As many rows and columns as ``design`` has, read in the same blocks."""

    design: Design

    @property
    def shape(self) -> tuple[int, int]:
        return self.design.shape

    @property
    def dtype(self) -> Any:
        return self.design.dtype

    @property
    def is_whole(self) -> bool:
        return self.design.is_whole

    @property
    def block_length(self) -> int:
        return self.design.block_length

    @property
    def sections(self) -> tuple[int, ...]:
        return self.design.sections

    def sample_index(self, count: int) -> np.ndarray:
        return self.design.sample_index(count)

    def by_rows(self) -> Self:
        return dataclasses.replace(self, design=self.design.by_rows())

    def dense_bytes(self) -> int:
        rows, features = self.shape
        return self.design.dense_bytes() + rows * features * np.dtype(self.dtype).itemsize
