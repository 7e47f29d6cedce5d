"""A fit of rows that do not fit in memory, of more features than sums: they are read in each pass.

Vectors stay in memory, those over the rows (target, weight, residuals) and over the features.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent import processes
from jaxdescent.data import row_stream
from jaxdescent.data.freeing import return_what_is_freed
from jaxdescent.data.read_ahead import BLOCKS_HELD
from jaxdescent.data.row_stream import BLOCK_BYTES, block_bytes
from jaxdescent.designs import Streamed
from jaxdescent.fit import checkpoint, shared_rows
from jaxdescent.fit.budget import MOST_ROWS, FitPlan
from jaxdescent.fit.by_descent import RowsAsDesign, descend, descent_bytes, fit_design
from jaxdescent.fit.encoded_rows import ENTRY_BYTES, EncodedRows
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.fitted import Fitted, PartFigures, part_of
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import AUTO, IN_FILES, method_of
from jaxdescent.fit.penalty_path import Tried, Try, has_converged, probes_for
from jaxdescent.fit.prepared import Preparing, prepared_blocks
from jaxdescent.fit.vectors import Vectors
from jaxdescent.regression import LinearRegression

ROW_BYTES, FEATURE_BYTES = 100, 320
"""Bytes for a row and for a feature: the vectors of the descent, on both sides of the products,
and the places of levels."""

COLUMN_ROW_BYTES, COLUMN_FEATURE_BYTES, COLUMN_BLOCK_BYTES = 40, 80, 24
"""Bytes for a row, a feature and a row of a product's block, for each vector that is multiplied in
a pass while a penalty is searched for."""

MOST_WIDTH = 15
"""The most penalties tried at a time: three decades, of which at most two follow the best one."""

LEAST_ROWS, WIDEST = 64, 4
"""The fewest rows of a block, and its most bytes as a multiple of a product's block."""


