"""Files that tests of several modules read."""

import numpy as np


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
