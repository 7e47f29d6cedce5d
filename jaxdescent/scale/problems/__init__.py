"""The problems that ``jaxdescent scale`` knows, by name."""

from jaxdescent.scale.problems.arrays import DenseRegression, Llama
from jaxdescent.scale.problems.host_built import FixedEffects, HashedRegression, SparseRegression
from jaxdescent.scale.problems.protocol import LAYOUTS as LAYOUTS
from jaxdescent.scale.problems.protocol import NotDivisible as NotDivisible
from jaxdescent.scale.problems.protocol import ScalingProblem as ScalingProblem
from jaxdescent.scale.problems.protocol import TooFewDevices as TooFewDevices
from jaxdescent.scale.problems.protocol import bytes_of_a_device as bytes_of_a_device
from jaxdescent.scale.problems.protocol import mesh_of as mesh_of

PROBLEMS: dict[str, ScalingProblem] = {
    "dense": DenseRegression(),
    "sparse": SparseRegression(),
    "hashed": HashedRegression(),
    "categorical": FixedEffects(),
    "llama3-8b": Llama(),
}
