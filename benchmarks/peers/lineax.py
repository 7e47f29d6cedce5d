"""lineax: linear least squares and solves."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.case import Answer, Factory, NotOffered, Solve
from benchmarks.peers import counting
from benchmarks.peers.arrays import shared
from benchmarks.problems import batches, regression

NAME = "lineax"
PACKAGE = "lineax"
DISTRIBUTION = "lineax"

MAX_ITERATIONS = 20_000


def _regression(method: str) -> Factory:
    def prepare(data: regression.Data, product: Any) -> Solve:
        import equinox
        import jax
        import jax.numpy as jnp
        import lineax

        X, Y = shared(data.X), jnp.asarray(data.Y)
        is_dual = X.shape[0] < X.shape[1]
        if method == "QR" and (is_dual or np.any(data.l2)):
            raise NotOffered("QR takes no penalty and no more features than rows")

        @equinox.filter_jit
        def solve_one(X: Any, y: Any, l2: Any, tolerance: Any) -> Any:
            if method == "QR":
                return lineax.linear_solve(
                    lineax.MatrixLinearOperator(X), y, lineax.QR()
                ).value, None
            if method == "CG on normal equations":
                operator = lineax.FunctionLinearOperator(
                    lambda w: product(product(X, w), X) + l2 * w,
                    jax.ShapeDtypeStruct((X.shape[1],), X.dtype),
                    lineax.positive_semidefinite_tag,
                )
                solver = lineax.CG(rtol=tolerance, atol=0.0, max_steps=MAX_ITERATIONS)
                found = lineax.linear_solve(operator, y @ X, solver, throw=False)
                return found.value, found.stats["num_steps"]
            gram = X @ X.T if is_dual else X.T @ X
            gram = gram + l2 * jnp.eye(len(gram), dtype=X.dtype)
            operator = lineax.MatrixLinearOperator(gram, lineax.positive_semidefinite_tag)
            right = y if is_dual else y @ X
            found = lineax.linear_solve(operator, right, lineax.Cholesky(), throw=False).value
            return (found @ X if is_dual else found), None

        def solve(tolerance: float) -> Answer:
            columns, iterations = [], None
            for column, penalty in enumerate(data.l2):
                number = X.dtype.type
                one, count = solve_one(X, Y[:, column], number(penalty), number(tolerance))
                columns.append(jax.block_until_ready(one))
                if count is not None:
                    iterations = (iterations or 0) + int(count)
            return Answer(np.stack(columns, axis=1), iterations)

        return solve

    if method == "CG on normal equations":
        return counting.of_products(prepare)
    return lambda data: prepare(data, None)


def _regressions(data: batches.RegressionsData) -> Solve:
    import jax
    import jax.numpy as jnp
    import lineax

    X, y = jnp.asarray(data.X), jnp.asarray(data.y)

    @jax.jit
    @jax.vmap
    def every(X: Any, y: Any) -> Any:
        return lineax.linear_solve(lineax.MatrixLinearOperator(X), y, lineax.QR()).value

    return lambda _: Answer(jax.block_until_ready(every(X, y)))


CONTENDERS: dict[str, dict[str, Factory]] = {
    "regression": {
        name: _regression(name)
        for name in ("QR", "Cholesky of normal equations", "CG on normal equations")
    },
    "batch of regressions": {"vmap of QR": _regressions},
}
CONTENDERS["descents"] = CONTENDERS["regression"]
