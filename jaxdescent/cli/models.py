"""The commands fit, predict and inspect: models are kept, used, and shown as data are."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

import typer

from jaxdescent.cli.command_line import (
    echo_json,
    failing_in_one_line,
    join,
    penalty,
    split_names,
)
from jaxdescent.cli.options import (
    AS_JSON,
    COORDINATOR,
    DISTRIBUTED,
    MEMORY,
    PROCESS,
    PROCESSES,
    RESUME,
    WHERE,
    File,
    Names,
    check_picture,
    flag,
    option,
)


def fit(
    data: list[pathlib.Path] = typer.Argument(
        help="Files or folders: Parquet, Arrow, CSV, NDJSON, svmlight text, or X.npy.",
        readable=False,
    ),
    *,
    target: str | None = option("What to predict.", "COLUMN", "y of .npy"),
    target_file: File = option(
        "Of X.npy: the target's file.", readable=False, shown="y.npy beside it"
    ),
    features: Names = option("These columns alone.", "A,B", "all others"),
    exclude: Names = option("All columns but these.", "A,B"),
    categorical: Names = option("Columns with a weight for each level; auto for all text.", "A,B"),
    hashed: Names = option(
        "Columns whose values share 2^bits weights by a hash.", "A,B", name="--hash"
    ),
    bits: int = option("Of the hash.", default=20),
    interact: Names = option(
        "Products of numbers, crossed levels (hashed where one is), slopes by level.", "A:B"
    ),
    date: Names = option(
        "Of a column of dates: month, weekday, hour as levels, trend as days.", "A:PARTS"
    ),
    weights: str | None = option("Weights of the rows.", "COLUMN", "ones"),
    where: str | None = WHERE,
    l2: str = option("The ridge penalty, or a search for it.", "X|auto", default="0"),
    method: str = option(
        "auto; direct, by sums of one pass; or cg, lsmr, lbfgs on rows in memory, or "
        "read again in each pass where they do not fit.",
        "NAME",
        default="auto",
    ),
    dtype: str | None = option("Of iterations; sums are of float64.", "float32|float64", "float32"),
    start: File = option(
        "Begin iterations at the weights of a model of the same columns.", "MODEL", readable=False
    ),
    checkpoint: File = option(
        "Keep a fit that iterates here: once a minute, and after Ctrl-C or SIGTERM.", "FOLDER"
    ),
    resume: bool = RESUME,
    standardize: bool = flag("--standardize", "Penalise weights per standard deviation."),
    missing: Literal["error", "drop", "mean"] = option(
        "Missing values: refuse, drop their rows, or put means there.", default="error"
    ),
    test: float = option("Rows held out, by a hash of their number.", "SHARE", default=0.0),
    test_data: list[pathlib.Path] | None = option(
        "Other files whose rows are held out.", readable=False
    ),
    seed: int = option("Of the rows held out.", default=0),
    memory: int | None = MEMORY,
    out: File = option("Where to keep the model.", "FOLDER"),
    overwrite: bool = flag("--overwrite", "Replace a model that is there."),
    as_json: bool = AS_JSON,
    plot: File = option(
        "Draw the course of the fit, and predictions of a sample; reads once more.", "FILE.png"
    ),
    cached: bool = option(
        "Keep compiled programs in the user's cache folder, for the next time.",
        name="--cache/--no-cache",
        envvar="JAXDESCENT_CACHE",
        default=True,
    ),
    distributed: bool = DISTRIBUTED,
    coordinator: str | None = COORDINATOR,
    processes: int | None = PROCESSES,
    process: int | None = PROCESS,
) -> None:
    """Fit a linear regression to files, which need not fit in memory.

    Numbers and booleans are features; say what to do with text. One pass over the rows adds up
    what the fit, every penalty and the held-out rows need. Without --out nothing is kept.
    With --distributed each process reads its share of the rows, and the first one tells and writes.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(failing_in_one_line("jaxdescent.fit.report"))
        from jaxdescent import compilation_cache
        from jaxdescent import processes as group
        from jaxdescent.fit.fitting import fit_model
        from jaxdescent.fit.memory import Memory
        from jaxdescent.fit.model import check_output
        from jaxdescent.fit.report import Screen, summary
        from jaxdescent.rows import DataError, open_source

        if distributed and plot is not None:
            raise DataError("--plot draws for one process: leave it or --distributed out.")
        # Only descents that are kept ask for notices of preemption.
        join(distributed, coordinator, processes, process, has_notices=checkpoint is not None)
        if distributed:
            # The group stays open to the end: a model that cannot be saved fails in all processes.
            stack.enter_context(group.among_all("fit"))
        elif cached:
            # No cache for several processes: some would compile and others not, where compilers of
            # accelerators work together.
            compilation_cache.cache()
        is_first = group.is_first()
        if features is not None and not split_names(features, stripped=False):
            raise DataError("--features names no column: leave it out to take all others.")
        if out is not None and is_first:
            check_output(out, overwrite=overwrite)
        check_picture(plot)
        picture = source = None
        if plot is not None:
            # Imported before memory is measured, since the process holds matplotlib then.
            from jaxdescent.fit import plot as picture

            # Opened before the fit, so that files that change meanwhile are noticed.
            source = open_source(list(data), target_file, where)
        with Screen(is_quiet=as_json or not is_first, keeps_course=plot is not None) as screen:
            model = fit_model(
                list(data),
                target,
                target_file=target_file,
                test_data=list(test_data) if test_data else None,
                memory=memory,
                watch=screen,
                start=start,
                checkpoint=checkpoint,
                resume=resume,
                distributed=distributed,
                features=split_names(features, stripped=False),
                exclude=split_names(exclude, stripped=False),
                categorical=split_names(categorical, stripped=False),
                hashed=split_names(hashed, stripped=False),
                bits=bits,
                interact=split_names(interact, stripped=False),
                date=tuple(date or ()),
                weights=weights,
                where=where,
                l2=penalty(l2),
                method=method,
                dtype=dtype,
                standardize=standardize,
                missing=missing,
                test=test,
                seed=seed,
            )
        if not is_first:
            return
        if out is not None:
            model.save(out, overwrite=overwrite)
        if as_json:
            content = {"target": model.target, "intercept": model.intercept, **model.metrics}
            content["largest_weights"] = dict(model.named_weights(10))
            content["model"] = None if out is None else str(out)
            echo_json(content)
        else:
            screen.show(summary(model))
            kept = f"Kept in {out}." if out is not None else "Not kept: --out FOLDER keeps it."
            screen.say(kept)
        # Last: a picture that cannot be drawn costs neither the model nor what is said of it.
        if plot is not None and picture is not None and source is not None:
            with failing_in_one_line("jaxdescent.fit.plot", "no picture was drawn"):
                assert screen.course is not None
                picture.draw(model, source, Memory.of(memory), plot, screen.course)


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
        from jaxdescent.fit.loading import load_model
        from jaxdescent.fit.memory import Memory
        from jaxdescent.fit.prediction_file import COLUMN, prediction_file
        from jaxdescent.fit.report import Screen
        from jaxdescent.fit.rows import local_files
        from jaxdescent.rows import DataError, open_source

        model = load_model(folder)
        with prediction_file(out, overwrite=overwrite) as write, Screen() as screen:
            source = open_source(list(data), where=where)
            if out.resolve() in (path.resolve() for path in local_files(source)):
                raise DataError(f"{out} is one of the files that are read: name another.")
            screen.begin("predicting", source.rows)
            rows = unseen_values = 0
            kept = split_names(keep, source.kinds)
            if COLUMN in kept:
                raise DataError(f"--keep {COLUMN}: the predictions have this name: rename it.")
            parts = model.predictions(
                source,
                keep=kept,
                missing=missing,
                unseen=unseen,
                memory=Memory.of(memory),
            )

            def told() -> Iterator[Any]:
                nonlocal rows, unseen_values
                for part in parts:
                    yield part.values, part.kept
                    rows, unseen_values = rows + len(part.values), unseen_values + part.unseen
                    screen.advance(rows)

            write(told())
        screen.say(f"{rows:,} predictions of {model.target} in {out}.")
        if unseen_values:
            screen.say(
                "Values that are levels or indices of no training row, and count nothing: "
                f"{unseen_values:,}."
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
        from jaxdescent.fit.loading import load_model
        from jaxdescent.fit.look import look_at
        from jaxdescent.fit.memory import Memory
        from jaxdescent.fit.model import DESCRIPTION
        from jaxdescent.fit.report import Screen, contents
        from jaxdescent.rows import open_source
        from jaxdescent.rows.errors import printable

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
