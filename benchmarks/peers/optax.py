"""optax, in loops as its documentation writes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.case import Answer, Factory, Solve
from benchmarks.peers import counting
from benchmarks.peers.arrays import shared
from benchmarks.problems import batches, functions, regression, separable

NAME = "optax"
PACKAGE = "optax"
DISTRIBUTION = "optax"

MAX_ITERATIONS = 20_000


def _separable(data: separable.Tree) -> Solve:
    import jax
    import jax.numpy as jnp
    import optax

    from benchmarks.peers.handwritten import descend_steps

    transformation = optax.sgd(separable.RATE)

    def loss(params: Any) -> Any:
        return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in params.values())

    def step(params: Any, state: Any) -> Any:
        updates, state = transformation.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1))
    return descend_steps(data, lambda params: (transformation.init(params), jitted))


def _lbfgs_loop(function: Any) -> Any:
    import jax
    import jax.numpy as jnp
    import optax
    import optax.tree
    from jax import lax

    transformation = optax.lbfgs()

    def descend(start: Any, tolerance: Any, *args: Any) -> Any:
        def here(x: Any) -> Any:
            return function(x, *args)

        both = optax.value_and_grad_from_state(here)
        goal = tolerance * jnp.linalg.norm(jax.grad(here)(start))

        def goes_on(carry: Any) -> Any:
            _, state, count, _ = carry
            gradient = optax.tree.get(state, "grad")
            norm = jnp.linalg.norm(gradient)
            return (count == 0) | ((count < MAX_ITERATIONS) & (norm > goal))

        def step(carry: Any) -> Any:
            x, state, count, evaluations = carry
            value, gradient = both(x, state=state)
            updates, state = transformation.update(
                gradient, state, x, value=value, grad=gradient, value_fn=here
            )
            # Each step of the line search evaluates value and gradient once.
            evaluations = evaluations + optax.tree.get(state, "num_linesearch_steps")
            return optax.apply_updates(x, updates), state, count + 1, evaluations

        begin = start, transformation.init(start), 0, 1
        x, _, count, evaluations = lax.while_loop(goes_on, step, begin)
        return x, count, evaluations

    return jax.jit(descend)


def _function(data: functions.Data) -> Solve:
    import jax
    import jax.numpy as jnp

    descend = _lbfgs_loop(data.function)
    start = jnp.asarray(data.start, jnp.float32)
    args = tuple(shared(arg) for arg in data.args)

    def solve(tolerance: float) -> Answer:
        x, count, evaluations = jax.block_until_ready(descend(start, tolerance, *args))
        return Answer(x, count, figures={"evaluations": evaluations})

    return solve


def _regression(data: regression.Data, product: Any) -> Solve:
    import jax
    import jax.numpy as jnp

    def loss(w: Any, X: Any, y: Any, l2: Any) -> Any:
        return 0.5 * jnp.sum((product(X, w) - y) ** 2) + 0.5 * l2 * jnp.sum(w**2)

    descend = _lbfgs_loop(loss)
    X, Y = shared(data.X), jnp.asarray(data.Y)
    start = jnp.zeros(X.shape[1], X.dtype)

    def solve(tolerance: float) -> Answer:
        columns, iterations = [], 0
        for column, penalty in enumerate(data.l2):
            answer = descend(start, tolerance, X, Y[:, column], X.dtype.type(penalty))
            w, count, _ = jax.block_until_ready(answer)
            columns.append(w)
            iterations += int(count)
        return Answer(np.stack(columns, axis=1), iterations)

    return solve


def _starts(data: batches.StartsData) -> Solve:
    import jax
    import jax.numpy as jnp

    from benchmarks.problems.classical import rosenbrock

    every = jax.jit(jax.vmap(_lbfgs_loop(rosenbrock), in_axes=(0, None)))
    starts = jnp.asarray(data.starts)

    def solve(tolerance: float) -> Answer:
        params, counts, _ = jax.block_until_ready(every(starts, tolerance))
        return Answer(params, int(np.max(counts)))

    return solve


def _rates(data: batches.RatesData) -> Solve:
    import jax
    import jax.numpy as jnp
    import optax
    from jax import lax

    X, y, rates = jnp.asarray(data.X), jnp.asarray(data.y), jnp.asarray(data.rates)

    def one(X: Any, y: Any, rate: Any) -> Any:
        transformation = optax.sgd(rate)

        def step(_: Any, carry: Any) -> Any:
            w, state = carry
            gradient = jax.grad(lambda w: 0.5 * jnp.sum((X @ w - y) ** 2))(w)
            updates, state = transformation.update(gradient, state, w)
            return optax.apply_updates(w, updates), state

        w = jnp.zeros(X.shape[1])
        return lax.fori_loop(0, data.iterations, step, (w, transformation.init(w)))[0]

    every = jax.jit(jax.vmap(one, in_axes=(None, None, 0)))
    return lambda _: Answer(jax.block_until_ready(every(X, y, rates)))


CONTENDERS: dict[str, dict[str, Factory]] = {
    "separable": {"sgd loop": _separable},
    "regression": {"lbfgs loop": counting.of_products(_regression)},
    "function": {"lbfgs loop": counting.of_function(_function)},
    "batch of starts": {"vmap of lbfgs loop": _starts},
    "batch of rates": {"vmap of sgd loop": _rates},
}
CONTENDERS["descents"] = CONTENDERS["regression"]
CONTENDERS["classification"] = CONTENDERS["function"]
