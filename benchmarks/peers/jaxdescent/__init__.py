"""jaxdescent itself: one room for each kind of work."""

from __future__ import annotations

from benchmarks.harness.case import Factory
from benchmarks.peers.jaxdescent import (
    batches,
    functions,
    overheads,
    regressions,
    separable,
)

NAME = "jaxdescent"
PACKAGE = "jaxdescent"
DISTRIBUTION = "jaxdescent"

CONTENDERS: dict[str, dict[str, Factory]] = {
    work: contenders
    for room in (separable, regressions, functions, batches, overheads)
    for work, contenders in room.CONTENDERS.items()
}


def environment(what: str) -> dict[str, str]:
    """The command line sets flags of XLA's for its own process."""
    if what != "command's flags":
        return {}
    from jaxdescent.cli.breakdown import INTERLEAVE

    return {"XLA_FLAGS": INTERLEAVE}
