"""One of several processes that fit together: cases of options, each of them told in a line."""

import dataclasses
import json
import os
import pathlib
import signal
import sys
import time
import warnings

import numpy as np

from tests.distributed.processes import join

ROWS = 403
SUMS = {
    "plain": {"features": ["a", "b"]},
    "weighted": {
        "categorical": ["g"],
        "exclude": ["gaps"],
        "weights": "w",
        "test": 0.3,
        "standardize": True,
        "l2": 2.0,
    },
    "penalty": {
        "categorical": ["g"],
        "exclude": ["w", "gaps"],
        "test": 0.3,
        "l2": "auto",
        "seed": 5,
    },
    "means": {"features": ["a", "b", "gaps"], "missing": "mean", "test": 0.2},
    "dropped": {"features": ["a", "gaps"], "missing": "drop", "l2": 0.1},
    "crossed": {"features": ["a", "b", "g"], "categorical": ["g"], "interact": ["a:g"], "l2": 1.0},
    # Every one in the second half.
    "filtered": {"features": ["a", "b"], "where": "a > 0 and gaps < 41", "test": 0.3, "l2": 0.1},
    "text": {"categorical": ["g"], "where": "b > 1e3", "test": 0.3, "l2": 0.5},
    # To five digits, so that the rows are read again.
    "explained": {"weights": "w", "missing": "mean", "test": 0.3},
}
FILES = {
    "weighted": {
        "categorical": ["g"],
        "weights": "w",
        "where": "g != late and b > 1e3",
        "missing": "drop",
        "test": 0.3,
        "method": "cg",
        "l2": 2.0,
    },
    "means": {"features": ["a", "gaps"], "missing": "mean", "method": "lsmr", "test": 0.2},
    "hashed": {"hashed": ["g"], "exclude": ["w", "gaps"], "bits": 5, "method": "lbfgs", "l2": 1.0},
    "text": {"features": ["a", "b"], "method": "cg", "standardize": True, "test": 0.3, "l2": 1.0},
}
FILES = {f"{name}, in files": {"dtype": "float64"} | each for name, each in FILES.items()}
REFUSED = {
    "none left": {"features": ["a"], "where": "a > 1e9"},
    "one left": {"features": ["a"], "where": "b > 1000.00258"},
    "search": {"features": ["a", "b"], "method": "lsmr", "l2": "auto"},
    "levels": {"features": ["g"]},
}


def columns(rows=ROWS, seed=3):
    """Columns whose first and last rows differ in mean, levels and what is missing."""
    rng = np.random.default_rng(seed)
    late = np.arange(rows) >= rows // 2
    a = rng.normal(size=rows) + np.where(late, 1e4, -1e4)
    b = rng.normal(size=rows) * 1e-3 + 1e3
    levels = np.array(["early", "both", "late"])[rng.integers(0, 2, rows) + late]
    gaps = np.where(late & (rng.random(rows) < 0.3), np.nan, rng.normal(size=rows) + 40)
    y = 1e-4 * a + 800 * (b - 1e3) + late + rng.normal(size=rows)
    return {"a": a, "b": b, "g": levels, "gaps": gaps, "w": rng.uniform(0, 2, rows), "y": y}


def explained(rows=ROWS):
    """Columns of which a target follows to five digits."""
    table = columns(rows)
    y = 10 * table["a"] + np.random.default_rng(4).normal(size=rows)
    return {"a": table["a"], "gaps": table["gaps"], "w": table["w"], "y": y}


def told(model):
    names = dict(model.named_weights(model.encoding.size))
    figures = {name: model.metrics[name] for name in ("train", "held_out", "l2", "method", "notes")}
    return {"weights": names, "intercept": model.intercept} | figures


def data_of(folder, name):
    """The data of a case: rows of Parquet, or files of text."""
    others = {"text": "texts", "explained": "explained.parquet"}
    return folder / others.get(name.partition(",")[0], "d.parquet")


ONE_ROW = {name: np.ones(1) for name in ("x0", "x1", "y")}


def fitted(folder, name):
    options = (SUMS | FILES | REFUSED)[name]
    return told(fit_model(data_of(folder, name), "y", distributed=True, **options))


def read(folder, name):
    """Which rows of ``X.npy`` this process has read, in each way; of what is held out some
    processes have no row.
    """
    seen, method = set(), name.split()[1]
    source = Recorded(open_source(folder / "X.npy"), seen)
    model = fit_model(source, test_data=ONE_ROW, distributed=True, method=method, dtype="float64")
    return told(model) | {
        "read": [min(seen), max(seen), len(seen)],
        "rows_read": model.metrics["rows_read"],
        "processes": model.metrics["processes"],
    }


def bad(folder, name):
    """A value of the last row is infinite: only the last process sees it."""
    _, method, *filtered = name.split()
    options = {"method": method, "where": "b < 1000.001" if filtered else None}
    return told(fit_model(folder / "bad.parquet", "y", distributed=True, **options))


def few(folder, name):
    del name
    return told(fit_model({"a": np.ones(1), "y": np.ones(1)}, "y", distributed=True))


def ragged(folder, name):
    del name
    return told(fit_model(folder / "ragged.csv", "y", categorical=["g"], distributed=True))


def lines(folder, name):
    """A form of data that is read from its first row on."""
    del name
    return told(fit_model(folder / "d.svm", distributed=True))


def options(folder, name):
    """Process 1 asks for another penalty."""
    del name
    l2 = float(jax.process_index())
    return told(fit_model(folder / "d.parquet", "y", features=["a"], l2=l2, distributed=True))


