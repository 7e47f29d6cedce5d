"""The fingerprint of a run's problem, by which a checkpoint of another problem is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal
from jax.sharding import NamedSharding, PartitionSpec

from jaxdescent.calls import programs
from jaxdescent.display import structure_name
from jaxdescent.kernels import host
from jaxdescent.minimize import Setup
from jaxdescent.processes.same_call import without_addresses

SAMPLES = 256
"""How many elements of a large array are sampled."""

WHOLE = 4096
"""The most elements of an array that is sampled whole."""

MOST_SHOWN = 6
"""The most differences that an error lists."""


def fingerprint(setup: Setup, filled: tuple[int, int] | None = None) -> dict[str, str]:
    """The problem as names and texts that are the same in another process.

    These are the shapes and dtypes of the params, the objective with its data (small arrays whole,
    of large ones 256 elements, of rows that are read a digest), the method, the tolerance and the
    rounding with their numbers, and the options. The start and ``max_iterations`` do not count.
    Nor do rows that fill arrays up, and their number, where ``filled`` gives the number of rows
    without and with them.
    """
    params, problem, _ = setup.inputs
    found = {f"params{path}": _signature(leaf) for path, leaf in _named(params)}
    found["objective"] = structure_name(problem.objective)
    for path, leaf in _named(problem.objective):
        rows = filled[0] if filled is not None and np.shape(leaf)[:1] == filled[1:] else None
        found[f"objective{path}"] = f"{_signature(leaf, rows)} {_digest(_sampled(leaf, rows))}"
    held = programs.static_parts(jax.tree.structure(problem.objective))
    data = [part.fingerprint() for part in held if hasattr(part, "fingerprint")]
    for number, text in enumerate(dict.fromkeys(data)):
        found[f"data {number}"] = text
    for name in ("method", "tolerance", "rounding"):
        part = getattr(problem, name)
        numbers = [_sampled(leaf) for leaf in jax.tree.leaves(part)]
        found[name] = f"{without_addresses(repr(part))} {_digest(*numbers)}"
    for name in ("check_every", "history", "starts_at_own"):
        found[name] = str(setup.flags[name])
    return found


def computation(setup: Setup, jaxpr: Any) -> dict[str, str]:
    """A program's computation and its devices, as texts that are equal only for one version of JAX
    on the same devices.
    """
    arrays = [leaf for leaf in jax.tree.leaves(setup.inputs) if isinstance(leaf, jax.Array)]
    placements = sorted({str(array.sharding) for array in arrays})
    text = without_addresses(str(jaxpr))
    constants = [_sampled(constant) for constant in _constants(jaxpr)]
    return {
        "digest": _digest(np.frombuffer(text.encode(), np.uint8), *constants),
        "jax": jax.__version__,
        "devices": f"{host.attached_devices()} {jax.devices()[0].device_kind}",
        "placement": "; ".join(placements),
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The differences between two sets of facts, in words; empty if they are of one problem."""
    before, present = then["fingerprint"], now["fingerprint"]
    found = [
        f"{name} was {before.get(name, 'absent')} and is {present.get(name, 'absent')}"
        for name in dict.fromkeys([*before, *present])
        if before.get(name) != present.get(name)
    ]
    one, other = dict(then["computation"]), dict(now["computation"])
    is_other = one.pop("digest") != other.pop("digest")
    if not found and one == other and is_other:
        found.append(
            "the computation itself: the functions of the objective, the method or the tolerance, "
            "or numbers that they close over"
        )
    if len(found) > MOST_SHOWN:
        found[MOST_SHOWN:] = [f"and {len(found) - MOST_SHOWN} more"]
    return found


def _named(tree: Any) -> Iterator[tuple[str, Any]]:
    return ((jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree))


def _constants(jaxpr: Any) -> Iterator[Any]:
    """The arrays that a program closes over, those of programs inside it included, in order."""
    yield from getattr(jaxpr, "consts", ())
    for equation in jaxpr.eqns:
        for operand in equation.invars:
            if isinstance(operand, Literal) and np.size(operand.val) > 1:
                yield operand.val
        for part in jax.tree.leaves(list(equation.params.values())):
            if hasattr(part, "eqns"):
                yield from _constants(part)


def _signature(leaf: Any, rows: int | None = None) -> str:
    shape = list(np.shape(leaf))
    return f"{jnp.result_type(leaf)}{shape if rows is None else [rows, *shape[1:]]}"


def _sampled(leaf: Any, rows: int | None = None) -> np.ndarray:
    """A small array whole; of a large one, or of one whose first ``rows`` are followed by filling
    rows, elements at places that depend on the shape alone, without the filling rows.
    """
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    is_whole = rows is None and np.size(leaf) <= WHOLE
    is_here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    if is_whole and is_here:
        return np.asarray(leaf)
    places: tuple[Any, ...] = ()
    if not is_whole:
        generator = np.random.default_rng(0)
        shape = leaf.shape if rows is None else (rows, *leaf.shape[1:])
        # Places beyond 2^31 would need 64-bit indices.
        limits = [min(length, 2**31 - 1) for length in shape]
        places = tuple(generator.integers(0, most, SAMPLES).astype(np.int32) for most in limits)
    everywhere = None
    if not is_here and isinstance(leaf.sharding, NamedSharding):
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    program = programs.compiled(_taken, (leaf, places), everywhere=everywhere)
    return np.asarray(program(leaf, places))


def _taken(
    array: jax.Array, places: tuple[Any, ...], *, everywhere: NamedSharding | None
) -> jax.Array:
    taken = array[places]
    return taken if everywhere is None else lax.with_sharding_constraint(taken, everywhere)


def _digest(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]
