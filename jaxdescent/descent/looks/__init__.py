"""Looks at a claim to have converged: what the structure, or the function, shows of it."""
