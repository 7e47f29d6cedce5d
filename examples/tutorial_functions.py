"""The tutorial's functions: a random start, a learning rate, a thousand steps, and a proof."""

import numpy as np

import jaxdescent as jd


def parabola(x):
    return 2 * x**2


def bowl(x, y, z):
    return x**2 + y**2 + z**2


def main() -> dict[str, float]:
    generator = np.random.default_rng(0)
    x = float(generator.integers(-1000, 1000))
    point = {name: float(generator.integers(-1000, 1000)) for name in "xyz"}
    descent = jd.GradientDescent(1e-2)

    one = jd.minimize(parabola, x, descent, max_iterations=1000, tolerance=0)
    print(f"2x²: from {x:.0f} to {float(one.params):.3g}; {jd.certify(parabola, one)}")

    # A function of several arguments: its arguments are the leaves of one dict.
    three = jd.minimize(lambda p: bowl(**p), point, descent, max_iterations=1000, tolerance=0)
    ends = {name: float(value) for name, value in three.params.items()}
    print(f"x²+y²+z²: from {point} to {ends}")

    exact = jd.minimize(lambda p: bowl(**p), point, jd.DerivativeMethod())
    print(f"the derivative method, in {int(exact.iterations)} step: {exact.params}")
    return {"2x²": float(one.params) / x} | {name: ends[name] / point[name] for name in ends}


if __name__ == "__main__":
    main()
