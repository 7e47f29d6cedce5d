"""Published functions of unconstrained minimisation, besides those of :mod:`classical`.

They are written from their definitions, each a JAX function of one vector in any floating dtype.
Gradients, minima and values at the starts are held against independent references in
``tests/test_published.py``.
"""

from __future__ import annotations

from benchmarks.problems import andrei, more_garbow_hillstrom
from benchmarks.problems.classical import Problem


def problems() -> list[Problem]:
    """All of them, from their usual starts."""
    return more_garbow_hillstrom.problems() + andrei.problems()
