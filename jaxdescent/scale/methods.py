"""The methods of an experiment by their short names."""

from __future__ import annotations

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
