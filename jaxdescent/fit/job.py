"""The job of a fit: its sources of rows, its options, and the memory that it may hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxdescent.data import Source
from jaxdescent.fit.budget import Memory
from jaxdescent.fit.checkpoint import FitCheckpoint
from jaxdescent.fit.dates import Dates
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.model import Model
from jaxdescent.fit.progress import ProgressListener
from jaxdescent.fit.request import Request
from jaxdescent.fit.roles import Roles


class Job(NamedTuple):
    """Everything that the ways of fitting share.

    ``fingerprint`` is that of the data, ``dates`` has the columns of dates by name, ``first_row``
    is the number of the source's first row among those of all processes, ``start`` the model whose
    weights iterations begin at.
    """

    source: Source
    test_source: Source | None
    roles: Roles
    request: Request
    memory: Memory
    watch: ProgressListener
    fingerprint: str
    dates: dict[str, Dates]
    checkpoint: FitCheckpoint | None = None
    first_row: int = 0
    start: Model | None = None

    @property
    def encoding(self) -> Encoding:
        """How columns become features; levels are known after the pass that finds them."""
        return self.roles.features

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of iterations."""
        return np.dtype(self.request.dtype or "float32")

    @property
    def sources(self) -> list[Source]:
        """The source of the data, and that of other data that are held out."""
        return [self.source] if self.test_source is None else [self.source, self.test_source]

    @property
    def is_tested(self) -> bool:
        """Whether rows are held out."""
        return self.test_source is not None or self.request.test > 0
