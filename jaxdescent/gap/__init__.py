"""How far a value is above the minimum nearby: the one answer by which a descent may converge."""

from jaxdescent.gap.gap import Gap as Gap
from jaxdescent.gap.gap import Query as Query
from jaxdescent.gap.krylov import krylov_gap as krylov_gap
from jaxdescent.gap.structure import known_by_structure as known_by_structure
