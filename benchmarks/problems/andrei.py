"""Functions of Andrei's collection, many of them from CUTE, and a few that others are known by.

Andrei (2008), "An unconstrained optimization test functions collection", Advanced Modeling and
Optimization 10, 147-161, has the formulas and the starts where no other source is named. Bongartz,
Conn, Gould and Toint (1995), "CUTE: Constrained and unconstrained testing environment", ACM
Transactions on Mathematical Software 21, 123-160, has those in capitals. Those that return a vector
return residuals, the sum of whose squares is minimised. Minima are closed forms, or digits from
a minimisation with SciPy in float64.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from benchmarks.problems.classical import Problem, squares


def white_holst(x):
    """Extended White and Holst has ``10 (b - a^3)`` and ``1 - a`` for each pair (a, b)."""
    a, b = _pairs(x)
    return jnp.concatenate([10 * (b - a**3), 1 - a])


def perturbed_quadratic(x):
    """Perturbed quadratic is ``sum i x_i^2 + (sum x_i)^2 / 100``."""
    return jnp.append(jnp.sqrt(_counts(x)) * x, jnp.sum(x) / 10)


def raydan_1(x):
    """Raydan 1 is ``sum i / 10 (exp(x_i) - x_i)``."""
    return jnp.sum(_counts(x) / 10 * (jnp.exp(x) - x))


def raydan_2(x):
    """Raydan 2 is ``sum exp(x_i) - x_i``."""
    return jnp.sum(jnp.exp(x) - x)


def diagonal_1(x):
    """Diagonal 1 is ``sum exp(x_i) - i x_i``."""
    return jnp.sum(jnp.exp(x) - _counts(x) * x)


def diagonal_2(x):
    """Diagonal 2 is ``sum exp(x_i) - x_i / i``."""
    return jnp.sum(jnp.exp(x) - x / _counts(x))


def diagonal_3(x):
    """Diagonal 3 is ``sum exp(x_i) - i sin(x_i)``."""
    return jnp.sum(jnp.exp(x) - _counts(x) * jnp.sin(x))


def diagonal_4(x):
    """Diagonal 4 is ``sum (a^2 + 100 b^2) / 2`` over pairs (a, b)."""
    a, b = _pairs(x)
    return jnp.concatenate([0.5**0.5 * a, 50**0.5 * b])


def diagonal_5(x):
    """Diagonal 5 is ``sum log(exp(x_i) + exp(-x_i))``, written so that nothing overflows."""
    return jnp.sum(jnp.logaddexp(x, -x))


def hager(x):
    """Hager is ``sum exp(x_i) - sqrt(i) x_i``."""
    return jnp.sum(jnp.exp(x) - jnp.sqrt(_counts(x)) * x)


def generalized_tridiagonal_1(x):
    """Generalized tridiagonal 1 has ``x_i + x_{i+1} - 3`` and ``(x_i - x_{i+1} + 1)^2``."""
    return jnp.concatenate([x[:-1] + x[1:] - 3, (x[:-1] - x[1:] + 1) ** 2])


def extended_tridiagonal_1(x):
    """Extended tridiagonal 1 has ``a + b - 3`` and ``(a - b + 1)^2`` for each pair (a, b)."""
    a, b = _pairs(x)
    return jnp.concatenate([a + b - 3, (a - b + 1) ** 2])


def extended_tridiagonal_2(x):
    """Extended tridiagonal 2 is ``sum (x_i x_{i+1} - 1)^2 + (x_i + 1) (x_{i+1} + 1) / 10``."""
    return jnp.sum((x[:-1] * x[1:] - 1) ** 2 + 0.1 * (x[:-1] + 1) * (x[1:] + 1))


def three_exponentials(x):
    """Extended TET is ``exp(a + 3 b - 0.1) + exp(a - 3 b - 0.1) + exp(-a - 0.1)`` over pairs."""
    a, b = _pairs(x)
    return jnp.sum(jnp.exp(a + 3 * b - 0.1) + jnp.exp(a - 3 * b - 0.1) + jnp.exp(-a - 0.1))


def extended_himmelblau(x):
    """Extended Himmelblau has ``a^2 + b - 11`` and ``a + b^2 - 7`` for each pair (a, b)."""
    a, b = _pairs(x)
    return jnp.concatenate([a**2 + b - 11, a + b**2 - 7])


def generalized_psc1(x):
    """Generalized PSC1 has ``a^2 + b^2 + a b``, ``sin a`` and ``cos b`` for all neighbours."""
    return _psc1(x[:-1], x[1:])


def extended_psc1(x):
    """Extended PSC1 has ``a^2 + b^2 + a b``, ``sin a`` and ``cos b`` for each pair (a, b)."""
    return _psc1(*_pairs(x))


def _psc1(a, b):
    return jnp.concatenate([a**2 + b**2 + a * b, jnp.sin(a), jnp.cos(b)])


def extended_bd1(x):
    """Extended block diagonal 1 has ``a^2 + b^2 - 2`` and ``exp(a - 1) - b`` for each pair."""
    a, b = _pairs(x)
    return jnp.concatenate([a**2 + b**2 - 2, jnp.exp(a - 1) - b])


def extended_maratos(x):
    """Extended Maratos is ``sum a + 100 (a^2 + b^2 - 1)^2`` over pairs (a, b)."""
    a, b = _pairs(x)
    return jnp.sum(a + 100 * (a**2 + b**2 - 1) ** 2)


def extended_cliff(x):
    """Extended cliff is ``sum ((a - 3) / 100)^2 - (a - b) + exp(20 (a - b))`` over pairs."""
    a, b = _pairs(x)
    return jnp.sum(((a - 3) / 100) ** 2 - (a - b) + jnp.exp(20 * (a - b)))


def quadratic_diagonal_perturbed(x):
    """Quadratic diagonal perturbed is ``(sum x_i)^2 + sum i x_i^2 / 100``."""
    return jnp.append(jnp.sqrt(_counts(x)) / 10 * x, jnp.sum(x))


def extended_hiebert(x):
    """Extended Hiebert has ``a - 10`` and ``a b - 50000`` for each pair (a, b)."""
    a, b = _pairs(x)
    return jnp.concatenate([a - 10, a * b - 50_000])


def quadratic_qf1(x):
    """Quadratic QF1 is ``sum i x_i^2 / 2 - x_n``."""
    return 0.5 * jnp.sum(_counts(x) * x**2) - x[-1]


def quadratic_qf2(x):
    """Quadratic QF2 is ``sum i (x_i^2 - 1)^2 / 2 - x_n``."""
    return 0.5 * jnp.sum(_counts(x) * (x**2 - 1) ** 2) - x[-1]


def quadratic_penalty_1(x):
    """Extended quadratic penalty QP1 has ``x_i^2 - 2`` for i < n, and ``|x|^2 - 1/2``."""
    return jnp.append(x[:-1] ** 2 - 2, jnp.sum(x**2) - 0.5)


def quadratic_penalty_2(x):
    """Extended quadratic penalty QP2 has ``x_i^2 - sin x_i`` for i < n, and ``|x|^2 - 100``."""
    return jnp.append(x[:-1] ** 2 - jnp.sin(x[:-1]), jnp.sum(x**2) - 100)


def extended_ep1(x):
    """Extended quadratic exponential EP1 has ``exp(d) - 5`` and ``d (d - 11)``, d = a - b."""
    a, b = _pairs(x)
    return jnp.concatenate([jnp.exp(a - b) - 5, (a - b) * (a - b - 11)])


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


def dixon_price(x):
    """Dixon and Price (1989) have ``x_1 - 1`` and ``sqrt(i) (2 x_i^2 - x_{i-1})`` for i = 2..n."""
    return jnp.append(jnp.sqrt(_counts(x)[1:]) * (2 * x[1:] ** 2 - x[:-1]), x[0] - 1)


def zakharov(x):
    """Zakharov's function is ``|x|^2 + s^2 + s^4`` with ``s = sum i x_i / 2``."""
    s = 0.5 * jnp.sum(_counts(x) * x)
    return jnp.concatenate([x, jnp.stack([s, s**2])])


