"""The state of a method whose params lie in the host's memory, taken apart by leaves."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.kernels import host_memory

Params = Any


@dataclasses.dataclass(frozen=True)
class HostState:
    """A method's state, taken apart: trees of arrays like the params, and arrays that leaves share.

    Attributes:
      treedef: the structure of the state, whose nodes are such trees and single arrays.
      is_like_params: for each node, whether it is a tree like the params.
      params: the params' own structure.
      like: the arrays of each tree that is like the params.
      shared: the single arrays.
    """

    treedef: Any
    is_like_params: list[bool]
    params: Any
    like: list[list[Any]]
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
        like = [jax.tree.leaves(node) for node, flag in zip(nodes, flags, strict=True) if flag]
        shared = [node for node, flag in zip(nodes, flags, strict=True) if not flag]
        return cls(treedef, flags, structure, like, shared)

    def filled(self, leaves: list[jax.Array]) -> HostState:
        """This state of shapes as arrays: unset memory for leaves on the host, otherwise zeros."""
        like = [
            [
                host_memory.empty(leaf, shape.dtype)
                if host_memory.is_on_host(leaf)
                else jnp.zeros(shape.shape, shape.dtype)
                for leaf, shape in zip(leaves, tree, strict=True)
            ]
            for tree in self.like
        ]
        shared = [jnp.zeros(shape.shape, shape.dtype) for shape in self.shared]
        return dataclasses.replace(self, like=like, shared=shared)

    def at(self, index: int) -> tuple[list[Any], list[Any]]:
        """The state's arrays for one of the params' leaves, and the arrays that leaves share."""
        return [tree[index] for tree in self.like], self.shared

    def replaced(self, index: int, new: tuple[list[Any], list[Any]]) -> HostState:
        """This state with new arrays for one of the params' leaves, and new shared arrays."""
        own, shared = new
        like = [
            [*tree[:index], one, *tree[index + 1 :]]
            for tree, one in zip(self.like, own, strict=True)
        ]
        return dataclasses.replace(self, like=like, shared=shared)

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

    def whole(self) -> Any:
        """The state of all params."""
        return self.joined([self.params.unflatten(tree) for tree in self.like], self.shared)
