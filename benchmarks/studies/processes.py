"""Two processes on two cores beside one process on one: seconds of an iteration.

    python -m benchmarks.studies.processes [--problem dense|sparse|squares|fit ...] [--repeats N]

Every process is pinned to a core of its own before JAX starts, and processes talk by gloo over
loopback. The problem is the same for one and for two, its rows (or params) cut in half. Printed are
the medians, their ratio, and the load of the machine before and after, without which the ratio says
nothing: what else runs on the two cores slows the two processes down by more than the one.

fit is the command on Parquet files: seconds from its start to its end, imports and compilation
included, and those of a tenth of the rows apart, which are mostly imports.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.studies import fit

ROOT = pathlib.Path(__file__).parents[2]
ITERATIONS = 20
SIZES = {"dense": (400_000, 256), "sparse": (400_000, 50_000), "squares": (0, 0)}
"""Rows and features: 410 MB of X, 20,000,000 entries, and 2^27 params of 4 bytes."""

FIT = "fit"
FEW_ROWS, MANY_ROWS = 2_000_000, 20_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", nargs="*", choices=[*SIZES, FIT], default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, help="instead of those of the problem")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, repeats=options.repeats, own_rows=options.rows)
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed, got one.")
    print(f"load {os.getloadavg()[0]:.1f} before, on {len(cores)} cores")
    for problem in options.problem:
        if problem == FIT:
            with tempfile.TemporaryDirectory() as folder:
                fit_together(pathlib.Path(folder), cores, options)
            continue
        one, two = (measured(problem, cores[:count], options) for count in (1, 2))
        print(
            f"{problem}: {one * 1e3:.1f} ms an iteration by one process, {two * 1e3:.1f} ms by "
            f"two: {one / two:.2f} times as fast",
            flush=True,
        )
    print(f"load {os.getloadavg()[0]:.1f} after, of which up to two are this study's")


def measured(problem: str, cores: list[int], options: argparse.Namespace) -> float:
    """The median seconds of an iteration, with a process on each of the cores."""
    port = free_port()
    call = [sys.executable, "-m", "benchmarks.studies.processes", "--repeats"]
    call += [str(options.repeats), *(["--rows", str(options.rows)] if options.rows else [])]
    started = [
        subprocess.Popen(
            [*call, "--child", problem, str(index), str(len(cores)), port],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PINNED_CORE": str(core)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index, core in enumerate(cores)
    ]
    try:
        outputs = [process.communicate(timeout=1800)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    (line,) = [text for text in outputs[0].splitlines() if text.startswith("{")]
    return json.loads(line)["iteration_seconds"]


def fit_together(folder: pathlib.Path, cores: list[int], options: argparse.Namespace) -> None:
    """Print how long the command takes by one process and by two, on few rows and on many."""
    for rows in (FEW_ROWS, options.rows or MANY_ROWS):
        fit.write(folder, rows)
        one, two = (
            statistics.median(fitted(folder, cores[:count]) for _ in range(options.repeats))
            for count in (1, 2)
        )
        print(f"fit of {rows:,} rows: {one:.2f} s by one process, {two:.2f} s by two", flush=True)


def fitted(folder: pathlib.Path, cores: list[int]) -> float:
    """The seconds of the command, with a process on each of the cores."""
    call = [sys.executable, "-m", "jaxdescent", "fit", str(folder), "--target", "y"]
    if len(cores) > 1:
        call += ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}"]
        call += ["--processes", str(len(cores)), "--process"]
    own, started = os.sched_getaffinity(0), []
    began = time.perf_counter()
    for index, core in enumerate(cores):
        os.sched_setaffinity(0, {core})  # which the child inherits
        started.append(
            subprocess.Popen(
                [*call, *([str(index)] if len(cores) > 1 else [])],
                cwd=ROOT,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    os.sched_setaffinity(0, own)
    codes = [process.wait(timeout=1800) for process in started]
    if any(codes):
        raise SystemExit(f"the command ended with {codes}.")
    return time.perf_counter() - began


def free_port() -> str:
    """The number of a port that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def child(
    problem: str, index: str, count: str, port: str, *, repeats: int, own_rows: int | None
) -> None:
    """One of the processes."""
    # Before JAX makes its threads, of which it has as many as there are cores.
    os.sched_setaffinity(0, {int(os.environ["PINNED_CORE"])})
    import jax

    from jaxdescent.processes import joining

    if count != "1":
        joining.join(f"127.0.0.1:{port}", int(count), int(index))
    from jaxdescent.scale.experiment import Experiment, ScalingPoint
    from jaxdescent.scale.figures import measured
    from jaxdescent.scale.problems import PROBLEMS, Llama

    class Squares(Llama):
        def arrays(self, point):
            return {f"leaf{i}": ((1 << 25,), point.dtype, ("params",)) for i in range(4)}

    PROBLEMS["squares"] = Squares()
    layout, method = ("params", "constant") if problem == "squares" else ("samples", "cg")
    rows, features = SIZES[problem]
    rows = min(own_rows or rows, rows)
    point = ScalingPoint(problem, rows, features, method, "float32", layout, len(jax.devices()))
    figures = measured(point, Experiment(iterations=ITERATIONS, repeats=repeats))
    print(json.dumps({"iteration_seconds": figures["iteration_seconds"]}))


if __name__ == "__main__":
    main()
