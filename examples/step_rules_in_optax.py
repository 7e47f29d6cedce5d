"""Step rules in an optax loop of your own: alone, in a chain, and with an evaluation saved."""

import jax
import jax.numpy as jnp
import optax

import jaxdescent as jd


def loss(p):
    """Least at 1, with curvatures from 1 to 30."""
    return jnp.sum(jnp.geomspace(1.0, 30.0, p.size) * (jnp.cosh(p - 1) - 1))


def descend(transformation, start, steps):
    """The usual optax loop: the function goes along, for rules that look ahead."""

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = transformation.update(
            grads, state, params, value=value, grad=grads, value_fn=loss
        )
        return optax.apply_updates(params, updates), state

    params, state = start, transformation.init(start)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def descend_reusing_gradients(rule, start, steps):
    """A rule with a line search has already computed the next step's gradient."""
    value_and_grad = optax.value_and_grad_from_state(loss)

    @jax.jit
    def step(params, state):
        value, grads = value_and_grad(params, state=state)
        updates, state = rule.update(grads, state, params, value=value, grad=grads, value_fn=loss)
        return optax.apply_updates(params, updates), state

    params, state = start, rule.init(start)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def main(steps: int = 200) -> dict[str, float]:
    start = jnp.zeros(10)
    ends = {
        "clip, then BarzilaiBorwein": descend(
            optax.chain(optax.clip_by_global_norm(10.0), jd.BarzilaiBorwein()), start, steps
        ),
        "InverseLipschitz, then Nesterov": descend(
            optax.chain(jd.InverseLipschitz(margin=2.0), jd.Nesterov()), start, steps
        ),
        "Backtracking, gradients reused": descend_reusing_gradients(
            jd.Backtracking(), start, steps
        ),
        "inside minimize": jd.minimize(
            loss, start, jd.GradientDescent(jd.BarzilaiBorwein())
        ).params,
    }
    errors = {name: float(jnp.max(jnp.abs(end - 1))) for name, end in ends.items()}
    for name, error in errors.items():
        print(f"{name:32} largest error {error:.1e}")
    return errors


if __name__ == "__main__":
    main()
