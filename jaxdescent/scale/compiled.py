"""A compiled program, and figures from its text: memory, collectives, kernels, reads of arrays.

The text is what XLA's compilers for GPUs and TPUs write. On CPUs the loop's body has other
operations, so that kernels and bytes of an iteration are read from it for accelerators alone.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax

from jaxdescent.descent.loop import ITERATIONS

ITEM = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1}
COLLECTIVE = r"all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
ARRAY = re.compile(rf"\b({'|'.join(ITEM)})\[([\d,]*)\](\{{[^}}]*\}})?")
CALLED = re.compile(r"(?:body|calls|true_computation|false_computation)=%?([\w.\-]+)")
KERNEL = re.compile(rf" (fusion|custom-call|copy|copy-start|{COLLECTIVE}|all-reduce-start)\(")
MARKED = re.compile(rf' while\(.*body=%?([\w.\-]+).*op_name="[^"]*\b{ITERATIONS}/while"')
ON_CHIP = "S(1)"
"""Marks memory beside a TPU's core in the layout of an array that was copied there beforehand."""

Lines = list[str]


class Sent(NamedTuple):
    """A collective: its kind, and the bytes of its result."""

    kind: str
    size: int


class Compiled:
    """A program compiled for the devices that its arguments lie on.

    Args:
      function: a function that can be jitted.
      arguments: arrays, or their shapes with shardings (``jax.ShapeDtypeStruct``); a sharding may
        be of devices that are not attached (:func:`jaxdescent.planning.topologies.topology`).
      donated: the positions of arguments whose memory the program may reuse.

    >>> import jax.numpy as jnp
    >>> program = Compiled(lambda x: x @ x, jnp.ones((64, 64)))
    >>> program.arguments, program.sent
    (16384, [])
    """

    def __init__(
        self, function: Callable[..., Any], *arguments: Any, donated: tuple[int, ...] = ()
    ) -> None:
        began = time.perf_counter()
        lowered = jax.jit(function, donate_argnums=donated).lower(*arguments)
        self.run = lowered.compile()
        self.seconds = time.perf_counter() - began  # to trace and to compile
        self.lowered = lowered.as_text()  # the program's text before XLA
        self.memory = memory = cast(Any, self.run.memory_analysis())
        # Bytes on one device: of arguments; of temporaries besides arguments and results; and at
        # the peak of arguments, results that do not reuse them, and temporaries.
        self.arguments = int(memory.argument_size_in_bytes)
        self.temporaries = int(memory.temp_size_in_bytes)
        new = int(max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0))
        self.peak = self.arguments + self.temporaries + new
        self._computations = _computations(self.run.as_text() or "")

    @property
    def sent(self) -> list[Sent]:
        """Every collective in the program's text."""
        return [sent for lines in self._computations.values() for sent in _sent_by(lines)]

    @functools.cached_property
    def sent_in_an_iteration(self) -> list[Sent]:
        """The collectives that an iteration runs, in the branch with the most of them.

        For fused steps these are the collectives of all steps between two checks.
        """

        def weight(lines: Lines) -> tuple[int, int]:
            sent = _sent_by(lines)
            return len(sent), sum(each.size for each in sent)

        return _sent_by(self.iteration(weight))

    @property
    def usually_sent(self) -> list[Sent]:
        """The collectives that an iteration runs in the branch with the fewest kernels, which
        :attr:`kernels_in_an_iteration` counts.
        """
        return _sent_by(self._usual)

    @property
    def kernels_in_an_iteration(self) -> int:
        """How many kernels an iteration starts, in the branch with the fewest.

        The rare branches (a fresh residual, a step that was refused) are left out.
        """
        return _kernels(self._usual)

    @property
    def bytes_in_an_iteration(self) -> int:
        """Bytes that the kernels of an iteration read and write, in the branch with the fewest.

        Each operand is counted whole, once for each kernel that reads it.
        """
        return _moved(self.iteration(lambda lines: -_moved(lines)))

    def iteration(self, weight: Callable[[Lines], Any]) -> Lines:
        """The lines that run in an iteration; of branches, the lines of the largest weight."""
        return self._run_by(self._body, weight)

    @functools.cached_property
    def _usual(self) -> Lines:
        """The lines of an iteration in the branch with the fewest kernels."""
        return self.iteration(lambda lines: -_kernels(lines))

    @functools.cached_property
    def _body(self) -> str:
        """The body of the loop over iterations, which the program marks; the longest if several."""
        lines = [line for lines in self._computations.values() for line in lines]
        found = [match.group(1) for line in lines if (match := MARKED.search(line))]
        return max(found, key=self._length, default="")

    def _run_by(self, name: str, weight: Callable[[Lines], Any]) -> Lines:
        """The lines that run with a computation; of branches, those of the largest weight."""
        run: Lines = []
        for line in self._computations.get(name, []):
            run.append(line)
            called = [self._run_by(one, weight) for one in _called(line)]
            if " conditional(" in line:
                called = [max(called, key=weight)]
            for lines in called:
                run += lines
        return run

    def _length(self, name: str) -> int:
        lines = self._computations.get(name, [])
        return len(lines) + sum(self._length(one) for line in lines for one in _called(line))


