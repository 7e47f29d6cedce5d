"""Rows of text, each word hashed, that stay in a file: a pass, and how near some passes come.

200,000 rows (2,000,000 with --full) of 30 words each, of which there are a twentieth as many as
rows; a weight for each word, and noise of variance one. The words are hashed to 2^18 columns here
and by Vowpal Wabbit, each with its own hash, so that other words share a column. Printed are:

a pass          rows a second of ``X w`` and ``X' r``: reading Parquet, hashing, multiplying
mini-batches    seconds, passes and the excess of the loss over the optimum's after 1, 2 and 3
                epochs; each is followed by a look at all rows, which is a pass too
LSMR(Jacobi())  the same after as many iterations
Vowpal Wabbit   rows a second, and the loss of its weights after 1 and 3 passes over its own text,
                with its default settings, in a process of its own

The optimum is that of conjugate gradients to 1e-6, with a penalty of 1 on 20,000,000 squares. All
times are of programs that are compiled: by the clock, and of the processors, which others' work on
the machine changes less.

    python -m benchmarks.studies.text [--full] [--folder DATA] [--zipf EXPONENT] [--vowpal PYTHON]
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.harness import resident

WORDS, BITS, TENTH, FULL, PIECE = 30, 18, 200_000, 2_000_000, 50_000
EPOCHS = (1, 2, 3)

VOWPAL = """
import json, sys, time, vowpalwabbit
text, rows, bits = sys.argv[1], int(sys.argv[2]), sys.argv[3]
found = []
for passes in (1, 3):
    more = f" --passes {passes} -c -k --holdout_off" if passes > 1 else ""
    began, cpu = time.perf_counter(), time.process_time()
    made = vowpalwabbit.Workspace(f"-d {text} -b {bits} -f {text}.model --quiet{more}")
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    progressive = made.get_sum_loss()
    weighted = made.get_weighted_examples()
    made.finish()
    look = vowpalwabbit.Workspace(f"-d {text} -t -i {text}.model --quiet")
    loss = look.get_sum_loss() / look.get_weighted_examples()
    look.finish()
    found.append({"passes": passes, "seconds": seconds, "cpu": cpu, "loss": loss,
                  "progressive": progressive / weighted})
status = open("/proc/self/status").read()
print(json.dumps({"found": found, "peak": int(status.split("VmHWM:")[1].split()[0]) * 1024}))
"""


def write(folder: pathlib.Path, rows: int, exponent: float) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (folder / "rows.txt").exists():
        return
    rng, count = np.random.default_rng(0), rows // 20
    shares = np.arange(1.0, count + 1) ** -exponent
    weights, names = rng.normal(size=count), np.array([f"w{i}" for i in range(count)])
    partial = folder / "partial.txt"
    schema = pa.schema({"text": pa.string(), "y": pa.float32()})
    with (
        pq.ParquetWriter(folder / "rows.parquet", schema, use_dictionary=False) as parquet,
        partial.open("w") as text,
    ):
        for start in range(0, rows, PIECE):
            own = min(PIECE, rows - start)
            index = rng.choice(count, (own, WORDS), p=shares / shares.sum())
            y = (weights[index].sum(axis=1) + rng.normal(size=own)).astype(np.float32)
            lines = [" ".join(line) for line in names[index]]
            parquet.write_table(pa.table({"text": lines, "y": y}, schema=schema))
            text.writelines(f"{t:.6g} | {line}\n" for t, line in zip(y, lines, strict=True))
    partial.rename(folder / "rows.txt")


def ours(folder: pathlib.Path, repeats: int) -> float:
    import jax.numpy as jnp

    import jaxdescent as jd

    X = jd.Streamed(folder / "rows.parquet", words=["text"], exclude=["y"], bits=BITS)
    y, (rows, features) = X.column("y"), X.shape
    regression = jd.LinearRegression(X, y, l2=1.0)
    print(f"{X}, {X.entries:,} entries")
    w, r = jnp.ones(features), jnp.ones(rows)
    for name, product, operand in (
        ("X w", X.product, w),
        ("X' r", X.transposed_product, r),
    ):
        seconds, of_processors = [], []
        for _ in range(repeats + 1):
            began, cpu = time.perf_counter(), time.process_time()
            product(operand).block_until_ready()
            seconds.append(time.perf_counter() - began)
            of_processors.append(time.process_time() - cpu)
        print(
            f"{name:16}{rows / min(seconds[1:]):12,.0f} rows/s, "
            f"{rows / min(of_processors[1:]):12,.0f} a second of the processors"
        )
    best = jd.minimize(regression, method=jd.ConjugateGradient(jd.Jacobi()), max_iterations=60)
    optimum = 2 * float(best.value) / rows
    print(f"optimum: loss {optimum:.4f}, {int(best.iterations)} iterations, {best.status}")
    for method in (jd.MiniBatches(), jd.LSMR(jd.Jacobi())):
        for count in EPOCHS:
            options: dict[str, Any] = {"max_iterations": count, "tolerance": 0}
            if count == EPOCHS[0]:
                jd.minimize(regression, method=method, **options)  # compiles
            before, began, cpu = X.passes, time.perf_counter(), time.process_time()
            result = jd.minimize(regression, method=method, **options)
            took, passes = time.perf_counter() - began, X.passes - before
            cpu = time.process_time() - cpu
            excess = float(result.value) / float(best.value) - 1
            print(
                f"{method!s:16}{count} iterations, {passes:2} passes, {took:7.2f} s, "
                f"{cpu:7.2f} s of the processors, {100 * excess:8.3f} % above the optimum"
            )
    print(f"peak of this process {resident.peak() / 1e6:,.0f} MB")
    return optimum


def vowpal(folder: pathlib.Path, rows: int, python: str, optimum: float) -> None:
    command = [python, "-c", VOWPAL, str(folder / "rows.txt"), str(rows), str(BITS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        print(f"Vowpal Wabbit was not run: {reason[0]}")
        return
    told = json.loads(done.stdout.splitlines()[-1])
    for each in told["found"]:
        rate, above = each["passes"] * rows / each["seconds"], each["loss"] / optimum - 1
        print(
            f"Vowpal Wabbit   {each['passes']} passes, {each['seconds']:7.2f} s, "
            f"{each['cpu']:7.2f} s of the processors, {rate:10,.0f} rows/s, "
            f"loss {each['loss']:.4f}, {100 * above:8.3f} % above the optimum; "
            f"while it learned {each['progressive']:.4f}"
        )
    print(f"peak of its process {told['peak'] / 1e6:,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--zipf", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--vowpal", default=sys.executable)
    given = parser.parse_args()
    rows = given.rows or (FULL if given.full else TENTH)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or pathlib.Path(temporary)) / f"{rows}-{given.zipf:g}"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, rows, given.zipf)
        optimum = ours(folder, given.repeats)
        vowpal(folder, rows, given.vowpal, optimum)


if __name__ == "__main__":
    main()
