"""Fixed effects of workers, firms and years beside SciPy on the same columns written out sparse.

A panel of 2,000,000 rows with 200,000 workers, 20,000 firms, 10 years and 5 covariates; a tenth of
it by default. Seconds are the best of a few runs after compilation, for which the contenders take
turns; the design is made before, and what that takes is shown by itself. Coefficients of the
covariates are compared with SciPy's LSMR at a tolerance of 1e-12 in float64.

With --parquet the panel is written to a Parquet file too, and `jaxdescent fit` fits it in a process
of its own: seconds and processor seconds are those of the whole process, imports and compilation
included, and memory is the most that it held.

    python -m benchmarks.studies.effects [--full] [--repeats R] [--parquet]
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.sparse
from scipy.sparse.linalg import lsmr

import jaxdescent as jd
from benchmarks.harness.process import ROOT
from benchmarks.harness.turns import timed

ROWS, WORKERS, FIRMS, YEARS, COVARIATES = 2_000_000, 200_000, 20_000, 10, 5


def panel(share: float) -> tuple[dict[str, tuple[np.ndarray, int]], np.ndarray, np.ndarray]:
    """Codes and levels by name, covariates, and targets: three quarters of the rows of a worker
    are at one firm.
    """
    rng = np.random.default_rng(0)
    rows, workers, firms = (round(share * size) for size in (ROWS, WORKERS, FIRMS))
    worker = rng.integers(0, workers, rows)
    usual = rng.integers(0, firms, workers)
    firm = np.where(rng.random(rows) < 0.75, usual[worker], rng.integers(0, firms, rows))
    year = rng.integers(0, YEARS, rows)
    x = rng.standard_normal((rows, COVARIATES), np.float32) + 0.1 * (worker % 7)[:, None]
    effects = rng.normal(size=workers)[worker] + rng.normal(size=firms)[firm] + 0.1 * year
    y = x @ np.arange(1.0, COVARIATES + 1) + effects + rng.normal(size=rows)
    factors = {"worker": (worker, workers), "firm": (firm, firms), "year": (year, YEARS)}
    return factors, x.astype(np.float32), y.astype(np.float32)


def written_out(factors: dict[str, tuple[np.ndarray, int]], x: np.ndarray) -> Any:
    """All columns and the intercept, scaled to unit length, and what they were scaled by."""
    rows = len(x)
    parts = [scipy.sparse.csr_array(np.column_stack([np.ones(rows), x]).astype(np.float64))]
    for codes, levels in factors.values():
        start = np.arange(rows + 1)
        parts.append(scipy.sparse.csr_array((np.ones(rows), codes, start), shape=(rows, levels)))
    matrix = scipy.sparse.csr_array(scipy.sparse.hstack(parts, format="csr"))
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    lengths = np.where(lengths > 0, lengths, 1)  # of levels that no row has
    return matrix @ scipy.sparse.diags_array(1 / lengths), lengths


COMMAND = """
import sys, time
from benchmarks.harness import resident
from jaxdescent.cli.commands import app
try:
    app(sys.argv[1:])
finally:
    print(time.process_time(), resident.peak(), file=sys.stderr)
"""
"""The peak is that of the process itself: what the system tells its parent begins with the
parent's.
"""


def by_command(
    factors: dict[str, tuple[np.ndarray, int]], x: np.ndarray, y: np.ndarray, repeats: int
) -> tuple[np.ndarray, str]:
    """The covariates' coefficients by the command on a Parquet file, and what its best run took."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f"x{index}": x[:, index] for index in range(x.shape[1])}
    columns |= {name: codes.astype(np.int32) for name, (codes, _) in factors.items()}
    with tempfile.TemporaryDirectory() as folder:
        path, kept = pathlib.Path(folder) / "panel.parquet", pathlib.Path(folder) / "model"
        pq.write_table(pa.table(columns | {"y": y}), path)
        command = [sys.executable, "-c", COMMAND, "fit", str(path), "--target", "y"]
        command += ["--categorical", ",".join(factors), "--out", str(kept), "--overwrite"]
        took = []
        for _ in range(repeats):
            begin = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            seconds = time.perf_counter() - begin
            if done.returncode:
                sys.exit(f"jaxdescent fit ended with {done.returncode}: {done.stderr}")
            processor, peak = map(float, done.stderr.split()[-2:])
            took.append((seconds, processor, peak))
        weights = np.load(kept / "weights.npy")[: x.shape[1]]
    seconds, processor, peak = min(took)
    return weights, f"{seconds:.1f} s, {processor:.1f} s of processors, {peak / 2**30:.2f} GiB"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.effects")
    parser.add_argument("--full", action="store_true", help="the whole panel")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parquet", action="store_true", help="by the command on a file, too")
    options = parser.parse_args()
    factors, x, y = panel(1.0 if options.full else 0.1)

    begin = time.perf_counter()
    X = jd.Concatenated(
        {"x": x} | {name: jd.Categorical(*factor) for name, factor in factors.items()}
    )
    made = time.perf_counter() - begin
    begin = time.perf_counter()
    matrix, lengths = written_out(factors, x)
    written = time.perf_counter() - begin
    truth = lsmr(matrix, y.astype(np.float64), atol=1e-12, btol=1e-12, maxiter=2000)
    expected = (truth[0] / lengths)[1 : COVARIATES + 1]
    single = scipy.sparse.csr_array(matrix.astype(np.float32))

    def ours(method: Any) -> Callable[[], tuple[np.ndarray, str]]:
        def solve() -> tuple[np.ndarray, str]:
            result = jd.minimize(jd.LinearRegression(X, y), method=method)
            weights = np.asarray(jax.block_until_ready(result.params["weights"]["x"]))
            return weights, f"{int(result.iterations)} {result.message.split(':')[0]}"

        return solve

    def theirs() -> tuple[np.ndarray, str]:
        found = lsmr(single, y, atol=1e-6, btol=1e-6)
        return (found[0] / lengths)[1 : COVARIATES + 1], f"{found[2]} istop {found[1]}"

    contenders = {
        "jaxdescent, default": ours(None),
        "jaxdescent, LSMR(Jacobi())": ours(jd.LSMR(jd.Jacobi())),
        "SciPy lsmr, scaled columns, float32": theirs,
    }
    found = {name: run() for name, run in contenders.items()}
    seconds = timed(contenders, options.repeats)
    print(f"{len(y):,} rows; made {made:.2f} s, SciPy's matrix {written:.2f} s")
    print("| | seconds | iterations | largest error of a coefficient |\n|---|---|---|---|")
    for name, times in seconds.items():
        weights, said = found[name]
        error = np.abs(weights - expected).max()
        print(f"| {name} | {min(times):.3f} | {said} | {error:.1e} |")
    if options.parquet:
        weights, took = by_command(factors, x, y, options.repeats)
        error = np.abs(weights - expected).max()
        print(f"\njaxdescent fit, from Parquet: {took}, largest error {error:.1e}")


if __name__ == "__main__":
    main()
