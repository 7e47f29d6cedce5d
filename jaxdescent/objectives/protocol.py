"""The questions every objective answers: by automatic differentiation unless it knows better."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from jaxdescent.display import Displayed
from jaxdescent.inputs.functions import anew
from jaxdescent.kernels import dtypes
from jaxdescent.numerics import precision
from jaxdescent.objectives.elimination import Elimination, Means

Params = Any
"""A pytree of floating-point arrays: the unknowns."""


Scalars = tuple[jax.Array, ...]
PartFunction = Callable[["Objective", Params], Scalars]


class Bounds(NamedTuple):
    """Known bounds on the eigenvalues of the Hessian, everywhere."""

    lower: jax.Array
    upper: jax.Array


class Parts(NamedTuple):
    """What tells an objective from another of its class.

    Attributes:
      kind: hashable: what its programs are compiled for besides structures and shapes.
      data: arrays whose values no check looks at.
      numbers: what is looked at by value.
    """

    kind: Any
    data: Any
    numbers: Any


class StationarySolver(Protocol):
    """A factorisation of an affine gradient's matrix: factorise once, solve and refine often.

    It is a pytree, and keeps no reference to the objective's data.
    """

    def solve(self, objective: Any, params: Params, gradient: Params) -> tuple[Params, jax.Array]:
        """Where the gradient is zero, and whether the curvature is negative somewhere there.

        ``gradient`` is the one at ``params``. Solving again from the solution refines it: the
        residual is computed from the data.
        """
        ...

    def height(
        self, objective: Any, params: Params, gradient: Params, is_solution: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """``|g.H^+ g| / 2``, how far the value at ``params`` is from the stationary one, infinite
        where that is not known; and the largest curvature, or one along a direction.

        ``is_solution`` says that ``params`` are what :meth:`solve` returned: where that is more
        accurate than the gradient, the rounding of the params is all that is left.
        """
        ...


class Objective(Displayed, abc.ABC):
    """A pure function from params to a scalar, and what is known of it.

    An objective is a pytree: its data are leaves, its functions and flags part of the structure.
    Only ``value`` must be given; the other answers follow from it by automatic differentiation,
    and an objective that knows better overrides them.
    """

    @abc.abstractmethod
    def value(self, params: Params) -> jax.Array:
        """The objective at ``params``: a floating-point scalar."""

    def checked(self) -> Objective:
        """The same objective with its data as JAX arrays, after a look at shapes and dtypes."""
        return self

    def bound(self, args: tuple[Any, ...]) -> Objective:
        """The same objective of these extra arguments.

        Raises:
          TypeError: if it takes none.
        """
        raise TypeError(
            f"{type(self).__name__} holds its data itself and takes no args, got {len(args)}: "
            "build it with that data instead."
        )

    def parts(self) -> Parts | None:
        """For :mod:`jaxdescent.calls.repeated`; None: calls with it are looked at every time."""
        return None

    def packed(self, params: Params) -> Params:
        """The params as methods have them, from the form in which callers have them."""
        return params

    def unpacked(self, params: Params) -> Params:
        """The params in the form in which callers have them, from that which methods have."""
        return params

    def check_params(self, params: Params) -> None:
        """Raise if ``params`` do not have the structure that this objective needs."""
        del params

    def hoisted(self, params: Params, *, always: bool = False) -> Objective:
        """The same objective, whose functions carry what they close over as leaves.

        Unless it is ``always`` to be so, only what is traced, and what an object holds that may be
        changed.
        """
        del params, always
        return self

    def blocks(self, params: Params) -> list[Objective] | None:
        """Objectives of the leaves alone, if this one is their sum: ``f = sum_k f_k(leaf_k)``.

        A descent whose steps work element by element then goes leaf by leaf, so that its
        temporaries are one leaf's, not the whole tree's.
        """
        del params
        return None

    def sum_over_parts(self, function: PartFunction, params: Params, always: Any) -> Scalars:
        """``sum function(objective of a part, part)`` over parts whose objectives add up to this.

        A check reads its sums through this, so that its temporaries are no larger than a part.
        ``always`` is a true value that XLA must not know to be true: a branch for each part keeps
        its temporaries apart from the others'.
        """
        blocks = self.blocks(params)
        if blocks is None:
            return function(self, params)
        leaves = jax.tree.leaves(params)
        zeros = tuple(
            jnp.zeros((), part.dtype) for part in jax.eval_shape(function, blocks[0], leaves[0])
        )
        of_part = jax.jit(function)  # parts of one shape share one trace
        parts = [
            lax.cond(always, of_part, lambda *_: zeros, block, leaf)
            for block, leaf in zip(blocks, leaves, strict=True)
        ]
        return tuple(precision.add(list(scalars)) for scalars in zip(*parts, strict=True))

    def start(self) -> Params | None:
        """Where a descent starts that is given no params; None if only the user can say."""
        return None

    def placed_start(self, start: Params) -> Params:
        """The own start as the data place it, from the one that :meth:`start` allocated.

        A regression's intercept is the mean of y there. It is computed within the program: a call
        with other data of the same shapes starts elsewhere.
        """
        return start

    def start_norm(self) -> jax.Array | None:
        """The gradient's norm at :meth:`placed_start`, where the objective knows a better way than
        to compute its gradient there, else None.
        """
        return None

    def size(self, params: Params) -> jax.Array:
        """The norm of the params that scales their changes: a regression's intercept is no part of
        it, which grows with the distance of its features from zero.
        """
        return precision.norm(params)

    def eliminated(self, means: Means | None = None) -> Elimination | None:
        """The same problem in fewer unknowns, with the others at their best; None if there is none.

        ``means`` are those of an earlier elimination of the same data: nothing is computed anew.
        """
        del means
        return None

    def value_and_gradient(self, params: Params) -> tuple[jax.Array, Params]:
        """The value and the gradient, in one evaluation."""
        return jax.value_and_grad(self.value)(params)

    def gradient(self, params: Params) -> Params:
        """The gradient, with the structure of ``params``."""
        return self.value_and_gradient(params)[1]

    def value_and_squared_norm(self, params: Params) -> Scalars:
        """The value and the squared norm of the gradient: what a check reads."""
        value, gradient = self.value_and_gradient(params)
        return jnp.asarray(value), precision.squared_norm(gradient)

    def gradient_step(self, params: Params, gradient: Params, rate: Any) -> Params:
        """``params - rate * gradient``, for the gradient at ``params``."""
        del self
        return jax.tree.map(lambda x, g: x - jnp.asarray(rate, x.dtype) * g, params, gradient)

    def hessian_product(self, params: Params, direction: Params) -> Params:
        """The Hessian at ``params`` times ``direction``, without the Hessian."""
        return jax.jvp(self.gradient, (params,), (direction,))[1]

    def curvature(self, params: Params, direction: Params) -> jax.Array:
        """``direction . H . direction``; for a regression ``|X d|^2``, one pass over X."""
        return precision.inner(direction, self.hessian_product(params, direction))

    def image(self, direction: Params) -> Any:
        """What a quadratic objective needs of its data to move along ``direction``: linear in it.

        For a regression the predictions ``X d``, for a quadratic form ``H d``. A method that
        carries the image of its params and adds the image of each move reads the data once less
        an iteration. None where nothing is gained: the methods below then do without.
        """
        del direction
        return None

    def image_of_start(self, params: Params) -> Any:
        """:meth:`image` of a start; of zeros, the usual start, without a pass over the data."""
        is_zero = jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in jax.tree.leaves(params)]))
        shapes = jax.eval_shape(anew(self.image), params)

        def zeros(_: Params) -> Any:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        return lax.cond(is_zero, zeros, self.image, params)

    def value_and_gradient_at(self, params: Params, image: Any) -> tuple[jax.Array, Params]:
        """The value and the gradient at ``params``, whose :meth:`image` is known."""
        del image
        return self.value_and_gradient(params)

    def curvature_along(self, params: Params, direction: Params, image: Any) -> jax.Array:
        """``direction . H . direction``, where the :meth:`image` of ``direction`` is known."""
        del image
        return self.curvature(params, direction)

    def residuals(self, params: Params) -> Any:
        """An array or pytree of arrays, half whose squared norm is the value; None if it is no sum
        of squares.
        """
        del params
        return None

    def curvature_bounds(self, params: Params) -> Bounds | None:
        """Bounds on the Hessian's eigenvalues that follow from the structure, or None."""
        del params
        return None

    def curves_down(self) -> jax.Array | None:
        """Whether the structure tells of a direction of negative curvature, which a method that
        never looks along it would not meet; None where it tells of none.
        """
        return None

    def start_value(self) -> jax.Array | None:
        """The value at the objective's own start, which is the scale of its values, where it costs
        no pass over the data; None elsewhere.
        """
        return None

    def least_curvature(self) -> jax.Array | None:
        """A curvature that no direction is below anywhere, known without a look at the data."""
        return None

    def lower_bound(self) -> jax.Array | None:
        """A number that no value is below, -infinity where there turns out to be none; None where
        the structure tells of none.
        """
        return None

    @property
    def attains_lower_bound(self) -> bool:
        """Whether the minimum is :meth:`lower_bound` itself."""
        return False

    @property
    def linear_regression(self) -> Any:
        """The ``jd.LinearRegression`` that this is, whose X, y and weights of rows may be asked
        for; None of what is none.
        """
        return None

    @property
    def hessian_array(self) -> jax.Array | None:
        """The Hessian for the params as one column, where the objective's data are that matrix."""
        return None

    @property
    def gram_and_penalty(self) -> tuple[jax.Array, Any] | None:
        """``X'SX`` and ``l2``, whose sum is the Hessian for an output's weights, where that is what
        the objective keeps of a regression; else None.
        """
        return None

    @property
    def is_separable(self) -> bool:
        """Whether the Hessian is diagonal: no unknown influences another's gradient."""
        return False

    @property
    def is_quadratic(self) -> bool:
        """Whether the gradient is affine, so that one solve finds where it is zero."""
        return False

    def stationary_solver(self, params: Params) -> StationarySolver | None:
        """A factorisation that maps params to a zero of the gradient, or None.

        Only quadratic and separable objectives have one.
        """
        del params
        return None

    def stationary_solver_bytes(self, params: Params) -> int:
        """Peak bytes that setting the gradient to zero and solving needs, from shapes alone."""
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        itemsize = max(
            dtypes.compute_dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(params)
        )
        # The Hessian, its factorisation, and LAPACK's workspace.
        return 3 * size * size * itemsize
