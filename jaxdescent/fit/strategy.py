"""The way of a fit that fits the memory: sums of one pass, rows in memory, or rows in the files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import jax

from jaxdescent import processes
from jaxdescent.data import DataError
from jaxdescent.fit import by_sums, in_files, in_memory
from jaxdescent.fit.budget import FitPlan
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.fitted import Fitted
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import AUTO, DIRECT, IN_FILES, ITERATIVE, method_of
from jaxdescent.fit.sums import products_side
from jaxdescent.machine.memory import readable_bytes

MOST_COLUMNS = 2000
"""With more features, one-hot ones among them, rows are kept in memory where they fit."""

MEMORY, FILES = "rows in memory", "rows in the files"
"""The names of the iterative ways of fitting in the description of a fit that is kept."""


def fit_within_memory(job: Job) -> tuple[Fitted, int]:
    """The fit, and how many more passes it took to plan it.

    Raises:
      DataError: where the data or the options cannot be used.
      ProblemTooLarge: where no way fits the memory.
    """
    encoding, method, sums = job.encoding, job.request.method, by_sums.plan_sums(job)
    if method == DIRECT:
        _check_direct(job, sums)
    # A fit that is resumed goes on in its way, whatever the memory has room for today.
    way = None if job.checkpoint is None else job.checkpoint.way
    others = 0
    needs_rows = not job.memory.fits(sums.bytes) or encoding.sparse is not None
    needs_rows = needs_rows or method in ITERATIVE or way is not None
    is_alone = processes.is_alone()
    if method != DIRECT and (needs_rows or (is_alone and _is_long(encoding))):
        in_designs, counted = in_memory.plan_in_memory(job)
        others = int(counted > 0)
        # Several processes read their rows again, as one does where they do not fit.
        if is_alone and in_designs.bytes <= job.memory.limit and way != FILES:
            line = (
                "The rows are kept in memory, one-hot columns unwritten, and "
                f"{method_of(method)!r} minimises; about {_bytes(job, in_designs)}."
            )
            return _descent(job, in_memory.fit_in_memory, MEMORY, in_designs, [line]), others
        if needs_rows:
            return _in_files(job, sums, in_designs), others
    side = products_side(job)
    plan = [
        f"One pass adds up a {side:,} x {side:,} matrix in float64, and its spectrum solves; at "
        f"most {_bytes(job, sums)}."
    ]
    if job.checkpoint is not None:
        plan.append("--checkpoint keeps nothing of one pass: if interrupted, it begins anew.")
    job.watch.planned([_described(job), *plan])
    fitted = by_sums.fit_by_sums(job, sums)
    if job.start is not None:
        fitted.notes.append("The sums' solve needs no start: --start changed nothing.")
    return fitted, others


def _check_direct(job: Job, sums: FitPlan) -> None:
    encoding = job.encoding
    if encoding.sparse is not None:
        raise DataError(
            f"--method direct adds up products of all columns, and {encoding.sparse!r} holds too "
            "many indices for sums: name another method, or --features."
        )
    if not job.memory.fits(sums.bytes):
        what = f"--method direct with {encoding.size:,} features"
        raise job.memory.refuse(what, sums.bytes, _read_so_far(encoding))


def _descent(
    job: Job, fit: Callable[[Job, FitPlan], Fitted], way: str, plan: FitPlan, lines: list[str]
) -> Fitted:
    """A fit that iterates, in arrays of JAX that can have the dtype of the iterations."""
    job.watch.planned([_described(job), *lines])
    if job.checkpoint is not None:
        job.checkpoint.begin(way, plan.width)
    is_double = job.request.dtype == "float64"
    with jax.enable_x64(True) if is_double else contextlib.nullcontext():
        return fit(job, plan)


def _in_files(job: Job, sums: FitPlan, in_designs: FitPlan) -> Fitted:
    """The fit on rows that stay in the files.

    Raises:
      ProblemTooLarge: where no way fits the memory, with the bytes that the smallest one needs.
    """
    request, encoding = job.request, job.encoding
    way = None if job.checkpoint is None else job.checkpoint.way
    plan, obstacle = in_files.plan_in_files(job, in_designs.rows), ""
    if not job.source.can_restart:
        obstacle = "from a reader that gives its rows only once: pass a table"
    if not processes.is_alone() and request.l2 == AUTO:
        raise DataError(
            "--distributed searches for l2 by sums alone, and these features need iterations: say "
            f"--l2 with a number, or fit in one process: {_read_so_far(encoding)}."
        )
    if job.memory.fits(plan.bytes) and not obstacle and way != MEMORY:
        lines = [
            "The rows stay in the files and are read again in each pass, and "
            f"{method_of(request.method, IN_FILES)!r} minimises; about {_bytes(job, plan)}."
        ]
        if request.l2 == AUTO:
            lines.append(
                f"l2 is searched for by LSMR, which multiplies for {plan.width} penalties in each "
                "pass."
            )
        return _descent(job, in_files.fit_in_files, FILES, plan, lines)
    least, read = in_designs.bytes, _read_so_far(encoding)
    if way == MEMORY:
        read += ", and the fit that is gone on with has them in memory"
    else:
        if request.method not in ITERATIVE and encoding.sparse is None:
            least = min(sums.bytes, least)
        if not obstacle:
            least = min(plan.bytes, least)
        elif plan.bytes <= job.memory.limit:
            read += (
                f". Rows that stay in the files need {readable_bytes(plan.bytes)}, but cannot be "
                f"fitted {obstacle}"
            )
    raise job.memory.refuse(f"a fit of {encoding.size:,} features", least, read)


def _bytes(job: Job, plan: FitPlan) -> str:
    limit = "the limit is" if job.memory.is_given else "available are"
    return f"{readable_bytes(plan.bytes)} of memory, {limit} {readable_bytes(job.memory.limit)}"


def _read_so_far(encoding: Encoding) -> str:
    return "only levels were read" if encoding.labelled else "nothing was read"


def _is_long(encoding: Encoding) -> bool:
    """Whether a spectrum takes longer than descents on rows of which most entries are zeros."""
    return bool(encoding.labelled) and encoding.size > MOST_COLUMNS


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
