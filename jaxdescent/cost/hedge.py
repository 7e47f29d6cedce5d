"""A cheap method first, and one of known cost where it takes too long."""

from __future__ import annotations

import dataclasses

from jaxdescent.display import Displayed
from jaxdescent.methods.protocol import Method


@dataclasses.dataclass(frozen=True, eq=False)
class Hedge(Displayed):
    """The default of a regression: ``first`` for at most ``budget`` iterations, else ``then``.

    The number of iterations of a Krylov method depends on the spectrum, which is unknown; the cost
    of a factorisation follows from the shapes. With a budget that costs as much as ``then``, both
    together cost at most twice the better of the two, whatever the spectrum is. ``minimize``
    decides in eager calls, from the measured progress; a traced call takes ``then`` alone.

    Reference: Karlin, Manasse, Rudolph and Sleator (1988), "Competitive snoopy caching".
    """

    first: Method
    then: Method
    budget: int
