"""A fit of rows that do not fit in memory, of more features than sums: they are read in each pass.

Vectors are in memory: what has a number for each row (target, weight, residuals) or each feature.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent import agreement
from jaxdescent.data import row_stream
from jaxdescent.data.freeing import return_what_is_freed
from jaxdescent.data.read_ahead import BLOCKS_HELD
from jaxdescent.data.row_stream import BLOCK_BYTES, block_bytes
from jaxdescent.designs import Streamed
from jaxdescent.fit import keeping, together
from jaxdescent.fit.budget import MOST_ROWS, bytes_of_levels
from jaxdescent.fit.checks import row_notes
from jaxdescent.fit.descending import descend, details_of, told
from jaxdescent.fit.encoded_rows import ENTRY_BYTES, EncodedRows
from jaxdescent.fit.encoding import Encoding, Policy
from jaxdescent.fit.fitted import Fitted, Part, part_of
from jaxdescent.fit.in_memory import STARTING_BYTES, located_blocks
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import IN_FILES, method_of
from jaxdescent.fit.moments import deviations
from jaxdescent.fit.penalty_path import (
    Search,
    Tried,
    details_of_search,
    has_converged,
    probes_for,
    search,
)
from jaxdescent.fit.roles import AUTO
from jaxdescent.fit.scaled import Scaled
from jaxdescent.fit.solution import penalties_from
from jaxdescent.fit.start import Start
from jaxdescent.fit.sums import TEST, Prepared, Preparing
from jaxdescent.fit.vectors import Vectors
from jaxdescent.machine.resident import resident_bytes
from jaxdescent.regression import LinearRegression

ROW_BYTES, FEATURE_BYTES = 100, 320
"""A row and a feature: the vectors of the descent, on both sides of the products, and levels'
places."""

COLUMN_ROW_BYTES, COLUMN_FEATURE_BYTES, COLUMN_BLOCK_BYTES = 40, 80, 24
"""A row, a feature and a row of a product's block, for each vector that is multiplied in a pass
while a penalty is searched for."""

MOST_WIDTH = 15
"""Penalties that are tried at a time: three decades, of which at most two follow the best one."""

LEAST_ROWS, WIDEST = 64, 4
"""Of a block: its fewest rows, and how many times the bytes of a product's block it may take."""


@dataclasses.dataclass(frozen=True)
class FilesPlan:
    """What reading and the descent take.

    Attributes:
      rows: of all sources.
      at_once: how many of them are read at a time.
      bytes: that the process holds at its peak.
      width: for how many penalties a pass multiplies.
    """

    rows: int
    at_once: int
    bytes: int
    width: int = 1


