"""Words and values as numbers of columns, many at a time, by a hash that never changes.

A word is read eight bytes at a time. A hash depends on the bytes, on their number and on the name
of the column, so that one word in two columns makes two features.

>>> import numpy as np
>>> text = np.frombuffer(b"a rose is a rose", np.uint8)
>>> starts, places = places_of_texts(
...     text, np.array([0, 9, 16]), column="line", bits=20, are_words=True
... )
>>> starts.tolist(), bool(places[0] == places[3]), len(set(places.tolist()))
([0, 3, 5], True, 3)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

LAST_SPACE = 32
"""The largest byte that separates words: the space, tabs, ends of lines and control characters."""

SLICE_BYTES = 1 << 18
"""About how many bytes of text are hashed at a time, so that all arrays stay in the cache."""

WORD = 8
"""Bytes that are mixed into a hash at a time."""

TOGETHER, MOST_SLICE_BYTES = 256, 1 << 25
"""How many long texts are hashed at a time, and the most bytes of them."""

MOST_BITS = 30
"""The most bits of a hash: a vector of ``2**bits`` numbers has to be in memory."""

FIRST, SECOND, LENGTH = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xD6E8FEB86659FD93),
    np.uint64(0xC2B2AE3D27D4EB4F),
)
"""Odd multipliers with about as many one bits as zeros: of SplitMix64, rrmxmx and xxHash64."""

KEPT = np.array([(1 << 8 * count) - 1 for count in range(WORD + 1)], np.uint64)
"""Masks of the first ``count`` bytes of eight, by ``count``."""


def buckets_of(
    texts: pl.Series, column: str, bits: int, *, are_words: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The hashed features of the texts of a column, none of which is missing, or of all words of
    each: where those of each row begin and the last one's end, (rows + 1,), and their numbers,
    int32, below ``2**bits``.
    """
    import polars as pl

    texts = texts.cast(pl.String)
    lengths = texts.str.len_bytes().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    text = np.frombuffer(texts.str.join("").item().encode() if len(texts) else b"", np.uint8)
    return places_of_texts(text, offsets, column=column, bits=bits, are_words=are_words)


def places_of_texts(
    text: np.ndarray, offsets: np.ndarray, *, column: str, bits: int, are_words: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The hashed features of some texts, or of all words of them: where those of each row begin
    and the last one's end, (rows + 1,), and their places, int32, below ``2**bits``.

    The texts are one after another in ``text``, uint8; ``offsets``, (rows + 1,), tell where each
    begins and the last one ends.
    """
    offsets = np.asarray(offsets, np.int64)
    seed, counts, places = seed_of(column), np.ones(len(offsets), np.int64), [np.zeros(0, np.int32)]
    counts[0] = 0
    # A long text takes as many steps as it has words of eight bytes: texts take theirs together.
    longest = 0 if are_words else int(np.diff(offsets).max(initial=0))
    most = max(SLICE_BYTES, min(TOGETHER * longest, MOST_SLICE_BYTES))
    for first, last in row_ranges(offsets, most):
        own = offsets[first : last + 1] - offsets[first]
        piece = text[offsets[first] : offsets[last]]
        begins, ends = own[:-1], own[1:]
        if are_words:
            begins, ends = _words(piece, own)
            counts[first + 1 : last + 1] = np.diff(np.searchsorted(begins, own))
        places.append(_placed(_hashed(piece, begins, ends - begins, seed), bits))
    return np.cumsum(counts), np.concatenate(places)


def places_of_numbers(numbers: np.ndarray, *, column: str, bits: int) -> np.ndarray:
    """The hashed feature of each of some whole numbers, in their shape."""
    with np.errstate(over="ignore"):
        return _placed(_mixed(numbers.astype(np.uint64) ^ seed_of(column)), bits)


def seed_of(column: str) -> np.uint64:
    """The seed of a column's hashes, so that equal values of two columns differ."""
    digest = hashlib.blake2b(column.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _words(text: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words begin and end: at spaces, and at the ends of rows."""
    is_letter = text > LAST_SPACE
    if not text.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    is_first, is_last = is_letter.copy(), is_letter.copy()
    is_first[1:] &= ~is_letter[:-1]
    is_last[:-1] &= ~is_letter[1:]
    begins, ends = offsets[:-1], offsets[1:]
    there = ends > begins
    begins, ends = begins[there], ends[there] - 1
    is_first[begins] = is_letter[begins]
    is_last[ends] = is_letter[ends]
    return np.flatnonzero(is_first), np.flatnonzero(is_last) + 1


def _hashed(
    text: np.ndarray, begins: np.ndarray, lengths: np.ndarray, seed: np.uint64
) -> np.ndarray:
    """A hash of each of these parts of the text, uint64."""
    padded = np.zeros(text.size + WORD, np.uint8)
    padded[: text.size] = text
    at = np.ndarray((text.size + 1,), "<u8", buffer=padded, strides=(1,))  # eight bytes from each
    with np.errstate(over="ignore"):
        state = lengths.astype(np.uint64)
        state *= LENGTH
        state ^= seed
        state = _mixed(state ^ _read(at, begins, lengths))
        done, longer = WORD, np.flatnonzero(lengths > WORD)
        while longer.size:
            rest = lengths[longer] - done
            state[longer] = _mixed(state[longer] ^ _read(at, begins[longer] + done, rest))
            done += WORD
            longer = longer[rest > WORD]
    return state


def _read(at: np.ndarray, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    word = at[begins]
    word &= KEPT[np.minimum(lengths, WORD)]
    return word


def finalised(state: np.ndarray) -> np.ndarray:
    """The states by SplitMix64's finaliser: each bit of a result depends on all bits.

    Reference: Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators".
    """
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _mixed(state: np.ndarray) -> np.ndarray:
    """The states mixed in place: each bit of the upper half then depends on all bits."""
    state *= FIRST
    state ^= state >> np.uint64(32)
    state *= SECOND
    return state


def _placed(state: np.ndarray, bits: int) -> np.ndarray:
    """The upper ``bits`` bits of the states, which are the best mixed."""
    return (state >> np.uint64(64 - bits)).astype(np.int32)


def row_ranges(starts: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about ``most`` entries; a longer row has its own range."""
    first, rows = 0, len(starts) - 1
    while first < rows:
        last = int(np.searchsorted(starts, starts[first] + most, "right")) - 1
        last = min(max(last, first + 1), rows)
        yield first, last
        first = last
