"""The command of the breakdown, in which one process does something else than the others."""

import os
import signal
import sys

from jaxdescent import cli
from jaxdescent.breakdown import child, coupled, independent_weights, tutorial

ENDLESS = (
    "import time\n"
    "from jaxdescent.breakdown import measured_rows\n"
    "measured_rows.answer = lambda request: time.sleep(1000)\n"
    "measured_rows.main()\n"
)


def endless():
    """Part 2 measures until it is ended, and says by which process."""
    start = child.subprocess.Popen

    def started(*arguments, **options):
        process = start(*arguments, **options)
        print(f"child {process.pid}", flush=True)
        return process

    child.PROGRAM = ENDLESS
    child.subprocess.Popen = started


def fails():
    """Part 2 has a bug."""

    def run(settings, console):
        del settings, console
        return 1 / 0

    coupled.run = run


def no_room():
    """There is no room for the params of the second process."""
    if sys.argv[-1] == "1":

        def draw(*arguments):
            raise MemoryError("no room for the params")

        independent_weights.draw = draw


def hangs():
    """The second process neither computes nor ends when it is asked to."""
    if sys.argv[-1] == "1":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    tutorial.run = None


if __name__ == "__main__":
    for name in filter(None, os.environ.get("TEST_BREAKDOWN", "").split(",")):
        globals()[name]()
    cli.main()
