"""Conversion of the X that callers pass (array, sparse matrix, linear operator) to a design."""

from __future__ import annotations

from jaxdescent.designs.dense import Dense
from jaxdescent.designs.matrix_free import MatrixFree, is_operator
from jaxdescent.designs.protocol import Design
from jaxdescent.designs.sparse import Sparse
from jaxdescent.designs.sparse_entries import is_sparse_matrix


def as_design(X: object) -> Design:
    """``X`` itself if it is a design, else an array, a sparse matrix or an operator as one.

    Raises:
      TypeError: if ``X`` is none of these.
    """
    if isinstance(X, Design):
        return X
    if is_operator(X):
        return MatrixFree.from_operator(X)
    if is_sparse_matrix(X):
        return Sparse(X)
    return Dense.from_array(X)


def is_converted_once(X: object) -> bool:
    """Whether converting ``X`` takes so long that an objective keeps the design in its place."""
    return is_operator(X) or is_sparse_matrix(X)
