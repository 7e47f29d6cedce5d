"""The problems that ``jaxdescent scale`` knows, by name."""

from jaxdescent.scale.problems.arrays import Dense, Llama
from jaxdescent.scale.problems.host_built import Categorical, Hashed, Sparse
from jaxdescent.scale.problems.protocol import LAYOUTS as LAYOUTS
from jaxdescent.scale.problems.protocol import NotDivisible as NotDivisible
from jaxdescent.scale.problems.protocol import Problem as Problem
from jaxdescent.scale.problems.protocol import TooFewDevices as TooFewDevices
from jaxdescent.scale.problems.protocol import bytes_of as bytes_of
from jaxdescent.scale.problems.protocol import bytes_of_a_device as bytes_of_a_device
from jaxdescent.scale.problems.protocol import mesh_of as mesh_of

PROBLEMS: dict[str, Problem] = {
    "dense": Dense(),
    "sparse": Sparse(),
    "hashed": Hashed(),
    "categorical": Categorical(),
    "llama3-8b": Llama(),
}