def trid(x):
    """Trid, of Neumaier (1997), is ``sum (x_i - 1)^2 - sum x_i x_{i-1}``."""
    return jnp.sum((x - 1) ** 2) - jnp.sum(x[1:] * x[:-1])


def styblinski_tang(x):
    """Styblinski and Tang (1990) have ``sum (x_i^4 - 16 x_i^2 + 5 x_i) / 2``: 2^n minima."""
    return 0.5 * jnp.sum(x**4 - 16 * x**2 + 5 * x)


def six_hump_camel(x):
    """Dixon and Szegö (1978) have ``(4 - 2.1 a^2 + a^4 / 3) a^2 + a b + (4 b^2 - 4) b^2``."""
    a, b = x
    return (4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (4 * b**2 - 4) * b**2


def branin(x):
    """Branin (1972) has ``(b - 5.1 a^2 / (4 pi^2) + 5 a / pi - 6)^2 + c cos a + 10``.

    There ``c = 10 - 10 / (8 pi)``.
    """
    a, b = x
    valley = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * jnp.cos(a) + 10


def goldstein_price(x):
    """Goldstein and Price (1971) have a product of two quartics, with a minimum of 3 at (0, -1).

    ``(1 + (a + b + 1)^2 (19 - 14 a + 3 a^2 - 14 b + 6 a b + 3 b^2))
    (30 + (2 a - 3 b)^2 (18 - 32 a + 12 a^2 + 48 b - 36 a b + 27 b^2))``.
    """
    a, b = x
    first = 19 - 14 * a + 3 * a**2 - 14 * b + 6 * a * b + 3 * b**2
    second = 18 - 32 * a + 12 * a**2 + 48 * b - 36 * a * b + 27 * b**2
    return (1 + (a + b + 1) ** 2 * first) * (30 + (2 * a - 3 * b) ** 2 * second)


def _pairs(x):
    """The first and the second of every two unknowns."""
    return x[::2], x[1::2]


def _counts(x):
    """1 to n in the dtype of x."""
    return jnp.arange(1, x.shape[0] + 1, dtype=x.dtype)


def problems() -> list[Problem]:
    """All of them, from their usual starts."""
    i = np.arange(1.0, 51)
    cliff = math.log(20) / 20 + 0.05

    def ones(n, value=1.0):
        return np.full(n, float(value))

    return [
        squares("White-Holst 50", white_holst, np.tile([-1.2, 1], 25), minimiser=ones(50)),
        squares(
            "perturbed quadratic 50", perturbed_quadratic, ones(50, 0.5), minimiser=ones(50, 0)
        ),
        Problem("Raydan 1 50", raydan_1, ones(50), 50 * 51 / 20, minimiser=ones(50, 0)),
        Problem("Raydan 2 50", raydan_2, ones(50), 50.0, minimiser=ones(50, 0)),
        Problem(
            "diagonal 1 50",
            diagonal_1,
            ones(50, 1 / 50),
            sum(i - i * np.log(i)),
            minimiser=np.log(i),
        ),
        Problem("diagonal 2 50", diagonal_2, 1 / i, sum((1 + np.log(i)) / i), minimiser=-np.log(i)),
        Problem("diagonal 3 50", diagonal_3, ones(50), -1063.85536623),
        squares("diagonal 4 50", diagonal_4, ones(50), minimiser=ones(50, 0)),
        Problem(
            "diagonal 5 50", diagonal_5, ones(50, 1.1), 50 * math.log(2), minimiser=ones(50, 0)
        ),
        Problem(
            "Hager 50",
            hager,
            ones(50),
            sum(np.sqrt(i) * (1 - np.log(i) / 2)),
            minimiser=np.log(i) / 2,
        ),
        squares(
            "generalized tridiagonal 1 50", generalized_tridiagonal_1, ones(50, 2), 47.21030748599
        ),
        squares(
            "extended tridiagonal 1 50",
            extended_tridiagonal_1,
            ones(50, 2),
            minimiser=np.tile([1, 2], 25),
        ),
        Problem("extended tridiagonal 2 50", extended_tridiagonal_2, ones(50), 19.0967270564),
        Problem(
            "three exponentials 50",
            three_exponentials,
            ones(50, 0.1),
            50 * math.sqrt(2) * math.exp(-0.1),
            minimiser=np.tile([-math.log(2) / 2, 0], 25),
        ),
        squares(
            "extended Himmelblau 50", extended_himmelblau, ones(50), minimiser=np.tile([3, 2], 25)
        ),
        squares("generalized PSC1 50", generalized_psc1, np.tile([3, 0.1], 25), 48.72204143788),
        squares("extended PSC1 50", extended_psc1, np.tile([3, 0.1], 25), 19.32997641232),
        squares("extended BD1 50", extended_bd1, ones(50, 0.1), minimiser=ones(50)),
        Problem("extended Maratos 50", extended_maratos, np.tile([1.1, 0.1], 25), -25.01560551742),
        Problem(
            "extended cliff 50",
            extended_cliff,
            np.tile([0.0, -1.0], 25),
            25 * cliff,
            minimiser=np.tile([3, 3 + math.log(20) / 20], 25),
        ),
        squares(
            "quadratic diagonal perturbed 50",
            quadratic_diagonal_perturbed,
            ones(50, 0.5),
            minimiser=ones(50, 0),
        ),
        squares(
            "extended Hiebert 50", extended_hiebert, ones(50, 0), minimiser=np.tile([10, 5000], 25)
        ),
        Problem(
            "quadratic QF1 50",
            quadratic_qf1,
            ones(50),
            -1 / 100,
            minimiser=np.append(ones(49, 0), 0.02),
        ),
        Problem("quadratic QF2 50", quadratic_qf2, ones(50, 0.5), -1.002487623384),
        squares("quadratic penalty QP1 50", quadratic_penalty_1, ones(50), 190.125),
        squares("quadratic penalty QP2 50", quadratic_penalty_2, ones(50), 0.0),
        squares("extended EP1 50", extended_ep1, ones(50, 1.5), 396.5881440736),
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
        squares(
            "Dixon-Price 10", dixon_price, ones(10), minimiser=2.0 ** (2.0 ** (1 - i[:10]) - 1)
        ),
        squares("Zakharov 10", zakharov, ones(10), minimiser=ones(10, 0)),
        Problem("Trid 10", trid, ones(10, 0), -10 * 14 * 9 / 6, minimiser=i[:10] * (11 - i[:10])),
        Problem("Styblinski-Tang 10", styblinski_tang, ones(10, -1), -391.6616570377),
        Problem(
            "six-hump camel",
            six_hump_camel,
            np.array([0.5, -0.5]),
            -1.03162845349,
            local_minima=(-0.2154638, 2.1042503),
        ),
        Problem(
            "Branin",
            branin,
            np.array([2.5, 7.5]),
            10 / (8 * math.pi),
            minimiser=np.array([math.pi, 2.275]),
        ),
        Problem(
            "Goldstein-Price",
            goldstein_price,
            np.array([-0.5, 0.25]),
            3.0,
            minimiser=np.array([0.0, -1.0]),
            local_minima=(30.0, 84.0, 840.0),
        ),
    ]
