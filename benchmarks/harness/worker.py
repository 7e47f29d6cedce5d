"""A contender's process: prepares one case at a time, and runs it whenever it is told.

It speaks JSON lines. Whatever else a package prints goes to the standard error.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
import traceback
import warnings
from typing import Any

from benchmarks.harness.case import Counting, NotOffered

SHORT_SECONDS = 0.02
"""A shorter run is repeated until it fills so much, and the mean counts."""


def main() -> None:
    """Obey the lines on the standard input until it ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # the peers' own, about tolerances they do not reach
    solve: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                solve = None  # the memory of the case before
                solve, reply = _prepare(**request["contender"])
            elif request["do"] == "count":
                reply = {"passes": _passes(solve, request["tolerance"])}
            else:
                reply = _run(solve, request["tolerance"], request["answer"], request["is_timed"])
        except NotOffered as reason:
            reply = {"failure": str(reason), "is_left_out": True}
        except Exception as error:  # whatever a package raises: the other contenders go on
            traceback.print_exc()  # the table has one line of it; a fault of our own needs all
            words = " ".join(str(error).split())[:300]
            reply = {"failure": f"{type(error).__name__}: {words}"}
        print(json.dumps(reply), file=channel, flush=True)


def _prepare(
    *, suite: str, scale: float, case: str, adapter: str, label: str, folder: str
) -> tuple[Any, dict[str, Any]]:
    from benchmarks import peers, suites
    from benchmarks.harness.machine import threads

    chosen = next(each for each in suites.get(suite).cases(scale) if each.name == case)
    solve = peers.factory(adapter, chosen.work, label)(chosen.problem.load(pathlib.Path(folder)))
    return solve, {"threads": threads()}


def _run(solve: Any, tolerance: float, answer: str | None, is_timed: bool) -> dict[str, Any]:
    import gc

    import numpy as np

    from benchmarks.harness import resident

    gc.collect()
    baseline = resident.begin_peak()
    seconds, result = _timed(solve, tolerance)
    peak = resident.peak()
    if is_timed and result.seconds is None and seconds < SHORT_SECONDS:
        number = 1 + int(SHORT_SECONDS / max(seconds, 1e-7))
        started = time.perf_counter()
        for _ in range(number):
            solve(tolerance)
        seconds = (time.perf_counter() - started) / number
    if answer is not None:
        np.save(answer, np.asarray(result.params))
    return {
        "seconds": seconds if result.seconds is None else result.seconds,
        "wall_seconds": seconds,
        "iterations": None if result.iterations is None else int(result.iterations),
        "figures": {name: float(value) for name, value in result.figures.items()},
        "peak_bytes": peak,
        "working_bytes": None if baseline is None else max(peak - baseline, 0),
    }


def _passes(solve: Any, tolerance: float) -> float | None:
    return solve.passes(tolerance) if isinstance(solve, Counting) else None


def _timed(solve: Any, tolerance: float) -> tuple[float, Any]:
    started = time.perf_counter()
    result = solve(tolerance)
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
