"""Wages by workers, firms and years: tens of thousands of effects that are never written out."""

import numpy as np

import jaxdescent as jd


def main(rows: int = 200_000, workers: int = 20_000, firms: int = 2_000) -> float:
    rng = np.random.default_rng(0)
    worker = rng.integers(0, workers, rows)
    usual = rng.integers(0, firms, workers)
    firm = np.where(rng.random(rows) < 0.8, usual[worker], rng.integers(0, firms, rows))
    year = rng.integers(0, 10, rows)
    x = rng.normal(size=(rows, 2)).astype("float32")
    effects = rng.normal(size=workers)[worker] + rng.normal(size=firms)[firm] + 0.1 * year
    wage = (x @ [1.0, -0.5] + effects + rng.normal(size=rows)).astype("float32")

    X = jd.Concatenated(
        {
            "x": x,
            "worker": jd.Categorical(worker, workers),
            "firm": jd.Categorical(firm, firms),
            "year": jd.Categorical(year, 10),
        }
    )
    # Constants that workers, firms, years and the intercept share: one level each is the reference.
    references = X.reference_levels()
    X = X.without(references)
    regression = jd.LinearRegression(X, wage)
    result = jd.minimize(regression, method=jd.ConjugateGradient(jd.Jacobi()))
    print(result.message)
    print("free constants:", {name: levels.size for name, levels in references.items()})
    print("x:", result.params["weights"]["x"], "for [1, -0.5]")
    residual = wage - regression.predict(result.params, X)
    # What the estimated coefficients take of the noise.
    free = rows - sum(design.shape[1] for design in X.designs.values())
    print("noise:", float(np.sqrt(np.sum(np.square(residual)) / free)), "for 1")
    return float(np.abs(np.asarray(result.params["weights"]["x"]) - [1.0, -0.5]).max())


if __name__ == "__main__":
    main()
