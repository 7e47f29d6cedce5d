"""Text for people: one line for an object that is passed in, a few lines for one that comes back.

Showing an object never raises and never waits for a trace. An array that is traced, deleted or on
other hosts is shown by its dtype and shape, and so is whatever JAX puts into a pytree in its place.
"""

from jaxdescent.display.displayed import Displayed as Displayed
from jaxdescent.display.displayed import argument as argument
from jaxdescent.display.displayed import name_of as name_of
from jaxdescent.display.displayed import structure_name as structure_name
from jaxdescent.display.numbers import guarded as guarded
from jaxdescent.display.numbers import number as number
from jaxdescent.display.numbers import readable_seconds as readable_seconds
from jaxdescent.display.numbers import rough_seconds as rough_seconds
from jaxdescent.display.numbers import shape_of as shape_of
from jaxdescent.display.report import Grid as Grid
from jaxdescent.display.report import Report as Report
from jaxdescent.display.report import Rows as Rows
from jaxdescent.display.report import aligned as aligned
from jaxdescent.display.report import broken as broken
