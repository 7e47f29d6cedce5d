"""The way of a fit that fits the memory: sums of one pass, rows in memory, or rows in the files."""

from __future__ import annotations

import contextlib

import jax

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.fit import plans
from jaxdescent.fit.budget import ReadingPlan
from jaxdescent.fit.by_descent import fit_by_descent
from jaxdescent.fit.by_sums import fit_by_sums
from jaxdescent.fit.descent_rows import RowsInFiles, RowsInMemory
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.job import Fitted, Job
from jaxdescent.fit.request import AUTO, DIRECT, IN_FILES, ITERATIVE, method_of
from jaxdescent.kernels.memory import readable_bytes

MOST_COLUMNS = 2000
"""With more features, one-hot ones among them, rows are kept in memory where they fit."""


def fit_within_memory(job: Job) -> tuple[Fitted, bool]:
    """The fit, and whether the rows were read to be counted before."""
    encoding, memory, method = job.encoding, job.memory, job.request.method
    sums, is_counted = plans.plan_sums(job), False
    is_small, is_alone = memory.fits(sums.bytes), processes.is_alone()
    if method == DIRECT and encoding.sparse is not None:
        raise DataError(
            f"--method direct adds up products of all columns, and {encoding.sparse!r} holds too "
            "many indices for sums: name another method, or --features."
        )
    if method == DIRECT and not is_small:
        what = f"--method direct with {encoding.size:,} features"
        raise memory.refuse(what, sums.bytes, _read_so_far(encoding))
    # A fit that is resumed goes on in its way, whatever the memory has room for today.
    way = None if job.checkpoint is None else job.checkpoint.kept.get("way")
    needs_rows = not is_small or encoding.sparse is not None or method in ITERATIVE or bool(way)
    # A spectrum takes longer than descents on rows of which most entries are zeros.
    is_long = bool(encoding.labelled) and encoding.size > MOST_COLUMNS
    if method != DIRECT and (needs_rows or (is_alone and is_long)):
        rows, is_counted = plans.counted_rows(job)
        in_memory = plans.plan_in_memory(job, rows)
        # Several processes read their rows again, as one does where they do not fit.
        if is_alone and in_memory.bytes <= memory.limit and way != RowsInFiles.way:
            line = (
                "The rows are kept in memory, one-hot columns unwritten, and "
                f"{method_of(method)!r} minimises; about {_bytes(job, in_memory)}."
            )
            return _descent(job, RowsInMemory, in_memory, [line]), is_counted
        if needs_rows:
            return _in_files(job, sums, in_memory), is_counted
    side = plans.products_side(job)
    plan = [
        f"One pass adds up a {side:,} x {side:,} matrix in float64, and its spectrum solves; at "
        f"most {_bytes(job, sums)}."
    ]
    if job.checkpoint is not None:
        plan.append("--checkpoint keeps nothing of one pass: if interrupted, it begins anew.")
    job.watch.planned([_described(job), *plan])
    fitted = fit_by_sums(job, sums)
    if job.start is not None:
        fitted.notes.append("The sums' solve needs no start: --start changed nothing.")
    return fitted, is_counted


def _in_files(job: Job, sums: ReadingPlan, in_memory: ReadingPlan) -> Fitted:
    """The fit on rows that stay in the files."""
    request, encoding, memory = job.request, job.encoding, job.memory
    plan, read = plans.plan_in_files(job, in_memory.rows), _read_so_far(encoding)
    if not processes.is_alone() and request.l2 == AUTO:
        raise DataError(
            "--distributed searches for l2 by sums alone, and these features need iterations: say "
            f"--l2 with a number, or fit in one process: {read}."
        )
    is_kept = job.checkpoint is not None and job.checkpoint.kept.get("way") == RowsInMemory.way
    if not memory.fits(plan.bytes) or not job.source.can_restart or is_kept:
        least = [in_memory.bytes]
        if is_kept:
            read += ", and the fit that is gone on with has them in memory"
        else:
            if request.method not in ITERATIVE and encoding.sparse is None:
                least.append(sums.bytes)
            if job.source.can_restart:
                least.append(plan.bytes)
            elif plan.bytes <= memory.limit:
                read += (
                    f". Rows that stay in the files need {readable_bytes(plan.bytes)}, but cannot "
                    "be fitted from a reader that gives its rows only once: pass a table"
                )
        raise memory.refuse(f"a fit of {encoding.size:,} features", min(least), read)
    lines = [
        "The rows stay in the files and are read again in each pass, and "
        f"{method_of(request.method, IN_FILES)!r} minimises; about {_bytes(job, plan)}."
    ]
    if request.l2 == AUTO:
        lines.append(
            f"l2 is searched for by LSMR, which multiplies for {plan.width} penalties in each pass."
        )
    return _descent(job, RowsInFiles, plan, lines)


def _descent(
    job: Job, kind: type[RowsInMemory | RowsInFiles], plan: ReadingPlan, lines: list[str]
) -> Fitted:
    """A fit that iterates, in arrays of JAX that can have the dtype of the iterations."""
    job.watch.planned([_described(job), *lines])
    if job.checkpoint is not None:
        job.checkpoint.begin(kind.way, plan.width)
    is_double = job.request.dtype == "float64"
    with jax.enable_x64(True) if is_double else contextlib.nullcontext():
        return fit_by_descent(job, kind(job, plan))


def _bytes(job: Job, plan: ReadingPlan) -> str:
    limit = "the limit is" if job.memory.is_given else "available are"
    return f"{readable_bytes(plan.bytes)} of memory, {limit} {readable_bytes(job.memory.limit)}"


def _read_so_far(encoding: Encoding) -> str:
    return "only levels were read" if encoding.labelled else "nothing was read"


def _described(job: Job) -> str:
    source, share = job.source, job.request.test
    own = processes.told_by_all(source.rows)
    rows = "" if None in own else f"{sum(own):,} rows of "
    files = len(source.files)
    size = f" ({files} file{'s' * (files > 1)}, {readable_bytes(source.file_bytes)})"
    held_out = f", {share:.3g} of the rows held out" if share else ""
    if job.test_source is not None:
        held_out = ", and the rows of other data held out"
    what = f"{rows}{source.form}{size if files else ''}{source.description}"
    count = jax.process_count()
    sharing = "" if processes.is_alone() else f", shared by {count} processes"
    return f"{what}{sharing}: {job.encoding.size:,} features{held_out}."
