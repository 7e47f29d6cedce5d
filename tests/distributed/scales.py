"""One of several processes of a scaling experiment, in which one sees or does something else."""

import json
import pathlib
import sys

import jax

import jaxdescent as jd
from jaxdescent.scale.experiment import ScalingPoint
from jaxdescent.scale.problems import PROBLEMS, mesh_of
from tests.distributed.processes import join


def _grid(**options):
    sizes = {"rows": (96,), "features": (4,), "iterations": 2, "repeats": 1}
    devices = (jax.device_count(),)
    return Experiment(**sizes | {"devices": devices} | options)


def _errors(lines):
    return [line["figures"].get("error", "") for line in lines]


def little_room(index, folder):
    """Process 1 has no room for the first of two points."""
    own = figures.bytes_of_each
    figures.bytes_of_each = lambda devices: 10_000 if index == 1 else own(devices)
    return _errors(scale.run(_grid(rows=(6144, 96)), folder / "room.jsonl"))


def no_room_to_compute(index, folder):
    """Process 1 has no room for temporaries."""
    del folder
    own, asked = figures.bytes_of_each, []

    def available(devices):
        asked.append(devices)
        return 8 if index == 1 and len(asked) == 2 else own(devices)

    figures.bytes_of_each = available
    return _errors(scale.run(_grid(methods=("lsmr", "cg"))))


def built_on_the_host(index, folder):
    """Process 1 cannot make what the host makes, of every kind."""
    del folder

    def design(*arguments):
        raise MemoryError("no room for the entries")

    kinds = ("sparse", "hashed", "categorical")
    if index == 1:
        for kind in kinds:
            type(PROBLEMS[kind]).design = lambda self, *arguments: design()
    return _errors(scale.run(_grid(problems=(*kinds, "dense"))))


def a_bug(index, folder):
    """An error of process 1 that no other point would be spared."""
    if index == 1:
        figures.compiled = lambda *arguments: 1 / 0
    return _errors(scale.run(_grid(), folder / "bug.jsonl"))


def a_full_disk(index, folder):
    """Process 0 cannot write the line of the first of two points, which is measured or not."""
    del index
    figures.compiled = lambda *arguments: _no_room()

    def append(path, line):
        raise OSError(28, "No space left on device", str(path))

    record.append = append
    return _errors(scale.run(_grid(rows=(96, 192)), folder / "full.jsonl"))


def another_experiment(index, folder):
    return _errors(scale.run(_grid(rows=(96 + 96 * index,)), folder / "other.jsonl"))


def another_machine(index, folder):
    """Process 1 is of another kind: it skips what the first one has, all the same."""
    host.processor = lambda: f"processor {index}"
    path = folder / "machines.jsonl"
    before = scale.run(_grid(), path)
    told = []
    lines = scale.run(_grid(rows=(96, 192)), path, told.append)
    return [len(before), len(lines), [text.split(" in /")[0] for text in told]]


def in_the_program(index, folder):
    """Process 1 fails in a program in which the others wait for it, and does not wait for long."""
    del folder
    deciding.PATIENCE = 3.0
    made = figures.compiled

    def compiled(point, arrays):
        found = made(point, arrays)
        if index == 1:
            found.run = lambda *arguments: _no_room()
        return found

    figures.compiled = compiled
    return _errors(scale.run(_grid(layouts=("features",))))


def _no_room():
    raise MemoryError("no room to run")


def minima(index, folder):
    """The least values of what the host lays out, each process its own rows."""
    del index, folder
    return [minimum(kind, jax.devices()) for kind in ("sparse", "categorical")]


def minimum(kind, devices):
    """The least value of such a problem over these devices."""
    mesh = mesh_of(devices, "samples")
    point = ScalingPoint(kind, 96, 4, "cg", "float32", "samples", len(devices))
    objective, _ = PROBLEMS[kind].pose(PROBLEMS[kind].prepared(point, mesh, seed=5)())
    return float(jd.minimize(objective, method=jd.ConjugateGradient()).value)


if __name__ == "__main__":
    index, port, count, folder, *names = sys.argv[1:]
    join(index, port, count)
    from jaxdescent import scale
    from jaxdescent.kernels import host
    from jaxdescent.processes import deciding
    from jaxdescent.rows import DataError
    from jaxdescent.scale import figures, record
    from jaxdescent.scale.experiment import Experiment

    patched = [figures, record, host, *(type(each) for each in PROBLEMS.values())]
    for name in names:
        before = [dict(vars(each)) for each in patched]
        try:
            found = globals()[name](int(index), pathlib.Path(folder))
        except (DataError, OSError, ArithmeticError, jd.OtherProcessFailed) as error:
            found = f"{type(error).__name__}: {error}"
        print(json.dumps([name, found]), flush=True)
        for each, names_before in zip(patched, before, strict=True):
            for key in ("bytes_of_each", "compiled", "append", "processor", "design"):
                if key in names_before:
                    setattr(each, key, names_before[key])
