"""Minimise sums of squares, regressions and any differentiable function by gradient descent in JAX.

>>> import jaxdescent as jd
>>> result = jd.minimize(lambda p: p["x"] ** 2 + p["y"] ** 2, {"x": 3.0, "y": -4.0})
>>> bool(result.converged), jd.certify(lambda p: p["x"] ** 2 + p["y"] ** 2, result).kind
(True, 'minimum')
"""

from jaxdescent.agreement import OtherProcessFailed as OtherProcessFailed
from jaxdescent.batches import minimize_batch as minimize_batch
from jaxdescent.certificate import Certificate as Certificate
from jaxdescent.certificate import certify as certify
from jaxdescent.critical_points import CriticalPoint as CriticalPoint
from jaxdescent.critical_points import critical_points as critical_points
from jaxdescent.designs import Categorical as Categorical
from jaxdescent.designs import Concatenated as Concatenated
from jaxdescent.designs import Hashed as Hashed
from jaxdescent.designs import MatrixFree as MatrixFree
from jaxdescent.designs import Sparse as Sparse
from jaxdescent.designs import Streamed as Streamed
from jaxdescent.designs import StreamedShares as StreamedShares
from jaxdescent.fit import fit_model as fit_model
from jaxdescent.fit import load_model as load_model
from jaxdescent.foresight import plan as plan
from jaxdescent.machine.memory import ProblemTooLarge as ProblemTooLarge
from jaxdescent.methods import LBFGS as LBFGS
from jaxdescent.methods import LSMR as LSMR
from jaxdescent.methods import AdaptiveStep as AdaptiveStep
from jaxdescent.methods import Backtracking as Backtracking
from jaxdescent.methods import BarzilaiBorwein as BarzilaiBorwein
from jaxdescent.methods import ConjugateGradient as ConjugateGradient
from jaxdescent.methods import DerivativeMethod as DerivativeMethod
from jaxdescent.methods import Dual as Dual
from jaxdescent.methods import ExactLineSearch as ExactLineSearch
from jaxdescent.methods import GradientDescent as GradientDescent
from jaxdescent.methods import Gram as Gram
from jaxdescent.methods import HeavyBall as HeavyBall
from jaxdescent.methods import Hedge as Hedge
from jaxdescent.methods import InverseLipschitz as InverseLipschitz
from jaxdescent.methods import LevenbergMarquardt as LevenbergMarquardt
from jaxdescent.methods import MiniBatches as MiniBatches
from jaxdescent.methods import Nesterov as Nesterov
from jaxdescent.minimize import minimize as minimize
from jaxdescent.numerics.precision import Nearest as Nearest
from jaxdescent.numerics.precision import StochasticRounding as StochasticRounding
from jaxdescent.objectives import LeastSquares as LeastSquares
from jaxdescent.objectives import Quadratic as Quadratic
from jaxdescent.objectives import SumOfSquares as SumOfSquares
from jaxdescent.plan import Candidate as Candidate
from jaxdescent.plan import Plan as Plan
from jaxdescent.preconditioners import Eliminate as Eliminate
from jaxdescent.preconditioners import Jacobi as Jacobi
from jaxdescent.preconditioners import Nystrom as Nystrom
from jaxdescent.preconditioners import Sketch as Sketch
from jaxdescent.regression import LinearRegression as LinearRegression
from jaxdescent.result import Evidence as Evidence
from jaxdescent.result import History as History
from jaxdescent.result import Result as Result
from jaxdescent.result import Status as Status
from jaxdescent.runs import hooks as hooks
from jaxdescent.runs import run as run
from jaxdescent.saddles import leave_saddle as leave_saddle
from jaxdescent.tolerance import Tolerance as Tolerance
