"""What a sparse regression costs beside SciPy: its products, and a whole ridge fit.

products   X w and X'r, of one vector and of eight, for columns that are equally likely and for
           Zipf's, as ratios to SciPy's CSR in the same run: above one, jaxdescent is faster
fit        ridge with l2=1, until the value is within 1e-6 of the least: jd.minimize() as it is
           beside SciPy's cg on the normal equations and its lsmr, float32; on Zipf's columns cg has
           them scaled by hand, and lsmr, which takes no penalty for each column, is left out
batches    one iteration of jd.MiniBatches() on rows of 30 Zipf-like words, hashed to 2^18 columns,
           with batches of several sizes: processors' seconds, and the value after three iterations

Repeats are interleaved, compilation and the making of the design are apart, numbers are medians.

    python -m benchmarks.studies.sparse [--part NAME] [--repeats R] [--scale K]
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator, cg, lsmr

import jaxdescent as jd
from benchmarks.harness import resident
from benchmarks.harness.turns import medians

ROWS, FEATURES, ENTRIES = 200_000, 1_000_000, 10_000_000
L2, SUBOPTIMALITY = 1.0, 1e-6


def matrix(kind: str, scale: float) -> Any:
    """A float32 CSR matrix whose columns are equally likely, or fall like 1/k in random order."""
    rng = np.random.default_rng(0)
    rows, features, entries = (int(scale * size) for size in (ROWS, FEATURES, ENTRIES))
    column = rng.integers(0, features, entries)
    if kind == "zipf":
        rank = np.exp(rng.random(entries) * np.log(features)).astype(np.int64) - 1
        column = rng.permutation(features)[rank.clip(0, features - 1)]
    values = rng.normal(size=entries).astype(np.float32)
    row = rng.integers(0, rows, entries)
    return scipy.sparse.coo_matrix((values, (row, column)), (rows, features)).tocsr()


def products(repeats: int, scale: float) -> None:
    rng = np.random.default_rng(1)
    forward = jax.jit(lambda X, weights: X.product(weights))
    backward = jax.jit(lambda X, residual: X.transposed_product(residual))
    for kind in ("uniform", "zipf"):
        A = matrix(kind, scale)
        begin = time.perf_counter()
        X = jax.block_until_ready(jd.Sparse(A))
        print(f"\n{kind}: {X}, made in {time.perf_counter() - begin:.2f} s")
        for outputs in ((), (8,)):
            residual, weights = (
                rng.normal(size=(side, *outputs)).astype(np.float32) for side in A.shape
            )
            pairs = {
                "X w": (
                    functools.partial(forward, X, jnp.asarray(weights)),
                    functools.partial(_product, A, weights),
                ),
                "X'r": (
                    functools.partial(backward, X, jnp.asarray(residual)),
                    functools.partial(_product, A.T, residual),
                ),
            }
            contenders = {}
            for name, (ours, theirs) in pairs.items():
                np.testing.assert_allclose(ours(), theirs(), rtol=1e-3, atol=2e-2)
                contenders |= {name: ours, f"{name} by SciPy": theirs}
            seconds = medians(contenders, repeats)
            for name in pairs:
                own, scipys = seconds[name], seconds[f"{name} by SciPy"]
                print(
                    f"  {name}, {outputs[0] if outputs else 1} vectors: {1e3 * own:8.2f} ms, "
                    f"SciPy {1e3 * scipys:8.2f} ms, ratio {scipys / own:.2f}"
                )


def _product(A: Any, columns: np.ndarray) -> np.ndarray:
    return A @ columns


def fit(repeats: int, scale: float) -> None:
    for kind in ("uniform", "zipf"):
        _ridge(kind, repeats, scale)


def _ridge(kind: str, repeats: int, scale: float) -> None:
    A = matrix(kind, scale)
    rng = np.random.default_rng(2)
    truth = rng.normal(size=A.shape[1]).astype(np.float32)
    y = (A @ truth + rng.normal(size=A.shape[0])).astype(np.float32)
    regression = jd.LinearRegression(jd.Sparse(A), jnp.asarray(y), l2=L2, intercept=False)
    lengths = np.sqrt(np.asarray(A.power(2).sum(axis=0)).ravel() + L2)
    units = 1 / lengths if kind == "zipf" else np.ones_like(lengths)
    exact = _cg(A.astype(np.float64), y.astype(np.float64), 1e-11, 1 / lengths.astype(np.float64))
    least = _value(A, y, exact)
    print(f"\n{kind}: ridge, l2={L2:g}: {regression.X}")
    runs = {
        "jd.minimize": lambda tolerance: np.asarray(_minimised(regression, tolerance)),
        "SciPy cg": lambda tolerance: _cg(A, y, tolerance, units.astype(np.float32)),
    }
    if kind == "uniform":
        runs["SciPy lsmr"] = lambda tolerance: lsmr(
            A, y, damp=L2**0.5, atol=tolerance, btol=tolerance
        )[0]
    contenders: dict[str, Callable[[], Any]] = {}
    for name, run in runs.items():
        for tolerance in (None, *10.0 ** -np.arange(1.0, 7.0, 0.5)):
            if tolerance is None and name != "jd.minimize":
                continue
            excess = _value(A, y, run(tolerance)) / least - 1
            if excess <= SUBOPTIMALITY:
                break
        print(f"  {name:12} tolerance {tolerance}, {excess:.1e} above the least value")
        contenders[name] = functools.partial(run, tolerance)
    seconds = medians(contenders, repeats)
    for name, own in seconds.items():
        print(f"  {name:12} {own:8.3f} s, {own / seconds['jd.minimize']:.2f} times jd.minimize's")


def _value(A: Any, y: np.ndarray, weights: np.ndarray) -> float:
    """In double precision."""
    weights = np.asarray(weights, np.float64)
    residual = A.astype(np.float64) @ weights - y
    return float(residual @ residual + L2 * (weights @ weights)) / 2


def _minimised(regression: jd.LinearRegression, tolerance: float | None) -> jax.Array:
    options = {} if tolerance is None else {"tolerance": float(tolerance)}
    return jd.minimize(regression, **options).params["weights"]


def _cg(A: Any, y: np.ndarray, tolerance: float, units: np.ndarray) -> np.ndarray:
    """The weights, iterated on in these units."""

    def normal(weights: np.ndarray) -> np.ndarray:
        own = units * weights
        return units * (A.T @ (A @ own) + A.dtype.type(L2) * own)

    operator = LinearOperator((A.shape[1],) * 2, matvec=normal, dtype=A.dtype)
    return units * cg(operator, units * (A.T @ y), rtol=tolerance)[0]


def batches(repeats: int, scale: float) -> None:
    rows, words, bits = int(scale * 100_000), 30, 18
    rng = np.random.default_rng(0)
    word = (rng.zipf(1.3, rows * words) % max(rows // 20, 1)).astype(np.uint64)
    column = word * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - bits)
    X = jd.Sparse.from_indices(
        np.repeat(np.arange(rows), words), column.astype(np.int64), shape=(rows, 1 << bits)
    )
    truth = rng.normal(size=1 << bits).astype(np.float32)
    y = np.asarray(X.product(truth)) + rng.normal(size=rows).astype(np.float32)
    regression = jd.LinearRegression(X, y, l2=L2)
    exact = jd.minimize(
        regression,
        method=jd.ConjugateGradient(jd.Jacobi()),
        max_iterations=500,
        tolerance=SUBOPTIMALITY,
    )
    print(f"\nmini-batches: {X}")
    for size in (None, rows // 24, rows // 12):
        method = jd.MiniBatches(rows=size)

        def run(iterations: int, method: jd.MiniBatches = method) -> jax.Array:
            result = jd.minimize(regression, method=method, max_iterations=iterations, tolerance=0)
            return jax.block_until_ready(result.value)

        above = float(run(3)) / float(exact.value) - 1
        seconds = [
            _processors(lambda: run(3)) - _processors(lambda: run(1)) for _ in range(repeats)
        ]
        each = float(np.median(seconds)) / 2
        print(
            f"  {size or 'default'} rows: {each:.3f} s an iteration, {above:.1%} above the minimum"
        )


def _processors(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


PARTS = {"products": products, "fit": fit, "batches": batches}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--scale", type=float, help="of all sizes; 1 and a tenth by default")
    arguments = parser.parse_args()
    for scale in (0.1, 1.0) if arguments.scale is None else (arguments.scale,):
        for name in PARTS if arguments.part is None else (arguments.part,):
            PARTS[name](arguments.repeats, scale)
    peak = resident.peak() / 2**30
    print(f"\npeak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()
