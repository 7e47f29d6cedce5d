"""Rates of an ordinary machine of each platform, right to an order of magnitude."""

from __future__ import annotations

from typing import Any

DTYPES = ("float32", "float64", "bfloat16")

DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {  # of one core
        "read_bandwidth": {"float32": 1.5e10, "float64": 1.5e10, "bfloat16": 1.1e10},
        "cached_bandwidth": 2.5e10,
        "thin_bandwidth": 5e9,
        "cache_bytes": 16 << 20,
        "row_seconds": 2e-9,
        "update_bandwidth": 1.2e10,
        "fresh_bandwidth": 3e9,
        "product_rate": {"float32": 6e10, "float64": 3e10, "bfloat16": 6e10},
        "product_half": 60.0,
        "cholesky_rate": 3e10,
        "cholesky_half": 300.0,
        "orthogonal_rate": 1.5e10,
        "orthogonal_half": 600.0,
        "double_rate": 3e7,
        "dispatch_seconds": 3e-5,
        "operation_seconds": 5e-7,
        "handover_seconds": 3e-5,
    },
    "gpu": {
        "read_bandwidth": {"float32": 1.5e12, "float64": 1.5e12, "bfloat16": 1.5e12},
        "cached_bandwidth": 3e12,
        "thin_bandwidth": 1e12,
        "cache_bytes": 40 << 20,
        "row_seconds": 1e-12,
        "update_bandwidth": 1.5e12,
        "fresh_bandwidth": 1e12,
        "product_rate": {"float32": 2e13, "float64": 1e13, "bfloat16": 3e14},
        "product_half": 500.0,
        "cholesky_rate": 5e12,
        "cholesky_half": 4000.0,
        "orthogonal_rate": 5e11,
        "orthogonal_half": 4000.0,
        "double_rate": 1e10,
        "dispatch_seconds": 1e-4,
        "operation_seconds": 5e-6,
        "handover_seconds": 1e-6,
    },
    "tpu": {
        "read_bandwidth": {"float32": 8e11, "float64": 1e11, "bfloat16": 8e11},
        "cached_bandwidth": 8e11,
        "thin_bandwidth": 8e11,
        "cache_bytes": 0,
        "row_seconds": 1e-12,
        "update_bandwidth": 8e11,
        "fresh_bandwidth": 8e11,
        "product_rate": {"float32": 3e13, "float64": 1e12, "bfloat16": 2e14},
        "product_half": 500.0,
        "cholesky_rate": 1e12,
        "cholesky_half": 4000.0,
        "orthogonal_rate": 1e11,
        "orthogonal_half": 4000.0,
        "double_rate": 1e10,
        "dispatch_seconds": 1e-4,
        "operation_seconds": 2e-6,
        "handover_seconds": 1e-6,
    },
}
_GROWS_WITH_CORES = {
    "product_rate",
    "cholesky_rate",
    "orthogonal_rate",
    "double_rate",
    "cached_bandwidth",
    "thin_bandwidth",
}
_PER_CORE = {*_GROWS_WITH_CORES, "read_bandwidth", "update_bandwidth"}


def default_rates(platform: str, cores: int) -> dict[str, Any]:
    """The rates of :class:`jaxdescent.machine.Machine` for a platform, a GPU's if it is unknown."""
    rates = dict(DEFAULTS.get(platform, DEFAULTS["gpu"]))
    if platform != "cpu":
        return rates
    # Products use every core; a few cores already use all of the memory's bandwidth.
    return {
        name: _scaled(value, cores if name in _GROWS_WITH_CORES else min(cores, 4))
        if name in _PER_CORE
        else value
        for name, value in rates.items()
    }


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, dict):
        return {name: factor * rate for name, rate in value.items()}
    return factor * value
