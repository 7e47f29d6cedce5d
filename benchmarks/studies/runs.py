"""What a run costs beside its steps: hooks, checkpoints and resuming.

hooks     the same descent by `minimize` and by `jd.run` with a progress bar and a history, in
          turns: seconds an iteration of each, medians (of the run from its first chunk on), and the
          share of the run's time that its hooks took (most of it while the device computed)
saves     a checkpoint of --gigabytes of params in the middle of a descent: the seconds in which no
          step ran because of it (the copy, and the host's part), and those in which it was written;
          the pace of the steps before and while it is written
resume    the seconds from the call of `jd.run(..., resume=True)` to its first step, and those of
          them that went into reading

    python -m benchmarks.studies.runs [--part hooks|saves|resume|all] [--gigabytes G] [--folder F]
"""

from __future__ import annotations

import argparse
import io
import pathlib
import shutil
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp

import jaxdescent as jd
from jaxdescent.numerics import randomness

SAVES = 3
METHOD = jd.GradientDescent(1e-6)
TURNS = 5


class Paces(jd.hooks.Hook):
    """The records and the summary of a run."""

    def __init__(self) -> None:
        self.records: list[jd.hooks.Record] = []
        self.summary = jd.hooks.Summary()
        self.began = 0.0
        self.first = 0.0

    def pause(self, pause: jd.hooks.Pause) -> None:
        if pause.chunk == 0:
            self.first = time.perf_counter()

    def report(self, record: jd.hooks.Record) -> None:
        self.records.append(record)

    def end(self, result: jd.Result, summary: jd.hooks.Summary) -> None:
        self.summary = summary


def hooks(folder: pathlib.Path) -> None:
    X = jax.random.normal(jax.random.key(0), (100_000, 100))
    regression = jd.LinearRegression(X, X @ jnp.arange(100.0))
    count = 600
    plain, driven, shares = [], [], []
    for _ in range(TURNS + 1):
        began = time.perf_counter()
        jax.block_until_ready(
            jd.minimize(regression, method=METHOD, max_iterations=count, tolerance=0)
        )
        plain.append((time.perf_counter() - began) / count)
        seen = Paces()
        bar = jd.hooks.Progress()
        bar.console = _Silent()
        log = jd.hooks.History(folder / "history.jsonl")
        began = time.perf_counter()
        jd.run(regression, method=METHOD, max_iterations=count, tolerance=0, hooks=[seen, bar, log])
        driven.append((time.perf_counter() - began - seen.first + began) / count)
        shares.append(seen.summary.seconds_in_hooks / seen.summary.seconds_in_steps)
    one, other, share = (statistics.median(kept[1:]) for kept in (plain, driven, shares))
    spread = max(plain[1:]) / min(plain[1:]) - 1
    print(f"hooks: minimize {one * 1e3:.3f} ms an iteration (spread {spread:.0%}), run with hooks")
    print(f"       {other * 1e3:.3f} ms ({other / one - 1:+.1%}); the hooks' own time, most of it")
    print(f"       while the device computed, is {share:.3%} of that of the steps")


class _Silent:
    """A console that is no terminal and writes nowhere."""

    is_terminal = False

    def print(self, *words: object, **options: object) -> None:
        io.StringIO().write(" ".join(map(str, words)))


def drawn(gigabytes: float) -> dict[str, jax.Array]:
    """Random params, which nothing compresses, in leaves of 64 MB."""
    fill = jax.jit(lambda seed: randomness.normal((4096, 4096), seed, jnp.float32))
    leaves = max(round(gigabytes * 1e9 / 2**26), 1)
    return {f"{index:04d}": fill(jnp.uint32(index)) for index in range(leaves)}


def saves(folder: pathlib.Path, gigabytes: float) -> None:
    params = drawn(gigabytes)
    held = sum(leaf.nbytes for leaf in params.values()) / 1e9
    place = folder / "run"

    class Saves(jd.hooks.Checkpoint):
        """Saves some times, a few seconds apart, and notes what each takes."""

        began = 0.0

        def begin(self, facts: jd.hooks.Facts) -> None:
            super().begin(facts)
            self.copying, self.writing, self.hosting = list[float](), list[float](), list[float]()

        def pause(self, pause: jd.hooks.Pause) -> None:
            before = self._copy
            # The device waits from the end of the chunk under way until the copy is made.
            jax.block_until_ready(pause.loop)
            self.note_end()
            began = time.perf_counter()
            super().pause(pause)
            if self._copy is not before:
                jax.block_until_ready(self._copy)
                self.copying.append(time.perf_counter() - began)

        def report(self, record: jd.hooks.Record) -> None:
            has_copy = self._copy is not None
            began = time.perf_counter()
            super().report(record)
            if has_copy:
                self.hosting.append(time.perf_counter() - began)
                self.began = began

        def note_end(self) -> None:
            if self.began and not self._folder.is_writing:
                self.writing.append(time.perf_counter() - self.began)
                self.began = 0.0

    seen = Paces()
    saved = Saves(place, every=5.0, keep=1)
    stop = jd.hooks.StopWhen(lambda record: len(saved.writing) >= SAVES)
    jd.run(
        jd.SumOfSquares(),
        params,
        METHOD,
        max_iterations=10**6,
        tolerance=0,
        check_every=16,
        chunk=16,
        donate=True,
        hooks=[seen, stop, saved],
    )
    paces = [record.chunk_seconds / record.iterations for record in seen.records]
    quiet = statistics.median(paces[2 : max(3, len(paces) // 3)])
    print(f"{held:.2f} GB")
    for number in range(SAVES):
        copied, written = saved.copying[number], saved.writing[number]
        print(
            f"save {number + 1}: copied in {copied:.2f} s, the host's part took "
            f"{saved.hosting[number]:.2f} s beside the steps,\n        written in {written:.2f} s "
            f"({held / written:.2f} GB/s); no step ran for the copy's time: "
            f"{copied / written:.1%} of the writing"
        )
    print(f"an iteration took {quiet:.4f} s before, {max(paces):.4f} s at most after it")


def resume(folder: pathlib.Path, gigabytes: float) -> None:
    place = folder / "run"
    held = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e9
    params = drawn(gigabytes)
    jax.block_until_ready(params)
    seen = Paces()
    stop = jd.hooks.StopWhen(lambda record: True)
    began = time.perf_counter()
    jd.run(
        jd.SumOfSquares(),
        params,
        METHOD,
        max_iterations=10**6,
        tolerance=0,
        check_every=16,
        chunk=16,
        donate=True,
        hooks=[seen, stop],
        checkpoint=jd.hooks.Checkpoint(place, every=1e9, keep=1),
        resume=True,
    )
    until = seen.first - began
    reading = seen.summary.seconds_restoring
    print(f"resume: {held:.2f} GB; {until:.2f} s to the first step, of which reading, with the")
    print(f"        fingerprint, took {reading:.2f} s ({held / reading:.2f} GB/s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="all", choices=["hooks", "saves", "resume", "all"])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", type=pathlib.Path, help="where checkpoints are written")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="jaxdescent-runs-", dir=options.folder))
    try:
        if options.part in ("hooks", "all"):
            hooks(folder)
        if options.part in ("saves", "resume", "all"):
            saves(folder, options.gigabytes)
        if options.part in ("resume", "all"):
            resume(folder, options.gigabytes)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