def plan_of(job: Job, encoding: Encoding, rows: int) -> FilesPlan:
    """How it would be done, with so many rows."""
    wider = 2 if job.request.dtype == "float64" else 1
    encoded = 4 * (wider * len(encoding.numbers) + len(encoding.one_hot))
    entries = 0
    if encoding.sparse is not None:
        entries = max(-(-source.entries // max(source.rows or 1, 1)) for source in job.sources)
    if encoding.has_slopes or len(encoding.hashed) > 1:
        entries += len(encoding.one_hot)
    encoded += 4 * (1 + wider) * entries
    names, at_a_time = job.roles.columns, block_bytes(encoding.size)
    row = max(source.row_bytes(names) for source in job.sources)
    row += (
        ENTRY_BYTES * entries
        + 2 * encoded
        + 8 * (3 * len(encoding.labelled) + 3)
        + len(encoding.numbers)
    )
    # As many as a product takes at a time, which then copies nothing, unless they are text.
    at_once = min(at_a_time // max(encoded, 1), WIDEST * BLOCK_BYTES // row, MOST_ROWS)
    at_once = max(at_once, LEAST_ROWS)
    # Blocks as they are read, and the chunks that a product puts together from them.
    held = BLOCKS_HELD * (at_once * row + 2 * max(at_a_time, encoded * LEAST_ROWS))
    held += max(source.reading_bytes(names, at_once) for source in job.sources)
    of_row, of_feature, of_column = ROW_BYTES, FEATURE_BYTES, 0
    if job.keeping is not None:
        of_row, of_feature = of_row + keeping.ROW_BYTES, of_feature + keeping.FEATURE_BYTES
        of_column = keeping.ROW_BYTES * rows + keeping.FEATURE_BYTES * encoding.size
    vectors = wider * (of_row * rows + of_feature * encoding.size)
    needed = resident_bytes() + STARTING_BYTES + held + vectors
    needed += bytes_of_levels(encoding.levels.values())
    if job.request.l2 != AUTO:
        return FilesPlan(rows, at_once, needed)
    targets = 1 if job.is_tested else 1 + probes_for(max(rows, 1))
    block = min(BLOCK_BYTES // max(encoded, 1), row_stream.MOST_ROWS, max(rows, 1))
    of_column += COLUMN_ROW_BYTES * rows + COLUMN_FEATURE_BYTES * encoding.size
    column = wider * (of_column + COLUMN_BLOCK_BYTES * block)
    most = int((job.memory.limit - needed) // (column * targets))
    width = max(min(most, MOST_WIDTH), 1)
    if job.keeping is not None and job.keeping.width is not None:
        width = job.keeping.width  # of the fit that is gone on with
    return FilesPlan(rows, at_once, needed + width * targets * column, width)


def obstacle(job: Job) -> str:
    """Why rows that stay in files cannot be fitted like this, and what to do; nothing if they can.

    It goes on after "cannot be fitted".
    """
    if not job.source.can_restart:
        return "from a reader that gives its rows only once: pass a table"
    return ""


def fit(job: Job, encoding: Encoding, plan: FilesPlan, start: Start | None = None) -> Fitted:
    """Read everything once for its vectors, again in each pass of a descent, and for the figures.

    Raises:
      DataError: for values that cannot be used, too few rows, or a constant target.
    """
    with contextlib.ExitStack() as stack:
        if job.request.dtype == "float64":
            stack.enter_context(jax.enable_x64(True))
        return _fit(job, encoding, plan, start)


def _fit(job: Job, encoding: Encoding, plan: FilesPlan, start: Start | None) -> Fitted:
    return_what_is_freed()
    request, policy = job.request, Policy(job.request.missing, unseen="zero")
    dtype = np.dtype(request.dtype or "float32")
    preparing = Preparing(job.roles, encoding, policy, request.test, request.seed)
    has_moments = request.standardize or request.l2 == AUTO
    is_alone = agreement.is_alone()
    units = {} if is_alone or job.keeping is None else job.keeping.units()
    shift = units.get("shift")
    vectors = Vectors(job, preparing, plan.rows, dtype, has_moments=has_moments, shift=shift)
    for prepared, is_other in _blocks(job, preparing, plan):
        vectors.add(prepared, is_other=is_other)
    vectors.close()
    mean, spread = vectors.mean, vectors.spread
    squares = vectors.squares() if has_moments else np.ones(encoding.size)
    scales = deviations(squares, vectors.weight_total) if request.standardize else None
    if units:  # those of the fit that is gone on with, to the bit
        vectors.fills, mean, spread = units["fills"], float(units["mean"]), float(units["spread"])
        scales = units.get("scales")
    source = EncodedRows(
        job,
        preparing,
        rows=vectors.filled,
        at_once=plan.at_once,
        shift=vectors.shift,
        fills=vectors.fills,
        dtype=dtype,
    )
    options = {"categorical": source.categorical, "sparse": source.sparse, "dtype": dtype}
    weight = vectors.training_weight
    filled = None
    if is_alone:
        design, of_rows = Streamed(source, encoding.numbers, **options), jnp.asarray
    else:
        design = together.streamed(source, encoding.numbers, **options)
        of_rows = functools.partial(together.vector_of_rows, design)
        weight = np.ones(vectors.filled) if weight is None else weight
        rows = design.facts.rows
        if not vectors.dropped and together.are_full(rows, design.parts):
            filled = rows, design.shape[0]
        if job.keeping is not None:
            job.keeping.check_rows(rows, vectors.dropped)
            if not units:
                units = {"shift": vectors.shift, "fills": vectors.fills, "mean": mean}
                units |= {"spread": spread} | ({} if scales is None else {"scales": scales})
                job.keeping.keep_units(units)
    objective = LinearRegression(
        design if scales is None else Scaled(design, jnp.asarray((1 / scales).astype(dtype))),
        of_rows(((vectors.target - mean) / spread).astype(dtype)),
        l2=jnp.asarray(0.0 if request.l2 == AUTO else request.l2, dtype),
        sample_weight=None if weight is None else of_rows(weight.astype(dtype)),
    )
    per_unit = spread if scales is None else spread / scales  # of weights that are penalised
    numbers = len(encoding.numbers)
    params = {"weights": np.zeros(encoding.size), "intercept": 0.0}
    if start is not None:
        shifted = start.intercept + float(start.weights[:numbers] @ vectors.shift)
        params = {"weights": start.weights / per_unit, "intercept": (shifted - mean) / spread}
    given: Any = {name: jnp.asarray(each, dtype) for name, each in params.items()}
    found, l2 = None, request.l2
    if l2 == AUTO:
        lengths = squares if scales is None else squares / np.square(scales)
        found = _searched(job, objective, lengths, given, vectors.parts, width=plan.width)
        job.watch.searched(found.path.penalties, found.path.scores, found.path.best)
        l2, given = float(found.path.penalties[found.path.best]), found.params
        objective = dataclasses.replace(objective, l2=jnp.asarray(l2, dtype))
    result = told(job, objective, given, method_of(request.method, IN_FILES), spread, filled=filled)
    weights = np.asarray(result.params["weights"], np.float64) * per_unit
    intercept = float(result.params["intercept"]) * spread + mean
    intercept -= float(weights[:numbers] @ vectors.shift)
    if request.missing == "mean":
        means = map(float, vectors.fills + vectors.shift)
        encoding = dataclasses.replace(
            encoding, fills=dict(zip(encoding.numbers, means, strict=True))
        )
        preparing = dataclasses.replace(preparing, encoding=encoding)
    parts = _figures(job, preparing, plan, (weights, intercept), mean)
    details = details_of(job, result, spread) | details_of_search(found, float(l2))
    details |= {
        "rank": None,
        "method": f"{result.method} on rows that stay in the files, in {dtype}",
        "dropped_rows": vectors.dropped,
        "unseen_values": vectors.unseen,
    }
    details["iterations"] += 0 if found is None else found.iterations
    notes = [*(found.path.notes if found is not None else []), *_notes(job, encoding, float(l2))]
    notes += start.notes if start is not None else []
    notes += row_notes(vectors.dropped, vectors.unseen)
    read = 2 * vectors.read + source.rows_read
    return Fitted(
        encoding, weights, intercept, parts, details, notes, read, 2 + design.passes, test_passes=2
    )


def _searched(
    job: Job,
    objective: LinearRegression,
    squares: np.ndarray,
    start: Any,
    parts: tuple[np.ndarray, np.ndarray | None],
    *,
    width: int,
) -> Search:
    """A search whose descents share each pass: the penalties, and the targets of each, are outputs
    of one regression, each a problem of its own to LSMR.
    """
    job.watch.begin("searching", penalties_from(squares).size, "penalties at most")
    dtype = objective.y.dtype
    method = method_of(IN_FILES)

    def attempt(targets: np.ndarray, penalties: Sequence[float], params: list[Any]) -> Tried:
        count, each = len(penalties), targets.shape[1]
        problem = dataclasses.replace(
            objective,
            y=jnp.tile(jnp.asarray(targets), (1, count)),
            l2=jnp.repeat(jnp.asarray(penalties, dtype), each),
        )
        given = {
            name: jnp.tile(jnp.stack([own[name] for own in params], axis=-1), count)
            for name in ("weights", "intercept")
        }
        text = f"l2 {penalties[0]:.3g} to {penalties[-1]:.3g}"

        def tell(iteration: int, value: float, left: float) -> None:
            del value, left
            job.watch.tell(f"{text}, iteration {iteration}")

        name = f"search-{count}-{penalties[0]:.6e}"
        result = descend(job, problem, given, method, tell, name=name)
        predicted = problem.predict(result.params, problem.X)
        found = [
            [{name: each[..., place] for name, each in result.params.items()} for place in own]
            for own in np.arange(count * each).reshape(count, each)
        ]
        return Tried(
            found,
            [lambda t, k=k: predicted[:, k * each + t] for k in range(count)],
            has_converged(result),
            int(result.iterations),
        )

    def told_of(tried: int, state: str) -> None:
        job.watch.advance(tried)
        job.watch.tell(state)
        job.memory.check()

    train, held_out = parts
    with contextlib.nullcontext() if job.keeping is None else job.keeping.searching():
        return search(
            objective,
            squares,
            start,
            train=train,
            held_out=held_out,
            attempt=attempt,
            tell=told_of,
            width=width,
            keeping=job.keeping,
        )


def _blocks(job: Job, preparing: Preparing, plan: FilesPlan) -> Iterator[tuple[Prepared, bool]]:
    """The blocks of all sources, and whether they are of other data that are held out."""
    for part, source in enumerate(job.sources):
        job.watch.begin("held-out rows" if part else "reading", source.rows)
        own = dataclasses.replace(preparing, share=0.0, part=TEST) if part else preparing
        read = 0
        for prepared in located_blocks(source, job, plan.at_once, own):
            yield prepared, part == TEST
            read += prepared.block.rows
            del prepared
            job.watch.advance(read)
            job.memory.check()


def _figures(
    job: Job, preparing: Preparing, plan: FilesPlan, params: tuple[np.ndarray, float], center: float
) -> list[Part]:
    """How well both parts are predicted, in float64: one more pass over all sources."""
    (weights, intercept), sums, counts = params, np.zeros((2, 4)), [0, 0]
    for prepared, _ in _blocks(job, preparing, plan):
        predicted = preparing.encoding.product(prepared.encoded, weights) + intercept
        for part, own in enumerate(prepared.parts):
            rows = slice(None) if own is None else own
            y = np.asarray(prepared.target.values[rows], np.float64)
            s = np.ones(y.size) if prepared.weight is None else prepared.weight[rows]
            about, error = y - center, predicted[rows] - y
            sums[part] += s.sum(), s @ about, s @ np.square(about), s @ np.square(error)
            counts[part] += y.size
    sums, counts = agreement.added(sums), agreement.added(np.array(counts)).tolist()
    return [
        part_of(counts[part], error, squares - about**2 / weight, weight)
        for part, (weight, about, squares, error) in enumerate(sums.tolist())
        if counts[part]
    ]


def _notes(job: Job, encoding: Encoding, l2: float) -> list[str]:
    slopes = {name for name, each in encoding.interactions.items() if each.numbers}
    free = len(encoding.levels.keys() - slopes)
    if not free or l2 or job.request.missing == "mean":
        return []
    return [
        f"The levels leave at least {free:,} constant{'s' * (free > 1)} free: the weights are one "
        "choice of many with the same predictions."
    ]
