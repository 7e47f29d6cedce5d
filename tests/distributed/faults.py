"""What one of several processes sees, does or becomes that the others do not, by its name."""

import contextlib
import dataclasses
import functools
import os
import resource
import signal
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np

import jaxdescent as jd
from jaxdescent.kernels import memory
from jaxdescent.machine import Machine
from tests.distributed.cases import ROWS, data


def another_machine(index, place):
    """Process 1 has far less memory and another calibration."""
    if index == 1:
        memory.available_bytes = lambda device=None: 60_000_000
        measured = Machine.of
        Machine.of = lambda device=None: dataclasses.replace(
            measured(device), product_rate=dict.fromkeys(("float32", "float64", "bfloat16"), 1e6)
        )
    X = place(np.random.default_rng(0).normal(size=(4000, 1500)).astype(np.float32))
    objective = jd.LinearRegression(X, X[:, 0])
    print(jd.plan(objective).chosen.name)
    result = jd.minimize(objective)
    print(result.method, int(result.status))


def bad_weights(index, place):
    """Only process 1 sees the negative weight."""
    X, y, weight = data()
    weight[-1] = -1
    try:
        jd.minimize(jd.LinearRegression(place(X), place(y), sample_weight=place(weight)))
    except (ValueError, jd.OtherProcessFailed) as error:
        print(type(error).__name__, error)
    # The processes are still in step, and those of process 1 alone may all be zero.
    weight[ROWS // 2 :] = 0
    regression = jd.LinearRegression(place(X), place(y), sample_weight=place(weight))
    print(jd.minimize(regression).status)


def alone(index, place):
    """What one process does with its own arrays concerns no other."""
    del place
    if index == 1:
        X, y, _ = data()
        print(int(jd.minimize(jd.LinearRegression(X, y)).status))
        try:
            jd.minimize(jd.LinearRegression(X, y[:-1]))
        except ValueError as error:
            print(error)


def ends_in_hooks(index, place):
    """One process ends runs in a hook, by errors or by ``sys.exit``, each at one of the places that
    are named; the last of these runs ends the processes too.
    """
    *places, way, which = os.environ["ENDS"].split()
    for place_of_end in places[:-1]:
        with contextlib.suppress(OSError, SystemExit, jd.OtherProcessFailed):
            _ends_in_a_hook(index, place, place_of_end, way, int(which))
    _ends_in_a_hook(index, place, places[-1], way, int(which))


def _ends_in_a_hook(index, place, place_of_end, way, which):
    X, y, _ = data()

    class Ends(jd.hooks.Hook):
        def _ends(self):
            if index == which:
                if way == "exit":
                    sys.exit(3)
                raise OSError(f"the disk of process {index} is gone")

        def begin(self, facts):
            if place_of_end == "begin":
                self._ends()

        def pause(self, pause):
            if place_of_end == "pause" and pause.chunk == 2:
                self._ends()

        def report(self, record):
            if place_of_end == "report" and record.chunk == 2:
                self._ends()

        def end(self, result, summary):
            if place_of_end == "end":
                self._ends()

    try:
        jd.run(
            jd.LinearRegression(place(X), place(y)),
            method=jd.GradientDescent(1e-9),
            tolerance=0,
            max_iterations=60,
            chunk=10,
            hooks=[Ends()],
        )
    finally:
        print(type(sys.exception()).__name__, sys.exception(), flush=True)


def other_calls(index, place):
    """One argument of a call differs in the last process; all are told so, and go on."""
    X, y, _ = data()
    X, y = place(X), place(y)
    is_other = index == len(jax.devices()) - 1
    start = {"weights": jnp.zeros(6), "intercept": jnp.zeros(())}
    light = jd.GradientDescent(1e-3)

    def one(first, second):
        return second if is_other else first

    def regression(**options):
        return jd.LinearRegression(X, y, **options)

    calls = {
        "method": lambda: jd.minimize(regression(), method=one(jd.LSMR(), jd.LBFGS())),
        "default": lambda: jd.minimize(regression(), method=one(None, jd.LBFGS())),
        "tolerance": lambda: jd.minimize(regression(), tolerance=one(1e-3, 1e-6)),
        "penalty": lambda: jd.run(regression(l2=one(0.5, 1.0))),
        "limit": lambda: jd.minimize(regression(), method=jd.LSMR(), max_iterations=one(9, 5)),
        "bad limit": lambda: jd.minimize(regression(), max_iterations=one(9, 0)),
        "check_every": lambda: jd.minimize(regression(), method=jd.LSMR(), check_every=one(1, 4)),
        "history": lambda: jd.run(regression(), method=jd.LSMR(), history=one(0, 4)),
        "rounding": lambda: jd.run(regression(), rounding=one(None, jd.StochasticRounding(3))),
        "another call": lambda: one(jd.minimize, jd.certify)(regression(), start),
        # Hooks may differ.
        "hooks": lambda: jd.run(regression(), method=light, hooks=one([], [jd.hooks.Progress()])),
    }
    for name, call in calls.items():
        try:
            call()
        except (ValueError, jd.OtherProcessFailed) as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"{name}: no error", flush=True)
    print(int(jd.minimize(regression()).status))


