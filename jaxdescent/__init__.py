"""Minimise sums of squares, regressions and any differentiable function by gradient descent in JAX.

>>> import jaxdescent as jd
>>> result = jd.minimize(lambda p: p["x"] ** 2 + p["y"] ** 2, {"x": 3.0, "y": -4.0})
>>> bool(result.converged), jd.certify(lambda p: p["x"] ** 2 + p["y"] ** 2, result).kind
(True, 'minimum')
"""

TYPE_CHECKING = False  # type checkers take it for true; to import it from typing takes time
if TYPE_CHECKING:
    from jaxdescent._critical_points import CriticalPoint as CriticalPoint
    from jaxdescent._critical_points import critical_points as critical_points
    from jaxdescent._minimize_batch import minimize_batch as minimize_batch
    from jaxdescent.certificate import Certificate as Certificate
    from jaxdescent.certificate import certify as certify
    from jaxdescent.compilation_cache import cache as cache
    from jaxdescent.cost import Candidate as Candidate
    from jaxdescent.cost import Plan as Plan
    from jaxdescent.designs import Categorical as Categorical
    from jaxdescent.designs import Concatenated as Concatenated
    from jaxdescent.designs import Hashed as Hashed
    from jaxdescent.designs import MatrixFree as MatrixFree
    from jaxdescent.designs import Sparse as Sparse
    from jaxdescent.designs import Streamed as Streamed
    from jaxdescent.fit import fit_model as fit_model
    from jaxdescent.fit import load_model as load_model
    from jaxdescent.kernels.memory import ProblemTooLarge as ProblemTooLarge
    from jaxdescent.methods import LBFGS as LBFGS
    from jaxdescent.methods import LSMR as LSMR
    from jaxdescent.methods import Backtracking as Backtracking
    from jaxdescent.methods import BarzilaiBorwein as BarzilaiBorwein
    from jaxdescent.methods import ConjugateGradient as ConjugateGradient
    from jaxdescent.methods import DerivativeMethod as DerivativeMethod
    from jaxdescent.methods import ExactLineSearch as ExactLineSearch
    from jaxdescent.methods import GradientDescent as GradientDescent
    from jaxdescent.methods import Gram as Gram
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
    from jaxdescent.plan import plan as plan
    from jaxdescent.preconditioners import Eliminate as Eliminate
    from jaxdescent.preconditioners import Jacobi as Jacobi
    from jaxdescent.preconditioners import Nystrom as Nystrom
    from jaxdescent.preconditioners import Sketch as Sketch
    from jaxdescent.processes import OtherProcessFailed as OtherProcessFailed
    from jaxdescent.regression import LinearRegression as LinearRegression
    from jaxdescent.result import History as History
    from jaxdescent.result import Result as Result
    from jaxdescent.runs import hooks as hooks
    from jaxdescent.runs import run as run
    from jaxdescent.status import Evidence as Evidence
    from jaxdescent.status import Status as Status
    from jaxdescent.tolerance import Tolerance as Tolerance
else:
    import sys
    from importlib import import_module

    # The names above, by their modules. A module is imported when one of its names is first asked
    # for: most programs need few of them, and the command line reads its options before any.
    _NAMES = {
        "processes": "OtherProcessFailed",
        "_minimize_batch": "minimize_batch",
        "certificate": "Certificate certify",
        "compilation_cache": "cache",
        "_critical_points": "CriticalPoint critical_points",
        "designs": "Categorical Concatenated Hashed MatrixFree Sparse Streamed",
        "fit": "fit_model load_model",
        "plan": "plan",
        "kernels.memory": "ProblemTooLarge",
        "methods": "LBFGS LSMR Backtracking BarzilaiBorwein ConjugateGradient "
        "DerivativeMethod ExactLineSearch GradientDescent Gram "
        "InverseLipschitz LevenbergMarquardt MiniBatches Nesterov",
        "minimize": "minimize",
        "numerics.precision": "Nearest StochasticRounding",
        "objectives": "LeastSquares Quadratic SumOfSquares",
        "cost": "Candidate Plan",
        "preconditioners": "Eliminate Jacobi Nystrom Sketch",
        "regression": "LinearRegression",
        "result": "History Result",
        "status": "Evidence Status",
        "runs": "hooks run",
        "tolerance": "Tolerance",
    }
    _HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
    __all__ = list(_HOMES)

    def __getattr__(name):
        try:
            if name in _HOMES:
                home = import_module(f"{__name__}.{_HOMES[name]}")
                return globals().setdefault(name, getattr(home, name))
            if not name.startswith("_"):
                return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *_HOMES})

    class _Package(type(sys)):
        def __setattr__(self, name, value):
            # Python sets a module that was imported as an attribute of its package. Here that would
            # hide the functions minimize and plan.
            if not (name in _HOMES and isinstance(value, type(sys))):
                super().__setattr__(name, value)

    sys.modules[__name__].__class__ = _Package

    if "jax" in sys.modules:
        # JAX traces functions again after a change of settings. These two modules change some, so
        # they are imported here, and not by the first call.
        import_module(f"{__name__}.inputs.tracing")
        import_module(f"{__name__}.kernels.platform")
