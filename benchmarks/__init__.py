"""jaxdescent beside what people would use instead, on the same work, and beside the machine.

``python -m benchmarks run | report | check``. The way through: a suite lists cases; a case is a
problem and the contenders that the peers offer for it; the runner gives each contender a process of
its own, interleaves them, and lets the problem's referee judge every answer; records become a
report.
"""
