"""How good the points are where descents say CONVERGED, and what it costs to reach them."""
