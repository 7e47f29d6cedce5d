"""Functions of CUTE, in capitals, as Andrei's collection has them.

Andrei (2008), "An unconstrained optimization test functions collection", Advanced Modeling and
Optimization 10, 147-161, has the formulas and the starts, some of them other ones than CUTE
(Bongartz, Conn, Gould and Toint 1995, "CUTE: Constrained and unconstrained testing environment",
ACM Transactions on Mathematical Software 21, 123-160). Those that return a vector return
residuals, the sum of whose squares is minimised. Minima are closed forms, or digits from a
minimisation with SciPy in float64.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from benchmarks.problems.classical import Problem, squares


def fletchcr(x):
    """FLETCHCR has ``10 (x_{i+1} - x_i + 1 - x_i^2)``."""
    return 10 * (x[1:] - x[:-1] + 1 - x[:-1] ** 2)


def dixmaana(x):
    """DIXMAANA, of n = 3 m, is 1 plus four sums of monomials.

    ``sum x_i^2 + sum_{i <= 2m} x_i^2 x_{i+m}^4 / 8 + sum_{i <= m} x_i x_{i+2m} / 8``.
    """
    m = x.shape[0] // 3
    quartic = jnp.sum(x[: 2 * m] ** 2 * x[m:] ** 4)
    return 1 + jnp.sum(x**2) + 0.125 * (quartic + jnp.sum(x[:m] * x[2 * m :]))


def dixmaanl(x):
    """DIXMAANL, of n = 3 m, is like DIXMAANA with larger weights that grow with i.

    ``1 + sum x_i^2 s_i^2 + 0.26 sum (i < n) x_i^2 (x_{i+1} + x_{i+1}^2)^2
    + 0.26 sum_{i <= 2m} x_i^2 x_{i+m}^4 + 0.26 sum_{i <= m} x_i x_{i+2m} s_i^2``, s_i = i / n.
    """
    n = x.shape[0]
    m = n // 3
    s = _counts(x) / n
    neighbours = jnp.sum(x[:-1] ** 2 * (x[1:] + x[1:] ** 2) ** 2)
    quartic = jnp.sum(x[: 2 * m] ** 2 * x[m:] ** 4)
    products = jnp.sum(x[:m] * x[2 * m :] * s[:m] ** 2)
    return 1 + jnp.sum(x**2 * s**2) + 0.26 * (neighbours + quartic + products)


def engval1(x):
    """ENGVAL1 is ``sum (x_i^2 + x_{i+1}^2)^2 - 4 x_i + 3`` over i < n."""
    return jnp.sum((x[:-1] ** 2 + x[1:] ** 2) ** 2 - 4 * x[:-1] + 3)


def edensch(x):
    """EDENSCH is 16 + ``sum (x_i - 2)^4 + (x_i x_{i+1} - 2 x_{i+1})^2 + (x_{i+1} + 1)^2``."""
    a, b = x[:-1], x[1:]
    return 16 + jnp.sum((a - 2) ** 4 + (a * b - 2 * b) ** 2 + (b + 1) ** 2)


def cosine(x):
    """COSINE is ``sum cos(x_i^2 - x_{i+1} / 2)`` over i < n."""
    return jnp.sum(jnp.cos(x[:-1] ** 2 - 0.5 * x[1:]))


def sinquad(x):
    """SINQUAD has ``(x_1 - 1)^2``, ``sin(x_i - x_n) - x_1^2 + x_i^2`` and ``x_n^2 - x_1^2``."""
    middle = jnp.sin(x[1:-1] - x[-1]) - x[0] ** 2 + x[1:-1] ** 2
    return jnp.concatenate([(x[:1] - 1) ** 2, middle, x[-1:] ** 2 - x[:1] ** 2])


def arwhead(x):
    """ARWHEAD is ``sum (x_i^2 + x_n^2)^2 - 4 x_i + 3`` over i < n."""
    return jnp.sum((x[:-1] ** 2 + x[-1] ** 2) ** 2 - 4 * x[:-1] + 3)


def nondia(x):
    """NONDIA has ``x_1 - 1`` and ``10 (x_1 - x_{i-1}^2)`` for i = 2..n."""
    return jnp.concatenate([x[:1] - 1, 10 * (x[0] - x[:-1] ** 2)])


def liarwhd(x):
    """LIARWHD has ``2 (x_i^2 - x_1)`` and ``x_i - 1``."""
    return jnp.concatenate([2 * (x**2 - x[0]), x - 1])


def power(x):
    """POWER has ``i x_i``."""
    return _counts(x) * x


def tridia(x):
    """TRIDIA has ``x_1 - 1`` and ``sqrt(i) (2 x_i - x_{i-1})`` for i = 2..n."""
    return jnp.append(jnp.sqrt(_counts(x)[1:]) * (2 * x[1:] - x[:-1]), x[0] - 1)


def bdqrtic(x):
    """BDQRTIC has ``3 - 4 x_i`` and ``x_i^2 + 2 x_{i+1}^2 + 3 x_{i+2}^2 + 4 x_{i+3}^2 + 5 x_n^2``.

    Both are for i up to n - 4.
    """
    n = x.shape[0]
    s = x**2
    near = sum((k + 1) * s[k : n - 4 + k] for k in range(4))
    return jnp.concatenate([3 - 4 * x[: n - 4], near + 5 * s[-1]])


def quartc(x):
    """QUARTC has ``(x_i - i)^2``."""
    return (x - _counts(x)) ** 2


def nonscomp(x):
    """NONSCOMP has ``x_1 - 1`` and ``2 (x_i - x_{i-1}^2)`` for i = 2..n."""
    return jnp.concatenate([x[:1] - 1, 2 * (x[1:] - x[:-1] ** 2)])


def dqdrtic(x):
    """DQDRTIC is ``sum x_i^2 + 100 x_{i+1}^2 + 100 x_{i+2}^2`` over i up to n - 2."""
    return jnp.concatenate([x[:-2], 10 * x[1:-1], 10 * x[2:]])


def biggsb1(x):
    """BIGGSB1 has ``x_1 - 1``, ``x_{i+1} - x_i`` and ``1 - x_n``."""
    return jnp.concatenate([x[:1] - 1, x[1:] - x[:-1], 1 - x[-1:]])


def denschna(x):
    """DENSCHNA has ``x_1^2``, ``x_1 + x_2`` and ``exp(x_2) - 1``."""
    return jnp.stack([x[0] ** 2, x[0] + x[1], jnp.exp(x[1]) - 1])


def denschnb(x):
    """DENSCHNB has ``x_1 - 2``, ``(x_1 - 2) x_2`` and ``x_2 + 1``."""
    return jnp.stack([x[0] - 2, (x[0] - 2) * x[1], x[1] + 1])


def denschnf(x):
    """DENSCHNF has ``2 (a + b)^2 + (a - b)^2 - 8`` and ``5 a^2 + (b - 3)^2 - 9``."""
    a, b = x
    return jnp.stack([2 * (a + b) ** 2 + (a - b) ** 2 - 8, 5 * a**2 + (b - 3) ** 2 - 9])


def himmelbg(x):
    """HIMMELBG is ``(2 a^2 + 3 b^2) exp(-a - b)``, which falls to zero far away as well."""
    a, b = x
    return (2 * a**2 + 3 * b**2) * jnp.exp(-a - b)


def _counts(x):
    """1 to n in the dtype of x."""
    return jnp.arange(1, x.shape[0] + 1, dtype=x.dtype)


def problems() -> list[Problem]:
    """All of them, from their usual starts."""
    i = np.arange(1.0, 51)

    def ones(n, value=1.0):
        return np.full(n, float(value))

    return [
        squares("FLETCHCR 50", fletchcr, ones(50, 0)),
        Problem("DIXMAANA 60", dixmaana, ones(60, 2), 1.0, minimiser=ones(60, 0)),
        Problem("DIXMAANL 60", dixmaanl, ones(60, 2), 1.0, minimiser=ones(60, 0)),
        Problem("ENGVAL1 50", engval1, ones(50, 2), 53.58221488521),
        Problem("EDENSCH 50", edensch, ones(50, 0), 303.2845920208),
        Problem("COSINE 50", cosine, ones(50), -49.0),
        squares("SINQUAD 5", sinquad, ones(5, 0.1), minimiser=ones(5)),
        squares("SINQUAD 50", sinquad, ones(50, 0.1), minimiser=ones(50)),
        Problem("ARWHEAD 50", arwhead, ones(50), 0.0, minimiser=np.append(ones(49), 0)),
        squares("NONDIA 50", nondia, ones(50, -1), minimiser=ones(50)),
        squares("LIARWHD 50", liarwhd, ones(50, 4), minimiser=ones(50)),
        squares("POWER 50", power, ones(50), minimiser=ones(50, 0)),
        squares("TRIDIA 50", tridia, ones(50), minimiser=0.5 ** (i - 1)),
        squares("BDQRTIC 50", bdqrtic, ones(50), 178.4887052105),
        squares("QUARTC 50", quartc, ones(50, 2), minimiser=i),
        squares("NONSCOMP 50", nonscomp, ones(50, 3), minimiser=ones(50)),
        squares("DQDRTIC 50", dqdrtic, ones(50, 3), minimiser=ones(50, 0)),
        squares("BIGGSB1 50", biggsb1, ones(50, 0), minimiser=ones(50)),
        squares("DENSCHNA", denschna, ones(2), minimiser=ones(2, 0)),
        squares("DENSCHNB", denschnb, ones(2), minimiser=[2, -1]),
        squares("DENSCHNF", denschnf, [2, 0]),
        Problem("HIMMELBG", himmelbg, ones(2, 1.5), 0.0, minimiser=ones(2, 0)),
    ]
