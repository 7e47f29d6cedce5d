"""What a preconditioner is: a matrix N with ``N N'`` close to the inverse of the Hessian."""

from __future__ import annotations

import abc
from typing import Any

import jax

from jaxdescent.display import Displayed
from jaxdescent.preconditioners.hessians import CentredRegression, ShiftedHessian


class Factor(Displayed, abc.ABC):
    """N as a pytree: applied to (size, outputs) columns, each output with its own penalty."""

    @abc.abstractmethod
    def apply(self, columns: jax.Array) -> jax.Array:
        """``N @ columns``: from the preconditioned unknowns to the unknowns."""

    @abc.abstractmethod
    def apply_transpose(self, columns: jax.Array) -> jax.Array:
        """``N.T @ columns``: from gradients to preconditioned gradients."""

    def solve(self, columns: jax.Array) -> jax.Array:
        """``N @ N.T @ columns``, close to the inverse Hessian times ``columns``."""
        return self.apply(self.apply_transpose(columns))


class Preconditioner(Displayed, abc.ABC):
    """How to find N. A preconditioner is a pytree whose leaves are its hyper-parameters."""

    @abc.abstractmethod
    def factorise(self, hessian: ShiftedHessian) -> Factor:
        """N for this Hessian.

        Raises:
          TypeError: if the Hessian cannot answer what this preconditioner asks.
        """

    def factorise_and_start(
        self, regression: CentredRegression, residual: jax.Array, penalty_residual: jax.Array
    ) -> tuple[Factor, jax.Array | None]:
        """N, and where it costs no pass over X an approximate correction of the weights.

        The correction reduces ``|A d - residual|^2 + |sqrt(l2) d - penalty_residual|^2``, A being
        the centred and weighted X.
        """
        del residual, penalty_residual
        return self.factorise(regression), None

    def check(self) -> None:
        """Raise if a hyper-parameter whose value can be seen makes no sense."""
        return


def check_preconditioner(preconditioner: Any) -> None:
    """Raise if this is neither None nor a preconditioner with sensible hyper-parameters."""
    if preconditioner is None:
        return
    if isinstance(preconditioner, type):
        raise TypeError(
            f"preconditioner must be an object, got the class {preconditioner.__name__}: write "
            f"{preconditioner.__name__}(...)."
        )
    if not isinstance(preconditioner, Preconditioner):
        raise TypeError(
            "preconditioner must be None, jd.Jacobi(), jd.Nystrom(rank) or jd.Sketch(), got "
            f"{preconditioner!r}."
        )
    preconditioner.check()
