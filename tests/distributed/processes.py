"""Real processes that share a mesh over loopback, as many hosts would."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import jax

ROOT = pathlib.Path(__file__).parents[2]
# What LLVM polishes changes nothing that processes send.
PLAIN = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
# One device each, whose programs are compiled in one piece: the cores have other processes.
FLAGS = {"XLA_FLAGS": "--xla_cpu_parallel_codegen_split_count=1"}


def run(module, count, *arguments, timeout=300, environment=None):
    """The outputs, errors and exit codes of ``count`` processes that run ``module``."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        started = [
            start_one(module, [str(index), port, str(count), *arguments], folder, environment)
            for index in range(count)
        ]
        try:
            deadline = time.monotonic() + timeout
            for process in started:
                process.wait(max(deadline - time.monotonic(), 1))
        finally:
            for process in started:
                process.kill()
        read = [
            tuple(pathlib.Path(folder, f"{index}.{end}").read_text() for end in ("out", "err"))
            for index in range(count)
        ]
    return [(*texts, process.returncode) for texts, process in zip(read, started, strict=True)]


def answers(module, count, *arguments, timeout=300):
    """What processes that come to their end printed, as ``["name", answer]`` in JSON."""
    told = run(module, count, *map(str, arguments), timeout=timeout)
    assert [code for _, _, code in told] == [0] * count, [errors for _, errors, _ in told]
    lines = [[line for line in out.splitlines() if line.startswith('["')] for out, _, _ in told]
    return [dict(map(json.loads, each)) for each in lines]


def free_port():
    """The number of a port that nothing listens at, as text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def command(name, *each, module="jaxdescent", environment=None):
    """The command of this name, of the package or of another module, in a process for each list of
    arguments, which find each other.
    """
    address = f"127.0.0.1:{free_port()}"
    common = ["--distributed", "--coordinator", address, "--processes", str(len(each))]
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", module, name, *map(str, arguments)),
                *(*common, "--process", str(index)),
            ],
            cwd=ROOT,
            env={**os.environ} | FLAGS | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, arguments in enumerate(each)
    ]


def ended(started, timeout=200, code=None):
    """What each of these processes printed, its errors, and its exit code, which may be told."""
    try:
        said = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    assert code is None or codes == [code] * len(codes), (codes, said)
    return [(*texts, own) for texts, own in zip(said, codes, strict=True)]


def start_one(module, arguments, folder, environment):
    """One process that runs ``module``; the first argument names the files of what it prints."""
    # Files instead of pipes: a process that waits for the others must not fill one.
    path = pathlib.Path(folder, arguments[0])
    with path.with_suffix(".out").open("w") as out, path.with_suffix(".err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)} | FLAGS | PLAIN | (environment or {}),
        )


def join(index, port, count, **options):
    """Initialise JAX in one of the processes that :func:`run` started."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", num_processes=int(count), process_id=int(index), **options
    )
