"""Published figures of accelerators that need not be here, and the names they go by.

A figure is a peak: no program is faster. GPUs are those with the fastest links (SXM boards), rates
are dense, without sparsity. What is not published is not here: factorisations, small operations and
the share of the memory that can be used are assumed, in :data:`ASSUMED` and
:mod:`jaxdescent.machine.defaults`.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

GB, TB, GIB, TFLOPS = 1e9, 1e12, 2.0**30, 1e12

BFLOAT16_PASSES = 6
"""A TPU multiplies bfloat16 alone. XLA makes a float32 product at ``Precision.HIGHEST``, the one
that jaxdescent asks for, of six products of bfloat16 parts (the documentation of
``jax.lax.Precision``: "float32: 6 passes")."""

FLOAT64_SLOWER = 30
"""Assumed of a TPU, which has no float64: XLA makes its arithmetic of pairs of float32."""

USABLE = 0.9
"""Assumed: the share of the published memory that a program can have; the rest is the runtime's."""

ASSUMED = (
    f"assumed, not published: {USABLE:.0%} of the memory can be used; rates are peaks, of which "
    "runs reach a half to nine tenths; factorisations reach the share of a product's rate that "
    "machine/defaults.py states; an all-reduce takes 20 us and what its bytes take over all of a "
    "device's links"
)
"""What a plan for a published device rests on besides the figures."""


class Cuda(NamedTuple):
    """What XLA's compiler for GPUs asks of a card besides memory and bandwidth.

    Attributes:
      capability: the compute capability, which the limits of :data:`LIMITS` follow from.
      cores: streaming multiprocessors.
      clock: boost, in GHz.
      cache: L2, in bytes.
    """

    capability: tuple[int, int]
    cores: int
    clock: float
    cache: int


class Device(NamedTuple):
    """One device as JAX counts them: a GPU, a TPU chip, or half of a chip of two (TPU7x).

    Attributes:
      kind: what it is.
      platform: ``gpu`` or ``tpu``.
      memory: bytes.
      bandwidth: of the memory, bytes a second.
      float32: operations a second of a matrix product in full float32, not TF32.
      float64: the same, by tensor cores where they can.
      bfloat16: the same of bfloat16 numbers, added up in float32.
      link: bytes a second that a device can send to the others, by all of its links at once. Where
        a sum of both directions is published, half of it.
      most: so many are linked like that.
      axes: of the torus that they make; 0 for GPUs, of which each reaches each.
      per_chip: devices of a chip.
      source: where the figures are published.
      cuda: for XLA's compiler; None for TPUs.
    """

    kind: str
    platform: str
    memory: float
    bandwidth: float
    float32: float
    float64: float
    bfloat16: float
    link: float
    most: int
    axes: int
    per_chip: int
    source: str
    cuda: Cuda | None = None


def _gpu(
    kind: str,
    memory: float,
    bandwidth: float,
    rates: tuple[float, float, float],
    link: float,
    source: str,
    cuda: Cuda,
) -> Device:
    rates_in_full = (rate * TFLOPS for rate in rates)
    return Device(
        f"NVIDIA {kind}", "gpu", memory * GB, bandwidth, *rates_in_full, link * GB, 8, 0, 1,
        source, cuda,
    )  # fmt: skip


def _tpu(
    kind: str,
    memory: float,
    bandwidth: float,
    rate: float,
    link: float,
    most: int,
    axes: int,
    source: str,
    per_chip: int = 1,
) -> Device:
    bfloat16 = rate * TFLOPS / per_chip
    float32 = bfloat16 / BFLOAT16_PASSES
    return Device(
        f"TPU {kind}", "tpu", memory / per_chip, bandwidth * GB / per_chip, float32,
        float32 / FLOAT64_SLOWER, bfloat16, link * GB / per_chip, most * per_chip, axes, per_chip,
        source,
    )  # fmt: skip


_TPU_DOCS = "docs.cloud.google.com/tpu/docs/{}, key specifications"
_AMPERE = "NVIDIA A100 Tensor Core GPU datasheet (SXM); NVIDIA Ampere architecture whitepaper"
_HOPPER = "NVIDIA {} Tensor Core GPU datasheet (SXM); NVIDIA Hopper architecture whitepaper"
_ADA = "NVIDIA {}; NVIDIA Ada GPU architecture whitepaper"
_CUDA_A100 = Cuda((8, 0), 108, 1.41, 40 << 20)
_CUDA_H100 = Cuda((9, 0), 132, 1.98, 50 << 20)

