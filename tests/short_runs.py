"""What the short runs of several modules minimise, and how."""

import os
import pathlib
import signal

import jax.numpy as jnp
import numpy as np

import jaxdescent as jd

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(60, 5)), jnp.float32)
Y = jnp.asarray(X @ RNG.normal(size=5) + RNG.normal(size=60), jnp.float32)
START = jnp.asarray([-1.2, 1.0, -0.5, 0.8])
METHOD = jd.GradientDescent(1e-3)


def valley(x):
    """Rosenbrock's chained valley, ten times less steep."""
    return jnp.sum(10 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def run(objective=valley, start=START, method=METHOD, **options):
    return jd.run(objective, start, method, **options)


def minimize(objective=valley, start=START, method=METHOD, **options):
    return jd.minimize(objective, start, method, **options)


def names(folder):
    return sorted(entry.name for entry in pathlib.Path(folder).iterdir())


class Sends(jd.hooks.Hook):
    """Sends this process a signal after some chunks."""

    def __init__(self, *chunks, number=signal.SIGINT):
        self.chunks, self.number = chunks, number

    def report(self, record):
        if record.chunk in self.chunks:
            os.kill(os.getpid(), self.number)
