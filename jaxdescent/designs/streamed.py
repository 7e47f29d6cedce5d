"""A design whose rows stay in their files or tables, and are read at each product."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.data import (
    MOST_BITS,
    DataError,
    Decoding,
    NormalSolution,
    NormalSums,
    RowStream,
    Shares,
    normal_solution,
    open_source,
)
from jaxdescent.designs.protocol import Design, Reading, registered
from jaxdescent.designs.read_rows import READERS, ReadRows
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.inputs.numbers import check_count

RATES = {"arrays": 8e9, ".npy": 3e9, "Parquet": 1e9, "CSV": 5e7}
"""About how many bytes of numbers are read and decoded in a second, by form, where the files are in
the system's cache. They are not measured: a plan would depend on who else reads."""

HASHED_RATE = 4e7
"""About how many words or values are hashed in a second."""

WRITTEN_OUT = 4
"""Rows of a batch are dense arrays if these take at most so many times the bytes that are read."""

OTHER_RATE = 5e8
"""About how many bytes are read in a second from tables and loaders of any kind."""


@registered(("center",), READERS)
class Streamed(ReadRows):
    """X as columns of files or tables that are read block by block at each product.

    Only a few blocks of some megabytes are in memory, whatever the number of rows. A thread decodes
    each block while the one before is multiplied, always in the same order, so that results are
    bitwise equal in every run on a machine. NumPy computes the products on the host; objectives,
    methods, plans and certificates are as for a design in memory.

    Features are the columns of numbers in their order, then a dummy variable for each level of each
    categorical column, the features of each sparse column, and ``2**bits`` hashed ones. Text is
    hashed as it is read, by a hash that never changes, and differently in each column; rows whose
    values or words share a feature have their sum there. Only the entries are multiplied, and
    features that no row touches cost their place in vectors.

    Args:
      data: a source for :func:`jaxdescent.data.open_source`: a path of Parquet, CSV or ``.npy``
        files or of a folder, or several paths; a table of pyarrow, polars, pandas or DuckDB; a
        dictionary of NumPy arrays, which may be memory-mapped; or a
        :class:`jaxdescent.data.Source` of your own.
      columns: the names of the columns of numbers. None stands for all columns but those in
        ``exclude``, ``categorical``, ``sparse``, ``hashed`` and ``words``.
      exclude: columns that are no features, such as the target.
      categorical: the number of levels of each column of codes, integers from 0 on, -1 for none.
      sparse: how many features each sparse column has, such as the ``x`` of svmlight files or a
        sparse matrix of SciPy in a dictionary: its indices are their numbers.
      hashed: columns of text, of whole numbers or of sparse numbers, each value or index of which
        is hashed.
      words: columns of text of which each word is hashed: the text between spaces, unchanged.
      bits: hashed features are ``2**bits``, up to 30 bits.
      dtype: float32 or float64, in which numbers are multiplied.

    Raises:
      DataError: for columns that do not exist or hold another kind of values, and for data that
        cannot be read, or only once. While products are computed, also for missing, NaN and
        infinite values, with their row, and for files that have changed.
      ImportError: where pyarrow is needed, and is not installed.

    >>> import numpy as np, jaxdescent as jd
    >>> x = np.arange(12, dtype=np.float32).reshape(6, 2)
    >>> X = Streamed({"X": x, "y": x @ np.float32([1.0, -2.0]) + 3}, exclude=["y"])
    >>> X
    Streamed(6 rows, 2 features, arrays)
    >>> result = jd.minimize(jd.LinearRegression(X, X.column("y")), method=jd.LSMR())
    >>> float(abs(X.product(result.params["weights"]) + result.params["intercept"]
    ...           - X.column("y")).max()) < 1e-4
    True
    >>> import pyarrow
    >>> text = pyarrow.table({"line": ["a rose is a rose", "is a rose", ""], "y": [7.0, 4.0, 1.0]})
    >>> X = Streamed(text, words=["line"], exclude=["y"], bits=12)
    >>> X, X.product(jax.numpy.ones(4096)).tolist()
    (Streamed(3 rows, 4,096 features, a table of pyarrow), [5.0, 3.0, 0.0])

    Reference: Weinberger, Dasgupta, Langford, Smola and Attenberg (2009), "Feature hashing for
    large scale multitask learning".
    """

    def __init__(
        self,
        data: Any,
        columns: Sequence[str] | None = None,
        *,
        exclude: Sequence[str] = (),
        categorical: Mapping[str, int] | None = None,
        sparse: Mapping[str, int] | None = None,
        hashed: Sequence[str] = (),
        words: Sequence[str] = (),
        bits: int = 18,
        dtype: Any = jnp.float32,
    ) -> None:
        source, levels = open_source(data), dict(categorical or {})
        for option, counts in (("categorical", levels), ("sparse", sparse or {})):
            for name, count in counts.items():
                check_count(f"Streamed.{option}[{name!r}]", count)
        check_count("Streamed.bits", bits)
        if bits > MOST_BITS:
            raise ValueError(
                f"Streamed.bits must be {MOST_BITS} at most, got {bits}: vectors have a number for "
                "each feature. jd.Hashed holds rows of up to 2**64 columns in memory."
            )
        if jnp.dtype(dtype) not in (jnp.float32, jnp.float64):
            raise TypeError(f"Streamed.dtype must be float32 or float64, got {dtype}.")
        if any(isinstance(names, str) for names in (columns, exclude, hashed, words)):
            raise TypeError(
                "Streamed.columns, exclude, hashed and words must be lists of names, got a text."
            )
        listed = dict(sparse or {})
        others = [*levels, *listed, *hashed, *words]
        if columns is None:
            unknown = [name for name in exclude if name not in source.kinds]
            if unknown:
                raise DataError(f"exclude names {unknown[0]!r}, which is no column of the data.")
            left_out = {*exclude, *others}
            columns = [name for name in source.kinds if name not in left_out]
        counts = collections.Counter([*columns, *others])
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise DataError(f"{twice[0]!r} is named twice among the features.")
        if not counts:
            raise DataError("no column is left as a feature.")
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        decoding = Decoding(
            tuple(columns), levels, np.dtype(dtype), listed, tuple(hashed), tuple(words), bits
        )
        stream = RowStream(source, decoding)
        self.shares = Shares(0, (stream,), stream.rows, stream.block, stream.features)
        self.over, self.row_count = RowSharding.of(None, stream.rows), stream.rows
        self.form, self.decoding = stream.source.form, stream.decoding
        self.center, self._reading = None, _reading_of(stream)

    @property
    def stream(self) -> RowStream:
        """The reader of all rows."""
        (stream,) = self.shares.streams
        assert stream is not None
        return stream

    def column(self, name: str) -> jax.Array:
        """A column of numbers as a vector in memory, such as the target: one pass that reads
        nothing else.

        Args:
          name: the name of the column, which need not be a feature.

        Returns:
          The column, (rows,), in the dtype of the weights.

        Raises:
          DataError: if there is no such column of numbers, or a value is missing, NaN or infinite.
        """
        return jnp.asarray(self.stream.column(name))

    @property
    def entries(self) -> int:
        decoding = self.stream.decoding
        columns = len(decoding.numbers) + len(decoding.levels)
        return self.stream.rows * (columns + decoding.row_entries)

    @property
    def is_uneven(self) -> bool:
        # The numbers of rows with a word or a value differ much.
        return bool(self.stream.decoding.sparse)

    def column_lengths(self, row_weight: jax.Array | None, center: jax.Array | None) -> jax.Array:
        return self._of_columns(np.sqrt, row_weight, center)

    def taken(self, index: jax.Array) -> Design | jax.Array:
        written_out = self.shape[1] * jnp.dtype(self.dtype).itemsize
        if written_out <= WRITTEN_OUT * self.stream.decoding.row_bytes:
            return self.rows_at(index)
        return StreamedRows(self, index)

    def normal_sums(
        self, row_weight: jax.Array | None, targets: jax.Array, l2: Any = None, *, intercept: bool
    ) -> Any:
        if self.center is not None:
            return None
        (_, n), k = self.shape, targets.shape[1]

        def compute(stream: RowStream, _: int, weight: Any, targets: Any, l2: Any) -> Any:
            sums = stream.normal_sums(weight, targets, intercept=intercept)
            if l2 is None:
                return sums
            how = {"weight": weight, "center": sums.feature_mean}
            gram_of = functools.partial(stream.gram_of, **how)
            is_long = self.dtype == jnp.float64
            return normal_solution(sums, l2, gram_of if is_long else None)

        shapes: Any = NormalSums((n, n), (n, k), (), (n,), (k,), (), (n,))
        if l2 is not None:
            l2 = jnp.asarray(l2)
            gain = n, max(l2.size, 1)
            shapes = NormalSolution((n, k), (n,), (k,), (), (n, n), gain, gain, (), ())
        like = type(shapes)(*(jax.ShapeDtypeStruct(shape, self.dtype) for shape in shapes))
        return self._asked(compute, like, (), row_weight, targets, l2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StreamedRows(Design):
    """Some rows of a :class:`jaxdescent.Streamed`, such as a batch.

    The stream keeps the rows of the last request, so that all products of a step with the same rows
    extract them from their block once. The rows should be of one block.
    """

    design: Any  # of all rows
    index: jax.Array  # (rows,), int32: the indices of these rows in the design

    @property
    def shape(self) -> tuple[int, int]:
        return self.index.shape[0], self.design.shape[1]

    @property
    def dtype(self) -> Any:
        return self.design.dtype

    @property
    def entries(self) -> int:
        rows, _ = self.design.shape
        return max(self.design.entries // rows, 1) * self.shape[0]

    def product(self, weights: jax.Array) -> jax.Array:
        return self._multiplied(self._operand(weights), is_transposed=False)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return self._multiplied(self._operand(residual, axis=0), is_transposed=True)

    def taken(self, index: jax.Array) -> Design:
        return StreamedRows(self.design, jnp.take(self.index, index))

    def rows_at(self, index: jax.Array) -> jax.Array:
        return self.design.rows_at(jnp.take(self.index, index))

    def minus(self, center: jax.Array) -> Design:
        return StreamedRows(self.design.minus(center), self.index)

    def to_dense(self) -> jax.Array:
        return self.design.rows_at(self.index)

    def dense_bytes(self) -> int:
        return 3 * super().dense_bytes()

    def _multiplied(self, operand: jax.Array, *, is_transposed: bool) -> jax.Array:
        return self.design.multiplied(
            operand, is_transposed=is_transposed, block=self.index, rows=self.shape[0]
        )


def _reading_of(stream: RowStream) -> Reading:
    decoding = stream.decoding
    read = stream.rows * decoding.row_bytes
    hashed = decoding.row_entries if decoding.hashed or decoding.words else 0
    hashing = stream.rows * hashed / HASHED_RATE
    return Reading(
        jnp.dtype(decoding.dtype),
        bytes=read,
        seconds=read / RATES.get(stream.source.form, OTHER_RATE) + hashing,
        held_bytes=stream.held_bytes,
        block=stream.block,
        sections=stream.sections,
    )
