"""Many small problems at once, each to its own end.

Under ``vmap`` a loop runs until its slowest member ends, and every member pays for every
iteration. So on a CPU each core solves its share of the members one after another, in a single
compiled loop: a member's numbers stay in the cache, and it stops when it ends. Members that all end
after one step (a solve) take it in blocks. An accelerator needs many members at once: there they
are solved in blocks of a thousand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent import placement
from jaxdescent.calls import programs
from jaxdescent.calls.problem import Problem, posed
from jaxdescent.descent.loop import descend
from jaxdescent.inputs import tracing
from jaxdescent.inputs.functions import anew, as_pytree, hinting, is_fleeting
from jaxdescent.inputs.numbers import check_count
from jaxdescent.inputs.trees import check_tree, leading_axis
from jaxdescent.kernels.host import usable_cores
from jaxdescent.objectives import as_objective
from jaxdescent.result import Result
from jaxdescent.tolerance import as_tolerance

LEAST_SHARE = 64
"""The least number of members for which another thread pays."""

SOLVES, AT_ONCE = 64, 1024
"""The number of members in a block on a CPU whose solves take one step, and on an accelerator."""


def minimize_batch(
    problem: Callable[..., Any],
    members: tuple[Any, ...],
    method: Any = None,
    *,
    max_iterations: int = 1000,
    tolerance: Any = None,
) -> Result:
    """Minimise a batch of problems, each to its own tolerance, with its own status and count.

    The results are those of ``jax.vmap`` of :func:`jaxdescent.minimize`, without waiting for the
    slowest member. It pays if some members need many more iterations than others (nonconvex
    functions from random starts), and on a CPU, whose cores it keeps busy, for all but a few
    members.

    Args:
      problem: a function from one member's data to its objective, or to ``(objective, start)`` if
        the objective has no start of its own. It is traced once for all members.
      members: the arguments of ``problem``, each a pytree with a leading axis over the members.
      method: as for ``minimize``; None stands for the default method for the first member.
      max_iterations: the most iterations for each member.
      tolerance: as for ``minimize``, the same for all members.

    Returns:
      A :class:`jaxdescent.Result` in which every field has a leading axis over the members.

    Raises:
      TypeError: if it is called inside ``jit``, ``vmap`` or ``grad``, or if ``minimize`` would
        raise it for the first member.
      ValueError: if the members' leading axes differ, or as ``minimize`` for the first member.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> starts = jnp.array([[-2.0], [0.5], [3.0]])
    >>> def problem(start):
    ...     return lambda x: jnp.sum(jnp.cosh(x - 1)), start
    >>> result = jd.minimize_batch(problem, (starts,))
    >>> print(result.converged, result.params.round(2).ravel())
    [ True  True  True] [1. 1. 1.]
    """
    if not tracing.is_top_level():
        raise TypeError(
            "minimize_batch divides its members among the cores and cannot be traced: inside jit, "
            "vmap or grad call jax.vmap(minimize)."
        )
    check_count("max_iterations", max_iterations)
    if not isinstance(members, (tuple, list)):
        raise TypeError(
            "members must be a tuple of the arguments of problem, got "
            f"{type(members).__name__}: write (data,) for a single one."
        )
    check_tree("members", members)
    members = placement.with_automatic_axes(jax.tree.map(jnp.asarray, tuple(members)))
    hint = "repeat for each member what they share, or bind it in the problem"
    size = leading_axis("members", members, "one leading axis over the members", hint)
    one = jax.tree.map(lambda leaf: leaf[0], members)
    first, start, _ = _posed(problem, one, method, tolerance)
    common = (as_pytree(problem), first.method, as_tolerance(tolerance))
    if is_fleeting(common):  # what its functions close over is fixed for all members
        hoisted = first.hoisted(start)
        fixed = dataclasses.replace(common[2], predicate=hoisted.tolerance.predicate)
        common = as_pytree(anew(problem)), hoisted.method, fixed
    shares, twice = [members], 0
    block: int | None = AT_ONCE
    if _is_on_one_cpu(members):
        block = SOLVES if first.method.solves_at_once(first.objective) else None
        shares, twice = _shares(members, size)
    result = _joined(_each(common, shares, max_iterations, block), twice)
    return result._replace(params=jax.vmap(first.objective.unpacked)(result.params))


def _is_on_one_cpu(members: Any) -> bool:
    devices = {device for leaf in jax.tree.leaves(members) for device in leaf.sharding.device_set}
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def _each(common: Any, shares: list[Any], most: int, block: int | None) -> list[Result]:
    """The results of each share of the members, each in its own thread."""
    limit = jnp.asarray(most, jnp.int32)
    inputs = [(common, limit, share) for share in shares]
    if len(inputs) == 1:
        return [programs.compiled(_solved, inputs[0], block=block)(*inputs[0])]
    calls = [programs.compiled(_solved, each, block=block).prepared(*each) for each in inputs]
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: jax.block_until_ready(call()), calls))


def _solved(common: Any, most: jax.Array, members: Any, *, block: int | None) -> Result:
    """The results of members in blocks, each as by ``vmap`` of ``minimize``; None: one by one."""

    def solve(member: Any) -> Result:
        problem, params, starts_at_own = _posed(common[0], member, *common[1:])
        flags = {"check_every": 1, "history": 0, "starts_at_own": starts_at_own}
        return descend(params, problem, most, **flags)

    return lax.map(solve, members, batch_size=block)


def _shares(members: Any, size: int) -> tuple[list[Any], int]:
    """The share of the members for each core, as views of the members' memory, and how many members
    at the beginning of the last share belong to the share before it as well: all shares are of one
    length, so that one program serves them.
    """
    count = min(usable_cores(), size // LEAST_SHARE)
    if count <= 1:
        return [members], 0
    # Shares are multiples of 16 members, so that they begin at multiples of 64 bytes, where XLA can
    # read them without copying; the last may not.
    length = min(-(-size // (16 * count)) * 16, size)

    def share(start: int) -> Any:
        def of_leaf(leaf: jax.Array) -> jax.Array:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
                return leaf[start : start + length]  # NumPy has no dtype for random keys
            own = np.asarray(leaf)[start : start + length]
            (device,) = leaf.sharding.device_set
            return jax.device_put(own, device, may_alias=True)

        return jax.tree.map(of_leaf, members)

    shares = [share(min(start, size - length)) for start in range(0, size, length)]
    return shares, len(shares) * length - size


def _joined(parts: list[Any], twice: int) -> Any:
    """The parts in one, without the first members of the last part, ``twice`` in number, which the
    part before it has as well.
    """
    if len(parts) == 1:
        return parts[0]
    return programs.compiled(_concatenated, parts, twice=twice)(*parts)


def _concatenated(*parts: Any, twice: int) -> Any:
    def joined(*leaves: jax.Array) -> jax.Array:
        return jnp.concatenate([*leaves[:-1], leaves[-1][twice:]])

    return jax.tree.map(joined, *parts)


def _posed(make: Any, member: Any, method: Any, tolerance: Any) -> tuple[Problem, Any, bool]:
    """The member's problem, its params, and whether they are the objective's own start."""
    with hinting("problem"):
        made = make(*member)
    objective, start = made if isinstance(made, tuple) else (made, None)
    problem, params, _ = posed(as_objective(objective), start, method, tolerance, None)
    return problem, params, start is None
