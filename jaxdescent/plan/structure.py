"""What a plan needs to know of a problem: its sizes and kinds, and none of its numbers."""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.designs import Dense, as_design
from jaxdescent.display import Displayed
from jaxdescent.inputs.functions import anew
from jaxdescent.kernels import dtypes
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, checks
from jaxdescent.regression.solve import regression_solver_bytes
from jaxdescent.tolerance import default_tolerance

Params = Any


class Kind(enum.Enum):
    """Which methods can be candidates."""

    REGRESSION = "regression"
    QUADRATIC = "quadratic"
    SEPARABLE = "separable quadratic"
    RESIDUALS = "sum of squared residuals"
    FUNCTION = "function"


@dataclasses.dataclass(frozen=True)
class Structure(Displayed):
    """A problem as numbers: sizes in elements or bytes.

    Rows, features and unknowns are the whole problem's; bytes, ``entries``, ``part`` and
    ``vector_bytes`` are those of each device that it is spread over (:meth:`spread`).

    Args:
      kind: what can be a candidate.
      unknowns: elements of the params.
      params_bytes: the params as they are stored.
      compute_dtype: that arithmetic runs in.
      data_bytes: arrays of the objective: X and y, the Hessian, centres.
      solver_bytes: at the peak of the derivative method's solve, besides data and params.
      rows, features, outputs: of a regression; of residuals, ``rows`` is their number.
      data_dtype: that X or the Hessian is stored in.
      is_dense: whether X or the Hessian is an array that a product reads.
      has_intercept: of a regression.
      has_penalty: whether an ``l2`` that is not zero may bound the condition.
      has_own_l2: whether each output has an ``l2`` of its own.
      is_rounded: whether params are stored in 16 bits.
      largest_leaf_bytes: the largest array of the params, in the dtype of the arithmetic.
      default_tolerance: of the gradient, where none is given.
      evaluation_flops: one value and gradient of a function or residuals, if counted; one product
        with an X of which not all entries lie in memory.
      evaluation_bytes: what that reads and writes, if counted.
      evaluation_reserved: what it reserves while it runs, if it was compiled.
      devices: over how many it is spread.
    """

    kind: Kind
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
    is_rounded: bool = False
    largest_leaf_bytes: int = 0
    default_tolerance: float = 2.4e-5
    evaluation_flops: float = 0.0
    evaluation_bytes: float = 0.0
    evaluation_reserved: int = 0
    devices: int = 1

    def _arguments(self) -> list[str]:
        return [self.describe()]

    @property
    def itemsize(self) -> int:
        """Of the arithmetic."""
        return jnp.dtype(self.compute_dtype).itemsize

    @property
    def sharded(self) -> str:
        """Along what several devices share the problem; empty where each has all of it.

        The longer side of a dense X, the rows of a Hessian, the params of a separable function. Of
        other functions nothing tells which of their arrays belong together.
        """
        if self.kind is Kind.SEPARABLE:
            return "params"
        if not self.is_dense:
            return ""
        return "rows" if self.is_tall else "features"

    @property
    def parts(self) -> int:
        """Into how many parts what is sharded is cut."""
        return self.devices if self.sharded else 1

    @property
    def part(self) -> tuple[int, int]:
        """Rows and features of what each device has of X, or of the Hessian."""
        rows = -(-self.rows // self.parts) if self.sharded == "rows" else self.rows
        features = -(-self.features // self.parts) if self.sharded == "features" else self.features
        return rows, features

    @property
    def entries(self) -> int:
        """Elements of X, or of the Hessian."""
        return math.prod(self.part)

    @property
    def is_sparse(self) -> bool:
        """Whether X is one of which not all entries lie in memory, and what it reads is known."""
        is_known = self.evaluation_bytes > 0
        return self.kind is Kind.REGRESSION and is_known and not self.is_dense

    @property
    def vector_bytes(self) -> int:
        """A vector of the params' length in the dtype of the arithmetic."""
        parts = self.parts if self.sharded in ("features", "params") else 1
        return -(-self.unknowns // parts) * self.itemsize

    def spread(self, devices: int) -> Structure:
        """The same over so many devices.

        What a direct solve reserves is not divided: its factors are on each device.

        >>> one = regression_structure(8_000_000, 1_000)
        >>> eight = one.spread(8)
        >>> eight.part, round(one.data_bytes / eight.data_bytes)
        ((1000000, 1000), 8)
        """
        whole = dataclasses.replace(self, devices=devices)
        if whole.parts == 1:
            return whole
        parts, matrix = whole.parts, self.entries * jnp.dtype(self.data_dtype).itemsize
        # The targets go with the rows; of a Hessian and of wide data the vectors are everywhere.
        goes_along = self.kind is not Kind.QUADRATIC and whole.sharded != "features"
        rest = (self.data_bytes - matrix) // (parts if goes_along else 1)
        is_cut = whole.sharded in ("features", "params")
        solver_parts = parts if whole.sharded == "params" else 1
        return dataclasses.replace(
            whole,
            data_bytes=max(-(-matrix // parts) + rest, 0),
            params_bytes=-(-self.params_bytes // (parts if is_cut else 1)),
            solver_bytes=-(-self.solver_bytes // solver_parts),
            largest_leaf_bytes=-(-self.largest_leaf_bytes // (parts if is_cut else 1)),
        )

    def placement(self) -> str:
        """What each of several devices has, in a sentence; empty for one."""
        if self.devices == 1:
            return ""
        with_rows = "X, y and what else has a row are sharded by rows"
        of_kind = {
            "rows": f"{with_rows}, the params are on each",
            "features": "X and the params are sharded by features, y is on each",
            "params": "params and data are sharded alike",
            "": "data and params are all on each, which saves nothing: only the data of "
            "regressions, quadratics and separable functions are known to be divisible",
        }
        if self.kind is Kind.QUADRATIC and self.sharded:
            return "On several devices: H is sharded by rows, vectors are on each."
        return f"On several devices: {of_kind[self.sharded]}."

    @property
    def is_tall(self) -> bool:
        """Whether there are at least as many rows as features."""
        return self.rows >= self.features

    def describe(self) -> str:
        """One line for a table's title."""
        if self.kind is Kind.REGRESSION:
            shape = f"{self.rows:,} rows x {self.features:,} features"
            outputs = f" x {self.outputs:,} outputs" if self.outputs > 1 else ""
            entries = f", {self.evaluation_flops / 2:,.0f} entries" if self.is_sparse else ""
            penalty = ", l2" if self.has_penalty else ""
            return f"linear regression, {shape}{outputs}{entries}, {self.data_dtype}{penalty}"
        unknowns = f"{self.unknowns:,} unknowns in {self.compute_dtype}"
        if self.kind is Kind.RESIDUALS:
            return f"{self.kind.value}, {self.rows:,} residuals, {unknowns}"
        return f"{self.kind.value}, {unknowns}"


def structure_of(objective: Objective, params: Params) -> Structure:
    """The structure of a checked objective at params that may be traced."""
    leaves = jax.tree.leaves(params)
    residuals = None
    if not objective.is_quadratic:
        residuals = jax.eval_shape(anew(objective.residuals), precision.widen(params))
    kind = _kind(objective, residuals)
    common: dict[str, Any] = {
        "kind": kind,
        "unknowns": sum(leaf.size for leaf in leaves),
        "params_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        "compute_dtype": str(
            jnp.result_type(*(dtypes.compute_dtype(leaf.dtype) for leaf in leaves))
        ),
        "data_bytes": tree_bytes(objective),
        "solver_bytes": objective.stationary_solver_bytes(params),
        "is_rounded": precision.is_rounded(params),
        "largest_leaf_bytes": max(
            leaf.size * dtypes.compute_dtype(leaf.dtype).itemsize for leaf in leaves
        ),
        "default_tolerance": default_tolerance(params),
    }
    regression = objective.linear_model
    if regression is not None:
        design = as_design(regression.X)
        rows, features = design.shape
        return Structure(
            **common,
            rows=rows,
            features=features,
            outputs=math.prod(jnp.shape(regression.y)[1:]),
            data_dtype=str(jnp.dtype(design.stored_dtype)),
            is_dense=design.is_stored,
            has_intercept=regression.intercept,
            has_penalty=not _is_zero(regression.l2),
            has_own_l2=jnp.ndim(regression.l2) == 1,
            evaluation_flops=2.0 * design.entries if design.pass_bytes else 0.0,
            evaluation_bytes=float(design.pass_bytes),
        )
    hessian = objective.hessian_array
    if hessian is not None:
        size, dtype = hessian.shape[0], str(hessian.dtype)
        return Structure(**common, rows=size, features=size, data_dtype=dtype, is_dense=True)
    return Structure(**common, rows=sum(leaf.size for leaf in jax.tree.leaves(residuals)))


def regression_structure(
    rows: int, features: int, *, outputs: int = 1, dtype: str = "float32", has_penalty: bool = False
) -> Structure:
    """The structure of a dense regression with an intercept, from sizes that may be any."""
    stored = jnp.dtype(dtype).itemsize
    compute = dtypes.compute_dtype(dtype)
    shape_only: Any = jax.ShapeDtypeStruct((rows, features), dtype)
    unknowns = (features + 1) * outputs
    solver_bytes = regression_solver_bytes(
        Dense(shape_only), 0.0, outputs=outputs, is_scaled=True, is_weighted=False
    )
    return Structure(
        kind=Kind.REGRESSION,
        unknowns=unknowns,
        params_bytes=unknowns * compute.itemsize,
        largest_leaf_bytes=features * outputs * compute.itemsize,
        default_tolerance=float(jnp.finfo(compute).eps) ** (2 / 3),
        compute_dtype=str(compute),
        data_bytes=rows * (features + outputs) * stored,
        solver_bytes=solver_bytes,
        rows=rows,
        features=features,
        outputs=outputs,
        data_dtype=dtype,
        is_dense=True,
        has_intercept=True,
        has_penalty=has_penalty,
    )


def structure_from_shapes(objective: Objective, params: Params) -> Structure:
    """The structure of what may hold ``jax.ShapeDtypeStruct`` in place of arrays: nothing is run.

    Raises:
      TypeError, ValueError: as ``minimize`` does for data and params that do not fit together.
    """
    concrete = jax.tree.map(lambda leaf: 0.0 if is_shape(leaf) else leaf, objective)
    checks.check_leaves(concrete)
    seen: list[Structure] = []  # what is found while tracing, where only arrays can be returned

    def look(objective: Objective, params: Params) -> None:
        objective = objective.checked()
        params = checks.checked_params(params, objective)
        objective.check_params(params)
        checks.check_value(objective, params)
        seen.append(structure_of(objective, params))

    jax.eval_shape(look, objective, params)
    penalty = getattr(objective, "l2", None)
    if penalty is not None and not is_shape(penalty):  # traced above, so unknown there
        return dataclasses.replace(seen[0], has_penalty=not _is_zero(penalty))
    return seen[0]


def is_shape(leaf: Any) -> bool:
    """Whether ``leaf`` stands for an array that does not exist."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


def tree_bytes(tree: Any) -> int:
    """Of all arrays, existing or not; scalars are not counted."""
    return sum(
        math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if hasattr(leaf, "dtype") and leaf.shape
    )


def _kind(objective: Objective, residuals: Any) -> Kind:
    if objective.linear_model is not None:
        return Kind.REGRESSION
    if objective.is_quadratic:
        return Kind.SEPARABLE if objective.is_separable else Kind.QUADRATIC
    return Kind.FUNCTION if residuals is None else Kind.RESIDUALS


def _is_zero(l2: Any) -> bool:
    return isinstance(l2, (int, float)) and l2 == 0
