"""A picture made sharp again: a million unknowns, coupled by a blur that is a function.

    python examples/deblurring.py [--size 1000] [--folder .]

writes deblurring-1-sharp.png, deblurring-2-blurred.png and deblurring-3-found.png.
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

import jaxdescent as jd

LINES = (
    "$f(x) = \\frac{1}{2}\\,|Ax - b|^2$",
    "differentiate, set to zero,",
    "solve, verify: or descend.",
    "The quick brown fox jumps",
    "over 13 lazy dogs.",
)
WIDTH, NOISE, L2 = 0.005, 1e-3, 3e-5
"""The blur's standard deviation as a part of the picture's side; noise and the penalty."""


def main(size: int = 1000, folder: pathlib.Path | None = None, width: float = WIDTH) -> float:
    sharp = picture(size)
    # The Fourier transform of a Gaussian blur that goes round the picture's edges.
    y, x = jnp.fft.fftfreq(size), jnp.fft.rfftfreq(size)
    transfer = jnp.exp(-2 * (jnp.pi * width * size) ** 2 * (y[:, None] ** 2 + x[None, :] ** 2))
    forward = jax.tree_util.Partial(blur, transfer)
    X = jd.MatrixFree(forward, rows=sharp.shape, features=sharp.shape)
    rng = np.random.default_rng(0)
    seen = blur(transfer, sharp) + NOISE * rng.normal(size=sharp.shape).astype("float32")

    regression = jd.LinearRegression(X, seen.ravel(), l2=L2, intercept=False)
    began = time.perf_counter()
    result = jax.block_until_ready(jd.minimize(regression, tolerance=1e-4))
    seconds = time.perf_counter() - began
    found = result.params["weights"]
    print(f"{X}: {found.size:,} unknowns, {result.iterations} iterations, {seconds:.1f} s")
    print(result.message)
    print(jd.certify(regression, result))
    before, after = (float(jnp.sqrt(jnp.mean((each - sharp) ** 2))) for each in (seen, found))
    print(f"root mean square error: {before:.4f} blurred, {after:.4f} found (black 0, white 1)")
    if folder is not None:
        for number, (name, image) in enumerate(
            (("sharp", sharp), ("blurred", seen), ("found", found)), start=1
        ):
            path = folder / f"deblurring-{number}-{name}.png"
            imsave(path, np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1)
            print("written:", path)
    # This blur alone has a minimum in closed form, frequency by frequency.
    spectrum = transfer * jnp.fft.rfft2(seen) / (transfer**2 + L2)
    exact = jnp.fft.irfft2(spectrum, sharp.shape)
    off = float(jnp.max(jnp.abs(found - exact)))
    print(f"largest difference to the closed form: {off:.4f}")
    return max(off, after / before)


def blur(transfer: jax.Array, image: jax.Array) -> jax.Array:
    return jnp.fft.irfft2(transfer * jnp.fft.rfft2(image), image.shape)


def picture(size: int) -> jax.Array:
    """Lines of text, white on black, (size, size)."""
    figure = Figure(figsize=(1, 1), dpi=size, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    for place, line in enumerate(LINES):
        figure.text(
            0.5, 0.84 - 0.17 * place, line, size=4.4, color="white", ha="center", va="center"
        )
    canvas.draw()
    return jnp.asarray(np.asarray(canvas.buffer_rgba())[..., 0] / 255, jnp.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1000, help="pixels along a side")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path())
    arguments = parser.parse_args()
    main(arguments.size, arguments.folder)
