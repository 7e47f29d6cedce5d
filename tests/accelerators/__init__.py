"""What is compiled for GPUs and TPUs that are not here."""

import importlib.util

import pytest

MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("jax_cuda13_plugin", "libtpu"))),
        reason="XLA's plugins for GPUs and TPUs are not installed",
    ),
]
"""Of every module here."""
