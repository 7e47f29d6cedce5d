"""Arrays that a fit keeps in files of its own, which are there as a whole or not at all."""

from __future__ import annotations

import contextlib
import io
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxdescent.data import DataError


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A name to write to, which is changed to that of ``path`` at the end."""
    new = path.with_name(f".{path.name}")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_arrays(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Write arrays by name.

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
