"""The descent: one loop, its stopping rules, and derivatives through its result."""
