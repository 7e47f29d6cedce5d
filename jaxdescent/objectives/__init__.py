"""Objectives: the functions to minimise. They all implement :class:`Objective`."""

from jaxdescent.objectives.answers import Bounds as Bounds
from jaxdescent.objectives.answers import Params as Params
from jaxdescent.objectives.answers import RowBlocks as RowBlocks
from jaxdescent.objectives.function import Function as Function
from jaxdescent.objectives.function import as_objective as as_objective
from jaxdescent.objectives.least_squares import LeastSquares as LeastSquares
from jaxdescent.objectives.protocol import Objective as Objective
from jaxdescent.objectives.quadratic import Quadratic as Quadratic
from jaxdescent.objectives.sum_of_squares import SumOfSquares as SumOfSquares
