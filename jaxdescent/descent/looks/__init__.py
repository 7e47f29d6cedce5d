"""Looks: examinations of a claim to have converged, by the structure or by the function itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp


class Look(NamedTuple):
    """The outcome of an examination of the point where a descent ended; scalars."""

    falls: Any  # by how much the value can certainly be lowered
    is_false: Any  # whether the claim is refuted: the descent has not converged
    is_exact: Any  # whether ``falls`` is how far the value is above the minimum, and no lower bound
    # Whether a certificate would call the point a minimum, which is enough for a descent that makes
    # no more progress.
    is_minimum: Any

    @classmethod
    def nothing(cls, dtype: Any, xp: Any = jnp) -> Look:
        """The result in place of a look that is not needed."""
        return cls.refuting(xp.zeros((), dtype), xp.zeros((), dtype), xp)

    @classmethod
    def refuting(cls, falls: Any, allowed: Any, xp: Any = jnp) -> Look:
        """A look that cannot prove a claim, and refutes it if the decrease exceeds ``allowed``."""
        never = xp.zeros((), bool)
        return cls(falls, falls > allowed, never, never)


class Asked(NamedTuple):
    """The question to a look where a descent ends; scalars."""

    is_claim: Any  # whether the descent claims to have converged by an estimated suboptimality
    is_looked_at: Any  # whether the structure or the function is examined
    allowed: Any  # by how much the value may be above the minimum
