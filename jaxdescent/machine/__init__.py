"""How fast a device reads, multiplies, factorises and answers: measured once, or a stated default.

A calibration takes a few seconds and is kept as JSON in the user's cache folder, under a name made
of the device's kind, the versions of jax and jaxlib, and the number of cores. Planning in front of
a person measures it (:meth:`Machine.measured`); whatever may be traced only looks whether there is
one (:meth:`Machine.of`). Devices that are not here are told by their names: ``devices`` has their
published figures, and ``topologies`` what a program for them can be compiled for.
"""

from jaxdescent.machine.devices import ASSUMED as ASSUMED
from jaxdescent.machine.devices import mesh_named as mesh_named
from jaxdescent.machine.flops import cholesky_flops as cholesky_flops
from jaxdescent.machine.flops import orthogonal_flops as orthogonal_flops
from jaxdescent.machine.machine import Machine as Machine
