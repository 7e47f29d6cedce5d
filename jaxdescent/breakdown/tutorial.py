"""Part 1: the tutorial's two functions, by descent and by the derivative method."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown.report import PartReport, table_of
from jaxdescent.breakdown.settings import Settings

LEARNING_RATE = 1e-2
ITERATIONS = 1000

COLUMNS = {
    "function": "{function}, {variable}",
    "start": "{start:.0f}",
    "by hand (NumPy)": "{by_hand:.4e}",
    "by jax.grad": "{by_grad:.4e}",
    "closed form": "{closed_form:.4e}",
    "error": "{relative_error_by_grad:.1e}",
}


def parabola(x: jax.Array) -> jax.Array:
    """The tutorial's function of one variable, ``2 x^2``."""
    return 2 * x**2


def bowl(point: dict[str, jax.Array]) -> jax.Array:
    """The tutorial's function of three variables, ``x^2 + y^2 + z^2``."""
    return point["x"] ** 2 + point["y"] ** 2 + point["z"] ** 2


def run(settings: Settings, console: Console) -> PartReport:
    """Minimise both functions by both methods."""
    draw = np.random.default_rng(settings.seed).integers
    start = float(draw(-1000, 1000))
    starts = {name: float(draw(-1000, 1000)) for name in "xyz"}
    rows = [
        *_descend("2x²", parabola, start, lambda x: 4 * x, curvature=4),
        *_descend("x² + y² + z²", bowl, starts, lambda x: 2 * x, curvature=2),
    ]
    steps = _four_steps(start)
    return PartReport.of(
        steps,
        shown=(
            "The derivative method, for f(x) = 2x²:",
            "  1. differentiate   f'(x) = 4x",
            "  2. set to zero     4x = 0",
            "  3. solve           from x = {start:.0f} in one step: x = {solution:.6g}",
            "  4. verify          f''(x) = {second_derivative:g} > 0: a {kind}",
            "For f(x, y, z) = x² + y² + z² the same four steps give (2x, 2y, 2z) = 0, "
            "so x = y = z = 0, and all second derivatives are 2.",
            f"Descent starts at random integers and repeats x ← x - {LEARNING_RATE:g} f'(x), "
            f"{ITERATIONS:,} times:",
            table_of("Descent", COLUMNS, rows),
            "Each step multiplies x by 0.96 in the first function and by 0.98 in the second, so "
            "that 1,000 steps have the closed form 0.96^1000 x and 0.98^1000 x. The error is that "
            "of jax.grad in float32, relative to the closed form.",
        ),
        verdict=(
            "Small functions need no iteration: the derivative method finds the minimum of 2x² in "
            f"one solve. {ITERATIONS:,} steps of descent come within "
            f"{max(abs(row['by_grad']) for row in rows):.1e} of it.",
        ),
        numbers={
            "learning_rate": LEARNING_RATE,
            "iterations": ITERATIONS,
            "dtype_by_hand": "float64",
            "dtype_by_grad": str(jnp.result_type(float)),
            "derivative_method": steps,
            "descent": rows,
        },
    )


def _descend(
    name: str, function: Any, start: Any, derivative: Any, *, curvature: float
) -> list[dict[str, Any]]:
    """The tutorial's descent by hand and by ``jax.grad``, one row for each variable."""
    method = jd.GradientDescent(LEARNING_RATE)
    result = jd.minimize(function, start, method, max_iterations=ITERATIONS, tolerance=0)
    shrinks = (1 - LEARNING_RATE * curvature) ** ITERATIONS
    starts = start if isinstance(start, dict) else {"x": start}
    found = result.params if isinstance(start, dict) else {"x": result.params}
    rows = []
    for variable, value in starts.items():
        by_hand = np.float64(value)
        for _ in range(ITERATIONS):
            by_hand = by_hand - LEARNING_RATE * derivative(by_hand)
        by_grad, closed_form = float(found[variable]), shrinks * value
        size = max(abs(closed_form), np.finfo(np.float64).tiny)
        rows.append(
            {
                "function": name,
                "variable": variable,
                "start": value,
                "by_hand": float(by_hand),
                "by_grad": by_grad,
                "closed_form": closed_form,
                "relative_error_by_hand": float(abs(by_hand - closed_form) / size),
                "relative_error_by_grad": abs(by_grad - closed_form) / size,
                "iterations": int(result.iterations),
            }
        )
    return rows


def _four_steps(start: float) -> dict[str, Any]:
    """The four steps (differentiate, set to zero, solve, verify) for 2x²."""
    result = jd.minimize(parabola, start, jd.DerivativeMethod())
    certificate = jd.certify(parabola, result.params)
    return {
        "start": start,
        "derivative_at_start": float(jax.grad(parabola)(start)),
        "solution": float(result.params),
        "iterations": int(result.iterations),
        "second_derivative": float(certificate.smallest_eigenvalue),
        "kind": certificate.kind,
        "evidence": certificate.evidence,
    }
