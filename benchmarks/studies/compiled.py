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
        """The collectives that an iteration runs, of branches the one with most."""

        def bytes_sent(lines):
            sent = _sent_by(lines)
            return len(sent), sum(each.size for each in sent)

        return _sent_by(self._run_by(self._iteration(), bytes_sent))

    @property
    def kernels_in_an_iteration(self):
        """Kernels that an iteration starts, of branches the one with fewest.

        The rare branches (a fresh residual, a step that was refused) are left out.
        """
        return _kernels(self._run_by(self._iteration(), lambda lines: -_kernels(lines)))

    def reads_in_an_iteration(self, size):
        """How often an iteration reads an array of that many bytes or more.

        Of branches the one that reads it least often, and the one that does so most often.
        """
        body = self._iteration()
        return tuple(
            _reads(self._run_by(body, lambda lines, sign=sign: sign * _reads(lines, size)), size)
            for sign in (-1, 1)
        )

    @property
    def copies(self):
        """Bytes of the largest array that a copy or transpose makes."""
        made = re.findall(r"= (\S+\[[\d,]*\])\S* (?:copy|transpose)\(", self.text)
        return max((_bytes(shape) for shape in made), default=0)

    def _iteration(self):
        """The body of the loop over iterations: the longest, or the one it is put around."""
        body = max(self._loops(self.computations), key=self._length)
        inside = max(self._loops(self._reached(body)), key=self._length, default=body)
        # What a loop around the iterations adds is less than twice of one; a search inside an
        # iteration is less than a third.
        return inside if 3 * self._length(inside) > self._length(body) else body

    def _loops(self, names):
        """The bodies of the loops that stand in these computations."""
        return [
            match.group(1)
            for name in names
            for line in self.computations[name]
            if (match := re.search(r" while\(.*body=%?([\w.\-]+)", line))
        ]

    def _reached(self, name):
        """The computations that run with one, itself among them."""
        reached = [name]
        for line in self.computations.get(name, []):
            for one in _called(line):
                reached += self._reached(one)
        return [one for one in reached if one in self.computations]

    def _run_by(self, name, weight):
        """The lines that run with a computation; of branches those of the largest weight."""
        run = []
        for line in self.computations.get(name, []):
            run.append(line)
            called = [self._run_by(one, weight) for one in _called(line)]
            if " conditional(" in line:
                called = [max(called, key=weight)]
            for lines in called:
                run += lines
        return run

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


def _kernels(lines):
    """Operations that a device starts one by one: what XLA fused, library calls, copies."""
    started = rf" (fusion|custom-call|copy|copy-start|{COLLECTIVE}|all-reduce-start)\("
    return sum(bool(re.search(started, line)) for line in lines)


def _reads(lines, size):
    """Operands of kernels with at least so many bytes, each time that one is read.

    A copy that is started early brings an array closer to its kernel on a TPU: what that kernel
    then reads is counted, the copy is not.
    """
    shapes = {}
    for line in lines:
        made = re.match(r"\s+(?:ROOT )?%([\w.\-]+) = \(?(\S+?\[[\d,]*\])", line)
        if made and ARRAY.match(made.group(2)):
            shapes[made.group(1)] = _bytes(made.group(2))
    read = 0
    for line in lines:
        if _kernels([line]) and " copy-start(" not in line:
            operands = line.split("(", 1)[1].split("), ")[0]
            read += sum(
                shapes.get(name, 0) >= size for name in re.findall(r"%([\w.\-]+)", operands)
            )
    return read


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
