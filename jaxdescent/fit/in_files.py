"""A fit of rows that do not fit in memory, of more features than sums: they are read in each pass.

Vectors are in memory: what has a number for each row (target, weight, residuals) or each feature.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.data import DataError
from jaxdescent.data.freeing import return_what_is_freed
from jaxdescent.data.read_ahead import BLOCKS_HELD
from jaxdescent.data.row_stream import BLOCK_BYTES, block_bytes
from jaxdescent.designs import Streamed
from jaxdescent.fit.budget import MOST_ROWS, resident_bytes
from jaxdescent.fit.checks import check_rows, check_target, row_notes
from jaxdescent.fit.descending import details_of, told
from jaxdescent.fit.encoded_rows import ENTRY_BYTES, EncodedRows, numbers_of
from jaxdescent.fit.encoding import Encoding, Policy
from jaxdescent.fit.fitted import Fitted, Part, part_of
from jaxdescent.fit.in_memory import STARTING_BYTES, located_blocks
from jaxdescent.fit.job import Job
from jaxdescent.fit.methods import IN_FILES, method_of
from jaxdescent.fit.roles import AUTO
from jaxdescent.fit.rows import means_of
from jaxdescent.fit.start import Start
from jaxdescent.fit.sums import TEST, TRAIN, Prepared, Preparing, not_finite
from jaxdescent.regression import LinearRegression

ROW_BYTES, FEATURE_BYTES = 100, 320
"""A row and a feature: the vectors of the descent, on both sides of the products, and levels'
places."""

LEAST_ROWS, WIDEST = 64, 4
"""Of a block: its fewest rows, and how many times the bytes of a product's block it may take."""


@dataclasses.dataclass(frozen=True)
class FilesPlan:
    """What reading and the descent take.

    Attributes:
      rows: of all sources.
      at_once: how many of them are read at a time.
      bytes: that the process holds at its peak.
    """

    rows: int
    at_once: int
    bytes: int


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
    vectors = wider * (ROW_BYTES * rows + FEATURE_BYTES * encoding.size)
    return FilesPlan(rows, at_once, resident_bytes() + STARTING_BYTES + held + vectors)


