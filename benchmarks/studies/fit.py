"""Least squares on Parquet files larger than one wants to hold: the command, and by hand.

20,000,000 rows of 20 float32 columns and a target, a tenth of the rows unless --full is given, in
files of a million rows. Each contender is a process of its own, in turns; seconds are those of the
whole process, imports included, and of the work alone, medians of the repeats; memory is the most
that the process held. Agreement is the largest difference of a coefficient from NumPy's.

jaxdescent            jaxdescent fit --memory 600MB
jaxdescent, held out  the same with --test 0.2 and --l2 auto
pyarrow and NumPy     batches of pyarrow's dataset, widened, and one product each
polars                231 sums of products of two columns in its streaming engine

    python -m benchmarks.studies.fit [--full] [--repeats R] [--folder DATA] [--json FILE]

FILE gets a line of provenance and one for each contender; results/fit.jsonl is that of --full.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.harness import resident

COLUMNS = 20
FILE_ROWS = 1_000_000
FULL, TENTH = 20_000_000, 2_000_000
ROOT = pathlib.Path(__file__).resolve().parents[2]

JAXDESCENT, HELD_OUT = "jaxdescent", "jaxdescent, held out"
BY_HAND, POLARS = "pyarrow and NumPy", "polars"


def write(folder: pathlib.Path, rows: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    weights = rng.normal(size=COLUMNS).astype(np.float32)
    for index in range(rows // FILE_ROWS):
        path = folder / f"part-{index:03}.parquet"
        X = rng.normal(size=(COLUMNS, FILE_ROWS)).astype(np.float32)
        y = weights @ X + rng.normal(size=FILE_ROWS).astype(np.float32) + 1
        if not path.exists():
            columns = {f"x{j}": X[j] for j in range(COLUMNS)} | {"y": y}
            pq.write_table(pa.table(columns), path)


def by_command(folder: pathlib.Path, *options: str) -> list[float]:
    from jaxdescent import fit_model
    from jaxdescent.cli.options import byte_count

    l2 = "auto" if options else 0.0
    test = 0.2 if options else 0.0
    model = fit_model(folder, "y", memory=byte_count("600MB"), test=test, l2=l2)
    return [model.intercept, *model.weights.tolist()]


def by_hand(folder: pathlib.Path) -> list[float]:
    import numpy as np
    import pyarrow.dataset as ds

    names = [*(f"x{j}" for j in range(COLUMNS)), "y"]
    total = np.zeros((COLUMNS + 2, COLUMNS + 2))
    for batch in ds.dataset(folder).to_batches(columns=names, batch_size=65536):
        Z = np.empty((COLUMNS + 2, batch.num_rows))
        Z[0] = 1
        for j, name in enumerate(names):
            Z[j + 1] = batch.column(name).to_numpy()
        total += Z @ Z.T
    return np.linalg.solve(total[:-1, :-1], total[:-1, -1]).tolist()


def by_polars(folder: pathlib.Path) -> list[float]:
    import numpy as np
    import polars as pl

    names = [*(f"x{j}" for j in range(COLUMNS)), "y"]
    wide = [pl.col(name).cast(pl.Float64) for name in names]
    sums = [column.sum().alias(f"sum {j}") for j, column in enumerate(wide)]
    sums += [
        (wide[i] * wide[j]).sum().alias(f"{i},{j}") for i in range(len(wide)) for j in range(i + 1)
    ]
    frame = pl.scan_parquet(folder / "*.parquet").select(pl.len().alias("rows"), *sums)
    found = frame.collect(engine="streaming").row(0, named=True)
    side = len(names)
    total = np.empty((side + 1, side + 1))
    total[0, 0] = found["rows"]
    for i in range(side):
        total[0, i + 1] = total[i + 1, 0] = found[f"sum {i}"]
        for j in range(i + 1):
            total[i + 1, j + 1] = total[j + 1, i + 1] = found[f"{i},{j}"]
    return np.linalg.solve(total[:-1, :-1], total[:-1, -1]).tolist()


def child(name: str, folder: pathlib.Path) -> None:
    contenders = {
        JAXDESCENT: by_command,
        HELD_OUT: lambda folder: by_command(folder, "held out"),
        BY_HAND: by_hand,
        POLARS: by_polars,
    }
    modules = {
        BY_HAND: ["numpy", "pyarrow.dataset"],
        POLARS: ["numpy", "polars"],
    }
    for module in modules.get(name, ["jaxdescent", "pyarrow.parquet"]):
        importlib.import_module(module)
    began = time.perf_counter()
    coefficients = contenders[name](folder)
    seconds = time.perf_counter() - began
    told = {"coefficients": coefficients, "seconds": seconds, "peak": resident.peak()}
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="20,000,000 rows, 1.9 GB of files")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, help="where the files are kept")
    parser.add_argument("--json", type=pathlib.Path, help="where the figures are written")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.folder)
        return
    rows = FULL if arguments.full else TENTH
    with tempfile.TemporaryDirectory() as own:
        folder = arguments.folder or pathlib.Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, rows)
        lines = compare(folder, rows, arguments.repeats)
    if arguments.json:
        from benchmarks.harness import machine

        provenance = machine.provenance() | {"command": " ".join(sys.argv[1:])}
        lines.insert(0, provenance)
        arguments.json.write_text("".join(json.dumps(line) + "\n" for line in lines))


def compare(folder: pathlib.Path, rows: int, repeats: int) -> list[dict[str, object]]:
    runs: dict[str, list[dict]] = {JAXDESCENT: [], HELD_OUT: [], BY_HAND: [], POLARS: []}
    for _ in range(repeats):
        for name, results in runs.items():
            command = [sys.executable, "-m", "benchmarks.studies.fit"]
            command += ["--child", name, "--folder", str(folder)]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            whole = time.perf_counter() - began
            if done.returncode == 0:
                results.append(json.loads(done.stdout) | {"whole": whole})
            elif not results:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    print(f"{rows:,} rows x {COLUMNS} float32 columns of Parquet, {size / 1e6:,.0f} MB")
    print(f"  {'':22} {'process':>9} {'work':>9} {'peak':>9}   agreement")
    reference = runs[BY_HAND][0]["coefficients"]
    lines = []
    for name, results in runs.items():
        if not results:
            continue
        whole, work, peak = (
            statistics.median(result[key] for result in results)
            for key in ("whole", "seconds", "peak")
        )
        pairs = zip(results[0]["coefficients"], reference, strict=True)
        apart = max(abs(own - other) for own, other in pairs)
        print(f"  {name:22} {whole:7.2f} s {work:7.2f} s {peak / 1e6:6.0f} MB   {apart:.1e}")
        figures = {"process_seconds": whole, "work_seconds": work, "peak_bytes": peak}
        figures |= {"repeats": len(results), "rows": rows, "bytes": size, "apart": apart}
        lines.append({"kind": "record", "contender": name} | figures)
    return lines


if __name__ == "__main__":
    main()
