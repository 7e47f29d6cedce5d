"""Three things to try after the breakdown, as commands that work where they are printed."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence

EXAMPLE = pathlib.Path("examples/many_starts.py")

SNIPPET = "import jaxdescent as jd; print(jd.minimize(lambda x: (x - 3) ** 2, 0.0))"


def next_steps(table: pathlib.Path | None) -> dict[str, str]:
    """A plan, a fit of ``table`` if there is one, and Python: commands as a shell takes them, and
    for each a sentence on its output.

    Args:
      table: a CSV file of part 4, whose target is the column ``progression``.
    """
    program, python = _program(), _typed(sys.executable)
    plan = (*program, "plan", "--rows", "1e6", "--features", "1000")
    steps: dict[tuple[str, ...], str]
    steps = {plan: "what each method would need for a regression of these sizes here"}
    if table:
        fit = *program, "fit", str(table), "--target", "progression", "--test", "0.2"
        steps[fit] = "a model of a file, checked on held-out rows; your file goes the same way"
    else:
        part = *program, "breakdown", "--part", "4", "--quick"
        steps[part] = "a regression on real data by both methods"
    if EXAMPLE.exists():
        shows = "minima of a function with many, from a thousand starts in one program"
        steps[python, str(EXAMPLE)] = shows
    else:
        steps[python, "-c", SNIPPET] = "the minimum of a function of yours"
    return {shlex.join(words): shows for words, shows in steps.items()}


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


def shown(steps: Mapping[str, str]) -> str:
    """The steps as text, each command on a line of its own."""
    lines = [f"\n  {command}\n    {shows}" for command, shows in steps.items()]
    return "\n".join(["Three things to try next:", *lines])
