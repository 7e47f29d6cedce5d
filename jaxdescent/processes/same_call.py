"""The arguments that must be equal in all processes of a call, as names and texts to compare."""

from __future__ import annotations

import re
from typing import Any

from jaxdescent.display.displayed import argument

MOST_SHOWN = 3
"""The most differences between calls that an error lists."""

_ADDRESS = re.compile(r"0x[0-9a-f]+")


def texts(**parts: Any) -> dict[str, str]:
    """The arguments of a call as they are displayed: numbers in full, arrays by dtype and shape.

    >>> import jaxdescent as jd
    >>> texts(method=jd.GradientDescent(0.5), history=3)
    {'method': 'GradientDescent(0.5)', 'history': '3'}
    """
    return {name: without_addresses(argument(part)) for name, part in parts.items()}


def differing(call: str, processes: tuple[int, ...], gathered: list[dict[str, str]]) -> str:
    """The error message for a call whose :func:`texts` differ between processes."""
    found: list[str] = []
    for name in dict.fromkeys(name for each in gathered for name in each):
        given: dict[str, list[str]] = {}
        for process, each in zip(processes, gathered, strict=True):
            given.setdefault(each.get(name, "absent"), []).append(str(process))
        if len(given) > 1:
            values = (f"{text[:200]} in process {', '.join(of)}" for text, of in given.items())
            found.append(f"{name} is {' and '.join(values)}")
    return (
        f"the processes must make the same call of {call}, and {'; '.join(found[:MOST_SHOWN])}: "
        "give all of them the same."
    )


def without_addresses(text: str) -> str:
    """A text without the memory addresses by which it names objects."""
    return _ADDRESS.sub("0x", text)
