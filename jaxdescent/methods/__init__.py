"""How to get from params to better params: frozen dataclasses with two pure functions."""

from jaxdescent.methods.adaptive_step import AdaptiveStep as AdaptiveStep
from jaxdescent.methods.backtracking import Backtracking as Backtracking
from jaxdescent.methods.barzilai_borwein import BarzilaiBorwein as BarzilaiBorwein
from jaxdescent.methods.derivative import DerivativeMethod as DerivativeMethod
from jaxdescent.methods.exact_line_search import ExactLineSearch as ExactLineSearch
from jaxdescent.methods.gradient_descent import GradientDescent as GradientDescent
from jaxdescent.methods.inverse_lipschitz import InverseLipschitz as InverseLipschitz
from jaxdescent.methods.momentum import HeavyBall as HeavyBall
from jaxdescent.methods.momentum import Nesterov as Nesterov
from jaxdescent.methods.optax_method import OptaxMethod as OptaxMethod
from jaxdescent.methods.optax_method import as_method as as_method
from jaxdescent.methods.protocol import Method as Method
from jaxdescent.methods.protocol import Progress as Progress
