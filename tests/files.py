"""Files that tests of several modules read, and the rows that stay in them."""

import errno
import os

import numpy as np


def full_disk(*arguments, **options):
    """What stands for a function that writes."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_a_picture(figure, path, **options):
    """What stands for matplotlib's ``savefig`` where the disk is full."""
    path.write_bytes(b"half")
    full_disk()


def loader(kinds, *blocks):
    """A source of one's own, which gives these blocks."""
    from jaxdescent.data import Source

    class Loader(Source):
        def blocks(self, names, rows):
            yield from blocks

    Loader.kinds = kinds
    return Loader()


def keep_rows_in_files(monkeypatch):
    """Rows fit in no memory from here on."""
    from jaxdescent.fit import plans

    real = plans.plan_in_memory
    monkeypatch.setattr(plans, "plan_in_memory", lambda *given: real(*given)._replace(bytes=10**15))


def zeros_below(path, first, rows):
    """An array of so many rows in float32, of which these are the first: the others are zeros,
    which take no room on the disk.
    """
    first = np.asarray(first, np.float32)
    shape = rows, *first.shape[1:]
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(first.tobytes())
        file.truncate(file.tell() - first.nbytes + 4 * int(np.prod(shape)))
