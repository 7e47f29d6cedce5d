"""The five rates of an ordinary machine of each platform, right to an order of magnitude.

What is in a fixed ratio to one of them is a constant here: it changes predictions by less than the
rates themselves vary from one run to the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

DTYPES = ("float32", "float64", "bfloat16")

DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {  # of one core
        "read_bandwidth": {"float32": 1.5e10, "float64": 1.5e10, "bfloat16": 1.1e10},
        "product_rate": {"float32": 6e10, "float64": 3e10, "bfloat16": 6e10},
        "orthogonal_rate": 1.5e10,
        "operation_seconds": 5e-7,
        "cache_bytes": 16 << 20,
    },
    "gpu": {
        "read_bandwidth": {"float32": 1.5e12, "float64": 1.5e12, "bfloat16": 1.5e12},
        "product_rate": {"float32": 2e13, "float64": 1e13, "bfloat16": 3e14},
        "orthogonal_rate": 5e11,
        "operation_seconds": 5e-6,
        "cache_bytes": 0,
    },
    "tpu": {
        "read_bandwidth": {"float32": 8e11, "float64": 1e11, "bfloat16": 8e11},
        "product_rate": {"float32": 3e13, "float64": 1e12, "bfloat16": 2e14},
        "orthogonal_rate": 1e11,
        "operation_seconds": 2e-6,
        "cache_bytes": 0,
    },
}

MOST_READING = 4
"""The number of cores that use all of a CPU's memory bandwidth. Products use every core."""


class Ratios(NamedTuple):
    """Rates in a fixed ratio to the measured ones, and sizes at which half of a rate is reached."""

    cached: float  # the bandwidth of the last-level cache over that of the memory
    fresh: float  # that of writing to pages that the system has yet to map, over that of reading
    cholesky: float  # the rate of Cholesky and triangular inversion over that of QR
    product_half: float  # the shortest side of a product for which it reaches half of its rate
    cholesky_half: float  # the number of columns for which a Cholesky factorisation does
    orthogonal_half: float  # and QR


ON_CPU = Ratios(4.0, 1 / 8, 4.0, 64.0, 1000.0, 150.0)
ON_ACCELERATORS = Ratios(1.0, 1.0, 10.0, 500.0, 4000.0, 4000.0)


def ratios_of(platform: str) -> Ratios:
    """The ratios of a platform."""
    return ON_CPU if platform == "cpu" else ON_ACCELERATORS


def default_rates(platform: str, cores: int) -> dict[str, Any]:
    """The rates of :class:`jaxdescent.machine.Machine` for a platform, a GPU's if it is unknown."""
    rates = dict(DEFAULTS.get(platform, DEFAULTS["gpu"]))
    if platform != "cpu":
        return rates
    reading = min(cores, MOST_READING)
    return rates | {
        "read_bandwidth": {name: reading * rate for name, rate in rates["read_bandwidth"].items()},
        "product_rate": {name: cores * rate for name, rate in rates["product_rate"].items()},
        "orthogonal_rate": cores * rates["orthogonal_rate"],
    }
