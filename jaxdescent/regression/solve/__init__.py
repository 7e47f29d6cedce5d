"""Exact solves of a regression: normal equations, QR with refinement, the dual form.

All of them solve the centred and weighted problem. Let ``x_bar, y_bar`` be the weighted means and
``D = diag(sqrt(s))``: the weights minimise ``|D (X - 1 x_bar') w - D (y - y_bar)|^2 + l2 |w|^2``,
and the intercept is ``y_bar - x_bar.w``.
"""
