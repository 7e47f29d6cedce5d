"""Design matrices: what can stand for a regression's X, by its products with X and X'."""

from jaxdescent.designs.centred import Center as Center
from jaxdescent.designs.centred import Centred as Centred
from jaxdescent.designs.dense import Dense as Dense
from jaxdescent.designs.matrix_free import MatrixFree as MatrixFree
from jaxdescent.designs.protocol import Design as Design


def as_design(X: object) -> Design:
    """``X`` itself if it is a design; a dense array is wrapped in :class:`Dense`.

    Raises:
      TypeError: if ``X`` is neither a design nor an array.
    """
    if isinstance(X, Design):
        return X
    return Dense.from_array(X)
