"""Hooks, which a run calls between its chunks: ``jd.hooks``."""

from jaxdescent.runs.hooks.checkpoint import Checkpoint as Checkpoint
from jaxdescent.runs.hooks.history import History as History
from jaxdescent.runs.hooks.profile import Profile as Profile
from jaxdescent.runs.hooks.progress import Progress as Progress
from jaxdescent.runs.hooks.protocol import Facts as Facts
from jaxdescent.runs.hooks.protocol import Hook as Hook
from jaxdescent.runs.hooks.protocol import Pause as Pause
from jaxdescent.runs.hooks.protocol import Record as Record
from jaxdescent.runs.hooks.protocol import StopWhen as StopWhen
from jaxdescent.runs.hooks.protocol import Summary as Summary
