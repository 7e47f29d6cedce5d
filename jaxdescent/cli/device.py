"""The device of this host that a command runs on."""

from __future__ import annotations

import enum
import os

import typer


class Platform(enum.StrEnum):
    """The platform to run on."""

    cpu = "cpu"
    gpu = "gpu"
    tpu = "tpu"


def choose_device(device: Platform | None) -> None:
    """Let JAX run on this device alone, or on the best one if it is None.

    Raises:
      typer.BadParameter: if JAX does not find it.
    """
    if device is None:
        return
    import jax

    if device is Platform.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")
    else:
        _require(device)


def _require(device: Platform) -> None:
    """Raise unless JAX has chosen this device, as it does if it finds one."""
    import jax

    try:
        found = jax.devices()[0].platform
    except RuntimeError as error:
        found = f"nothing ({error})"
    if found != device.value:
        raise typer.BadParameter(
            f"JAX finds no {device.value} here, only {found}: install the JAX that is made for it, "
            "or leave the option out.",
            param_hint="--device",
        )
