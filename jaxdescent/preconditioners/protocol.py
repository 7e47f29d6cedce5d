"""The protocol of a preconditioner: a matrix N with ``N N'`` close to the inverse Hessian."""

from __future__ import annotations

import abc
from typing import Any

import jax

from jaxdescent.display import Displayed
from jaxdescent.preconditioners.hessians import CentredRegression, ShiftedHessian


class Factor(Displayed, abc.ABC):
    """N as a pytree, applied to (size, outputs) columns; each output may have its own penalty."""

    @abc.abstractmethod
    def apply(self, columns: jax.Array) -> jax.Array:
        """``N @ columns``: from the preconditioned unknowns to the unknowns."""

    @abc.abstractmethod
    def apply_transpose(self, columns: jax.Array) -> jax.Array:
        """``N.T @ columns``, from gradients to preconditioned gradients."""

    def solve(self, columns: jax.Array) -> jax.Array:
        """``N @ N.T @ columns``, close to the inverse Hessian times ``columns``."""
        return self.apply(self.apply_transpose(columns))


class SymmetricFactor(Factor):
    """A factor with ``N = N'``."""

    def apply_transpose(self, columns: jax.Array) -> jax.Array:
        return self.apply(columns)


class Preconditioner(Displayed, abc.ABC):
    """A rule that finds N. A preconditioner is a pytree whose leaves are its hyper-parameters."""

    @abc.abstractmethod
    def factorise(self, hessian: ShiftedHessian) -> Factor:
        """N for this Hessian.

        Raises:
          TypeError: if the Hessian does not provide what this preconditioner needs.
        """

    def factorise_and_start(
        self, regression: CentredRegression, residual: jax.Array, penalty_residual: jax.Array
    ) -> tuple[Factor, jax.Array | None]:
        """N, and if it costs no pass over X an approximate correction d of the weights, else None.

        The correction reduces ``|A d - residual|^2 + |sqrt(l2) d - penalty_residual|^2``, where A
        is the centred and weighted X.
        """
        return self.factorise(regression), None

    def check(self) -> None:
        """Raise if a hyper-parameter that is not traced has an invalid value."""
        return


def check_preconditioner(preconditioner: Any) -> None:
    """Raise unless this is None or a preconditioner with valid hyper-parameters."""
    if preconditioner is None:
        return
    if isinstance(preconditioner, type):
        raise TypeError(
            f"preconditioner must be an object, got the class {preconditioner.__name__}: write "
            f"{preconditioner.__name__}(...)."
        )
    if not isinstance(preconditioner, Preconditioner):
        raise TypeError(
            "preconditioner must be None, jd.Jacobi(), jd.Eliminate(), jd.Nystrom(rank) or "
            f"jd.Sketch(), got {preconditioner!r}."
        )
    preconditioner.check()
