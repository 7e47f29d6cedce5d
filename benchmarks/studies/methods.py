"""Every method on five problems, beside NumPy, SciPy and scikit-learn: which method when.

Iterations, passes over X, and time to a relative suboptimality of 1e-6, on a well-conditioned and
an ill-conditioned tall regression, a square and a fat one, and a function that is not quadratic;
and the cases that ask for float64, for one backward error, and for the step rules' iterations.
The suite ``methods`` of the benchmarks by its own name.

    python benchmarks/studies/methods.py [--full] [--case NAME] [--contender WORD] [--repeats R]
"""

from __future__ import annotations

import sys

from benchmarks.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", "--suite", "methods", *sys.argv[1:]]))
