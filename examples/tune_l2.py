"""Tune a ridge penalty by the derivative of the held-out loss through the solution."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdescent as jd


def main(features: int = 40, steps: int = 30) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=features)
    X = generator.normal(size=(2 * features + 100, features)).astype("float32")
    y = (X @ truth + 4 * generator.normal(size=X.shape[0])).astype("float32")
    train, held_out = slice(0, 2 * features), slice(2 * features, None)

    def held_out_loss(log_l2):
        regression = jd.LinearRegression(X[train], y[train], l2=jnp.exp(log_l2))
        fitted = jd.minimize(regression, method=jd.DerivativeMethod()).params
        return jnp.mean((regression.predict(fitted, X[held_out]) - y[held_out]) ** 2)

    # The inner minimum is found by solving, its derivative by the implicit function theorem, and
    # the outer minimum by descent on that derivative.
    tuned = jd.minimize(held_out_loss, 0.0, max_iterations=steps)
    before, after = float(held_out_loss(0.0)), float(tuned.value)
    print(f"l2 = {float(jnp.exp(tuned.params)):.3g}: held-out loss {before:.4f} -> {after:.4f}")
    print(f"slope there: {float(jax.grad(held_out_loss)(tuned.params)):.2e}")
    return before, after


if __name__ == "__main__":
    main()
