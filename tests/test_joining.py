"""How a process joins the others: how long it waits for a sign of them, and how it is refused."""

import jax
import pytest

from jaxdescent.processes import joining


def test_processes_notice_within_45_seconds_that_one_gives_no_sign(monkeypatch):
    given = {}

    def initialize(*processes, **options):
        given.update(options, processes=processes)
        raise RuntimeError("nobody answers\nin this test")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(joining.NoCluster, match=r"not found \(nobody answers\): start this under"):
        joining.join("localhost:1", 2, 1)
    assert given == {"processes": ("localhost:1", 2, 1), "heartbeat_timeout_seconds": 45}


def test_what_names_the_processes_is_given_together():
    with pytest.raises(joining.NoCluster, match="together, got localhost:1, None and 1"):
        joining.join("localhost:1", None, 1)
