"""Whether one pass over X can serve a gradient.

fused       X'(X w - y) in one pass over X instead of two, in every loop that XLA offers, as
            ratios to one read of X and to the two passes

Repeats are interleaved, compilation is apart, numbers are medians.

    python -m benchmarks.studies.forms [--part fused] [--repeats R] [--scale K]
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import jaxdescent as jd
from benchmarks.harness.turns import timed
from jaxdescent.kernels import loops
from jaxdescent.kernels.dtypes import HIGHEST


def normal(rows: int, features: int) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0, impl="rbg"))
    return jax.random.normal(keys[0], (rows, features)), jax.random.normal(keys[1], (rows,))


def fused(repeats: int, scale: float) -> None:
    for shape in ((262144, 512), (32768, 4096)):
        rows, features = (int(side * scale) for side in shape)
        X, y = normal(rows, features)
        w = jnp.ones((features,)) / features
        regression = jd.LinearRegression(X, y, intercept=False).checked()
        partial = functools.partial
        reads = {"sum of X": partial(jax.jit(jnp.sum), X), "X w": partial(jax.jit(_product), X, w)}
        two = {
            "two passes": partial(jax.jit(_dots), X, w, y),
            "two passes, jd": partial(jax.jit(_own_gradient), regression, w),
        }
        one = {}
        for megabytes in (0.25, 1, 2, 4, 8, 16):
            block = max(1, int(megabytes * 2**20) // (4 * features))
            if rows % block or (rows // block) % 2:
                continue
            for name, loop in LOOPS.items():
                function = jax.jit(loop, static_argnames="block")
                one[f"{name}, {megabytes:g} MB"] = partial(function, X, w, y, block=block)
        expected = two["two passes, jd"]()
        for name, function in one.items():
            error = jnp.max(jnp.abs(function() - expected)) / jnp.max(jnp.abs(expected))
            assert error < 1e-3, (name, error)
        times = timed({**reads, **two, **one}, repeats)
        typical = {name: statistics.median(seconds) for name, seconds in times.items()}
        least = {name: min(seconds) for name, seconds in times.items()}
        read = min(typical[name] for name in reads)
        print(f"\nX'(X w - y): {rows} x {features}, {rows * features * 4 / 1e6:.0f} MB")
        print(
            f"  {'':38} {'median':>9} {'reads':>7} {'two passes / this: median':>26} {'least':>6}"
        )
        for name in times:
            saved = min(typical[n] for n in two) / typical[name]
            saved_least = min(least[n] for n in two) / least[name]
            ratios = f"{typical[name] / read:7.2f} {saved:26.2f} {saved_least:6.2f}"
            print(f"  {name:38} {1e3 * typical[name]:6.1f} ms {ratios}")


def _own_gradient(regression: jd.LinearRegression, w: jax.Array) -> jax.Array:
    return regression.gradient({"weights": w})["weights"]


def _product(X: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.matmul(X, w, precision=HIGHEST)


def _pulled(X: jax.Array, r: jax.Array) -> jax.Array:
    return jnp.matmul(r, X, precision=HIGHEST)


def _multiply_and_sum(B: jax.Array, w: jax.Array, y: jax.Array) -> jax.Array:
    r = jnp.sum(B * w[None, :], axis=1) - y
    return jnp.sum(B * r[:, None], axis=0)


def _dots(B: jax.Array, w: jax.Array, y: jax.Array) -> jax.Array:
    return _pulled(B, _product(B, w) - y)


def _mixed(B: jax.Array, w: jax.Array, y: jax.Array) -> jax.Array:
    return _pulled(B, jnp.sum(B * w[None, :], axis=1) - y)


def _scanned(of_block: Callable[..., jax.Array], unroll: int = 1) -> Callable[..., jax.Array]:
    def run(X: jax.Array, w: jax.Array, y: jax.Array, *, block: int) -> jax.Array:
        def body(g: jax.Array, slices: Any) -> Any:
            B, t = slices
            return g + of_block(B, w, t), None

        blocks = X.reshape(-1, block, X.shape[1]), y.reshape(-1, block)
        return lax.scan(body, jnp.zeros_like(w), blocks, unroll=unroll)[0]

    return run


def _sliced(of_block: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def run(X: jax.Array, w: jax.Array, y: jax.Array, *, block: int) -> jax.Array:
        def body(index: jax.Array, g: jax.Array) -> jax.Array:
            B = lax.dynamic_slice_in_dim(X, index * block, block)
            return g + of_block(B, w, lax.dynamic_slice_in_dim(y, index * block, block))

        size = block * X.shape[1] * X.itemsize
        return loops.fori_loop(X.shape[0] // block, body, jnp.zeros_like(w), turn_bytes=size)

    return run


def _two_at_a_time(X: jax.Array, w: jax.Array, y: jax.Array, *, block: int) -> jax.Array:
    """A block of each half of X in every iteration, as one product with a batch of two."""
    features = X.shape[1]
    halves = X.reshape(2, -1, block, features), y.reshape(2, -1, block)

    def body(index: jax.Array, g: jax.Array) -> jax.Array:
        B, t = (lax.dynamic_index_in_dim(half, index, 1, keepdims=False) for half in halves)
        return g + jax.vmap(lambda B, t: _dots(B, w, t))(B, t)

    size = 2 * block * features * X.itemsize
    total = jnp.zeros((2, features))
    total = loops.fori_loop(halves[0].shape[1], body, total, turn_bytes=size)
    return jnp.sum(total, axis=0)


def _by_rows(X: jax.Array, w: jax.Array, y: jax.Array, *, block: int) -> jax.Array:
    """One fused reduction: each row's own residual, computed where its products are summed."""
    blocks = X.reshape(-1, block, X.shape[1]), y.reshape(-1, block)
    return jnp.sum(jax.vmap(lambda B, t: _multiply_and_sum(B, w, t))(*blocks), axis=0)


def _batched(X: jax.Array, w: jax.Array, y: jax.Array, *, block: int) -> jax.Array:
    """``lax.map`` over the blocks, each giving its own part of the gradient."""
    blocks = X.reshape(-1, block, X.shape[1]), y.reshape(-1, block)
    return jnp.sum(lax.map(lambda pair: _dots(pair[0], w, pair[1]), blocks), axis=0)


LOOPS: dict[str, Callable[..., jax.Array]] = {
    # On jaxlib 0.12 lax's own loops may run on one core: those of a slice do not.
    "scan, dots": _scanned(_dots),
    "scan unrolled by 4, dots": _scanned(_dots, unroll=4),
    "scan, multiply and sum": _scanned(_multiply_and_sum),
    "scan, multiply and sum, then dot": _scanned(_mixed),
    "fori and slice, dots": _sliced(_dots),
    "fori and slice, multiply and sum": _sliced(_multiply_and_sum),
    "two halves at a time, dots": _two_at_a_time,
    "vmap, multiply and sum": _by_rows,
    "map, dots": _batched,
}

PARTS = {"fused": fused}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, default="fused")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="of every problem's sides")
    arguments = parser.parse_args()
    PARTS[arguments.part](arguments.repeats, arguments.scale)


if __name__ == "__main__":
    main()
