"""What is counted: work, in the units of a machine; the question that a price answers; a price."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxdescent.kernels.loops import LARGE_BYTES
from jaxdescent.kernels.products import LEAST_PARTED, WIDENED_BYTES
from jaxdescent.machine import Machine, cholesky_flops
from jaxdescent.plan.structure import Kind, Structure

SCALAR_OPERATIONS = 30
"""Small operations an iteration, besides passes over the data: checks, rotations, norms."""


DOUBLE_FLOPS = 25
"""Additions and products for an entry of X in double length."""


SMALL_BYTES, REUSED_BYTES = 1 << 17, 32 << 20
"""Up to the first an allocator always has memory left from the call before, beyond the second never
(the bounds of glibc's threshold). Between them results, which live on, find it 2 times of 3."""


PROGRAM_OPERATIONS = 60
"""Small operations of a whole program, outside its loop."""


SPECTRAL_FLOPS, SPECTRAL_LINES = 1.2, 13.0
"""Of a spectral factorisation, times n^3, at the rate of a large QR (it does 9, most of them far
faster), and how many times more than a QR it gains from size: 4 ms for 300 columns, 0.37 s for
2,000."""


SCALAR_BYTES = 3000
"""What a program of an iterative method reserves whatever the problem's size."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Something done once, in the units of :class:`jaxdescent.machine.Machine`.

    A product or factorisation of size m takes ``(1 + half / m) / rate`` an operation: what is left
    of the rate where a side is short. Its *lines* are its operations divided by m.

    Args:
      read_bytes: of the data, by products with one column.
      read_flops: of these products, which take whichever of the two is slower.
      read_rows: rows of X in these products, of which each takes a moment of its own.
      thin_bytes: of the data, by products with several columns, whose operations count as those
        of large products besides.
      update_bytes: of vectors, read and written.
      product_flops, product_lines: of products of large matrices.
      cholesky_flops, cholesky_lines: of Cholesky factorisations and inverses.
      orthogonal_flops, orthogonal_lines: of QR and spectral factorisations.
      fresh_bytes: written where nothing was before: the system has to find the pages.
      double_entries: entries of X in products in double length.
      operations: small ones, whose number counts, not their size.
      handovers: how many operations begin on one core and go on on all.
      link_bytes: that each device sends to the others.
      all_reduces: how many times the devices wait for each other to do so.
    """

    read_bytes: float = 0.0
    read_flops: float = 0.0
    read_rows: float = 0.0
    thin_bytes: float = 0.0
    update_bytes: float = 0.0
    product_flops: float = 0.0
    product_lines: float = 0.0
    cholesky_flops: float = 0.0
    cholesky_lines: float = 0.0
    orthogonal_flops: float = 0.0
    orthogonal_lines: float = 0.0
    fresh_bytes: float = 0.0
    double_entries: float = 0.0
    operations: float = 0.0
    handovers: float = 0.0
    link_bytes: float = 0.0
    all_reduces: float = 0.0

    def __add__(self, other: Work) -> Work:
        """One after the other."""
        return Work(*(a + b for a, b in zip(self._amounts, other._amounts, strict=True)))

    def __mul__(self, times: float) -> Work:
        """So many times."""
        return Work(*(times * amount for amount in self._amounts))

    @property
    def _amounts(self) -> tuple[float, ...]:
        return tuple(self.__dict__.values())

    @property
    def bytes_moved(self) -> float:
        """To and from memory; what products of large matrices move is little beside their work."""
        return self.read_bytes + self.thin_bytes + self.update_bytes

    @property
    def flops(self) -> float:
        """All operations on numbers."""
        factorisations = self.cholesky_flops + self.orthogonal_flops
        in_double_length = DOUBLE_FLOPS * self.double_entries
        return self.read_flops + self.product_flops + factorisations + in_double_length

    def seconds(self, machine: Machine, dtype: str, working_set: float) -> float:
        """On this machine, in the dtype that products read.

        ``working_set`` is the bytes that each iteration goes over: few of them stay in the cache.
        """
        bandwidth = machine.bandwidth(dtype, working_set)
        # What a row takes besides its bytes is work, which goes on while memory is waited for.
        at_work = self.read_rows * machine.row_seconds + self.read_bytes / machine.cached_bandwidth
        computing = max(self.read_flops / machine.product(dtype), at_work)
        reading = max(self.read_bytes / bandwidth, computing)
        # Measured on what no cache holds.
        thin = self.thin_bytes / (machine.thin_bandwidth * machine.cache_speedup(working_set))
        product = self.product_flops + machine.product_half * self.product_lines
        cholesky = self.cholesky_flops + machine.cholesky_half * self.cholesky_lines
        orthogonal = self.orthogonal_flops + machine.orthogonal_half * self.orthogonal_lines
        return (
            reading
            + thin
            + self.update_bytes / machine.update_bandwidth
            + product / machine.product(dtype)
            + machine.slowness(dtype)
            * (
                cholesky / machine.cholesky_rate
                + orthogonal / machine.orthogonal_rate
                + self.double_entries / machine.double_rate
            )
            + self.fresh_bytes / machine.fresh_bandwidth
            + self.operations * machine.operation_seconds
            + self.handovers * machine.handover_seconds
            + self.link_seconds(machine)
        )

    def link_seconds(self, machine: Machine) -> float:
        """What the devices of a mesh take to send each other their parts."""
        if not self.all_reduces:
            return 0.0
        sending = self.link_bytes / machine.link_bandwidth if machine.link_bandwidth else 0.0
        return sending + self.all_reduces * machine.all_reduce_seconds


def product(flops: float, size: float) -> Work:
    """Of large matrices, whose shortest side has this size."""
    return Work(product_flops=flops, product_lines=flops / max(size, 1))


def cholesky(size: float) -> Work:
    """A factor and its inverse."""
    flops = cholesky_flops(size)
    return Work(cholesky_flops=flops, cholesky_lines=flops / max(size, 1))


def orthogonal(flops: float, size: float) -> Work:
    """A QR or spectral factorisation of so many columns."""
    return Work(orthogonal_flops=flops, orthogonal_lines=flops / max(size, 1))


def spectrum(size: float) -> Work:
    """A spectral factorisation of a symmetric matrix."""
    flops = SPECTRAL_FLOPS * size**3
    return Work(orthogonal_flops=flops, orthogonal_lines=SPECTRAL_LINES * flops / max(size, 1))


@dataclasses.dataclass(frozen=True)
class Question:
    """What a price depends on.

    Args:
      structure: of the problem.
      machine: whose compiler makes copies, or not.
      tolerance: of the gradient's norm, relative.
      condition: the condition number of X (of H for a quadratic), None where nothing is known.
    """

    structure: Structure
    machine: Machine
    tolerance: float
    condition: float | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether data of 16 bits have to be widened: a CPU multiplies no others."""
        stored = jnp.dtype(self.structure.data_dtype).itemsize
        is_narrow = self.structure.is_dense and stored < self.structure.itemsize
        return is_narrow and self.machine.platform == "cpu"

    @property
    def is_widened(self) -> bool:
        """Whether products read a float32 copy of all of them; a large X is widened in blocks."""
        structure = self.structure
        is_in_blocks = (
            structure.kind is Kind.REGRESSION
            and structure.entries * structure.itemsize > WIDENED_BYTES
        )
        return self.is_narrow and not is_in_blocks

    @property
    def read_dtype(self) -> str:
        """What products read."""
        structure = self.structure
        if self.is_widened or not structure.is_dense:
            return structure.compute_dtype
        return structure.data_dtype

    @property
    def pass_bytes(self) -> float:
        """The data that a product reads."""
        structure = self.structure
        if structure.is_dense:
            return pass_bytes(structure, self.read_dtype)
        return structure.evaluation_bytes or 2.0 * structure.vector_bytes

    def seconds(self, work: Work) -> float:
        """That a piece of work takes."""
        if self.structure.kind is Kind.SEPARABLE:
            # Its vectors are all that it goes over.
            faster = self.machine.cache_speedup(self.pass_bytes)
            work = dataclasses.replace(work, update_bytes=work.update_bytes / faster)
        return work.seconds(self.machine, self.read_dtype, self.pass_bytes)

    def iteration_seconds(self, work: Work) -> float:
        """That it takes as one turn of a loop.

        A CPU's compiler makes one operation, for one core, of a whole turn that touches little;
        else all cores wait for the next.
        """
        work = dataclasses.replace(work, handovers=0.0)
        if self.machine.platform == "cpu" and 2 * self.pass_bytes < LARGE_BYTES:
            on_one_core = self.machine.cores * work.read_bytes
            work = dataclasses.replace(work, operations=0.0, read_bytes=on_one_core)
        return self.seconds(work)


@dataclasses.dataclass(frozen=True)
class Price:
    """What a method costs.

    Args:
      working_bytes: reserved at the peak besides params and data, the result included.
      setup: done once.
      iteration: done every iteration.
      iterations: expected.
      accuracy: the relative error of the params that rounding and the tolerance leave, at most.
      touched_bytes: what is used of what is reserved; None: all.
      is_result_large: whether most of it are vectors like the result, which is new at every call.
    """

    working_bytes: float
    setup: Work
    iteration: Work
    iterations: float
    accuracy: float
    touched_bytes: float | None = None
    is_result_large: bool = False

    @property
    def program(self) -> Work:
        """The setup, and what every program does outside its loop: copies, checks, results."""
        touched = self.working_bytes if self.touched_bytes is None else self.touched_bytes
        fresh = touched
        if touched <= REUSED_BYTES:
            fresh = touched / 3 if self.is_result_large and touched > SMALL_BYTES else 0.0
        return self.setup + Work(fresh_bytes=fresh, operations=PROGRAM_OPERATIONS)


def pass_bytes(structure: Structure, dtype: str) -> float:
    """X or H, read once in this dtype."""
    return float(structure.entries * jnp.dtype(dtype).itemsize)


def one_pass(question: Question, columns: float = 1.0) -> Work:
    """A product with X, X' or H: the data are read once, whatever the number of columns.

    Of a function, one value and gradient.
    """
    structure = question.structure
    if structure.is_dense and columns > 1:
        flops = 2.0 * structure.entries * columns
        # X'R, every other pass: of few rows it is not made in parts.
        is_parted = question.machine.platform != "cpu" or structure.rows >= LEAST_PARTED
        thin = (1.0 if is_parted else 3.0) * question.pass_bytes
        return Work(thin_bytes=thin, product_flops=flops, handovers=0.5)
    if structure.is_dense:
        return Work(
            read_bytes=question.pass_bytes,
            read_flops=2.0 * structure.entries,
            read_rows=structure.part[0],
            handovers=0.5,  # every other pass is one by the transpose
        )
    flops = structure.evaluation_flops or 4.0 * structure.unknowns
    return Work(read_bytes=columns * question.pass_bytes, read_flops=columns * flops)


def vectors(structure: Structure, count: float) -> Work:
    """So many vectors of the params' length, and of y's, read or written."""
    size = structure.vector_bytes
    if structure.kind is Kind.REGRESSION:
        size += structure.part[0] * structure.outputs * structure.itemsize
    return Work(update_bytes=float(count * size), operations=SCALAR_OPERATIONS)


def all_reduce(structure: Structure, elements: float) -> Work:
    """The sum over all devices of so many numbers that each has, on each of them.

    Each sends every part of its numbers but its own to be added up, and its own sum to all others:
    ``2 (k - 1) / k`` of their bytes over k devices, by whatever way they go.
    """
    if structure.parts == 1:
        return Work()
    share = 2 * (1 - 1 / structure.parts)
    return Work(link_bytes=share * elements * structure.itemsize, all_reduces=1.0)


def gradient_sum(structure: Structure) -> Work:
    """What two products, with X and its transpose, or one with H, need of the other devices.

    With rows sharded X'r is a sum over devices, with features sharded X w is; of H x each has its
    rows, which all need: half of what a sum sends.
    """
    if structure.kind is Kind.QUADRATIC:
        return all_reduce(structure, structure.rows / 2)
    length = structure.features if structure.sharded == "rows" else structure.rows
    return all_reduce(structure, length * structure.outputs)


NORMS = 4
"""Of sharded params so many norms and products are added up over the devices in an iteration or a
check, each by itself."""


def norms(structure: Structure) -> Work:
    """What the norms of an iteration need of the other devices: where rows are sharded, that of a
    vector like y alone.
    """
    count = 1 if structure.sharded == "rows" else NORMS
    return all_reduce(structure, 1) * count