def hangs(index, place):
    """A hook of process 1 never returns."""
    X, y, _ = data()

    class Endless(jd.hooks.Hook):
        def report(self, record):
            if index == 1 and record.iteration >= 20:
                print("hangs", flush=True)
                threading.Event().wait()
            return False

    jd.run(
        jd.LinearRegression(place(X), place(y)),
        method=jd.GradientDescent(1e-9),
        tolerance=0,
        max_iterations=100_000,
        chunk=10,
        hooks=[Endless()],
        patience=3,
    )


def full_disk_of_first(index, place):
    _full_disk(0, index, place)


def full_disk_of_second(index, place):
    _full_disk(1, index, place)


def _full_disk(of, index, place):
    """One process alone can write no large file from the third chunk of a run on."""
    folder = os.path.join(os.environ["CHECKPOINTS"], f"full-disk-of-{of}")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fills(jd.hooks.Hook):
        def report(self, record):
            if index == of and record.chunk == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))

    start = place(np.random.default_rng(0).normal(size=1 << 19).astype(np.float32))

    def run(**options):
        return jd.run(
            jd.SumOfSquares(center=2.0),
            start,
            jd.GradientDescent(1e-4),
            tolerance=0,
            max_iterations=300,
            chunk=10,
            checkpoint=jd.hooks.Checkpoint(folder, every=0, keep=1),
            **options,
        )

    try:
        run(hooks=[Fills()])
    except OSError as error:
        print(str(error).replace(folder, "FOLDER"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(int(run(resume=True).iterations), os.listdir(folder))


def a_run_alone(index, place):
    """A process would keep a run of its own arrays, in which the others have no part."""
    del place
    if index == 1:
        start = np.linspace(0, 1, 8, dtype=np.float32)
        try:
            jd.run(
                jd.SumOfSquares(center=2.0),
                start,
                checkpoint=os.path.join(os.environ["CHECKPOINTS"], "alone"),
            )
        except ValueError as error:
            print(error)


def death(index, place):
    """Process 1 is killed in the middle of a descent that has no end."""
    X, y, _ = data()
    descend = functools.partial(
        jd.minimize,
        jd.LinearRegression(place(X), place(y)),
        method=jd.GradientDescent(1e-9),
        tolerance=0,
    )
    # The same program: both have compiled it, and are connected, before one of them is killed.
    print(float(descend(max_iterations=1).value), flush=True)
    if index == 1:
        threading.Timer(1, os.kill, [os.getpid(), signal.SIGKILL]).start()
    print(float(descend(max_iterations=2**31 - 1).value))
