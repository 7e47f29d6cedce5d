"""A design whose rows stay in their files or tables, and are read at each product."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxdescent.designs.decoding import Decoder, Decoding, reading_seconds
from jaxdescent.designs.normal_sums import like_sums, sums_of
from jaxdescent.designs.one_reading import at_once
from jaxdescent.designs.protocol import Design, Reading, RowFunction, registered, sum_of_centers
from jaxdescent.designs.row_reader import RowReader
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.designs.stream_products import multiplied
from jaxdescent.designs.stream_shares import Shares, opened
from jaxdescent.designs.streamed_rows import rows_taken
from jaxdescent.kernels.host_calls import host_call
from jaxdescent.rows import Kind, Source, open_source

ALL = PartitionSpec()
"""The sharding of a replicated array: each device has all of it."""

READERS = "shares", "over", "row_count", "form", "decoding", "_reading"
"""The attributes that are the structure of such a design."""


@registered(("center",), READERS)
class Streamed(Design):
    """X as columns of files or tables that are read block by block at each product.

    Only a few blocks of some megabytes are in memory, whatever the number of rows. A thread decodes
    each block while the one before is multiplied by NumPy, always in the same order, so that
    results are bitwise equal in every run on a machine. A gradient reads each block once.

    Features are the columns of numbers in their order, then a dummy variable for each level of each
    categorical column, the features of each sparse column, and ``2**bits`` hashed ones. Text is
    hashed as it is read, by a hash that never changes, and differently in each column; rows whose
    values or words share a feature have their sum there.

    With a ``sharding`` the rows are cut over the devices of a mesh. Each process opens the data and
    reads the rows of its own devices alone, ``X'r`` is added up over the devices by one all-reduce
    of ``features`` numbers for each output, and vectors of rows are sharded as the rows are.

    Args:
      data: a source for :func:`jaxdescent.rows.open_source`: a path of files or of a folder, or
        several; a table of Polars, pandas or Arrow; a dictionary of NumPy arrays, which may be
        memory-mapped; or a function that returns an iterator of blocks from a row on.
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
      sharding: a ``jax.sharding.NamedSharding`` of the rows, such as
        ``NamedSharding(mesh, PartitionSpec("samples"))``; None for one reader of all rows.
      is_filled: whether rows of zeros may follow the last one, until the devices have as many
        each; their weight is zero in :attr:`row_weight`, which then belongs to the regression.

    Raises:
      DataError: for columns that do not exist or hold another kind of values, and for data that
        cannot be read. While products are computed, also for missing, NaN and infinite values, with
        their row, and for files that have changed.
      ImportError: where Polars is needed, and is not installed.
      ValueError: if the rows cannot be cut into equal shares for the devices.

    >>> import numpy as np, jaxdescent as jd
    >>> x = np.arange(12, dtype=np.float32).reshape(6, 2)
    >>> X = Streamed({"X": x, "y": x @ np.float32([1.0, -2.0]) + 3}, exclude=["y"])
    >>> X
    Streamed(6 rows, 2 features, arrays)
    >>> result = jd.minimize(jd.LinearRegression(X, X.column("y")), method=jd.LSMR())
    >>> float(abs(X.product(result.params["weights"]) + result.params["intercept"]
    ...           - X.column("y")).max()) < 1e-4
    True
    >>> import polars as pl
    >>> text = pl.DataFrame({"line": ["a rose is a rose", "is a rose", ""], "y": [7.0, 4.0, 1.0]})
    >>> X = Streamed(text, words=["line"], exclude=["y"], bits=12)
    >>> X, X.product(jax.numpy.ones(4096)).tolist()
    (Streamed(3 rows, 4,096 features, a table of polars), [5.0, 3.0, 0.0])

    Reference: Weinberger, Dasgupta, Langford, Smola and Attenberg (2009), "Feature hashing for
    large scale multitask learning".
    """

    shares: Shares  # the readers of the parts that this process has
    over: RowSharding  # how rows are cut into parts of equal size, each with a reader of its own
    row_count: int  # without rows of zeros that fill the last parts
    form: str  # of the source
    decoding: Decoder  # how columns become features
    center: jax.Array | None  # (features,), is subtracted from the entries of X; None for zeros
    _reading: Reading

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
        sharding: Any = None,
        is_filled: bool = False,
    ) -> None:
        if any(isinstance(names, str) for names in (columns, exclude, hashed, words)):
            raise TypeError(
                "Streamed.columns, exclude, hashed and words must be lists of names, got a text."
            )
        own, named = np.dtype(jax.dtypes.canonicalize_dtype(dtype)), (tuple(hashed), tuple(words))
        decoding = Decoding(
            tuple(columns or ()), dict(categorical or {}), own, dict(sparse or {}), *named, bits
        )
        decoding.check_options()
        source = open_source(data)
        if columns is None:
            decoding = decoding.with_all_columns(source.kinds, exclude)
        decoding.check(source.kinds)
        # As floating point, in which text has its numbers, large whole numbers would be alike.
        source = source.as_text([n for n in hashed if source.kinds[n] is Kind.WHOLE])
        decoding = decoding.with_entries_of(source)
        self._open(RowReader(source, decoding), sharding, is_filled=is_filled)

    @classmethod
    def of(cls, source: Source, decoding: Decoder, *, keeps: bool = False) -> Streamed:
        """The design of a source's rows by a decoding of one's own; ``keeps`` holds the chunks in
        memory after the first pass.
        """
        new = object.__new__(cls)
        new._open(RowReader(source, decoding, keeps=keeps), None, is_filled=False)
        return new

    def _open(self, reader: RowReader, sharding: Any, *, is_filled: bool) -> None:
        decoding, held = reader.decoding, reader.held_bytes
        self.form, self.decoding, self.center = reader.source.form, decoding, None
        self.row_count = reader.rows
        self.over, self.shares = opened(reader, sharding, is_filled=is_filled)
        rows = self.over.rows
        self._reading = Reading(
            jnp.dtype(decoding.dtype),
            bytes=rows * decoding.row_bytes,
            seconds=reading_seconds(decoding, self.form, rows) / self.over.parts,
            held_bytes=held * len(self.shares.readers),
            block=self.shares.block,
            sections=reader.sections if self.over.mesh is None else (0,),
        )

    @property
    def reader(self) -> RowReader:
        """The reader of all rows, or of the first share of this process."""
        reader = self.shares.readers[0]
        assert reader is not None
        return reader

    def column(self, name: str) -> jax.Array:
        """A column of numbers as a vector in memory, such as the target: one pass that reads
        nothing else.

        Args:
          name: the name of the column, which need not be a feature.

        Returns:
          The column, (rows,), in the dtype of the weights, sharded as the rows are.

        Raises:
          DataError: if there is no such column of numbers, or a value is missing, NaN or infinite.
        """
        alone = Decoding((name,), {}, np.dtype(self.dtype))
        return self.vector_of(lambda reader: reader.column(name, alone))

    @property
    def row_weight(self) -> jax.Array:
        """The row weights: one for rows of the data, zero for rows that fill the last shares."""
        return self.vector_of(lambda reader: np.ones(reader.rows, self.dtype))

    def vector_of(self, read: Callable[[RowReader], np.ndarray]) -> jax.Array:
        """A vector over all rows, to which each process contributes its own rows."""
        return self.shares.vector(self.over, read, self.dtype)

    @property
    def entries(self) -> int:
        return self.shape[0] * self.decoding.entries

    @property
    def is_uneven(self) -> bool:
        # The numbers of rows with a word or a value differ much.
        return bool(getattr(self.decoding, "sparse", ()))

    @property
    def is_whole(self) -> bool:
        return self.over.mesh is None and super().is_whole

    def column_lengths(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array | None:
        if self.over.mesh is not None:
            return super().column_lengths(row_weight, center)
        return self._of_columns(np.sqrt, row_weight, center)

    def taken(self, index: jax.Array) -> Design | jax.Array:
        return rows_taken(self, index)

    def normal_sums(
        self, row_weight: jax.Array | None, targets: jax.Array, l2: Any = None, *, intercept: bool
    ) -> Any:
        if self.center is not None or self.over.mesh is not None:
            return None
        l2 = None if l2 is None else jnp.asarray(l2)
        like = like_sums(self.shape[1], targets.shape[1], l2, self.dtype)

        def compute(reader: RowReader, _: int, weight: Any, targets: Any, l2: Any) -> Any:
            is_long = self.dtype == jnp.float64
            return sums_of(reader, weight, targets, l2, intercept=intercept, is_long=is_long)

        return self._asked(compute, like, (), row_weight, targets, l2)

    @property
    def reading(self) -> Reading:
        return self._reading

    @property
    def shape(self) -> tuple[int, int]:
        return self.over.rows, self.shares.features

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.decoding.dtype)

    def _arguments(self) -> list[str]:
        parts = [] if self.over.mesh is None else [f"{self.over.parts} shares"]
        return [f"{self.row_count:,} rows", f"{self.shape[1]:,} features", self.form, *parts]

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the feature of each weight."""
        return self.decoding.names  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def passes(self) -> int:
        """How many times the rows of this process have been read to the end so far."""
        return self.shares.passes

    def multiplied(
        self,
        operand: jax.Array,
        *,
        is_transposed: bool,
        block: Any = None,
        rows: int | None = None,
        after: jax.Array | None = None,
    ) -> jax.Array:
        """``X @ operand`` or ``X.T @ operand`` in one pass, or the product with a block of X, with
        arguments as of :func:`jaxdescent.designs.stream_products.multiplied`.

        With the number of a block the product is one with this block of every part, (parts * rows,
        ...), one part after another; with the transpose it is each part's term, (parts, features,
        ...). Of a single part ``block`` may be the numbers of some rows, (rows,); the product with
        the transpose is then one term.
        """
        shares = self.shares

        def of_share(number: Any, center: Any, operand: Any, block: Any, after: Any) -> jax.Array:
            here: dict[str, Any] = {"block": shares.code(number, block), "rows": rows}
            here |= {"is_transposed": is_transposed, "after": after}
            made = multiplied(shares, operand, center, **here)
            if not is_transposed or np.ndim(block):
                return made
            return self.over.summed(made) if block is None else made[None]  # stays on its device

        outside = ALL if is_transposed and block is None else self._rows
        specs = ALL, self._rows if is_transposed else ALL, ALL, self._rows
        return self.over.on_each(of_share, outside, specs, self.center, operand, block, after)

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array:
        return self._of_columns(np.asarray, row_weight, center)

    def _of_columns(
        self, function: Callable[[np.ndarray], np.ndarray], weight: Any, center: Any
    ) -> jax.Array:
        """A function of the squared norms of each part's columns in float64, summed over parts."""

        def compute(reader: RowReader, _: int, *given: Any) -> np.ndarray:
            return function(reader.column_squares(*given))

        like, specs = jax.ShapeDtypeStruct(self.shape[1:], self.dtype), (self._rows, ALL)
        return self._asked(compute, like, specs, weight, sum_of_centers(self.center, center))

    def minus(self, center: jax.Array) -> Self:
        new = copy.copy(self)
        new.center = sum_of_centers(self.center, center)
        return new

    def product(self, weights: jax.Array) -> jax.Array:
        return self.multiplied(self._operand(weights), is_transposed=False)

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return self.multiplied(self._operand(residual, axis=0), is_transposed=True)

    def there_and_back(self, weights: jax.Array, change: RowFunction, rows: Any) -> tuple[Any, Any]:
        return at_once(self, weights, change, rows)

    def to_dense(self) -> jax.Array:
        return self.product(jnp.eye(self.shape[1], dtype=self.dtype))

    def dense_bytes(self) -> int:
        return 2 * super().dense_bytes()

    def rows_at(self, index: jax.Array) -> jax.Array:
        like = jax.ShapeDtypeStruct((index.shape[0], self.shape[1]), self.dtype)
        rows = self._asked(
            lambda reader, first, own: reader.rows_at(own - first), like, (ALL,), index
        )
        return rows if self.center is None else rows - self.center[None, :]

    @property
    def _rows(self) -> PartitionSpec:
        return PartitionSpec(self.over.axes)

    def _asked(self, compute: Callable[..., Any], like: Any, specs: Any, *operands: Any) -> Any:
        """The sum over parts of ``compute(reader, first, *operands)``, each on its host from the
        part's rows, the first of which has the number ``first``; members of a batch one by one.
        """

        def on_host(number: Any, *operands: Any) -> Any:
            share = int(number)
            first = share * self.shares.rows
            found = self.shares.asked(share, lambda each: compute(each, first, *operands), like)
            return jax.tree.map(lambda each: np.asarray(each, self.dtype), found)

        def of_share(number: Any, *operands: Any) -> Any:
            return self.over.summed(
                host_call(on_host, like, number, *operands, vmap_method="sequential")
            )

        return self.over.on_each(of_share, ALL, specs, *operands)
