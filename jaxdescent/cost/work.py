"""The units of the cost model: an amount of work with its seconds, the price of a method (the bytes
that it reserves, and its work once and in an iteration), and a problem on a machine.

In the formulas X has n rows and d features, and y has t outputs; of a sharded X, n and d are those
of a device's shard. ``docs/plan.md`` has the formulas as a table.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp

from jaxdescent.cost.structure import ProblemKind, Structure
from jaxdescent.kernels.loops import LARGE_BYTES
from jaxdescent.kernels.products import LEAST_PARTED, WIDENED_BYTES, block_rows
from jaxdescent.kernels.symmetric import symmetric_share
from jaxdescent.machine import Machine

ALLOWED_ITERATIONS = 1000
"""The iterations that ``minimize`` allows by default."""

ITERATION_KERNELS = 30
"""The kernels of an iteration besides passes over the data: checks, rotations, norms."""

PROGRAM_KERNELS = 100
"""The kernels that take as long as calling a program, and what it does outside its loop."""

HANDOVER_KERNELS = 150
"""The kernels that take as long as starting all cores of a CPU, as the products outside a loop do
twice."""

ROW_SECONDS = 1.2e-9
"""The seconds that a CPU takes for a row of X in a product, besides reading its bytes."""

NORMS = 4
"""The number of norms and inner products of sharded params in an iteration or a check, each of
which is summed over the devices by itself."""


SCALAR_BYTES = 3000
"""The bytes that a program of an iterative method reserves whatever the problem's size."""