DEVICES: dict[str, Device] = {
    # NVLink 3: 600 GB/s in both directions.
    "a100-40gb": _gpu(
        "A100 SXM 40 GB", 40, 1555 * GB, (19.5, 19.5, 312), 300, _AMPERE, _CUDA_A100
    ),
    "a100-80gb": _gpu(
        "A100 SXM 80 GB", 80, 2039 * GB, (19.5, 19.5, 312), 300, _AMPERE, _CUDA_A100
    ),
    # NVLink 4: 900 GB/s in both directions. bfloat16: 1,979 with sparsity.
    "h100": _gpu(
        "H100 SXM 80 GB", 80, 3.35 * TB, (67, 67, 989.5), 450, _HOPPER.format("H100"), _CUDA_H100
    ),
    "h200": _gpu(
        "H200 SXM 141 GB", 141, 4.8 * TB, (67, 67, 989.5), 450, _HOPPER.format("H200"), _CUDA_H100
    ),
    # A board of eight: 1.44 TB, 64 TB/s, 600, 296 and 18,000 teraflops. NVLink 5: 1.8 TB/s in both
    # directions.
    "b200": _gpu(
        "B200 SXM 180 GB", 180, 8 * TB, (75, 37, 2250), 900,
        "NVIDIA HGX B200 datasheet, an eighth of the board",
        Cuda((10, 0), 148, 1.965, 126 << 20),
    ),  # fmt: skip
    # PCIe 4.0 x16: 64 GB/s in both directions. float64: a 64th of float32.
    "l4": _gpu(
        "L4 24 GB", 24, 300 * GB, (30.3, 0.473, 121), 32, _ADA.format("L4 Tensor Core datasheet"),
        Cuda((8, 9), 58, 2.04, 48 << 20),
    ),  # fmt: skip
    "rtx-4090": _gpu(
        "GeForce RTX 4090 24 GB", 24, 1008 * GB, (82.6, 1.29, 165.2), 32,
        _ADA.format("GeForce RTX 4090 specifications"), Cuda((8, 9), 128, 2.52, 72 << 20),
    ),  # fmt: skip
    # 2,400 Gbit/s.
    "v4": _tpu("v4", 32 * GIB, 1200, 275, 300, 4096, 3, _TPU_DOCS.format("v4")),
    # Inter-chip bandwidth in both directions: 400, 1,200, 800 and 1,200 GB/s.
    "v5e": _tpu("v5e", 16 * GB, 819, 197, 200, 256, 2, _TPU_DOCS.format("v5e")),
    "v5p": _tpu("v5p", 95 * GB, 2765, 459, 600, 8960, 3, _TPU_DOCS.format("v5p")),
    "v6e": _tpu("v6e", 32 * GB, 1638, 918, 400, 256, 2, _TPU_DOCS.format("v6e")),
    "tpu7x": _tpu("7x", 192 * GIB, 7380, 2307, 600, 9216, 3, _TPU_DOCS.format("tpu7x"), 2),
}
"""By the name that ``jd.plan(device=...)`` takes."""

KNOWN = (
    f"known are {', '.join(DEVICES)}; '8xh100' for eight GPUs, 'v5e:16x16' for a TPU slice of so "
    "many chips"
)


class Mesh(NamedTuple):
    """So many devices of one kind.

    Attributes:
      name: as it was given.
      of: the name of the device in :data:`DEVICES`.
      shape: chips along each axis of a TPU slice; the number of GPUs.
      devices: how many there are.
    """

    name: str
    of: str
    shape: tuple[int, ...]
    devices: int

    @property
    def device(self) -> Device:
        """One of them."""
        return DEVICES[self.of]

    def describe(self) -> str:
        """How many of what."""
        return f"{self.devices:,} x {self.device.kind}" if self.devices > 1 else self.device.kind


def mesh_named(name: str) -> Mesh:
    """A device or a mesh of them by its name.

    Raises:
      ValueError: for a name that is not known, with those that are, or a mesh that cannot be.

    >>> mesh_named("8xh100").devices, mesh_named("v5e:16x16").devices
    (8, 256)
    >>> mesh_named("h100").describe()
    'NVIDIA H100 SXM 80 GB'
    """
    match = re.fullmatch(r"(?:(\d+)x)?([a-z0-9-]+?)(?::(\d+(?:x\d+)*))?", name.strip().lower())
    if match is None or match[2] not in DEVICES:
        raise ValueError(f"no device is called {name!r}: {KNOWN}.")
    count, of, slice_shape = match.groups()
    device = DEVICES[of]
    if device.axes == 0:
        if slice_shape is not None:
            raise ValueError(
                f"GPUs are counted, got {name!r}: write {slice_shape.replace('x', '')}x{of}."
            )
        shape = (int(count or 1),)
    else:
        example = f"{of}:{'x'.join(['2'] * device.axes)}"
        if count is not None:
            raise ValueError(f"a TPU slice is told by its shape, got {name!r}: write {example}.")
        shape = tuple(map(int, slice_shape.split("x"))) if slice_shape else (1,) * device.axes
        if len(shape) != device.axes:
            raise ValueError(
                f"a slice of TPU {of} has {device.axes} axes, got {name!r}: write {example}."
            )
    devices = math.prod(shape) * device.per_chip
    if not 1 <= devices <= device.most:
        raise ValueError(
            f"from 1 to {device.most // device.per_chip:,} {of} are linked, got {name!r}: what "
            "networks between more of them carry is not in the table."
        )
    return Mesh(name, of, shape, devices)
