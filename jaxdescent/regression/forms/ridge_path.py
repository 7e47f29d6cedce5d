"""The solutions of a regression for many penalties, from one spectral factorisation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdescent.kernels.products import contract
from jaxdescent.objectives.protocol import Params
from jaxdescent.regression.forms.gram import GramForm
from jaxdescent.regression.forms.spectral import GramSpectrum


def ridge_path(form: GramForm, penalties: Any) -> Params:
    """The minimisers for many penalties at once, by one spectral factorisation of G.

    With ``G = V diag(e) V'`` they are ``w(l2) = V diag(1 / (e + l2)) V'c``. The factorisation takes
    about ``10 features^3`` operations; each penalty and output then takes ``features^2``, in one
    matrix product. Where G is well-conditioned, ``jd.Gram()`` takes less time on a regression with
    a copy of y and an ``l2`` for each penalty: each of its iterations is one such product.

    Args:
      form: the Gram form of the regression; its own ``l2`` is not used.
      penalties: (penalties,), each at least 0.

    Returns:
      The regression's params with a leading axis of penalties.

    Raises:
      ValueError: if ``penalties`` is not one-dimensional.

    >>> import jax.numpy as jnp, jaxdescent as jd
    >>> X = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> regression = jd.LinearRegression(X, jnp.array([1.0, 4.0]), intercept=False)
    >>> path = ridge_path(GramForm.from_regression(regression), jnp.array([0.0, 1.0, 4.0]))
    >>> expected = jnp.array([[1.0, 2.0], [0.5, 1.6], [0.2, 1.0]])
    >>> bool(jnp.allclose(path["weights"], expected, rtol=1e-5))
    True

    Reference: Hastie, Tibshirani and Friedman (2009), "The elements of statistical learning",
    section 3.4.1.
    """
    penalties = jnp.asarray(penalties, form.gram.dtype)
    if penalties.ndim != 1:
        raise ValueError(
            f"penalties must have shape (penalties,), got {penalties.shape}: pass a list or a "
            "one-dimensional array."
        )
    spectrum = GramSpectrum.of(form.gram)
    weights = jax.vmap(spectrum.inverse, (None, 0))(form.cross, penalties)
    params = {"weights": weights}
    if form.feature_mean is not None and form.target_mean is not None:
        offset = contract(weights, 1, form.feature_mean)
        params["intercept"] = form.target_mean[None] - offset
    return params
