"""The memory and the time that part 2's methods need at any size, by formulas."""

from __future__ import annotations

from typing import Any

from jaxdescent.breakdown.child import ROWS_PER_FEATURE
from jaxdescent.breakdown.llama_tree import tree

LLAMA_SIZE = tree().size
COMPUTED_SIZES = (2**14, 2**16, 10**6, 10**8, LLAMA_SIZE)
REFUSED_SIZE = 10**6
ITEMSIZE = 4

NAMES = {"derivative": "derivative method", "descent": "descent"}

POWERS = {"derivative": 3, "descent": 2}
"""The powers of n by which the seconds grow: as operations, and as the bytes of a pass over X."""


def data_bytes(size: int) -> int:
    """The bytes of X and y."""
    return ITEMSIZE * ROWS_PER_FEATURE * size * (size + 1)


def working_bytes(name: str, size: int) -> int:
    """The bytes that a method needs besides X and y."""
    if name == "descent":
        # The gradient, the trial, its gradient, the old gradient, the result; the image, residual.
        return ITEMSIZE * (5 + 2 * ROWS_PER_FEATURE) * size
    # The Gram matrix, a scaled copy, its factor and the factor's inverse.
    return ITEMSIZE * 4 * size**2


def predicted_seconds(last: dict[str, Any], size: int) -> float:
    """The time of a measured row, scaled to another size."""
    return last["seconds"] * (size / last["unknowns"]) ** POWERS[last["method"]]


def last_row(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The row with the largest size for this method; None if there is none."""
    of_method = [row for row in rows if row["method"] == name]
    return of_method[-1] if of_method else None
