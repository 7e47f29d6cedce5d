"""The command of the breakdown, in which one process does something else than the others."""

import dataclasses
import os
import signal
import sys

from jaxdescent import breakdown, cli
from jaxdescent.breakdown import child, coupled, independent_weights, large_problem
from jaxdescent.processes import ending

IS_SECOND = sys.argv[-1] == "1"

ENDLESS = (
    "import time\n"
    "from jaxdescent.breakdown import child\n"
    "child.answer = lambda request: time.sleep(1000)\n"
    "child.main()\n"
)


def tiny():
    """The parts of one machine take little time."""
    coupled.LEAST_SIZES = 2
    sizes = {"first_size": 16, "separable_sizes": (1000,), "most_lines": 1200}
    breakdown.QUICK = dataclasses.replace(breakdown.QUICK, **sizes)


def endless():
    """Part 2 measures until it is ended; the number of its process is printed."""
    start = child.subprocess.Popen

    def started(*arguments, **options):
        process = start(*arguments, **options)
        print(f"child {process.pid}", flush=True)
        return process

    child.PROGRAM = ENDLESS
    child.subprocess.Popen = started


def no_room():
    """There is no room for the params of the second process."""

    def draw(*arguments):
        raise MemoryError("no room for the params")

    if IS_SECOND:
        independent_weights.draw = draw


def endless_steps():
    """Part 3 takes steps until it is ended, and says when it begins."""

    class Announced(large_problem.SegmentedDescent):
        def begin(self, facts):
            super().begin(facts)
            print(f"child {os.getpid()}", flush=True)

    independent_weights.IndependentWeights.iterations = 10**9
    large_problem.SegmentedDescent = Announced


def impatient():
    """A process that does not answer is waited for less long."""
    ending.AGAIN_SECONDS, ending.GRACE = 1.0, 3.0
    ending.FAREWELL = ending.GRACE + ending.RESPITE + 1.0


def tied_are_interrupted():
    """Ctrl-C comes to the second process after a few iterations on the tied weights."""

    class Interrupted(large_problem.SegmentedDescent):
        def begin(self, facts):
            super().begin(facts)
            self.is_due = facts.objective.startswith("TiedNeighbours")

        def report(self, record):
            super().report(record)
            if self.is_due:
                self.is_due = False
                os.kill(os.getpid(), signal.SIGINT)

    if IS_SECOND:
        large_problem.SegmentedDescent = Interrupted


if __name__ == "__main__":
    # A shell's background jobs are born deaf to Ctrl-C, and so are their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in os.environ["TEST_BREAKDOWN"].split():
        globals()[name]()
    cli.main()
