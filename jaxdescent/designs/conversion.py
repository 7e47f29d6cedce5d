"""From what callers pass as X to a design."""

from __future__ import annotations

from jaxdescent.designs.dense import Dense
from jaxdescent.designs.protocol import Design
from jaxdescent.designs.sparse import Sparse, is_sparse_matrix


def as_design(X: object) -> Design:
    """``X`` itself if it is a design, else an array or a sparse matrix as one.

    Raises:
      TypeError: if ``X`` is neither a design nor an array nor a sparse matrix.
    """
    if isinstance(X, Design):
        return X
    if is_sparse_matrix(X):
        return Sparse(X)
    return Dense.from_array(X)
