"""A strict JAX, on eight virtual CPU devices."""

import os
import tempfile

DEVICES = 8
# Before the first import of JAX: it reads the flags once.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Neither is the user's calibration read, nor is one left behind.
CACHE = tempfile.TemporaryDirectory(prefix="jaxdescent-cache-")
os.environ["XDG_CACHE_HOME"] = CACHE.name

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The first example of a property compiles: no deadline. Same examples in every run.
settings.register_profile(
    "jaxdescent",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("jaxdescent")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64():
    """Double precision within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def relaxed_promotion():
    """What optax needs: some of its transformations mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
