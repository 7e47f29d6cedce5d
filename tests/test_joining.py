"""How a process joins the others: how long it waits for a sign of them, and how it is refused."""

import os
import subprocess
import sys

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


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has this policy")
def test_all_threads_let_others_finish():
    try:
        os.sched_setscheduler(0, os.sched_getscheduler(0), os.sched_getparam(0))
    except OSError as error:
        pytest.skip(f"no policy may be set here: {error}")
    program = (
        "import os, threading; from jaxdescent.processes.joining import let_threads_finish;"
        "end = threading.Event(); other = threading.Thread(target=end.wait); other.start();"
        "let_threads_finish();"
        "print({os.sched_getscheduler(int(t)) for t in os.listdir('/proc/self/task')});"
        "end.set()"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said.strip() == str({os.SCHED_BATCH})