def gone(folder, name):
    """The last process is interrupted while the others wait for it."""

    class Interrupted(Recorded):
        def blocks(self, names, rows, begin=0):
            if jax.process_index() == jax.process_count() - 1:
                raise KeyboardInterrupt
            yield from super().blocks(names, rows, begin)

    source = Interrupted(open_source(folder / "X.npy"), set())
    return told(fit_model(source, distributed=True))


KEPT = dict(FILES["hashed, in files"], dtype=None, l2=1e-3, test=0.3)

KEPT_BY = {
    "lbfgs": {"dtype": "float64"},
    "lsmr": {
        "method": "lsmr",
        "standardize": True,
        "weights": "w",
        "exclude": [],
        "missing": "mean",
        "dtype": "float64",
    },
    "drop": {"exclude": ["w"], "missing": "drop"},
}


def changed(source):
    """The source with another number in a row between the ends of its file."""

    class Changed(Recorded):
        def blocks(self, names, rows, begin=0):
            for block in super().blocks(names, rows, begin):
                place = 150 - block.start_in_file
                if "a" in names and 0 <= place < block.rows:
                    a = np.array(block.columns["a"], np.float64)
                    a[place] += 1
                    yield dataclasses.replace(block, columns={**block.columns, "a": a})
                else:
                    yield block

    return Changed(source, set())


def kept(folder, name):
    """A fit that is kept in a folder of this name; process 1 is sent a signal on the way."""
    _, place, *rest = name.split()
    checkpoint.EVERY = 0.0 if "often" in rest else 60.0
    values = []
    sent = [part for part in rest if part.startswith("SIG")]

    class Signalling(ProgressListener):
        is_looking = True
        told = 0
        has_sent = False

        def iterated(self, value, above):
            del above
            values.append(value)

        def tell(self, state):
            self.told += 1
            if sent and self.told >= (6 if "often" in rest else 2):
                # What is killed must have kept something.
                complete = f"{place}/descent/iteration-{10 * '[0-9]'}"
                is_time = sent != ["SIGKILL"] or any(folder.glob(complete))
                if not self.has_sent and is_time and jax.process_index() == 1:
                    self.has_sent = True
                    os.kill(os.getpid(), getattr(signal, sent[0]))
                time.sleep(0.3)  # a notice of JAX's service takes a moment

    options = dict(KEPT, resume="resume" in rest, watch=Signalling())
    options |= {"l2": 1.0} if "other" in rest else {}
    for part in rest:
        options |= KEPT_BY.get(part, {})
    if "mine" in rest:  # a folder that the others do not see
        options["checkpoint"] = folder / place
        real = os.path.abspath
        os.path.abspath = lambda path: real(path) + f"-{jax.process_index()}"
    if "alone" not in rest or jax.process_index() == 0:
        options["checkpoint"] = folder / place
    data = folder / "d.parquet"
    data = changed(open_source(data)) if "changed" in rest else data
    try:
        model = fit_model(data, "y", distributed=True, **options)
    except Interrupted as error:
        return f"Interrupted: {error}"
    finally:
        if "mine" in rest:
            os.path.abspath = real
    return (
        told(model)
        | {n: model.metrics[n] for n in ("iterations", "resumed_at", "goodput")}
        | {"values": values}
    )


def unreadable(folder, name):
    """Process 1 cannot read the newest checkpoint of the fit."""
    real = Folder.read

    def read(self, iteration, like, filled=None):
        if jax.process_index() == 1 and not hasattr(Folder, "tried"):
            Folder.tried = True
            raise Unreadable("it is truncated")
        return real(self, iteration, like, filled)

    Folder.read = read
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = kept(folder, name)
    Folder.read = real
    return [found, [str(each.message) for each in caught if "cannot be read" in str(each.message)]]


def pieces(folder, name):
    """Arrays and bytes that are sent in many pieces, and arrays that cannot be added up."""
    del folder, name
    index, count = jax.process_index(), jax.process_count()
    processes.arrays.CHUNK_BYTES = 64
    arrays = [np.random.default_rng(k).normal(size=(7, 13)) for k in range(count)]
    expected = arrays[0]
    for array in arrays[1:]:
        expected = expected + array
    with processes.among_all("pieces"):
        found = processes.added(arrays[index])
        texts = processes.told_bytes_by_all(b"xyz" * 50 * index)
        empty = processes.added(np.zeros((0, 2)))
        try:
            processes.added(np.zeros(index))
            said = "nothing"
        except jd.OtherProcessFailed as error:
            said = str(error)
    return {
        "is_sum": bool((found == expected).all()),
        "lengths": [len(text) for text in texts],
        "empty": list(empty.shape),
        "said": said,
    }


OWN = {
    "pieces": pieces,
    "gone": gone,
    "read": read,
    "bad": bad,
    "few": few,
    "ragged": ragged,
    "lines": lines,
    "options": options,
    "kept": kept,
    "unreadable": unreadable,
}

if __name__ == "__main__":
    index, port, count, folder, *names = sys.argv[1:]
    join(index, port, count, heartbeat_timeout_seconds=20)
    import jax

    import jaxdescent as jd
    from jaxdescent import processes
    from jaxdescent.data import DataError, open_source
    from jaxdescent.fit import checkpoint, fit_model
    from jaxdescent.fit.checkpoint import Interrupted
    from jaxdescent.fit.job import ProgressListener
    from jaxdescent.runs.checkpoints import Folder
    from jaxdescent.runs.shards import Unreadable
    from tests.distributed.recorded import Recorded

    for name in names:
        try:
            found = OWN.get(name.split()[0], fitted)(pathlib.Path(folder), name)
        except (DataError, jd.OtherProcessFailed) as error:
            found = f"{type(error).__name__}: {error}"
        print(json.dumps([name, found]), flush=True)
