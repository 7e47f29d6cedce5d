"""What the short runs of several modules minimise, and how."""

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
