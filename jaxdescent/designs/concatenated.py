"""Designs side by side, each with its name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.designs.conversion import as_design
from jaxdescent.designs.protocol import Design, Reading, columns_of
from jaxdescent.designs.reference_levels import references
from jaxdescent.designs.row_sharding import RowSharding
from jaxdescent.display import argument


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Concatenated(Design):
    """``[X_1, X_2, ...]``: the columns of several designs side by side.

    The weights of a regression on it are a dictionary by the designs' names, each in the form that
    its design gives them. Each design keeps its own form: dense covariates, sparse and categorical
    ones stand beside each other, and none is written out.

    Args:
      designs: arrays or designs by name, in the order of their columns, with equally many rows.

    Raises:
      TypeError: if a name is not a string, or the designs' weights are of different dtypes.
      ValueError: if there is no design, or designs have different numbers of rows.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jd.Concatenated({
    ...     "age": jnp.array([[30.0], [40.0], [50.0]]),
    ...     "firm": jd.Categorical(jnp.array([0, 1, 0]), 2),
    ... })
    >>> X.product({"age": jnp.array([0.1]), "firm": jnp.array([1.0, 2.0])})
    Array([4., 6., 6.], dtype=float32)
    """

    designs: dict[str, Any]

    def __init__(self, designs: Mapping[str, Any]) -> None:
        if not isinstance(designs, Mapping) or not designs:
            raise ValueError(
                "Concatenated needs at least one design by name, such as "
                f"jd.Concatenated({{'age': X}}), got {argument(designs)}."
            )
        for name in designs:
            if not isinstance(name, str):
                raise TypeError(f"Concatenated's names must be strings, got {name!r}.")
        object.__setattr__(self, "designs", {name: as_design(X) for name, X in designs.items()})
        rows = {name: design.shape[0] for name, design in self.designs.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"Concatenated's designs must have as many rows each, got {rows}.")
        dtypes = {name: jnp.dtype(design.dtype).name for name, design in self.designs.items()}
        if len(set(dtypes.values())) > 1:
            raise TypeError(
                f"Concatenated's designs must have weights of one dtype, got {dtypes}: cast some."
            )

    def tree_flatten(self) -> tuple[Any, tuple[str, ...]]:
        """The designs, and their names as structure."""
        return tuple(self.designs.values()), tuple(self.designs)

    def tree_flatten_with_keys(self) -> tuple[Any, tuple[str, ...]]:
        """The designs with their names as keys, for messages; flattening them so takes longer."""
        keys = [(jax.tree_util.DictKey(name), design) for name, design in self.designs.items()]
        return keys, tuple(self.designs)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], designs: Any) -> Concatenated:
        """The design from the names and designs of :meth:`tree_flatten`, without checks."""
        return cls._of(dict(zip(names, designs, strict=True)))

    @classmethod
    def _of(cls, designs: dict[str, Any]) -> Concatenated:
        new = object.__new__(cls)
        object.__setattr__(new, "designs", designs)
        return new

    def repeated(self, over: RowSharding) -> Concatenated:
        return self._of({name: design.repeated(over) for name, design in self.designs.items()})

    def _arguments(self) -> list[str]:
        return [f"{name}={argument(design)}" for name, design in self.designs.items()]

    @property
    def shape(self) -> tuple[int, int]:
        first, *_ = self._all
        return first.shape[0], sum(design.shape[1] for design in self._all)

    @property
    def side_by_side(self) -> tuple[Design, ...]:
        return tuple(part for design in self._all for part in design.side_by_side)

    @property
    def dtype(self) -> Any:
        return self._all[0].dtype

    @property
    def is_stored(self) -> bool:
        return all(design.is_stored for design in self._all)

    @property
    def is_uneven(self) -> bool:
        # Columns of different kinds are likely to differ in length.
        return len(self.designs) > 1 or self._all[0].is_uneven

    @property
    def entries(self) -> int:
        return sum(design.entries for design in self._all)

    @property
    def reading(self) -> Reading:
        every = [design.reading for design in self._all]
        read = [
            design.entries * jnp.dtype(own.dtype).itemsize if design.is_stored else own.bytes
            for design, own in zip(self._all, every, strict=True)
        ]
        dtype = jnp.result_type(*(own.dtype for own in every))
        return Reading(dtype, sum(read) if all(read) else 0)

    @property
    def is_whole(self) -> bool:
        return all(design.is_whole for design in self._all)

    def packed(self, weights: Any) -> jax.Array:
        if not isinstance(weights, Mapping):
            return weights
        weights = {
            name: self.designs[name].packed(weight) if name in self.designs else weight
            for name, weight in weights.items()
        }
        shapes = {name: np.shape(weight) for name, weight in weights.items()}
        ends = {shape[1:] for shape in shapes.values()}
        expected = {name: (design.shape[1],) for name, design in self.designs.items()}
        if {name: shape[:1] for name, shape in shapes.items()} != expected or len(ends) > 1:
            raise ValueError(
                f"weights must have the shapes {expected}, each with the outputs behind it where "
                f"there are several, got {shapes}."
            )
        return jnp.concatenate([jnp.asarray(weights[name]) for name in self.designs])

    def unpacked(self, weights: jax.Array) -> dict[str, jax.Array]:
        parts = zip(self.designs.items(), columns_of(self._all, weights), strict=True)
        return {name: design.unpacked(part) for (name, design), part in parts}

    def product(self, weights: Any) -> jax.Array:
        weights = self._operand(self.packed(weights))
        parts = zip(self._all, columns_of(self._all, weights), strict=True)
        return functools.reduce(jnp.add, [design.product(part) for design, part in parts])

    def transposed_product(self, residual: jax.Array) -> jax.Array:
        return jnp.concatenate([design.transposed_product(residual) for design in self._all])

    def to_dense(self) -> jax.Array:
        return jnp.concatenate([design.to_dense() for design in self._all], axis=1)

    def dense_bytes(self) -> int:
        return sum(design.dense_bytes() for design in self._all) + super().dense_bytes()

    def column_squared_norms(
        self, row_weight: jax.Array | None, center: jax.Array | None
    ) -> jax.Array | None:
        centers = [None] * len(self._all) if center is None else columns_of(self._all, center)
        return _joined(
            [
                design.column_squared_norms(row_weight, own)
                for design, own in zip(self._all, centers, strict=True)
            ]
        )

    def by_rows(self) -> Concatenated:
        return self._each(lambda design: design.by_rows())

    def taken(self, index: jax.Array) -> Design | jax.Array | None:
        every = self.side_by_side
        # Designs within designs stay apart: a center has an entry for each of them.
        is_flat = len(every) == len(self.designs)
        names = self.designs if is_flat else map(str, range(len(every)))
        parts: dict[str, Any] = {
            name: design.taken(index) for name, design in zip(names, every, strict=True)
        }
        if any(part is None for part in parts.values()):
            return None
        if all(isinstance(part, jax.Array) for part in parts.values()):
            return jnp.concatenate(list(parts.values()), axis=1)
        return self._of({name: as_design(part) for name, part in parts.items()})

    def rows_at(self, index: jax.Array) -> jax.Array | None:
        return _joined([design.rows_at(index) for design in self._all], axis=1)

    def sums_of_rows(self, target: jax.Array, factor: jax.Array, sums: int) -> jax.Array | None:
        return _joined([design.sums_of_rows(target, factor, sums) for design in self._all], axis=1)

    def row_block(self, start: Any, size: int) -> jax.Array | None:
        return _joined([design.row_block(start, size) for design in self._all], axis=1)

    def hoisted(self, *, always: bool = False) -> Concatenated:
        return self._each(lambda design: design.hoisted(always=always))

    def reference_levels(self, *, intercept: bool = True) -> dict[str, np.ndarray]:
        """A level for each constant that the data leave undetermined, by the name of its design.

        Without a penalty each such constant is a direction in the weights that changes no
        prediction. The certificate is "degenerate" then, and iterations from zeros find the weights
        of least norm. :meth:`without` these levels the minimum is unique: their weights are zero,
        and the others are differences to them. The columns of these levels, and of levels that no
        row has, are all zero, and their weights stay at their start.

        Args:
          intercept: whether the regression has an intercept.

        Returns:
          The levels, ascending integers, by the names of the designs that have any.

        >>> import numpy as np, jaxdescent as jd
        >>> X = jd.Concatenated({
        ...     "worker": jd.Categorical(np.array([0, 0, 1, 2, 2]), 3),
        ...     "firm": jd.Categorical(np.array([0, 1, 1, 2, 3]), 4),
        ... })
        >>> X.reference_levels(intercept=False)  # worker 2 was never where the others were
        {'firm': array([1, 2])}
        """
        factors = {
            name: (np.asarray(design.level_of_row), design.shape[1])
            for name, design in self.designs.items()
            if design.level_of_row is not None
        }
        return references(factors, intercept=intercept)

    def without(self, levels: Mapping[str, np.ndarray]) -> Concatenated:
        """This design with reference levels, whose rows count as rows without a level.

        Args:
          levels: the reference levels by the names of their designs, such as those of
            :meth:`reference_levels`.

        Returns:
          A design of the same shape, in which the columns of these levels are zero.

        Raises:
          ValueError: if a name is not the name of a categorical design.

        >>> import numpy as np, jaxdescent as jd
        >>> X = jd.Concatenated({"firm": jd.Categorical(np.array([0, 1, 1]), 2)})
        >>> X.without({"firm": np.array([1])}).to_dense().tolist()
        [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
        """
        for name in levels:
            if name not in self.designs or self.designs[name].level_of_row is None:
                raise ValueError(f"{name!r} is not the name of a categorical design.")
        return self._of(
            {
                name: design.without(levels[name]) if name in levels else design
                for name, design in self.designs.items()
            }
        )

    @property
    def _all(self) -> list[Any]:
        return list(self.designs.values())

    def _each(self, change: Callable[[Any], Any]) -> Concatenated:
        return self._of({name: change(design) for name, design in self.designs.items()})


def _joined(parts: list[jax.Array | None], axis: int = 0) -> jax.Array | None:
    if any(part is None for part in parts):
        return None
    return jnp.concatenate([part for part in parts if part is not None], axis=axis)
