"""The rates of a device: how fast it reads, multiplies and factorises, and what a call costs.

They are measured once, or are stated defaults. A calibration takes a few seconds and is kept as
JSON in the user's cache folder, under a name made of the device's kind, the versions of jax and
jaxlib, and the number of cores. :meth:`Machine.measured`, for interactive planning, runs the
calibration if there is none; :meth:`Machine.of`, for code that may be traced, only reads one.
Devices that are not attached are given by name: ``devices`` has their published figures, and
``topologies`` describes them to XLA's compiler.
"""

from jaxdescent.machine.machine import Machine as Machine
