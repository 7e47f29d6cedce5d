"""Published figures of accelerators that need not be attached, and their names.

The figures are peaks, which no program exceeds. GPUs are those with the fastest links (SXM boards),
and rates are for dense matrices, without structured sparsity. What is not published is assumed, in
:data:`ASSUMED` and :mod:`jaxdescent.machine.defaults`: the rates of factorisations, the time of
small operations, and the share of the memory that can be used.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from jaxdescent.machine.defaults import DTYPES

GB, GIB, TFLOPS = 1e9, 2.0**30, 1e12

BFLOAT16_PASSES = 6
"""A TPU multiplies in bfloat16. XLA computes a float32 product at ``Precision.HIGHEST``, which
jaxdescent uses, as six products of bfloat16 terms (the documentation of ``jax.lax.Precision``:
"float32: 6 passes")."""

FLOAT64_SLOWER = 30
"""How many times slower than float32 a TPU's float64 is assumed to be: it has none, and XLA
emulates it by pairs of float32."""

USABLE = 0.9
"""The share of the published memory that a program is assumed to get; the runtime has the rest."""

ASSUMED = (
    "Rates are published peaks, of which runs reach a half to nine tenths. Assumed, because it is "
    f"not published: that {USABLE:.0%} of the memory can be used, how much slower factorisations "
    "are than products, and what a small operation takes."
)
"""What a plan for a published device assumes besides the figures."""


class Cuda(NamedTuple):
    """What XLA's compiler for GPUs needs to know of a GPU besides memory and bandwidth.

    Attributes:
      capability: the compute capability, which determines the limits in
        :data:`jaxdescent.machine.topologies.LIMITS`.
      cores: the number of streaming multiprocessors.
      clock: the boost clock, in GHz.
      cache: the L2 cache, in bytes.
    """

    capability: tuple[int, int]
    cores: int
    clock: float
    cache: int


class Accelerator(NamedTuple):
    """One device as JAX counts them: a GPU, a TPU chip, or half of a chip of two (TPU7x).

    Attributes:
      kind: the product's name.
      platform: ``gpu`` or ``tpu``.
      memory: in bytes.
      bandwidth: of the memory, in bytes a second.
      float32: operations a second of a matrix product in full float32, not TF32.
      float64: the same in float64, by tensor cores where they can.
      bfloat16: the same for bfloat16 numbers, accumulated in float32.
      link: bytes a second that a device can send to the others, over all of its links together.
        Where the sum of both directions is published, it is half of that.
      source: where the figures are published.
      most: the largest number of devices that such links connect.
      axes: the number of axes of the torus that they form; 0 for GPUs, which are fully connected.
      per_chip: the number of devices in a chip.
      cuda: what XLA's compiler needs for a GPU; None for TPUs.
    """

    kind: str
    platform: str
    memory: float
    bandwidth: float
    float32: float
    float64: float
    bfloat16: float
    link: float
    source: str
    most: int = 8
    axes: int = 0
    per_chip: int = 1
    cuda: Cuda | None = None


SXM_A100 = "A100 Tensor Core GPU datasheet (SXM) and Ampere architecture whitepaper"
SXM_H100 = "H100 Tensor Core GPU datasheet (SXM) and Hopper architecture whitepaper"
SXM_H200 = "H200 Tensor Core GPU datasheet (SXM)"
HGX_B200 = "HGX B200 datasheet, an eighth of the board"
L4 = "L4 Tensor Core GPU datasheet and Ada architecture whitepaper"
ADA = "Ada GPU architecture whitepaper, appendix A"

# Memory in GB; its bandwidth in GB/s; teraflops in float32, float64 and bfloat16; links in GB/s;
# what the compiler needs; the source. NVLink 3, 4 and 5 have 600, 900 and 1,800 GB/s in both
# directions; PCIe 4.0 x16 has 64 GB/s. Rates of bfloat16 are half of those with sparsity.
_A100 = (19.5, 19.5, 312), 300, Cuda((8, 0), 108, 1.41, 40 << 20), SXM_A100
_H100 = (67, 67, 989.5), 450, Cuda((9, 0), 132, 1.98, 50 << 20)
_B200 = (75, 37, 2250), 900, Cuda((10, 0), 148, 1.965, 126 << 20), HGX_B200
_L4 = (30.3, 30.3 / 64, 121), 32, Cuda((8, 9), 58, 2.04, 48 << 20), L4
_4090 = (82.6, 82.6 / 64, 165.2), 32, Cuda((8, 9), 128, 2.52, 72 << 20), ADA
GPUS: dict[str, tuple[Any, ...]] = {
    "a100-40gb": ("A100 SXM 40 GB", 40, 1555, *_A100),
    "a100-80gb": ("A100 SXM 80 GB", 80, 2039, *_A100),
    "h100": ("H100 SXM 80 GB", 80, 3350, *_H100, SXM_H100),
    "h200": ("H200 SXM 141 GB", 141, 4800, *_H100, SXM_H200),
    "b200": ("B200 SXM 180 GB", 180, 8000, *_B200),
    "l4": ("L4 24 GB", 24, 300, *_L4),
    "rtx-4090": ("GeForce RTX 4090 24 GB", 24, 1008, *_4090),
}

# Of a chip: memory in bytes; its bandwidth in GB/s; teraflops in bfloat16; links in GB/s, half of
# those of both directions; the most chips that are linked; the axes of their torus; the devices in
# a chip.
TPUS: dict[str, tuple[Any, ...]] = {
    "v4": (32 * GIB, 1200, 275, 300, 4096, 3, 1),
    "v5e": (16 * GB, 819, 197, 200, 256, 2, 1),
    "v5p": (95 * GB, 2765, 459, 600, 8960, 3, 1),
    "v6e": (32 * GB, 1638, 918, 400, 256, 2, 1),
    "tpu7x": (192 * GIB, 7380, 2307, 600, 9216, 3, 2),
}


def _gpu(kind: str, *figures: Any) -> Accelerator:
    memory, bandwidth, teraflops, link, cuda, source = figures
    rates = (rate * TFLOPS for rate in teraflops)
    numbers: dict[str, Any] = dict(zip(DTYPES, rates, strict=True))
    numbers |= {"memory": memory * GB, "bandwidth": bandwidth * GB, "link": link * GB}
    return Accelerator(f"NVIDIA {kind}", "gpu", **numbers, source=f"NVIDIA {source}", cuda=cuda)


def _tpu(name: str, *figures: Any) -> Accelerator:
    """One device of a chip's figures."""
    memory, bandwidth, teraflops, link, most, axes, per_chip = figures
    bfloat16 = teraflops * TFLOPS / per_chip
    float32 = bfloat16 / BFLOAT16_PASSES
    return Accelerator(
        kind=f"TPU {name.removeprefix('tpu')}",
        platform="tpu",
        memory=memory / per_chip,
        bandwidth=bandwidth * GB / per_chip,
        float32=float32,
        float64=float32 / FLOAT64_SLOWER,
        bfloat16=bfloat16,
        link=link * GB / per_chip,
        most=most * per_chip,
        axes=axes,
        per_chip=per_chip,
        source=f"docs.cloud.google.com/tpu/docs/{name}, system architecture",
    )


