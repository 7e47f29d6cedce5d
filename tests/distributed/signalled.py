"""The command line, of which the last process is sent SIGTERM while a program reads its rows."""

import os
import signal
import sys
import time

from jaxdescent.cli import main
from jaxdescent.data import RowStream

IS_LAST = sys.argv[-1] == "1"


def slowly(self, *arguments, real=RowStream.multiplied, **options):
    """A product in a program that does not end by itself before the signal ends it."""
    products.append(1)
    if IS_LAST and len(products) == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    return real(self, *arguments, **options)


products = []

if __name__ == "__main__":
    RowStream.multiplied = slowly
    main()
