"""Part 2's measurements in a child process, whose finished rows are kept if it ends early."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import jaxdescent

POLL_SECONDS = 0.1

PROGRAM = "from jaxdescent.breakdown.measured_rows import main; main()"


class Answer(NamedTuple):
    """The rows that a child finished, and how it ended.

    Attributes:
      rows: the rows, as made by ``measured_rows``.
      failure: what went wrong, in words; None if nothing did.
      is_interrupted: whether Ctrl-C ended it.
    """

    rows: list[dict[str, Any]]
    failure: str | None = None
    is_interrupted: bool = False


def ask(request: dict[str, Any], tick: Callable[[float], None]) -> Answer:
    """Measure what ``request`` asks for, calling ``tick(seconds)`` while waiting."""
    if jax.local_devices()[0].platform == "tpu":  # not verified: a TPU belongs to one process
        from jaxdescent.breakdown import measured_rows

        return Answer(list(measured_rows.answer(request)))
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(request), str(os.getpid())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        start_new_session=True,  # so that Ctrl-C in a terminal reaches only this process
    )
    try:
        while True:
            try:
                output, errors = child.communicate(timeout=POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                tick(POLL_SECONDS)
    except KeyboardInterrupt:
        child.kill()
        output, _ = child.communicate()
        return Answer(_rows(output), is_interrupted=True)
    except BaseException:
        child.kill()
        child.wait()
        raise
    return Answer(_rows(output), _failure(child.returncode, errors))


def _environment() -> dict[str, str]:
    package = pathlib.Path(jaxdescent.__file__).parent.parent
    paths = [str(package), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        # An accelerator's memory is shared with the parent process.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_TRACEBACK_FILTERING": "off",  # the last line of an error is then the error itself
    }


def _rows(output: str) -> list[dict[str, Any]]:
    """The complete lines; the last one may have been cut off."""
    return [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith("\n")]


def _failure(code: int, errors: str) -> str | None:
    if code == 0:
        return None
    if code == -9:
        return "the system ended it, most likely for want of memory"
    lines = [line for line in errors.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"it ended with code {code}"
