"""A plain differentiable function as an objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxdescent.inputs.functions import as_pytree, hinting, hoist
from jaxdescent.inputs.trees import check_tree
from jaxdescent.objectives.protocol import Objective, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Function(Objective):
    """``function(params, *args)``, where ``args`` are data (leaves), not structure."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", as_pytree(self.function))

    def value(self, params: Params) -> jax.Array:
        with hinting("the objective"):
            return self.function(params, *self.args)

    def bound(self, args: tuple[Any, ...]) -> Function:
        return Function(self.function, args)

    def hoisted(self, params: Params, *, always: bool = False) -> Function:
        function = hoist(self.function, params, *self.args, always=always, in_double=not always)
        return Function(function, self.args)


def as_objective(objective: Any, args: tuple[Any, ...] = ()) -> Objective:
    """An objective with ``args`` bound to it; a plain callable is wrapped.

    Raises:
      TypeError: if ``objective`` is neither an objective nor callable, or is an objective that
        takes no ``args``.
    """
    if not isinstance(args, tuple):
        raise TypeError(
            f"args must be a tuple of extra arguments, got {type(args).__name__}: write "
            "args=(data,) for a single one."
        )
    check_tree("args", args)
    if isinstance(objective, Objective):
        return objective.bound(_held(args)) if args else objective
    if isinstance(objective, type) or not callable(objective):
        is_short = isinstance(objective, (type, str, int, float, dict, type(None)))
        got = repr(objective) if is_short else type(objective).__name__
        raise TypeError(
            "objective must be a function of params or an objective such as jd.SumOfSquares(), "
            f"got {got}."
        )
    return Function(objective, _held(args))


def _held(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The args, where a ``Partial`` among them is converted by :func:`as_pytree`."""
    return jax.tree.map(
        lambda leaf: as_pytree(leaf) if isinstance(leaf, jax.tree_util.Partial) else leaf,
        args,
        is_leaf=lambda leaf: isinstance(leaf, jax.tree_util.Partial),
    )
