"""What a pass over files costs: products with rows that are read, and reading alone.

2,000,000 rows of 20 float32 columns (20,000,000 with --full) as X.npy and as Parquet, in the
system's cache. GB/s are of the numbers, best of the repeats, in turns:

read            blocks decoded as numbers, and nothing done with them
X w, X' r       a product each
X w and X' r    both in one pass, as a gradient takes them
normal sums     products of all columns in float64
in memory       the same products of an array in JAX

Then two fits of the Parquet files by programs of their own, seconds and peak memory of the process
with all imports: LSMR to the default tolerance, and the default method. ``--line`` adds mini-batch
descent: rows a second in an epoch, and the excess of the value over the minimum's. With
``--columns`` the same numbers are fewer rows of more columns, and the products alone are timed.

    python -m benchmarks.studies.streamed [--full] [--repeats R] [--folder DATA] [--line]
    python -m benchmarks.studies.streamed --columns 3000
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import resident

COLUMNS, FILE_ROWS = 20, 1_000_000
FULL, TENTH = 20_000_000, 2_000_000
ROOT = pathlib.Path(__file__).resolve().parents[2]


def write(folder: pathlib.Path, rows: int, columns: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    weights = rng.normal(size=columns).astype(np.float32)
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    if (folder / "y.npy").exists():
        return
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (rows, columns))
    y = np.empty(rows, np.float32)
    for start in range(0, rows, FILE_ROWS):
        own = rng.normal(size=(min(FILE_ROWS, rows - start), columns)).astype(np.float32)
        target = own @ weights + rng.normal(size=len(own)).astype(np.float32) + 1
        X[start : start + len(own)], y[start : start + len(own)] = own, target
        table = {f"x{j}": np.ascontiguousarray(own[:, j]) for j in range(columns)} | {"y": target}
        pq.write_table(pa.table(table), folder / "parts" / f"{start}.parquet", use_dictionary=False)
    X.flush()
    np.save(folder / "y.npy", y)


def tasks(folder: pathlib.Path, rows: int, columns: int) -> dict[str, dict[str, Callable[[], Any]]]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxdescent as jd
    from jaxdescent.designs import Dense

    w, r = jnp.ones(columns), jnp.ones(rows)
    mapped = np.load(folder / "X.npy", mmap_mode="r")
    sources = {
        ".npy": folder / "X.npy",
        "memory-mapped": {"X": mapped},
        "Parquet": folder / "parts",
    }

    def decoded(X: jd.Streamed) -> None:
        stream = X.stream
        for _ in stream.decoding.chunks(stream.source, stream.block):
            pass

    def there_and_back(X: Any) -> Callable[[], Any]:
        program = jax.jit(lambda w, r: X.there_and_back(w, lambda p, y: (p - y, p - y), r))
        return lambda: program(w, r)

    def of(X: jd.Streamed) -> dict[str, Callable[[], Any]]:
        return {
            "read": lambda: decoded(X),
            "X w": lambda: X.product(w),
            "X' r": lambda: X.transposed_product(r),
            "X w and X' r": there_and_back(X),
            "normal sums": lambda: X.stream.normal_sums(None, np.ones((rows, 1)), intercept=True),
        }

    names = [f"x{j}" for j in range(columns)]
    found = {form: of(jd.Streamed(source, names)) for form, source in sources.items()}
    X = Dense.from_array(jnp.asarray(np.load(folder / "X.npy")))
    product = jax.jit(X.product)
    transposed = jax.jit(X.transposed_product)
    found["in memory"] = {
        "X w": lambda: product(w),
        "X' r": lambda: transposed(r),
        "X w and X' r": there_and_back(X),
    }
    return found


def rates(folder: pathlib.Path, rows: int, columns: int, repeats: int) -> None:
    from benchmarks.harness.turns import timed

    found = tasks(folder, rows, columns)
    times = timed({(form, name): own[name] for form, own in found.items() for name in own}, repeats)
    seconds = {key: min(each) for key, each in times.items()}
    gigabytes = rows * columns * 4 / 1e9
    heads = list(found[".npy"])
    print(f"{rows:,} rows x {columns} columns, GB/s\n")
    print(f"{'':15}" + "".join(f"{head:>14}" for head in heads))
    for form, own in found.items():
        cells = [f"{gigabytes / seconds[form, h]:14.2f}" if h in own else " " * 14 for h in heads]
        print(f"{form:15}" + "".join(cells))


def child(name: str, folder: pathlib.Path) -> None:
    began = time.perf_counter()
    import jaxdescent as jd

    methods = {"default": None, "LSMR": jd.LSMR(), "MiniBatches": jd.MiniBatches(epochs=1)}
    X = jd.Streamed(folder / "parts", exclude=["y"])
    regression = jd.LinearRegression(X, X.column("y"))
    most = {"max_iterations": 2, "tolerance": 0} if name == "MiniBatches" else {}
    ready = time.perf_counter()
    result = jd.minimize(regression, method=methods[name], **most)
    told = {"passes": X.passes, "iterations": int(result.iterations), "value": float(result.value)}
    done = time.perf_counter()
    told |= {"peak": resident.peak(), "status": result.message.split(":")[0]}
    if name == "MiniBatches":  # the second time nothing is compiled
        began_again = time.perf_counter()
        jd.minimize(regression, method=methods[name], **most)
        told["again"] = time.perf_counter() - began_again
    print(json.dumps(told | {"seconds": done - ready, "whole": done - began}))


def fits(folder: pathlib.Path, rows: int, *, line: bool) -> None:
    names = ["default", "LSMR"] + ["MiniBatches"] * line
    told: dict[str, dict[str, Any]] = {}
    print()
    for name in names:
        command = [sys.executable, "-m", "benchmarks.studies.streamed"]
        command += ["--child", name, "--folder", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        own = told[name] = json.loads(done.stdout)
        print(
            f"{name:12} {own['whole']:7.1f} s, {own['seconds']:.1f} s of them minimising, "
            f"{own['peak'] / 1e6:,.0f} MB, {own['passes']} passes, {own['iterations']} iterations, "
            f"{own['status']}"
        )
    if line:
        own = told["MiniBatches"]
        excess = own["value"] / told["default"]["value"] - 1
        print(f"two epochs: value {excess:.2g} above the minimum's, relatively; ", end="")
        print(f"{rows * own['passes'] / own['again']:,.0f} rows a second in a pass")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="20,000,000 rows, 3.2 GB of files")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, help="where the files are kept")
    parser.add_argument("--columns", type=int, default=COLUMNS, help="of as many numbers")
    parser.add_argument("--line", action="store_true", help="mini-batch descent too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.folder)
        return
    columns = arguments.columns
    rows = (FULL if arguments.full else TENTH) * COLUMNS // columns
    with tempfile.TemporaryDirectory() as own:
        folder = arguments.folder or pathlib.Path(own)
        write(folder, rows, columns)
        rates(folder, rows, columns, arguments.repeats)
        if columns == COLUMNS:
            fits(folder, rows, line=arguments.line)


if __name__ == "__main__":
    main()
