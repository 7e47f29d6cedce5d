"""What a problem costs on hardware, here or elsewhere, and the method to take.

``hardware`` is the table of published figures, and ``topologies`` describes the devices in it to
XLA's compiler, which needs no device.
"""
