"""Whether CONVERGED is true: drawn problems beyond direct solves, held against float64."""
