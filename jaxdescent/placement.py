"""The placement of arrays on devices, which follows the inputs and is only checked here."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def with_automatic_axes(tree: Any) -> Any:
    """The arrays on meshes whose axes XLA's partitioner handles; no data moves.

    ``jax.make_mesh`` makes Explicit axes by default, on which a product that contracts a sharded
    axis raises unless its output sharding is given; for Auto axes the partitioner finds it.

    Raises:
      ValueError: if an array on an Explicit mesh is traced, so that its mesh cannot be changed; if
        such a mesh is set as the context; or in a ``jax.shard_map`` that checks what varies.
    """
    context = jax.sharding.get_abstract_mesh()
    if not context.empty and AxisType.Explicit in context.axis_types:
        raise ValueError(
            f"the mesh set around this call must have Auto axes, got {context}: make it with "
            "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * n)."
        )
    return jax.tree.map(_with_automatic_axes, tree)


def automatic_mesh(devices: Any, axes: tuple[str, ...]) -> Mesh:
    """The mesh of an array of devices, with axes that XLA's partitioner handles."""
    return Mesh(np.asarray(devices), axes, axis_types=(AxisType.Auto,) * len(axes))


def with_rows_of(X: Any, rows: int, *arrays: Any) -> list[Any]:
    """Arrays whose first axis are X's rows, such as targets and row weights, in an order of
    precedence, with their rows where X has its rows; X stays.

    A mesh axis then cuts one axis of the data alone: the rows, X's columns or the outputs. XLA
    would have to move rows in every program otherwise, and aborts the process where one of two
    shardings cuts outputs by an axis that the other cuts rows by, beside an axis of another size.
    Arrays without values, and those on another mesh, stay where they are; so do those of several
    processes, because a move is a program, in which they would wait for one that fails its checks.
    """
    mesh, along, across = None, (), ()
    for leaf in jax.tree.leaves(X):
        if (place := _named_sharding(leaf)) is None or not leaf.ndim:
            continue
        mesh = mesh or place.mesh
        own, *others = _axes(place, leaf.ndim)
        # Rows that are no array have an entry of each array for each of their parts.
        if leaf.shape[0] in (rows, math.prod(place.mesh.shape[name] for name in own)):
            along = along or own
            across += sum(others, ())
    laid = []
    for array in arrays:
        laid.append(array)
        if (place := _named_sharding(array)) is None:
            continue
        mesh = mesh or place.mesh
        if place.mesh.update(axis_types=mesh.axis_types) != mesh:
            continue
        own, *others = _axes(place, array.ndim)
        along = along or tuple(name for name in own if name not in across)
        used = {*along, *across}
        others = [tuple(name for name in each if name not in used) for each in others]
        across += sum(others, ())
        spec = PartitionSpec(along, *others)
        there = NamedSharding(place.mesh, spec, memory_kind=place.memory_kind)
        if not there.is_equivalent_to(place, array.ndim):
            laid[-1] = jax.device_put(array, there)
    return laid


def check_one_placement(named_trees: dict[str, Any]) -> None:
    """Raise a ValueError if two committed arrays live on different devices, or on the same ones in
    another order: a program has one order for all of its arrays.
    """
    seen: dict[tuple[Any, ...], str] = {}
    for name, tree in named_trees.items():
        for path, leaf in jax.tree.leaves_with_path(tree):
            if is_concrete(leaf) and leaf.committed:
                label = f"{name}{jax.tree_util.keystr(path)}"
                seen.setdefault(tuple(leaf.sharding.devices_indices_map(leaf.shape)), label)
    if len(seen) > 1:
        places = "; ".join(
            f"{label} on {[str(d) for d in devices]}" for devices, label in seen.items()
        )
        raise ValueError(
            f"all arrays must live on the same devices in the same order, got {places}: move them "
            "with jax.device_put(array, sharding)."
        )


def placed_like(tree: Any, places: Any) -> Any:
    """The concrete arrays where ``places``, of :func:`places_of`, says; XLA chooses the shardings
    of what a program returns, and may have split an array over more devices than the input that it
    came from.
    """

    def placed(place: Any, leaf: Any) -> Any:
        is_free = place is None or not is_concrete(leaf)
        if is_free or leaf.sharding.is_equivalent_to(place, leaf.ndim):
            return leaf
        return jax.device_put(leaf, place)

    return jax.tree.map(placed, places, tree, is_leaf=lambda place: place is None)


def places_of(tree: Any) -> Any:
    """The shardings of the arrays that a caller has placed; None for all others."""
    return jax.tree.map(
        lambda leaf: leaf.sharding if is_concrete(leaf) and leaf.committed else None, tree
    )


def is_concrete(leaf: Any) -> bool:
    """Whether ``leaf`` is a JAX array whose values exist now."""
    return isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)


def is_at_hand(tree: Any) -> bool:
    """Whether all arrays exist now, in the memory of CPUs of this process."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Tracer) or not getattr(leaf, "is_fully_addressable", True):
            return False
    return (device_of(tree) or jax.local_devices()[0]).platform == "cpu"


def device_of(tree: Any) -> Any:
    """The first device of the first concrete array, if possible one of this process.

    None if there is no array. The memory of other processes' devices cannot be asked for.
    """
    for leaf in jax.tree.leaves(tree):
        if is_concrete(leaf):
            devices, own = leaf.sharding.device_set, jax.process_index()
            return min(devices, key=lambda device: (device.process_index != own, device.id))
    return None


def _named_sharding(array: Any) -> NamedSharding | None:
    """The place of an array whose values exist on a mesh of this process; None for any other."""
    if isinstance(array, Tracer):
        array = lax.stop_gradient(array)  # under ``grad`` alone its values exist
    if not is_concrete(array) or not array.is_fully_addressable:
        return None
    return array.sharding if isinstance(array.sharding, NamedSharding) else None


def _axes(place: NamedSharding, ndim: int) -> list[tuple[str, ...]]:
    """The mesh axes that cut each axis of an array."""
    spec = *place.spec, *[None] * (ndim - len(place.spec))
    return [axes if isinstance(axes, tuple) else () if axes is None else (axes,) for axes in spec]


def _with_automatic_axes(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, Tracer):
        of_leaf = jax.typeof(leaf)
        if varying := of_leaf.manual_axis_type.varying:
            raise ValueError(
                "in jax.shard_map a descent begins its loops with numbers that all devices share, "
                f"got an array that varies over {sorted(varying)}: write "
                "jax.shard_map(..., check_vma=False)."
            )
        sharding = of_leaf.sharding
        if AxisType.Explicit in sharding.mesh.axis_types:
            raise ValueError(
                f"under jit, arrays must be on a mesh with Auto axes, got {sharding.mesh}: make it "
                "with jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * n), or call "
                "minimize outside jit."
            )
        return leaf
    sharding = leaf.sharding
    if not isinstance(sharding, NamedSharding) or AxisType.Explicit not in sharding.mesh.axis_types:
        return leaf
    mesh = automatic_mesh(sharding.mesh.devices, sharding.mesh.axis_names)
    return jax.device_put(leaf, NamedSharding(mesh, sharding.spec))
