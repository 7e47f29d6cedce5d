"""One fit: source, a look at levels and means, sums of one pass or a descent, figures, model."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import platform
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdescent import processes, provenance
from jaxdescent.fit.dates import asked_for
from jaxdescent.fit.figures import (
    check_counts,
    figures_of,
    notes_of_rows,
    notes_of_solution,
    part_figures,
    refuse_constant,
)
from jaxdescent.fit.iterations import ITERATIVE, Descended, descended, vectors_of
from jaxdescent.fit.loading import load_model
from jaxdescent.fit.look import learned, notes_of_levels
from jaxdescent.fit.memory import Memory
from jaxdescent.fit.model import Model
from jaxdescent.fit.options import AUTO, DIRECT, Options
from jaxdescent.fit.penalty import path_by_sums
from jaxdescent.fit.progress import ProgressListener
from jaxdescent.fit.roles import roles_of
from jaxdescent.fit.rows import (
    TRAIN,
    Job,
    Kept,
    file_bytes,
    fingerprint,
    share_of,
)
from jaxdescent.fit.sums import ProductSums, solved
from jaxdescent.kernels.memory import peak_resident_bytes, readable_bytes
from jaxdescent.rows import DataError, Source, open_source
from jaxdescent.status import Evidence, Status

MOST_COLUMNS = 2000
"""With more features, one-hot ones among them, a descent is faster than a spectrum."""

MATRICES = 8
"""Square matrices of the features that the solve by sums holds."""


class Fitted(NamedTuple):
    """Weights, how well they predict, and the details and notes of the fit."""

    weights: np.ndarray
    intercept: float
    parts: list[dict[str, Any]]  # the figures of the training rows, and of held-out rows
    details: dict[str, Any]
    notes: list[str]
    passes: int


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
    it iterates on rows that are read again in each pass, or kept encoded where they fit.

    Args:
      data: what :func:`jaxdescent.rows.open_source` takes: files, a folder, a table, a dictionary
        of arrays, a function that returns an iterator of blocks, or a source.
      target: the column to predict; "y" by default where the target has a file or an array of its
        own.
      target_file: for ``.npy``, the target's file; ``y.npy`` beside the features by default.
      test_data: other data of the same columns, whose rows are held out.
      memory: bytes that the process may hold at its peak, Python and its libraries included; 80 %
        of what is available by default.
      watch: gets the plan and the progress.
      start: a :class:`Model` of the same columns, or its folder: iterations begin at its weights.
      checkpoint: a folder in which a fit that iterates is kept while it goes on. SIGINT and SIGTERM
        then end it with :class:`jaxdescent.fit.iterations.Interrupted`, a KeyboardInterrupt.
      resume: whether to go on with what is kept there.
      distributed: whether all processes that ``jax.distributed.initialize`` has joined make this
        call together, on the same data: each reads its own share of the rows and adds it up, and
        all return the same model.
      **options: ``features`` or ``exclude``, ``categorical``, ``hashed`` and ``weights`` name
        columns; ``interact`` names interactions such as "a:b", or tuples of columns; ``date`` parts
        of dates, such as "when:month,weekday,hour,trend"; ``bits`` (20) of the hash; ``where``
        states which rows count in SQL, such as "month <= 6"; ``l2`` (0), a number or "auto";
        ``method`` ("auto"), "direct", "cg", "lsmr" or "lbfgs"; ``dtype``, "float32" or "float64",
        of iterations; ``test`` (0), the share of rows held out by a hash of their number and
        ``seed`` (0); ``standardize`` (False), so that the penalty is on weights per standard
        deviation; ``missing`` ("error"), "drop" or "mean".

    Returns:
      A :class:`Model`, which predicts rows of the same columns, and can be saved in a folder.

    Raises:
      DataError: where the data cannot be used, in one sentence.
      OtherProcessFailed: where another process of a distributed fit raised an error.
      ProblemTooLarge: where the fit needs more memory.
      TypeError: for an option that does not exist.

    >>> import numpy as np
    >>> X = np.arange(12.0).reshape(6, 2) ** 2
    >>> model = fit_model({"X": X, "y": X @ [1.0, 2.0] + 3.0})
    >>> np.round(model.weights, 6).tolist(), round(model.intercept, 6)
    ([1.0, 2.0], 3.0)
    """
    known = [field.name for field in dataclasses.fields(Options)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"fit_model has no option {unknown[0]!r}: it has {', '.join(known)}.")
    own = Options.of(target=target, **options)
    if test_data is not None and own.test:
        raise DataError("--test and --test-data exclude each other: name one of them.")
    if resume and checkpoint is None:
        raise DataError("--resume goes on with what --checkpoint keeps: name its folder.")
    began = time.perf_counter()
    with processes.among_all("fit") if distributed else contextlib.nullcontext():
        limit = Memory.of(memory)
        source = open_source(data, target_file, own.where)
        own = own.matched(source.kinds)
        dates = asked_for(own.date)
        roles = roles_of(own, source, dates)
        source = source.as_text(roles.encoding.texts)
        test_source = None
        if test_data is not None:
            test_source = open_source(test_data, where=own.where).as_text(roles.encoding.texts)
            roles.check_alike(test_source, source.kinds)
        prints = [fingerprint(each) for each in (source, test_source) if each is not None]
        processes.check_alike({"the options": own.as_json(), "the data": prints})
        job = Job(
            source,
            test_source,
            roles.encoding,
            roles.target,
            roles.weights,
            own,
            limit,
            watch or ProgressListener(),
            checkpoint=None if checkpoint is None else Kept.of(checkpoint, resume=resume),
        )
        model = None if start is None else start if isinstance(start, Model) else load_model(start)
        return _fitted(job, prints[0], model, began)


