"""Rules for the length of a gradient step, and momentum, as optax transformations."""

from jaxdescent.methods.step_rules.backtracking import Backtracking as Backtracking
from jaxdescent.methods.step_rules.barzilai_borwein import BarzilaiBorwein as BarzilaiBorwein
from jaxdescent.methods.step_rules.exact_line_search import ExactLineSearch as ExactLineSearch
from jaxdescent.methods.step_rules.inverse_lipschitz import InverseLipschitz as InverseLipschitz
from jaxdescent.methods.step_rules.nesterov import Nesterov as Nesterov
from jaxdescent.methods.step_rules.transformation import Momentum as Momentum
from jaxdescent.methods.step_rules.transformation import StepRule as StepRule
