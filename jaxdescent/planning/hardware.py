"""Published figures of accelerators that need not be attached, and their names.

The figures are peaks, which no program exceeds. GPUs are those with the fastest links (SXM boards),
and rates are for dense matrices, without structured sparsity. What is not published is assumed, in
:data:`ASSUMED` and :mod:`jaxdescent.machine.defaults`: the rates of factorisations, the time of
small operations, and the share of the memory that can be used.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

GIB = 2.0**30

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
    """What XLA's compiler for GPUs needs to know of a GPU besides memory and bandwidth."""

    capability: tuple[int, int]  # by which :data:`jaxdescent.planning.topologies.LIMITS` are found
    cores: int  # the number of streaming multiprocessors
    clock: float  # the boost clock, in GHz
    cache: int  # the L2 cache, in bytes


class Accelerator(NamedTuple):
    """One device as JAX counts them: a GPU, a TPU chip, or half of a chip of two (TPU7x)."""

    kind: str  # the product's name
    platform: str  # ``gpu`` or ``tpu``
    memory: float  # in bytes
    bandwidth: float  # of the memory, in bytes a second
    float32: float  # operations a second of a matrix product in full float32, not TF32
    float64: float  # the same in float64, by tensor cores where they can
    bfloat16: float  # the same for bfloat16 numbers, accumulated in float32
    # Bytes a second that a device can send to the others, over all of its links together: half of
    # what is published where that is the sum of both directions.
    link: float
    cuda: Cuda | None  # what XLA's compiler needs for a GPU; None for TPUs
    source: str  # where the figures are published
    most: int = 8  # the largest number of devices that such links connect
    axes: int = 0  # of the torus that they form; 0 for GPUs, which are fully connected
    per_chip: int = 1  # the number of devices in a chip


def _tpu(
    name: str, chip: tuple[float, ...], most: int, axes: int, per_chip: int = 1
) -> Accelerator:
    """One device of a TPU, from the figures of a chip and the most chips that are linked."""
    memory, bandwidth, bfloat16, link = (figure / per_chip for figure in chip)
    float32 = bfloat16 / BFLOAT16_PASSES
    return Accelerator(
        kind=f"TPU {name.removeprefix('tpu')}",
        platform="tpu",
        memory=memory,
        bandwidth=bandwidth,
        float32=float32,
        float64=float32 / FLOAT64_SLOWER,
        bfloat16=bfloat16,
        link=link,
        cuda=None,
        source=f"docs.cloud.google.com/tpu/docs/{name}, system architecture",
        most=most * per_chip,
        axes=axes,
        per_chip=per_chip,
    )


SXM_A100 = "NVIDIA A100 Tensor Core GPU datasheet (SXM) and Ampere architecture whitepaper"
SXM_H100 = "NVIDIA H100 Tensor Core GPU datasheet (SXM) and Hopper architecture whitepaper"
SXM_H200 = "NVIDIA H200 Tensor Core GPU datasheet (SXM)"
HGX_B200 = "NVIDIA HGX B200 datasheet, an eighth of the board"
L4 = "NVIDIA L4 Tensor Core GPU datasheet and Ada architecture whitepaper"
ADA = "NVIDIA Ada GPU architecture whitepaper, appendix A"

# What boards with one GPU share: products in float32, float64 and bfloat16, whose rate is half of
# that with sparsity; links, of which NVLink 3, 4 and 5 have 600, 900 and 1,800 GB/s in both
# directions, and PCIe 4.0 x16 has 64 GB/s.
_A100 = 19.5e12, 19.5e12, 312e12, 300e9, Cuda((8, 0), 108, 1.41, 40 << 20)
_H100 = 67e12, 67e12, 989.5e12, 450e9, Cuda((9, 0), 132, 1.98, 50 << 20)
_B200 = 75e12, 37e12, 2250e12, 900e9, Cuda((10, 0), 148, 1.965, 126 << 20)
_L4 = 30.3e12, 30.3e12 / 64, 121e12, 32e9, Cuda((8, 9), 58, 2.04, 48 << 20)
_4090 = 82.6e12, 82.6e12 / 64, 165.2e12, 32e9, Cuda((8, 9), 128, 2.52, 72 << 20)

DEVICES = {
    "a100-40gb": Accelerator("NVIDIA A100 SXM 40 GB", "gpu", 40e9, 1555e9, *_A100, SXM_A100),
    "a100-80gb": Accelerator("NVIDIA A100 SXM 80 GB", "gpu", 80e9, 2039e9, *_A100, SXM_A100),
    "h100": Accelerator("NVIDIA H100 SXM 80 GB", "gpu", 80e9, 3350e9, *_H100, SXM_H100),
    "h200": Accelerator("NVIDIA H200 SXM 141 GB", "gpu", 141e9, 4800e9, *_H100, SXM_H200),
    "b200": Accelerator("NVIDIA B200 SXM 180 GB", "gpu", 180e9, 8000e9, *_B200, HGX_B200),
    "l4": Accelerator("NVIDIA L4 24 GB", "gpu", 24e9, 300e9, *_L4, L4),
    "rtx-4090": Accelerator("NVIDIA GeForce RTX 4090 24 GB", "gpu", 24e9, 1008e9, *_4090, ADA),
    "v4": _tpu("v4", (32 * GIB, 1200e9, 275e12, 300e9), 4096, 3),
    "v5e": _tpu("v5e", (16e9, 819e9, 197e12, 200e9), 256, 2),
    "v5p": _tpu("v5p", (95e9, 2765e9, 459e12, 600e9), 8960, 3),
    "v6e": _tpu("v6e", (32e9, 1638e9, 918e12, 400e9), 256, 2),
    "tpu7x": _tpu("tpu7x", (192 * GIB, 7380e9, 2307e12, 600e9), 9216, 3, 2),
}
"""The devices by the names that ``jd.plan(device=...)`` takes."""

KNOWN = (
    f"known are {', '.join(DEVICES)}; '8xh100' for eight GPUs, 'v5e:16x16' for a TPU slice of so "
    "many chips"
)


class Mesh(NamedTuple):
    """A number of linked devices of one kind, ``of`` in :data:`DEVICES`, by the name as given; the
    shape has the chips along each axis of a TPU slice, or the number of GPUs.
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
    given = tuple(map(int, slice_shape.split("x"))) if slice_shape else ()
    if device.axes == 0:
        if given:
            raise ValueError(
                f"GPUs are given by their number, got {name!r}: write {math.prod(given)}x{of}."
            )
        shape = (int(count or 1),)
    else:
        example = f"{of}:{'x'.join(['2'] * device.axes)}"
        if count is not None:
            raise ValueError(f"a TPU slice is given by its shape, got {name!r}: write {example}.")
        shape = given or (1,) * device.axes
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
