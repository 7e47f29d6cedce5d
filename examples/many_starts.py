"""A function with many minima, from a thousand starts at once: one program, one batch."""

import jax
import jax.numpy as jnp

import jaxdescent as jd


def rastrigin(p):
    return jnp.sum(p**2 + 10 * (1 - jnp.cos(2 * jnp.pi * p)))


def main(starts: int = 1000) -> float:
    points = jax.random.uniform(jax.random.key(0), (starts, 2), minval=-5, maxval=5)
    results = jax.vmap(lambda start: jd.minimize(rastrigin, start))(points)
    print(results.message)
    best = jnp.argmin(jnp.where(results.converged, results.value, jnp.inf))
    print(f"best of {starts}: {results.value[best]:.2e} at {results.params[best]}")

    # Every stationary point that Newton's method reaches, classified by its Hessian.
    found = jd.critical_points(rastrigin, points[: starts // 4])
    kinds = [point.kind for point in found]
    print({kind: kinds.count(kind) for kind in sorted(set(kinds))})
    return float(results.value[best])


if __name__ == "__main__":
    main()
