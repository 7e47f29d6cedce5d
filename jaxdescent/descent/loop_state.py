"""The state that a descent carries from one step to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from jaxdescent.descent.watch import Watch

Params = Any


class Loop(NamedTuple):
    """The state of a descent."""

    params: Params
    state: Any
    iteration: jax.Array
    evaluations: jax.Array
    status: jax.Array
    value: jax.Array
    norm: jax.Array
    watch: Watch
    history: Any
    checks: jax.Array
