"""The costs of methods: bytes held, bytes moved, operations, and the seconds these take.

``docs/plan.md`` derives the formulas. One function prices one method. A price says what is reserved
besides the data, what is done once, and what is done in each iteration.
"""

from jaxdescent.plan.cost_model.descents import backtracking as backtracking
from jaxdescent.plan.cost_model.descents import barzilai_borwein as barzilai_borwein
from jaxdescent.plan.cost_model.descents import descent_vectors_bytes as descent_vectors_bytes
from jaxdescent.plan.cost_model.descents import dual as dual
from jaxdescent.plan.cost_model.descents import gram as gram
from jaxdescent.plan.cost_model.descents import mini_batches as mini_batches
from jaxdescent.plan.cost_model.exact import derivative_quadratic as derivative_quadratic
from jaxdescent.plan.cost_model.exact import derivative_regression as derivative_regression
from jaxdescent.plan.cost_model.exact import factorisation as factorisation
from jaxdescent.plan.cost_model.exact import touched_bytes as touched_bytes
from jaxdescent.plan.cost_model.functions import division as division
from jaxdescent.plan.cost_model.functions import function_backtracking as function_backtracking
from jaxdescent.plan.cost_model.functions import lbfgs as lbfgs
from jaxdescent.plan.cost_model.functions import levenberg_marquardt as levenberg_marquardt
from jaxdescent.plan.cost_model.functions import newton as newton
from jaxdescent.plan.cost_model.functions import (
    nonlinear_conjugate_gradient as nonlinear_conjugate_gradient,
)
from jaxdescent.plan.cost_model.functions import separable_backtracking as separable_backtracking
from jaxdescent.plan.cost_model.functions import separable_descent as separable_descent
from jaxdescent.plan.cost_model.iterations import krylov_iterations as krylov_iterations
from jaxdescent.plan.cost_model.krylov import conjugate_gradient as conjugate_gradient
from jaxdescent.plan.cost_model.krylov import is_sketched as is_sketched
from jaxdescent.plan.cost_model.krylov import is_sketched_by_entries as is_sketched_by_entries
from jaxdescent.plan.cost_model.krylov import lsmr as lsmr
from jaxdescent.plan.cost_model.krylov import (
    scaled_conjugate_gradient as scaled_conjugate_gradient,
)
from jaxdescent.plan.cost_model.krylov import scaled_lsmr as scaled_lsmr
from jaxdescent.plan.cost_model.krylov import sketched_lsmr as sketched_lsmr
from jaxdescent.plan.cost_model.work import Price as Price
from jaxdescent.plan.cost_model.work import Question as Question
from jaxdescent.plan.cost_model.work import Work as Work
from jaxdescent.plan.cost_model.work import cholesky as cholesky
from jaxdescent.plan.cost_model.work import orthogonal as orthogonal
from jaxdescent.plan.cost_model.work import pass_bytes as pass_bytes
from jaxdescent.plan.cost_model.work import product as product
