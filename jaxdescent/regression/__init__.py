"""Linear regression: the objective, its forms, and its solvers."""

from jaxdescent.regression.linear_model import LinearModel as LinearModel
from jaxdescent.regression.linear_regression import LinearRegression as LinearRegression
