"""How many steps a chunk has: as many as take about half a second, unless a number is given."""

from __future__ import annotations

SECONDS = 0.5
"""The time of a chunk: long beside what hooks and dispatches cost, short beside a user's patience
after Ctrl-C."""

GROWTH = 8
"""A chunk has at most this many times the steps of the one before."""


class Pace:
    """The length of the next chunk.

    Args:
      given: the steps in a chunk; None to choose them by time.
      check_every: the steps between two checks, of which a chunk has a whole number.
    """

    def __init__(self, given: int | None, check_every: int) -> None:
        self._given = given
        self._unit = check_every
        self.length = self._whole(given or 1)

    def after(self, iterations: int, seconds: float) -> None:
        """Adapt the length to a chunk's time."""
        if self._given is not None or iterations < self.length:
            return  # the chunk was shorter than asked for, or dispatched before the last change
        wanted = iterations * SECONDS / max(seconds, 1e-9)
        self.length = self._whole(min(round(wanted), GROWTH * self.length))

    def _whole(self, steps: int) -> int:
        return max(-(-steps // self._unit), 1) * self._unit
