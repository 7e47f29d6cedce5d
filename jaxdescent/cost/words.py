"""Sentences of a plan: where a sharded problem lies, and what to do if no method fits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxdescent.cost.candidates import Candidate
from jaxdescent.cost.structure import ProblemKind, Structure
from jaxdescent.machine import Machine
from jaxdescent.machine.memory import readable_bytes


def placement(structure: Structure) -> str:
    """A sentence on what each of several devices has; empty for one device."""
    if structure.devices == 1:
        return ""
    with_rows = "X, y and what else has a row are sharded by rows"
    of_kind = {
        "rows": f"{with_rows}, the params are on each",
        "features": "X and the params are sharded by features, y is on each",
        "params": "params and data are sharded alike",
        "": "data and params are all on each, which saves nothing: only the data of "
        "regressions, quadratics and separable functions are known to be divisible",
    }
    if structure.kind is ProblemKind.QUADRATIC and structure.sharded:
        return "On several devices: H is sharded by rows, vectors are on each."
    return f"On several devices: {of_kind[structure.sharded]}."


def refusal(structure: Structure, machine: Machine, candidates: Sequence[Candidate]) -> str:
    """The message that nothing fits, with numbers and ways out, the cheapest first."""
    needs = "; ".join(
        f"{candidate.name} {readable_bytes(candidate.allocated_bytes)}" for candidate in candidates
    )
    sentences = [
        f"no method fits for {structure.describe()}: "
        f"{readable_bytes(machine.memory_bytes)} are available, and still to be allocated are: "
        f"{needs}."
    ]
    least = min(candidates, key=lambda candidate: candidate.peak_bytes)
    available = max(machine.memory_bytes, 1)
    if structure.itemsize == 8 and least.allocated_bytes <= 2 * available:
        half = readable_bytes(least.allocated_bytes / 2)
        sentences.append(f"In float32 {least.name} needs {half}.")
    devices = math.ceil(least.peak_bytes / (0.9 * available))
    what = (
        "the params"
        if structure.kind in (ProblemKind.SEPARABLE, ProblemKind.FUNCTION)
        else "the data"
    )
    sentences.append(
        f"Shard {what} over {max(devices, 2):,} such devices (jax.device_put with a NamedSharding) "
        f"for {least.name}, which needs {readable_bytes(least.peak_bytes)} with data and params."
    )
    if (
        structure.is_dense
        and machine.platform != "cpu"
        and jnp.dtype(structure.data_dtype).itemsize == 4
        and least.allocated_bytes - structure.data_bytes / 2 <= available
    ):
        sentences.append("Stored in bfloat16 the data take half as much.")
    if structure.kind is ProblemKind.REGRESSION and structure.data_bytes > available:
        square = structure.smaller**2 * structure.itemsize
        form = "Gram matrix X'X" if structure.is_tall else "kernel XX'"
        sentences.append(
            f"Leave the rows in files: jd.Streamed reads them in blocks, so that vectors and the "
            f"{form} ({readable_bytes(square)}) are all that is in memory, or vectors alone."
        )
    if machine.devices > 1:
        sentences.append(
            f"All of this is said of each of the {machine.devices:,} devices that the problem is "
            "spread over already: numbers of devices are times as many."
        )
    return " ".join(sentences)
