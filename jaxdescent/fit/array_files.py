"""Arrays in files: those that a fit keeps, written whole or not at all, and those of a model."""

from __future__ import annotations

import contextlib
import io
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxdescent.data import DataError
from jaxdescent.data.errors import reading


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path to write to, which is renamed to ``path`` at the end."""
    new = path.with_name(f".{path.name}")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_arrays(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Write arrays by name to an ``.npz`` file.

    Raises:
      OSError: where they cannot be written.
    """
    with replacing(path) as new, new.open("wb") as file:
        arrays: Any = {name: np.asarray(array) for name, array in found.items()}
        np.savez(file, **arrays)


def arrays_of(path: pathlib.Path, content: bytes, advice: str) -> dict[str, np.ndarray]:
    """The arrays that the content of a file holds.

    Raises:
      DataError: where it is damaged, with this advice.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged ({error}): {advice}.") from error


def rising_places_of(path: pathlib.Path, count: int) -> np.ndarray:
    """The indices that a file holds: strictly rising, from 0 to below ``count``."""
    places = vector_of(path, np.dtype(np.int64))
    if places.size and (places[0] < 0 or places[-1] >= count or np.any(np.diff(places) <= 0)):
        raise DataError(f"{path} is damaged: places must rise from 0 to {count - 1:,}.")
    return places


def vector_of(path: pathlib.Path, dtype: np.dtype[Any]) -> np.ndarray:
    """The vector that a file holds, mapped into memory.

    Raises:
      DataError: where it cannot be read, or holds something else.
    """
    with reading(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != dtype:
        raise DataError(f"{path} is damaged: it must hold one column of {dtype}.")
    return array