class Work(NamedTuple):
    """An amount of work; amounts are added, and multiplied by a number of times.

    Attributes:
      seconds: the seconds that it takes besides ``read_seconds``, ``kernels`` and links.
      read_seconds: the seconds of passes over the data.
      kernels: the number of kernels whose start is all that they cost.
      bytes_moved: the bytes of data and vectors that are read and written.
      flops: the operations on numbers.
      factorisation_flops: the operations of factorisations among these.
      link_seconds: the seconds in which the devices exchange their terms of sums.
      link_bytes: the bytes that each device sends to the others.
    """

    seconds: float = 0.0
    read_seconds: float = 0.0
    kernels: float = 0.0
    bytes_moved: float = 0.0
    flops: float = 0.0
    factorisation_flops: float = 0.0
    link_seconds: float = 0.0
    link_bytes: float = 0.0

    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        """Both amounts, one after the other."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def __mul__(self, times: float) -> Work:  # type: ignore[override]
        """This amount, a number of times."""
        return Work(*(times * amount for amount in self))


class Price(NamedTuple):
    """The predicted costs of a method.

    Attributes:
      working_bytes: bytes reserved at the peak besides params and data, including the result.
      setup: the work that is done once.
      iteration: the work of each iteration.
      iterations: the expected number of iterations.
      accuracy: a bound on the relative error of the params due to rounding and the tolerance.
      touched_bytes: how many of the reserved bytes are written to; None stands for all.
    """

    working_bytes: float
    setup: Work
    iteration: Work
    iterations: float
    accuracy: float
    touched_bytes: float | None = None


@dataclasses.dataclass(frozen=True)
class Question:
    """A problem on a machine, whose methods are to be priced.

    Args:
      structure: the structure of the problem.
      machine: the machine that it runs on.
      tolerance: the relative tolerance for the gradient's norm.
      condition: the condition number of X (of H for a quadratic); None if nothing is known.
      most_iterations: the most iterations that the descent may take.
    """

    structure: Structure
    machine: Machine
    tolerance: float
    condition: float | None = None
    most_iterations: int = ALLOWED_ITERATIONS

    @property
    def is_narrow(self) -> bool:
        """Whether data of 16 bits must be widened, as they must on a CPU."""
        stored = jnp.dtype(self.structure.data_dtype).itemsize
        is_narrow = self.structure.is_dense and stored < self.structure.itemsize
        return is_narrow and self.machine.platform == "cpu"

    @functools.cached_property
    def is_widened(self) -> bool:
        """Whether products read a float32 copy of all data; a large X is widened in blocks."""
        structure = self.structure
        is_regression = structure.kind is ProblemKind.REGRESSION
        is_in_blocks = structure.entries * structure.itemsize > WIDENED_BYTES
        return self.is_narrow and not (is_regression and is_in_blocks)

    @property
    def widened_bytes(self) -> float:
        """The bytes of what a product widens of 16-bit data: all of it, or blocks of a large X."""
        structure = self.structure
        if not self.is_narrow:
            return 0.0
        if self.is_widened:
            return float(structure.entries * structure.itemsize)
        # Two copies share the room of the last, shorter block.
        has_rest = structure.rows % block_rows(structure.features, structure.itemsize) > 0
        return (1.0 + has_rest / 2) * WIDENED_BYTES

    @property
    def read_dtype(self) -> str:
        """The dtype that products read."""
        structure = self.structure
        if self.is_widened or not structure.is_dense:
            return structure.compute_dtype
        return structure.data_dtype

    @functools.cached_property
    def pass_bytes(self) -> float:
        """The bytes that a product reads."""
        structure = self.structure
        if structure.is_dense:
            return float(structure.entries * jnp.dtype(self.read_dtype).itemsize)
        return structure.evaluation_bytes or 2.0 * structure.vector_bytes

    def one_pass(self, columns: float = 1.0) -> Work:
        """A product with X, X' or H that reads the data once for all columns; for a function, one
        value and gradient.
        """
        structure, machine = self.structure, self.machine
        read = self.pass_bytes
        if structure.is_dense:
            flops = 2.0 * structure.entries * columns
            if columns > 1:
                # Every other pass is X'R, which a CPU does not part into groups of few rows.
                is_parted = machine.platform != "cpu" or structure.rows >= LEAST_PARTED
                times = 1.0 if is_parted else 3.0
                seconds = times * read / machine.bandwidth("float32", read)
                seconds += flops / machine.product(self.read_dtype)
                return Work(read_seconds=seconds, bytes_moved=read, flops=flops)
        else:
            flops = columns * (structure.evaluation_flops or 4.0 * structure.unknowns)
            read *= 1.0 if structure.is_streamed else columns
        computing = flops / machine.product(self.read_dtype)
        at_work = read / (machine.ratios.cached * machine.read_bandwidth["float32"])
        if structure.is_dense and machine.platform == "cpu":
            at_work += ROW_SECONDS * structure.shard[0]
        reading = read / machine.bandwidth(self.read_dtype, self.pass_bytes)
        seconds = max(reading, computing, at_work, structure.reading_seconds)
        return Work(read_seconds=seconds, bytes_moved=read, flops=flops)

    def there_and_back(self, columns: float = 1.0) -> Work:
        """A product with X and one with X': two passes, but one for rows that are read block by
        block, each of which is multiplied by both.
        """
        one = self.one_pass(columns)
        return one._replace(flops=2 * one.flops) if self.structure.is_streamed else one * 2

    def vectors(self, count: float) -> Work:
        """Reading or writing ``count`` vectors of the params' length, and of y's."""
        structure = self.structure
        size = structure.vector_bytes
        if structure.kind is ProblemKind.REGRESSION:
            size += structure.shard[0] * structure.outputs * structure.itemsize
        # Of a separable function only vectors are read, which stay in the cache if they are short.
        working_set = self.pass_bytes if structure.kind is ProblemKind.SEPARABLE else float("inf")
        return self.updated(count * size, working_set)._replace(kernels=ITERATION_KERNELS)

    def updated(self, count: float, working_set: float = float("inf")) -> Work:
        """Reading or writing so many bytes of vectors, or copying data."""
        seconds = count / self.machine.bandwidth("float32", working_set)
        return Work(seconds=seconds, bytes_moved=count)

    def product(self, flops: float, side: float) -> Work:
        """Products of large matrices, whose shortest side has this length."""
        seconds = flops * (1 + self.machine.ratios.product_half / max(side, 1))
        return Work(seconds=seconds / self.machine.product(self.read_dtype), flops=flops)

    def gram_matrix(self) -> Work:
        """The Gram matrix of the smaller side of X, and its sum over devices."""
        structure = self.structure
        smaller = structure.smaller
        share = symmetric_share(smaller, is_halved=self.machine.is_one_cpu)
        products = self.product(share * 2.0 * structure.entries * smaller, smaller)
        return products + self.all_reduce(float(smaller) ** 2)

    def cholesky(self, size: float) -> Work:
        """A Cholesky factor in ``n^3/3`` operations, and its inverse in ``n^3``."""
        slower = 1 + self.machine.ratios.cholesky_half / max(size, 1)
        return self._factorised(4 / 3 * size**3, slower / self.machine.ratios.cholesky)

    def orthogonal(self, rows: float, columns: float) -> Work:
        """The R of Householder's QR, in ``2 n^2 (m - n/3)`` operations."""
        flops = 2 * columns**2 * (rows - columns / 3)
        slower = 1 + self.machine.ratios.orthogonal_half / max(columns, 1)
        return self._factorised(flops, slower)

    def spectrum(self, size: float) -> Work:
        """The eigenvectors of a symmetric matrix, which take as long as ``1.2 n^3`` operations of a
        QR, at a rate that depends thirteen times as much on the size.
        """
        slower = 1 + 13 * self.machine.ratios.orthogonal_half / max(size, 1)
        return self._factorised(1.2 * size**3, slower)

    def _factorised(self, flops: float, slower: float) -> Work:
        """Operations that take so many times longer than those of a large QR in float32."""
        machine = self.machine
        slower *= machine.product("float32") / machine.product(self.read_dtype)
        seconds = flops * slower / machine.orthogonal_rate
        return Work(seconds=seconds, flops=flops, factorisation_flops=flops)

    def all_reduce(self, elements: float) -> Work:
        """Summing ``elements`` numbers over all devices, with the result on each.

        Over k devices each sends ``2 (k - 1) / k`` times their bytes: in a reduce-scatter the k-1
        chunks that others sum, and in an all-gather its own sums to the k-1 others.
        """
        shards, machine = self.structure.shards, self.machine
        if shards == 1:
            return Work()
        sent = 2 * (1 - 1 / shards) * elements * self.structure.itemsize
        sending = sent / machine.link_bandwidth if machine.link_bandwidth else 0.0
        return Work(link_seconds=sending + machine.all_reduce_seconds, link_bytes=sent)

    def gradient_sum(self) -> Work:
        """The sums over devices in a product with X and one with its transpose, or in one with H.

        If rows are sharded X'r is such a sum; if features are sharded X w is. In H x each device
        computes its rows, which all devices need: this sends half as much as a sum.
        """
        structure = self.structure
        if structure.kind is ProblemKind.QUADRATIC:
            return self.all_reduce(structure.rows / 2)
        length = structure.features if structure.sharded == "rows" else structure.rows
        return self.all_reduce(length * structure.outputs)

    def norms(self) -> Work:
        """The sums over devices in the norms of an iteration; if rows are sharded, only the norm of
        a vector like y is one.
        """
        return self.all_reduce(1) * (1 if self.structure.sharded == "rows" else NORMS)

    def seconds(self, work: Work) -> float:
        """The seconds of an amount of work outside a loop."""
        in_kernels = work.kernels * self.machine.operation_seconds
        return work.seconds + work.read_seconds + in_kernels + work.link_seconds

    def iteration_seconds(self, work: Work) -> float:
        """The seconds of an amount of work as an iteration of a loop.

        On a CPU an iteration that touches little is compiled into one kernel for one core.
        """
        if self.machine.platform == "cpu" and 2 * self.pass_bytes < LARGE_BYTES:
            on_one_core = self.machine.cores * work.read_seconds
            work = work._replace(kernels=0.0, read_seconds=on_one_core)
        return self.seconds(work)

    def program_seconds(self, setup: Work, fresh_bytes: float) -> float:
        """The seconds of a call and of all that a program does outside its loop.

        ``fresh_bytes`` are written to memory whose pages the system has yet to map.
        """
        is_cpu = self.machine.platform == "cpu"
        called = Work(kernels=PROGRAM_KERNELS + HANDOVER_KERNELS * is_cpu)
        return self.seconds(setup + called) + fresh_bytes / self.machine.fresh_bandwidth
