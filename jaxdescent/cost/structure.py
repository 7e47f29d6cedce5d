"""The structure of a problem: its kind and sizes, which are all that a plan needs."""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdescent.designs import Dense, as_design
from jaxdescent.display import Displayed
from jaxdescent.inputs.functions import anew
from jaxdescent.kernels import dtypes
from jaxdescent.kernels.memory import readable_bytes
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, checks
from jaxdescent.regression import LinearRegression
from jaxdescent.tolerance import default_tolerance

Params = Any


class ProblemKind(enum.Enum):
    """The kind of a problem, which determines the candidates."""

    REGRESSION = "regression"
    QUADRATIC = "quadratic"
    SEPARABLE = "separable quadratic"
    RESIDUALS = "sum of squared residuals"
    FUNCTION = "function"


@dataclasses.dataclass(frozen=True)
class Structure(Displayed):
    """A problem as numbers: sizes in elements or bytes.

    Rows, features and unknowns are those of the whole problem. Bytes, ``entries``, ``shard`` and
    ``vector_bytes`` are those of each device that the problem is spread over (:meth:`spread`).

    Args:
      kind: the kind of problem.
      unknowns: the number of elements of the params.
      params_bytes: the bytes of the params as they are stored.
      compute_dtype: the dtype in which arithmetic runs.
      data_bytes: the bytes of the objective's arrays: X and y, the Hessian, centers.
      solver_bytes: the peak of the derivative method's solve, besides data and params.
      rows, features, outputs: the sizes of a regression; ``rows`` is the number of residuals for a
        sum of squares.
      data_dtype: the dtype in which X or the Hessian is stored.
      is_dense: whether X or the Hessian is an array that a product reads.
      has_intercept: whether a regression has an intercept.
      has_penalty: whether there is an ``l2`` that may limit the condition number.
      has_own_l2: whether each output has an ``l2`` of its own.
      is_weighted: whether rows have weights.
      has_narrow_targets: whether the targets are stored in fewer bytes than the arithmetic's.
      is_uneven: whether X's columns are known to differ much in length.
      is_rounded: whether params are stored in 16 bits.
      largest_leaf_bytes: the largest leaf of the params, in the dtype of the arithmetic.
      default_tolerance: the tolerance for the gradient if none is given.
      evaluation_flops: the operations of a value and gradient of a function, if counted; those of a
        product with a design that stores only some of its entries.
      evaluation_bytes: the bytes that these read and write, if counted.
      evaluation_reserved: the bytes that these reserve while they run, if compiled.
      reading_seconds: how long a pass takes to read an X whose rows are not in memory.
      reading_bytes: the bytes that such reading holds at its peak.
      devices: the number of devices that the problem is spread over.
    """

    kind: ProblemKind
    unknowns: int
    params_bytes: int
    compute_dtype: str
    data_bytes: int
    solver_bytes: int
    rows: int = 0
    features: int = 0
    outputs: int = 1
    data_dtype: str = "float32"
    is_dense: bool = False
    has_intercept: bool = False
    has_penalty: bool = False
    has_own_l2: bool = False
    is_weighted: bool = False
    has_narrow_targets: bool = False
    is_uneven: bool = False
    is_rounded: bool = False
    largest_leaf_bytes: int = 0
    default_tolerance: float = 2.4e-5
    evaluation_flops: float = 0.0
    evaluation_bytes: float = 0.0
    evaluation_reserved: int = 0
    reading_seconds: float = 0.0
    reading_bytes: int = 0
    devices: int = 1

    def _arguments(self) -> list[str]:
        return [self.describe()]

    @property
    def itemsize(self) -> int:
        """The bytes of a number in the dtype of the arithmetic."""
        return jnp.dtype(self.compute_dtype).itemsize

    @property
    def eps(self) -> float:
        """The distance from 1 to the next number in the dtype of the arithmetic."""
        return float(jnp.finfo(self.compute_dtype).eps)

    @property
    def smaller(self) -> int:
        """The shorter side of X or of the Hessian."""
        return min(self.rows, self.features)

    @property
    def sharded(self) -> str:
        """The arrays that are sharded over several devices; empty if each has everything.

        It is the longer side of a dense X, the rows of a Hessian, or the params of a separable
        function. For other functions nothing tells which of their arrays belong together.
        """
        if self.kind is ProblemKind.SEPARABLE:
            return "params"
        if not self.is_dense:
            return ""
        return "rows" if self.is_tall else "features"

    @property
    def shards(self) -> int:
        """The number of shards, one if nothing is sharded."""
        return self.devices if self.sharded else 1

    @property
    def shard(self) -> tuple[int, int]:
        """The rows and features in each device's shard of X or of the Hessian."""
        rows = -(-self.rows // self.shards) if self.sharded == "rows" else self.rows
        features = -(-self.features // self.shards) if self.sharded == "features" else self.features
        return rows, features

    @property
    def entries(self) -> int:
        """The elements of a shard of X or of the Hessian."""
        return math.prod(self.shard)

    @property
    def is_sparse(self) -> bool:
        """Whether X is one of which not all entries lie in memory, and what it reads is known."""
        is_known = self.evaluation_bytes > 0
        return self.kind is ProblemKind.REGRESSION and is_known and not self.is_dense

    @property
    def is_held(self) -> bool:
        """Whether the entries of X, or those that are not zero, are in memory."""
        return self.is_dense or (self.is_sparse and not self.is_streamed)

    @property
    def is_streamed(self) -> bool:
        """Whether X's rows are not in memory, and are read at each product."""
        return self.reading_seconds > 0

    @property
    def vector_bytes(self) -> int:
        """The bytes of a device's shard of a vector like the params, in the arithmetic's dtype."""
        shards = self.shards if self.sharded in ("features", "params") else 1
        return -(-self.unknowns // shards) * self.itemsize

    def spread(self, devices: int) -> Structure:
        """This problem spread over a number of devices.

        What a direct solve reserves is not divided, because its factors are on each device.

        >>> one = regression_structure(8_000_000, 1_000)
        >>> eight = one.spread(8)
        >>> eight.shard, round(one.data_bytes / eight.data_bytes)
        ((1000000, 1000), 8)
        """
        whole = dataclasses.replace(self, devices=devices)
        if whole.shards == 1:
            return whole
        shards, matrix = whole.shards, self.entries * jnp.dtype(self.data_dtype).itemsize
        # The targets are sharded with the rows; for a Hessian or wide data, vectors are not.
        goes_along = self.kind is not ProblemKind.QUADRATIC and whole.sharded != "features"
        rest = (self.data_bytes - matrix) // (shards if goes_along else 1)
        is_cut = whole.sharded in ("features", "params")
        solver_shards = shards if whole.sharded == "params" else 1
        return dataclasses.replace(
            whole,
            data_bytes=max(-(-matrix // shards) + rest, 0),
            params_bytes=-(-self.params_bytes // (shards if is_cut else 1)),
            solver_bytes=-(-self.solver_bytes // solver_shards),
            largest_leaf_bytes=-(-self.largest_leaf_bytes // (shards if is_cut else 1)),
        )

    @property
    def is_tall(self) -> bool:
        """Whether there are at least as many rows as features."""
        return self.rows >= self.features

    def describe(self) -> str:
        """The problem in one line, for a table's title."""
        if self.kind is ProblemKind.REGRESSION:
            shape = f"{self.rows:,} rows x {self.features:,} features"
            outputs = f" x {self.outputs:,} outputs" if self.outputs > 1 else ""
            entries = f", {self.evaluation_flops / 2:,.0f} entries" if self.is_sparse else ""
            if self.is_streamed:
                entries = f", {readable_bytes(self.evaluation_bytes)} read in each pass"
            penalty = ", l2" if self.has_penalty else ""
            return f"linear regression, {shape}{outputs}{entries}, {self.data_dtype}{penalty}"
        unknowns = f"{self.unknowns:,} unknowns in {self.compute_dtype}"
        if self.kind is ProblemKind.RESIDUALS:
            return f"{self.kind.value}, {self.rows:,} residuals, {unknowns}"
        return f"{self.kind.value}, {unknowns}"


def structure_of(objective: Objective, params: Params) -> Structure:
    """The structure of a checked objective at params; both may be traced, or shapes."""
    leaves = jax.tree.leaves(params)
    computed = [dtypes.compute_dtype(leaf.dtype) for leaf in leaves]
    sizes: dict[str, Any] = {
        "unknowns": sum(leaf.size for leaf in leaves),
        "params_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        "compute_dtype": str(np.result_type(*computed)),
        "data_bytes": tree_bytes(objective),
        "solver_bytes": objective.stationary_solver_bytes(params),
        "is_rounded": precision.is_rounded(params),
        "largest_leaf_bytes": max(
            leaf.size * dtype.itemsize for leaf, dtype in zip(leaves, computed, strict=True)
        ),
        "default_tolerance": default_tolerance(params),
    }
    if (regression := objective.linear_regression) is not None:
        design = as_design(regression.X)
        reading = design.reading
        rows, features = design.shape
        return Structure(
            ProblemKind.REGRESSION,
            **sizes,
            rows=rows,
            features=features,
            outputs=math.prod(np.shape(regression.y)[1:]),
            data_dtype=str(jnp.dtype(reading.dtype)),
            is_dense=design.is_stored,
            has_intercept=regression.intercept,
            has_penalty=not _is_zero(regression.l2),
            has_own_l2=np.ndim(regression.l2) == 1,
            is_weighted=regression.sample_weight is not None,
            has_narrow_targets=jnp.result_type(regression.y).itemsize < design.dtype.itemsize,
            is_uneven=design.is_uneven,
            evaluation_flops=2.0 * design.entries if reading.bytes else 0.0,
            evaluation_bytes=float(reading.bytes),
            reading_seconds=reading.seconds,
            reading_bytes=reading.held_bytes,
        )
    if objective.is_quadratic:
        kind = ProblemKind.SEPARABLE if objective.is_separable else ProblemKind.QUADRATIC
        if (hessian := objective.hessian_array) is None:
            return Structure(kind, **sizes)
        rows, dtype = hessian.shape[0], str(hessian.dtype)
        return Structure(kind, **sizes, rows=rows, features=rows, data_dtype=dtype, is_dense=True)
    residuals = jax.eval_shape(anew(objective.residuals), precision.widen(params))
    if residuals is None:
        return Structure(ProblemKind.FUNCTION, **sizes)
    count = sum(leaf.size for leaf in jax.tree.leaves(residuals))
    return Structure(ProblemKind.RESIDUALS, **sizes, rows=count)


def regression_structure(
    rows: int, features: int, *, outputs: int = 1, dtype: str = "float32", has_penalty: bool = False
) -> Structure:
    """The structure of a dense regression with an intercept, from sizes alone."""
    targets = () if outputs == 1 else (outputs,)

    def shape(*sizes: int, dtype: Any = dtype) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    design, y = Dense(shape(rows, features)), shape(rows, *targets)
    regression = LinearRegression(design, y, l2=float(has_penalty))
    compute = dtypes.compute_dtype(dtype)
    params = {
        "weights": shape(features, *targets, dtype=compute),
        "intercept": shape(*targets, dtype=compute),
    }
    return structure_of(regression, params)


def structure_from_shapes(objective: Objective, params: Params) -> Structure:
    """The structure of a problem with ``jax.ShapeDtypeStruct`` in place of arrays; nothing is run.

    Raises:
      TypeError, ValueError: as ``minimize`` does for data and params that do not fit together.
    """
    concrete = jax.tree.map(lambda leaf: 0.0 if is_shape(leaf) else leaf, objective)
    checks.check_leaves(concrete)
    seen: list[Structure] = []  # filled while tracing, which can return only arrays

    def look(objective: Objective, params: Params) -> None:
        objective = objective.checked()
        params = checks.checked_params(params, objective)
        objective.check_params(params)
        checks.check_value(objective, params)
        seen.append(structure_of(objective, params))

    jax.eval_shape(look, objective, params)
    penalty = getattr(objective, "l2", None)
    if penalty is not None and not is_shape(penalty):  # a traced l2 does not tell whether it is 0
        return dataclasses.replace(seen[0], has_penalty=not _is_zero(penalty))
    return seen[0]


def is_shape(leaf: Any) -> bool:
    """Whether ``leaf`` stands for an array that does not exist."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


def tree_bytes(tree: Any) -> int:
    """The bytes of all arrays, existing or not; scalars are not counted."""
    return sum(
        math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if hasattr(leaf, "dtype") and leaf.shape
    )


def _is_zero(l2: Any) -> bool:
    return isinstance(l2, (int, float)) and l2 == 0
