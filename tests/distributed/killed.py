"""A run of two processes of which one is killed again and again, at random moments.

``python -m tests.distributed.killed 20`` kills it 20 times, and compares the bits of its end with
those of a run that nothing interrupted.
"""

import pathlib
import random
import sys
import tempfile
import time

import numpy as np

from tests.distributed import processes

MODULE, ELEMENTS = "tests.distributed.killed", 200_000
LONGEST = 60
"""Seconds within which the other process must have ended."""


def killed(kills, folder, seed=0):
    """How far a run came that was killed so often, and its params and those of a run without
    kills, after the same number of iterations.
    """
    generator, run = random.Random(seed), folder / "run"
    for number in range(kills):
        before, children = newest(run), start(folder, run, 10**9)
        try:
            while newest(run) == before:
                assert all(child.poll() is None for child in children), messages(folder)
                time.sleep(0.01)
            time.sleep(generator.uniform(0, 0.3))
            children[number % 2].kill()
            assert children[1 - number % 2].wait(LONGEST) != 0
        finally:
            end(children)
    iterations = newest(run) + 50
    for checkpoints in (run, "none"):
        children = start(folder, checkpoints, iterations)
        try:
            for child in children:
                assert child.wait(LONGEST) == 0, messages(folder)
        finally:
            end(children)
    return iterations, np.load(folder / "run.npy"), np.load(folder / "none.npy")


def newest(run):
    """The iteration of the newest checkpoint in a folder; 0 if there is none."""
    return max([int(path.name[-10:]) for path in run.glob("iteration-??????????")], default=0)


def start(folder, checkpoints, iterations):
    port = processes.free_port()
    arguments = [port, "2", str(folder), str(checkpoints), str(iterations)]
    return [processes.start_one(MODULE, [index, *arguments], folder, None) for index in "01"]


def end(children):
    for child in children:
        child.kill()
        child.wait()


def messages(folder):
    return [(folder / f"{index}.err").read_text() for index in "01"]


def child(index, port, count, folder, checkpoints, iterations):
    processes.join(index, port, count, heartbeat_timeout_seconds=10)
    import jax
    import jax.numpy as jnp
    from jax.experimental import multihost_utils

    import jaxdescent as jd
    from tests.distributed.cases import across_processes

    def coupled(x):
        return jnp.sum(jnp.cosh(x)) + 1e-6 * jnp.sum(x) ** 2

    start = np.random.default_rng(0).normal(size=ELEMENTS).astype(np.float32)
    name, options = "none.npy", {}
    if checkpoints != "none":
        name = "run.npy"
        options = {"checkpoint": jd.hooks.Checkpoint(checkpoints, every=0.0), "resume": True}
    result = jd.run(
        coupled,
        across_processes()(start),
        jd.GradientDescent(1e-7, momentum=jd.Nesterov()),
        tolerance=0,
        chunk=50,
        max_iterations=int(iterations),
        **options,
    )
    assert int(result.iterations) == int(iterations)
    params = multihost_utils.process_allgather(result.params, tiled=True)
    if jax.process_index() == 0:
        np.save(pathlib.Path(folder) / name, params)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        child(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as place:
            iterations, got, want = killed(int(sys.argv[1]), pathlib.Path(place))
            print(f"{iterations} iterations, equal bits: {np.array_equal(got, want)}")
