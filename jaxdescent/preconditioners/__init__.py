"""Preconditioners: changes of variables that reduce the iterations of a Krylov method."""

from jaxdescent.preconditioners.eliminate import Eliminate as Eliminate
from jaxdescent.preconditioners.hessians import CentredRegression as CentredRegression
from jaxdescent.preconditioners.hessians import FlatHessian as FlatHessian
from jaxdescent.preconditioners.hessians import ShiftedHessian as ShiftedHessian
from jaxdescent.preconditioners.hessians import shifted_hessian as shifted_hessian
from jaxdescent.preconditioners.jacobi import Jacobi as Jacobi
from jaxdescent.preconditioners.nystrom import Nystrom as Nystrom
from jaxdescent.preconditioners.protocol import Factor as Factor
from jaxdescent.preconditioners.protocol import Preconditioner as Preconditioner
from jaxdescent.preconditioners.sketch import Sketch as Sketch