def _computations(text: str) -> dict[str, Lines]:
    found: dict[str, Lines] = {}
    lines: Lines | None = None
    for line in text.splitlines():
        match = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line)
        if match:
            lines = found.setdefault(match.group(1), [])
        elif lines is not None:
            lines.append(line)
    return found


def _sent_by(lines: Lines) -> list[Sent]:
    sent: list[Sent] = []
    for line in lines:
        match = re.search(rf"= (.*?) ({COLLECTIVE})(-start)?\(", line)
        if match:
            arrays = _sizes(match.group(1))
            # The type of an asynchronous collective lists its operand beside its result.
            size = max(arrays) if match.group(3) else sum(arrays)
            sent.append(Sent(match.group(2), size))
    return sent


def _kernels(lines: Lines) -> int:
    """How many operations a device starts one by one: fusions, library calls, copies."""
    return sum(bool(KERNEL.search(line)) for line in lines)


def _moved(lines: Lines) -> int:
    """Bytes that kernels read from memory and write to it; arrays on the chip do not count."""

    def stored(line: str) -> int:
        return sum(_sizes(_made(line), is_on_chip=False))

    made = {name: stored(line) for line in lines if (name := _name(line))}
    moved = 0
    for line in lines:
        if KERNEL.search(line):
            moved += sum(made.get(name, 0) for name in set(_operands(line)))
            # An operation that starts early lists its operand once more beside its result.
            moved += 0 if "-start(" in line else made.get(_name(line), 0)
    return moved


def _name(line: str) -> str:
    match = re.match(r"\s+(?:ROOT )?%([\w.\-]+) = ", line)
    return match.group(1) if match else ""


def _made(line: str) -> str:
    """The type of a line's result."""
    return re.split(r" [a-z][\w\-]*\(", line.split(" = ", 1)[-1], maxsplit=1)[0]


def _operands(line: str) -> list[str]:
    called = KERNEL.search(line)
    after = line[called.end() :] if called else ""
    return re.findall(r"%([\w.\-]+)", after.split("), ")[0])


def _called(line: str) -> list[str]:
    if " call(" in line:  # a graph of kernels that a GPU starts at once
        return re.findall(r"to_apply=%?([\w.\-]+)", line)
    if " fusion(" in line:
        return []
    branches = re.search(r"branch_computations=\{([^}]*)\}", line)
    names = branches.group(1).split(",") if branches else []
    return [*CALLED.findall(line), *(name.strip().lstrip("%") for name in names)]


def _sizes(shapes: str, *, is_on_chip: bool = True) -> list[int]:
    """The bytes of each array in a type; arrays on the chip may be left out."""
    return [
        ITEM[kind] * math.prod(int(size) for size in sizes.split(",") if size)
        for kind, sizes, layout in ARRAY.findall(shapes)
        if is_on_chip or ON_CHIP not in layout
    ]