def plan_in_files(job: Job, rows: int) -> FitPlan:
    """The plan of a fit of this many rows in files, whether or not it fits the memory."""
    encoding = job.encoding
    wider = 2 if job.request.dtype == "float64" else 1
    encoded = 4 * (wider * len(encoding.numbers) + len(encoding.one_hot))
    entries = 0
    if encoding.sparse is not None:
        entries = max(-(-source.entries // max(source.rows or 1, 1)) for source in job.sources)
    if encoding.sloped or len(encoding.hashed) > 1:
        entries += len(encoding.one_hot)
    encoded += 4 * (1 + wider) * entries
    names, at_a_time = job.roles.columns, block_bytes(encoding.size)
    row = max(source.row_bytes(names) for source in job.sources)
    row += ENTRY_BYTES * entries + 2 * encoded + encoding.prepared_bytes
    # As many rows as a product takes at a time, which then copies nothing, unless text is wide.
    at_once = min(at_a_time // max(encoded, 1), WIDEST * BLOCK_BYTES // row, MOST_ROWS)
    at_once = max(at_once, LEAST_ROWS)
    # Blocks as they are read, and the chunks that a product puts together from them.
    held = BLOCKS_HELD * (at_once * row + 2 * max(at_a_time, encoded * LEAST_ROWS))
    held += max(source.reading_bytes(names, at_once) for source in job.sources)
    needed = held + descent_bytes(job, rows, ROW_BYTES, FEATURE_BYTES)
    if job.request.l2 != AUTO:
        return FitPlan(needed, at_once, rows)
    targets = 1 if job.is_tested else 1 + probes_for(max(rows, 1))
    block = min(BLOCK_BYTES // max(encoded, 1), row_stream.MOST_ROWS, max(rows, 1))
    of_column = COLUMN_ROW_BYTES * rows + COLUMN_FEATURE_BYTES * encoding.size
    if job.checkpoint is not None:
        of_column += checkpoint.ROW_BYTES * rows + checkpoint.FEATURE_BYTES * encoding.size
    column = wider * (of_column + COLUMN_BLOCK_BYTES * block)
    most = int((job.memory.limit - needed) // (column * targets))
    width = max(min(most, MOST_WIDTH), 1)
    if job.checkpoint is not None and job.checkpoint.width is not None:
        width = job.checkpoint.width  # the width of the fit that is resumed
    return FitPlan(needed + width * targets * column, at_once, rows, width)


def fit_in_files(job: Job, plan: FitPlan) -> Fitted:
    """Read everything once for its vectors, again in each pass of a descent, and for the figures.

    Raises:
      DataError: for values that cannot be used, too few rows, or a constant target.
    """
    return_what_is_freed()
    is_alone = processes.is_alone()
    units = {} if is_alone or job.checkpoint is None else job.checkpoint.units()
    vectors = Vectors(job, plan.rows, has_others=False, shift=units.get("shift"))
    vectors.read_all(plan.at_once)
    if units:  # the units of the fit that is resumed
        vectors.use(units)
    source = EncodedRows(job, vectors, plan.at_once)
    options = {"categorical": source.categorical, "sparse": source.sparse, "dtype": vectors.dtype}
    weight, filled = vectors.training_weight, None
    if is_alone:
        design, placed = Streamed(source, job.encoding.numbers, **options), jnp.asarray
    else:
        design = shared_rows.streamed(source, job.encoding.numbers, **options)
        placed = functools.partial(shared_rows.vector_of_rows, design)
        weight = np.ones(vectors.filled) if weight is None else weight
        rows = design.facts.rows
        if not vectors.counts.dropped and shared_rows.are_full(rows, design.facts.over.parts):
            filled = rows, design.shape[0]
        if job.checkpoint is not None:
            job.checkpoint.check_rows(rows, vectors.counts.dropped)
            if not units:
                job.checkpoint.keep_units(vectors.units)

    def figures(
        encoding: Encoding, objective: Any, params: Any, weights: np.ndarray, intercept: float
    ) -> list[PartFigures]:
        del objective, params
        own = job._replace(roles=job.roles._replace(features=encoding))
        return _figures(own, plan, (weights, intercept), vectors.mean)

    as_design = RowsAsDesign(
        design,
        "that stay in the files",
        method_of(job.request.method, IN_FILES),
        placed,
        weight,
        functools.partial(_attempts, job),
        figures,
        lambda: ("at least ", _free_constants(job)),
        plan.width,
        filled,
    )
    fitted = fit_design(job, vectors, as_design)
    read = 2 * vectors.counts.read + source.rows_read
    return fitted._replace(rows_read=read, passes=2 + design.passes, test_passes=2)


def _attempts(job: Job, objective: LinearRegression) -> Try:
    """Descents that share each pass: the penalties, and the targets of each, are outputs of one
    regression, each a problem of its own to LSMR.
    """
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

    return attempt


def _figures(
    job: Job, plan: FitPlan, params: tuple[np.ndarray, float], center: float
) -> list[PartFigures]:
    """How well both parts are predicted, in float64: one more pass over all sources."""
    (weights, intercept), sums, counts = params, np.zeros((2, 4)), [0, 0]
    for prepared, _ in prepared_blocks(job, Preparing.of(job), plan.at_once):
        predicted = job.encoding.product(prepared.encoded, weights) + intercept
        for part, own in enumerate(prepared.parts):
            rows = slice(None) if own is None else own
            y = np.asarray(prepared.target.values[rows], np.float64)
            s = np.ones(y.size) if prepared.weight is None else prepared.weight[rows]
            about, error = y - center, predicted[rows] - y
            sums[part] += s.sum(), s @ about, s @ np.square(about), s @ np.square(error)
            counts[part] += y.size
    sums, counts = processes.added(sums), processes.added(np.array(counts)).tolist()
    return [
        part_of(counts[part], error, squares - about**2 / weight, weight)
        for part, (weight, about, squares, error) in enumerate(sums.tolist())
        if counts[part]
    ]


def _free_constants(job: Job) -> int:
    """How many constants the levels leave free at least, as far as is known without the codes."""
    encoding = job.encoding
    return 0 if job.request.missing == "mean" else len(encoding.levels.keys() - encoding.sloped)
