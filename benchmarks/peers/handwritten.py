"""What a user of JAX writes by hand: jitted loops, vmap, jax.grad."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.case import Answer, Factory, Solve
from benchmarks.harness.process import ROOT, child_environment
from benchmarks.peers import counting
from benchmarks.peers.arrays import shared
from benchmarks.problems import batches, costs, regression, separable

NAME = "hand-written JAX"
PACKAGE = "jax"
DISTRIBUTION = "jax"

MAX_ITERATIONS = 20_000
SEPARABLE_ITERATIONS = 20


def descend_steps(data: separable.Tree, begin: Callable[[Any], Any]) -> Solve:
    """Twenty jitted, donated steps; ``begin(params)`` returns the state and the step."""
    import jax

    positions = data.positions()
    take = jax.jit(lambda x, index: x[index])

    def sample(params: dict[str, Any]) -> np.ndarray:
        return np.concatenate([take(params[name], at) for name, at in positions.items()])

    def solve(_: float) -> Answer:
        gc.collect()
        params = data.draw()
        starts = sample(params)
        state, step = begin(params)
        params, state = jax.block_until_ready(step(params, state))  # compiles, is not counted
        started = time.perf_counter()
        for _i in range(SEPARABLE_ITERATIONS):
            params, state = step(params, state)
        jax.block_until_ready(params)
        seconds = (time.perf_counter() - started) / SEPARABLE_ITERATIONS
        size = sum(leaf.nbytes for leaf in params.values())
        steps = SEPARABLE_ITERATIONS + 1
        proof = separable.evidence(starts, sample(params), steps, steps)
        return Answer(proof, SEPARABLE_ITERATIONS, seconds, {"params_bytes": size})

    return solve


def _one_step(data: separable.Tree) -> Solve:
    import jax
    import jax.numpy as jnp

    def updated(x: Any) -> Any:
        wide = x.astype(jnp.float32)
        gradient = jax.grad(lambda x: jnp.sum(x**2))(wide)
        return (wide - separable.RATE * gradient).astype(x.dtype)

    step = jax.jit(lambda params, state: (jax.tree.map(updated, params), state), donate_argnums=0)
    return descend_steps(data, lambda _: (None, step))


def _gradient(data: regression.GradientData) -> Solve:
    import jax
    import jax.numpy as jnp

    X, y = shared(data.X).astype(data.dtype), jnp.asarray(data.y)
    w = jnp.asarray(data.w)

    def loss(w: Any, X: Any, y: Any) -> Any:
        product = jnp.matmul(X, w.astype(X.dtype), preferred_element_type=jnp.float32)
        return 0.5 * jnp.sum((product - y) ** 2)

    gradient = jax.jit(jax.grad(loss))
    return lambda _: Answer(jax.block_until_ready(gradient(w, X, y)))


def _conjugate_gradients(data: regression.Data, product: Any) -> Solve:
    """CGLS (Hestenes and Stiefel, 1952): the normal equations, never formed."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    X, Y = shared(data.X), jnp.asarray(data.Y)

    @jax.jit
    def solve_one(X: Any, y: Any, l2: Any, tolerance: Any) -> Any:
        def goes_on(carry: Any) -> Any:
            count, *_, squared = carry
            return (count < MAX_ITERATIONS) & (squared > goal)

        def step(carry: Any) -> Any:
            count, w, residual, direction, old = carry
            image = product(X, direction)
            rate = old / (image @ image + l2 * (direction @ direction))
            w, residual = w + rate * direction, residual - rate * image
            gradient = product(residual, X) - l2 * w
            squared = gradient @ gradient
            return count + 1, w, residual, gradient + squared / old * direction, squared

        gradient = product(y, X)
        squared = gradient @ gradient
        goal = tolerance**2 * squared
        begin = 0, jnp.zeros_like(gradient), y, gradient, squared
        count, w, *_ = lax.while_loop(goes_on, step, begin)
        return w, count

    def solve(tolerance: float) -> Answer:
        columns, iterations = [], 0
        for y, penalty in zip(Y.T, data.l2, strict=True):
            number = X.dtype.type
            w, count = jax.block_until_ready(solve_one(X, y, number(penalty), number(tolerance)))
            columns.append(w)
            iterations += int(count)
        return Answer(np.stack(columns, axis=1), iterations)

    return solve


