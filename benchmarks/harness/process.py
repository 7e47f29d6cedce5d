"""The runner's end of a contender's process."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import selectors
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent
"""Of the checkout that is measured, whatever else is installed."""


class Process:
    """A worker that is asked, answers, and can be given up."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.worker"],
            cwd=ROOT,
            env={**child_environment(), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._to, self._from = self._child.stdin, self._child.stdout

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """The worker's reply, or ``{"failure": why}``; after a failure to reply it is ended."""
        try:
            self._to.write((json.dumps(request) + "\n").encode())
            self._to.flush()
        except BrokenPipeError:
            return {"failure": self._end()}
        begun = time.perf_counter()
        with selectors.DefaultSelector() as selector:
            selector.register(self._from, selectors.EVENT_READ)
            # A system that was busy may find the reply there, and the limit exceeded.
            if not selector.select(limit) or time.perf_counter() - begun > limit:
                self.close()
                return {"failure": f"did not end within {limit:.0f} s"}
        line = self._from.readline()
        return json.loads(line) if line else {"failure": self._end()}

    @property
    def is_alive(self) -> bool:
        return self._child.poll() is None

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        for stream in (self._to, self._from, self._errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _end(self) -> str:
        code = self._child.wait()
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        self.close()
        if code == -9:
            return "the system ended it, most likely for want of memory"
        return said[-1] if said else f"it ended with code {code}"


def child_environment() -> dict[str, str]:
    """This environment, in which ``benchmarks`` and ``jaxdescent`` are this checkout's."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    # Without it a checkout is compiled at each import, and an installed package is not.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
        **quiet_blas(),
    }


def quiet_blas() -> dict[str, str]:
    """For every contender: OpenBLAS's threads spin for 2^26 cycles after each call, on cores that
    whatever runs next could use. 2^16 cycles are enough.
    """
    name = "OPENBLAS_THREAD_TIMEOUT"
    return {name: os.environ.get(name, "16")}
