"""Commands in the process of the tests, and programs in one of their own, for several modules."""

import os
import pathlib
import subprocess
import sys

import jaxdescent

ROOT = pathlib.Path(jaxdescent.__file__).parents[1]


def run(*arguments, width=200):
    """How ``jaxdescent`` with these arguments ended in this process, and what it printed."""
    from typer.testing import CliRunner

    from jaxdescent.cli.commands import app

    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": str(width)})


def shown(*arguments, width=200):
    """What a command prints that comes to its end without an error."""
    done = run(*arguments, width=width)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments):
    """How a command says what is wrong, and ends with exit code 2."""
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    return done.stderr


COMMAND = "from jaxdescent.cli import main; main()"


def started(program, *arguments, **environment):
    """A process of its own that runs this program, such as :data:`COMMAND`."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | environment,
    )  # fmt: skip


def ran(program, *arguments, **environment):
    """How a process of its own ended that ran this program, and what it printed."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | environment,
    )  # fmt: skip


def printed(program, *arguments, **environment):
    """What a program printed that came to its end without an error."""
    done = ran(program, *arguments, **environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout
