"""Arithmetic that several packages use: rounding and norms, random numbers, Krylov processes."""
