"""Programs compiled for accelerators that are not here, and what their text says of them."""

import functools
import math
import re
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdescent.machine.topologies import topology

ITEM = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1}
COLLECTIVE = r"all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
ARRAY = re.compile(rf"({'|'.join(ITEM)})\[([\d,]*)\]")
CALLED = re.compile(r"(body|calls|branch_computations|true_computation|false_computation)=")


@functools.cache
def mesh(name):
    """The devices of a name in one row."""
    return Mesh(np.array(topology(name)), ("devices",))


def array(name, shape, dtype, axis=None):
    """An array without numbers on the devices of a name, cut along an axis or whole on each."""
    spec = [None] * len(shape)
    if axis is not None:
        spec[axis] = "devices"
    sharding = NamedSharding(mesh(name), PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


class Sent(NamedTuple):
    """A collective: its kind, and the bytes of what it makes."""

    kind: str
    size: int


class Compiled:
    """A program compiled for the devices that its arguments lie on."""

    def __init__(self, function, *arguments, donated=()):
        lowered = jax.jit(function, donate_argnums=donated).lower(*arguments)
        self.lowered = lowered.as_text()
        compiled = lowered.compile()
        self.memory = compiled.memory_analysis()
        self.text = compiled.as_text()
        self.computations = _computations(self.text)

    @property
    def temporaries(self):
        """Bytes a device, besides arguments and results."""
        return self.memory.temp_size_in_bytes

    @property
    def sent(self):
        """Every collective in the text."""
        return [sent for lines in self.computations.values() for sent in _sent_by(lines)]

    @property
    def sent_in_an_iteration(self):
        """The collectives that a turn of the longest loop runs, of branches the one with most."""
        bodies = [
            match.group(1)
            for lines in self.computations.values()
            for line in lines
            if (match := re.search(r" while\(.*body=%?([\w.\-]+)", line))
        ]
        return self._run_by(max(bodies, key=self._length))

    @property
    def copies(self):
        """Bytes of the largest array that a copy or transpose makes."""
        made = re.findall(r"= (\S+\[[\d,]*\])\S* (?:copy|transpose)\(", self.text)
        return max((_bytes(shape) for shape in made), default=0)

    def _run_by(self, name):
        lines = self.computations.get(name, [])
        sent = _sent_by(lines)
        for line in lines:
            called = [self._run_by(one) for one in _called(line)]
            if " conditional(" in line:
                called = [max(called, key=lambda each: (len(each), sum(s.size for s in each)))]
            for each in called:
                sent = sent + each
        return sent

    def _length(self, name):
        lines = self.computations.get(name, [])
        return len(lines) + sum(self._length(one) for line in lines for one in _called(line))


def _computations(text):
    found, lines = {}, None
    for line in text.splitlines():
        match = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line)
        if match:
            lines = found.setdefault(match.group(1), [])
        elif lines is not None:
            lines.append(line)
    return found


def _sent_by(lines):
    sent = []
    for line in lines:
        match = re.search(rf"= (.*?) ({COLLECTIVE})(-start)?\(", line)
        if match:
            arrays = [_bytes(shape.group(0)) for shape in ARRAY.finditer(match.group(1))]
            # Of an asynchronous one the operand stands beside what is made of it.
            sent.append(Sent(match.group(2), max(arrays) if match.group(3) else sum(arrays)))
    return sent


def _called(line):
    if " fusion(" in line or not CALLED.search(line):
        return []
    names = re.findall(r"(?:body|calls|true_computation|false_computation)=%?([\w.\-]+)", line)
    branches = re.search(r"branch_computations=\{([^}]*)\}", line)
    if branches:
        names += [name.strip().lstrip("%") for name in branches.group(1).split(",")]
    return names


def _bytes(shape):
    kind, sizes = ARRAY.search(shape).groups()
    return ITEM[kind] * math.prod(int(size) for size in sizes.split(",") if size)
