"""The problem of a call: objective, method, tolerance, rounding; checked before anything runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from jaxdescent import placement, processes
from jaxdescent.cost import default_plan
from jaxdescent.cost.hedge import Hedge
from jaxdescent.cost.structure import tree_bytes
from jaxdescent.designs import as_design
from jaxdescent.designs.center import is_far_on_host
from jaxdescent.inputs.trees import check_tree
from jaxdescent.kernels import memory
from jaxdescent.kernels.platform import Known, known_of
from jaxdescent.methods import Method, as_method
from jaxdescent.numerics import precision
from jaxdescent.objectives import Objective, Params, checks
from jaxdescent.result import Result
from jaxdescent.tolerance import ResolvedTolerance, as_tolerance


class Problem(NamedTuple):
    """A complete problem, as a pytree whose leaves are data and hyper-parameters."""

    objective: Objective
    method: Method
    tolerance: ResolvedTolerance
    rounding: precision.Rounding

    def hoisted(self, params: Params) -> Problem:
        """This problem with the arrays that its functions close over as leaves.

        The hoisted arrays are all traced ones, and those of objects that may be changed.
        """
        tolerance = self.tolerance
        if tolerance.predicate is not None:
            given = self.objective.unpacked(params)  # the form that a predicate receives
            tolerance = tolerance.hoisted(given, checks.check_value(self.objective, params))
        objective = checks.settled(self.objective, params)
        if objective is self.objective:
            objective = objective.hoisted(precision.widen(params))
        return self._replace(objective=objective, method=self.method.hoisted(), tolerance=tolerance)


class FirstStage(NamedTuple):
    """A method that an eager call tries first, for at most so many iterations."""

    method: Method
    budget: int


def posed(
    objective: Objective,
    params: Params,
    method: Any,
    tolerance: Any,
    rounding: Any,
    **options: Any,
) -> tuple[Problem, Params, FirstStage | None]:
    """The checked problem, the params it starts from as arrays, and what an eager call tries first;
    or the errors that ``minimize`` documents. ``options`` are those of
    :func:`jaxdescent.cost.default_plan`.
    """
    first = None
    with processes.among("minimize", objective, params):
        objective, params = checked(objective, params)
        tolerance = as_tolerance(tolerance)
        tolerance.check()
        if method is None:
            plan = default_plan(objective, params, tolerance=tolerance, **options)
            method = plan.require().method
            if isinstance(method, Hedge):
                first, method = FirstStage(method.first, method.budget), method.then
        else:
            method = as_method(method)
        method.check()
        _refuse_too_large(objective, params, method)
        if rounding is None:
            rounding = precision.Nearest()
        if not isinstance(rounding, precision.Rounding):
            raise TypeError(
                "rounding must be jd.Nearest(), jd.StochasticRounding(seed) or None, got "
                f"{rounding!r}."
            )
        rounding.check()
        problem = Problem(objective, method, tolerance.resolved(params), rounding)
        return problem, params, first


def check_params(params: Params, name: str = "params") -> None:
    """Raise where something else stands in the place of the params, or JAX cannot take the pytree.

    Raises:
      TypeError: saying what to write.

    >>> check_params(Method)
    Traceback (most recent call last):
    TypeError: params must be arrays, got the class Method: minimize and run take a method as
    method=.
    """
    if isinstance(params, Result):
        raise TypeError(f"{name} must be arrays, got a Result: pass result.params.")
    is_method = isinstance(params, (Method, optax.GradientTransformation))
    if is_method or isinstance(params, type):
        got = as_method(params) if is_method else f"the class {params.__name__}"
        raise TypeError(
            f"{name} must be arrays, got {got}: minimize and run take a method as method=."
        )
    check_tree(name, params)


def checked(objective: Objective, params: Params) -> tuple[Objective, Params]:
    """The objective and the params as arrays, if they fit each other and are in one place."""
    objective = placement.with_automatic_axes(objective.checked())
    checks.check_leaves(objective)
    params = placement.with_automatic_axes(checks.checked_params(params, objective))
    objective.check_params(params)
    placement.check_one_placement({"params": params, "objective": objective})
    return objective, params


def known_of_descent(inputs: tuple[Params, Problem, Any]) -> Known | None:
    """The known facts about the inputs of a descent; of a regression on one CPU also whether its
    features lie far from zero, which decides between two forms of each product.
    """
    known, regression = known_of(inputs), inputs[1].objective.linear_regression
    if known is None or known.is_small or not (known.platform == "cpu" and known.is_whole):
        return known
    if regression is None or not regression.intercept:
        return known
    is_far = is_far_on_host(as_design(regression.X), regression.sample_weight)
    return known._replace(is_far=is_far)


def is_small(objective: Objective, params: Params) -> bool:
    """Whether the problem is so small that the choice of a method does not depend on memory."""
    held = tree_bytes((objective, params))
    return held + objective.stationary_solver_bytes(params) <= memory.SMALL_BYTES


def _refuse_too_large(objective: Objective, params: Params, method: Method) -> None:
    needed = method.needed_bytes(objective, params)
    if needed is None or is_small(objective, params):
        return
    available = processes.least(memory.available_bytes(placement.device_of(params)))
    if needed > available:
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        raise memory.ProblemTooLarge(
            f"the derivative method needs {memory.readable_bytes(needed)} for {size:,} unknowns, "
            f"and {memory.readable_bytes(available)} are available: iterate instead, for example "
            "with method=jd.GradientDescent(), which needs a few vectors of that length."
        )