def obstacle(job: Job) -> str:
    """Why rows that stay in files cannot be fitted like this, and what to do; nothing if they can.

    It goes on after "cannot be fitted".
    """
    request = job.request
    if request.l2 == AUTO:
        return "with --l2 auto, which would read them for every penalty: say --l2 with a number"
    if request.standardize:
        return "with --standardize: divide the columns by their deviations, or leave it out"
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
    vectors = _Vectors(job, preparing, plan.rows, dtype)
    for prepared, is_other in _blocks(job, preparing, plan):
        vectors.add(prepared, is_other=is_other)
    vectors.close()
    mean, spread = vectors.mean, vectors.spread
    weight = vectors.training_weight
    source = EncodedRows(
        job,
        preparing,
        rows=vectors.filled,
        at_once=plan.at_once,
        shift=vectors.shift,
        fills=vectors.fills,
        dtype=dtype,
    )
    design = Streamed(
        source,
        encoding.numbers,
        categorical=source.categorical,
        sparse=source.sparse,
        dtype=dtype,
    )
    objective = LinearRegression(
        design,
        jnp.asarray(((vectors.target - mean) / spread).astype(dtype)),
        l2=jnp.asarray(request.l2, dtype),
        sample_weight=None if weight is None else jnp.asarray(weight.astype(dtype)),
    )
    numbers = len(encoding.numbers)
    params = np.zeros(encoding.size), 0.0
    if start is not None:
        shifted = start.intercept + float(start.weights[:numbers] @ vectors.shift)
        params = start.weights / spread, (shifted - mean) / spread
    method = method_of(request.method, IN_FILES)
    names = "weights", "intercept"
    given = {name: jnp.asarray(each, dtype) for name, each in zip(names, params, strict=True)}
    result = told(job, objective, given, method, spread)
    weights = np.asarray(result.params["weights"], np.float64) * spread
    intercept = float(result.params["intercept"]) * spread + mean
    intercept -= float(weights[:numbers] @ vectors.shift)
    if request.missing == "mean":
        means = map(float, vectors.fills + vectors.shift)
        encoding = dataclasses.replace(
            encoding, fills=dict(zip(encoding.numbers, means, strict=True))
        )
        preparing = dataclasses.replace(preparing, encoding=encoding)
    parts = _figures(job, preparing, plan, (weights, intercept), mean)
    details = details_of(result, spread) | {
        "rank": None,
        "degrees_of_freedom": None,
        "l2": float(request.l2),
        "l2_chosen_by": None,
        "method": f"{result.method} on rows that stay in the files, in {dtype}",
        "dropped_rows": vectors.dropped,
        "unseen_values": vectors.unseen,
    }
    notes = _notes(job, encoding, vectors, start)
    read = 2 * vectors.read + source.rows_read
    return Fitted(
        encoding, weights, intercept, parts, details, notes, read, 2 + design.passes, test_passes=2
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


class _Vectors:
    """What a first pass leaves of all rows: targets and weights of those from the files that are
    read again, and counts of all.
    """

    def __init__(self, job: Job, preparing: Preparing, rows: int, dtype: Any) -> None:
        self._job, self._preparing, self._dtype = job, preparing, dtype
        numbers = len(preparing.encoding.numbers)
        self.target = np.empty(rows)
        self._weight = np.empty(rows) if job.roles.weights is not None else None
        self._is_test = np.zeros(rows, bool) if job.request.test else None
        self.shift = self.fills = np.zeros(numbers)
        self._sums, self._totals = np.zeros(numbers), np.zeros(numbers)
        self._counts, self._weights = [0, 0], [0.0, 0.0]
        self.filled = self.read = self.dropped = self.unseen = 0

    def add(self, prepared: Prepared, *, is_other: bool) -> None:
        """Keep what is needed of a block, and refuse values that cannot be used."""
        block, encoded, dtype = prepared.block, prepared.encoded, self._dtype
        if not self.read:
            self.shift = means_of(prepared)
        rows = slice(None) if encoded.keep is None else encoded.keep
        numbers = numbers_of(prepared, self.shift, np.zeros_like(self.shift), dtype)
        target = np.asarray(prepared.target.values[rows], np.float64)
        if not (np.isfinite(numbers).all() and np.isfinite(target).all()):
            raise not_finite(prepared, self._preparing.encoding, rows)
        weight = np.ones(block.rows) if prepared.weight is None else prepared.weight
        for part, own in enumerate(prepared.parts):
            self._counts[part] += prepared.rows_of(part)
            self._weights[part] += float(np.sum(weight if own is None else weight[own]))
        self.read += block.rows
        self.dropped += prepared.dropped
        self.unseen += encoded.unseen
        if is_other:
            return  # the descent does not read them
        train = np.zeros(block.rows, bool)
        chosen = prepared.parts[TRAIN]
        train[slice(None) if chosen is None else chosen] = True
        train = train[rows]
        place = slice(self.filled, self.filled + target.size)
        if place.stop > self.target.size:
            raise DataError("the data have more rows than when they were counted: fit again.")
        self.target[place] = target
        if self._weight is not None:
            self._weight[place] = weight[rows]
        if self._is_test is not None:
            self._is_test[place] = ~train
        self.filled = place.stop
        if self._preparing.policy.missing == "mean":
            s = np.where(train, weight[rows], 0.0)
            self._sums += s @ numbers
            self._totals += s.sum()
            for j, number in enumerate(encoded.numbers):
                if number.missing is not None:
                    self._totals[j] -= s[number.missing[rows]].sum()

    def close(self) -> None:
        """Forget the places of dropped rows, and refuse what no fit can do without."""
        job, kept = self._job, slice(0, self.filled)
        counts, weights = (self._counts[0], self._counts[1]), (self._weights[0], self._weights[1])
        check_rows(counts, weights, self.dropped, job.request, is_tested=job.is_tested)
        self.target = self.target[kept]
        self._weight = None if self._weight is None else self._weight[kept]
        self._is_test = None if self._is_test is None else self._is_test[kept]
        weight = self.training_weight
        s = np.ones(self.filled) if weight is None else weight
        self.mean = float(s @ self.target / weights[TRAIN])
        variance = float(s @ np.square(self.target - self.mean)) / weights[TRAIN]
        check_target(job.roles.target, counts[TRAIN], variance, self.mean)
        self.spread = float(np.sqrt(variance))
        there = self._totals > 0
        self.fills = np.where(there, self._sums / np.where(there, self._totals, 1.0), 0.0)

    @property
    def training_weight(self) -> np.ndarray | None:
        """(rows,), zero for held-out rows; None for ones."""
        if self._is_test is None:
            return self._weight
        return np.where(self._is_test, 0.0, 1.0 if self._weight is None else self._weight)


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
    return [
        part_of(counts[part], error, squares - about**2 / weight, weight)
        for part, (weight, about, squares, error) in enumerate(sums.tolist())
        if counts[part]
    ]


def _notes(job: Job, encoding: Encoding, vectors: _Vectors, start: Start | None) -> list[str]:
    notes: list[str] = []
    slopes = {name for name, each in encoding.interactions.items() if each.numbers}
    free = len(encoding.levels.keys() - slopes)
    if free and not job.request.l2 and job.request.missing != "mean":
        notes.append(
            f"The levels leave at least {free:,} constant{'s' * (free > 1)} free: the weights are "
            "one choice of many with the same predictions."
        )
    notes.extend(start.notes if start is not None else [])
    return [*notes, *row_notes(vectors.dropped, vectors.unseen)]
