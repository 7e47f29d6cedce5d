"""The commands, the options that stand before a command, and how both show their help: options in
groups, flags without a type, and two examples.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from jaxdescent.cli import breakdown, models, plan, scale
from jaxdescent.cli.options import flag

PANELS = {
    "Columns and rows": "target target_file features exclude categorical hashed bits interact date "
    "weights keep where",
    "The fit": "l2 method dtype start standardize missing unseen",
    "Held-out rows": "test test_data seed",
    "What is kept and shown": "memory out overwrite as_json plot output most cached",
    "Interruptions": "checkpoint resume",
    "Several processes": "distributed coordinator processes process",
}
"""The options of each group; other options form one group."""

GROUPS = {name: panel for panel, names in PANELS.items() for name in names.split()}

OF_A_FIT = ("Columns and rows", "The fit", "Held-out rows")
"""Groups of ``fit`` and ``predict`` alone: options of these names mean other things elsewhere."""

EXAMPLES = {
    "fit": (
        "fit homes.parquet --target price --categorical city --out homes-model",
        "fit trips/ --target fare --date start:hour,weekday --l2 auto --test 0.2 --memory 2GB",
    ),
    "predict": (
        "predict homes-model new.parquet --out predictions.parquet",
        "predict homes-model new.csv --keep id,city --unseen zero --out predictions.csv",
    ),
    "inspect": ("inspect homes.parquet", "inspect homes-model --weights 30"),
    "scale": (
        "scale --rows 1e6 --features 256 --method cg,lsmr --devices 1,2,4,8 --virtual-devices 8",
        "scale --rows 1e9 --features 8192 --method cg --rehearse v5e:16x16,8xh100",
    ),
    "breakdown": ("breakdown --quick", "breakdown --part 3 --params 1000000000"),
    "plan": (
        "plan --rows 200000 --features 16000",
        "plan --rows 1e9 --features 10000 --device v5e:16x16",
    ),
}


class Command(TyperCommand):
    """A command whose help has groups and examples."""

    def __init__(self, name: str | None, *, help: str | None = None, **settings: Any) -> None:
        # The lines of a paragraph are joined: their breaks are those of the source file.
        paragraphs = [" ".join(part.split()) for part in (help or "").split("\n\n")]
        shown = [f"jaxdescent {each}" for each in EXAMPLES.get(name or "", ())]
        settings["epilog"] = "\n\n".join(["For example:", *shown])
        super().__init__(name, help="\n\n".join(paragraphs), **settings)

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        left_out = () if self.name in ("fit", "predict") else OF_A_FIT
        return in_groups(super().get_params(ctx), left_out)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The rest of the arguments, of which no path may be empty: as a Path, an empty text is the
        current folder.
        """
        parser: Any = self.make_parser(ctx)
        values, _, params = parser.parse_args(list(args))
        hints = get_type_hints(self.callback)
        for param in params:
            value = values.get(param.name)
            texts = [value] if isinstance(value, str) else value or ()
            is_empty = "Path" in str(hints.get(param.name)) and "" in texts
            if is_empty and not values.get("help"):
                raise typer.BadParameter("is empty: name a path.", ctx=ctx, param=param)
        return super().parse_args(ctx, args)


class Commands(TyperGroup):
    """The group of all commands."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]
        return in_groups(super().get_params(ctx), tuple(PANELS))


def in_groups(params: list[Any], left_out: tuple[str, ...]) -> list[Any]:
    """The options with their groups; flags show no type."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
        panel = GROUPS.get(param.name)
        if panel and panel not in left_out and param.param_type_name == "option":
            param.rich_help_panel = panel
    return params


app = typer.Typer(
    cls=Commands,
    help="Minimise by the derivative method where it can be used, by gradient descent where not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (
    models.fit,
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
