"""The memory and rates of one device as one object."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent import processes
from jaxdescent.kernels import host, memory
from jaxdescent.kernels.memory import readable_bytes
from jaxdescent.machine import store
from jaxdescent.machine.defaults import DTYPES, Ratios, default_rates, ratios_of
from jaxdescent.planning.hardware import USABLE, mesh_named

Rates = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Machine:
    """The memory and rates of one device, in bytes, operations and seconds.

    A rate by dtype has the keys ``float32``, ``float64`` and ``bfloat16``, for the dtype that X is
    stored in. 16-bit numbers are multiplied without conversion and accumulated in float32.

    Args:
      platform: ``cpu``, ``gpu`` or ``tpu``.
      kind: the device's name.
      cores: the number of processor cores that this process may use.
      memory_bytes: how many bytes can be allocated now.
      read_bandwidth: by dtype, bytes of X read a second by ``X'(X w)``, from memory.
      product_rate: by dtype, operations a second of a large matrix product at full precision.
      orthogonal_rate: operations a second of a QR factorisation of many columns, float32.
      operation_seconds: seconds of a kernel on few numbers within a compiled program.
      cache_bytes: the size of the last-level cache; 0 for accelerators, whose caches do not count.
      is_measured: whether the rates are measured on this machine.
      measured_at: when they were measured, in seconds since 1970; zero for defaults.
      others: the share of all cores that other processes used during the measurement.
      name: the name of published figures, such as ``8xh100``; empty for an attached device.
      devices: the number of devices that share a problem; all other figures are for each.
      link_bandwidth: bytes a second that each can send to the others; 0 if it is not known.
      all_reduce_seconds: seconds until all devices have summed a few numbers.
      source: where the figures are published.

    >>> machine = Machine.default("cpu", cores=2, memory_bytes=10**9)
    >>> machine.is_measured, machine.product_rate["float64"] < machine.product_rate["float32"]
    (False, True)
    """

    platform: str
    kind: str
    cores: int
    memory_bytes: int
    read_bandwidth: Rates
    product_rate: Rates
    orthogonal_rate: float
    operation_seconds: float
    cache_bytes: int
    is_measured: bool
    measured_at: float = 0.0
    others: float = 0.0
    name: str = ""
    devices: int = 1
    link_bandwidth: float = 0.0
    all_reduce_seconds: float = 2e-5
    source: str = ""

    @classmethod
    def default(
        cls, platform: str, *, kind: str = "unknown", cores: int = 1, memory_bytes: int = 0
    ) -> Machine:
        """Rates of an ordinary machine of this platform, right to an order of magnitude."""
        rates = default_rates(platform, cores)
        return cls(platform, kind, cores, memory_bytes, is_measured=False, **rates)

    @classmethod
    def published(cls, name: str) -> Machine:
        """A device, or a mesh of devices, by its published figures, whatever this host has.

        What is not published is assumed (:data:`jaxdescent.planning.hardware.ASSUMED`).

        Raises:
          ValueError: if the name is not known.

        >>> machine = Machine.published("8xh100")
        >>> machine.devices, machine.platform, machine.read_bandwidth["float32"]
        (8, 'gpu', 3350000000000.0)
        """
        mesh = mesh_named(name)
        device = mesh.device
        rates = default_rates(device.platform, 1)
        # Of factorisations only the ratio of their rate to a product's is assumed.
        faster = device.float32 / rates["product_rate"]["float32"]
        rates |= {
            "read_bandwidth": dict.fromkeys(DTYPES, device.bandwidth),
            "product_rate": {name: getattr(device, name) for name in DTYPES},
            "orthogonal_rate": faster * rates["orthogonal_rate"],
        }
        return cls(
            device.platform,
            device.kind,
            cores=1,
            memory_bytes=round(USABLE * device.memory),
            is_measured=False,
            name=mesh.name,
            devices=mesh.devices,
            link_bandwidth=device.link,
            source=device.source,
            **rates,
        )

    @classmethod
    def of(cls, device: Any = None) -> Machine:
        """The device's calibration if there is one, else the default; runs and writes nothing.

        A rate that was measured on a busy machine is limited to five times worse than the default.
        """
        device = _device(device)
        return cls._of(device, store.stored(_identity(device)))

    @classmethod
    def _of(cls, device: Any, rates: dict[str, Any] | None) -> Machine:
        """The device with these measured rates, or the default ones."""
        identity, available = _identity(device), memory.available_bytes(device)
        if rates is None:
            return cls.default(**identity, memory_bytes=available)
        if rates["others"] > BUSY:
            rates = _better(rates, default_rates(device.platform, identity["cores"]), FAR)
        return cls(**identity, memory_bytes=available, **rates)

    @classmethod
    def stated(cls) -> Machine:
        """The default rates of JAX's first device, and the whole of its memory.

        Equal machines have it in common, whatever they have measured and are doing.
        """
        device = jax.local_devices()[0]
        return cls.default(**_identity(device), memory_bytes=memory.whole_bytes(device))

    @classmethod
    def measured(cls, device: Any = None, *, recalibrate: bool = False) -> Machine:
        """The device's calibration, measured now (in a few seconds) if there is none.

        A calibration from a busy machine is measured again, once in each process, and the better of
        both is kept for each rate.

        Args:
          device: a JAX device; None stands for JAX's first.
          recalibrate: measure even if there is a calibration, and replace it.
        """
        device = _device(device)
        identity = _identity(device)
        path, kept = store.path_of(identity), None if recalibrate else store.stored(identity)
        if kept is None or (kept["others"] > BUSY and path not in _MEASURED_HERE):
            from jaxdescent.machine import calibration

            _MEASURED_HERE.add(path)
            rates = calibration.measure(device)
            if kept is not None:
                # The quality is that of the less disturbed one.
                quiet, busy = sorted((rates, kept), key=lambda each: each["others"])
                rates = _better(quiet, busy)
            store.keep(identity, rates)
            kept = rates
        return cls._of(device, kept)

    def agreed(self) -> Machine:
        """The machine that a group of processes plans for, the same one in each of them.

        Its rates are those of the group's first process, and its memory the least of theirs: what
        is planned fits on every device. Alone, a process plans for its own.
        """
        if processes.is_alone():
            return self
        told = json.loads(processes.told_by_first(self.to_json()))
        return Machine(**told | {"memory_bytes": int(processes.least(self.memory_bytes))})

    @property
    def is_one_cpu(self) -> bool:
        """Whether JAX has one CPU and no other device, for which programs use forms of their own.

        JAX may have been configured to show the host's CPU as several devices.
        """
        return self.platform == "cpu" and jax.device_count() == 1

    def describe(self) -> str:
        """The device, its memory, and the origin of the rates, in a sentence."""
        if self.name:
            figures = (
                f"{readable_bytes(self.memory_bytes)} and "
                f"{readable_bytes(self.read_bandwidth['float32'])}/s each"
            )
            if self.devices == 1:
                return f"{self.kind}, {figures.removesuffix(' each')} ({self.source})."
            links = f"{readable_bytes(self.link_bandwidth)}/s over the links of each"
            return f"{self.devices:,} x {self.kind}, {figures}, {links} ({self.source})."
        origin = "measured" if self.is_measured else "default numbers, not measured"
        memory_left = f"{readable_bytes(self.memory_bytes)} available"
        return f"{self.platform}, {self.cores} cores, {memory_left}; rates: {origin}."

    @property
    def ratios(self) -> Ratios:
        """The rates that are assumed to be in a fixed ratio to the measured ones."""
        return ratios_of(self.platform)

    def bandwidth(self, dtype: Any, size_in_bytes: float) -> float:
        """Bytes a second of repeated passes over data of this size and dtype."""
        name = _name(dtype)
        # Widening 16-bit numbers takes as long from memory as from the cache.
        is_widened = name == "bfloat16" and self.platform == "cpu"
        if is_widened or size_in_bytes > self.cache_bytes:
            return self.read_bandwidth[name]
        # Other data need the cache too: beyond a quarter of it only part of the data stay there.
        share = 1.0 if size_in_bytes <= self.cache_bytes / 4 else 0.5
        return self.read_bandwidth[name] * self.ratios.cached**share

    def product(self, dtype: Any) -> float:
        """Operations a second of a large matrix product in this dtype."""
        return self.product_rate[_name(dtype)]

    def link_seconds(self, sent: float, sums: float) -> float:
        """The seconds in which each device sends so many bytes, in so many sums over all."""
        sending = sent / self.link_bandwidth if self.link_bandwidth else 0.0
        return sending + sums * self.all_reduce_seconds

    def to_json(self) -> str:
        """All fields, as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2)


