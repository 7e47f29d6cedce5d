"""The features of the rows of a block, by an encoding: numbers, and one-hot and sparse ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy import sparse

from jaxdescent.fit.encoding import Encoding
from jaxdescent.rows import Block, DataError, Source
from jaxdescent.rows.hashing import buckets_of

ADVICE = "--missing drop leaves such rows out, --missing mean puts the column's mean there"
"""What to do about a missing value that a fit refuses."""

NONE = -1
"""The place of a value that is none of the known levels."""

MOST = 1e150
"""Numbers beyond this have squares that overflow."""


class Encoded(NamedTuple):
    """The features of the rows of a block."""

    numbers: np.ndarray  # (rows, numbers), float64, or float32 as the data where that is asked for
    others: Any  # (rows, others), the one-hot and sparse features as a matrix of SciPy, or None
    kept: np.ndarray | None  # which rows lack no value, (rows,); None for all
    unseen: np.ndarray  # how many values of each row were none of the levels, (rows,)


def product(numbers: np.ndarray, others: Any, weights: np.ndarray) -> np.ndarray:
    """Features, numbers and others side by side, times weights, (rows,)."""
    count = numbers.shape[1]
    with np.errstate(invalid="ignore", over="ignore"):
        made = numbers @ weights[:count]
        return made if others is None else made + others @ weights[count:]


def encode(
    encoding: Encoding,
    block: Block,
    source: Source,
    *,
    missing: str = "error",
    unseen: str = "error",
    advice: str = ADVICE,
    dtype: Any = np.float64,
) -> Encoded:
    """The features of a block of a source; under "drop" those of rows that lack one are zeros.

    ``unseen``, "error" or "zero", is what becomes of levels and indices that no training row
    had, and ``advice`` what to do about a missing value that is refused.

    Raises:
      DataError: for missing, infinite and unseen values, with their row.
    """
    derived = [name for name in encoding.numbers if encoding.made_of[name] != ((name,), ())]
    derived += [name for name in encoding.numbers if name in encoding.parts]
    frame = (
        encoding.made(block, [*derived, *encoding.one_hot]) if derived or encoding.one_hot else None
    )
    if not derived:
        own = np.float64 if block.matrix is None else np.result_type(block.matrix.dtype, dtype)
        numbers = block.numbers(encoding.numbers, own)
    else:
        assert frame is not None
        numbers = np.empty((len(encoding.numbers), block.rows)).T
        for j, name in enumerate(encoding.numbers):
            own = frame[name].to_numpy() if name in derived else None
            numbers[:, j] = block.numbers([name], np.float64)[:, 0] if own is None else own
    lacking = np.zeros(block.rows, bool)
    with np.errstate(over="ignore", invalid="ignore"):
        is_whole = bool(np.isfinite(numbers.sum(axis=0)).all())
    if not is_whole:
        numbers = _filled(encoding, numbers, lacking, (block, source, missing, advice))
    others, unknown = list[Any](), np.zeros(block.rows, np.int64)
    if encoding.one_hot:
        assert frame is not None
        made, unknown = _one_hot(encoding, frame, lacking, (block, source, missing, advice), unseen)
        others.append(made)
    if encoding.sparse is not None:
        made, more = _of_sparse(encoding, block, source, unseen)
        others, unknown = [*others, made], unknown + more
    joined = others[0] if len(others) == 1 else sparse.hstack(others, "csr") if others else None
    kept = ~lacking if missing == "drop" and lacking.any() else None
    return Encoded(numbers, joined, kept, unknown)


def _filled(encoding: Encoding, numbers: np.ndarray, lacking: np.ndarray, where: Any) -> np.ndarray:
    """The numbers with means in place of missing ones, where that is asked for."""
    block, source, missing, advice = where
    is_lacking, numbers = np.isnan(numbers), numbers.copy("K")
    for j, name in enumerate(encoding.numbers):
        wrong = np.abs(numbers[:, j]) > MOST
        if wrong.any():
            row = int(np.argmax(wrong))
            what = "infinite" if np.isinf(numbers[row, j]) else "too large for its square"
            place = source.place(block.start + row)
            raise DataError(f"{name!r} is {what} in {place}: correct the data, or divide it.")
        if is_lacking[:, j].any():
            if missing == "error":
                raise lacking_value(name, block, source, int(np.argmax(is_lacking[:, j])), advice)
            numbers[is_lacking[:, j], j] = encoding.fills.get(name, 0.0)
    if missing == "drop":
        lacking |= is_lacking.any(axis=1)
    return numbers


def _one_hot(
    encoding: Encoding, frame: pl.DataFrame, lacking: np.ndarray, where: Any, unseen: str
) -> tuple[Any, np.ndarray]:
    block, source, missing, advice = where
    rows, spans, unknown = frame.height, encoding.spans(), np.zeros(frame.height, np.int64)
    places = np.empty((rows, len(spans)), np.int32)
    values = np.ones((rows, len(spans)))
    for k, (name, first, size) in enumerate(spans):
        labels = frame[name]
        is_missing = labels.is_null().to_numpy()
        if name in encoding.levels:
            codes = labels.cast(encoding.enums[name], strict=False).to_physical()
            code = codes.cast(pl.Int32).fill_null(NONE).to_numpy()
        else:
            _, bucket = buckets_of(labels.fill_null(""), name, encoding.bits)
            code = places_among(encoding.buckets, bucket)
            code[is_missing] = NONE
        if f"* {name}" in frame.columns:
            slope = frame[f"* {name}"]
            is_missing |= slope.is_null().to_numpy()
            values[:, k] = slope.fill_null(0.0).to_numpy()
            if (np.abs(values[:, k]) > MOST).any():
                row = int(np.argmax(np.abs(values[:, k]) > MOST))
                raise DataError(
                    f"{name!r} is infinite or too large in {source.place(block.start + row)}: "
                    "correct the data."
                )
        if is_missing.any():
            if missing == "error":
                raise lacking_value(name, block, source, int(np.argmax(is_missing)), advice)
            lacking |= is_missing if missing == "drop" else False
        absent = (code == NONE) & ~is_missing
        if name in encoding.levels and absent.any():
            # A bucket that no training row touched has the weight zero: nothing is unseen.
            unknown += absent
            row = int(np.argmax(absent))
            if unseen == "error":
                raise DataError(
                    f"{name!r} is {labels[row]!r} in {source.place(block.start + row)}, which "
                    f"is none of the {size:,} levels of the training rows: --unseen zero gives "
                    "it the weight zero."
                )
        places[:, k] = np.where(code == NONE, NONE, code + first)
    is_there = places != NONE
    starts = np.concatenate([[0], np.cumsum(is_there.sum(axis=1))])
    width = encoding.size - len(encoding.numbers) - len(encoding.indices)
    entries = values[is_there], places[is_there], starts
    return sparse.csr_matrix(entries, shape=(rows, width)), unknown


def _of_sparse(
    encoding: Encoding, block: Block, source: Source, unseen: str
) -> tuple[Any, np.ndarray]:
    """The sparse column's entries at the known indices, and how many others it has."""
    X = sparse.csr_matrix(block.column(encoding.sparse or ""))
    if not (np.abs(X.data) <= MOST).all():
        at = int(np.argmin(np.abs(X.data) <= MOST))
        row = int(np.searchsorted(X.indptr, at, "right")) - 1
        place = source.place(block.start + row)
        raise DataError(
            f"'{encoding.sparse}{X.indices[at]}' is NaN or infinite in {place}: correct the data."
        )
    place = places_among(encoding.indices, X.indices)
    unknown = (place == NONE) & (X.data != 0)
    if unseen == "error" and unknown.any():
        at = int(np.argmax(unknown))
        row = int(np.searchsorted(X.indptr, at, "right")) - 1
        raise DataError(
            f"'{encoding.sparse}{X.indices[at]}' in {source.place(block.start + row)} is none of "
            f"the {len(encoding.indices):,} indices of the training rows: --unseen zero gives it "
            "the weight zero."
        )
    here = place != NONE
    starts, counts = (np.concatenate([[0], np.cumsum(each)])[X.indptr] for each in (here, unknown))
    entries = X.data[here].astype(np.float64), place[here], starts
    return sparse.csr_matrix(entries, shape=(block.rows, len(encoding.indices))), np.diff(counts)


def places_among(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The place of each value among the sorted ones that are known, int32; -1 where it is none.

    >>> places_among(np.array([2, 5]), np.array([5, 3, 2, 9])).tolist()
    [1, -1, 0, -1]
    """
    place = np.searchsorted(known, values)
    is_known = np.append(known, -1)[place] == values
    return np.where(is_known, place, NONE).astype(np.int32)


def lacking_value(
    name: str, block: Block, source: Source, row: int, advice: str = ADVICE
) -> DataError:
    """The error about a missing value."""
    what = "has no value"
    if (
        name in block.index
        or not isinstance(block.columns, pl.DataFrame)
        or (name in block.columns.columns and block.columns[name][row] is not None)
    ):
        what = "is NaN"
    return DataError(f"{name!r} {what} in {source.place(block.start + row)}: {advice}.")
