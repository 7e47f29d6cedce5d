"""Problems of which only shapes are known, and what plans of them have, for tests of several
modules."""

import jax
import jax.numpy as jnp

import jaxdescent as jd


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def regression(rows, features, outputs=1, dtype="float32", **options):
    y = (rows,) if outputs == 1 else (rows, outputs)
    return jd.LinearRegression(
        shape(rows, features, dtype=dtype), shape(*y, dtype=dtype), **options
    )


def logistic(weights, X, y):
    return jnp.mean(jnp.logaddexp(0.0, -y * (X @ weights)))


def named(plan):
    return {candidate.name: candidate for candidate in plan.candidates}
