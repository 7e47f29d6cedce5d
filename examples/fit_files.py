"""From a file to a fitted model, and from the model to predictions: what `jaxdescent fit` does.

A table of flights is made up: a delay that depends on the carrier, the way, the hour and the
distance, with a different slope of the distance for each carrier. Run it with

    python examples/fit_files.py
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

import numpy as np
import polars as pl

from jaxdescent import load_model
from jaxdescent.cli.commands import app

CARRIERS, AIRPORTS = ["AA", "B6", "DL", "UA", "WN"], ["EWR", "JFK", "LGA"]
NOISE = 10.0


def flights(rows: int, seed: int = 0) -> pl.DataFrame:
    """A table with a row for each flight."""
    rng = np.random.default_rng(seed)
    carrier, origin = rng.integers(0, len(CARRIERS), rows), rng.integers(0, len(AIRPORTS), rows)
    hour, distance = rng.integers(5, 24, rows), rng.gamma(4, 250, rows)
    way = np.array([[0, 5, 9, 2, 7], [8, 1, 3, 6, 4], [2, 9, 5, 0, 8]])[origin, carrier]
    slope = np.array([-0.01, 0.0, 0.005, 0.01, 0.02])[carrier]
    delay = way + 0.8 * (hour - 5) + slope * distance + NOISE * rng.normal(size=rows)
    names = {"carrier": np.array(CARRIERS)[carrier], "origin": np.array(AIRPORTS)[origin]}
    return pl.DataFrame(names | {"hour": hour, "distance": distance, "delay": delay})


def command(*arguments: object) -> None:
    """A command as it is typed, and what it prints."""
    words = [str(word) for word in arguments]
    shown = " ".join(f'"{word}"' if " " in word else word for word in words)
    print(f"\n$ jaxdescent {shown}", flush=True)
    code = app(words, standalone_mode=False)
    if code:
        sys.exit(code)


def main(rows: int = 100_000) -> float:
    """Fit, inspect and predict; the held-out RMSE as a part of the noise."""
    with tempfile.TemporaryDirectory() as room:
        folder = pathlib.Path(room)
        flights(rows).write_parquet(folder / "flights.parquet")
        options = ("--categorical", "carrier,origin")
        options += ("--interact", "carrier:origin,carrier:distance")
        command(
            "fit", folder / "flights.parquet", "--target", "delay", *options,
            "--where", "hour < 23", "--test", "0.2", "--l2", "auto", "--out", folder / "model",
        )  # fmt: skip
        command("inspect", folder / "model", "--weights", "3")
        flights(1000, seed=1).write_parquet(folder / "new.parquet")
        out = folder / "predictions.parquet"
        command("predict", folder / "model", folder / "new.parquet", "--out", out)
        return load_model(folder / "model").metrics["held_out"]["rmse"] / NOISE


if __name__ == "__main__":
    main()
