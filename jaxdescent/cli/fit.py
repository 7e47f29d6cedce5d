"""The command fit."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Annotated, Literal

import typer

from jaxdescent.cli.command_line import (
    echo_json,
    failing_in_one_line,
    join,
    penalty,
    split_at_commas,
    split_names,
)
from jaxdescent.cli.options import (
    AsJson,
    Coordinator,
    Distributed,
    File,
    MemoryLimit,
    Names,
    Process,
    Processes,
    Resume,
    Where,
    check_picture,
)

Cached = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache",
        envvar="JAXDESCENT_CACHE",
        help="Keep compiled programs in the user's cache folder, for the next time.",
    ),
]


def fit(
    data: Annotated[
        list[pathlib.Path],
        typer.Argument(
            help="Files or folders: Parquet, CSV, svmlight text, or X.npy.",
            readable=False,  # unreadable files are reported in a line of this package's own
        ),
    ],
    *,
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="What to predict.", show_default="y of .npy"),
    ] = None,
    target_file: Annotated[
        File,
        typer.Option(
            help="Of X.npy: the target's file.", show_default="y.npy beside it", readable=False
        ),
    ] = None,
    features: Annotated[
        Names, typer.Option(metavar="A,B", help="These columns alone.", show_default="all others")
    ] = None,
    exclude: Annotated[Names, typer.Option(metavar="A,B", help="All columns but these.")] = None,
    categorical: Annotated[
        Names,
        typer.Option(
            metavar="A,B", help="Columns with a weight for each level; auto for all text."
        ),
    ] = None,
    hashed: Annotated[
        Names,
        typer.Option(
            "--hash", metavar="A,B", help="Columns whose values share 2^bits weights by a hash."
        ),
    ] = None,
    bits: Annotated[int, typer.Option(help="Of the hash.")] = 20,
    interact: Annotated[
        Names,
        typer.Option(
            metavar="A:B",
            help="Products of numbers, crossed levels (hashed where one is), slopes by level.",
        ),
    ] = None,
    date: Annotated[
        Names,
        typer.Option(
            metavar="A:PARTS",
            help="Of a column of dates: month, weekday, hour as levels, trend as days.",
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Weights of the rows.", show_default="ones")
    ] = None,
    where: Where = None,
    l2: Annotated[
        str, typer.Option(metavar="X|auto", help="The ridge penalty, or a search for it.")
    ] = "0",
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto; direct, by sums of one pass; or cg, lsmr, lbfgs on rows in memory, or "
            "read again in each pass where they do not fit.",
        ),
    ] = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="float32|float64",
            help="Of iterations; sums are of float64.",
            show_default="float32",
        ),
    ] = None,
    start: Annotated[
        File,
        typer.Option(
            metavar="MODEL",
            help="Begin iterations at the weights of a model of the same columns.",
            readable=False,
        ),
    ] = None,
    checkpoint: Annotated[
        File,
        typer.Option(
            metavar="FOLDER",
            help="Keep a fit that iterates here: once a minute, and after Ctrl-C or SIGTERM.",
        ),
    ] = None,
    resume: Resume = False,
    standardize: Annotated[
        bool, typer.Option("--standardize", help="Penalise weights per standard deviation.")
    ] = False,
    missing: Annotated[
        Literal["error", "drop", "mean"],
        typer.Option(help="Missing values: refuse, drop their rows, or put means there."),
    ] = "error",
    test: Annotated[
        float, typer.Option(metavar="SHARE", help="Rows held out, by a hash of their number.")
    ] = 0.0,
    test_data: Annotated[
        list[pathlib.Path] | None,
        typer.Option(help="Other files whose rows are held out.", readable=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the rows held out.")] = 0,
    memory: MemoryLimit = None,
    out: Annotated[File, typer.Option(metavar="FOLDER", help="Where to keep the model.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is there.")
    ] = False,
    as_json: AsJson = False,
    plot: Annotated[
        File,
        typer.Option(
            metavar="FILE.png",
            help="Draw the course of the fit, and predictions of a sample; reads once more.",
        ),
    ] = None,
    cached: Cached = True,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
) -> None:
    """Fit a linear regression to files, which need not fit in memory.

    Numbers and booleans are features; say what to do with text. One pass over the rows adds up
    what the fit, every penalty and the held-out rows need. Without --out nothing is kept.
    With --distributed each process reads its share of the rows, and the first one tells and writes.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(failing_in_one_line("jaxdescent.fit.report"))
        from jaxdescent import compilation_cache
        from jaxdescent.data import DataError, open_source
        from jaxdescent.fit.budget import Memory
        from jaxdescent.fit.fitting import fit_model
        from jaxdescent.fit.model import check_output
        from jaxdescent.fit.report import Screen, summary
        from jaxdescent.processes import deciding

        if distributed and plot is not None:
            raise DataError("--plot draws for one process: leave it or --distributed out.")
        join(distributed, coordinator, processes, process)
        if distributed:
            # The group stays open to the end: a model that cannot be saved fails in all processes.
            stack.enter_context(deciding.among_all("fit"))
        elif cached:
            # No cache for several processes: some would compile and others not, where compilers of
            # accelerators work together.
            compilation_cache.cache()
        is_first = deciding.is_first()
        if features is not None and not split_at_commas(features):
            raise DataError("--features names no column: leave it out to take all others.")
        if out is not None and is_first:
            check_output(out, overwrite=overwrite)
        check_picture(plot)
        picture = None
        if plot is not None:
            # Imported before memory is measured, since the process holds matplotlib then.
            from jaxdescent.fit import plot as picture
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
                features=tuple(split_at_commas(features)),
                exclude=tuple(split_at_commas(exclude)),
                categorical=tuple(split_at_commas(categorical)),
                hashed=tuple(split_at_commas(hashed)),
                bits=bits,
                interact=tuple(split_names(interact)),
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
        if plot is not None and picture is not None:
            source = open_source(list(data), target_file, where)
            sample = picture.sample_of(model, source, Memory.of(memory))
            picture.draw(sample, model.target, plot, screen.course)
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
