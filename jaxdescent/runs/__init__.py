"""Long descents, driven from the host: watched, saved, interrupted and resumed."""

from jaxdescent.runs import hooks as hooks
from jaxdescent.runs.run import run as run
