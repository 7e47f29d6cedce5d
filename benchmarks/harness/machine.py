"""Where a run was made, and what the machine can do at most, measured in the same run."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import peers
from benchmarks.harness.process import ROOT, quiet_blas

THREAD_SETTINGS = ("OPENBLAS", "OMP", "MKL", "XLA", "JAX", "MALLOC", "KMP", "GOMP")


def provenance() -> dict[str, Any]:
    """Machine, versions, commit, threads, settings and time."""
    import jax
    import jaxlib
    import numpy as np

    import jaxdescent
    from jaxdescent.kernels import host, memory
    from jaxdescent.provenance import now

    return {
        "kind": "provenance",
        "time": now(),
        "processor": host.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": memory.physical_bytes(),
        "last_level_cache_bytes": last_level_cache_bytes(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "commit": _git("rev-parse", "HEAD"),
        "is_modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "measures_this_checkout": ROOT in pathlib.Path(jaxdescent.__file__).parents,
        "versions": {name: peers.version(name) for name in peers.ADAPTERS}
        | {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "numpy": np.__version__},
        "threads": threads(),
        "settings": settings(),
    }


def settings() -> dict[str, str]:
    """What the environment says to OpenBLAS, OpenMP, XLA and the allocator."""
    return {
        name: value
        for name, value in sorted({**os.environ, **quiet_blas()}.items())
        if name.split("_")[0] in THREAD_SETTINGS and not name.startswith("JAX_COMPILATION")
    }


def threads() -> dict[str, Any]:
    """Threads of the libraries this process has loaded, where they say so."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    found: dict[str, Any] = {"cores allowed": cores}
    try:
        import threadpoolctl
    except ImportError:
        found["threadpoolctl"] = "missing"
    else:
        for pool in threadpoolctl.threadpool_info():
            found[f"{pool['internal_api']} {pool['version']}"] = pool["num_threads"]
    if "torch" in sys.modules:
        found["torch"] = sys.modules["torch"].get_num_threads()
    return found


def limits(nbytes: int = 1 << 28, order: int = 2048, repeats: int = 7) -> dict[str, Any]:
    """Bandwidth of one read and of one update in place, and the rate of a matrix product.

    The best of what two libraries reach: medians of repeats, since the figures are to be compared
    with medians.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks.harness.turns import medians

    numbers = np.ones(nbytes // 4, np.float32)
    array = jnp.ones((nbytes // 4 // 1024, 1024), jnp.float32)
    vector = jnp.ones(1024, jnp.float32)
    square = np.ones((order, order), np.float32)
    device_square = jnp.ones((order, order), jnp.float32)
    product = jax.jit(lambda X, w: X @ w)
    total = jax.jit(jnp.sum)
    multiply = jax.jit(lambda A: A @ A)
    negate = jax.jit(lambda X: -X, donate_argnums=0)
    state = {"array": array}

    def update() -> Any:
        state["array"] = negate(state["array"])
        return state["array"]

    def seconds(function: Callable[[], Any]) -> float:
        # Each alone: by turns with XLA, the spinning threads of OpenBLAS would slow it down.
        return medians({"": function}, repeats)[""]

    reads = {
        "NumPy dot": nbytes / seconds(lambda: numbers @ numbers),
        "XLA product with a vector": nbytes / seconds(lambda: product(array, vector)),
        "XLA sum": nbytes / seconds(lambda: total(array)),
    }
    flops = 2 * order**3
    rates = {
        "NumPy": flops / seconds(lambda: square @ square),
        "XLA": flops / seconds(lambda: multiply(device_square)),
    }
    return {
        "kind": "limits",
        "read_bytes_per_second": max(reads.values()),
        "update_bytes_per_second": 2 * nbytes / seconds(update),
        "product_flops": max(rates.values()),
        "reads": reads,
        "products": rates,
    }


def last_level_cache_bytes() -> int | None:
    """Of the first processor; None where the system does not tell."""
    sizes = []
    for file in pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]])
    return max(sizes, default=None)


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
