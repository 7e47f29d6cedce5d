"""The steps of a fit: roles, levels, a plan that fits the memory, the fit, and its figures."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import platform
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from jaxdescent import processes, provenance
from jaxdescent.data import DataError, Source, open_source
from jaxdescent.data.arrays import TARGET
from jaxdescent.data.arrow_types import common_kinds
from jaxdescent.data.csv_files import first_text
from jaxdescent.data.errors import listed
from jaxdescent.data.protocol import unchanged
from jaxdescent.fit import shared_rows
from jaxdescent.fit.budget import Memory
from jaxdescent.fit.checkpoint import PROCESSES, FitCheckpoint
from jaxdescent.fit.checks import check_figures
from jaxdescent.fit.dates import (
    TREND,
    Dated,
    Dates,
    asked_for,
    looked_at,
    part_name,
)
from jaxdescent.fit.fitted import Fitted
from jaxdescent.fit.job import Job
from jaxdescent.fit.levels import encoding_of, notes_of_many_levels
from jaxdescent.fit.loading import load_model
from jaxdescent.fit.model import Model
from jaxdescent.fit.progress import ProgressListener
from jaxdescent.fit.request import Request, settled
from jaxdescent.fit.roles import AUTO, Roles, assign
from jaxdescent.fit.start import check_start
from jaxdescent.fit.strategy import fit_within_memory
from jaxdescent.machine.resident import peak_resident_bytes

OWN_TARGET = (".npy", "arrays", "svmlight text")
"""Forms of data that hold their target apart from the features."""


def fit_model(
    data: Any,
    target: str | None = None,
    *,
    target_file: Any = None,
    test_data: Any = None,
    memory: int | None = None,
    watch: ProgressListener | None = None,
    start: Any = None,
    checkpoint: Any = None,
    resume: bool = False,
    distributed: bool = False,
    **options: Any,
) -> Model:
    """Fit a linear model of named columns to data that need not fit in memory.

    It minimises ``1/2 sum_i s_i (x_i.w + b - y_i)^2 + l2/2 |w|^2``, over the features that columns
    become: numbers as they are, levels and buckets one-hot. One pass adds up in float64 all that is
    needed, where a matrix of as many rows and columns as there are features fits the memory. Else
    the rows are kept in memory where they fit, or read from the files again at each iteration.

    Args:
      data: files, a folder, a table with ``__arrow_c_stream__``, a dictionary of arrays, or a
        :class:`jaxdescent.data.Source`.
      target: the column to predict; "y" by default where the target has a file or an array of its
        own.
      target_file: for ``.npy``, the target's file; ``y.npy`` beside the features by default.
      test_data: other data of the same columns, whose rows are held out.
      memory: bytes that the process may hold at its peak, Python and its libraries included; 80 %
        of what is available by default.
      watch: is told of the plan and of progress.
      start: a :class:`Model` of the same columns, or its folder: iterations begin at its weights.
      checkpoint: a folder in which a fit that iterates is kept while it goes on. SIGINT and SIGTERM
        then end it with :class:`jaxdescent.fit.checkpoint.Interrupted`, a KeyboardInterrupt. Of a
        distributed fit all processes see this folder; a signal to one of them ends all.
      resume: whether to go on with what is kept there.
      distributed: whether all processes that ``jax.distributed.initialize`` has joined make this
        call together, on the same data: each reads its own share of the rows, and all return the
        same model.
      **options: ``features`` or ``exclude``, ``categorical``, ``hashed`` and ``weights`` name
        columns; ``interact`` names interactions such as "a:b", or tuples of columns; ``date`` parts
        of dates, such as "when:month,weekday,hour,trend"; ``bits`` (20) of the hash; ``where``
        states which rows count, such as "month <= 6"; ``l2`` (0), a number or "auto"; ``method``
        ("auto"), "direct", "cg", "lsmr" or "lbfgs"; ``dtype``, "float32" or "float64", of
        iterations; ``test`` (0), the share of rows held out by a hash of their number and ``seed``
        (0); ``standardize`` (False), so that the penalty is on weights per standard deviation;
        ``missing`` ("error"), "drop" or "mean".

    Returns:
      A :class:`Model`, which predicts rows of the same columns, and can be saved in a folder.

    Raises:
      DataError: where the data cannot be used, in one sentence.
      OtherProcessFailed: where another process of a distributed fit raised an error.
      ProblemTooLarge: where the fit needs more memory, before the data are read.
      TypeError: for an option that does not exist.

    >>> import numpy as np
    >>> X = np.arange(12.0).reshape(6, 2) ** 2
    >>> model = fit_model({"X": X, "y": X @ [1.0, 2.0] + 3.0})
    >>> np.round(model.weights, 6).tolist(), round(model.intercept, 6)
    ([1.0, 2.0], 3.0)
    """
    known = [field.name for field in dataclasses.fields(Request)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"fit_model has no option {unknown[0]!r}: it has {', '.join(known)}.")
    options = {name: settled(name, value) for name, value in options.items()}
    request = Request(target=settled("target", target), **options)
    given = Given(
        data, target_file, test_data, memory, watch or ProgressListener(), start, checkpoint, resume
    )
    with processes.among_all("fit") if distributed else contextlib.nullcontext():
        return _fitted(request, given)


class Given(NamedTuple):
    """The arguments of a fit beside its options; :func:`fit_model` describes them."""

    data: Any
    target_file: Any
    test_data: Any
    memory: int | None
    watch: ProgressListener
    start: Any
    checkpoint: Any
    resume: bool


def _fitted(request: Request, given: Given) -> Model:
    began = time.perf_counter()
    data, target_file, test_data, memory, watch, start, place, resume = given
    request.check()
    if test_data is not None and request.test:
        raise DataError("--test and --test-data exclude each other: name one of them.")
    if resume and place is None:
        raise DataError("--resume goes on with what --checkpoint keeps: name its folder.")
    folder = None if place is None else str(place)
    processes.check_alike({"--checkpoint and --resume": [folder, resume]})
    checkpoint = None if place is None else FitCheckpoint(place, resume=resume)
    bound = Memory.of(memory)
    source = open_source(data, target_file, request.where)
    request = request.matched(source.kinds)
    if request.features:
        source = source.offering(request.features)
    labelled = [name for name in (*request.categorical, *request.hashed) if name in source.kinds]
    source = source.as_text(labelled)
    dates = asked_for(request.date)
    if dates:
        source = Dated(source, dates)
    roles = _roles(source, request, dates)
    test_source = None
    if test_data is not None:
        test_source = open_source(test_data, where=request.where)
        if dates:
            test_source = Dated(test_source, dates, "--test-data")
        levelled = roles.labels_of([*roles.categorical, *roles.hashed])
        levelled = [name for name in levelled if name in test_source.kinds]
        test_source = test_source.offering(roles.columns).as_text(levelled)
        own = {name: source.kinds[name] for name in roles.columns}
        other = {n: kind for n, kind in test_source.kinds.items() if n in own}
        common_kinds(own, other, "the data", "--test-data")
    fingerprint = source.fingerprint()
    other_fingerprint = "" if test_source is None else test_source.fingerprint()
    processes.check_alike(
        {"the options": request.as_json(), "the data": [fingerprint, other_fingerprint]}
    )
    if not processes.is_alone() and source.rows is None:
        watch.begin("counting rows", None)
    source, first_row = shared_rows.share_of(source)
    if test_source is not None:
        test_source, _ = shared_rows.share_of(test_source, is_tested=True)
    job = Job(source, test_source, roles, request, bound, watch, checkpoint, first_row)
    model = None if start is None else load_model(start) if not isinstance(start, Model) else start
    if model is not None:
        check_start(model, roles, request.bits)
    with contextlib.ExitStack() as stack:
        stack.enter_context(unchanged(job.sources, "fit again"))
        if dates:
            watch.begin("looking at dates", source.rows)
            dates.update(looked_at(source, dates))  # the sources hold the same dictionary
        if checkpoint is not None:
            facts = {f"the option {name}": value for name, value in request.as_json().items()}
            facts["the data's fingerprint"] = fingerprint
            facts[PROCESSES] = 1 if processes.is_alone() else jax.process_count()
            if test_source is not None:
                facts["the held-out data's fingerprint"] = other_fingerprint
            checkpoint.compare(facts)
            stack.callback(checkpoint.close)
        encoding, levels_read = encoding_of(job)
        fitted, counts = fit_within_memory(job, encoding, model)
        check_figures(fitted)
    seconds = time.perf_counter() - began
    fitted.notes.extend(notes_of_many_levels(fitted.encoding.levels, fitted.parts[0].rows))
    other_passes = (levels_read > 0) + (len(dates) > 0) + counts + source.looks
    metrics = _metrics(fitted, job, other_passes, seconds)
    return Model(
        target=roles.target,
        encoding=fitted.encoding,
        weights=fitted.weights,
        intercept=fitted.intercept,
        options=request.as_json() | {"target": roles.target},
        metrics=metrics,
        versions=_versions(),
        fingerprint=fingerprint,
        dates=dates,
    )


def _roles(source: Source, request: Request, dates: Mapping[str, Dates]) -> Roles:
    target = request.target
    if target is None:
        if TARGET not in source.kinds or source.form not in OWN_TARGET:
            columns = listed(map(repr, source.kinds), most=40)
            raise DataError(f"--target is missing: name the column to predict, one of {columns}.")
        target = TARGET
    exclude = list(request.exclude)
    if source.form == ".npy" and target != TARGET and TARGET in source.kinds:
        exclude.append(TARGET)  # a target of its own is no feature of another
    made = [(part_name(name, part), part) for name, each in dates.items() for part in each.parts]
    for option, names in (
        ("--target", [target]),
        ("--categorical", request.categorical),
        ("--hash", request.hashed),
        ("--weights", [request.weights]),
    ):
        twice = [name for name in names if name in dates]
        if twice:
            raise DataError(f"{twice[0]!r} is named in --date and in {option}: name it in one.")
    features = [name for name in request.features if name not in dates]
    exclude = [name for name in exclude if name not in dates]
    categorical = [*request.categorical]
    if request.features:
        features += [name for name, _ in made]
    if categorical != [AUTO]:
        categorical += [name for name, part in made if part != TREND]
    return assign(
        source.kinds,
        target=target,
        features=features,
        exclude=exclude,
        categorical=categorical,
        hashed=request.hashed,
        interact=request.interact,
        weights=request.weights,
        first_text=functools.partial(first_text, source),
    )


def _metrics(fitted: Fitted, job: Job, other_passes: int, seconds: float) -> dict[str, Any]:
    train, *held_out = (part._asdict() for part in fitted.parts)
    rows_read = sum(processes.told_by_all(fitted.rows_read))
    several = {} if processes.is_alone() else {"processes": jax.process_count()}
    bytes_read = fitted.passes * job.source.file_bytes
    if job.test_source is not None:
        bytes_read += fitted.test_passes * job.test_source.file_bytes
    return {
        "features": int(fitted.weights.size),
        "train": train,
        "held_out": held_out[0] if held_out else None,
        **fitted.details,
        "passes": fitted.passes + other_passes,
        "bytes_read": bytes_read,
        "rows_read": rows_read,
        **several,
        "seconds": seconds,
        "rows_per_second": rows_read / seconds,
        "peak_bytes": max(processes.told_by_all(peak_resident_bytes())),
        "memory_limit": job.memory.limit if job.memory.is_given else None,
        "notes": list(fitted.notes),
    }


def _versions() -> dict[str, str]:
    packages = ("numpy", "jax", "jaxdescent", "pyarrow")
    found = {package: provenance.version(package) for package in packages}
    python = {"python": platform.python_version()}
    return python | {package: known for package, known in found.items() if known is not None}
