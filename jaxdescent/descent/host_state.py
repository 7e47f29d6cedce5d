"""The state of a method whose params lie in the host's memory, taken apart by leaves."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.kernels import host_memory
from jaxdescent.objectives import Params


@dataclasses.dataclass(frozen=True)
class HostState:
    """A method's state, taken apart: trees of arrays like the params, and arrays that leaves share.

    Attributes:
      treedef: the structure of the state, whose nodes are such trees and single arrays.
      is_like_params: for each node, whether it is a tree like the params.
      params: the params' own structure.
      own: for each of the params' leaves, the arrays at its place in these trees.
      shared: the single arrays.
    """

    treedef: Any
    is_like_params: list[bool]
    params: Any
    own: list[list[Any]]
    shared: list[Any]

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
