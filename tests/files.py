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
