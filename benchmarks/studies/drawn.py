"""Do plans keep their promise? Predicted against reserved bytes of problems drawn at random.

Kind, shape, dtypes and options are drawn by a seed, and of each problem one candidate of its plan.
Its program is compiled for one CPU, and not run: arrays are shapes, but for the entries of sparse
and categorical designs, which must be known. Predicted bytes, data and params included, are to be
at most 5 % fewer and 25 % more than those that XLA reserves, of programs above a megabyte.

    python -m benchmarks.studies.drawn [--seed S] [--problems N] [--first I]

Each line is a problem, with its predicted over its reserved bytes; OUT marks what breaks the
promise. A problem is the same whatever others are drawn with it; --first leaves out those before.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import tracemalloc
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdescent as jd
from jaxdescent.cost import Candidate
from jaxdescent.kernels import memory
from jaxdescent.machine import Machine
from jaxdescent.objectives import as_objective
from jaxdescent.regression.solve.by_lapack import is_small

Shape = jax.ShapeDtypeStruct

MACHINE = Machine.default("cpu", cores=2, memory_bytes=10**12)
"""A machine on which every candidate fits; bytes do not depend on its rates."""

DTYPES = ("float32", "float32", "float32", "bfloat16", "float16", "float64")

KINDS = (*["regression"] * 12, "sparse", "categorical", "mixed", "quadratic", "other", "other")
"""Most problems are dense regressions, whose formulas have the most cases."""

LEAST, MOST = 0.95, 1.25
"""Predicted over reserved bytes."""

MOST_STORED = 2_000_000
"""Entries of a design whose entries are made."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A problem, and the candidate whose bytes are compared.

    Attributes:
      name: the problem in one line.
      objective, params: of shapes.
      dtype: the widest dtype of the data.
      share: which of the candidates, as a share of their number.
    """

    name: str
    objective: Any
    params: Any
    dtype: str
    share: float

    def candidate(self) -> Candidate:
        """The drawn candidate, a chosen hedge among them."""
        candidates = jd.plan(self.objective, self.params, device=MACHINE).candidates
        return candidates[int(self.share * len(candidates))]


def drawn(seed: int, index: int) -> Drawn:
    """The problem of this number among those of a seed."""
    rng = np.random.default_rng([seed, index])
    kind, dtype = str(rng.choice(KINDS)), str(rng.choice(DTYPES))
    if kind == "quadratic":
        size = _size(rng, 2.5, 4)
        objective, params = jd.Quadratic(Shape((size, size), dtype), Shape((size,), dtype)), None
        name = f"quadratic of {size:,} {dtype}"
    elif kind == "other":
        size = _size(rng, 5, 8)
        what, objective = (
            ("sum of squares", jd.SumOfSquares()),
            ("function", as_objective(_cosh)),
            ("residuals", jd.LeastSquares(_residuals)),
        )[rng.integers(3)]
        params, name = Shape((size,), dtype), f"{what} of {size:,} {dtype}"
    else:
        dtype = dtype if kind == "regression" else "float32"
        objective, params, name = _regression(rng, kind, dtype)
    return Drawn(name, objective, params, dtype, float(rng.random()))


def _regression(rng: np.random.Generator, kind: str, dtype: str) -> tuple[Any, None, str]:
    """A regression with any of its options, as often wide as tall."""
    wide = "float64" if dtype == "float64" else "float32"
    is_dense = kind == "regression"
    entries = 10 ** rng.uniform(4.8, 8.5 if is_dense else 7.0)
    ratio = 10 ** rng.uniform(-4, 4)
    rows = max(round((entries * ratio) ** 0.5), 2)
    features = max(round(entries / rows), 2)
    if rng.random() < 0.3:  # round numbers can be cut into equal groups
        rows, features = max(rows // 128 * 128, 128), max(features // 16 * 16, 16)
    outputs = int(rng.choice([1, 1, 1, 2, 7, 30]))
    targets = Shape((rows,) if outputs == 1 else (rows, outputs), rng.choice([dtype, wide]))
    options: dict[str, Any] = {"intercept": bool(rng.random() < 0.7)}
    if rng.random() < 0.3:
        options["l2"] = 1.0
    elif outputs > 1 and rng.random() < 0.3:
        options["l2"] = Shape((outputs,), wide)
    if rng.random() < 0.25:
        options["sample_weight"] = Shape((rows,), wide)
    X: Any = Shape((rows, features), dtype)
    if not is_dense:
        X = _design(rng, kind, rows, features)
    told = ", ".join(f"{key} {getattr(value, 'shape', value)}" for key, value in options.items())
    name = f"{kind} {rows} x {features} x {outputs} {dtype}, y {targets.dtype}, {told}"
    return jd.LinearRegression(X, targets, **options), None, name


def _design(rng: np.random.Generator, kind: str, rows: int, features: int) -> Any:
    if kind == "categorical":
        return jd.Categorical(jnp.asarray(rng.integers(0, features, rows), jnp.int32), features)
    count = min(max(rows * features // int(rng.choice([3, 30, 300])), 1), MOST_STORED)
    sparse = jd.Sparse.from_indices(
        rng.integers(0, rows, count),
        rng.integers(0, features, count),
        np.ones(count, np.float32),
        shape=(rows, features),
    )
    if kind == "sparse":
        return sparse
    return jd.Concatenated({"dense": jnp.ones((rows, 8), "float32"), "sparse": sparse})


def _size(rng: np.random.Generator, least: float, most: float) -> int:
    return round(10 ** rng.uniform(least, most))


def _cosh(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.cosh(x - 1))


def _residuals(x: jax.Array) -> jax.Array:
    return jnp.exp(x) - 2


def reserved_bytes(objective: Any, params: Any, candidate: Candidate) -> int:
    """What XLA reserves for the program of a candidate: data, params, temporaries and results; of a
    solve on the host, what NumPy allocates.
    """
    if candidate.name == "DerivativeMethod()" and _is_on_host(objective):
        return candidate.data_bytes + _held_by_numpy(objective, candidate)

    def descend(objective: Any, params: Any, method: Any) -> jd.Result:
        # With a history a small solve is XLA's, and not the host's.
        return jd.minimize(objective, params, method, history=1)

    program = jax.jit(descend).lower(objective, params, candidate.method).compile()
    analysis = program.memory_analysis()
    return candidate.data_bytes + analysis.temp_size_in_bytes + analysis.output_size_in_bytes


def _is_on_host(objective: Any) -> bool:
    X = getattr(objective, "X", None)
    if not isinstance(X, Shape):
        return False
    return is_small(*X.shape, math.prod(objective.y.shape[1:]), X.dtype.itemsize)


def _held_by_numpy(objective: Any, candidate: Candidate) -> int:
    rng = np.random.default_rng(0)

    def stored(leaf: Any) -> Any:
        if not isinstance(leaf, Shape):
            return leaf
        return jnp.asarray(rng.uniform(0.5, 2, leaf.shape), leaf.dtype)

    objective = jax.tree.map(stored, objective)
    tracemalloc.start()
    jd.minimize(objective, method=candidate.method)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (rows, features), size = objective.X.shape, objective.X.dtype.itemsize
    if size < 4:  # a float32 copy, which is JAX's
        peak += 4 * rows * features
    if rows < features or np.ndim(objective.l2):  # what LAPACK needs for eigenvectors
        peak += 16 * min(rows, features) ** 2
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: collections.Counter[str] = collections.Counter()
    for index in range(options.first, options.first + options.problems):
        problem = drawn(options.seed, index)
        with jax.enable_x64(problem.dtype == "float64"):
            candidate = problem.candidate()
            try:
                reserved = reserved_bytes(problem.objective, problem.params, candidate)
            except jd.ProblemTooLarge:  # for this machine
                counts["too large"] += 1
                continue
        ratio = candidate.peak_bytes / reserved
        verdict = "small"
        if reserved > memory.SLACK_BYTES:
            verdict = "" if LEAST <= ratio <= MOST else "OUT"
        counts[verdict] += 1
        size = memory.readable_bytes(reserved)
        print(f"{index} {ratio:.3f} {verdict} {problem.name}: {candidate.name}, {size}", flush=True)
    compared = counts[""] + counts["OUT"]
    print(f"{counts['OUT']} of {compared} outside of {LEAST} to {MOST}, {counts['small']} small")


if __name__ == "__main__":
    main()
