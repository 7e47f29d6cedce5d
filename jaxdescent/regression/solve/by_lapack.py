"""The direct solve of a stored regression of some megabytes by NumPy, on the host and in float64.

XLA for CPUs would compile some hundred kernels for the same factorisations. Float32 data lose
nothing by the normal equations in float64, because products of two float32 numbers are exact there.
For float64 data the triangle comes from QR, and the residual is computed in double length, until a
step changes no digit any more (:mod:`jaxdescent.regression.solve.refinement` has the formula).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxdescent.designs import Design
from jaxdescent.kernels.double_length import Double, double
from jaxdescent.regression.solve.factor import is_uneven, null_level
from jaxdescent.regression.solve.lapack_factor import Inverse, factorised, may_lose_a_penalty
from jaxdescent.regression.solve.refinement import (
    DOUBLE_ENTRIES,
    MAX_REFINEMENTS,
    SMALL,
    advanced,
    is_negligible,
    slope_in_double_length,
)
from jaxdescent.regression.solve.stored_regression import StoredRegression

MOST_BYTES, MOST_COPIED_BYTES, MOST_PRODUCTS, MOST_OUTPUTS = 1 << 25, 1 << 23, 1 << 30, 64
"""The most bytes of a tall X in float32; of a tall X in float64, which is copied, or of two times a
wide one; the most products of the Gram matrix and its factors; and the most targets for each row,
for which LAPACK takes some milliseconds. XLA would compile for seconds. Where columns of float64
are nearly equal, a look at the solution takes ten times as long."""

QUICK_ENTRIES, QUICK_SIDE, LARGER = 1 << 18, 64, 4
"""The most entries of X or of the targets, and the largest smaller side of X, for which the minimum
or the singular values of X take a millisecond or two; and the factor on both for a method without
an estimate of its own, whose many steps take longer: singular values then take 5 to 50 ms."""

MOST_LOOKED_AT = LARGER * QUICK_SIDE
"""The most features of a wide X whose singular values are looked at."""

AT_ONCE = 1 << 14
"""The most products of entries of X and outputs that are computed at a time in double length, so
that they stay in the cache."""

Array = np.ndarray


def is_possible(design: Design, outputs: int, *, is_seldom: bool = False) -> bool:
    """Whether X lies on one device, and is small enough."""
    size = *design.shape, outputs, jnp.dtype(design.dtype).itemsize
    return is_small(*size, is_seldom=is_seldom) and is_in_memory(design) and bool(design.is_whole)


def is_in_memory(design: Design) -> bool:
    """Whether all entries of X, or all that are not zero, are in memory."""
    readings = [each.reading for each in design.side_by_side if not each.is_stored]
    return all(own.bytes and not own.held_bytes for own in readings)


def is_small(
    rows: int, features: int, outputs: int, itemsize: int, *, is_seldom: bool = False
) -> bool:
    """Whether NumPy solves a regression of this size in some milliseconds; where the solve is
    needed seldom, in half a second, and a wide X may be as large as a tall one.
    """
    # NumPy passes over a wide X, the targets and the weights more often than over a tall X.
    side, most = min(rows, features), MOST_COPIED_BYTES
    numbers = max(rows * features, 2 * (rows + features) * outputs)
    if rows < features and not (is_seldom and itemsize <= 4):
        numbers = max(2 * rows * features, numbers)
    elif itemsize <= 4:  # 16 bits become 32
        itemsize, most = 4, MOST_BYTES
    is_within = numbers * itemsize <= most and outputs <= MOST_OUTPUTS
    most = MOST_PRODUCTS * (LARGER if is_seldom else 1)
    return is_within and rows * features * side + 3 * side**3 <= most


def is_quick(rows: int, features: int, outputs: int, *, estimates: bool) -> bool:
    """Whether a look at a claim by singular values costs little beside the descent, of a method
    that ``estimates`` the suboptimality itself or not.
    """
    times, side = 1 if estimates else LARGER, min(rows, features)
    is_within = (rows + features) * max(side, outputs) <= times * QUICK_ENTRIES
    return is_within and side <= times * QUICK_SIDE and outputs <= MOST_OUTPUTS


@dataclasses.dataclass(frozen=True)
class Minimiser:
    """The minimiser, and how far the value at other params is above the minimum. X and y are in
    units, powers of two in which no square overflows.
    """

    regression: StoredRegression
    units: tuple[float, float]  # of X and of y
    exact: Double  # the weights of the minimiser in units, (features, outputs)
    offset: Double  # the intercept of the minimiser, (outputs,), zeros without an intercept
    factor: Inverse  # of the normal matrix; of several solves one, with the verdicts on all
    uncertainty: float  # by how much the value at the minimiser may be above the minimum, in units
    is_whole: bool  # whether no direction was taken for rounding: the minimum is exact then

    @property
    def weights(self) -> Array:
        """The minimiser in float64, (features, outputs)."""
        return self.exact.high / self.ratio

    @property
    def intercept(self) -> Array:
        """The intercept of the minimiser in float64, (outputs,)."""
        return self.offset.high * self.units[1]

    @property
    def curvature(self) -> float:
        """The largest second derivative in an unknown."""
        diagonal = self.regression.squares[:, None] + self.regression.l2
        return float(np.max(np.abs(diagonal))) * self.units[0] ** 2

    @property
    def rounding(self) -> float:
        """By how much the value at the minimiser may be above the minimum."""
        return self.uncertainty * self.units[1] ** 2

    def height(self, weights: Array, offset: Array) -> float:
        """The value at these params minus the minimum."""
        own, unit = self.regression, self.units[1]
        moved = (weights * self.ratio - self.exact.high) - self.exact.low
        if self.factor.triangle is None:
            image = own.product(moved, is_centred=True)
            squares = np.sum(np.square(image, out=image)) + np.sum(own.l2 * np.square(moved))
        else:
            squares = np.sum(np.square(self.factor.triangle @ moved))
        if own.intercept:
            shift = (offset / unit - self.offset.high) - self.offset.low + own.mean @ moved
            squares = squares + own.total * np.sum(np.square(shift))
        return (0.5 * float(squares) + self.uncertainty) * unit**2

    @property
    def ratio(self) -> float:
        """The factor from weights to weights in units."""
        return self.units[0] / self.units[1]


def solve(regression: StoredRegression) -> Minimiser:
    """The minimiser; if there are several, the one of least norm, in units of the columns' lengths
    if these differ much.
    """
    is_long = regression.digits == np.float64  # squares of other numbers are in float64's range
    unit, other = _unit(regression.X) if is_long else 1.0, _unit(regression.y)
    if (unit, other) != (1.0, 1.0):
        X, y, l2 = regression.X / unit, regression.y / other, regression.l2 / unit**2
        regression = dataclasses.replace(regression, X=X, y=y, l2=l2)
    meets_all = regression.most_rank <= regression.X.shape[1] and not regression.l2.any()
    if meets_all and regression.share.min() < regression.share.max():
        # The weights of rows whose targets are met change nothing, but light rows would be lost.
        even = dataclasses.replace(regression, share=np.sign(regression.share))
        found = _by_one_factor(even, (unit, other))
        if found.is_whole:
            uncertainty = found.uncertainty * float(np.max(regression.share))
            factor = found.factor._replace(triangle=None)
            own = {"regression": regression, "factor": factor, "uncertainty": uncertainty}
            return dataclasses.replace(found, **own)
    if may_lose_a_penalty(regression):
        # By features the penalty has its place beside each column, and by rows none is divided by
        # rounding: which one is nearer to the minimum depends on the columns.
        both = (_by_one_factor(regression, (unit, other), by_rows=way) for way in (True, False))
        return _lower(*both)
    rows, features = regression.X.shape
    level = null_level(regression.digits, features)
    is_tall_and_uneven = rows >= features and is_uneven(np.sqrt(regression.squares), level, np)
    if regression.l2.size == 1 or not is_tall_and_uneven:
        return _by_one_factor(regression, (unit, other))
    # In one scale a long column hides short ones; several penalties have no factor in another.
    shape = features, regression.y.shape[1]
    exact, offset, found = _zeros(shape), _zeros(shape[1:]), None
    for penalty in np.unique(regression.l2):
        own = regression.l2 == penalty
        part = _by_one_factor(regression.of_outputs(own), (unit, other))
        for into, of in ((exact, part.exact), (offset, part.offset)):
            into.high[..., own], into.low[..., own] = of
        uncertainty = part.uncertainty + (found.uncertainty if found else 0.0)
        found = dataclasses.replace(_beside(part, found), uncertainty=uncertainty)
    assert found is not None  # there is at least one output
    return dataclasses.replace(found, regression=regression, exact=exact, offset=offset)


def _beside(first: Minimiser, second: Minimiser | None) -> Minimiser:
    """The first minimiser with the verdicts on both, and without a triangle."""
    factors = [each.factor for each in (first, second) if each is not None]
    factor = factors[0]._replace(
        triangle=None,
        curves_down=any(each.curves_down for each in factors),
        hides=any(each.hides for each in factors),
    )
    is_whole = first.is_whole and (second is None or second.is_whole)
    return dataclasses.replace(first, factor=factor, is_whole=is_whole)


def _lower(first: Minimiser, second: Minimiser) -> Minimiser:
    """Of each output the minimiser with the lower value."""
    own = first.regression

    def values(of: Minimiser) -> Array:
        residual, _ = own.residual(of.exact.high, of.offset.high)
        squares = own.sums(np.square(residual, out=residual))
        return squares + np.sum(own.l2 * np.square(of.exact.high), axis=0)

    is_first = values(first) <= values(second)
    parts = zip((first.exact, first.offset), (second.exact, second.offset), strict=True)
    exact, offset = (
        Double(*(np.where(is_first, a, b) for a, b in zip(*pair, strict=True))) for pair in parts
    )
    uncertainty = max(first.uncertainty, second.uncertainty)
    taken = {"exact": exact, "offset": offset, "uncertainty": uncertainty}
    return dataclasses.replace(_beside(first, second), **taken)


def _by_one_factor(
    regression: StoredRegression, units: tuple[float, float], *, by_rows: bool = True
) -> Minimiser:
    factor = factorised(regression, by_rows=by_rows)
    exact, offset, uncertainty = _refined(regression, factor)
    features = regression.X.shape[1]
    is_whole = factor.basis.shape[1] >= min(regression.most_rank, features)
    return Minimiser(regression, units, exact, offset, factor, uncertainty, is_whole)


def _zeros(shape: tuple[int, ...]) -> Double:
    return Double(np.zeros(shape), np.zeros(shape))


def _unit(array: Array) -> float:
    """One, or a power of two near the largest number if its square is far from the range's middle.

    The squares of all float32 numbers are in the range of float64.
    """
    peak = float(np.maximum(np.max(array), -np.min(array)))
    is_ordinary = 2.0**-200 < peak < 2.0**200 or not 0 < peak < np.inf
    return 1.0 if is_ordinary else 2.0 ** float(np.floor(np.log2(peak)))


def _refined(regression: StoredRegression, factor: Inverse) -> tuple[Double, Double, float]:
    """Weights and intercept after steps ``w <- w + Q gain Q' (X'S r - l2 w)`` with the residual
    ``r = y - X w - b``, and by how much the last step lowered the value.
    """
    shape = regression.X.shape[1], regression.y.shape[1]
    entries = regression.X.size
    is_doubtful = factor.is_ill or entries * shape[0] <= SMALL
    is_doubtful &= regression.digits == np.float64
    is_long = is_doubtful and entries * shape[1] <= DOUBLE_ENTRIES
    # Products with X itself would multiply the error by the condition number once more.
    AQ = regression.centred @ factor.basis if is_doubtful and not is_long else None
    weights, energy = _zeros(shape), np.inf
    offset = Double(regression.target_mean, np.zeros(shape[1]))
    for _ in range(MAX_REFINEMENTS):
        at = regression, weights, offset, factor
        rotated, sums = _turned_in_double_length(*at) if is_long else _turned(*at, AQ)
        step = factor.turned_back(regression, factor.gain * rotated)
        shift = sums / regression.total if regression.intercept else np.zeros(shape[1])
        last, energy = energy, 0.5 * float(np.sum(factor.gain * np.square(rotated)))
        energy += 0.5 * regression.total * float(np.sum(np.square(shift)))
        if not energy < last / 4:
            return weights, offset, min(last, energy)
        shift = shift - regression.mean @ step
        weights, offset = advanced(weights, step), advanced(offset, shift)
        pairs = (step, weights), (shift, offset)
        if all(is_negligible(*pair, regression.digits) for pair in pairs):
            break
    return weights, offset, energy


def _turned(
    regression: StoredRegression, weights: Double, offset: Double, factor: Inverse, AQ: Array | None
) -> tuple[Array, Array]:
    """``Q' (A'D r - l2 w)`` and the sums of ``S r``, for ``r = y - X w - b``, by the
    product of A and Q, if it is given.
    """
    if factor.kernel is not None:
        # In the space of the rows ``A w`` takes the only pass over X.
        image = regression.product(weights.high, is_centred=True)
        targets = regression.weighed(regression.centred_targets, np.sqrt)
        slope = factor.kernel @ (targets - image) - regression.l2 * image
        moved = regression.target_mean - offset.high - regression.mean @ weights.high
        return factor.basis.T @ slope, regression.total * moved
    residual, pulled = regression.residual(weights.high, offset.high)
    sums = regression.sums(residual)
    penalty = regression.l2 * weights.high
    if AQ is not None:
        return AQ.T @ regression.weighed(residual, np.sqrt) - factor.basis.T @ penalty, sums
    slope = pulled - penalty - np.outer(regression.mean, sums)
    return factor.basis.T @ slope, sums


def _turned_in_double_length(
    regression: StoredRegression, weights: Double, offset: Double, factor: Inverse
) -> tuple[Array, Array]:
    """As :func:`_turned`, with the residual and the sums over rows in double length."""
    outputs = regression.y.shape[1]
    l2 = np.broadcast_to(regression.l2, outputs)
    at_once = max(AT_ONCE // regression.X.size, 1)

    def of_some(own: slice) -> tuple[Array, Array]:
        at = [Double(part.high[..., own], part.low[..., own]) for part in (weights, offset)]
        targets = double(regression.y[:, own])
        rest = {"l2": l2[own], "sample_weight": regression.share}
        return slope_in_double_length(regression.X, targets, *at, **rest)

    every = (slice(start, start + at_once) for start in range(0, outputs, at_once))
    slopes, sums = zip(*map(of_some, every), strict=True)
    slope, total = np.concatenate(slopes, axis=1), np.concatenate(sums)
    return factor.basis.T @ (slope - np.outer(regression.mean, total)), total
