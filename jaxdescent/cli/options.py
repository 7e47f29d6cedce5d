"""Options that several commands have, and their checks before anything is imported."""

from __future__ import annotations

import decimal
import os
import pathlib
from typing import Any, Literal

import typer

Names = list[str] | None
"""The values of an option that may be repeated, each with one name or several between commas."""

File = pathlib.Path | None
"""The path of a file or a folder, or None."""


def option(
    says: str,
    metavar: str | None = None,
    shown: str | bool = True,
    *,
    default: Any = None,
    name: str | None = None,
    **settings: Any,
) -> Any:
    """An option of a command, as the default of one of its function's parameters: in the help its
    text, what stands for its value, and the default's text; its default and name, if this is not
    the parameter's; and other settings of :func:`typer.Option`.
    """
    names = [name] if name else []
    return typer.Option(default, *names, help=says, metavar=metavar, show_default=shown, **settings)


def flag(name: str, says: str, **settings: Any) -> Any:
    """An option without a value."""
    return option(says, default=False, name=name, **settings)


WHERE = option(
    "Only these rows, in SQL: month <= 6 AND (carrier = 'AA' OR delay IS NULL).", "CONDITION", "all"
)
AS_JSON = flag("--json", "Print one JSON object instead of text.")
RESUME = flag("--resume", "Go on with what --checkpoint has.")
DISTRIBUTED = flag("--distributed", "This is one of several processes that do this together.")
COORDINATOR = option("Of the first process, if none is found.", "HOST:PORT")
PROCESSES = option("How many they are.", min=1)
PROCESS = option("Which one this is, from 0.", min=0)

Platform = Literal["cpu", "gpu", "tpu"]
"""The platform to run on."""

UNITS = {
    unit + end: base**power
    for base, end in ((1000, "b"), (1024, "ib"))
    for power, unit in enumerate(["k", "m", "g", "t"], start=1)
} | {"b": 1, "": 1}

MOST_BYTES = 2**63 - 1
"""The largest number of bytes that is accepted."""


def byte_count(text: str) -> int:
    """A number of bytes, written as 600MB, 4GB, 1.5GiB or 4000000000."""
    word = text.strip().lower().replace("_", "").replace(" ", "")
    digits = word.rstrip("kmgtib")
    try:
        number = decimal.Decimal(digits)
        unit = UNITS[word[len(digits) :]]
        if not number.is_finite() or min(number, MOST_BYTES) * unit < 1:
            raise ValueError
    except (decimal.InvalidOperation, KeyError, ValueError):
        raise typer.BadParameter(f"must be such as 600MB, 4GB or 1.5GiB, got {text!r}.") from None
    return min(int(min(number, MOST_BYTES) * unit), MOST_BYTES)


MEMORY = option(
    "What the whole process may hold: 600MB, 4GB.",
    "SIZE",
    "80 % of what is available",
    parser=byte_count,
)


def count(text: str) -> int:
    """A whole number, written as 1000000000, 1_000_000_000 or 1e9."""
    try:
        number = decimal.Decimal(text.replace(",", "").replace("_", ""))
    except decimal.InvalidOperation:
        raise typer.BadParameter(f"must be a number such as 1000 or 1e9, got {text!r}.") from None
    if not number.is_finite() or not 1 <= number < 2**63 or number != int(number):
        raise typer.BadParameter(f"must be a whole number from 1 to 2**63 - 1, got {text!r}.")
    return int(number)


def require(holds: bool, name: str, says: str) -> None:
    """Raise where what must hold for the option of this name does not."""
    if not holds:
        raise typer.BadParameter(says, param_hint=name)


def check_picture(path: File) -> None:
    """Refuse a name that no picture can be written to."""
    if path is not None:
        is_file = path.suffix.lower() == ".png" and path.parent.is_dir() and not path.is_dir()
        require(is_file, "--plot", f"must be a .png file in a folder that exists, got {path}.")


def choose_device(device: Platform | None) -> None:
    """Let JAX run on this device alone, or on the best one if it is None.

    Raises:
      typer.BadParameter: if JAX does not find it.
    """
    if device is None:
        return
    import jax

    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax.config.update("jax_platforms", "cpu")
        return
    try:  # JAX has chosen this device if it finds one
        found = jax.devices()[0].platform
    except RuntimeError as error:
        found = f"nothing ({error})"
    says = (
        f"JAX finds no {device} here, only {found}: install the JAX that is made for it, or leave "
        "the option out."
    )
    require(found == device, "--device", says)
