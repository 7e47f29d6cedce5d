"""Mini-batch descent: a step for some rows at a time, and a pass over all rows after each epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdescent.display import argument
from jaxdescent.inputs.numbers import check_count, check_seed
from jaxdescent.kernels.platform import kept_apart
from jaxdescent.methods.batch_steps import (
    BatchLook,
    Scaling,
    accepted,
    batch_rows,
    order_of,
    scaled_step,
    scaling_of,
    steps_of,
)
from jaxdescent.methods.intercept import GivenIntercept
from jaxdescent.methods.optax_method import as_method
from jaxdescent.methods.protocol import LookingAhead, Params, State, StepReport, progress_at
from jaxdescent.numerics import randomness
from jaxdescent.objectives import Objective, RowBlocks
from jaxdescent.objectives.elimination import Means, eliminated, weights_alone

READ_NUMBERS = 1 << 18
"""About how many numbers are gathered at a time: the rows of many batches, which fit a cache. To
read files for each batch alone takes ten times as long."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MiniBatches(LookingAhead):
    """Steps along the gradients of batches of rows, in an order that is shuffled in each epoch.

    An iteration of the descent is ``epochs`` epochs, in each of which every row is used once, and
    one pass over all rows that computes value and gradient for the checks. So status and
    suboptimality are those of the whole objective, never of a batch. For rows that are read from
    files (``jd.Streamed``) an epoch is one pass. Rows are shuffled within blocks; blocks are
    shuffled if reading can begin anywhere: in arrays, ``.npy`` files, and at row groups of Parquet
    files. Blocks of other sources keep their order: shuffle such a source once if it is sorted by
    the target or by time. The order follows from the seed and the number of the epoch alone.

    A batch's gradient is scaled to be that of all rows in expectation. Without an optax
    transformation, a least-squares problem is iterated with its intercept eliminated and its
    columns scaled to a mean square of one, by steps of::

        1/2 / (lambda + trace / batch)

    where lambda is the largest eigenvalue of the scaled mean Hessian, estimated from some rows:
    half of the largest stable step for Gaussian rows. No step goes beyond the minimum of its batch
    along the gradient. The params of an iteration are the average of the iterates in the second
    half of its steps, and the next one begins there. With the batches' own gradients the iterates
    fluctuate around the minimum, and the value at their average is above it by about the error of
    the fit itself. So from the second iteration on a batch gives only the change of the gradient
    since the last pass over all rows, at ``w_all`` (variance reduction)::

        gradient = X_b' X_b (w - w_all) * rows / batch + gradient of all rows at w_all

    The noise vanishes with ``w - w_all``, and the value converges to the minimum at a linear rate.
    An iteration that ends higher than it began is rejected, and the next steps are a quarter as
    long.

    With a transformation each step uses its batch's own gradient, and the params are the average of
    the iterates since the last epoch whose number is a power of two.

    Args:
      transformation: an optax transformation for params and learning rates of your own; its
        schedules count batches. None stands for the rule above.
      rows: the number of rows in a batch. None stands for the number of unknowns, from 64 to 1,024.
        If most features of a row are zero, the upper bound is larger, because a step costs a pass
        over vectors of all features: as many rows as touch each feature about once, but at most a
        64th of all rows (or as many as touch a 16th of the features), and at most a block.
      epochs: the number of epochs between two passes over all rows.
      seed: the seed of the order.
      averaging: whether the params are averages.

    Raises:
      TypeError: if the objective has no rows that can be read, such as a function, or the
        transformation is none.
      ValueError: if a count is not at least 1.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jnp.sin(jnp.arange(2000.0).reshape(-1, 2) ** 2)
    >>> regression = jd.LinearRegression(X, X @ jnp.array([2.0, -3.0]) + 1)
    >>> result = jd.minimize(regression, method=jd.MiniBatches(), max_iterations=20)
    >>> bool(abs(result.params["weights"] - jnp.array([2.0, -3.0])).max() < 1e-2)
    True

    References: Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging";
    Bach and Moulines (2013), "Non-strongly-convex smooth stochastic approximation with convergence
    rate O(1/n)"; Jain et al. (2018), "Parallelizing stochastic gradient descent for least squares
    regression: mini-batching, averaging, and model misspecification"; Johnson and Zhang (2013),
    "Accelerating stochastic gradient descent using predictive variance reduction".
    """

    transformation: Any = None
    rows: int | None = dataclasses.field(default=None, kw_only=True, metadata={"static": True})
    epochs: int = dataclasses.field(default=1, kw_only=True, metadata={"static": True})
    seed: Any = dataclasses.field(default=0, kw_only=True)
    averaging: bool = dataclasses.field(default=True, kw_only=True, metadata={"static": True})

    def __post_init__(self) -> None:
        if isinstance(self.transformation, optax.GradientTransformation):
            held = as_method(self.transformation)
            object.__setattr__(self, "transformation", held)

    def _arguments(self) -> list[str]:
        texts = super()._arguments()
        if self.transformation is None:
            return texts
        return [*self.transformation._arguments(), *texts[1:]]

    def check(self) -> None:
        if self.rows is not None:
            check_count("MiniBatches.rows", self.rows)
        check_count("MiniBatches.epochs", self.epochs)
        check_seed("MiniBatches.seed", self.seed)
        if self.transformation is not None and not hasattr(self.transformation, "transformation"):
            raise TypeError(
                "MiniBatches takes an optax transformation or None, got "
                f"{argument(self.transformation)}: for example optax.adam(1e-3)."
            )

    def init(self, objective: Objective, params: Params) -> State:
        blocks, zero = self._blocks(objective), jnp.zeros((), jnp.int32)
        if self.transformation is not None:
            rule = self.transformation.init(objective, params)
            return _State(params, params, zero, zero, None, None, None, None, rule)
        if objective.linear_regression is None:
            raise TypeError(
                "MiniBatches() chooses its steps for a jd.LinearRegression; for "
                f"{type(objective).__name__} pass an optax transformation, for example "
                "jd.MiniBatches(optax.adam(1e-3))."
            )
        objective, inner, means = eliminated(objective, params)
        scaling = scaling_of(objective, inner, self._batch(params, blocks))
        look = BatchLook(*objective.value_and_gradient(inner))
        given = None if means is None else GivenIntercept.at(params, means, *look)
        return _State(inner, inner, zero, zero, means, given, scaling, look, None)

    def blind_step(
        self, objective: Objective, params: Params, state: State
    ) -> tuple[Params, State]:
        inner, weights = weights_alone(objective, params, state.means)
        size = self._batch(params, self._blocks(objective))
        if state.look is not None:
            # Steps begin at the params of the last pass; the second half of them is averaged.
            steps = self.epochs * steps_of(self._blocks(objective), size)
            before = jnp.full_like(state.averaged, -(steps // 2))
            state = state._replace(current=weights, average=weights, averaged=before)
        anchor, is_known = state.current, state.epoch > 0
        by_rows = inner if size >= self._blocks(objective).rows else inner.by_rows()

        def epoch(_: Any, state: _State) -> _State:
            if state.look is None:
                # The average begins anew where the epoch's number is a power of two.
                begins = (state.epoch & (state.epoch - 1)) == 0
                state = state._replace(averaged=jnp.where(begins, 0, state.averaged))
            state = self._epoch(by_rows, state, size, (anchor, is_known))
            return state._replace(epoch=state.epoch + 1)

        state = lax.fori_loop(0, self.epochs, epoch, state)
        new = state.average if self.averaging else state.current
        if state.look is not None:
            assert state.scaling is not None
            ways = (new, BatchLook(*inner.value_and_gradient(new))), (anchor, state.look)
            new, look, scaling = accepted(*ways, state.scaling, is_known)
            given = None if state.given is None else state.given.after_step()
            state = state._replace(given=given, look=look, scaling=scaling)
        return new if state.means is None else state.means.with_intercept(new["weights"]), state

    def progress(self, objective: Objective, params: Params, state: State) -> StepReport:
        if state.look is None:
            return super().progress(objective, params, state)
        progress = progress_at(*state.look)
        return progress if state.given is None else state.given.of(progress)

    def after_rounding(self, objective: Objective, params: Params, state: State) -> State:
        if state.look is None:
            return state
        inner, weights = weights_alone(objective, params, state.means)
        return state._replace(look=BatchLook(*inner.value_and_gradient(weights)))

    def _batch(self, params: Params, blocks: RowBlocks) -> int:
        if self.rows is not None:
            return min(self.rows, blocks.rows)
        unknowns = sum(leaf.size for leaf in jax.tree.leaves(params))
        features = max(leaf.shape[0] for leaf in jax.tree.leaves(params) if leaf.ndim)
        return batch_rows(unknowns, features, blocks)

    def _blocks(self, objective: Objective) -> RowBlocks:
        blocks = objective.row_blocks
        if blocks is None:
            raise TypeError(
                f"MiniBatches needs rows that can be read, and {type(objective).__name__} has "
                "none: take a regression whose X is an array or a design other than jd.MatrixFree."
            )
        return blocks

    def _epoch(
        self, objective: Objective, state: _State, size: int, known: tuple[Params, jax.Array]
    ) -> _State:
        """The state after an epoch: a step with each batch, so that every row is used once.

        ``known`` is the point of the last pass over all rows, and whether steps use the gradient of
        all rows at this point.
        """
        total, block, _, sections = self._blocks(objective)
        if size >= total:
            at = state.current
            return self._moved(state, objective.gradient(at), lambda d: objective.curvature(at, d))

        features = max(leaf.shape[0] for leaf in jax.tree.leaves(state.current) if leaf.ndim)
        group = min(size * max(READ_NUMBERS // (size * features), 1), block)

        def moved(state: _State, rows: Objective) -> _State:
            at, count = state.current, self._blocks(rows).rows

            def plain(params: Params) -> Params:
                return jax.tree.map(lambda leaf: leaf * (total / size), rows.gradient(params))

            def reduced(params: Params) -> Params:
                # The gradient of all rows at the anchor, and its change from there in this batch.
                assert state.look is not None  # it is None only with a transformation
                way = jax.tree.map(jnp.subtract, params, known[0])
                return jax.tree.map(
                    lambda change, whole: change * (total / size) + whole * (count / size),
                    rows.hessian_product(params, way),
                    state.look.gradient,
                )

            gradient = plain(at) if state.look is None else lax.cond(known[1], reduced, plain, at)
            return self._moved(state, gradient, lambda d: rows.curvature(at, d) * (total / count))

        def of_group(state: _State, index: jax.Array) -> _State:
            # The barrier makes reading wait for the steps with earlier rows, so that files are read
            # in the order of the blocks.
            index, current = kept_apart((index, state.current))
            state, read = state._replace(current=current), objective.of_rows(index)
            assert read is not None  # because there are blocks of rows
            if index.shape[0] <= size:
                return moved(state, read)

            def of_batch(state: _State, places: jax.Array) -> _State:
                rows = read.of_rows(places)
                assert rows is not None  # they are in memory
                return moved(state, rows)

            return _in_parts(of_batch, state, jnp.arange(index.shape[0], dtype=jnp.int32), size)

        def of_block(state: _State, first: Any, length: int) -> _State:
            word = randomness.fold(self.seed, state.epoch, first)
            order = jnp.argsort(randomness.bits((length,), word)).astype(jnp.int32) + first
            return _in_parts(of_group, state, order, group)

        count, rest = -(-total // block), total % block
        order = order_of(count, sections, randomness.fold(self.seed, state.epoch, -1))

        def visit(turn: Any, state: _State) -> _State:
            first = order[turn] * jnp.int32(block)
            if not rest:
                return of_block(state, first, block)
            # The last block in the files, which may come at any turn, is shorter.
            return lax.cond(
                first + block > total,
                lambda state: of_block(state, first, rest),
                lambda state: of_block(state, first, block),
                state,
            )

        if count == 1:
            return of_block(state, jnp.int32(0), total)
        return lax.fori_loop(0, count, visit, state)

    def _moved(
        self, state: _State, gradient: Params, curvature: Callable[[Params], jax.Array]
    ) -> _State:
        """The state after a step along a gradient, with the iterate in its average."""
        rule = state.rule
        if state.scaling is None:
            update = optax.with_extra_args_support(self.transformation.transformation).update
            updates, rule = update(gradient, rule, state.current, grad=gradient)
            new = optax.apply_updates(state.current, updates)
        else:
            new = scaled_step(state.scaling, state.current, gradient, curvature)
        count = state.averaged + 1
        terms = jnp.maximum(count, 1)
        average = jax.tree.map(
            lambda mean, x: mean + (x - mean) / terms.astype(x.dtype), state.average, new
        )
        return state._replace(current=new, average=average, averaged=count, rule=rule)


def _in_parts(
    step: Callable[[_State, jax.Array], _State], state: _State, numbers: jax.Array, size: int
) -> _State:
    """The state after a step with every ``size`` numbers in their order, and one with the rest."""
    whole = numbers.size // size * size
    if whole:
        parts = numbers[:whole].reshape(-1, size)
        state, _ = lax.scan(lambda state, part: (step(state, part), None), state, parts)
    return step(state, numbers[whole:]) if whole < numbers.size else state


class _State(NamedTuple):
    current: Params
    average: Params
    averaged: jax.Array  # the number of iterates in the average; negative before it begins
    epoch: jax.Array
    means: Means | None  # the means of a regression with an intercept, which is eliminated
    given: GivenIntercept | None  # for means
    scaling: Scaling | None
    look: BatchLook | None  # value and gradient of all rows; None with a transformation
    rule: Any  # the transformation's state
