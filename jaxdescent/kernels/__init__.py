"""Operations whose best form depends on the platform that a program is compiled for.

Every function here has a plain form, one product or one reduction, which XLA compiles well for
accelerators and for sharded arrays. Where XLA compiles it badly for a CPU, there is a second form
for CPUs. :mod:`jaxdescent.kernels.platform` decides which of them a program uses. No code outside
this package depends on the platform.
"""
