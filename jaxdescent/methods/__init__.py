"""Methods: rules for getting from params to better params, as dataclasses with pure functions."""

from jaxdescent.methods.conjugate_gradient import ConjugateGradient as ConjugateGradient
from jaxdescent.methods.derivative import DerivativeMethod as DerivativeMethod
from jaxdescent.methods.gradient_descent import GradientDescent as GradientDescent
from jaxdescent.methods.gram import Gram as Gram
from jaxdescent.methods.lbfgs import LBFGS as LBFGS
from jaxdescent.methods.levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from jaxdescent.methods.lsmr import LSMR as LSMR
from jaxdescent.methods.mini_batches import MiniBatches as MiniBatches
from jaxdescent.methods.optax_method import OptaxMethod as OptaxMethod
from jaxdescent.methods.optax_method import as_method as as_method
from jaxdescent.methods.protocol import Method as Method
from jaxdescent.methods.protocol import StepReport as StepReport
from jaxdescent.methods.step_rules import Backtracking as Backtracking
from jaxdescent.methods.step_rules import BarzilaiBorwein as BarzilaiBorwein
from jaxdescent.methods.step_rules import ExactLineSearch as ExactLineSearch
from jaxdescent.methods.step_rules import InverseLipschitz as InverseLipschitz
from jaxdescent.methods.step_rules import Nesterov as Nesterov
