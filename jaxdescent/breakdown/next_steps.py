"""Three things to try after the breakdown, as commands that work where they are printed."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

EXAMPLE = pathlib.Path("examples/many_starts.py")

SNIPPET = "import jaxdescent as jd; print(jd.minimize(lambda x: (x - 3) ** 2, 0.0))"


class Step(NamedTuple):
    """A command to try, with a sentence on its output."""

    words: tuple[str, ...]
    shows: str

    @property
    def command(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.words)


def next_steps(table: pathlib.Path | None) -> tuple[Step, ...]:
    """A plan, a fit of ``table`` if there is one, and Python.

    Args:
      table: a CSV file of part 4, whose target is the column ``progression``.
    """
    program = _program()
    plan = Step(
        (*program, "plan", "--rows", "1e6", "--features", "1000"),
        "what each method would need for a regression of these sizes here",
    )
    fit = Step(
        (*program, "fit", str(table), "--target", "progression", "--test", "0.2"),
        "a model of a file, checked on held-out rows; your file goes the same way",
    )
    part = Step(
        (*program, "breakdown", "--part", "4", "--quick"),
        "a regression on real data by both methods",
    )
    example = Step(
        (_typed(sys.executable), str(EXAMPLE)),
        "minima of a function with many, from a thousand starts in one program",
    )
    snippet = Step((_typed(sys.executable), "-c", SNIPPET), "the minimum of a function of yours")
    return plan, fit if table else part, example if EXAMPLE.exists() else snippet


def _program() -> Sequence[str]:
    """The words by which a shell starts this command line, be it on the path or not."""
    script = pathlib.Path(sys.executable).with_name("jaxdescent")
    if script.exists():
        return (_typed(f"{script}"),)
    return (_typed(sys.executable), "-m", "jaxdescent")


def _typed(path: str) -> str:
    """A program by its name if the shell finds it, else by its path: from this folder, or whole."""
    name = os.path.basename(path)
    if shutil.which(name) == path:
        return name
    below = os.path.relpath(path)
    return path if below.startswith(os.pardir) else below


def shown(steps: Sequence[Step]) -> str:
    """The steps as text, each command on a line of its own."""
    lines = ["Three things to try next:"]
    for step in steps:
        lines += ["", f"  {step.command}", f"    {step.shows}"]
    return "\n".join(lines)