def _fitted(job: Job, print_of_data: str, start: Model | None, began: float) -> Model:
    whole = job.source
    if not processes.is_alone():
        job = share_of(job)
    if start is not None and start.target != job.target:
        raise DataError(
            f"--start is a model of {start.target!r}, and the target is {job.target!r}: name "
            "another, or leave it out."
        )
    job, looks = learned(job)
    fitted = _by_sums(job) if _is_small(job, whole) else _by_descent(job, start)
    figures = [fitted.intercept, *(part["rmse"] for part in fitted.parts)]
    if not (np.isfinite(fitted.weights).all() and np.isfinite(figures).all()):
        raise DataError(
            f"the fit ended {fitted.details['status']}, with weights or errors that are NaN or "
            "infinite: numbers that are very large or very small have to be divided, or say "
            "--dtype float64."
        )
    notes = [*fitted.notes, *notes_of_levels(job.encoding.levels, fitted.parts[0]["rows"])]
    if start is not None and fitted.details["method"].startswith("sums"):
        notes.append("The sums' solve needs no start: --start changed nothing.")
    versions = {"python": platform.python_version()}
    for package in ("numpy", "jax", "jaxdescent", "polars"):
        versions[package] = provenance.version(package) or "unknown"
    passes, seconds = fitted.passes + looks, time.perf_counter() - began
    rows = sum(part["rows"] for part in fitted.parts) + fitted.details["dropped_rows"]
    metrics = {
        "features": int(fitted.weights.size),
        "train": fitted.parts[0],
        "held_out": fitted.parts[1] if len(fitted.parts) > 1 else None,
        **fitted.details,
        "passes": passes,
        "bytes_read": passes * sum(map(file_bytes, job.sources)),
        "rows_read": passes * rows,
        **({} if processes.is_alone() else {"processes": jax.process_count()}),
        "seconds": seconds,
        "rows_per_second": passes * rows / seconds,
        "peak_bytes": max(processes.told_by_all(peak_resident_bytes())),
        "memory_limit": job.memory.limit if job.memory.is_given else None,
        "notes": notes,
    }
    return Model(
        target=job.target,
        encoding=job.encoding,
        weights=fitted.weights,
        intercept=fitted.intercept,
        options=job.options.as_json() | {"target": job.target},
        metrics=metrics,
        versions=versions,
        fingerprint=print_of_data,
    )


def _is_small(job: Job, whole: Source) -> bool:
    """Whether the fit is by sums of one pass; says what will be done.

    Raises:
      DataError: where several processes would have to iterate.
      ProblemTooLarge: where sums are asked for and do not fit.
    """
    encoding, options = job.encoding, job.options
    side = encoding.size + 2
    needed = (MATRICES + 1 + job.is_tested) * 8 * side**2
    what = f"a matrix of sums of {encoding.size:,} features"
    is_direct = options.method == DIRECT or (
        options.method == AUTO and encoding.size <= MOST_COLUMNS and job.memory.fits(needed)
    )
    if not is_direct and not processes.is_alone():
        if options.method != AUTO:
            raise DataError("--distributed adds up sums: leave --method out, or say direct.")
        is_direct = True
    if is_direct:
        job.memory.require(needed, what, "raise --memory, or use fewer features")
        line = f"One pass adds up a {side:,} x {side:,} matrix in float64, and its spectrum solves"
        if job.checkpoint is not None:
            line += "; --checkpoint keeps nothing of one pass"
    else:
        name = ITERATIVE[options.method].__name__
        line = f"{name} iterates on the rows, kept encoded where they fit, else read in each pass"
    rows = "" if whole.rows is None else f"{whole.rows:,} rows of "
    size, files = readable_bytes(file_bytes(job.source)), len(job.source.files)
    size = f" ({files} file{'s' * (files > 1)}, {size})" if files else ""
    share = options.test
    held = f", {share:.3g} of the rows held out" if share else ""
    held = ", and the rows of other data held out" if job.test_source is not None else held
    held += "" if processes.is_alone() else f", shared by {jax.process_count()} processes"
    limit = "the limit is" if job.memory.is_given else "available are"
    job.watch.planned([
        f"{job.target} by {encoding.size:,} features of {rows}{job.source.form}{size}{held}.",
        f"{line}; of memory {limit} {readable_bytes(job.memory.limit)}.",
    ])  # fmt: skip
    return is_direct


