"""One of several processes that fit together: cases of options, each of them told in a line."""

import json
import pathlib
import sys

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
    "filtered": {"features": ["a", "b"], "where": "a > 0 AND gaps < 41", "test": 0.3, "l2": 0.1},
    "text": {"categorical": ["g"], "where": "b > 1e3", "test": 0.3, "l2": 0.5},
    # To five digits, so that the rows are read again.
    "explained": {"weights": "w", "missing": "mean", "test": 0.3},
}
REFUSED = {
    "none left": {"features": ["a"], "where": "a > 1e9"},
    "iterating": {"features": ["a", "b"], "method": "lsmr"},
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
    options = (SUMS | REFUSED)[name]
    return told(fit_model(data_of(folder, name), "y", distributed=True, **options))


def read(folder, name):
    """Which rows of ``X.npy`` this process has read; of what is held out some processes have no
    row.
    """
    del name
    seen = set()
    source = Recorded(open_source(folder / "X.npy"), seen)
    model = fit_model(source, "y", test_data=ONE_ROW, distributed=True)
    return told(model) | {
        "read": [min(seen), max(seen), len(seen)],
        "rows_read": model.metrics["rows_read"],
        "processes": model.metrics["processes"],
    }


def bad(folder, name):
    """A value of the last row is infinite: only the last process sees it."""
    options = {"where": "b < 1000.001" if "where" in name else None}
    return told(fit_model(folder / "bad.parquet", "y", distributed=True, **options))


def few(folder, name):
    del name
    return told(fit_model({"a": np.ones(1), "y": np.ones(1)}, "y", distributed=True))


def ragged(folder, name):
    del name
    return told(fit_model(folder / "ragged.csv", "y", categorical=["g"], distributed=True))


def options(folder, name):
    """Process 1 asks for another penalty."""
    del name
    l2 = float(jax.process_index())
    return told(fit_model(folder / "d.parquet", "y", features=["a"], l2=l2, distributed=True))


def gone(folder, name):
    """The last process is interrupted while the others wait for it."""

    class Interrupted(Recorded):
        def blocks(self, names, size, row=0):
            if jax.process_index() == jax.process_count() - 1:
                raise KeyboardInterrupt
            yield from super().blocks(names, size, row)

    source = Interrupted(open_source(folder / "X.npy"), set())
    return told(fit_model(source, "y", distributed=True))


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
    "options": options,
}

if __name__ == "__main__":
    index, port, count, folder, *names = sys.argv[1:]
    join(index, port, count, heartbeat_timeout_seconds=20)
    import jax

    import jaxdescent as jd
    from jaxdescent import processes
    from jaxdescent.fit import fit_model
    from jaxdescent.rows import DataError, open_source
    from tests.distributed.recorded import Recorded

    for name in names:
        try:
            found = OWN.get(name.split()[0], fitted)(pathlib.Path(folder), name)
        except (DataError, jd.OtherProcessFailed) as error:
            found = f"{type(error).__name__}: {error}"
        print(json.dumps([name, found]), flush=True)
