"""What can stand for a regression's design matrix X: all multiply by w and by the transpose."""

from jaxdescent.designs.centred import Center as Center
from jaxdescent.designs.centred import Centred as Centred
from jaxdescent.designs.dense import Dense as Dense
from jaxdescent.designs.matrix_free import MatrixFree as MatrixFree
from jaxdescent.designs.protocol import Design as Design
from jaxdescent.designs.sparse import Sparse as Sparse
from jaxdescent.designs.sparse import is_sparse_matrix as is_sparse_matrix


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
