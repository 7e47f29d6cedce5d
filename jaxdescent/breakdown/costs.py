"""What part 2's methods need at any size, known before anything is allocated."""

from __future__ import annotations

from typing import Any

import jax

from jaxdescent.breakdown.measured_rows import ROWS_PER_FEATURE
from jaxdescent.designs import Dense
from jaxdescent.objectives.regression_solvers import normal_equations_bytes

LLAMA_SIZE = 8_030_261_248
COMPUTED_SIZES = (2**14, 2**16, 10**6, 10**8, LLAMA_SIZE)
REFUSED_SIZE = 10**6
ITEMSIZE = 4

POWERS = {"derivative": 3, "descent": 2}
"""How time grows with n: rows * features**2 for a factorisation, rows * features for a pass."""

VECTORS = 8
"""The params, gradient, trial and trial's gradient of Backtracking, and two residuals of 2 n."""

NAMES = {"derivative": "derivative method", "descent": "descent"}


def data_bytes(size: int) -> int:
    """X and y."""
    return ITEMSIZE * ROWS_PER_FEATURE * size * (size + 1)


def working_bytes(name: str, size: int) -> int:
    """What a method needs besides X and y, before anything is allocated."""
    if name == "descent":
        return ITEMSIZE * VECTORS * size
    shape_only: Any = jax.ShapeDtypeStruct((ROWS_PER_FEATURE * size, size), "float32")
    return normal_equations_bytes(Dense(shape_only))


def predicted_seconds(last: dict[str, Any], size: int) -> float:
    """The time of a row, scaled to another size."""
    return last["seconds"] * (size / last["unknowns"]) ** POWERS[last["method"]]


def last_row(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The largest size by this method."""
    of_method = [row for row in rows if row["method"] == name]
    return of_method[-1] if of_method else None
