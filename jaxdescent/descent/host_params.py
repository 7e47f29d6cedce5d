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
    structure = HostState.of(whole, params).treedef
    return all(
        jax.tree.structure(jax.eval_shape(begun, term, shape)) == structure
        for term, shape in zip(terms, shapes, strict=True)
    )


def default_on_host(params: Params) -> Method | None:
    """The method for params in the host's memory if none is given; None for others."""
    if not any(map(host_memory.is_on_host, jax.tree.leaves(params))):
        return None
    return GradientDescent(InverseLipschitz())


@dataclasses.dataclass(frozen=True)
class HostState:
    """A method's state, taken apart: trees of arrays like the params, and shared arrays."""

    treedef: Any  # the structure of the state, whose nodes are such trees and single arrays
    is_like_params: list[bool]  # for each node, whether it is a tree like the params
    params: Any  # the params' own structure
    own: list[list[Any]]  # for each of the params' leaves, the arrays at its place in these trees
    shared: list[Any]  # the single arrays, which leaves share

    @classmethod
    def of(cls, state: Any, params: Params) -> HostState:
        leaves, structure = jax.tree.flatten(params)
        shapes = [leaf.shape for leaf in leaves]

        def is_like(node: Any) -> bool:
            if jax.tree.structure(node) != structure:
                return False
            return [jnp.shape(leaf) for leaf in jax.tree.leaves(node)] == shapes

        nodes, treedef = jax.tree.flatten(state, is_leaf=is_like)
        flags = [is_like(node) for node in nodes]
        trees = [jax.tree.leaves(node) for node, flag in zip(nodes, flags, strict=True) if flag]
        own = [[tree[index] for tree in trees] for index in range(len(leaves))]
        shared = [node for node, flag in zip(nodes, flags, strict=True) if not flag]
        return cls(treedef, flags, structure, own, shared)

    def filled(self, leaves: list[jax.Array]) -> HostState:
        """This state of shapes as arrays: unset memory for leaves on the host, otherwise zeros."""

        def array(leaf: jax.Array, like: Any) -> jax.Array:
            if host_memory.is_on_host(leaf):
                return host_memory.empty(leaf, like.dtype)
            return jnp.zeros(like.shape, like.dtype)

        own = [
            [array(leaf, like) for like in arrays]
            for leaf, arrays in zip(leaves, self.own, strict=True)
        ]
        shared = [jnp.zeros(like.shape, like.dtype) for like in self.shared]
        return dataclasses.replace(self, own=own, shared=shared)

    def joined(self, own: list[Any], shared: list[Any]) -> Any:
        """The state of a chunk, from its arrays."""
        mine, theirs = iter(own), iter(shared)
        return self.treedef.unflatten(
            [next(mine) if flag else next(theirs) for flag in self.is_like_params]
        )

    def separated(self, state: Any) -> tuple[list[Any], list[Any]]:
        """The state of a chunk, taken apart."""
        nodes = self.treedef.flatten_up_to(state)
        pairs = list(zip(nodes, self.is_like_params, strict=True))
        return [node for node, flag in pairs if flag], [node for node, flag in pairs if not flag]

    def whole(self, own: list[list[Any]], shared: list[Any]) -> Any:
        """The state of all params, from these arrays."""
        trees = [self.params.unflatten(arrays) for arrays in zip(*own, strict=True)]
        return self.joined(trees, shared)


def initial_state(objective: Objective, method: Method, params: Params) -> Any:
    """``method.init``; for params in the host's memory, state arrays like the params lie there."""
    if objective.cuts is None:
        return method.init(objective, precision.widen(params))
    assert isinstance(objective, OnHost)

    def whole() -> Any:
        # Arrays that the state does not depend on are not brought to the device.
        held = host_memory.on_device((objective.inner, params))
        return method.init(held[0], precision.widen(held[1]))

    state = HostState.of(jax.eval_shape(whole), params)
    if not any(state.is_like_params):
        return whole()
    leaves = jax.tree.leaves(params)
    state = state.filled(leaves)
    parts = zip(objective.blocks(params), leaves, objective.chunks, state.own, strict=True)
    begun = [_begun_leaf(method, state, part) for part in parts]
    return state.whole([own for own, _ in begun], begun[-1][1])


def _begun_leaf(method: Method, state: HostState, part: Any) -> Any:
    """The state's arrays for a leaf, and those that leaves share, before the first step."""
    term, leaf, cut, own = part

    def begun(start: Any, size: int, _: Any, carry: Any) -> Any:
        numbers = precision.widen(host_memory.taken(leaf, cut, start, size))
        made = method.init(_part(term, leaf, cut, start, size), numbers)
        parts, shared = state.separated(made)
        return host_memory.written(carry[0], parts, cut, start), shared

    return host_memory.visit(leaf, cut, True, begun, (own, state.shared))


def over_chunks(
    descent: Measured, steps: Steps, iteration: jax.Array, rest: jax.Array | None, *, fused: int
) -> Steps:
    """:func:`~jaxdescent.descent.fused_steps.over_params` on every chunk, with the same results."""
    objective = descent.objective
    assert isinstance(objective, OnHost)
    leaves, treedef = jax.tree.flatten(steps.params)
    state = HostState.of(steps.state, steps.params)
    parts = zip(objective.blocks(steps.params), leaves, objective.chunks, state.own, strict=True)
    # Counts and the arrays that leaves share start from the same values for each leaf.
    stepped = [
        _stepped_leaf(descent, steps, state, part, index=index, now=(iteration, rest, fused))
        for index, part in enumerate(parts)
    ]
    last = stepped[-1][0]
    params = treedef.unflatten([after.params for after, _ in stepped])
    return last._replace(params=params, state=state.whole([own for _, own in stepped], last.state))


def _stepped_leaf(
    descent: Measured, steps: Steps, state: HostState, part: Any, *, index: int, now: Any
) -> tuple[Steps, list[jax.Array]]:
    """The steps, with the arrays that leaves share as state, and the state's arrays of the leaf."""
    (term, leaf, cut, own), (*now, fused) = part, now

    def stepped(start: Any, size: int, _: Any, loop: Any) -> Any:
        after, own = loop
        leaf = after.params
        parts = [host_memory.taken(array, cut, start, size) for array in own]
        before = steps._replace(
            params=host_memory.taken(leaf, cut, start, size),
            state=state.joined(parts, state.shared),
        )
        rounding = descent.rounding if cut is None else descent.rounding.of_chunk(start)
        common = (descent.method, rounding, *now)
        chunk = _part(term, leaf, cut, start, size)
        after = fused_steps(before, chunk, index, common, fused=fused)
        parts, shared_after = state.separated(after.state)
        (leaf,) = host_memory.written([leaf], [after.params], cut, start)
        after = after._replace(params=leaf, state=shared_after)
        return after, host_memory.written(own, parts, cut, start)

    loop = steps._replace(params=leaf, state=state.shared), own
    return host_memory.visit(leaf, cut, True, stepped, loop)


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
