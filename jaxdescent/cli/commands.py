"""The commands, and the options that stand before a command."""

from __future__ import annotations

import importlib.metadata

import typer

from jaxdescent.cli import breakdown, fit, models, plan, scale
from jaxdescent.cli.help import Command, Commands
from jaxdescent.cli.options import flag

app = typer.Typer(
    cls=Commands,
    help="Minimise by the derivative method where it can be used, by gradient descent where not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (
    fit.fit,
    models.predict,
    models.inspect,
    scale.scale,
    breakdown.breakdown,
    plan.plan,
):
    app.command(cls=Command)(command)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"jaxdescent {importlib.metadata.version('jaxdescent')}")
        raise typer.Exit


@app.callback()
def before_a_command(
    *,
    version: bool = flag(
        "--version", "Show the version and exit.", callback=_show_version, is_eager=True
    ),
) -> None:
    """The options that go before a command."""
    del version
