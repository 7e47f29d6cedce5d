"""A descent in chunks of steps: the state of ``minimize``'s loop goes into a program and comes out.

The state of a descent between two steps is a :class:`jaxdescent.descent.loop.Loop`: params, method
state, the stopping rules' state, counts. A chunk takes its memory and gives it back, so that no
chunk copies the params. The end of a chunk is an input of the program: no length compiles anything,
and none changes a result.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdescent import placement
from jaxdescent.calls import programs
from jaxdescent.calls.problem import Problem
from jaxdescent.descent.loop import Descent
from jaxdescent.descent.state import Loop
from jaxdescent.kernels import loops
from jaxdescent.minimize import Setup, as_given
from jaxdescent.result import Result
from jaxdescent.status import RUNNING, Status

Params = Any
Numbers = tuple[jax.Array, ...]

UNLIMITED = np.int32(2**31 - 1)
"""The most iterations of a descent whose limit does not count yet."""

NUMBERS = (
    ("iteration", "evaluations", "status", "evidence"),
    ("value", "suboptimality", "first_value"),
    ("gradient_norm", "first_gradient_norm", "scale"),
)
"""The names, in a record, of the numbers in each of a chunk's arrays."""


class Chunks:
    """The programs of one descent; with ``donate`` the start's memory is used for the loop."""

    def __init__(self, setup: Setup, *, donate: bool) -> None:
        params, self.problem, self.limit = setup.inputs
        self._places = placement.places_of(params)
        self.check_every: int = setup.flags["check_every"]
        donated = (0,) if donate else ()
        self._begin = programs.compiled(_begin, setup.inputs, donate=donated, **setup.flags)
        self._advance: Any = None

    def begin(self, params: Params) -> Loop:
        """The loop at the start."""
        return jax.block_until_ready(self._begin(params, self.problem, self.limit))

    def like(self, params: Params) -> Loop:
        """The shapes, dtypes and shardings of :meth:`begin`'s loop, which is not computed."""
        leaves = jax.tree.leaves((params, self.problem, self.limit))
        traced = self._begin.of_leaves.trace(*leaves)
        arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
        devices = {device for leaf in arrays for device in leaf.sharding.device_set}
        if len(devices) > 1:
            shardings = traced.lower().compile().output_shardings
        else:
            device = devices.pop() if devices else jax.devices()[0]
            one = jax.device_put(np.zeros(()), device).sharding
            shardings = jax.tree.map(lambda _: one, traced.out_info)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            traced.out_info,
            shardings,
        )

    def jaxpr(self, like: Loop) -> Any:
        """The jaxpr of a chunk; the program's first call does not trace it again."""
        inputs = like, self.problem, self.limit, self.limit
        self._advance = self._compiled(_advance, inputs)
        return self._advance.of_leaves.trace(*jax.tree.leaves(inputs)).jaxpr

    @property
    def last_turn(self) -> int:
        """The steps of the loop's last turn, the one with the check at the limit."""
        descent = Descent(*self.problem, self.limit, self.check_every)
        return self.check_every if descent.is_by_passes or descent.looks_ahead else 0

    def advance(self, loop: Loop, until: int, *, is_last: bool) -> tuple[Loop, Numbers]:
        """Take steps up to iteration ``until`` at least, in the loop's memory; without ``is_last``
        as if there were no limit. The host reads the numbers, of :data:`NUMBERS`.
        """
        limit = self.limit if is_last else UNLIMITED
        inputs = loop, self.problem, limit, np.int32(until)
        if self._advance is None:
            self._advance = self._compiled(_advance, inputs)
        return self._advance(*inputs)

    def copied(self, loop: Loop, spare: Loop | None = None) -> Loop:
        """A copy of the loop, in the memory of ``spare``, an earlier copy, where there is one."""
        inputs = spare, loop
        return programs.compiled(_copied, inputs, donate=(0,))(*inputs)

    def end(self, loop: Loop, status: Status) -> Result:
        """The result, with ``status`` if no rule has ended the descent; in the loop's memory."""
        large, rest = (loop.params, loop.state), loop._replace(params=None, state=None)
        inputs = (large, rest, self.problem, self.limit, np.int32(status.value))
        result = self._compiled(_end, inputs)(*inputs)
        return as_given(result, self.problem.objective, self._places)

    def _compiled(self, function: Any, inputs: Any) -> programs.Program:
        """A program that takes the memory of the first of its inputs, and is the same one whether
        these are arrays or shapes.
        """
        how: Any = {"donate": (0,), "known": self._begin.key[-1], "check_every": self.check_every}
        return programs.compiled(function, inputs, **how)


def _begin(
    params: Params,
    problem: Problem,
    limit: jax.Array,
    *,
    check_every: int,
    history: int,
    starts_at_own: bool,
) -> Loop:
    descent = Descent(*problem, limit, check_every)
    begin = functools.partial(descent.begin, params, history=history, starts_at_own=starts_at_own)
    return _copied(None, loops.one_turn_if_few(begin, (params, problem)))


def _advance(
    loop: Loop,
    problem: Problem,
    limit: jax.Array,
    until: jax.Array,
    *,
    check_every: int,
) -> tuple[Loop, Numbers]:
    loop = Descent(*problem, limit, check_every).advance(loop, until)
    watch = loop.watch
    counts = loop.iteration, loop.evaluations, loop.status, watch.evidence
    values = loop.value, watch.suboptimality, watch.first_value
    norms = loop.norm, watch.first_norm, watch.scale
    # Few arrays, since each costs the host ten microseconds; they have memory of their own.
    return loop, tuple(map(jnp.stack, (counts, values, norms)))


def _end(
    large: tuple[Params, Any],
    rest: Loop,
    problem: Problem,
    limit: jax.Array,
    status: jax.Array,
    *,
    check_every: int,
) -> Result:
    """The result of a loop that is ended with ``status``.

    A loop that a rule has ended keeps its own status. Otherwise value and gradient norm are
    measured at the loop's params: where the next step checks these, they have not been checked yet,
    nor has a start that the first step evaluates.
    Its suboptimality is what the structure bounds.
    """
    params, state = large
    loop, descent = rest._replace(params=params, state=state), Descent(*problem, limit, check_every)
    is_running = loop.status == RUNNING
    is_behind: Any = descent.method.is_estimate(state)
    if (is_start := descent.method.is_start(state)) is not False:
        is_behind |= is_start
    if not descent.is_by_passes and not descent.looks_ahead:
        is_behind = True
    if is_behind is not False:

        def caught_up(loop: Loop) -> Loop:
            value, norm = descent.truth(loop)
            return loop._replace(value=value, norm=norm, evaluations=loop.evaluations + 1)

        loop = lax.cond(is_running & is_behind, caught_up, lambda loop: loop, loop)
    result = descent.result(loop)
    return result._replace(status=jnp.where(is_running, status, result.status))


def _copied(spare: Loop | None, loop: Loop) -> Loop:
    """The loop's arrays in strong types, and in memory that nobody else reads: in that of
    ``spare``, if it is given. On a host, new memory takes five times as long to write to, since the
    system clears each page of it first.

    JAX returns an input that a program passes on as the caller's own array; the next chunk would
    take the memory of the start, or of the data.
    """
    return jax.tree.map(functools.partial(jnp.array, copy=True), loop)
