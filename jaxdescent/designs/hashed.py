"""A design matrix of hashed columns, of which only the columns with entries are held."""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdescent.designs.protocol import registered
from jaxdescent.designs.sparse import LEAVES, NAMES, STRUCTURE, Sparse
from jaxdescent.designs.sparse_entries import (
    check_pairs,
    checked_index,
    checked_values,
    two_integers,
)

MOST_FEATURES = 2**64
"""The most columns, which are numbered in uint64."""


@registered(LEAVES, (*STRUCTURE, "_columns"), NAMES)
class Hashed(Sparse):
    """X of up to 2^64 hashed columns, exactly and in little memory: columns that no row touches are
    left out when the design is made.

    The weight of a column without entries is in no prediction. Under a penalty it is zero at the
    minimum; without one every value is as good, and zero has the least norm. So a regression on the
    touched columns alone is the whole regression: the same value, the same minimum, a Hessian
    without the diagonal ``l2`` of the other columns. ``shape`` and the weights count the touched
    columns only; untouched columns cost neither memory nor time.

    The numbers of the touched columns, ``touched``, stay on the host. :meth:`of_rows` gives other
    rows the same columns, for predictions; :meth:`weights_at` looks weights up by the numbers of
    columns. Otherwise it is a :class:`Sparse`, with the same arguments and errors.

    Args:
      rows: (entries,), integers from 0 to ``shape[0] - 1``.
      columns: (entries,), integers from 0 to ``shape[1] - 1``: known numbers on the host, such as
        NumPy's int64 or uint64 (JAX would cut them off at 32 bits).
      values: (entries,), real floating-point; None for ones.
      shape: (rows, features), such as ``(rows, 2**33)``.
      dtype: the dtype of the ones, if there are no values.
      sharding: the sharding of the rows over several devices, as for :class:`Sparse`.

    Raises:
      TypeError: if the indices are not integers or are traced, or values are no real
        floating-point numbers.
      ValueError: if lengths differ, an index is out of range, or there is no entry.

    >>> import jax.numpy as jnp, numpy as np
    >>> X = Hashed([0, 0, 1], np.array([7, 2**32, 7]), shape=(2, 2**33))
    >>> X, X.touched.tolist(), X.product(jnp.array([1.0, 10.0])).tolist()
    (Hashed(2 x 8,589,934,592, 3 entries, 2 columns touched), [7, 4294967296], [11.0, 1.0])
    >>> X.of_rows([0, 0], [2**32, 5], rows_in_all=1).product(jnp.array([1.0, 10.0])).tolist()
    [10.0]

    Reference: Weinberger, Dasgupta, Langford, Smola and Attenberg (2009), "Feature hashing for
    large scale multitask learning".
    """

    def __init__(
        self,
        rows: Any,
        columns: Any,
        values: Any = None,
        *,
        shape: tuple[int, int],
        dtype: Any = jnp.float32,
        sharding: Any = None,
    ) -> None:
        count, features = two_integers(shape)
        if not 1 <= features <= MOST_FEATURES:
            raise ValueError(
                f"jd.Hashed may have 1 to 2**64 features, got {features:,}: take as many bits of "
                "the hash as the features are to be, 2**33 for 33."
            )
        touched, place = np.unique(_checked_columns(columns, features), return_inverse=True)
        if not touched.size:
            raise ValueError(
                "jd.Hashed needs at least one entry: no column is touched, and the minimum is the "
                "mean of the targets."
            )
        self._columns = _Columns(touched, features)
        self._build(
            rows, place.reshape(-1), values, (count, touched.size), dtype=dtype, sharding=sharding
        )

    def of_rows(self, rows: Any, columns: Any, values: Any = None, *, rows_in_all: int) -> Hashed:
        """Other rows with the same columns and weights, such as rows to predict.

        Entries of columns that are not ``touched`` are left out: their weights are zero.

        Args:
          rows: (entries,), integers from 0 to ``rows_in_all - 1``.
          columns: (entries,), integers from 0 to ``features - 1``.
          values: (entries,), real floating-point; None for ones.
          rows_in_all: the number of rows, including rows without entries.

        Returns:
          The other rows, (rows_in_all, touched).

        Raises:
          TypeError, ValueError: as for :class:`Hashed` itself.
        """
        # The rows and values of entries that are left out are checked too.
        rows = checked_index("row", rows, operator.index(rows_in_all))
        place, is_touched = self._columns.find(columns)
        check_pairs(rows, place)
        values = checked_values(values, place.size)
        values = None if values is None else values[is_touched]
        other = Hashed.__new__(Hashed)
        other._columns = self._columns
        indices, shape = (rows[is_touched], place[is_touched]), (rows_in_all, self.shape[1])
        other._build(*indices, values, shape, dtype=self.reading.dtype, sharding=None)
        return other

    def weights_at(self, weights: Any, columns: Any) -> np.ndarray:
        """The weights of columns by their numbers, zero for those that no row touches.

        Args:
          weights: (touched,) or (touched, outputs), as in a result.
          columns: (any number,), integers from 0 to ``features - 1``.

        Returns:
          An array with a row for each of ``columns``, on the host.

        Raises:
          TypeError, ValueError: if ``weights`` have another length, or as for :class:`Hashed` for
            ``columns`` that are not known integers in this range.

        >>> X = Hashed([0, 0, 1], [7, 2**32, 7], shape=(2, 2**33))
        >>> X.weights_at([1.0, 10.0], [2**32, 5, 7]).tolist()
        [10.0, 0.0, 1.0]
        """
        weights = np.asarray(weights)
        if weights.shape[:1] != self.shape[1:]:
            raise ValueError(
                f"weights must be those of the {self.shape[1]:,} touched columns, got shape "
                f"{weights.shape}."
            )
        place, is_touched = self._columns.find(columns)
        found = weights[place]
        found[~is_touched] = 0
        return found

    @property
    def features(self) -> int:
        """The number of columns, touched or not."""
        return self._columns.features

    @property
    def touched(self) -> np.ndarray:
        """(weights,), uint64: the numbers of the columns that the weights belong to, in order."""
        return self._columns.touched

    def _arguments(self) -> list[str]:
        return [
            f"{self.shape[0]:,} x {self.features:,}",
            f"{self.entries:,} entries",
            f"{self.shape[1]:,} columns touched",
        ]


@dataclasses.dataclass(frozen=True, repr=False)
class _Columns:
    """The numbers of the touched columns, in order; objects with equal numbers are equal."""

    touched: np.ndarray = dataclasses.field(compare=False)
    features: int
    digest: bytes = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.touched.flags.writeable = False
        object.__setattr__(self, "digest", hashlib.sha256(self.touched).digest())

    def fingerprint(self) -> str:
        """A text that is equal in every process for equal columns."""
        return f"{self.features} columns, of which {self.digest.hex()[:16]} are touched"

    def find(self, columns: Any) -> tuple[np.ndarray, np.ndarray]:
        """The place of each column among the touched ones, and whether it is one of them."""
        columns = _checked_columns(columns, self.features)
        place = np.minimum(np.searchsorted(self.touched, columns), self.touched.size - 1)
        return place, self.touched[place] == columns


def _checked_columns(columns: Any, features: int) -> np.ndarray:
    return checked_index(
        "column",
        columns,
        features,
        dtype=np.uint64,
        why_floats=": NumPy makes float64 of int64 and uint64 together",
        advice="take the hash modulo the features",
    )
