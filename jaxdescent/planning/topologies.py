"""Devices that are not attached, for which XLA can compile without an accelerator or a driver.

The compiled programs can be inspected (``memory_analysis``, ``as_text``), but not run. A GPU is
described to XLA by the figures of :mod:`jaxdescent.planning.hardware`; this needs the packages
``jax-cuda13-plugin`` and ``jax-cuda13-pjrt`` in JAX's own version. A TPU is described by the name
of its topology; this needs ``libtpu``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import topologies

from jaxdescent.planning.hardware import Accelerator, Mesh, mesh_named

PACKAGES = {
    "gpu": (
        "jax_cuda13_plugin",
        "--no-deps jax-cuda13-plugin=={version} jax-cuda13-pjrt=={version}",
    ),
    "tpu": ("libtpu", "libtpu"),
}
"""For each platform, the module that is needed to compile for it, and what pip installs for it."""

LIMITS = {
    (8, 0): (64, 2048, 164 << 10, 163 << 10),
    (8, 9): (128, 1536, 100 << 10, 99 << 10),
    (9, 0): (128, 2048, 228 << 10, 227 << 10),
    (10, 0): (128, 2048, 228 << 10, 227 << 10),
}
"""For each compute capability, the float32 units and the threads of a multiprocessor, its shared
memory, and a thread block's share of that, in bytes (CUDA C++ Programming Guide, "Compute
Capabilities")."""

GPU_TEXT = """\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {limits[2]}
  shared_memory_per_block_optin: {limits[3]}
  threads_per_core_limit: {limits[1]}
  core_count: {cuda.cores}
  fpus_per_core: {limits[0]}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {device.bandwidth:.0f}
  l2_cache_size: {cuda.cache}
  clock_rate_ghz: {cuda.clock}
  device_memory_size: {device.memory:.0f}
  cuda_compute_capability {{ major: {cuda.capability[0]} minor: {cuda.capability[1]} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 1 patch: 1 }}
device_description_str: "{device.kind}"
"""

TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Without the first two ``libtpu`` asks a cloud's metadata server for its location. Without the
third only one process of a host may load it, as if each would run on the chips."""

TPU_TYPES = {"v5e": "v5litepod-8"}
"""What ``TPU_ACCELERATOR_TYPE`` calls eight devices, if it is not the device's name and ``-8``."""


def topology(name: str) -> list[Any]:
    """The devices of a name that ``jd.plan(device=...)`` takes, for a mesh to compile for.

    Raises:
      ValueError: if the name is not known, or the compiler does not know the slice.
      ImportError: if the plugin is missing.

    >>> topology("h1000")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ValueError: no device is called 'h1000': known are a100-40gb, ...
    """
    mesh = mesh_named(name)
    platform = mesh.device.platform
    module, packages = PACKAGES[platform]
    if importlib.util.find_spec(module) is None:
        raise ImportError(
            f"to compile for {mesh.describe()}, {module} must be installed, got none: pip install "
            f"{packages.format(version=jax.__version__)}. It needs no {platform.upper()}."
        )
    try:
        devices = _gpus(mesh) if platform == "gpu" else _tpus(mesh)
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith(("INVALID_ARGUMENT", "NOT_FOUND")):
            raise
        raise ValueError(f"XLA knows no {name!r}: {str(error).splitlines()[0]}") from error
    return list(devices)


def target_config(device: Accelerator) -> str:
    """A GPU as XLA's ``GpuTargetConfig``, in the text format of protocol buffers."""
    assert device.cuda is not None  # XLA knows a TPU by its name
    limits = LIMITS[device.cuda.capability]
    return GPU_TEXT.format(device=device, cuda=device.cuda, limits=limits)


def _gpus(mesh: Mesh) -> Any:
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name=mesh.of,
        target_config=target_config(mesh.device),
        topology=f"1x1x{mesh.devices}",
    ).devices


def _tpus(mesh: Mesh) -> Any:
    # Both cores of a v4 chip are one JAX device, as on a real host.
    options = {"chip_config_name": "megacore"} if mesh.of == "v4" else {}
    name = f"{mesh.of}:{'x'.join(map(str, mesh.shape))}"
    kind = TPU_TYPES.get(mesh.of, f"{mesh.of}-8")
    with _environment(TPU_ENVIRONMENT | {"TPU_ACCELERATOR_TYPE": kind}):
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside a ``with`` statement, unless they are set already."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
