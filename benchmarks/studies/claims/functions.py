"""Functions of many unknowns drawn at random; Newton's method in float64 has the minimum nearby."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

import jaxdescent as jd

HIDDEN, INPUTS = 16, 10


@dataclasses.dataclass(frozen=True)
class DrawnFunction:
    """A function of a vector and of data, or the residuals of a fit; its start is part of it."""

    name: str
    function: Callable[..., jax.Array]
    data: tuple[np.ndarray, ...]  # float32
    start: np.ndarray  # (unknowns,), float32
    is_fit: bool = False

    def objective(self) -> Any:
        return jd.LeastSquares(self.function) if self.is_fit else self.function

    def truth(self, params: Any) -> tuple[float, float, float]:
        """The value, how far it is above the minimum nearby, and ``sum_ij |x_i H_ij x_j| / 2``."""
        with jax.enable_x64(True):
            point = np.asarray(params, float)
            data = tuple(jnp.asarray(array, float) for array in self.data)
            value, _, hessian = (np.asarray(a) for a in _derivatives(*self._key)(point, *data))
            least = _least_nearby(*self._key, point, data)
            size = np.abs(point)
            floor = 0.5 * float(size @ np.abs(hessian) @ size)
            return float(value), max(float(value) - least, 0.0), floor

    @property
    def _key(self) -> tuple[Callable[..., jax.Array], bool]:
        return self.function, self.is_fit


def drawn(kind: str, unknowns: int, seed: int) -> DrawnFunction:
    """The function of a kind, with data and a start of its own."""
    rng = np.random.default_rng([seed, unknowns, sum(kind.encode())])
    function, is_fit, draw = FUNCTIONS[kind]
    data, start = draw(rng, unknowns)
    data = tuple(np.asarray(array, np.float32) for array in data)
    name = f"{kind}, {start.size} unknowns, seed {seed}"
    return DrawnFunction(name, function, data, np.asarray(start, np.float32), is_fit)


def _logistic(p: Any, rows: Any, labels: Any) -> Any:
    return jnp.mean(jnp.logaddexp(0, -labels * (rows @ p))) + 0.5e-4 * jnp.sum(p**2)


def _draw_logistic(rng: Any, unknowns: int) -> Any:
    scales = 10 ** rng.uniform(-1, 0.5, unknowns)
    rows = rng.standard_normal((4 * unknowns, unknowns)) * scales
    labels = np.sign(rows @ rng.standard_normal(unknowns) + rng.logistic(size=4 * unknowns))
    return (rows, labels), np.zeros(unknowns)


def _network(p: Any, rows: Any, y: Any) -> Any:
    hidden = p.size // (INPUTS + 2)
    inner, bias, outer = jnp.split(p, [INPUTS * hidden, (INPUTS + 1) * hidden])
    return jnp.tanh(rows @ inner.reshape(INPUTS, hidden) + bias[None]) @ outer - y


def _draw_network(rng: Any, unknowns: int) -> Any:
    hidden = unknowns // (INPUTS + 2)
    rows = rng.standard_normal((4 * unknowns, INPUTS))
    y = np.sin(rows @ rng.standard_normal(INPUTS)) + 0.1 * rng.standard_normal(4 * unknowns)
    return (rows, y), 0.3 * rng.standard_normal(hidden * (INPUTS + 2))


def _rosenbrock(p: Any) -> Any:
    return jnp.sum(100 * (p[1:] - p[:-1] ** 2) ** 2 + (1 - p[:-1]) ** 2)


def _draw_rosenbrock(rng: Any, unknowns: int) -> Any:
    return (), np.tile([-1.2, 1.0], unknowns // 2) + 0.1 * rng.standard_normal(unknowns)


def _softplus(p: Any, rows: Any, shares: Any) -> Any:
    scores = rows @ p
    return jnp.mean(jax.nn.softplus(scores) - shares * scores)


def _draw_softplus(rng: Any, unknowns: int) -> Any:
    rows = rng.standard_normal((4 * unknowns, unknowns))
    rows[:, -1] = rows[:, 0] - 1e-3 * rng.standard_normal(4 * unknowns)  # nearly a copy: flat
    return (rows, rng.uniform(0.1, 0.9, 4 * unknowns)), rng.standard_normal(unknowns)


def _log_sum_exp(p: Any, rows: Any, offsets: Any) -> Any:
    return jax.nn.logsumexp(rows @ p + offsets)


def _draw_log_sum_exp(rng: Any, unknowns: int) -> Any:
    rows = rng.standard_normal((2 * unknowns, unknowns)) * 10 ** rng.uniform(-1, 0.3, unknowns)
    rows = np.vstack([rows, -rows])
    return (rows, rng.standard_normal(4 * unknowns)), rng.standard_normal(unknowns)


def _quartic_valleys(p: Any, turn: Any, center: Any) -> Any:
    turned = turn @ (p - center)
    half = turned.size // 2
    return 1 + 0.5 * jnp.sum(turned[:half] ** 2) + 0.25 * jnp.sum(turned[half:] ** 4)


def _draw_quartic_valleys(rng: Any, unknowns: int) -> Any:
    turn = np.linalg.qr(rng.standard_normal((unknowns, unknowns)))[0]
    return (turn, rng.standard_normal(unknowns)), 2 * rng.standard_normal(unknowns)


def _saturating(p: Any, times: Any, y: Any) -> Any:
    heights, rates = p[: p.size // 2], jnp.exp(p[p.size // 2 :])
    return (heights[:, None] * (1 - jnp.exp(-rates[:, None] * times[None])) - y).ravel()


def _draw_saturating(rng: Any, unknowns: int) -> Any:
    curves, times = unknowns // 2, np.linspace(0.1, 2, 12)
    rates = 10 ** rng.uniform(-3, 1, (curves, 1))
    seen = (1 - np.exp(-rates * times)) * rng.uniform(1, 20, (curves, 1))
    return (times, seen + 0.05 * rng.standard_normal(seen.shape)), np.repeat([1.0, 0.0], curves)


FUNCTIONS = {
    "logistic": (_logistic, False, _draw_logistic),
    "two-layer network": (_network, True, _draw_network),
    "chained Rosenbrock": (_rosenbrock, False, _draw_rosenbrock),
    "flat softplus": (_softplus, False, _draw_softplus),
    "log-sum-exp": (_log_sum_exp, False, _draw_log_sum_exp),
    "quartic valleys": (_quartic_valleys, False, _draw_quartic_valleys),
    "saturating fit": (_saturating, True, _draw_saturating),
}
"""Functions by name, whether they are the residuals of a fit, and what draws data and start."""


@functools.cache
def _derivatives(function: Callable[..., jax.Array], is_fit: bool) -> Callable[..., Any]:
    """The value, gradient and Hessian."""

    def value(p: Any, *data: Any) -> Any:
        result = function(p, *data)
        return 0.5 * jnp.sum(result**2) if is_fit else result

    def all_three(p: Any, *data: Any) -> Any:
        return value(p, *data), jax.grad(value)(p, *data), jax.hessian(value)(p, *data)

    return jax.jit(all_three)


def _least_nearby(function: Any, is_fit: bool, point: np.ndarray, data: Any) -> float:
    """The value where Newton's method with Levenberg's damping ends, which never rises."""
    derivatives, damping = _derivatives(function, is_fit), 0.0
    value, gradient, hessian = (np.asarray(a) for a in derivatives(point, *data))
    unit = float(np.mean(np.abs(np.diag(hessian)))) or 1.0
    for _ in range(60):
        try:
            factor = scipy.linalg.cho_factor(hessian + damping * np.eye(point.size))
        except scipy.linalg.LinAlgError:
            damping = max(10 * damping, 1e-10 * unit)
            continue
        step = -scipy.linalg.cho_solve(factor, gradient)
        decrement = -float(gradient @ step)
        new = tuple(np.asarray(a) for a in derivatives(point + step, *data))
        if new[0] < value:
            point, damping = point + step, damping / 10
            value, gradient, hessian = new
        else:
            damping = max(10 * damping, 1e-10 * unit)
        if decrement <= 1e-13 * abs(float(value)) or damping > 1e10 * unit:
            break
    return float(value)
