"""One of several processes that read the rows of the same files, each of them its own share."""

import json
import pathlib
import sys

from tests.distributed.processes import join


def told(result):
    leaves = {name: np.asarray(leaf).tolist() for name, leaf in result.params.items()}
    return {"status": int(result.status), "value": float(result.value), "params": leaves}


def shared(folder, sharding):
    """A fit, and which rows this process has read for it."""
    read = set()
    source = Recorded(open_source(str(folder / "X.npy")), read)
    X = jd.Streamed(source, sharding=sharding, exclude=["y"])
    objective = jd.LinearRegression(X, X.column("y"), l2=0.5)
    found = told(jd.minimize(objective, method=jd.LSMR()))
    return {"fit": found, "read": [min(read), max(read), len(read)]}


def by_default(folder, sharding):
    X = jd.Streamed(str(folder / "X.npy"), sharding=sharding, exclude=["y"])
    return told(jd.minimize(jd.LinearRegression(X, X.column("y"), l2=0.5)))


def filled(folder, sharding):
    """Rows that no number of processes divides, and weights of zero behind them."""
    X = jd.Streamed(str(folder / "odd" / "X.npy"), sharding=sharding, is_filled=True)
    objective = jd.LinearRegression(X, X.product(jnp.ones(3)), sample_weight=X.row_weight)
    return {"rows": X.shape[0], "fit": told(jd.minimize(objective, method=CG))}


def failing(folder, sharding):
    """A row of the last process's share is NaN."""
    X = jd.Streamed(str(folder / "bad.npy"), sharding=sharding, exclude=["y"])
    y = jax.make_array_from_callback(X.shape[:1], sharding, lambda at: np.ones(ROWS, "f4")[at])
    try:
        jd.minimize(jd.LinearRegression(X, y, intercept=False), method=jd.GradientDescent(1e-3))
    except (DataError, jd.OtherProcessFailed) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def differing(folder, sharding):
    """Process 0 opens other data than the others do."""
    name = "X.npy" if jax.process_index() else "odd/X.npy"
    try:
        jd.Streamed(str(folder / name), sharding=sharding, is_filled=True)
    except (DataError, jd.OtherProcessFailed) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    index, port, count, folder, *names = sys.argv[1:]
    join(index, port, count)
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxdescent as jd
    from jaxdescent.rows import DataError, open_source
    from tests.distributed.cases import ROWS
    from tests.distributed.recorded import Recorded
    from tests.meshes import rows_over

    CG = jd.ConjugateGradient()
    rows = rows_over(len(jax.devices()))
    for name in names:
        print(json.dumps([name, globals()[name](pathlib.Path(folder), rows)]), flush=True)
