"""The devices that JAX has, of all processes of a run."""

import jax


def count() -> int:
    """How many there are."""
    return jax.device_count()
