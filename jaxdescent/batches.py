"""Many small problems at once, none of which waits for the others.

Under ``vmap`` a loop runs until its slowest member ends, and every member pays for every iteration
and for both sides of every branch. So on a CPU each core solves its share of the members one after
another, in a single compiled loop: a member's numbers stay in the cache, and it stops when it ends.
If all members end after one step (a solve), they take it in blocks that fit the cache; a few small
regressions are solved by the host. An accelerator needs all members at once: there the loop is
interrupted at times, and the members that are still running are gathered into a smaller batch. The
host does this, so it is a function of its own and not part of :func:`jaxdescent.minimize`.
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
from jaxdescent.descent.loop import Descent, descend
from jaxdescent.descent.watch import Loop
from jaxdescent.inputs import tracing
from jaxdescent.inputs.functions import anew, as_pytree, hinting, is_fleeting
from jaxdescent.inputs.numbers import check_count
from jaxdescent.inputs.trees import check_tree, leading_axis
from jaxdescent.kernels import loops
from jaxdescent.kernels.branches import where
from jaxdescent.kernels.host import usable_cores
from jaxdescent.objectives import as_objective
from jaxdescent.result import Result
from jaxdescent.status import RUNNING, Status
from jaxdescent.tolerance import as_tolerance

FIRST_ITERATIONS = 16
"""The iterations before the first interruption; each later interruption is a quarter further."""

LEAST_PART = 64
"""The least number of members for which another thread pays."""

BLOCK = 64
"""The number of members in a block that takes its single step together: as many as a core's cache
holds if each has a few kilobytes."""

SHRINKAGE = 4
"""A batch is gathered if at most one member in this many still runs; each size compiles anew."""


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
            "minimize_batch reads statuses on the way and cannot be traced: inside jit, vmap or "
            "grad call jax.vmap(minimize)."
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
    if _is_on_one_cpu(members):
        block = _looked_at_once(Descent(*first, jnp.int32(max_iterations), 1), start)
        over = _in_rounds if block > 1 else _one_by_one
        if first.method.solves_at_once(first.objective):
            over, block = _one_by_one, BLOCK
        flags = {"block": block}
        shares, twice = _shares(members, size)
        result = _joined(_each(over, common, shares, max_iterations, flags), twice)
    else:
        result = _shrinking(common, members, size, max_iterations)
    return result._replace(params=jax.vmap(first.objective.unpacked)(result.params))


def _is_on_one_cpu(members: Any) -> bool:
    devices = {device for leaf in jax.tree.leaves(members) for device in leaf.sharding.device_set}
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def _each(
    function: Callable[..., Any], common: Any, parts: list[Any], most: int, flags: dict[str, Any]
) -> list[Any]:
    """The results of ``function`` for each share of the members, each in its own thread."""
    limit = jnp.asarray(most, jnp.int32)
    inputs = [(common, limit, part) for part in parts]
    if len(inputs) == 1:
        return [programs.compiled(function, inputs[0], **flags)(*inputs[0])]
    calls = [programs.compiled(function, each, **flags).prepared(*each) for each in inputs]
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: jax.block_until_ready(call()), calls))


def _shares(members: Any, size: int) -> tuple[list[Any], int]:
    """The share of the members for each core, as views of the members' memory, and how many members
    at the beginning of the last share belong to the share before it as well: all shares are of one
    length, so that one program serves them.
    """
    count = min(usable_cores(), size // LEAST_PART)
    if count <= 1:
        return [members], 0
    # Shares are multiples of 16 members, so that they begin at multiples of 64 bytes, where XLA can
    # read them without copying; the last may not.
    length = min(-(-size // (16 * count)) * 16, size)

    def part(start: int) -> Any:
        def of_leaf(leaf: jax.Array) -> jax.Array:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
                return leaf[start : start + length]  # NumPy has no dtype for random keys
            there = np.asarray(leaf)[start : start + length]
            (device,) = leaf.sharding.device_set
            return jax.device_put(there, device, may_alias=True)

        return jax.tree.map(of_leaf, members)

    shares = [part(min(start, size - length)) for start in range(0, size, length)]
    return shares, len(shares) * length - size


def _joined(parts: list[Any], twice: int = 0) -> Any:
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


def _one_by_one(common: Any, most: jax.Array, members: Any, *, block: int) -> Result:
    """Each member alone; or blocks of them, each as by ``vmap`` of ``minimize``: few small
    regressions are solved by the host.
    """

    def solve(member: Any) -> Result:
        problem, params, starts_at_own = _posed(common[0], member, *common[1:])
        flags = {"check_every": 1, "history": 0, "starts_at_own": starts_at_own}
        return descend(params, problem, most, **flags)

    if block > 1:
        return loops.by_blocks(jax.vmap(solve), (members,), block)
    return lax.map(solve, members)


def _looked_at_once(descent: Descent, start: Any) -> int:
    """The number of members whose claims are looked at by one call of the host, if they are like
    the one with this descent; zero where the host does not look at claims.
    """
    if descent.may_go_on or descent.has_diagonal or not descent.is_refutable(start):
        return 0
    from jaxdescent.descent.looks import few_unknowns  # regressions go without it

    return few_unknowns.members_at_once(descent.objective.hoisted(start), start)


def _in_rounds(common: Any, most: jax.Array, members: Any, *, block: int) -> Result:
    """Each member descends to its next claim alone; then the claims are looked at, for which a
    program calls the host once for a block of members.
    """

    def to_claim(member: Any, loop: Loop) -> Loop:
        descent = _descent(common, most, member, looks=False)[0]
        return descent.measured_at_end(descent.advance(loop))

    def look(member: Any, loop: Loop) -> Loop:
        return _descent(common, most, member)[0].looked_at(loop)

    def follow(both: tuple[Loop, jax.Array]) -> tuple[Loop, jax.Array]:
        loop, is_open = both

        def to_next(given: tuple[Any, ...]) -> Loop:
            is_on, member, own = given
            return lax.cond(is_on, to_claim, lambda member, own: own, member, own)

        reached = lax.map(to_next, (is_open, members, loop))
        # A claim is looked at once: a member that had ended before has no claim now.
        none = jnp.int32(Status.NON_FINITE.value)
        asked = reached._replace(status=jnp.where(is_open, reached.status, none))
        seen = loops.by_blocks(jax.vmap(look), (members, asked), block)
        loop = jax.vmap(where)(is_open, seen, loop)
        return loop, loop.status == RUNNING

    first = lax.map(lambda member: _begun(common, most, member)[1], members)
    # All members are open at first: a start that is checked may have ended with a claim already.
    open_at_first = first, jnp.ones_like(first.status, bool)
    last = lax.while_loop(lambda both: jnp.any(both[1]), follow, open_at_first)[0]

    def result(given: tuple[Any, Loop]) -> Result:
        return _descent(common, most, given[0])[0].result(given[1])

    return lax.map(result, (members, last))


def _shrinking(common: Any, members: Any, size: int, max_iterations: int) -> Result:
    """Solve all members at once, and continue with fewer members as others end."""
    whole, places = members, np.arange(size)
    done: list[tuple[np.ndarray, Loop]] = []
    until = min(FIRST_ITERATIONS, max_iterations)

    def run(function: Callable[..., Any], *inputs: Any) -> Any:
        inputs = (common, jnp.int32(until), jnp.int32(max_iterations), *inputs)
        return programs.compiled(function, inputs)(*inputs)

    loop = None
    while True:
        loop = run(_advance, members, loop)
        is_running = np.asarray(loop.status) == RUNNING
        running = np.flatnonzero(is_running)
        if until == max_iterations or not running.size:
            break
        room = len(places)
        while room >= SHRINKAGE * running.size and room >= SHRINKAGE:
            room //= SHRINKAGE
        if room < len(places):
            # Finished members fill the places that running ones leave.
            kept = np.concatenate([running, np.flatnonzero(~is_running)])[:room]
            gone = np.setdiff1d(np.arange(len(places)), kept)
            done.append((places[gone], _take(loop, gone)))
            members, loop, places = _take(members, kept), _take(loop, kept), places[kept]
        until = min(until + max(FIRST_ITERATIONS, until // 4), max_iterations)
    if done:
        done.append((places, loop))
        order = np.argsort(np.concatenate([indices for indices, _ in done]))
        loop = _take(_joined([loop for _, loop in done]), order)
    return run(_finish, whole, loop)


def _advance(
    common: Any, until: jax.Array, most: jax.Array, members: Any, loops: Loop | None
) -> Loop:
    """The loops of all members before iteration ``until``, from their start on if there are none
    yet.
    """

    def advance(member: Any, loop: Loop | None) -> Loop:
        if loop is None:
            descent, loop = _begun(common, most, member)
        else:
            descent, *_ = _descent(common, most, member)
        return descent.advance(loop, until)

    return jax.vmap(advance)(members, loops)


def _finish(common: Any, until: jax.Array, most: jax.Array, members: Any, loops: Loop) -> Result:
    def finish(member: Any, loop: Loop) -> Result:
        return _descent(common, most, member)[0].ended(loop)

    return jax.vmap(finish)(members, loops)


def _begun(common: Any, most: jax.Array, member: Any) -> tuple[Descent, Loop]:
    """The member's descent, and its loop before the first step."""
    descent, params, starts_at_own = _descent(common, most, member)
    return descent, descent.begin(params, history=0, starts_at_own=starts_at_own)


def _descent(
    common: Any, most: jax.Array, member: Any, *, looks: bool = True
) -> tuple[Descent, Any, bool]:
    """The member's descent, its params, and whether they are the objective's own start."""
    problem, params, starts_at_own = _posed(common[0], member, *common[1:])
    return Descent(*problem, most, 1, looks=looks), params, starts_at_own


def _posed(make: Any, member: Any, method: Any, tolerance: Any) -> tuple[Problem, Any, bool]:
    """The member's problem, its params, and whether they are the objective's own start."""
    with hinting("problem"):
        made = make(*member)
    objective, start = made if isinstance(made, tuple) else (made, None)
    return *posed(as_objective(objective), start, method, tolerance, None), start is None


def _take(tree: Any, places: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[places], tree)
