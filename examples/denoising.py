"""A noisy volume made clear: every voxel is coupled to its neighbours by a penalty on edges.

    python examples/denoising.py [--size 128] [--folder .]

minimises 1/2 |x - seen|^2 + strength * sum sqrt(small^2 + (difference of neighbours)^2): noise is
smoothed, while edges cost no more than their height. Writes a slice as denoising.png.
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.image import imsave

import jaxdescent as jd

NOISE, STRENGTH, SMALL = 0.3, 0.3, 0.05


def main(size: int = 128, folder: pathlib.Path | None = None) -> float:
    clear = balls(size)
    rng = np.random.default_rng(0)
    seen = clear + NOISE * jnp.asarray(rng.normal(size=clear.shape), jnp.float32)
    began = time.perf_counter()
    result = jax.block_until_ready(
        jd.minimize(energy, seen, args=(seen,), tolerance=1e-4, max_iterations=500)
    )
    seconds = time.perf_counter() - began
    found = result.params
    print(f"{found.size:,} unknowns, {result.iterations} iterations, {seconds:.1f} s")
    print(result.message)
    print(jd.certify(energy, result, args=(seen,)))
    before, after = (float(jnp.sqrt(jnp.mean((each - clear) ** 2))) for each in (seen, found))
    print(f"root mean square error: {before:.4f} noisy, {after:.4f} found (outside 0, inside 1)")
    if folder is not None:
        middle = [np.asarray(volume[size // 2]) for volume in (clear, seen, found)]
        path = folder / "denoising.png"
        imsave(path, np.concatenate(middle, axis=1), cmap="gray", vmin=-0.5, vmax=1.5)
        print("written (clear, noisy, found):", path)
    return after / before


def energy(x: jax.Array, seen: jax.Array) -> jax.Array:
    fit = 0.5 * jnp.sum((x - seen) ** 2)
    edges = sum(jnp.sum(jnp.sqrt(SMALL**2 + jnp.diff(x, axis=axis) ** 2)) for axis in range(x.ndim))
    return fit + STRENGTH * edges


def balls(size: int) -> jax.Array:
    """Balls of random places and sizes, (size, size, size)."""
    rng = np.random.default_rng(1)
    axes = jnp.meshgrid(*[jnp.linspace(0, 1, size)] * 3, indexing="ij", sparse=True)
    volume = jnp.zeros((size,) * 3, bool)
    for _ in range(20):
        center, radius = rng.random(3), rng.uniform(0.05, 0.2)
        distance = sum((axis - place) ** 2 for axis, place in zip(axes, center, strict=True))
        volume = volume ^ (distance < radius**2)
    return volume.astype(jnp.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="voxels along a side")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path())
    arguments = parser.parse_args()
    main(arguments.size, arguments.folder)
