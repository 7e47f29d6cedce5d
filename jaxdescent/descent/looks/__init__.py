"""Looks: examinations of a claim to have converged, by the structure or by the function itself."""
