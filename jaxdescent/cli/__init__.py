"""The command line: ``jaxdescent fit``, ``predict``, ``inspect``, ``plan``, ``breakdown``, ..."""

from __future__ import annotations

import typer

from jaxdescent.cli import breakdown, plan
from jaxdescent.fit import commands
from jaxdescent.scale import commands as scaling

app = typer.Typer(
    help="Minimise by the derivative method where it can be used, by gradient descent where not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(commands.fit)
app.command()(commands.predict)
app.command()(commands.inspect)
app.command()(scaling.scale)
app.command()(breakdown.breakdown)
app.command()(plan.plan)


def main() -> None:
    """The entry point of the script ``jaxdescent``."""
    app()
