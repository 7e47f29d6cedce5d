"""A descent whose params lie in the host's memory: the device is given one chunk after another.

Where steps work element by element, and the function is a sum over elements, a chunk of the params
can be stepped without the others. So the steps between two checks are made on a chunk while it is
on the device. The arrays of an optax transformation's state that are like the params are moved
together with them. A check adds up the sums of chunks.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.descent.fused_steps import Steps, fused_steps
from jaxdescent.descent.measured import Measured
from jaxdescent.kernels import host_memory
from jaxdescent.kernels.dtypes import compute_dtype
from jaxdescent.kernels.host_memory import Cut
from jaxdescent.methods import GradientDescent, InverseLipschitz, Method
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, Params
from jaxdescent.objectives.protocol import PartFunction, Scalars
from jaxdescent.tolerance import ResolvedTolerance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OnHost(Objective):
    """An objective of params in the host's memory, with how each of their arrays is cut."""

    inner: Objective
    chunks: tuple[Cut | None, ...] = dataclasses.field(metadata={"static": True})

    @property
    def cuts(self) -> tuple[Cut | None, ...]:
        return self.chunks

    def value(self, params: Params) -> jax.Array:
        return host_memory.on_device(self.inner).value(host_memory.on_device(params))

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        raise ValueError(
            "params in the host's memory have no gradient as a whole, and no derivatives by the "
            "objective's data: move them to the device's, jax.device_put(params, "
            'sharding.with_memory_kind("device")).'
        )

    def blocks(self, params: Params) -> list[Objective]:
        return self.inner.blocks(params) or [self.inner]

    def sum_over_parts(self, function: PartFunction, params: Params, always: Any) -> Scalars:
        sums = [
            _sums_of_chunks(function, term, leaf, cut, always)
            for term, leaf, cut in zip(
                self.blocks(params), jax.tree.leaves(params), self.chunks, strict=True
            )
        ]
        return tuple(precision.add(list(scalars)) for scalars in zip(*sums, strict=True))

    def hoisted(self, params: Params, *, always: bool = False) -> OnHost:
        inner = self.inner.hoisted(host_memory.on_device(params), always=always)
        return dataclasses.replace(self, inner=inner)

    def unpacked(self, params: Params) -> Params:
        return self.inner.unpacked(params)

    def lower_bound(self) -> jax.Array | None:
        return self.inner.lower_bound()

    @property
    def attains_lower_bound(self) -> bool:
        return self.inner.attains_lower_bound

    def least_curvature(self) -> jax.Array | None:
        return self.inner.least_curvature()

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_quadratic(self) -> bool:
        return self.inner.is_quadratic


def as_on_host(
    objective: Objective, method: Method, params: Params, tolerance: ResolvedTolerance
) -> Objective:
    """The objective for params of which some are in the host's memory; unchanged if none is.

    Raises:
      ValueError: if objective, method or tolerance need all of the params at once.
    """
    leaves = jax.tree.leaves(params)
    if not any(map(host_memory.is_on_host, leaves)):
        return objective
    needs = "params in the host's memory are brought to the device in chunks, which needs "
    ways_out = "; or move them: jax.device_put(params, sharding.with_memory_kind('device'))."
    if not objective.is_separable or (len(leaves) > 1 and objective.blocks(params) is None):
        raise ValueError(
            f"{needs}an objective that is a sum over elements, got {objective!r}: take "
            f"jd.SumOfSquares{ways_out}"
        )
    if not method.acts_by_element(params) or not _begins_alike(objective, method, params):
        raise ValueError(
            f"{needs}a method that treats each element by itself, got {method!r}: take "
            "jd.GradientDescent with a number, a schedule or jd.InverseLipschitz(), or an optax "
            f"transformation without norms and alike for all leaves, as optax.adam is{ways_out}"
        )
    if tolerance.step is not None or tolerance.is_by_leaf or tolerance.predicate is not None:
        raise ValueError(
            f"{needs}conditions on sums over them, got {tolerance!r}: leave out step, predicate "
            f"and tolerances by leaf{ways_out}"
        )
    return OnHost(objective, tuple(map(host_memory.cut_of, leaves)))


def _begins_alike(objective: Objective, method: Method, params: Params) -> bool:
    """Whether the state of all params has the structure of the state of each leaf."""
    leaves, treedef = jax.tree.flatten(params)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, compute_dtype(leaf.dtype)) for leaf in leaves]

    def begun(objective: Objective, params: Params) -> Any:
        return method.init(objective, params)

    whole = jax.eval_shape(begun, objective, treedef.unflatten(shapes))
    terms = objective.blocks(params) or [objective]
    structure = jax.tree.structure(_by_leaf(whole, params)[0])
    return all(
        jax.tree.structure(jax.eval_shape(begun, term, shape)) == structure
        for term, shape in zip(terms, shapes, strict=True)
    )


def default_on_host(params: Params) -> Method | None:
    """The method for params in the host's memory if none is given; None for others."""
    if not any(map(host_memory.is_on_host, jax.tree.leaves(params))):
        return None
    return GradientDescent(InverseLipschitz())


def _by_leaf(state: Any, params: Params) -> tuple[Any, list[Any]]:
    """A method's state, taken apart into one for each of the params' leaves. Trees of arrays like
    the params are replaced by the leaf's own array, as the first result tells; other arrays are
    shared by all.
    """
    leaves, structure = jax.tree.flatten(params)
    shapes = [leaf.shape for leaf in leaves]

    def is_like_params(node: Any) -> bool:
        if jax.tree.structure(node) != structure:
            return False
        return [jnp.shape(leaf) for leaf in jax.tree.leaves(node)] == shapes

    nodes, treedef = jax.tree.flatten(state, is_leaf=is_like_params)
    flags = [is_like_params(node) for node in nodes]

    def of_leaf(index: int) -> Any:
        own = zip(nodes, flags, strict=True)
        return treedef.unflatten(
            [jax.tree.leaves(node)[index] if flag else node for node, flag in own]
        )

    return treedef.unflatten(flags), list(map(of_leaf, range(len(leaves))))