DEVICES = {name: _gpu(*figures) for name, figures in GPUS.items()} | {
    name: _tpu(name, *figures) for name, figures in TPUS.items()
}
"""The devices by the names that ``jd.plan(device=...)`` takes."""

KNOWN = (
    f"known are {', '.join(DEVICES)}; '8xh100' for eight GPUs, 'v5e:16x16' for a TPU slice of so "
    "many chips"
)


class Mesh(NamedTuple):
    """A number of linked devices of one kind.

    Attributes:
      name: the name as given, in lower case.
      of: the name of the device in :data:`DEVICES`.
      shape: the chips along each axis of a TPU slice, or the number of GPUs.
      devices: the number of devices.
    """

    name: str
    of: str
    shape: tuple[int, ...]
    devices: int

    @property
    def device(self) -> Accelerator:
        """The figures of one of the devices."""
        return DEVICES[self.of]

    def describe(self) -> str:
        """The number and kind of the devices, in words."""
        return f"{self.devices:,} x {self.device.kind}" if self.devices > 1 else self.device.kind


def mesh_named(name: str) -> Mesh:
    """The device or mesh of devices with this name.

    Raises:
      ValueError: if no such device is known, or no such mesh exists.

    >>> mesh_named("8xh100").devices, mesh_named("v5e:16x16").devices
    (8, 256)
    >>> mesh_named("h100").describe()
    'NVIDIA H100 SXM 80 GB'
    """
    name = name.strip().lower()
    match = re.fullmatch(r"(?:(\d+)x)?([a-z0-9-]+?)(?::(\d+(?:x\d+)*))?", name)
    if match is None or match[2] not in DEVICES:
        raise ValueError(f"no device is called {name!r}: {KNOWN}.")
    count, of, slice_shape = match.groups()
    device = DEVICES[of]
    if device.axes == 0:
        if slice_shape is not None:
            raise ValueError(
                f"GPUs are given by their number, got {name!r}: write "
                f"{slice_shape.replace('x', '')}x{of}."
            )
        shape = (int(count or 1),)
    else:
        example = f"{of}:{'x'.join(['2'] * device.axes)}"
        if count is not None:
            raise ValueError(f"a TPU slice is given by its shape, got {name!r}: write {example}.")
        shape = tuple(map(int, slice_shape.split("x"))) if slice_shape else (1,) * device.axes
        if len(shape) != device.axes:
            raise ValueError(
                f"a slice of TPU {of} has {device.axes} axes, got {name!r}: write {example}."
            )
    devices = math.prod(shape) * device.per_chip
    if not 1 <= devices <= device.most:
        raise ValueError(
            f"from 1 to {device.most // device.per_chip:,} {of} are linked, got {name!r}: the "
            "rates of networks between more of them are not in the table."
        )
    return Mesh(name, of, shape, devices)
