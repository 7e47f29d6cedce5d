"""What depends on the platform a program is compiled for, and nothing else does.

Every function here has a plain form, one product or one reduction, which XLA compiles well for
accelerators and for arrays that are sharded; and for a CPU by itself, where XLA does not, a form of
its own. :mod:`jaxdescent.kernels.platform` asks which of them a program needs.
"""