def _regressions(data: batches.RegressionsData) -> Solve:
    import jax
    import jax.numpy as jnp

    X, y = jnp.asarray(data.X), jnp.asarray(data.y)

    @jax.jit
    @jax.vmap
    def every(X: Any, y: Any) -> Any:
        return jax.scipy.linalg.solve(X.T @ X, X.T @ y, assume_a="pos")

    return lambda _: Answer(jax.block_until_ready(every(X, y)))


def _rates(data: batches.RatesData) -> Solve:
    import jax
    import jax.numpy as jnp
    from jax import lax

    X, y, rates = jnp.asarray(data.X), jnp.asarray(data.y), jnp.asarray(data.rates)

    def one(X: Any, y: Any, rate: Any) -> Any:
        def loss(w: Any) -> Any:
            return 0.5 * jnp.sum((X @ w - y) ** 2)

        def step(_: Any, w: Any) -> Any:
            return w - rate * jax.grad(loss)(w)

        return lax.fori_loop(0, data.iterations, step, jnp.zeros(X.shape[1]))

    every = jax.jit(jax.vmap(one, in_axes=(None, None, 0)))
    return lambda _: Answer(jax.block_until_ready(every(X, y, rates)))


def three_parameters(iterations: int, *, is_compiled_anew: bool = False) -> Solve:
    """The same descent, checks and counts as ``minimize`` reports, in one jitted while loop."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    weights, target = jnp.asarray(costs.WEIGHTS, "float32"), jnp.asarray(costs.TARGET, "float32")
    start, rate = jnp.zeros(3), jnp.float32(costs.RATE)

    def function(x: Any, weights: Any, target: Any) -> Any:
        return jnp.sum(weights * (x - target) ** 2)

    def descend(x: Any, rate: Any, weights: Any, target: Any) -> Any:
        both = jax.value_and_grad(function)

        def goes_on(carry: Any) -> Any:
            count, _, _, gradient = carry
            return (count < iterations) & (jnp.sqrt(jnp.sum(gradient**2)) > 0)

        def step(carry: Any) -> Any:
            count, x, _, gradient = carry
            x = x - rate * gradient
            return count + 1, x, *both(x, weights, target)

        value, gradient = both(x, weights, target)
        return lax.while_loop(goes_on, step, (0, x, value, gradient))

    jitted = jax.jit(descend)

    def solve(_: float) -> Answer:
        chosen = jax.jit(costs.renewed(descend)) if is_compiled_anew else jitted
        count, x, *_rest = jax.block_until_ready(chosen(start, rate, weights, target))
        return Answer(x, count)

    return solve


def import_seconds(statement: str) -> float:
    """Of one import statement in a fresh process, the interpreter's own start not counted."""
    program = f"import time; t = time.perf_counter()\n{statement}\nprint(time.perf_counter() - t)"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return float(answer.stdout.split()[-1])


def _import(_: int) -> Solve:
    return lambda _: Answer(0.0, seconds=import_seconds("import jax, optax"))


CONTENDERS: dict[str, dict[str, Factory]] = {
    "separable": {"jitted, donated step": _one_step},
    "gradient": {"jit(grad)": _gradient},
    "descents": {"jitted CG": counting.of_products(_conjugate_gradients)},
    "batch of regressions": {"vmap of a solve": _regressions},
    "batch of rates": {"vmap of fori_loop": _rates},
    "import": {"import jax, optax": _import},
    "three parameters": {"jitted while_loop": three_parameters},
    "compile": {"jitted while_loop": lambda count: three_parameters(count, is_compiled_anew=True)},
}
