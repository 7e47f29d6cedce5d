"""Lines of real text that every machine with Python has, as hashed n-grams of their words.

The text is the source code of Python's own standard library. Of each line the three lines up to it
are known; the target is the indentation of the next one, which an editor has to guess.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
import sysconfig
from typing import NamedTuple

import numpy as np

from jaxdescent.data.hashing import finalised, seed_of

BITS = 33
FEATURES = 2**BITS

WORD = re.compile(r"\w+|[^\w\s]")
MOST_WORDS = 16
"""The most words of a line that are used, from its start on."""

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
"""Folders of a standard library that hold other packages, or are not installed everywhere."""

LARGEST_INDENT = 40


class Lines(NamedTuple):
    """Lines of source code, those of a file one after another.

    Attributes:
      file: (lines,), the number of the file that a line is of.
      indent: (lines,), columns before the first word.
      next_indent: (lines,), columns before the first word of the next line.
      row: (entries,), the line that an n-gram belongs to.
      ngram: (entries,), uint64: its hash, of 64 bits.
      text: the lines themselves.
      files: how many files there are.
      digest: a hash of the whole text: the same text gives the same numbers.
    """

    file: np.ndarray
    indent: np.ndarray
    next_indent: np.ndarray
    row: np.ndarray
    ngram: np.ndarray
    text: list[str]
    files: int
    digest: str

    @property
    def column(self) -> np.ndarray:
        """(entries,), uint64: the hashed column of each n-gram, below 2^33."""
        return self.ngram >> np.uint64(64 - BITS)

    def where(self, is_in: np.ndarray) -> Lines:
        """Some of the lines, with their n-grams."""
        place, mine = np.cumsum(is_in) - 1, is_in[self.row]
        return self._replace(
            file=self.file[is_in],
            indent=self.indent[is_in],
            next_indent=self.next_indent[is_in],
            row=place[self.row[mine]],
            ngram=self.ngram[mine],
            text=[self.text[index] for index in np.flatnonzero(is_in)],
        )


def library_files() -> list[pathlib.Path]:
    """The files of the standard library, in the order of their names."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    below = (path.relative_to(root) for path in root.rglob("*.py"))
    found = sorted(path.as_posix() for path in below if not LEFT_OUT & set(path.parts))
    return [root / name for name in found]


def read(files: list[pathlib.Path], most_lines: int) -> Lines:
    """Lines of these files, whole files until there are ``most_lines``."""
    digest = hashlib.sha256()
    known: dict[str, int] = {}  # the number of each word
    kept: list[tuple[int, int, list[int], str]] = []  # file, indentation, words and text
    count = 0
    for path in files:
        if len(kept) >= most_lines:
            break
        text = path.read_text(encoding="utf-8", errors="replace")
        digest.update(text.encode())
        for line in text.expandtabs(8).splitlines():
            if words := WORD.findall(line)[:MOST_WORDS]:
                indent = min(len(line) - len(line.lstrip()), LARGEST_INDENT)
                numbers = [known.setdefault(word, len(known)) for word in words]
                kept.append((count, indent, numbers, line))
        count += 1
    file = np.array([file for file, _, _, _ in kept], np.int64)
    indents = np.array([indent for _, indent, _, _ in kept], np.uint64)
    length = np.array([len(words) for _, _, words, _ in kept], np.int64)
    flat = np.array([word for _, _, words, _ in kept for word in words], np.int64)
    hashes = np.array([seed_of(word) for word in known], np.uint64)
    row, ngram = _ngrams(hashes[flat], length, indents, file)
    indent, texts = indents.astype(np.float32), [text for _, _, _, text in kept]
    found = Lines(file, indent, np.roll(indent, -1), row, ngram, texts, count, digest.hexdigest())
    # The last line of a file has none after it.
    return found.where(np.append(file[1:] == file[:-1], False)[: file.size])


def _ngrams(
    word: np.ndarray, length: np.ndarray, indent: np.ndarray, file: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The line and the hash of every n-gram, about fifty a line."""
    lines = length.size
    line = np.repeat(np.arange(lines), length)
    start = np.cumsum(length) - length
    rows: list[np.ndarray] = []
    hashes: list[np.ndarray] = []

    def add(kind: int, row: np.ndarray, *parts: np.ndarray) -> None:
        value = np.full(row.size, kind, np.uint64)
        for part in parts:
            value = finalised((value ^ part) + np.uint64(0x9E3779B97F4A7C15))
        rows.append(row)
        hashes.append(value)

    def of_lag(lag: int, row: np.ndarray) -> np.ndarray:
        """Whether the line ``lag`` lines below these is one of the same file."""
        later = np.minimum(row + lag, lines - 1)
        return (row + lag < lines) & (file[later] == file[row])

    # Words of this line and of the two above: alone, in pairs and in triples.
    for lag, most in ((0, 3), (1, 2), (2, 1)):
        for size in range(1, most + 1):
            first = np.arange(word.size - size + 1)
            first = first[line[first] == line[first + size - 1]]
            first = first[of_lag(lag, line[first])]
            parts = [word[first + place] for place in range(size)]
            add(10 * size + lag, line[first] + lag, *parts)
    # Indentations, and the first and the last word with them.
    every = np.arange(lines)
    first, last = word[start], word[start + length - 1]
    add(101, every, indent)
    add(102, every, indent, first)
    add(103, every, indent, last)
    add(104, every, first, last)
    for lag in (1, 2):
        above = every[of_lag(lag, every)]
        below = above + lag
        add(110 + lag, below, indent[above], indent[below])
        add(120 + lag, below, indent[above], indent[below], last[below])
        add(130 + lag, below, indent[above], indent[below], last[above], first[below])
    return np.concatenate(rows), np.concatenate(hashes)
