"""A point of an experiment, and the methods that it may name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jaxdescent as jd

METHODS: dict[str, Callable[[], Any]] = {
    "cg": jd.ConjugateGradient,
    "cg-jacobi": lambda: jd.ConjugateGradient(jd.Jacobi()),
    "lsmr": jd.LSMR,
    "lbfgs": jd.LBFGS,
    "gradient": lambda: jd.GradientDescent(jd.Backtracking()),
    "barzilai-borwein": lambda: jd.GradientDescent(jd.BarzilaiBorwein()),
    "constant": lambda: jd.GradientDescent(1e-3),
    "gram": jd.Gram,
    "direct": jd.DerivativeMethod,
}

AT_ONCE = ("gram", "direct")
"""The methods without iterations: a whole solve is timed for them."""


@dataclasses.dataclass(frozen=True)
class ScalingPoint:
    """One run of one program.

    Attributes:
      problem: a key of :data:`jaxdescent.scale.problems.PROBLEMS`.
      rows, features: the size of the whole regression; 0 where a problem has none.
      method: a name in :data:`METHODS`.
      dtype: how data and params are stored.
      layout: the axes over the devices, a key of :data:`jaxdescent.scale.problems.LAYOUTS`.
      devices: the number of devices.
      target: the name of devices that are not attached, for a rehearsal; empty for a run here.
      outputs: how many targets the whole regression has for each row.
    """

    problem: str
    rows: int
    features: int
    method: str
    dtype: str
    layout: str
    devices: int
    target: str = ""
    outputs: int = 1

    def describe(self) -> str:
        """The point in a few words."""
        return f"{self.what}, {self.method}, {self.layout} over {self.where}"

    @property
    def what(self) -> str:
        """The problem, its size and its dtype."""
        size = f" {self.rows:,} x {self.features:,}" if self.rows else ""
        outputs = f", {self.outputs:,} outputs," if self.outputs > 1 else ""
        return f"{self.problem}{size}{outputs} {self.dtype}"

    @property
    def grows(self) -> str:
        """The size that grows with the devices in weak scaling: "rows", or "outputs"."""
        return "outputs" if self.layout == "outputs" else "rows"

    @property
    def where(self) -> str:
        """The devices, by name or by number."""
        return self.target or f"{self.devices} device{'s' if self.devices > 1 else ''}"
