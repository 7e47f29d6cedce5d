"""The units of the cost model: an amount of work, the price of a method (the bytes it reserves, and
its work once and in an iteration), and a problem on a machine, which tells the seconds of work.

In the formulas X has n rows and d features, and y has t outputs; of a sharded X, n and d are those
of a device's shard. ``docs/plan.md`` has the formulas as a table.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp

from jaxdescent.cost.structure import ProblemKind, Structure
from jaxdescent.kernels.blocks import WIDENED_BYTES, block_rows
from jaxdescent.kernels.loops import LARGE_BYTES
from jaxdescent.kernels.products import LEAST_PARTED, run_length
from jaxdescent.kernels.symmetric import symmetric_share
from jaxdescent.machine import Machine

ALLOWED_ITERATIONS = 1000
"""The iterations that ``minimize`` allows by default."""

ITERATION_KERNELS = 30
"""The kernels of an iteration besides passes over the data: checks, rotations, norms."""

CALL_KERNELS, HANDOVER_KERNELS = 100, 150
"""The numbers of kernels that take as long as the call of a program, with the work outside its
loop; and as the start of all cores of a CPU, which products outside a loop do twice."""

ROW_SECONDS = 1.2e-9
"""The seconds that a CPU takes for a row of X in a product, besides reading its bytes."""

NORMS = 4
"""The number of norms and inner products of sharded params in an iteration or a check, each of
which is summed over the devices by itself."""

SCALAR_BYTES = 3000
"""The bytes that a program of an iterative method reserves whatever the problem's size."""


SMALL_BYTES, REUSED_BYTES = 1 << 17, 32 << 20
"""Up to the first size, an allocator always has memory left from the last call; beyond the second
it never has any (these are bounds of glibc's threshold). Between them, the results of separable
functions, which stay allocated, find memory that is left in two of three calls."""


