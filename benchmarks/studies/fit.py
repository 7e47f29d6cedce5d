"""Fits of files larger than one wants to hold: time, memory, and peers on the same rows.

Each command is a process of its own; seconds are those of the whole process, imports included,
medians of the repeats; memory is the most that the process held, under the limit that it was
given. Data are written to a folder first, a tenth of the rows unless --full is given. The peers add
up the same sums by hand: batches of pyarrow's dataset and NumPy's product, and products of columns
in the streaming engine of Polars; agreement is the largest difference of a coefficient.

    python -m benchmarks.studies.fit [--full] [--repeats R] [--folder DATA] [--only CASE]
        [--json FILE]

FILE gets a line of provenance and one for each command; results/fit.jsonl is that of --full.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

COLUMNS = 20
GROUP_ROWS = 100_000
ROOT = pathlib.Path(__file__).resolve().parents[2]

COMMAND = """
import sys
from benchmarks.harness import resident
from jaxdescent.cli import main
try:
    main()
finally:
    print("peak", resident.peak(), file=sys.stderr)
"""


def parts(rows: int, each: int) -> Iterator[tuple[int, int]]:
    """The first rows of parts, and their lengths."""
    return ((first, min(each, rows - first)) for first in range(0, rows, each))


def numbers(folder: pathlib.Path, rows: int, columns: int = COLUMNS, end: str = "parquet") -> None:
    """Files of numbers and a target, of which one million rows of 20 columns are in memory."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    weights = rng.normal(size=columns).astype(np.float32)
    for number, (_, count) in enumerate(parts(rows, 20_000_000 // columns)):
        X = rng.normal(size=(columns, count)).astype(np.float32)
        y = weights @ X + rng.normal(size=count).astype(np.float32) + 1
        frame = pl.DataFrame({f"x{j}": X[j] for j in range(columns)} | {"y": y})
        path = folder / f"part-{number:03}.{end}"
        if end == "csv":
            frame.write_csv(path)
        else:
            frame.write_parquet(path, row_group_size=max(GROUP_ROWS * COLUMNS // columns, 1))


def matrix(folder: pathlib.Path, rows: int) -> None:
    """X.npy of 3,000 columns, whose fit iterates."""
    import numpy as np

    rng = np.random.default_rng(0)
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (rows, 3000))
    weights, y = rng.normal(size=3000).astype(np.float32), np.empty(rows, np.float32)
    for first, count in parts(rows, 5000):
        X[first : first + count] = rng.standard_normal((count, 3000), np.float32)
        y[first : first + count] = X[first : first + count] @ weights + rng.normal(size=count)
    X.flush()
    np.save(folder / "y.npy", y)


def texts(folder: pathlib.Path, rows: int, length: int) -> None:
    """A column of texts of about this many characters, of many different words."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    for number, (_, count) in enumerate(parts(rows, max(100_000_000 // length, 1))):
        words = rng.integers(0, 100_000, (count, max(length // 6, 1)))
        lines = [" ".join(f"w{i}" for i in line) for line in words]
        frame = pl.DataFrame({"t": lines, "y": words[:, 0] % 7 + rng.normal(size=count)})
        path = folder / f"part-{number:03}.parquet"
        frame.write_parquet(path, row_group_size=max(10_000_000 // length, 1))


FIT = ("fit", "{data}", "--target", "y")

CASES: dict[str, tuple[Callable[[pathlib.Path, int], None], int, list[tuple[str, ...]]]] = {
    # How data are written, their rows, and the commands with their limits of memory.
    "18,000,000 x 20, fit and predict": (
        numbers, 18_000_000,
        [
            (*FIT, "--out", "{out}/m", "--overwrite", "--memory", "700MB"),
            ("predict", "{out}/m", "{data}", "--out", "{out}/p.parquet", "--memory", "700MB"),
        ],
    ),
    "20,000,000 x 20": (
        numbers, 20_000_000,
        [(*FIT, "--memory", "600MB"), (*FIT, "--test", "0.2", "--l2", "auto", "--memory", "600MB")],
    ),
    "70,000 x 3,000 of npy": (
        matrix, 70_000, [("fit", "{data}/X.npy", "--l2", "1e4", "--memory", "1.5GB")],
    ),
    "390,000 texts of 40 characters, hashed": (
        lambda folder, rows: texts(folder, rows, 40), 390_000,
        [(*FIT, "--hash", "t", "--l2", "1", "--memory", "2GB")],
    ),
    "200,000 x 1,000": (
        lambda folder, rows: numbers(folder, rows, 1000), 200_000, [(*FIT, "--memory", "900MB")],
    ),
    "CSV of 1.2 GB": (
        lambda folder, rows: numbers(folder, rows, COLUMNS, "csv"), 6_000_000,
        [(*FIT, "--memory", "700MB")],
    ),
    "3,000 texts of 100 kB, hashed": (
        lambda folder, rows: texts(folder, rows, 100_000), 3_000,
        [(*FIT, "--hash", "t", "--bits", "10", "--memory", "700MB")],
    ),
    "help": (lambda folder, rows: None, 0, [("fit", "--help")]),
}  # fmt: skip


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
    wide = [pl.lit(1.0), *(pl.col(name).cast(pl.Float64) for name in names)]
    pairs = [(i, j) for i in range(len(wide)) for j in range(i + 1)]
    sums = [(wide[i] * wide[j]).sum().alias(f"{i},{j}") for i, j in pairs if i]
    frame = pl.scan_parquet(folder / "*.parquet").select(pl.len().alias("0,0"), *sums)
    found = frame.collect(engine="streaming").row(0, named=True)
    total = np.empty((len(wide), len(wide)))
    for i, j in pairs:
        total[i, j] = total[j, i] = found[f"{i},{j}"]
    return np.linalg.solve(total[:-1, :-1], total[:-1, -1]).tolist()


PEERS = {"pyarrow and NumPy, by hand": by_hand, "Polars, by hand": by_polars}


def timed(command: list[str]) -> dict[str, Any]:
    """The seconds, the peak and the output of a command that prints its peak last."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    seconds = time.perf_counter() - began
    if "peak " not in done.stderr or done.returncode:
        sys.exit(f"{' '.join(command[-8:])}: {done.stderr}")
    return {"seconds": seconds, "peak": int(done.stderr.split()[-1]), "told": done.stdout}


def measured(name: str, command: list[str], repeats: int) -> dict[str, Any]:
    found = [timed(command) for _ in range(repeats)]
    seconds, peak = statistics.median(f["seconds"] for f in found), max(f["peak"] for f in found)
    print(f"  {name:56} {seconds:7.2f} s {peak / 1e6:6.0f} MB", flush=True)
    return {"kind": "record", "command": name, "process_seconds": seconds, "peak_bytes": peak,
            "repeats": repeats, "told": found[-1]["told"]}  # fmt: skip


def case(name: str, folder: pathlib.Path, share: float, repeats: int) -> list[dict[str, Any]]:
    write, rows, commands = CASES[name]
    data, out = folder / name.replace(" ", "-").replace(",", ""), folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if not data.exists():
        data.mkdir()
        write(data, int(rows * share))
    size = sum(path.stat().st_size for path in data.glob("*"))
    print(f"{name}, {share:.0%} of the rows, {size / 1e6:,.0f} MB")
    lines = []
    for command in commands:
        own = [part.format(data=data, out=out) for part in command]
        own += ["--overwrite"] if own[0] == "predict" else []
        told = " ".join(part for part in command if not part.startswith("{"))
        lines.append(measured(told, [sys.executable, "-c", COMMAND, *own], repeats))
        lines[-1].pop("told")
    if name.startswith("20,000,000"):
        lines += peers(data, repeats)
    return [line | {"case": name, "share": share, "bytes": size} for line in lines]


def peers(data: pathlib.Path, repeats: int) -> list[dict[str, Any]]:
    lines, reference = [], None
    for name in PEERS:
        command = [sys.executable, "-m", "benchmarks.studies.fit", "--peer", name]
        line = measured(name, [*command, "--folder", str(data)], repeats)
        found = json.loads(line.pop("told"))
        reference = reference or found
        apart = max(abs(a - b) for a, b in zip(found, reference, strict=True))
        lines.append(line | {"apart": apart})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all rows: 8 GB of files")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, help="where the files are kept")
    parser.add_argument("--only", choices=CASES, help="one case")
    parser.add_argument("--json", type=pathlib.Path, help="where the figures are written")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        from benchmarks.harness import resident

        print(json.dumps(PEERS[arguments.peer](arguments.folder)))
        print("peak", resident.peak(), file=sys.stderr)
        return
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as own:
        for name in [arguments.only] if arguments.only else CASES:
            share = 1.0 if arguments.full else 0.1
            lines += case(name, arguments.folder or pathlib.Path(own), share, arguments.repeats)
    if arguments.json:
        from benchmarks.harness import machine

        provenance = machine.provenance() | {"command": " ".join(sys.argv[1:])}
        text = "".join(json.dumps(line) + "\n" for line in [provenance, *lines])
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
