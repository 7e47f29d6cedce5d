"""Part 5: a regression on real rows with 2^33 weights, of which some are touched.

It predicts what an editor guesses after each line of source code: how far the next line is
indented. Each row has about fifty n-grams of words, each hashed to one of 2^33 columns. A weight
whose column no row touches is zero at the minimum, so that the regression on the touched columns is
the whole one: no work is done for the others, and none is claimed.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import source_text
from jaxdescent.breakdown.measure import certified, ended, measure_once, status_in_words
from jaxdescent.breakdown.real_data import r_squared
from jaxdescent.breakdown.report import PartReport, PlottedPoint, Settings, Table, busy
from jaxdescent.breakdown.source_text import BITS, FEATURES, Lines
from jaxdescent.display import readable_seconds
from jaxdescent.machine.memory import readable_bytes

HELD_OUT_SHARE = 0.2
L2 = 30.0
TOLERANCE = 1e-6
MAX_ITERATIONS = 3_000
FEWER_BITS = 20
SHOWN_ROWS, SHOWN_WIDTH = 4, 40
SERIES = "descent, real rows of 2³³ columns"


class Split(NamedTuple):
    """Some of the lines: their n-grams, and the indentation that is to be predicted."""

    row: np.ndarray  # (entries,)
    column: np.ndarray  # (entries,)
    y: np.ndarray  # (rows,)
    line: np.ndarray  # (rows,): which lines they are

    @classmethod
    def of(cls, lines: Lines, is_in: np.ndarray) -> Split:
        """The lines where ``is_in``."""
        place = np.cumsum(is_in) - 1
        mine = is_in[lines.row]
        index = np.flatnonzero(is_in)
        return cls(place[lines.row[mine]], lines.column[mine], lines.next_indent[is_in], index)


def run(settings: Settings, console: Console) -> PartReport:
    """Read the text, fit, certify, and predict the lines of files that were held out."""
    with busy(console, "reading source code"):
        lines = _read(settings.seed, settings.extent.most_lines)
    if lines is None:
        return PartReport(
            sentences=("The standard library's source code is not on this machine: left out.",),
            numbers={"lines": 0},
        )
    files = max(1, round(HELD_OUT_SHARE * lines.files))  # they were drawn at random
    is_held_out = lines.file < files
    kept, held_out = Split.of(lines, ~is_held_out), Split.of(lines, is_held_out)
    with busy(console, "making the design"):
        began = time.perf_counter()
        X = jd.Hashed(kept.row, kept.column, shape=(kept.y.size, FEATURES))
        making = time.perf_counter() - began
        X_held_out = X.of_rows(held_out.row, held_out.column, rows_in_all=held_out.y.size)
    regression = jd.LinearRegression(X, jnp.asarray(kept.y), l2=L2)
    with busy(console, f"regression with {X.shape[1]:,} touched weights"):
        result, seconds, extra_bytes = measure_once(
            lambda: jd.minimize(regression, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS)
        )
    with busy(console, "certifying"):
        certificate = jd.certify(regression, result)
    predicted = np.asarray(regression.predict(result.params, X_held_out))
    numbers = {
        "data": "the standard library of Python",
        "digest": lines.digest,
        "files": lines.files,
        "held_out_files": files,
        "rows": kept.y.size,
        "held_out_rows": held_out.y.size,
        "entries": X.entries,
        "entries_a_row": kept.row.size / kept.y.size,
        "weights": X.features,
        "touched_weights": X.shape[1],
        "untouched_weights": X.features - X.shape[1],
        "distinct_ngrams": _distinct(lines.ngram[~is_held_out[lines.row]]),
        "touched_at_20_bits": _distinct(kept.column >> np.uint64(BITS - FEWER_BITS)),
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
        "r2": r_squared(kept.y, regression.predict(result.params, X)),
        "r2_held_out": r_squared(held_out.y, predicted),
        "r2_held_out_of_no_change": r_squared(held_out.y, lines.indent[is_held_out]),
        **certified(certificate),
    }
    return _report(numbers, _examples(lines, held_out, predicted))


def _read(seed: int, most: int) -> Lines | None:
    """Lines of files in random order."""
    files = source_text.library_files()
    order = np.random.default_rng(seed).permutation(len(files))
    lines = source_text.read([files[place] for place in order], most)
    return lines if lines.files > 1 and lines.file.size else None


def _distinct(numbers: np.ndarray) -> int:
    return int(np.unique(numbers).size)


def _examples(lines: Lines, held_out: Split, predicted: np.ndarray) -> Table:
    rows = []
    for place in np.linspace(0, held_out.y.size - 1, SHOWN_ROWS + 2, dtype=np.int64)[1:-1]:
        index = held_out.line[place]
        rows.append(
            (
                lines.text[index].strip()[:SHOWN_WIDTH],
                f"{lines.indent[index]:.0f}",
                f"{held_out.y[place]:.0f}",
                f"{predicted[place]:.1f}",
            )
        )
    return Table(
        title="Lines of files held out, and where the next one begins",
        columns=("line", "its column", "next", "predicted"),
        rows=tuple(rows),
    )


def _report(row: dict[str, Any], examples: Table) -> PartReport:
    share = row["touched_weights"] / row["weights"]
    shared = row["distinct_ngrams"] - row["touched_weights"]
    lost = row["distinct_ngrams"] - row["touched_at_20_bits"]
    whole = readable_bytes(4.0 * row["weights"])
    figures = {
        "weights": f"{row['weights']:,}",
        "of these touched by some row": f"{row['touched_weights']:,}",
        "iterations": f"{row['iterations']:,}",
        "time, compilation included": readable_seconds(row["seconds"]),
        "value": f"{row['value']:.5g}",
        "of it above the minimum, an estimate": f"{row['suboptimality'] / row['value']:.0e}",
        "R² of the rows": f"{row['r2']:.4f}",
        "R² of files held out": f"{row['r2_held_out']:.4f}",
        "the same, if no indentation changed": f"{row['r2_held_out_of_no_change']:.4f}",
        "status": status_in_words(row),
    }
    return PartReport(
        sentences=(
            "How far is the next line of source code indented? Rows are lines of Python's standard "
            f"library: {row['rows']:,} to learn from and {row['held_out_rows']:,} of files held "
            f"out, with {row['entries_a_row']:.0f} n-grams each of the words in three lines, "
            f"hashed to 2^{BITS} = {row['weights']:,} columns; l2 = {row['l2']:g}.",
            f"{row['touched_weights']:,} of the weights ({share:.3%}) belong to a column that some "
            "row touches, and are coupled through the rows. All others are zero at the minimum, "
            f"by the penalty alone: they are neither stored ({whole}) nor iterated on, and none of "
            "the work below is theirs.",
        ),
        tables=(Table.of_figures(figures, "One regression"), examples),
        remarks=(
            f"What so many columns are for: of {row['distinct_ngrams']:,} different n-grams "
            f"{shared:,} share a column with another; in 2^{FEWER_BITS} columns {lost:,} would.",
            f"Certificate: {row['certificate']}. The untouched weights add eigenvalues of l2 "
            "alone.",
        ),
        verdict=(
            f"A regression on {row['rows']:,} real rows has {row['weights']:,} weights, of which "
            f"{row['touched_weights']:,} are touched and the others zero without work: "
            f"{status_in_words(row)} after {row['iterations']:,} iterations in "
            f"{readable_seconds(row['seconds'])}, R² {row['r2_held_out']:.3f} on files held out, "
            f"certified a {row['certificate_kind']}.",
        ),
        numbers=row,
        points=(
            PlottedPoint(
                SERIES, row["touched_weights"], row["extra_peak_bytes"], row["seconds"], True
            ),
        ),
    )
