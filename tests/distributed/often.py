"""The command line, whose fits are kept after each iteration, and take their time."""

import time

from jaxdescent.cli import main
from jaxdescent.fit import checkpoint, descents
from jaxdescent.runs import run
from jaxdescent.runs.hooks import Hook


class Slow(Hook):
    """So slow that the notice of SIGTERM, which takes seconds, comes before the end."""

    def report(self, record):
        del record
        time.sleep(0.5)


def slowly(*arguments, hooks, **options):
    return run(*arguments, hooks=[*hooks, Slow()], **options | {"chunk": 1})


if __name__ == "__main__":
    checkpoint.EVERY = 0.0
    descents.run = slowly
    main()
