"""The memory that part 2's methods need at any size, from the cost model, without allocation."""

from __future__ import annotations

from typing import Any

from jaxdescent.breakdown.child import ROWS_PER_FEATURE
from jaxdescent.breakdown.llama_tree import tree
from jaxdescent.cost import solves
from jaxdescent.cost.structure import Structure, regression_structure

LLAMA_SIZE = tree().size
COMPUTED_SIZES = (2**14, 2**16, 10**6, 10**8, LLAMA_SIZE)
REFUSED_SIZE = 10**6
ITEMSIZE = 4

NAMES = {"derivative": "derivative method", "descent": "descent"}


def data_bytes(size: int) -> int:
    """The bytes of X and y."""
    return structure_of(size).data_bytes


def working_bytes(name: str, size: int) -> int:
    """The bytes that a method needs besides X and y."""
    structure = structure_of(size)
    if name == "descent":
        # The gradient, the trial, its gradient, the old gradient, the result; the image, residual.
        return ITEMSIZE * (5 * structure.features + 2 * structure.rows)
    return round(solves.touched_bytes(structure))


def predicted_seconds(last: dict[str, Any], size: int) -> float:
    """The time of a measured row, scaled to another size by operations or by bytes of a pass."""
    name = last["method"]
    return last["seconds"] * _work(name, size) / _work(name, last["unknowns"])


def _work(name: str, size: int) -> float:
    structure = structure_of(size)
    if name == "descent":
        return float(ITEMSIZE * structure.entries)
    # The smaller Gram matrix, its Cholesky factor and the inverse.
    smaller = float(structure.smaller)
    return 2.0 * structure.entries * smaller + 4 / 3 * smaller**3


def structure_of(size: int) -> Structure:
    """The structure of part 2's regression of this size."""
    return regression_structure(ROWS_PER_FEATURE * size, size)


def last_row(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The row with the largest size for this method; None if there is none."""
    of_method = [row for row in rows if row["method"] == name]
    return of_method[-1] if of_method else None
