"""What a look at a claim has seen."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp


class Look(NamedTuple):
    """What was seen where a descent ended; each is ().

    Attributes:
      falls: by how much the value is sure to fall.
      is_false: whether the descent has not converged.
      is_proven: whether it has, at a minimum.
    """

    falls: Any
    is_false: Any
    is_proven: Any

    @classmethod
    def refuting(cls, falls: Any, allowed: Any) -> Look:
        """A look that sees no minimum, but may see that more than is allowed is left."""
        return cls(falls, falls > allowed, jnp.zeros((), bool))
