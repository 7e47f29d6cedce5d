"""Params and data sharded over eight devices (virtual ones on a CPU): nothing else changes."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdescent as jd


def main(rows: int = 4096, features: int = 256) -> float:
    mesh = jax.make_mesh((jax.device_count(),), ("samples",))
    by_rows = NamedSharding(mesh, P("samples"))
    keys = jax.random.split(jax.random.key(0))

    # Born sharded: no device ever holds the whole of X.
    X = jax.jit(lambda: jax.random.normal(keys[0], (rows, features)), out_shardings=by_rows)()
    truth = jax.random.normal(keys[1], (features,))
    y = jax.jit(lambda X: jnp.einsum("ij,j->i", X, truth), out_shardings=by_rows)(X)
    fitted = jd.minimize(jd.LinearRegression(X, y), method=jd.GradientDescent(jd.ExactLineSearch()))
    error = float(jnp.abs(fitted.params["weights"] - truth).max())
    print(f"regression over {mesh.size} devices: {fitted.message} largest error {error:.1e}")

    start = jax.jit(lambda: jnp.full((rows, features), 1000.0), out_shardings=by_rows)()
    descended = jd.minimize(jd.SumOfSquares(), start, jd.GradientDescent(1e-2), donate=True)
    print(f"sum of squares: {descended.message} still on {descended.params.sharding.spec}")
    return error


if __name__ == "__main__":
    main()
