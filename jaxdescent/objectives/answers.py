"""The types of params, and of some answers of an objective."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

Params = Any
"""A pytree of floating-point arrays: the unknowns."""


class Bounds(NamedTuple):
    """Bounds on the eigenvalues of the Hessian that hold at all params."""

    lower: jax.Array
    upper: jax.Array


class RowBlocks(NamedTuple):
    """The rows of an objective that is a sum over them.

    Attributes:
      rows: the number of rows.
      block: the number of consecutive rows that are best read together.
      entries: about how many numbers of a row are multiplied.
      sections: the numbers of the blocks with which reading can begin.
    """

    rows: int
    block: int
    entries: int
    sections: tuple[int, ...] = (0,)


class Parts(NamedTuple):
    """The parts that distinguish an objective from others of its class, for repeated calls.

    Attributes:
      kind: a hashable value of the options that programs depend on besides structures and shapes.
      data: arrays whose values no check reads.
      numbers: values that are checked in every call.
    """

    kind: Any
    data: Any
    numbers: Any


class StationarySolver(Protocol):
    """A factorisation of an affine gradient's matrix, made once and used for several solves.

    It is a pytree, and keeps no reference to the objective's data. It may say ``overlooks``:
    whether the matrix is so ill-conditioned, with its columns in units of their lengths, that
    :meth:`height` may leave out an unknown.
    """

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        """The point where the gradient is zero, and whether the curvature there is negative
        in some direction.

        ``gradient`` is the gradient at ``params``. Solving again from the solution refines it,
        because the gradient is computed from the data.
        """
        ...

    def height(
        self, objective: Any, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """``|g.H^+ g| / 2`` and a curvature.

        The first is the distance of the value at ``params`` from the stationary value, infinite if
        it is not known; the second is the largest curvature, or the one along some direction.
        ``is_solution`` says that :meth:`solve` returned ``params``: where the solver is more
        accurate than the computed gradient, only the rounding of the params is counted then.
        """
        ...
