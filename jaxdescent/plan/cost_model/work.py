"""The units of the cost model: an amount of work, the question for a price, and a price."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxdescent.kernels.loops import LARGE_BYTES
from jaxdescent.kernels.products import LEAST_PARTED, WIDENED_BYTES
from jaxdescent.machine import Machine, cholesky_flops
from jaxdescent.plan.structure import Kind, Structure

SCALAR_OPERATIONS = 30
"""The small operations in an iteration besides passes over the data: checks, rotations, norms."""


DOUBLE_FLOPS = 25
"""The additions and multiplications for an entry of X in double length."""


SMALL_BYTES, REUSED_BYTES = 1 << 17, 32 << 20
"""For sizes up to the first, an allocator always has memory left from the last call; beyond the
second it never has (these are bounds of glibc's threshold). Between them, results, which stay
allocated, find it in two of three calls."""


PROGRAM_OPERATIONS = 60
"""The small operations of a whole program outside its loop."""


SPECTRAL_FLOPS, SPECTRAL_LINES = 1.2, 13.0
"""The operations of a spectral factorisation, over n^3, that take as long at the rate of a large QR
(it does 9, most of them far faster); and how much more than QR's its rate depends on the size: it
takes 4 ms for 300 columns and 0.37 s for 2,000."""


SCALAR_BYTES = 3000
"""The bytes that a program of an iterative method reserves whatever the problem's size."""


@dataclasses.dataclass(frozen=True)
class Work:
    """An amount of work, in the units of :class:`jaxdescent.machine.Machine`.

    An operation of a product or factorisation of size m takes ``(1 + half / m) / rate`` seconds,
    because short sides lower the rate. Its *lines* are its operations divided by m.

    Args:
      read_bytes: bytes of data read by products with one column.
      read_flops: operations of these products; the slower of reading and computing counts.
      read_rows: rows of X in these products, each of which takes ``row_seconds`` besides.
      thin_bytes: bytes of data read by products with several columns, whose operations count in
        ``product_flops``.
      update_bytes: bytes of vectors read and written.
      product_flops, product_lines: of products of large matrices.
      cholesky_flops, cholesky_lines: of Cholesky factorisations and inverses.
      orthogonal_flops, orthogonal_lines: of QR and spectral factorisations.
      fresh_bytes: bytes written to memory whose pages the system has yet to map.
      double_entries: entries of X in products in double length.
      operations: small operations, whose number counts and not their size.
      handovers: operations that begin on one core and continue on all.
      link_bytes: bytes that each device sends to the others.
      all_reduces: how many times the devices wait for each other's data.
      waiting_seconds: of reading rows that are not in memory, while the last ones are multiplied.
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
    waiting_seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Both amounts, one after the other."""
        return Work(*(a + b for a, b in zip(self._amounts, other._amounts, strict=True)))

    def __mul__(self, times: float) -> Work:
        """This amount, a number of times."""
        return Work(*(times * amount for amount in self._amounts))

    @property
    def _amounts(self) -> tuple[float, ...]:
        return tuple(self.__dict__.values())

    @property
    def bytes_moved(self) -> float:
        """Bytes read and written; those of large matrix products are few beside their work."""
        return self.read_bytes + self.thin_bytes + self.update_bytes

    @property
    def flops(self) -> float:
        """All operations on numbers."""
        factorisations = self.cholesky_flops + self.orthogonal_flops
        in_double_length = DOUBLE_FLOPS * self.double_entries
        return self.read_flops + self.product_flops + factorisations + in_double_length

    def seconds(self, machine: Machine, dtype: str, working_set: float) -> float:
        """The time on this machine, where ``dtype`` is the one that products read.

        ``working_set`` is the number of bytes that each iteration reads: if they are few they stay
        in the cache.
        """
        bandwidth = machine.bandwidth(dtype, working_set)
        # The time of a row beyond its bytes is computation, which overlaps with reading memory.
        at_work = self.read_rows * machine.row_seconds + self.read_bytes / machine.cached_bandwidth
        computing = max(self.read_flops / machine.product(dtype), at_work)
        reading = max(self.read_bytes / bandwidth, computing, self.waiting_seconds)
        # The bandwidth of thin products was measured on data that no cache holds.
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
        """The time in which the devices of a mesh exchange their terms of sums."""
        if not self.all_reduces:
            return 0.0
        sending = self.link_bytes / machine.link_bandwidth if machine.link_bandwidth else 0.0
        return sending + self.all_reduces * machine.all_reduce_seconds


def product(flops: float, size: float) -> Work:
    """The work of products of large matrices whose shortest side has this size."""
    return Work(product_flops=flops, product_lines=flops / max(size, 1))


def cholesky(size: float) -> Work:
    """The work of a Cholesky factor and its inverse."""
    flops = cholesky_flops(size)
    return Work(cholesky_flops=flops, cholesky_lines=flops / max(size, 1))


def orthogonal(flops: float, size: float) -> Work:
    """The work of a QR or spectral factorisation of ``size`` columns."""
    return Work(orthogonal_flops=flops, orthogonal_lines=flops / max(size, 1))


def spectrum(size: float) -> Work:
    """The work of a spectral factorisation of a symmetric matrix."""
    flops = SPECTRAL_FLOPS * size**3
    return Work(orthogonal_flops=flops, orthogonal_lines=SPECTRAL_LINES * flops / max(size, 1))


@dataclasses.dataclass(frozen=True)
class Question:
    """The inputs of a price.

    Args:
      structure: the structure of the problem.
      machine: the machine it runs on.
      tolerance: the relative tolerance for the gradient's norm.
      condition: the condition number of X (of H for a quadratic); None if nothing is known.
    """

    structure: Structure
    machine: Machine
    tolerance: float
    condition: float | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether data of 16 bits must be widened, as they must on a CPU."""
        stored = jnp.dtype(self.structure.data_dtype).itemsize
        is_narrow = self.structure.is_dense and stored < self.structure.itemsize
        return is_narrow and self.machine.platform == "cpu"

    @property
    def is_widened(self) -> bool:
        """Whether products read a float32 copy of all data; a large X is widened in blocks."""
        structure = self.structure
        is_in_blocks = (
            structure.kind is Kind.REGRESSION
            and structure.entries * structure.itemsize > WIDENED_BYTES
        )
        return self.is_narrow and not is_in_blocks

    @property
    def read_dtype(self) -> str:
        """The dtype that products read."""
        structure = self.structure
        if self.is_widened or not structure.is_dense:
            return structure.compute_dtype
        return structure.data_dtype

    @property
    def pass_bytes(self) -> float:
        """The bytes that a product reads."""
        structure = self.structure
        if structure.is_dense:
            return pass_bytes(structure, self.read_dtype)
        return structure.evaluation_bytes or 2.0 * structure.vector_bytes

    def seconds(self, work: Work) -> float:
        """The seconds that an amount of work takes."""
        if self.structure.kind is Kind.SEPARABLE:
            # Only vectors are read.
            faster = self.machine.cache_speedup(self.pass_bytes)
            work = dataclasses.replace(work, update_bytes=work.update_bytes / faster)
        return work.seconds(self.machine, self.read_dtype, self.pass_bytes)

    def iteration_seconds(self, work: Work) -> float:
        """The seconds that an amount of work takes as an iteration of a loop.

        On a CPU an iteration that touches little is compiled into one kernel for one core;
        otherwise all cores wait for each other before the next iteration.
        """
        work = dataclasses.replace(work, handovers=0.0)
        if self.machine.platform == "cpu" and 2 * self.pass_bytes < LARGE_BYTES:
            on_one_core = self.machine.cores * work.read_bytes
            work = dataclasses.replace(work, operations=0.0, read_bytes=on_one_core)
        return self.seconds(work)


@dataclasses.dataclass(frozen=True)
class Price:
    """The predicted costs of a method.

    Args:
      working_bytes: bytes reserved at the peak besides params and data, including the result.
      setup: the work that is done once.
      iteration: the work of each iteration.
      iterations: the expected number of iterations.
      accuracy: a bound on the relative error of the params due to rounding and the tolerance.
      touched_bytes: how many of the reserved bytes are used; None stands for all.
      is_result_large: whether most of these are vectors like the result, which each call allocates.
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
    """The bytes of X or H, read once in this dtype."""
    return float(structure.entries * jnp.dtype(dtype).itemsize)


def one_pass(question: Question, columns: float = 1.0) -> Work:
    """The work of a product with X, X' or H, which reads the data once for all columns.

    For a function it is one value and gradient.
    """
    structure = question.structure
    if structure.is_dense and columns > 1:
        flops = 2.0 * structure.entries * columns
        # Every other pass is X'R, which is not computed in groups of rows if X has few rows.
        is_parted = question.machine.platform != "cpu" or structure.rows >= LEAST_PARTED
        thin = (1.0 if is_parted else 3.0) * question.pass_bytes
        return Work(thin_bytes=thin, product_flops=flops, handovers=0.5)
    if structure.is_dense:
        return Work(
            read_bytes=question.pass_bytes,
            read_flops=2.0 * structure.entries,
            read_rows=structure.shard[0],
            handovers=0.5,  # every other pass is a product with the transpose
        )
    flops = structure.evaluation_flops or 4.0 * structure.unknowns
    if structure.is_streamed:  # All columns of the operand share what is read.
        return Work(
            read_bytes=question.pass_bytes,
            read_flops=columns * flops,
            waiting_seconds=structure.reading_seconds,
        )
    return Work(read_bytes=columns * question.pass_bytes, read_flops=columns * flops)


def there_and_back(question: Question, columns: float = 1.0) -> Work:
    """The work of a product with X and then one with X': two passes, but for rows that are read
    block by block, which are multiplied by both.
    """
    one = one_pass(question, columns)
    if not question.structure.is_streamed:
        return one * 2
    return dataclasses.replace(one, read_flops=2 * one.read_flops)


def vectors(structure: Structure, count: float) -> Work:
    """The work of reading or writing ``count`` vectors of the params' length, and of y's."""
    size = structure.vector_bytes
    if structure.kind is Kind.REGRESSION:
        size += structure.shard[0] * structure.outputs * structure.itemsize
    return Work(update_bytes=float(count * size), operations=SCALAR_OPERATIONS)


def all_reduce(structure: Structure, elements: float) -> Work:
    """The work of summing ``elements`` numbers over all devices, with the result on each.

    Over k devices each sends ``2 (k - 1) / k`` times their bytes: in a reduce-scatter the k-1
    chunks that others sum, and in an all-gather its own sums to the k-1 others.
    """
    if structure.shards == 1:
        return Work()
    share = 2 * (1 - 1 / structure.shards)
    return Work(link_bytes=share * elements * structure.itemsize, all_reduces=1.0)


def gradient_sum(structure: Structure) -> Work:
    """The sums over devices in two products, with X and its transpose, or in one product with H.

    If rows are sharded X'r is such a sum; if features are sharded X w is. In H x each device
    computes its rows, which all devices need: this sends half as much as a sum.
    """
    if structure.kind is Kind.QUADRATIC:
        return all_reduce(structure, structure.rows / 2)
    length = structure.features if structure.sharded == "rows" else structure.rows
    return all_reduce(structure, length * structure.outputs)


NORMS = 4
"""The number of norms and inner products of sharded params in an iteration or a check, each of
which is summed over the devices by itself."""


def norms(structure: Structure) -> Work:
    """The sums over devices in the norms of an iteration; if rows are sharded, only the norm of a
    vector like y is one.
    """
    count = 1 if structure.sharded == "rows" else NORMS
    return all_reduce(structure, 1) * count