def _of_all(is_own: Any, states: list[Any], params: Params) -> Any:
    """The state of all params, from that of each leaf; the last one has the shared arrays."""
    structure = jax.tree.structure(params)
    return jax.tree.map(
        lambda flag, *parts: structure.unflatten(parts) if flag else parts[-1], is_own, *states
    )


def initial_state(objective: Objective, method: Method, params: Params) -> Any:
    """``method.init``; for params in the host's memory, state arrays like the params lie there."""
    if objective.cuts is None:
        return method.init(objective, precision.widen(params))
    assert isinstance(objective, OnHost)

    def whole() -> Any:
        # Arrays that the state does not depend on are not brought to the device.
        held = host_memory.on_device((objective.inner, params))
        return method.init(held[0], precision.widen(held[1]))

    is_own, states = _by_leaf(jax.eval_shape(whole), params)
    if not any(jax.tree.leaves(is_own)):
        return whole()
    parts = zip(
        objective.blocks(params), jax.tree.leaves(params), objective.chunks, states, strict=True
    )
    return _of_all(is_own, [_begun_leaf(method, is_own, part) for part in parts], params)


def _begun_leaf(method: Method, is_own: Any, part: Any) -> Any:
    """The state of a leaf before the first step."""
    term, leaf, cut, shapes = part

    def unset(flag: bool, like: Any) -> jax.Array:
        if flag and host_memory.is_on_host(leaf):
            return host_memory.empty(leaf, like.dtype)
        return jnp.zeros(like.shape, like.dtype)

    def begun(start: Any, size: int, _: Any, state: Any) -> Any:
        numbers = precision.widen(host_memory.taken(leaf, cut, start, size))
        made = method.init(_part(term, leaf, cut, start, size), numbers)
        return _written(is_own, state, made, cut, start)

    return host_memory.visit(leaf, cut, True, begun, jax.tree.map(unset, is_own, shapes))


def _written(is_own: Any, state: Any, made: Any, cut: Cut | None, start: Any) -> Any:
    """The state of a leaf with that of a chunk written to its arrays."""
    return jax.tree.map(
        lambda flag, old, new: host_memory.written(old, new, cut, start) if flag else new,
        is_own,
        state,
        made,
    )


def over_chunks(
    descent: Measured, steps: Steps, iteration: jax.Array, rest: jax.Array | None, *, fused: int
) -> Steps:
    """:func:`~jaxdescent.descent.fused_steps.over_params` on every chunk, with the same results."""
    objective = descent.objective
    assert isinstance(objective, OnHost)
    leaves, treedef = jax.tree.flatten(steps.params)
    is_own, states = _by_leaf(steps.state, steps.params)
    parts = zip(objective.blocks(steps.params), leaves, objective.chunks, states, strict=True)
    # Counts and the arrays that leaves share start from the same values for each leaf.
    stepped = [
        _stepped_leaf(descent, steps, is_own, part, index=index, now=(iteration, rest, fused))
        for index, part in enumerate(parts)
    ]
    params = treedef.unflatten([after.params for after in stepped])
    state = _of_all(is_own, [after.state for after in stepped], params)
    return stepped[-1]._replace(params=params, state=state)


def _stepped_leaf(
    descent: Measured, steps: Steps, is_own: Any, part: Any, *, index: int, now: Any
) -> Steps:
    """The steps on a leaf, with the state of this leaf."""
    (term, leaf, cut, state), (*now, fused) = part, now

    def stepped(start: Any, size: int, _: Any, after: Steps) -> Steps:
        before = steps._replace(
            params=host_memory.taken(after.params, cut, start, size),
            state=jax.tree.map(
                lambda flag, old, new: host_memory.taken(new, cut, start, size) if flag else old,
                is_own,
                state,
                after.state,
            ),
        )
        rounding = descent.rounding if cut is None else descent.rounding.of_chunk(start)
        common = (descent.method, rounding, *now)
        made = fused_steps(before, _part(term, leaf, cut, start, size), index, common, fused=fused)
        return made._replace(
            params=host_memory.written(after.params, made.params, cut, start),
            state=_written(is_own, after.state, made.state, cut, start),
        )

    return host_memory.visit(leaf, cut, True, stepped, steps._replace(params=leaf, state=state))


def _sums_of_chunks(
    function: PartFunction, term: Objective, leaf: jax.Array, cut: Cut | None, when: Any
) -> Scalars:
    """The sums over a leaf's chunks; zero unless ``when`` is true."""

    def of(start: Any, size: int) -> Scalars:
        part = host_memory.taken(leaf, cut, start, size)
        return function(_part(term, leaf, cut, start, size), part)

    size, count = (1, 1) if cut is None else (cut.size, -(-leaf.shape[cut.axis] // cut.size))
    zeros = [jnp.zeros((count,), like.dtype) for like in jax.eval_shape(lambda: of(0, size))]

    def add(start: Any, size: int, number: Any, sums: list[jax.Array]) -> list[jax.Array]:
        return [s.at[number].set(one) for s, one in zip(sums, of(start, size), strict=True)]

    sums = host_memory.visit(leaf, cut, when, add, zeros)
    return tuple(map(precision.total, sums))


def _part(term: Objective, leaf: jax.Array, cut: Cut | None, start: Any, size: int) -> Objective:
    return host_memory.on_device(term) if cut is None else term.of_slice(leaf, cut, start, size)
