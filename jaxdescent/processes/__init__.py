"""Agreement, exchange and common end of the processes of a distributed run.

``deciding`` opens groups of processes that decide alike, and raises one process's error in all, by
``messages`` that each leaves for the others; it compares their calls by the texts of ``same_call``.
``arrays`` exchanges data that are larger than a message. ``joining`` lets processes find
each other, ``ending`` lets the early end of one end all, and ``signals`` tells a process to end,
also while it waits for a program.
"""

from jaxdescent.processes.arrays import added as added
from jaxdescent.processes.arrays import told_bytes_by_all as told_bytes_by_all
from jaxdescent.processes.deciding import FailedElsewhere as FailedElsewhere
from jaxdescent.processes.deciding import Stopped as Stopped
from jaxdescent.processes.deciding import among as among
from jaxdescent.processes.deciding import among_all as among_all
from jaxdescent.processes.deciding import attempted as attempted
from jaxdescent.processes.deciding import check_alike as check_alike
from jaxdescent.processes.deciding import clock as clock
from jaxdescent.processes.deciding import is_alone as is_alone
from jaxdescent.processes.deciding import is_first as is_first
from jaxdescent.processes.deciding import least as least
from jaxdescent.processes.deciding import members as members
from jaxdescent.processes.deciding import patience as patience
from jaxdescent.processes.deciding import told_by_all as told_by_all
from jaxdescent.processes.deciding import told_by_first as told_by_first
from jaxdescent.processes.ending import follow_early_end as follow_early_end
from jaxdescent.processes.ending import leave_without_others as leave_without_others
from jaxdescent.processes.messages import OtherProcessFailed as OtherProcessFailed
