"""The entry point ``jd.plan``, and the compiler's memory analysis of the programs in a plan.

Prices are computed from shapes (:mod:`jaxdescent.cost`). If they are to be exact, the programs that
``minimize`` would run are compiled, if need be for devices that are not attached, and the compiler
is asked what they reserve.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdescent import placement, processes
from jaxdescent.calls.problem import check_params, posed
from jaxdescent.cost.candidates import Candidate
from jaxdescent.cost.plan import Plan
from jaxdescent.cost.planning import plan_of, tolerance_number
from jaxdescent.cost.structure import (
    ProblemKind,
    Structure,
    is_shape,
    structure_from_shapes,
    tree_bytes,
)
from jaxdescent.cost.work import ALLOWED_ITERATIONS
from jaxdescent.descent.fused_steps import fuses
from jaxdescent.descent.loop import CHECK_EVERY, descend
from jaxdescent.inputs.tracing import is_top_level
from jaxdescent.kernels.memory import ProblemTooLarge
from jaxdescent.machine import Machine
from jaxdescent.methods import GradientDescent, Method
from jaxdescent.numerics.precision import widen
from jaxdescent.objectives import Objective, Params, as_objective
from jaxdescent.objectives.checks import checked_params
from jaxdescent.planning import topologies
from jaxdescent.tolerance import as_tolerance

FUNCTIONS = (ProblemKind.FUNCTION, ProblemKind.RESIDUALS)
"""The kinds for which a compiled value and gradient gives the only costs that are known."""

OF_COMPILED_FUNCTIONS = (
    "Nothing is known of the Hessian: iterations are those of ordinary problems. What the function "
    "itself needs is the compiler's count of one value and gradient."
)

UNFUSED = 4.0
"""The assumed ratio of the bytes that a function's gradient moves before fusion to those after: it
is 1 for a logistic regression, 2 for a neural network, 5 for sums of a function of each unknown."""


def plan(
    objective: Any,
    params: Params = None,
    *,
    args: tuple[Any, ...] = (),
    device: Any = None,
    tolerance: Any = None,
    exact: bool = False,
) -> Plan:
    """Which methods can solve a problem on a machine, in what memory and time, and which to take.

    Nothing of the problem's size is allocated, and no data are read. The condition number is
    assumed; if the choice would depend on it, it is a ``jd.Hedge``, whose worst case is stated. If
    the device was never measured, it is measured in a few seconds, and the result is kept in the
    user's cache folder.

    Args:
      objective: as for ``minimize``; any array in it may be a ``jax.ShapeDtypeStruct``.
      params: the start, or its shapes; None stands for the objective's own start.
      args: extra arguments of the objective, or their shapes.
      device: a JAX device; the name of a platform such as ``"cpu"``, for its first device; a
        :class:`jaxdescent.machine.Machine`; or the name of devices that need not be attached, which
        are priced by their published figures: ``"h100"``, ``"8xh100"``, ``"v5e:16x16"``
        (:data:`jaxdescent.planning.hardware.DEVICES` lists them). Over several devices a dense
        regression is sharded along its longer side, and the plan says what each device has and
        what is sent over the links. None stands for the device of the arrays, or JAX's first.
      tolerance: as for ``minimize``.
      exact: whether to compile the candidates that fit, which takes seconds for each, and to show
        the memory that the compiler reports besides that of the formulas. A candidate for which the
        compiler finds no room does not fit. Large factorisations are not offered on TPUs,
        for which they compile for minutes. For named devices the compiler's plugin must be
        installed, but no driver and no accelerator.

    Returns:
      A :class:`Plan`: the methods in the order of preference, and the chosen one, if any fits.

    Raises:
      TypeError, ValueError: as ``minimize`` does for data and params that do not fit together; and
        if the device is not known.
      ImportError: if ``exact`` needs a plugin that is missing.

    >>> import jax, jaxdescent as jd
    >>> X = jax.ShapeDtypeStruct((8_000_000_000, 1_000_000), "float32")
    >>> y = jax.ShapeDtypeStruct((8_000_000_000,), "float32")
    >>> planned = jd.plan(jd.LinearRegression(X, y))
    >>> planned.chosen is None, planned.candidates[1].name
    (True, 'LSMR()')
    >>> X = jax.ShapeDtypeStruct((1_000_000_000, 8192), "float32")
    >>> y = jax.ShapeDtypeStruct((1_000_000_000,), "float32")
    >>> planned = jd.plan(jd.LinearRegression(X, y), device="v5e:16x16")
    >>> planned.machine.devices, planned.chosen is None
    (256, True)
    >>> planned = jd.plan(jd.LinearRegression(X, y), device="v5p:8x8x8").require()
    >>> planned.name, round(planned.link_bytes_per_iteration / 8192, 2)
    ('LSMR()', 7.99)
    """
    objective = as_objective(objective, args)
    check_params(params)
    with processes.among("plan", objective, params):
        machine, local = _machine(device, (params, objective))
    objective, params = placement.with_automatic_axes((objective, params))
    structure = structure_from_shapes(objective, params)
    tolerance = as_tolerance(tolerance)
    if params is not None and not any(map(is_shape, jax.tree.leaves(params))):
        tolerance.check()
    compiler = _Compiler.of(machine, local, structure) if exact else None
    structure = _with_evaluation(structure, objective, params, compiler)
    # Arrays that exist here do not exist on another machine.
    leaves = [] if machine.name else jax.tree.leaves((objective, params))

    def reserved(candidate: Candidate) -> int:
        assert compiler is not None  # or it is not asked
        return compiler.reserved(_program(candidate.method, tolerance), objective, params)

    planned = plan_of(
        structure,
        machine,
        tolerance=tolerance_number(tolerance, structure),
        existing_bytes=tree_bytes([leaf for leaf in leaves if isinstance(leaf, jax.Array)]),
        reserved=reserved if compiler else None,
    )
    if compiler and structure.kind in FUNCTIONS:
        return dataclasses.replace(planned, assumptions=(OF_COMPILED_FUNCTIONS,))
    return planned


def _machine(device: Any, tree: Any) -> tuple[Machine, Any]:
    """The machine to plan for, and its JAX device; None if it is not attached."""
    if isinstance(device, Machine):
        return device, None
    if isinstance(device, str):
        try:
            return Machine.published(device), None
        except ValueError as unknown:
            try:
                device = jax.devices(device)[0]
            except RuntimeError as error:
                raise ValueError(
                    "device must be the name of a platform that JAX finds, or of a device: "
                    f"{unknown} {error}"
                ) from error
    if device is not None and not isinstance(device, jax.Device):
        raise TypeError(
            "device must be a JAX device, a name, a jaxdescent.machine.Machine or None, got "
            f"{device!r}."
        )
    device = placement.device_of(tree) if device is None else device
    device = jax.local_devices()[0] if device is None else device
    machine = Machine.measured(device) if is_top_level() else Machine.of(device)
    return machine.agreed(), device


def _program(method: Method, tolerance: Any) -> Callable[[Objective, Params], Any]:
    """The function that ``minimize`` compiles for this method."""

    def program(objective: Objective, params: Params) -> Any:
        # Another method is used for the checks, because memory that is free on this host does not
        # matter: this one is never refused.
        problem, start, _ = posed(objective, params, GradientDescent(), tolerance, None)
        problem = problem._replace(method=method).hoisted(start)
        is_fused = fuses(problem.objective, method)
        return descend(
            start,
            problem,
            jnp.int32(ALLOWED_ITERATIONS),
            check_every=CHECK_EVERY if is_fused else 1,
            history=0,
            starts_at_own=params is None,
        )

    return program


@dataclasses.dataclass(frozen=True)
class _Compiler:
    """Compiles for one attached device, ``local``, or for the mesh of a topology's devices, over
    which a problem's arrays are sharded.
    """

    structure: Structure
    devices: tuple[Any, ...]
    local: Any

    @classmethod
    def of(cls, machine: Machine, local: Any, structure: Structure) -> _Compiler:
        if local is not None:
            return cls(structure, (), local)
        if not machine.name:
            raise ValueError(
                "exact=True needs a device to compile for, got a jaxdescent.machine.Machine: pass "
                "a JAX device or a name such as 'h100'."
            )
        return cls(structure, tuple(topologies.topology(machine.name)), None)

    def compiled(self, program: Callable[..., Any], objective: Objective, params: Params) -> Any:
        """The compiled program of a problem; nothing is allocated.

        Raises:
          ProblemTooLarge: if the compiler finds no room for it.
        """
        inputs = self._placed(objective, params)
        with jax.default_device(self.local):
            lowered = jax.jit(program).lower(*inputs)
            try:
                return lowered.compile()
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                raise ProblemTooLarge(str(error).splitlines()[0]) from error

    def reserved(self, program: Callable[..., Any], objective: Objective, params: Params) -> int:
        """The bytes that a program reserves on each device: temporaries and results."""
        analysis = self.compiled(program, objective, params).memory_analysis()
        return analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    def _placed(self, objective: Objective, params: Params) -> Any:
        if self.local is not None:
            return jax.tree.map(_as_shape, (objective, params))
        mesh = placement.automatic_mesh(self.devices, ("devices",))

        def placed(leaf: Any, *, is_data: bool) -> Any:
            if not hasattr(leaf, "shape"):
                return leaf
            axis = self._axis(leaf, is_data=is_data)
            spec = () if axis is None else (None,) * axis + ("devices",)
            sharding = NamedSharding(mesh, PartitionSpec(*spec))
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return (
            jax.tree.map(functools.partial(placed, is_data=True), objective),
            jax.tree.map(functools.partial(placed, is_data=False), params),
        )

    def _axis(self, leaf: Any, *, is_data: bool) -> int | None:
        """The axis along which an array is sharded; None if each device has all of it."""
        sizes, structure = np.shape(leaf), self.structure
        count, sharded = len(self.devices), structure.sharded
        if count == 1 or not sizes:
            return None
        if sharded == "params":
            return next((axis for axis, size in enumerate(sizes) if size % count == 0), None)
        side = structure.rows if sharded == "rows" else structure.features
        is_matrix = is_data and sizes == (structure.rows, structure.features)
        goes_along = structure.kind is ProblemKind.REGRESSION and is_data == (sharded == "rows")
        if not sharded or not (is_matrix or (goes_along and sizes[0] == side)):
            return None
        if side % count:
            filling = "rows of weight zero" if sharded == "rows" else "columns of zeros"
            raise ValueError(
                f"exact=True shards {sharded} evenly, got {side:,} over {count:,} devices: plan "
                f"for {math.ceil(side / count) * count:,}, and fill up with {filling}."
            )
        return 1 if is_matrix and sharded == "features" else 0


def _as_shape(leaf: Any) -> Any:
    """The shape of an array, with its sharding if it exists."""
    if not placement.is_concrete(leaf):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _with_evaluation(
    structure: Structure, objective: Objective, params: Params, compiler: _Compiler | None
) -> Structure:
    """The structure with XLA's counts for one value and gradient of a function or residuals.

    If these are not compiled, operations are counted before optimisation, and so are the bytes, as
    if nothing were fused: they are divided by UNFUSED, but are at least those of the data, the
    params and the gradient.
    """
    if structure.kind not in FUNCTIONS:
        return structure

    def evaluate(objective: Objective, params: Params) -> Any:
        objective = objective.checked()
        params = widen(checked_params(params, objective))
        if structure.kind is ProblemKind.FUNCTION:
            return objective.value_and_gradient(params)
        # The sum of squares is left out, because its form depends on the platform.
        residuals, pull_back = jax.vjp(objective.residuals, params)
        return residuals, pull_back(residuals)

    reserved, counted = 0, None
    if compiler is not None:
        compiled = compiler.compiled(evaluate, objective, params)
        reserved = compiled.memory_analysis().temp_size_in_bytes
        counted = compiled.cost_analysis()  # None for GPUs that are not attached
    analysis = counted or jax.jit(evaluate).lower(objective, params).cost_analysis() or {}
    moved = float(analysis.get("bytes accessed", 0.0))
    if not counted:
        least = structure.data_bytes + 2 * structure.vector_bytes
        moved = max(moved / UNFUSED, least)
    return dataclasses.replace(
        structure,
        evaluation_flops=float(analysis.get("flops", 0.0)),
        evaluation_bytes=moved,
        evaluation_reserved=reserved,
    )
