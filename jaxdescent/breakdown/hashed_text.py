"""Part 5: a regression on real rows with 2^33 weights, of which some are touched.

It predicts what an editor guesses after each line of source code: how far the next line is
indented. Each row has about fifty n-grams of words, each hashed to one of 2^33 columns. A weight
whose column no row touches is zero at the minimum, so that the regression on the touched columns is
the whole one: no work is done for the others, and none is claimed.
"""

from __future__ import annotations

import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console

import jaxdescent as jd
from jaxdescent.breakdown import report, source_text
from jaxdescent.breakdown.measure import certified, ended, measure_once
from jaxdescent.breakdown.real_data import r_squared
from jaxdescent.breakdown.settings import Settings
from jaxdescent.breakdown.source_text import BITS, FEATURES, Lines
from jaxdescent.display import Grid

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


def run(settings: Settings, console: Console) -> report.PartReport:
    """Read the text, fit, certify, and predict the lines of files that were held out."""
    with report.busy(console, "reading source code"):
        lines = _read(settings.seed, settings.most_lines)
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


def _read(seed: int, most: int) -> Lines:
    """Lines of files in random order."""
    files = source_text.library_files()
    order = np.random.default_rng(seed).permutation(len(files))
    return source_text.read([files[place] for place in order], most)


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
