"""From a call to a compiled program: the problem, its program, and repeated calls."""
