"""Arithmetic that several rooms need: rounding and norms, random numbers, Krylov processes."""
