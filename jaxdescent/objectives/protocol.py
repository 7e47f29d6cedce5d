"""The protocol of an objective: answers by automatic differentiation unless it knows better."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.display import Displayed
from jaxdescent.kernels import dtypes
from jaxdescent.kernels.platform import on_cpu
from jaxdescent.numerics import precision
from jaxdescent.objectives.answers import Bounds, Params, Parts, RowBlocks, StationarySolver
from jaxdescent.objectives.elimination import Elimination, Means
from jaxdescent.objectives.forward import pushed

Scalars = tuple[jax.Array, ...]
PartFunction = Callable[["Objective", Params], Scalars]


class Objective(Displayed, abc.ABC):
    """A pure function from params to a scalar, with the known properties of this function.

    An objective is a pytree: its data are leaves, its functions and flags part of the structure.
    Only ``value`` must be defined; the other answers follow from it by automatic differentiation,
    and an objective that knows better overrides them. The answers down to ``hoisted`` are those
    that every part of the package asks for. All others stand below a comment with their purpose.
    """

    @abc.abstractmethod
    def value(self, params: Params) -> jax.Array:
        """The objective at ``params``: a floating-point scalar."""

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        """The value and the gradient, in one evaluation."""
        return jax.value_and_grad(self.value)(params)

    def gradient(self, params: Params) -> Params:
        """The gradient, with the structure of ``params``."""
        return self.value_and_gradient(params)[1]

    def hessian_product(self, params: Params, direction: Params) -> Params:
        """The Hessian at ``params`` times ``direction``, without forming the Hessian."""
        return pushed(self.gradient, (params,), (direction,))[1]

    def curvature(self, params: Params, direction: Params) -> jax.Array:
        """``direction . H . direction`` at ``params``; for a regression one pass over X."""
        return precision.inner(direction, self.hessian_product(params, direction))

    def start(self) -> Params | None:
        """The params where a descent starts if it is given none; None if the user must say."""
        return None

    def size(self, params: Params) -> jax.Array:
        """The norm of the params that changes of the params are compared with.

        A regression leaves out its intercept, which grows with the distance of the features from
        zero.
        """
        return precision.norm(params)

    @property
    def is_quadratic(self) -> bool:
        """Whether the gradient is affine, so that one linear solve finds where it is zero."""
        return False

    @property
    def is_separable(self) -> bool:
        """Whether the Hessian is diagonal: no unknown affects another's gradient."""
        return False

    def checked(self) -> Objective:
        """This objective with its data as JAX arrays, whose shapes and dtypes are checked.

        Raises:
          TypeError: if some data have the wrong type or dtype.
          ValueError: if some data have the wrong shape or value.
        """
        return self

    def check_params(self, params: Params) -> None:
        """Raise if ``params`` do not have the structure that this objective needs."""

    def hoisted(self, params: Params, *, always: bool = False) -> Objective:
        """This objective with the arrays that its functions close over as leaves.

        Unless ``always``, only traced arrays and those of mutable objects are hoisted.
        """
        return self

    # The arguments and params of callers, and repeated calls.

    def bound(self, args: tuple[Any, ...]) -> Objective:
        """This objective with extra arguments.

        Raises:
          TypeError: if the objective takes no extra arguments.
        """
        raise TypeError(
            f"{type(self).__name__} holds its data itself and takes no args, got {len(args)}: "
            "build it with that data instead."
        )

    def parts(self) -> Parts | None:
        """The key and data for :mod:`jaxdescent.calls.repeated`; None if calls with this objective
        are to be checked every time.
        """
        return None

    def packed(self, params: Params) -> Params:
        """The params in the form of methods, from the form of callers."""
        return params

    def unpacked(self, params: Params) -> Params:
        """The params in the form of callers, from the form of methods."""
        return params

    # The objective's own start, and the value and gradient norm there.

    def placed_start(self, start: Params) -> Params:
        """The own start, the result of :meth:`start`, with values that depend on the data.

        For a regression the intercept becomes the mean of y. The mean is computed inside the
        program, so that a call with other data of the same shapes has its own start.
        """
        return start

    def start_norm(self) -> jax.Array | None:
        """The gradient's norm at :meth:`placed_start` if the objective can compute it more cheaply
        than from the gradient, else None.
        """
        return None

    def start_value(self) -> jax.Array | None:
        """The value at the objective's own start, a scale for its values, if it costs no pass over
        the data, else None.
        """
        return None

    def rounding_beside_size(self, params: Params, share: float) -> Any:
        """The rise of the value if the unknowns that :meth:`size` leaves out have this relative
        error.
        """
        return 0.0

    # Steps and checks leaf by leaf, so that temporaries are small.

    def blocks(self, params: Params) -> list[Objective] | None:
        """Objectives ``f_k`` of single leaves, if this one is their sum: ``f = sum_k f_k(leaf_k)``.

        A descent whose steps work element by element then goes leaf by leaf, so that its
        temporaries have the size of one leaf. None if the objective is no such sum.
        """
        return None

    def sum_over_parts(self, function: PartFunction, params: Params, always: Any) -> Scalars:
        """``sum_k function(f_k, leaf_k)`` over the leaves' objectives in :meth:`blocks`.

        Without such objectives it is ``function(self, params)``. A check computes its sums through
        this, so that its temporaries are no larger than a leaf. ``always`` is a true value that XLA
        cannot know to be true: on a CPU a branch for each leaf keeps their temporaries apart.
        """
        terms = self.blocks(params)
        if terms is None:
            return function(self, params)
        leaves = jax.tree.leaves(params)
        like = jax.eval_shape(function, terms[0], leaves[0])
        zeros = tuple(jnp.zeros((), each.dtype) for each in like)
        of_leaf = jax.jit(function)  # leaves of one shape share one trace

        def apart(always: Any, *pairs: Any) -> list[Scalars]:
            return [lax.cond(always, of_leaf, lambda *_: zeros, *pair) for pair in pairs]

        def at_once(_: Any, *pairs: Any) -> list[Scalars]:
            # Sums have no temporaries, and without branches devices add all leaves' sums at once.
            return [of_leaf(*pair) for pair in pairs]

        sums = on_cpu(apart, at_once, always, *zip(terms, leaves, strict=True))
        return tuple(precision.add(list(scalars)) for scalars in zip(*sums, strict=True))

    def value_and_squared_norm(self, params: Params) -> Scalars:
        """The value and the squared norm of the gradient, which a check reads."""
        value, gradient = self.value_and_gradient(params)
        return jnp.asarray(value), precision.squared_norm(gradient)

    def gradient_step(self, params: Params, gradient: Params, rate: Any) -> Params:
        """``params - rate * gradient``, for the gradient at ``params``."""
        return jax.tree.map(lambda x, g: x - jnp.asarray(rate, x.dtype) * g, params, gradient)

    # Batches of rows.

    @property
    def row_blocks(self) -> RowBlocks | None:
        """The number and blocks of the rows that the objective is a sum over; None if it is no sum
        over rows that can be read.
        """
        return None

    def by_rows(self) -> Objective:
        """This objective with its data in a form from which :meth:`of_rows` takes batches quickly;
        its other answers may be slow.
        """
        return self

    def of_rows(self, index: jax.Array) -> Objective | None:
        """The terms of these rows, with their share of terms that belong to no row (a penalty);
        None if rows cannot be taken from the objective.
        """
        return None

    # Images, which a method carries along a line to read the data once less in each iteration.

    def image(self, direction: Params) -> Any:
        """The image of ``direction`` by the data of a quadratic objective, linear in ``direction``.

        The image is the predictions ``X d`` for a regression, and ``H d`` for a quadratic form. A
        method that carries the image of its params, and adds to it the image of each move, reads
        the data once less in each iteration. None if this would save nothing; the answers below
        then ignore the image.
        """
        return None

    def image_of_start(self, params: Params) -> Any:
        """The :meth:`image` of a start, for a regression without a pass over X if it is zero."""
        return self.image(params)

    def value_and_gradient_at(self, params: Params, image: Any) -> tuple[jax.Array, Params]:
        """The value and the gradient at ``params``, whose :meth:`image` is known."""
        return self.value_and_gradient(params)

    def curvature_along(self, params: Params, direction: Params, image: Any) -> jax.Array:
        """``direction . H . direction``, where the :meth:`image` of ``direction`` is known."""
        return self.curvature(params, direction)

    # Properties of the value and the curvature that follow from the structure.

    def residuals(self, params: Params) -> Any:
        """The residuals, an array or pytree of arrays whose squared norm is twice the value; None
        if the objective is no sum of squares.
        """
        return None

    def curvature_bounds(self, params: Params) -> Bounds | None:
        """Bounds on the Hessian's eigenvalues that follow from the structure; None if there are
        none.
        """
        return None

    def least_curvature(self) -> jax.Array | None:
        """A lower bound on the curvature along any direction, known without reading the data, or
        None.
        """
        return None

    def curves_down(self) -> jax.Array | None:
        """Whether the structure shows a direction of negative curvature, along which a method might
        never step; None if the structure shows nothing.
        """
        return None

    def lower_bound(self) -> jax.Array | None:
        """A lower bound on the objective, -infinity if the data admit none; None if no bound
        follows from the structure.
        """
        return None

    @property
    def attains_lower_bound(self) -> bool:
        """Whether the minimum equals :meth:`lower_bound`."""
        return False

    # Elimination and direct solves, and the matrices they need.

    def eliminated(self, means: Means | None = None) -> Elimination | None:
        """The problem in fewer unknowns, with the others at their optimum; None if there is no
        such form.

        ``means`` are those of an earlier elimination of the same data, which is not read again.
        """
        return None

    def stationary_solver(self, params: Params) -> StationarySolver | None:
        """A factorisation that maps params to a zero of the gradient, or None.

        Only quadratic and separable objectives have one.
        """
        return None

    def stationary_solver_bytes(self, params: Params) -> int:
        """The peak bytes of the solve for a zero gradient, from shapes alone."""
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        itemsize = max(
            dtypes.compute_dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(params)
        )
        # The Hessian, its factorisation, and LAPACK's workspace.
        return 3 * size * size * itemsize

    @property
    def linear_regression(self) -> Any:
        """The ``jd.LinearRegression`` that this objective is, whose X, y and row weights methods
        may use; None if it is not one.
        """
        return None

    @property
    def hessian_array(self) -> jax.Array | None:
        """The Hessian, if the objective stores it and its params are one vector, else None."""
        return None

    @property
    def gram_and_penalty(self) -> tuple[jax.Array, Any] | None:
        """``X'SX`` and ``l2``, if the objective stores these of a regression, else None.

        Their sum ``X'SX + l2 I`` is the Hessian for the weights of one output.
        """
        return None
