"""The shards of arrays in the files of a checkpoint, and arrays restored from them."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Unreadable(Exception):
    """A checkpoint that is not whole, or not of this package."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A shard as it was written: elements from ``starts`` on, of an array of this shape; with the
    checksums of its entry in the list of shards, and of this entry and the elements.
    """

    shape: tuple[int, ...]
    starts: tuple[int, ...]
    stored: np.ndarray
    entry: int
    checksum: int

    @functools.cached_property
    def content(self) -> np.ndarray:
        """The elements, if they are those that were written: a disk may lose some, or all."""
        if zlib.crc32(self.stored.reshape(-1).view(np.uint8), self.entry) != self.checksum:
            raise Unreadable("its bytes have changed since they were written")
        return self.stored


def pieces_in(folder: pathlib.Path) -> Iterator[tuple[int, Piece]]:
    """The shards that all processes have written, with the numbers of their arrays, as memory maps
    that are read on access.
    """
    for path in sorted(folder.glob("*.json")):
        place, at = path.with_suffix(""), 0
        is_empty = place.stat().st_size == 0  # the process had copies alone; no map
        content = np.zeros(0, np.uint8) if is_empty else np.memmap(place, np.uint8, "r")
        for *entry, told in json.loads(path.read_text()):
            number, name, shape, starts, own = entry
            dtype = jnp.dtype(name)
            size = math.prod(own) * dtype.itemsize
            piece = content[at : at + size].view(dtype).reshape(own)
            at += size
            yield number, Piece(tuple(shape), tuple(starts), piece, checksum(entry), told)


def restored(name: str, pieces: list[Piece], like: Any, *, is_free: bool) -> jax.Array:
    """An array of the shape, dtype and sharding of ``like``; if its length ``is_free``, it may have
    been written with another length.
    """
    expected = jax.eval_shape(without_keys, like)
    shape, dtype = (pieces[0].shape, pieces[0].stored.dtype) if pieces else ((), "absent")
    is_fitting = shape[1:] == expected.shape[1:] if is_free else shape == expected.shape
    if dtype != expected.dtype or not is_fitting or len(shape) != len(expected.shape):
        raise Unreadable(
            f"{name} is {dtype}{list(shape)}, expected {expected.dtype}{list(expected.shape)}"
        )

    def part(index: Any) -> np.ndarray:
        limits = [at.indices(size) for at, size in zip(index, expected.shape, strict=True)]
        found = np.zeros([stop - start for start, stop, _ in limits], expected.dtype)
        missing = math.prod(
            max(min(stop, size) - start, 0)
            for (start, stop, _), size in zip(limits, shape, strict=True)
        )
        for piece in pieces:
            to, of = [], []
            for (start, stop, _), first, size in zip(
                limits, piece.starts, piece.stored.shape, strict=True
            ):
                begin, end = max(start, first), max(min(stop, first + size), start, first)
                to.append(slice(begin - start, end - start))
                of.append(slice(begin - first, end - first))
            if size := found[tuple(to)].size:
                found[tuple(to)] = piece.content[tuple(of)]
                missing -= size
        if missing:
            raise Unreadable(f"{name} is not whole: {missing:,} of its elements are missing")
        return found

    array = jax.make_array_from_callback(expected.shape, like.sharding, part)
    if not is_key(like):
        return array
    keys = jax.random.wrap_key_data(array, impl=jax.random.key_impl(jnp.zeros((), like.dtype)))
    return jax.device_put(keys, like.sharding)


def checksum(content: Any) -> int:
    """The checksum of a description, which JSON can hold."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def is_key(leaf: Any) -> bool:
    """Whether an array holds keys of random numbers, which are written as numbers."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def without_keys(leaf: Any) -> Any:
    """An array; for an array of random keys, the array of their numbers."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf
