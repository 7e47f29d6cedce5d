"""From a call to a program: a problem posed, its program, and calls that repeat one before."""
