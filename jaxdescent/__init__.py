"""Minimise sums of squares, regressions and any differentiable function by gradient descent in JAX.

>>> import jaxdescent as jd
>>> result = jd.minimize(lambda x, y, z: x**2 + y**2 + z**2, 0.0)  # doctest: +SKIP
"""

from jaxdescent.designs import MatrixFree as MatrixFree
from jaxdescent.memory import ProblemTooLarge as ProblemTooLarge
from jaxdescent.methods import Backtracking as Backtracking
from jaxdescent.methods import DerivativeMethod as DerivativeMethod
from jaxdescent.methods import ExactLineSearch as ExactLineSearch
from jaxdescent.methods import GradientDescent as GradientDescent
from jaxdescent.minimize import minimize as minimize
from jaxdescent.objectives import LeastSquares as LeastSquares
from jaxdescent.objectives import LinearRegression as LinearRegression
from jaxdescent.objectives import Quadratic as Quadratic
from jaxdescent.objectives import SumOfSquares as SumOfSquares
from jaxdescent.precision import Nearest as Nearest
from jaxdescent.precision import StochasticRounding as StochasticRounding
from jaxdescent.result import Result as Result
from jaxdescent.result import Status as Status