BUSY, FAR = 0.15, 5.0
"""Rates are doubtful if other processes used more than the share BUSY of the cores. A doubtful rate
is not believed to be more than FAR times worse than the default."""

_MEASURED_HERE: set[Any] = set()
"""The calibrations measured by this process, which are not measured again for being doubtful."""


def _better(rates: dict[str, Any], others: dict[str, Any], worse: float = 1.0) -> dict[str, Any]:
    """The rates, each replaced by the other one if that is better even when it is made ``worse``
    times as bad.
    """
    names = "read_bandwidth", "product_rate", "orthogonal_rate"
    speeds = jax.tree.map(
        lambda one, other: max(one, other / worse),
        *({name: each[name] for name in names} for each in (rates, others)),
    )
    seconds = min(rates["operation_seconds"], others["operation_seconds"] * worse)
    return rates | speeds | {"operation_seconds": seconds}


def _name(dtype: Any) -> str:
    dtype = jnp.dtype(dtype)
    if dtype.itemsize < 4:
        return "bfloat16"
    return "float64" if dtype.itemsize == 8 else "float32"


def _device(device: Any) -> Any:
    """The device itself, this process's first if None, or the first of a platform by its name."""
    if isinstance(device, str):
        return jax.devices(device)[0]
    return jax.local_devices()[0] if device is None else device


def _identity(device: Any) -> dict[str, Any]:
    kind = host.processor() if device.platform == "cpu" else device.device_kind
    return {"platform": device.platform, "kind": kind, "cores": host.usable_cores()}
