"""Compiled programs on disk, which later processes load instead of compiling them again."""

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

from jaxdescent.kernels import host
from jaxdescent.machine import store

MOST_BYTES = 10**9
"""The size of a folder above which the least recently used programs are removed."""

FREE_BYTES = 10**8
"""The bytes that must be free on the disk: JAX would leave truncated programs on a full one."""


def cache(folder: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Keep every program that this process compiles on disk, and use programs that are kept there.

    Compilation takes seconds, which are saved for the next process with the same program: with
    equal operations and shapes, compiler flags, jaxlib and devices. This is JAX's persistent
    compilation cache, without its minimum of a second for a program. All programs of the process
    are kept, also those of other packages. Each model of processor and number of cores has a folder
    of its own below the given one, because XLA compiles for them. A call removes the least recently
    used programs in this folder beyond 1 GB. Damaged programs are compiled again.

    If JAX has a folder already (by ``JAX_COMPILATION_CACHE_DIR`` or ``jax_compilation_cache_dir``),
    it is used unchanged, unless another one is given here.

    Args:
      folder: the folder for the programs; by default one in the user's cache folder. JAX runs the
        programs that it finds there: let nobody else write to it.

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
    is_path = isinstance(folder, (str, os.PathLike)) and bool(os.fspath(folder))
    if folder is not None and not is_path:
        raise TypeError(
            f"folder must be a path, or None for the user's cache folder, got {folder!r}."
        )
    given = jax.config.jax_compilation_cache_dir
    if folder is None and given is not None:
        return pathlib.Path(given)
    # JAX's keys contain the processor's features, but not the number of cores.
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
    # JAX compiles programs that it cannot read, and goes on if it cannot write one.
    warnings.filterwarnings("ignore", r"Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if str(path) != given:
        jax.config.update("jax_compilation_cache_dir", str(path))
        compilation_cache.reset_cache()  # JAX remembers the folder of its first program
    return path


def _remove_unused(folder: pathlib.Path) -> None:
    """Remove the least recently used programs until the others fit.

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
