"""The commands predict and inspect, which read saved models; inspect reads data files too."""

from __future__ import annotations

import pathlib
from typing import Literal

import typer

from jaxdescent.cli.command_line import echo_json, failing_in_one_line, split_names
from jaxdescent.cli.options import AS_JSON, MEMORY, WHERE, Names, flag, option


def predict(
    folder: pathlib.Path = typer.Argument(metavar="MODEL", readable=False),
    data: list[pathlib.Path] = typer.Argument(
        help="Files or folders with the model's columns.", readable=False
    ),
    *,
    out: pathlib.Path = option("A .parquet or .csv file.", "FILE", default=...),
    keep: Names = option("Columns that are written beside.", "A,B"),
    where: str | None = WHERE,
    unseen: Literal["error", "zero"] = option(
        "Levels or indices that no training row had: refuse, or no effect.", default="error"
    ),
    missing: str | None = option(
        "Missing numbers: refuse, or the training rows' means.", "error|mean", "as fitted"
    ),
    memory: int | None = MEMORY,
    overwrite: bool = flag("--overwrite", "Replace a file that is there."),
) -> None:
    """Predict the rows of some files by a model that fit has kept, in their order."""
    with failing_in_one_line("jaxdescent.fit.report"):
        from jaxdescent.data import DataError, open_source
        from jaxdescent.fit.budget import Memory
        from jaxdescent.fit.loading import load_model
        from jaxdescent.fit.prediction_file import COLUMN, prediction_file
        from jaxdescent.fit.report import Screen

        model = load_model(folder)
        with prediction_file(out, overwrite=overwrite) as write, Screen() as screen:
            source = open_source(list(data), where=where)
            if out.resolve() in (path.resolve() for path in source.files):
                raise DataError(f"{out} is one of the files that are read: name another.")
            screen.begin("predicting", source.rows)
            rows, unknown = 0, list[int]()
            kept = split_names(keep, source.kinds)
            if COLUMN in kept:
                raise DataError(f"--keep {COLUMN}: the predictions have this name: rename it.")
            parts = model.predictions(
                source,
                keep=kept,
                missing=missing,
                unseen=unseen,
                memory=Memory.of(memory),
                note=unknown.append,
            )
            for part in parts:
                write(*part)
                rows += len(part.values)
                screen.advance(rows)
        screen.say(f"{rows:,} predictions of {model.target} in {out}.")
        if any(unknown):
            screen.say(
                "Values that are levels or indices of no training row, and count nothing: "
                f"{sum(unknown):,}."
            )


def inspect(
    what: list[pathlib.Path] = typer.Argument(
        help="The folder of a model, or files or folders of data.",
        metavar="MODEL|DATA...",
        readable=False,
    ),
    *,
    most: int = option(
        "How many of a model's largest weights to show.", name="--weights", min=0, default=10
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Show what is in a model that fit has kept; or of data the columns, how many of their values
    are missing, and the first rows.
    """
    with failing_in_one_line("jaxdescent.fit.report"):
        from jaxdescent.data import open_source
        from jaxdescent.data.errors import printable
        from jaxdescent.fit.budget import Memory
        from jaxdescent.fit.loading import load_model
        from jaxdescent.fit.look import look_at
        from jaxdescent.fit.model import DESCRIPTION
        from jaxdescent.fit.report import Screen, contents

        folder, *others = what
        if others or not (folder / DESCRIPTION).exists():
            source = open_source(list(what))
            with Screen(is_quiet=as_json) as screen:
                look = look_at(source, Memory.of(None), screen)
            if as_json:
                columns = {name: seen._asdict() for name, seen in look.columns.items()}
                echo_json({"rows": look.rows, "columns": columns})
            else:
                screen.show_look(look, source)
            return
        model = load_model(folder)
        if as_json:
            text = (folder / DESCRIPTION).read_text(encoding="utf-8").rstrip()
            typer.echo(printable(text))
        else:
            with Screen() as screen:
                screen.show(contents(model, most))
