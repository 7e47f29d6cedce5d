"""y = X w + b by the derivative method and by descent: the same weights, and a prediction."""

import numpy as np

import jaxdescent as jd


def main(rows: int = 20_000, features: int = 200) -> float:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(rows, features)).astype("float32")
    truth = generator.normal(size=features).astype("float32")
    y = X @ truth + 3.0 + 0.1 * generator.normal(size=rows).astype("float32")

    regression = jd.LinearRegression(X, y, l2=1.0)
    solved = jd.minimize(regression, method=jd.DerivativeMethod())
    descended = jd.minimize(
        regression, method=jd.GradientDescent(jd.ExactLineSearch()), tolerance=1e-6
    )
    for name, result in (("derivative method", solved), ("descent", descended)):
        print(f"{name}: {int(result.iterations)} iterations, {result.message}")
    print(jd.certify(regression, descended))
    print("three predictions:", regression.predict(solved.params, X[:3]), "for", y[:3])
    return float(np.abs(solved.params["weights"] - descended.params["weights"]).max())


if __name__ == "__main__":
    main()
