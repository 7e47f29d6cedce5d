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


class Device(NamedTuple):
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
      most: the largest number of devices that such links connect.
      axes: the number of axes of the torus that they form; 0 for GPUs, which are fully connected.
      per_chip: the number of devices in a chip.
      source: where the figures are published.
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
    most: int
    axes: int
    per_chip: int
    source: str
    cuda: Cuda | None = None


def _gpu(
    kind: str,
    *,
    gigabytes: float,
    gigabytes_a_second: float,
    teraflops: tuple[float, float, float],
    link: float,
    cuda: Cuda,
    source: str,
) -> Device:
    float32, float64, bfloat16 = (rate * TFLOPS for rate in teraflops)
    return Device(
        kind=f"NVIDIA {kind}",
        platform="gpu",
        memory=gigabytes * GB,
        bandwidth=gigabytes_a_second * GB,
        float32=float32,
        float64=float64,
        bfloat16=bfloat16,
        link=link * GB,
        most=8,
        axes=0,
        per_chip=1,
        source=f"NVIDIA {source}",
        cuda=cuda,
    )


def _tpu(
    name: str,
    *,
    memory: float,
    gigabytes_a_second: float,
    teraflops: float,
    link: float,
    most: int,
    axes: int,
    per_chip: int = 1,
) -> Device:
    """A TPU device from the figures of a chip, where ``teraflops`` is the rate of bfloat16."""
    bfloat16 = teraflops * TFLOPS / per_chip
    float32 = bfloat16 / BFLOAT16_PASSES
    return Device(
        kind=f"TPU {name.removeprefix('tpu')}",
        platform="tpu",
        memory=memory / per_chip,
        bandwidth=gigabytes_a_second * GB / per_chip,
        float32=float32,
        float64=float32 / FLOAT64_SLOWER,
        bfloat16=bfloat16,
        link=link * GB / per_chip,
        most=most * per_chip,
        axes=axes,
        per_chip=per_chip,
        source=f"docs.cloud.google.com/tpu/docs/{name}, system architecture",
    )


# NVLink 3, 4 and 5 have 600, 900 and 1,800 GB/s in both directions; PCIe 4.0 x16 has 64 GB/s. The
# rates of bfloat16 are half of those published with sparsity.
_A100: dict[str, Any] = {
    "teraflops": (19.5, 19.5, 312),
    "link": 300,
    "cuda": Cuda((8, 0), 108, 1.41, 40 << 20),
    "source": "A100 Tensor Core GPU datasheet (SXM) and Ampere architecture whitepaper",
}
_H100: dict[str, Any] = {
    "teraflops": (67, 67, 989.5),
    "link": 450,
    "cuda": Cuda((9, 0), 132, 1.98, 50 << 20),
}

DEVICES: dict[str, Device] = {
    "a100-40gb": _gpu("A100 SXM 40 GB", gigabytes=40, gigabytes_a_second=1555, **_A100),
    "a100-80gb": _gpu("A100 SXM 80 GB", gigabytes=80, gigabytes_a_second=2039, **_A100),
    "h100": _gpu(
        "H100 SXM 80 GB",
        gigabytes=80,
        gigabytes_a_second=3350,
        source="H100 Tensor Core GPU datasheet (SXM) and Hopper architecture whitepaper",
        **_H100,
    ),
    "h200": _gpu(
        "H200 SXM 141 GB",
        gigabytes=141,
        gigabytes_a_second=4800,
        source="H200 Tensor Core GPU datasheet (SXM)",
        **_H100,
    ),
    "b200": _gpu(
        "B200 SXM 180 GB",
        gigabytes=180,
        gigabytes_a_second=8000,
        teraflops=(75, 37, 2250),
        link=900,
        cuda=Cuda((10, 0), 148, 1.965, 126 << 20),
        source="HGX B200 datasheet, an eighth of the board",
    ),
    "l4": _gpu(
        "L4 24 GB",
        gigabytes=24,
        gigabytes_a_second=300,
        teraflops=(30.3, 30.3 / 64, 121),
        link=32,
        cuda=Cuda((8, 9), 58, 2.04, 48 << 20),
        source="L4 Tensor Core GPU datasheet and Ada architecture whitepaper",
    ),
    "rtx-4090": _gpu(
        "GeForce RTX 4090 24 GB",
        gigabytes=24,
        gigabytes_a_second=1008,
        teraflops=(82.6, 82.6 / 64, 165.2),
        link=32,
        cuda=Cuda((8, 9), 128, 2.52, 72 << 20),
        source="Ada GPU architecture whitepaper, appendix A",
    ),
    # Chips are linked by 2,400 Gbit/s.
    "v4": _tpu(
        "v4",
        memory=32 * GIB,
        gigabytes_a_second=1200,
        teraflops=275,
        link=300,
        most=4096,
        axes=3,
    ),
    # Chips are linked by 400, 1,200, 800 and 1,200 GB/s in both directions.
    "v5e": _tpu(
        "v5e",
        memory=16 * GB,
        gigabytes_a_second=819,
        teraflops=197,
        link=200,
        most=256,
        axes=2,
    ),
    "v5p": _tpu(
        "v5p",
        memory=95 * GB,
        gigabytes_a_second=2765,
        teraflops=459,
        link=600,
        most=8960,
        axes=3,
    ),
    "v6e": _tpu(
        "v6e",
        memory=32 * GB,
        gigabytes_a_second=1638,
        teraflops=918,
        link=400,
        most=256,
        axes=2,
    ),
    "tpu7x": _tpu(
        "tpu7x",
        memory=192 * GIB,
        gigabytes_a_second=7380,
        teraflops=2307,
        link=600,
        most=9216,
        axes=3,
        per_chip=2,
    ),
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
    def device(self) -> Device:
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
