"""Fits of linear models to data, and the fitted models: saved, loaded, and used to predict."""

from jaxdescent.fit.fitting import fit_model as fit_model
from jaxdescent.fit.loading import load_model as load_model
from jaxdescent.fit.model import Model as Model
from jaxdescent.fit.progress import ProgressListener as ProgressListener
