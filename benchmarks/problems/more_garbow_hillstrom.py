"""The sums of squares of Moré, Garbow and Hillstrom that :mod:`classical` does not have.

Each function returns residuals, and the sum of their squares is what is minimised. "MGH k" is the
k-th problem of Moré, Garbow and Hillstrom (1981), "Testing unconstrained optimization software",
ACM Transactions on Mathematical Software 7, 17-41, which has the formulas, the starts and the
minima to six digits. Digits beyond those are from a minimisation with SciPy in float64.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from benchmarks.problems.classical import Problem, squares


def freudenstein_roth(x):
    """MGH 2 has ``x1 + ((5 - x2) x2 - 2) x2 - 13`` and ``x1 + ((x2 + 1) x2 - 14) x2 - 29``.

    Zero at (5, 4); most descents end in the other minimum, 48.98425 at (11.41, -0.8968).
    """
    a, b = x
    return jnp.stack([a + ((5 - b) * b - 2) * b - 13, a + ((b + 1) * b - 14) * b - 29])


def powell_badly_scaled(x):
    """MGH 3 has ``1e4 x1 x2 - 1`` and ``exp(-x1) + exp(-x2) - 1.0001``."""
    a, b = x
    return jnp.stack([1e4 * a * b - 1, jnp.exp(-a) + jnp.exp(-b) - 1.0001])


def brown_badly_scaled(x):
    """MGH 4 has ``x1 - 1e6``, ``x2 - 2e-6`` and ``x1 x2 - 2``."""
    a, b = x
    return jnp.stack([a - 1e6, b - 2e-6, a * b - 2])


def jennrich_sampson(x):
    """MGH 6 has ``2 + 2 i - exp(i x1) - exp(i x2)`` for i = 1..10."""
    i = _counts(10, x)
    return 2 + 2 * i - jnp.exp(i * x[0]) - jnp.exp(i * x[1])


def bard(x):
    """MGH 8 has ``y_i - x1 - u / (v x2 + w x3)`` with u = i, v = 16 - i, w = min(u, v)."""
    u = np.arange(1, 16)
    v = 16 - u
    u, v, w, y = (jnp.asarray(each, x.dtype) for each in (u, v, np.minimum(u, v), BARD))
    return y - x[0] - u / (v * x[1] + w * x[2])


def gaussian(x):
    """MGH 9 has ``x1 exp(-x2 (t_i - x3)^2 / 2) - y_i`` with t_i = (8 - i) / 2 for i = 1..15."""
    t = (8 - _counts(15, x)) / 2
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - jnp.asarray(GAUSSIAN, x.dtype)


def meyer(x):
    """MGH 10 has ``x1 exp(x2 / (t_i + x3)) - y_i`` with t_i = 45 + 5 i for i = 1..16."""
    t = 45 + 5 * _counts(16, x)
    return x[0] * jnp.exp(x[1] / (t + x[2])) - jnp.asarray(MEYER, x.dtype)


def gulf(x):
    """MGH 11 has ``exp(-|y_i - x2|^x3 / x1) - t_i`` with t_i = i / 100 for i = 1..99.

    There ``y_i = 25 + (-50 log t_i)^(2/3)``. The paper prints ``y_i m i x2`` for ``y_i - x2``.
    """
    t = np.arange(1, 100) / 100
    y = jnp.asarray(25 + (-50 * np.log(t)) ** (2 / 3), x.dtype)
    return jnp.exp(-(jnp.abs(y - x[1]) ** x[2]) / x[0]) - jnp.asarray(t, x.dtype)


def box(x):
    """MGH 12 has ``exp(-t x1) - exp(-t x2) - x3 (exp(-t) - exp(-10 t))``, t = i / 10, i = 1..10."""
    t = _counts(10, x) / 10
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (jnp.exp(-t) - jnp.exp(-10 * t))


def kowalik_osborne(x):
    """MGH 15 has ``y_i - x1 (u_i^2 + u_i x2) / (u_i^2 + u_i x3 + x4)`` for i = 1..11."""
    y, u = jnp.asarray(KOWALIK_Y, x.dtype), jnp.asarray(KOWALIK_U, x.dtype)
    return y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def brown_dennis(x):
    """MGH 16 has ``(x1 + t x2 - exp t)^2 + (x3 + x4 sin t - cos t)^2``, t = i / 5, i = 1..20."""
    t = _counts(20, x) / 5
    growth = x[0] + t * x[1] - jnp.exp(t)
    return growth**2 + (x[2] + x[3] * jnp.sin(t) - jnp.cos(t)) ** 2


def osborne_1(x):
    """MGH 17 has ``y_i - x1 - x2 exp(-t x4) - x3 exp(-t x5)`` with t = 10 (i - 1), i = 1..33."""
    t = 10 * (_counts(33, x) - 1)
    model = x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4])
    return jnp.asarray(OSBORNE_1, x.dtype) - model


def biggs_exp6(x):
    """MGH 18 has ``x3 exp(-t x1) - x4 exp(-t x2) + x6 exp(-t x5) - y_i``, t = i / 10, i = 1..13.

    There ``y_i = exp(-t) - 5 exp(-10 t) + 3 exp(-4 t)``. Zero at (1, 10, 1, 5, 4, 3), and a local
    minimum of 5.65565e-3.
    """
    t = _counts(13, x) / 10
    y = jnp.exp(-t) - 5 * jnp.exp(-10 * t) + 3 * jnp.exp(-4 * t)
    first = x[2] * jnp.exp(-t * x[0]) - x[3] * jnp.exp(-t * x[1])
    return first + x[5] * jnp.exp(-t * x[4]) - y


def osborne_2(x):
    """MGH 19 has ``y_i`` less an exponential and three bells in t = (i - 1) / 10, i = 1..65.

    These are ``x1 exp(-t x5)`` and ``x_k exp(-(t - x_{k+7})^2 x_{k+4})`` for k = 2, 3, 4.
    """
    t = (_counts(65, x) - 1) / 10
    bells = [x[k] * jnp.exp(-((t - x[k + 7]) ** 2) * x[k + 4]) for k in (1, 2, 3)]
    return jnp.asarray(OSBORNE_2, x.dtype) - x[0] * jnp.exp(-t * x[4]) - sum(bells)


def watson(x):
    """MGH 20 has ``p'(t) - p(t)^2 - 1`` for t = 1/29..1, then ``x1`` and ``x2 - x1^2 - 1``.

    There p is the polynomial with the coefficients x.
    """
    t, powers = np.arange(1, 30) / 29, np.arange(x.shape[0])
    values = t[:, None] ** powers
    slopes = powers * t[:, None] ** np.maximum(powers - 1, 0)
    p, slope = _product(values, x), _product(slopes, x)
    return jnp.concatenate([slope - p**2 - 1, jnp.stack([x[0], x[1] - x[0] ** 2 - 1])])


def penalty_1(x):
    """MGH 23 has ``1e-5^(1/2) (x_i - 1)`` and ``|x|^2 - 1/4``."""
    return jnp.append(1e-5**0.5 * (x - 1), jnp.sum(x**2) - 0.25)


def penalty_2(x):
    """MGH 24 has ``x1 - 1/5``, two kinds of exponentials, and ``sum (n - j + 1) x_j^2 - 1``.

    These are, times ``1e-5^(1/2)``, ``exp(x_i / 10) + exp(x_{i-1} / 10) - y_i`` with
    ``y_i = exp(i / 10) + exp((i - 1) / 10)``, and ``exp(x_i / 10) - exp(-1 / 10)``, for i = 2..n.
    """
    n = x.shape[0]
    i, powers = np.arange(2, n + 1), jnp.exp(x / 10)
    y = jnp.asarray(np.exp(i / 10) + np.exp((i - 1) / 10), x.dtype)
    pairs = powers[1:] + powers[:-1] - y
    root = 1e-5**0.5
    singles = root * (powers[1:] - np.exp(-0.1).item())
    squares = jnp.sum((n + 1 - _counts(n, x)) * x**2) - 1
    return jnp.concatenate([x[:1] - 0.2, root * pairs, singles, squares[None]])


def variably_dimensioned(x):
    """MGH 25 has ``x_i - 1``, the sum ``s = sum j (x_j - 1)``, and its square."""
    total = jnp.sum(_counts(x.shape[0], x) * (x - 1))
    return jnp.concatenate([x - 1, jnp.stack([total, total**2])])


def trigonometric(x):
    """MGH 26 has ``n - sum cos x_j + i (1 - cos x_i) - sin x_i``; many local minima."""
    n = x.shape[0]
    return n - jnp.sum(jnp.cos(x)) + _counts(n, x) * (1 - jnp.cos(x)) - jnp.sin(x)


def discrete_boundary_value(x):
    """MGH 28 has ``2 x_i - x_{i-1} - x_{i+1} + h^2 (x_i + t_i + 1)^3 / 2``, t_i = i h.

    There h = 1 / (n + 1), and x is zero beyond its ends.
    """
    n = x.shape[0]
    step = 1 / (n + 1)
    padded = jnp.pad(x, 1)
    cubes = (x + step * _counts(n, x) + 1) ** 3
    return 2 * x - padded[:-2] - padded[2:] + step**2 * cubes / 2


def discrete_integral_equation(x):
    """MGH 29 has ``x_i + h/2 sum_j K_ij (x_j + t_j + 1)^3`` with t_j = j h, h = 1 / (n + 1).

    The kernel K is ``(1 - t_i) t_j`` for j <= i and ``t_i (1 - t_j)`` beyond.
    """
    n = x.shape[0]
    step = 1 / (n + 1)
    t = step * np.arange(1, n + 1)
    kernel = np.minimum.outer(t, t) * (1 - np.maximum.outer(t, t))
    cubes = (x + jnp.asarray(t, x.dtype) + 1) ** 3
    return x + step / 2 * _product(kernel, cubes)


def broyden_banded(x):
    """MGH 31 has ``x_i (2 + 5 x_i^2) + 1 - sum_j x_j (1 + x_j)`` over j = i-5..i+1 but i."""
    n = x.shape[0]
    terms = jnp.pad(x * (1 + x), (5, 1))
    neighbours = sum(terms[k : k + n] for k in (0, 1, 2, 3, 4, 6))
    return x * (2 + 5 * x**2) + 1 - neighbours


def linear_full_rank(x):
    """MGH 32, of 2 n residuals, has ``x_i - s - 1`` for i <= n and ``-s - 1`` beyond.

    There s = sum(x) / n, and the minimum is n.
    """
    shift = -jnp.sum(x) / x.shape[0] - 1
    return jnp.concatenate([x + shift, jnp.full_like(x, 1) * shift])


def linear_rank_1(x):
    """MGH 33, of m = 2 n residuals, has ``i sum j x_j - 1``.

    The minimum is m (m - 1) / (2 (2 m + 1)).
    """
    n = x.shape[0]
    return _counts(2 * n, x) * jnp.sum(_counts(n, x) * x) - 1


def linear_rank_1_with_zeros(x):
    """MGH 34, of m = 2 n residuals, has ``(i - 1) sum_{j=2}^{n-1} j x_j - 1``, first and last -1.

    The minimum is (m^2 + 3 m - 6) / (2 (2 m - 3)).
    """
    n = x.shape[0]
    factors = np.append(np.arange(2 * n - 1), 0)
    columns = np.arange(1, n + 1)
    columns[[0, -1]] = 0
    total = jnp.sum(jnp.asarray(columns, x.dtype) * x)
    return jnp.asarray(factors, x.dtype) * total - 1


def chebyquad(x):
    """MGH 35 has ``mean T_i(x) - I_i``, Chebyshev's polynomials on [0, 1], for i = 1..n.

    I_i is the integral of T_i: 0 for odd i, ``-1 / (i^2 - 1)`` for even i. The minimum is zero
    for n up to 7 and n = 9; of n = 10 the paper has the local minimum 6.50395e-3.
    """
    n = x.shape[0]
    before, now, residuals = jnp.ones_like(x), 2 * x - 1, []
    for i in range(1, n + 1):
        integral = 0.0 if i % 2 else -1 / (i**2 - 1)
        residuals.append(jnp.mean(now) - integral)
        before, now = now, 2 * (2 * x - 1) * now - before
    return jnp.stack(residuals)


def _counts(n, x):
    """1 to n in the dtype of x."""
    return jnp.arange(1, n + 1, dtype=x.dtype)


def _product(matrix, x):
    return jnp.matmul(jnp.asarray(matrix, x.dtype), x, precision="highest")


BARD = [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39]

GAUSSIAN = [
    *(0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989),
    *(0.3521, 0.2420, 0.1295, 0.0540, 0.0175, 0.0044, 0.0009),
]

MEYER = [
    *(34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744),
    *(8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872),
]

KOWALIK_Y = [
    *(0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627),
    *(0.0456, 0.0342, 0.0323, 0.0235, 0.0246),
]
KOWALIK_U = [4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625]

OSBORNE_1 = [
    *(0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751),
    *(0.718, 0.685, 0.658, 0.628, 0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490),
    *(0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411, 0.406),
]

OSBORNE_2 = [
    *(1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608),
    *(0.655, 0.616, 0.606, 0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661),
    *(0.612, 0.558, 0.533, 0.495, 0.500, 0.423, 0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428),
    *(0.429, 0.523, 0.562, 0.607, 0.653, 0.672, 0.708, 0.633, 0.668, 0.645, 0.632, 0.591, 0.559),
    *(0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581, 0.428, 0.292, 0.162, 0.098, 0.054),
]


def problems() -> list[Problem]:
    """All of them from their usual starts, of the sizes that the paper gives minima for."""
    ten = np.arange(1.0, 11)
    t = np.arange(1, 51) / 51
    return [
        squares(
            "Freudenstein-Roth",
            freudenstein_roth,
            [0.5, -2],
            minimiser=[5, 4],
            local_minima=(48.984254,),
        ),
        squares(
            "Powell badly scaled",
            powell_badly_scaled,
            [0, 1],
            minimiser=[1.098159329699759e-05, 9.106146739867318],
        ),
        squares("Brown badly scaled", brown_badly_scaled, [1, 1], minimiser=[1e6, 2e-6]),
        squares("Jennrich-Sampson", jennrich_sampson, [0.3, 0.4], 124.362182),
        squares("Bard", bard, [1, 1, 1], 8.21487e-3, local_minima=(17.4286,)),
        squares("Gaussian", gaussian, [0.4, 1, 0], 1.12793e-8),
        squares("Meyer", meyer, [0.02, 4000, 250], 87.9458),
        squares("Gulf", gulf, [5, 2.5, 0.15], minimiser=[50, 25, 1.5]),
        squares("Box", box, [0, 10, 20], minimiser=[1, 10, 1]),
        squares(
            "Kowalik-Osborne",
            kowalik_osborne,
            [0.25, 0.39, 0.415, 0.39],
            3.07505e-4,
            local_minima=(1.02734e-3,),
        ),
        squares("Brown-Dennis", brown_dennis, [25, 5, -5, -1], 85822.2),
        squares("Osborne 1", osborne_1, [0.5, 1.5, -1, 0.01, 0.02], 5.46489e-5),
        squares(
            "Biggs EXP6",
            biggs_exp6,
            [1, 2, 1, 1, 1, 1],
            minimiser=[1, 10, 1, 5, 4, 3],
            local_minima=(5.65565e-3,),
        ),
        squares(
            "Osborne 2",
            osborne_2,
            [1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5],
            4.01377e-2,
        ),
        squares("Watson 6", watson, np.zeros(6), 2.28767e-3),
        squares("Watson 9", watson, np.zeros(9), 1.39976e-6),
        squares("Watson 12", watson, np.zeros(12), 4.72238e-10),
        squares("penalty I 4", penalty_1, ten[:4], 2.24997e-5),
        squares("penalty I 10", penalty_1, ten, 7.08765e-5),
        squares("penalty II 4", penalty_2, np.full(4, 0.5), 9.37629e-6),
        squares("penalty II 10", penalty_2, np.full(10, 0.5), 2.93660e-4),
        squares(
            "variably dimensioned 10", variably_dimensioned, 1 - ten / 10, minimiser=np.ones(10)
        ),
        squares(
            "trigonometric 10",
            trigonometric,
            np.full(10, 0.1),
            minimiser=np.zeros(10),
            local_minima=(2.79506e-5,),
        ),
        squares("discrete boundary value 50", discrete_boundary_value, t * (t - 1)),
        squares("discrete integral equation 50", discrete_integral_equation, t * (t - 1)),
        squares("Broyden banded 50", broyden_banded, np.full(50, -1.0)),
        squares(
            "linear full rank 10", linear_full_rank, np.ones(10), 10.0, minimiser=np.full(10, -1.0)
        ),
        squares("linear rank 1 10", linear_rank_1, np.ones(10), 20 * 19 / 82),
        squares("linear rank 1 with zeros 10", linear_rank_1_with_zeros, np.ones(10), 454 / 74),
        squares("chebyquad 8", chebyquad, np.arange(1, 9) / 9, 3.51687e-3),
        squares("chebyquad 9", chebyquad, ten[:9] / 10),
        squares("chebyquad 10", chebyquad, ten / 11, 4.772713696e-3, local_minima=(6.50395e-3,)),
    ]