def _by_sums(job: Job) -> Fitted:
    """Read everything once, and solve."""
    options, encoding = job.options, job.encoding
    sums = ProductSums(job, 8 * MATRICES * (encoding.size + 2) ** 2)
    totals = [float(total[-1, -1]) for total in sums.matrices]
    check_counts(job, sums.rows, totals, sums.dropped)
    data = sums.moments()
    if data.squares <= 0:
        refuse_constant(job, data.target_mean, sums.rows[TRAIN])
    notes, path, l2 = list[str](), None, options.l2
    if isinstance(l2, str):
        path = path_by_sums(sums, data, standardize=options.standardize)
        job.watch.searched(path.penalties, path.scores, path.best)
        l2, notes = float(path.penalties[path.best]), path.notes
    solution = solved(sums, data, l2, standardize=options.standardize)
    value = 0.5 * (solution.errors[TRAIN] + solution.penalty)
    is_certain, rank = solution.is_certain, solution.rank
    is_minimum = solution.is_done and is_certain
    details = {
        "l2": l2,
        "l2_chosen_by": path.rule if path else None,
        "method": "sums of one pass, solved by their spectrum",
        "iterations": 1 + sums.readings,
        "rank": rank if l2 == 0 else None,
        "degrees_of_freedom": solution.degrees_of_freedom,
        "value": value,
        "gradient_norm": solution.gradient_norm,
        "suboptimality": solution.left if is_certain else value,
        "status": str(Status.CONVERGED if is_minimum else Status.STAGNATED),
        "evidence": (Evidence.FACTORISATION if is_certain else Evidence.BOUND).explanation,
        "dropped_rows": sums.dropped,
        "unseen_values": sums.unseen,
    }
    notes += notes_of_solution(encoding, solution, l2)
    parts = [
        part_figures(sums.rows[part], solution.errors[part], *sums.spread(part))
        for part in range(len(sums.matrices))
    ]
    notes += notes_of_rows(sums.dropped, sums.unseen)
    weights, intercept = solution.weights, solution.intercept
    return Fitted(weights, intercept, parts, details, notes, 1 + sums.readings)


def _by_descent(job: Job, start: Model | None) -> Fitted:
    """Read the targets, iterate, and read once more for the figures."""
    vectors = vectors_of(job)
    totals = [float(each.sum()) for each in vectors.weights]
    check_counts(job, vectors.rows, totals[: 1 + job.is_tested], vectors.dropped)
    if vectors.spread <= 4 * np.finfo(np.float64).eps * abs(vectors.mean):
        refuse_constant(job, vectors.mean, vectors.rows[TRAIN])
    notes, at = list[str](), None
    if start is not None:
        known = dict(start.named_weights(start.encoding.size))
        names = [job.encoding.feature_name(j) for j in range(job.encoding.size)]
        at = np.array([known.get(name, 0.0) for name in names]), start.intercept
        kept = sum(name in known for name in names)
        if not kept:
            raise DataError("--start is a model of other columns: name another.")
        notes.append(f"{kept:,} of {len(names):,} weights started from the model's.")
    found = descended(job, vectors, at)
    parts = figures_of(job, found.weights, found.intercept, vectors.mean, vectors.rows)
    result, left = found.result, float(found.result.suboptimality) * found.square
    status = Status(int(result.status))
    if found.path is not None:
        notes += found.path.notes
    notes += notes_of_rows(vectors.dropped, vectors.unseen)
    where = "kept in memory" if found.is_kept else "read in each pass"
    details = _details(found) | {
        "method": f"{found.method} in {job.options.dtype or 'float32'} on rows {where}",
        "suboptimality": left if math.isfinite(left) else None,
        "status": str(status),
        "dropped_rows": vectors.dropped,
        "unseen_values": vectors.unseen,
    }
    return Fitted(found.weights, found.intercept, parts, details, notes, 2 + found.passes)


def _details(found: Descended) -> dict[str, Any]:
    result = found.result
    return {
        "l2": found.l2,
        "l2_chosen_by": found.path.rule if found.path else None,
        "iterations": int(result.iterations),
        "rank": None,
        "value": float(result.value) * found.square,
        "gradient_norm": float(result.gradient_norm) * math.sqrt(found.square),
        "evidence": Evidence(int(result.evidence)).explanation,
    }
