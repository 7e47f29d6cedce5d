"""Fits of many features: a descent on rows that are read in each pass, or kept encoded where they
fit the memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.designs import Standardised, Streamed
from jaxdescent.designs.row_chunk import Chunk
from jaxdescent.fit.encoded import encode
from jaxdescent.fit.memory import BLOCK_BYTES
from jaxdescent.fit.options import AUTO
from jaxdescent.fit.penalty import HELD_OUT, Path, penalties_from
from jaxdescent.fit.rows import TEST, TRAIN, Job, Joined, encoded_rows, is_held_out
from jaxdescent.methods import LBFGS, LSMR, ConjugateGradient, Method
from jaxdescent.minimize import minimize
from jaxdescent.regression import LinearRegression
from jaxdescent.result import Result
from jaxdescent.rows import Block, DataError, Source
from jaxdescent.runs import run
from jaxdescent.runs.hooks import Checkpoint, Hook, Record
from jaxdescent.status import Status

ITERATIVE: dict[str, Callable[[], Method]] = {
    AUTO: LSMR,
    "lsmr": LSMR,
    "cg": ConjugateGradient,
    "lbfgs": LBFGS,
}

MOST_ITERATIONS, SEARCH_ITERATIONS = 1000, 100
"""The most iterations of a fit, and of a group of penalties."""

A_DECADE = 2
"""Penalties a decade that a search by descents tries."""

MOST_PENALTIES = 9
"""The most penalties that are tried at a time."""

SEARCH_SHARE = 0.2
"""The rows that a search holds out where none are: all are fitted with what it finds."""

STARTING_BYTES = 360 << 20
"""Bytes that JAX's compiler takes and keeps for a descent; a search compiles one more."""

ROW_BYTES, FEATURE_BYTES = 64, 160
"""Bytes of the vectors of a descent, for each row and each feature."""

COLUMN_BYTES = 128
"""Bytes for a row or a feature, for each penalty that is tried at a time."""


class Interrupted(KeyboardInterrupt):
    """A fit was interrupted, and is kept."""


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """The features of a job as a decoding of a streamed design: numbers less a shift."""

    job: Job
    shift: np.ndarray
    dtype: np.dtype[Any]
    others: int  # entries of a row behind the numbers

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return self.job.encoding.columns

    @property
    def features(self) -> int:
        """How many features there are."""
        return self.job.encoding.size

    @property
    def names(self) -> tuple[str, ...]:
        """What the features are made of, for digests."""
        return (repr(self.job.encoding.as_json()),)

    @property
    def row_bytes(self) -> int:
        """The bytes of a row's features."""
        size = self.dtype.itemsize
        return size * len(self.job.encoding.numbers) + (4 + size) * self.others

    @property
    def entries(self) -> int:
        """About how many features of a row are not zero."""
        return len(self.job.encoding.numbers) + self.others

    @property
    def sparse(self) -> bool:
        """Whether the lengths of columns differ much."""
        return self.others > 0

    def chunk(self, block: Block, source: Source, first: int) -> Chunk:
        """The features of a block; a row that lacks a value has weight zero, and any numbers."""
        encoded = encode(
            *(self.job.encoding, block, source),
            missing=self.job.options.missing,
            unseen="zero",
            dtype=self.dtype,
        )
        numbers = encoded.numbers
        numbers = (numbers - self.shift.astype(numbers.dtype)).astype(self.dtype, copy=False)
        others = [] if encoded.others is None else [encoded.others.astype(self.dtype)]

        def refuse() -> None:
            raise DataError(
                f"values around {source.place(first)} are too large: their squares overflow; "
                "divide them."
            )

        return Chunk(block.start, numbers, others, self.features, refuse)


class Vectors(NamedTuple):
    """The targets and weights of all rows of a source, and counts of them."""

    target: np.ndarray  # (rows,), zero for dropped rows
    weights: tuple[np.ndarray, np.ndarray]  # of the training and the held-out rows; zero for others
    rows: list[int]  # of each part
    dropped: int
    unseen: int
    shift: np.ndarray  # (numbers,), the means of the first block, as float32 holds them
    entries: int  # of a row behind the numbers, at most in the mean of a block

    @property
    def mean(self) -> float:
        """The mean of the training rows' targets."""
        return float(self.weights[TRAIN] @ self.target / self.weights[TRAIN].sum())

    @property
    def spread(self) -> float:
        """The standard deviation of the training rows' targets."""
        train = self.weights[TRAIN]
        return float(np.sqrt(train @ np.square(self.target - self.mean) / train.sum()))


