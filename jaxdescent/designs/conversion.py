"""From what callers pass as X to a design."""

from __future__ import annotations

from jaxdescent.designs.dense import Dense
from jaxdescent.designs.protocol import Design


def as_design(X: object) -> Design:
    """``X`` itself if it is a design, else a dense array as one.

    Raises:
      TypeError: if ``X`` is neither a design nor an array.
    """
    if isinstance(X, Design):
        return X
    return Dense.from_array(X)
