"""What is counted: work, in the units of a machine; the question that a price answers; a price."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxdescent.designs.dense import WIDENED_BYTES
from jaxdescent.machine import Machine
from jaxdescent.plan.structure import Kind, Structure

SCALAR_OPERATIONS = 60
"""Small operations an iteration, besides passes over the data: checks, rotations, norms."""


SCALAR_BYTES = 3000
"""What a program of an iterative method reserves whatever the problem's size."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Something done once, in the units of :class:`jaxdescent.machine.Machine`.

    Args:
      read_bytes: of the data, by products with few columns.
      read_flops: of these products, which take whichever of the two is slower.
      update_bytes: of vectors, read and written.
      product_flops: of products of large matrices.
      cholesky_flops, orthogonal_flops: of factorisations.
      operations: small ones, whose number counts, not their size.
    """

    read_bytes: float = 0.0
    read_flops: float = 0.0
    update_bytes: float = 0.0
    product_flops: float = 0.0
    cholesky_flops: float = 0.0
    orthogonal_flops: float = 0.0
    operations: float = 0.0

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
        return self.read_bytes + self.update_bytes

    @property
    def flops(self) -> float:
        """All operations on numbers."""
        return self.read_flops + self.product_flops + self.cholesky_flops + self.orthogonal_flops

    def seconds(self, machine: Machine, dtype: str, working_set: float) -> float:
        """On this machine, in the dtype that products read.

        ``working_set`` is the bytes that each iteration goes over: few of them stay in the cache.
        """
        bandwidth = machine.bandwidth(dtype, working_set)
        reading = max(self.read_bytes / bandwidth, self.read_flops / machine.product(dtype))
        return (
            reading
            + self.update_bytes / machine.update_bandwidth
            + self.product_flops / machine.product(dtype)
            + self.cholesky_flops / machine.factorisation(dtype)
            + self.orthogonal_flops / machine.factorisation(dtype, orthogonal=True)
            + self.operations * machine.operation_seconds
        )


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
        return 2.0 * structure.vector_bytes

    def seconds(self, work: Work) -> float:
        """That a piece of work takes."""
        return work.seconds(self.machine, self.read_dtype, self.pass_bytes)


@dataclasses.dataclass(frozen=True)
class Price:
    """What a method costs.

    Args:
      working_bytes: reserved at the peak besides params and data, the result included.
      setup: done once.
      iteration: done every iteration.
      iterations: expected.
      accuracy: the relative error of the params that rounding and the tolerance leave, at most.
    """

    working_bytes: float
    setup: Work
    iteration: Work
    iterations: float
    accuracy: float

    @property
    def total(self) -> Work:
        """The setup and all iterations."""
        return self.setup + self.iteration * self.iterations


def pass_bytes(structure: Structure, dtype: str) -> float:
    """X or H, read once in this dtype."""
    return float(structure.entries * jnp.dtype(dtype).itemsize)


def one_pass(question: Question, columns: float = 1.0) -> Work:
    """A product with X, X' or H: the data are read once, whatever the number of columns.

    Of a function, one value and gradient.
    """
    structure = question.structure
    if structure.is_dense:
        return Work(read_bytes=question.pass_bytes, read_flops=2.0 * structure.entries * columns)
    flops = structure.evaluation_flops or 4.0 * structure.unknowns
    return Work(read_bytes=columns * question.pass_bytes, read_flops=columns * flops)


def vectors(structure: Structure, count: float) -> Work:
    """So many vectors of the params' length, and of y's, read or written."""
    size = structure.vector_bytes
    if structure.kind is Kind.REGRESSION:
        size += structure.rows * structure.outputs * structure.itemsize
    return Work(update_bytes=float(count * size), operations=SCALAR_OPERATIONS)