class Work(NamedTuple):
    """An amount of work; amounts are added, and multiplied by a number of times."""

    passes: float = 0.0  # products with X or H for all outputs; a function's values and gradients
    bytes_moved: float = 0.0  # the bytes of vectors and copies that are read and written besides
    flops: float = 0.0  # the operations of other products
    factorisation_flops: float = 0.0  # the operations of factorisations
    seconds: float = 0.0  # those of factorisations, and what products of short matrices add
    kernels: float = 0.0  # the number of kernels whose start is all that they cost
    sums: float = 0.0  # the sums over all devices
    link_bytes: float = 0.0  # the bytes that each device sends to the others

    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        """Both amounts, one after the other."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def __mul__(self, times: float) -> Work:  # type: ignore[override]
        """This amount, a number of times."""
        return Work(*(times * amount for amount in self))


class Price(NamedTuple):
    """The predicted costs of a method."""

    working_bytes: float  # bytes reserved at the peak besides params and data, including the result
    setup: Work  # the work that is done once
    iteration: Work  # the work of each iteration
    iterations: float  # the expected number of iterations
    accuracy: float  # a bound on the relative error of the params due to rounding and the tolerance
    touched_bytes: float | None = None  # those of the reserved that are written to; None for all

    @property
    def touched(self) -> float:
        """The bytes that are written to."""
        return self.working_bytes if self.touched_bytes is None else self.touched_bytes


@dataclasses.dataclass(frozen=True)
class Question:
    """A problem on a machine, whose methods are to be priced."""

    structure: Structure
    machine: Machine
    tolerance: float  # the relative tolerance for the gradient's norm
    condition: float | None = None  # that of X (of H for a quadratic); None if nothing is known
    most_iterations: int = ALLOWED_ITERATIONS  # the most that the descent may take
    existing_bytes: int = 0  # of arrays: more than data and params where a donated start is reused

    # A pass

    @property
    def is_cpu(self) -> bool:
        """Whether programs have the forms for CPUs."""
        return self.machine.platform == "cpu"

    @property
    def is_narrow(self) -> bool:
        """Whether data of 16 bits must be widened, as they must on a CPU."""
        stored = jnp.dtype(self.structure.data_dtype).itemsize
        return self.structure.is_dense and stored < self.structure.itemsize and self.is_cpu

    @functools.cached_property
    def is_widened(self) -> bool:
        """Whether products read a float32 copy of all data; a large X is widened in blocks."""
        structure = self.structure
        is_regression = structure.kind is ProblemKind.REGRESSION
        is_in_blocks = structure.entries * structure.itemsize > WIDENED_BYTES
        return self.is_narrow and not (is_regression and is_in_blocks)

    def block_bytes(self, most: int, *, is_cut: bool = False) -> float:
        """The bytes of the blocks of rows that products copy on a CPU: a block of at most ``most``
        bytes, and the shorter block of the last rows. With ``is_cut`` a block is copied once more
        where it is cut into runs for one output.
        """
        (rows, features), itemsize = self.structure.shard, self.structure.itemsize
        length = block_rows(features, itemsize, most)
        is_cut = is_cut and self.structure.outputs == 1
        copied = 0
        for block in (min(length, rows), rows % length if rows > length else 0):
            copied += block * (2 if is_cut and run_length(block, features) else 1)
        return float(copied * features * itemsize)

    @property
    def read_dtype(self) -> str:
        """The dtype that products read."""
        structure = self.structure
        is_stored = structure.is_dense and not self.is_widened
        return structure.data_dtype if is_stored else structure.compute_dtype

    @functools.cached_property
    def pass_bytes(self) -> float:
        """The bytes that a pass reads; entries of a sparse X are read for each output."""
        structure = self.structure
        if structure.is_dense:
            return float(structure.entries * jnp.dtype(self.read_dtype).itemsize)
        times = 1 if structure.is_streamed else structure.outputs
        return times * structure.evaluation_bytes or 2.0 * structure.vector_bytes

    @property
    def pass_flops(self) -> float:
        """The operations of a pass."""
        structure = self.structure
        if structure.is_dense:
            return 2.0 * structure.entries * structure.outputs
        return structure.outputs * (structure.evaluation_flops or 4.0 * structure.unknowns)

    @functools.cached_property
    def pass_seconds(self) -> float:
        """The seconds of a pass: those of reading or of computing, whichever are more."""
        structure, machine, read = self.structure, self.machine, self.pass_bytes
        computing = self.pass_flops / machine.product(self.read_dtype)
        if structure.is_dense and structure.outputs > 1:
            # Every other pass is X'R, which a CPU does not part into groups of few rows.
            is_parted = not self.is_cpu or structure.rows >= LEAST_PARTED
            return (1 if is_parted else 3) * read / machine.bandwidth("float32", read) + computing
        at_work = read / (machine.ratios.cached * machine.read_bandwidth["float32"])
        if structure.is_dense and self.is_cpu:
            at_work += ROW_SECONDS * structure.shard[0]
        reading = read / machine.bandwidth(self.read_dtype, read)
        if self.is_widened:  # anew in each pass
            reading += 1.5 * read / machine.read_bandwidth["float32"]
        return max(reading, computing, at_work, structure.reading_seconds)

    # Parts of a method

    def passes(self, forth: float, back: float) -> Work:
        """Products with X (forth) and with X' (back), or with H, and their sums over devices.

        Rows that are read block by block are multiplied by both. If rows are sharded X'r is a sum
        over devices; if features are sharded X w is. In H x each device computes its rows, which
        all devices need: this sends half as much as a sum.
        """
        structure = self.structure
        length, times = structure.features * structure.outputs, back
        if structure.kind is ProblemKind.QUADRATIC:
            length = structure.rows / 2
        elif structure.sharded == "features":
            length, times = structure.rows * structure.outputs, forth
        summed = self.all_reduce(length) * times
        if not structure.is_streamed:
            return summed._replace(passes=forth + back)
        more = self.pass_flops * min(forth, back)
        return summed._replace(passes=max(forth, back), flops=more)

    def vectors(self, count: float) -> Work:
        """Reading or writing ``count`` vectors of the params' length, and of y's."""
        structure = self.structure
        size = structure.vector_bytes
        if structure.kind is ProblemKind.REGRESSION:
            size += structure.shard[0] * structure.outputs * structure.itemsize
        return Work(bytes_moved=count * size, kernels=ITERATION_KERNELS)

    def product(self, flops: float, side: float) -> Work:
        """Products of large matrices, whose shortest side has this length."""
        slower = self.machine.ratios.product_half / max(side, 1)
        return Work(flops=flops, seconds=slower * flops / self.machine.product(self.read_dtype))

    def gram_matrix(self) -> Work:
        """The Gram matrix of the smaller side of X, and its sum over devices."""
        structure = self.structure
        smaller = structure.smaller
        share = symmetric_share(smaller) if self.machine.is_one_cpu else 1.0
        products = self.product(share * 2.0 * structure.entries * smaller, smaller)
        return products + self.all_reduce(float(smaller) ** 2)

    def cholesky(self, size: float) -> Work:
        """A Cholesky factor in ``n^3/3`` operations, and its inverse in ``n^3``."""
        slower = 1 + self.machine.ratios.cholesky_half / max(size, 1)
        return self._factorised(4 / 3 * size**3, slower / self.machine.ratios.cholesky)

    def orthogonal(self, rows: float, columns: float) -> Work:
        """The R of Householder's QR, in ``2 n^2 (m - n/3)`` operations."""
        slower = 1 + self.machine.ratios.orthogonal_half / max(columns, 1)
        return self._factorised(2 * columns**2 * (rows - columns / 3), slower)

    def spectrum(self, size: float) -> Work:
        """The eigenvectors of a symmetric matrix, which take as long as ``1.2 n^3`` operations of a
        QR, at a rate that depends thirteen times as much on the size.
        """
        slower = 1 + 13 * self.machine.ratios.orthogonal_half / max(size, 1)
        return self._factorised(1.2 * size**3, slower)

    def _factorised(self, flops: float, slower: float) -> Work:
        """Operations that take ``slower`` times as long as those of a large QR in float32."""
        machine = self.machine
        slower *= machine.product("float32") / machine.product(self.read_dtype)
        return Work(factorisation_flops=flops, seconds=flops * slower / machine.orthogonal_rate)

    def all_reduce(self, elements: float) -> Work:
        """Summing ``elements`` numbers over all devices, with the result on each.

        Over k devices each sends ``2 (k - 1) / k`` times their bytes: in a reduce-scatter the k-1
        chunks that others sum, and in an all-gather its own sums to the k-1 others.
        """
        shards = self.structure.shards
        sent = 2 * (1 - 1 / shards) * elements * self.structure.itemsize
        return Work(sums=1, link_bytes=sent) if shards > 1 else Work()

    def norms(self) -> Work:
        """The sums over devices in the norms of an iteration; if rows are sharded, only the norm of
        a vector like y is one, and none of a quadratic.
        """
        structure = self.structure
        if structure.kind is ProblemKind.QUADRATIC:
            return Work()
        return self.all_reduce(1) * (1 if structure.sharded == "rows" else NORMS)

    # Sums

    def flops(self, work: Work) -> float:
        """All operations of an amount of work."""
        return work.passes * self.pass_flops + work.flops + work.factorisation_flops

    def bytes_moved(self, work: Work) -> float:
        """All bytes that an amount of work reads and writes."""
        return work.passes * self.pass_bytes + work.bytes_moved

    def seconds(self, work: Work, *, is_loop: bool = False) -> float:
        """The seconds of an amount of work, once or as an iteration of a loop.

        On a CPU an iteration that touches little is compiled into one kernel for one core.
        """
        machine, passing = self.machine, work.passes * self.pass_seconds
        starting = work.kernels * machine.operation_seconds
        if is_loop and self.is_cpu and 2 * self.pass_bytes < LARGE_BYTES:
            passing, starting = machine.cores * passing, 0.0
        # Of a separable function only vectors are read, which stay in the cache if they are short.
        is_separable = self.structure.kind is ProblemKind.SEPARABLE
        rate = machine.bandwidth("float32", self.pass_bytes if is_separable else float("inf"))
        computing = work.flops / machine.product(self.read_dtype) + work.seconds
        links = machine.link_seconds(work.link_bytes, work.sums)
        return passing + work.bytes_moved / rate + computing + starting + links

    def seconds_of(self, price: Price) -> tuple[float, float]:
        """The seconds of a program outside its loop, those of the call included, and the seconds of
        an iteration.
        """
        fresh = 0.0  # bytes whose pages the system has yet to map
        if price.touched > REUSED_BYTES:
            fresh = price.touched
        elif self.structure.kind is ProblemKind.SEPARABLE and price.touched > SMALL_BYTES:
            fresh = price.touched / 3
        called = Work(kernels=CALL_KERNELS + HANDOVER_KERNELS * self.is_cpu)
        mapped = fresh / (self.machine.ratios.fresh * self.machine.read_bandwidth["float32"])
        once = self.seconds(price.setup + called) + mapped
        return once, self.seconds(price.iteration, is_loop=True)
