"""What is compiled for accelerators that are not here: seconds, memory, and what is sent.

    python -m benchmarks.studies.accelerators [TARGET ...] [--only METHOD]

Each method solves a regression of 8,192 rows for each device, 1,024 features, float32, its rows
over the devices. Compiled with XLA's plugins (``make test-accelerators`` installs them), not run.
"""

from __future__ import annotations

import argparse
import os
import re
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxdescent as jd
from jaxdescent.planning.topologies import topology
from jaxdescent.scale import compiled
from jaxdescent.scale.compiled import Compiled

ROWS, FEATURES = 8192, 1024
TARGETS = ("h100", "8xh100", "v5e:2x4", "v6e:2x4", "v5e:16x16")
METHODS = {
    "GradientDescent(1e-6)": lambda: jd.GradientDescent(1e-6),
    "GradientDescent(Backtracking())": lambda: jd.GradientDescent(jd.Backtracking()),
    "GradientDescent(BarzilaiBorwein())": lambda: jd.GradientDescent(jd.BarzilaiBorwein()),
    "ConjugateGradient()": jd.ConjugateGradient,
    "LSMR()": jd.LSMR,
    "LBFGS()": jd.LBFGS,
    "Gram()": jd.Gram,
    "DerivativeMethod()": jd.DerivativeMethod,
    "LSMR(Sketch())": lambda: jd.LSMR(jd.Sketch()),
}


@functools.cache
def mesh(name):
    """The devices of a name in one row."""
    return Mesh(np.array(topology(name)), ("devices",))


def array(name, shape, dtype, axis=None):
    """An array without numbers on the devices of a name, cut along an axis or whole on each."""
    spec = [None] * len(shape)
    if axis is not None:
        spec[axis] = "devices"
    sharding = NamedSharding(mesh(name), PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def reads_in_an_iteration(program, size):
    """How often an iteration of a program reads an array of that many bytes or more: in the branch
    with the fewest such reads, and in that with most.
    """
    fewest, most = (
        program.iteration(lambda lines, sign=sign: sign * reads(lines, size)) for sign in (-1, 1)
    )
    return reads(fewest, size), reads(most, size)


def reads(lines, size):
    """How often the kernels of these lines read an operand of at least that many bytes.

    A copy that is started early brings an array closer to its kernel on a TPU: the kernel's read is
    counted, the copy is not.
    """
    made = {name: max(made_by(line), default=0) for line in lines if (name := compiled._name(line))}
    readers = [
        line for line in lines if compiled.KERNEL.search(line) and " copy-start(" not in line
    ]
    return sum(made.get(name, 0) >= size for line in readers for name in compiled._operands(line))


def made_by(line):
    """The bytes of each array that a line makes."""
    return compiled._sizes(compiled._made(line))


def largest_copy(program):
    """Bytes of the largest array that a copy or transpose makes."""
    lines = program.run.as_text().splitlines()
    made = [line for line in lines if re.search(r" (copy|transpose)\(", line)]
    return max((sum(made_by(line)) for line in made), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--only", default="", help="methods in whose name this is")
    options = parser.parse_args()
    square, part = 4 * FEATURES**2, 4 * ROWS * FEATURES
    print(
        "| target | method | compiled in | temporaries a device, of X's part | sent | kernels "
        "| readings of X |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in options.targets:
        shape = (mesh(name).size * ROWS, FEATURES)
        X, y = array(name, shape, jnp.float32, 0), array(name, shape[:1], jnp.float32, 0)
        for method, make in METHODS.items():
            if options.only not in method:
                continue

            def solve(X, y, make=make):
                return jd.minimize(jd.LinearRegression(X, y), method=make()).params

            started = time.perf_counter()
            program = Compiled(solve, X, y)
            seconds = time.perf_counter() - started
            sent = sorted(each.size for each in program.sent_in_an_iteration)
            squares = f" ({program.temporaries / square:.1f} matrices of features x features)"
            memory = (
                f"{program.temporaries / part:.3f}{squares if program.temporaries > square else ''}"
            )
            words = ", ".join(f"{size:,} B" for size in reversed(sent)) or "nothing"
            usual, rare = reads_in_an_iteration(program, part)
            readings = f"{usual}" if usual == rare else f"{usual}, seldom {rare}"
            kernels = program.kernels_in_an_iteration
            print(
                f"| {name} | `{method}` | {seconds:.0f} s | {memory} | {words} | {kernels} "
                f"| {readings} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
