"""The steps of a fit: roles, levels, a plan that fits the memory, the fit, and its figures."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import time
from typing import Any

import jax
import numpy as np

from jaxdescent import processes, provenance
from jaxdescent.data import DataError, Source, open_source
from jaxdescent.data.arrow_types import common_kinds
from jaxdescent.data.protocol import unchanged
from jaxdescent.fit import shared_rows
from jaxdescent.fit.budget import Memory
from jaxdescent.fit.by_descent import check_start
from jaxdescent.fit.checkpoint import PROCESSES, FitCheckpoint
from jaxdescent.fit.dates import asked_for, looked_at, with_columns
from jaxdescent.fit.job import Job, ProgressListener
from jaxdescent.fit.levels import notes_of_levels, with_levels
from jaxdescent.fit.loading import load_model
from jaxdescent.fit.model import Model
from jaxdescent.fit.request import Request, settled
from jaxdescent.fit.roles import roles_of
from jaxdescent.fit.strategy import fit_within_memory
from jaxdescent.kernels.memory import peak_resident_bytes


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
    with processes.among_all("fit") if distributed else contextlib.nullcontext():
        began = time.perf_counter()
        request.check()
        if test_data is not None and request.test:
            raise DataError("--test and --test-data exclude each other: name one of them.")
        if resume and checkpoint is None:
            raise DataError("--resume goes on with what --checkpoint keeps: name its folder.")
        folder = None if checkpoint is None else str(checkpoint)
        processes.check_alike({"--checkpoint and --resume": [folder, resume]})
        job = _job(
            request,
            test_data,
            checkpoint=None if checkpoint is None else FitCheckpoint(checkpoint, resume=resume),
            memory=Memory.of(memory),
            source=open_source(data, target_file, request.where),
            watch=watch or ProgressListener(),
        )
        if start is not None:
            model = start if isinstance(start, Model) else load_model(start)
            check_start(model, job.roles)
            job = job._replace(start=model)
        return _fitted(job, began)


def _job(
    request: Request,
    test_data: Any,
    *,
    source: Source,
    memory: Memory,
    watch: ProgressListener,
    checkpoint: FitCheckpoint | None,
) -> Job:
    """The job of a fit, whose sources are this process's own rows, of the columns that are read."""
    request = request.matched(source.kinds)
    dates = asked_for(request.date)
    labelled = (*request.categorical, *request.hashed)
    source = with_columns(source, dates, request.features, labelled)
    roles = roles_of(request, source, dates)
    test_source = None
    if test_data is not None:
        given, levelled = open_source(test_data, where=request.where), roles.features.labelled
        test_source = with_columns(given, dates, roles.columns, levelled, "--test-data")
        own = {name: source.kinds[name] for name in roles.columns}
        other = {n: kind for n, kind in test_source.kinds.items() if n in own}
        common_kinds(own, other, "the data", "--test-data")
    prints = [source.fingerprint(), "" if test_source is None else test_source.fingerprint()]
    processes.check_alike({"the options": request.as_json(), "the data": prints})
    if checkpoint is not None:
        facts = {f"the option {name}": value for name, value in request.as_json().items()}
        facts["the data's fingerprint"] = prints[0]
        facts[PROCESSES] = 1 if processes.is_alone() else jax.process_count()
        facts["the held-out data's fingerprint"] = prints[1] or None
        checkpoint.compare(facts)
    if not processes.is_alone() and source.rows is None:
        watch.begin("counting rows", None)
    source, first_row = shared_rows.share_of(source)
    if test_source is not None:
        test_source, _ = shared_rows.share_of(test_source, is_tested=True)
    return Job(
        source, test_source, roles, request, memory, watch, prints[0], dates, checkpoint, first_row
    )


def _fitted(job: Job, began: float) -> Model:
    dates = job.dates
    with contextlib.ExitStack() as stack:
        stack.enter_context(unchanged(job.sources, "fit again"))
        if dates:
            job.watch.begin("looking at dates", job.source.rows)
            dates.update(looked_at(job.source, dates))  # the sources hold the same dictionary
        if job.checkpoint is not None:
            stack.callback(job.checkpoint.close)
        has_levels = bool(job.encoding.one_hot) or job.encoding.sparse is not None
        job = with_levels(job) if has_levels else job
        fitted, is_counted = fit_within_memory(job)
    figures = [fitted.intercept, *(part["rmse"] for part in fitted.parts)]
    if not (np.isfinite(fitted.weights).all() and np.isfinite(figures).all()):
        raise DataError(
            f"the fit ended {fitted.details['status']}, with weights or errors that are NaN or "
            "infinite: numbers that are very large or very small have to be divided, or say "
            "--dtype float64."
        )
    fitted.notes.extend(notes_of_levels(fitted.encoding.levels, fitted.parts[0]["rows"]))
    packages = ("numpy", "jax", "jaxdescent", "pyarrow")
    versions = {"python": platform.python_version()}
    versions |= {package: provenance.version(package) for package in packages}
    other_passes = has_levels + (len(dates) > 0) + is_counted + job.source.looks
    rows_read = sum(processes.told_by_all(fitted.rows_read))
    seconds = time.perf_counter() - began
    bytes_read = fitted.passes * job.source.file_bytes
    if job.test_source is not None:
        bytes_read += fitted.test_passes * job.test_source.file_bytes
    metrics = {
        "features": int(fitted.weights.size),
        "train": fitted.parts[0],
        "held_out": fitted.parts[1] if len(fitted.parts) > 1 else None,
        **fitted.details,
        "passes": fitted.passes + other_passes,
        "bytes_read": bytes_read,
        "rows_read": rows_read,
        **({} if processes.is_alone() else {"processes": jax.process_count()}),
        "seconds": seconds,
        "rows_per_second": rows_read / seconds,
        "peak_bytes": max(processes.told_by_all(peak_resident_bytes())),
        "memory_limit": job.memory.limit if job.memory.is_given else None,
        "notes": fitted.notes,
    }
    return Model(
        target=job.roles.target,
        encoding=fitted.encoding,
        weights=fitted.weights,
        intercept=fitted.intercept,
        options=job.request.as_json() | {"target": job.roles.target},
        metrics=metrics,
        versions={name: known for name, known in versions.items() if known is not None},
        fingerprint=job.fingerprint,
        dates=dates,
    )
