"""Compiled programs on disk, where a process finds what an earlier one has compiled."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
import warnings

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxdescent.machine import host, store

MOST_BYTES = 10**9
"""The size of a folder above which the programs that were not used for longest are removed."""

FREE_BYTES = 10**8
"""What must be free on its disk: JAX would leave the beginnings of programs on a full one."""


def cache(folder: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Keep every program that this process compiles on disk, and use those that are kept there.

    Compilation takes seconds, which the next process with the same program saves: of the same
    operations and shapes, compiler flags, jaxlib and devices. This is JAX's persistent compilation
    cache, without its minimum of a second for a program. It goes for all programs of the process,
    also those that are not of this package. Each model of processor and number of cores has a
    folder of its own below the given one, because XLA compiles for them. A call removes what goes
    beyond 1 GB there, the programs first that were not used for longest. What is damaged is
    compiled again.

    Where JAX has a folder already (by ``JAX_COMPILATION_CACHE_DIR`` or
    ``jax_compilation_cache_dir``), it stays as it is, unless another one is given here.

    Args:
      folder: for the programs; one in the user's cache folder by default. JAX runs what it finds
        there: let nobody else write to it.

    Returns:
      The folder that the programs are in. None, after a warning, if nothing can be written there:
      then programs are compiled as before.

    Raises:
      TypeError: if the folder is not a path.

    >>> import tempfile, jax, jaxdescent as jd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jd.cache(folder).parent.samefile(folder)
    True
    >>> jax.config.update("jax_compilation_cache_dir", None)  # from here on nothing is kept
    """
    if folder is not None and not isinstance(folder, (str, os.PathLike)):
        raise TypeError(
            f"folder must be a path, or None for the user's cache folder, got {folder!r}."
        )
    given = jax.config.jax_compilation_cache_dir
    if folder is None and given is not None:
        return pathlib.Path(given)
    # JAX's keys have the processor's features, but not the number of cores.
    words = f"{host.processor()} {host.usable_cores()} cores"
    parent = store.cache_folder() / "programs" if folder is None else pathlib.Path(folder)
    path = parent.expanduser().absolute() / re.sub(r"[^A-Za-z0-9.]+", "-", words)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
        if shutil.disk_usage(path).free < FREE_BYTES:
            raise OSError("the disk is full")
        _remove_unused(path)
    except OSError as error:
        reason = error.strerror or error
        warnings.warn(f"no compiled program is kept in {path}: {reason}", stacklevel=2)
        return None
    # JAX compiles what it cannot read or write.
    warnings.filterwarnings("ignore", r"Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if str(path) != given:
        jax.config.update("jax_compilation_cache_dir", str(path))
        compilation_cache.reset_cache()  # it keeps the folder in which it found its first program
    return path


def _remove_unused(folder: pathlib.Path) -> None:
    """Remove programs until the others fit, those first that were not used for longest.

    JAX's own bound needs a package for locks. Most file systems note when a file is read, some once
    a day, others never: then the programs that were written first are removed.
    """
    entries = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            status = path.stat()
            entries.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