def vectors_of(job: Job) -> Vectors:
    """The vectors over the rows, in one pass that refuses values and rows that no fit can use."""
    rows, dropped, unseen, at, entries = [0, 0], 0, 0, 0, 0
    shift = np.zeros(len(job.encoding.numbers))
    counts = [source.count() for source in job.sources]
    target, train, test = np.zeros((3, sum(counts)))
    for each in encoded_rows(job, "reading targets"):
        kept = each.kept + at
        if at == 0 and len(each.target):
            shift = each.numbers.mean(axis=0).astype(np.float32).astype(np.float64)
        weight = np.ones(len(each.target)) if each.weight is None else each.weight
        out = np.zeros(len(kept), bool) if each.is_test is None else each.is_test
        target[kept], train[kept], test[kept] = each.target, weight * ~out, weight * out
        rows = [rows[TRAIN] + int((~out).sum()), rows[TEST] + int(out.sum())]
        dropped, unseen, at = dropped + each.dropped, unseen + each.unseen, at + each.read
        if each.others is not None and len(kept):
            entries = max(entries, -(-each.others.nnz // len(kept)))
    return Vectors(target, (train, test), rows, dropped, unseen, shift, entries)


class Descended(NamedTuple):
    """The weights and the intercept of a descent in the units of the data, and its figures."""

    weights: np.ndarray
    intercept: float
    l2: float
    path: Path | None
    result: Result
    method: str
    square: float  # by which values are multiplied
    passes: int
    is_kept: bool  # whether rows were kept in memory


def descended(job: Job, vectors: Vectors, start: tuple[np.ndarray, float] | None) -> Descended:
    """The fit: targets less their mean are divided by their spread, and features by their scales
    where the penalty is on standardised weights.
    """
    options, memory = job.options, job.memory
    dtype = np.dtype(options.dtype or "float32")
    with jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext():
        encoder = Encoder(job, vectors.shift, dtype, vectors.entries)
        rows, features = len(vectors.target), job.encoding.size
        held = (
            STARTING_BYTES * (1 + (options.l2 == AUTO))
            + ROW_BYTES * rows
            + FEATURE_BYTES * features
        )
        memory.require(held + 4 * BLOCK_BYTES, f"a fit of {features:,} features")
        is_kept = memory.fits(held + 4 * BLOCK_BYTES + encoder.row_bytes * rows)
        source = job.source if job.test_source is None else Joined(job.sources)
        design: Any = Streamed.of(source, encoder, keeps=is_kept)
        reader = design.reader
        mean, spread = vectors.mean, vectors.spread
        target = ((vectors.target - mean) / spread).astype(dtype)
        train, held_out = vectors.weights
        scales, squares = np.ones(features), None
        if options.standardize or options.l2 == AUTO:
            center = np.asarray(design.transposed_product(train.astype(dtype))) / train.sum()
            norms = design.column_squared_norms(train.astype(dtype), jnp.asarray(center, dtype))
            squares = np.asarray(norms, np.float64)
            if options.standardize:
                scales = np.sqrt(np.where(squares > 0, squares / train.sum(), 1.0))
                design = Standardised(design, scale=jnp.asarray((1 / scales).astype(dtype)))
                squares = squares / np.square(scales)
        method, path, l2 = ITERATIVE[options.method](), None, options.l2
        problem = _Problem(job, design, target, dtype)
        if isinstance(l2, str):
            assert squares is not None
            is_own = held_out.any()
            out = held_out
            if not is_own:
                out = train * is_held_out(0, rows, SEARCH_SHARE, options.seed)
            path = problem.searched(penalties_from(squares, A_DECADE), train - out * ~is_own, out)
            l2 = float(path.penalties[path.best])
            if not is_own:  # the penalty of more rows
                l2 *= float(train.sum() / (train - out).sum())
                path = path._replace(rule=f"{SEARCH_SHARE:.0%} of the rows, held out to search")
        objective = problem.regression(l2, train)
        weights, b = (np.zeros(features), 0.0) if start is None else start
        numbers = len(vectors.shift)
        b = b + float(weights[:numbers] @ vectors.shift) if start is not None else mean
        params = {
            "weights": jnp.asarray(weights * scales / spread, dtype),
            "intercept": jnp.asarray((b - mean) / spread, dtype),
        }
        result = problem.minimised(objective, params, method, spread**2)
        weights = np.asarray(result.params["weights"], np.float64) * spread / scales
        intercept = float(result.params["intercept"]) * spread + mean
        intercept -= float(weights[:numbers] @ vectors.shift)
        name, square = repr(method), spread**2
        return Descended(weights, intercept, l2, path, result, name, square, reader.passes, is_kept)


class _Problem(NamedTuple):
    """A design and targets, for several penalties and weights of rows."""

    job: Job
    design: Any
    target: np.ndarray
    dtype: np.dtype[Any]

    def regression(self, l2: Any, weight: np.ndarray, columns: int = 0) -> LinearRegression:
        """The regression with a penalty, or with one for each of some columns of targets."""
        y = np.repeat(self.target[:, None], columns, axis=1) if columns else self.target
        return LinearRegression(
            self.design,
            jnp.asarray(y),
            l2=jnp.asarray(l2, self.dtype),
            sample_weight=jnp.asarray(weight.astype(self.dtype)),
        )

    def searched(self, penalties: np.ndarray, train: np.ndarray, out: np.ndarray) -> Path:
        """The penalties that were tried, from the largest down in groups that share each pass,
        until the best is followed by a group that is no better.
        """
        job, (rows, features) = self.job, self.design.shape
        free = max(job.memory.free - 4 * BLOCK_BYTES, 0) // 2
        width = int(np.clip(free // (COLUMN_BYTES * (rows + features)), 1, MOST_PENALTIES))
        downwards, scores, best = penalties[::-1], list[float](), 0
        job.watch.begin("searching", len(penalties), "penalties at most")
        for first in range(0, len(downwards), width):
            own = downwards[first : first + width]
            objective = self.regression(own, train, len(own))
            result = minimize(objective, method=LSMR(), max_iterations=SEARCH_ITERATIONS)
            params = result.params
            predicted = np.asarray(self.design.product(params["weights"]), np.float64)
            error = np.square(predicted + np.asarray(params["intercept"]) - self.target[:, None])
            scores += (out @ error / out.sum()).tolist()
            job.watch.advance(len(scores))
            job.memory.check("searching for a penalty", "raise --memory")
            best = int(np.argmin(scores))
            job.watch.tell(f"l2 {downwards[best]:.3g}, RMSE {scores[best] ** 0.5:.4g} spreads")
            if best + A_DECADE < len(scores) - 1:
                break
        count = len(scores)
        path = Path(downwards[:count][::-1], np.array(scores[::-1]), HELD_OUT, count - 1 - best)
        job.watch.searched(path.penalties, path.scores, path.best)
        return path

    def minimised(self, objective: Any, params: Any, method: Method, square: float) -> Result:
        """The minimum, in a run that is kept where that is asked for.

        Raises:
          Interrupted: after a signal, with what to say.
          DataError: where the checkpoint is of another problem, or cannot be read.
        """
        job, kept = self.job, self.job.checkpoint
        job.watch.begin("minimising", None, "iterations")
        saving = None if kept is None else Checkpoint(kept.folder)
        try:
            result = run(
                objective,
                params,
                method,
                max_iterations=MOST_ITERATIONS,
                hooks=[_Followed(job, square)],
                checkpoint=saving,
                resume=kept is not None and kept.resume,
            )
        except ValueError as error:
            if isinstance(error, DataError) or kept is None:
                raise
            raise DataError(f"{kept.folder}: {error}") from error
        if int(result.status) == Status.INTERRUPTED:
            if kept is None:
                raise KeyboardInterrupt
            raise Interrupted(
                f"iteration {int(result.iterations):,} is kept in {kept.folder}: the same command "
                "with --resume goes on."
            )
        return result


class _Followed(Hook):
    """Tells of each chunk of iterations."""

    def __init__(self, job: Job, square: float) -> None:
        self._job, self._square = job, square

    def report(self, record: Record) -> None:
        job, left = self._job, record.suboptimality * self._square
        value = record.value * self._square
        job.watch.iterated(value, left if np.isfinite(left) else np.nan)
        job.watch.advance(record.iteration)
        near = f", at most about {left:.3g} above the minimum" if np.isfinite(left) else ""
        job.watch.tell(f"loss {value:.6g}{near}")
        job.memory.check("iterating", "raise --memory")
