"""Part 5: a regression on real rows with 2^33 weights, of which some are touched.

It predicts what an editor guesses after each line of source code: how far the next line is
indented. The lines are those of Python's own standard library, which every machine with Python has.
Each row has about fifty n-grams of the words of three lines, each hashed to one of 2^33 columns. A
weight whose column no row touches is zero at the minimum, so that the regression on the touched
columns is the whole one: no work is done for the others, and none is claimed.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
import sysconfig
import time
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import report
from jaxdescent.breakdown.measure import certified, ended, measure_once
from jaxdescent.breakdown.real_data import r_squared
from jaxdescent.breakdown.settings import Settings
from jaxdescent.display import Grid
from jaxdescent.rows.hashing import finalised, seed_of

HELD_OUT_SHARE = 0.2
L2 = 30.0
TOLERANCE = 1e-6
MAX_ITERATIONS = 3_000
FEWER_BITS = 20
SHOWN_ROWS, SHOWN_WIDTH = 4, 40
SERIES = "descent, real rows of 2³³ columns"


EXAMPLES = {
    "line": "{line}",
    "its column": "{column:.0f}",
    "next": "{next:.0f}",
    "predicted": "{predicted:.1f}",
}
FIGURES = {
    "weights": "{weights:,}",
    "of these touched by some row": "{touched_weights:,}",
    "iterations": "{iterations:,}",
    "time, compilation included": "{seconds:time}",
    "value": "{value:.5g}",
    "of it above the minimum, an estimate": "{relative_suboptimality:.0e}",
    "R² of the rows": "{r2:.4f}",
    "R² of files held out": "{r2_held_out:.4f}",
    "the same, if no indentation changed": "{r2_held_out_of_no_change:.4f}",
    "status": "{status:words}",
}

BITS = 33
FEATURES = 2**BITS

WORD = re.compile(r"\w+|[^\w\s]")
MOST_WORDS = 16
"""The most words of a line that are used, from its start on."""

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
"""Folders of a standard library that hold other packages, or are not installed everywhere."""

LARGEST_INDENT = 40


def run(settings: Settings, console: Console) -> report.PartReport:
    """Read the text, fit, certify, and predict the lines of files that were held out."""
    with report.busy(console, "reading source code"):
        lines = read(library_files(settings.seed), settings.most_lines)
    if lines.files < 2 or not lines.file.size:
        return report.PartReport(
            shown=("The standard library's source code is not on this machine: left out.",),
            numbers={"lines": 0},
        )
    files = max(1, round(HELD_OUT_SHARE * lines.files))  # they were drawn at random
    is_held_out = lines.file < files
    kept, held_out = lines.where(~is_held_out), lines.where(is_held_out)
    y = kept.next_indent
    with report.busy(console, "making the design"):
        began = time.perf_counter()
        X = jd.Hashed(kept.row, kept.column, shape=(y.size, FEATURES))
        making = time.perf_counter() - began
        X_held_out = X.of_rows(held_out.row, held_out.column, rows_in_all=held_out.file.size)
    regression = jd.LinearRegression(X, jnp.asarray(y), l2=L2)
    with report.busy(console, f"regression with {X.shape[1]:,} touched weights"):
        result, seconds, extra_bytes = measure_once(
            lambda: jd.minimize(regression, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS)
        )
    with report.busy(console, "certifying"):
        certificate = jd.certify(regression, result)
    predicted = np.asarray(regression.predict(result.params, X_held_out))
    numbers = {
        "data": "the standard library of Python",
        "digest": lines.digest,
        "files": lines.files,
        "held_out_files": files,
        "rows": y.size,
        "held_out_rows": held_out.file.size,
        "entries": X.entries,
        "entries_a_row": kept.row.size / y.size,
        "weights": X.features,
        "touched_weights": X.shape[1],
        "untouched_weights": X.features - X.shape[1],
        "distinct_ngrams": np.unique(kept.ngram).size,
        "touched_at_20_bits": np.unique(kept.column >> np.uint64(BITS - FEWER_BITS)).size,
        "held_out_entries_of_untouched_columns": held_out.row.size
        - int(np.isin(held_out.column, X.touched).sum()),
        "l2": L2,
        "dtype": "float32",
        "tolerance": TOLERANCE,
        "method": result.method,
        **ended(result),
        "making_seconds": making,
        "seconds": seconds,
        "extra_peak_bytes": extra_bytes,
        "value": float(result.value),
        "suboptimality": float(result.suboptimality),
        "r2": r_squared(y, regression.predict(result.params, X)),
        "r2_held_out": r_squared(held_out.next_indent, predicted),
        "r2_held_out_of_no_change": r_squared(held_out.next_indent, held_out.indent),
        **certified(certificate),
    }
    return _report(numbers, _examples(held_out, predicted))


def _examples(held_out: Lines, predicted: np.ndarray) -> Grid:
    places = np.linspace(0, held_out.file.size - 1, SHOWN_ROWS + 2, dtype=np.int64)[1:-1]
    records = [
        {
            "line": held_out.text[place].strip()[:SHOWN_WIDTH],
            "column": held_out.indent[place],
            "next": held_out.next_indent[place],
            "predicted": predicted[place],
        }
        for place in places
    ]
    return report.table_of(
        "Lines of files held out, and where the next one begins", EXAMPLES, records
    )


def _report(numbers: dict[str, Any], examples: Grid) -> report.PartReport:
    known = numbers | {
        "relative_suboptimality": numbers["suboptimality"] / numbers["value"],
        "share": numbers["touched_weights"] / numbers["weights"],
        "shared": numbers["distinct_ngrams"] - numbers["touched_weights"],
        "lost": numbers["distinct_ngrams"] - numbers["touched_at_20_bits"],
        "whole": 4.0 * numbers["weights"],
    }
    point = report.PlottedPoint(
        SERIES, known["touched_weights"], known["extra_peak_bytes"], known["seconds"], True
    )
    return report.PartReport.of(
        known,
        shown=(
            "How far is the next line of source code indented? Rows are lines of Python's standard "
            "library: {rows:,} to learn from and {held_out_rows:,} of files held out, with "
            "{entries_a_row:.0f} n-grams each of the words in three lines, hashed to "
            f"2^{BITS} = {{weights:,}} columns; l2 = {{l2:g}}.",
            "{touched_weights:,} of the weights ({share:.3%}) belong to a column that some row "
            "touches, and are coupled through the rows. All others are zero at the minimum, by the "
            "penalty alone: they are neither stored ({whole:bytes}) nor iterated on, and none of "
            "the work below is theirs.",
            report.figures_of(FIGURES, known, "One regression"),
            examples,
            "What so many columns are for: of {distinct_ngrams:,} different n-grams {shared:,} "
            f"share a column with another; in 2^{FEWER_BITS} columns {{lost:,}} would.",
            "Certificate: {certificate}. The untouched weights add eigenvalues of l2 alone.",
        ),
        verdict=(
            "A regression on {rows:,} real rows has {weights:,} weights, of which "
            "{touched_weights:,} are touched and the others zero without work: {status:words} "
            "after {iterations:,} iterations in {seconds:time}, R² {r2_held_out:.3f} on files held "
            "out, certified a {certificate_kind}.",
        ),
        numbers=numbers,
        points=(point,),
    )


class Lines(NamedTuple):
    """Lines of source code, those of a file one after another."""

    file: np.ndarray  # (lines,), the number of the file that a line is of
    indent: np.ndarray  # (lines,), columns before the first word
    next_indent: np.ndarray  # (lines,), columns before the first word of the next line
    row: np.ndarray  # (entries,), the line that an n-gram belongs to
    ngram: np.ndarray  # (entries,), uint64: its hash, of 64 bits
    text: list[str]  # the lines themselves
    files: int  # how many files there are
    digest: str  # a hash of the whole text: the same text gives the same numbers

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


def library_files(seed: int) -> list[pathlib.Path]:
    """The files of the standard library, in random order."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    below = (path.relative_to(root) for path in root.rglob("*.py"))
    found = sorted(path.as_posix() for path in below if not LEFT_OUT & set(path.parts))
    return [root / found[place] for place in np.random.default_rng(seed).permutation(len(found))]


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
