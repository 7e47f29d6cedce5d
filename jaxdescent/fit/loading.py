"""A model out of the folder where it was saved."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from jaxdescent.data import DataError
from jaxdescent.data.errors import listed, reading
from jaxdescent.fit.dates import Dates
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.model import BUCKETS, DESCRIPTION, FORMAT, INDICES, READABLE, WEIGHTS, Model
from jaxdescent.fit.schema import check, content_of


def load_model(folder: Any) -> Model:
    """A model that was saved.

    Args:
      folder: the path of the folder that ``Model.save``, or ``jaxdescent fit``, wrote.

    Returns:
      The :class:`Model`.

    Raises:
      DataError: where it is no model, or one of another schema, or files are damaged.

    >>> import tempfile
    >>> import numpy as np, jaxdescent as jd
    >>> table = {"x": np.arange(5.0), "y": 2 * np.arange(5.0) + 1}
    >>> with tempfile.TemporaryDirectory() as room:
    ...     saved = jd.fit_model(table, target="y").save(f"{room}/line")
    ...     print(jd.load_model(saved).predict({"x": np.array([10.0])}).round(6))
    [21.]
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.")
    path = folder / DESCRIPTION
    if not path.exists():
        raise DataError(f"{folder} holds no {DESCRIPTION}: it is no model.")
    with reading(path):
        try:
            content = content_of(path.read_text(encoding="utf-8"), path)
        except UnicodeError as error:
            raise DataError(f"{path} is damaged: {error}.") from error
    if content.get("format") != FORMAT:
        raise DataError(f"{path} does not describe a jaxdescent model.")
    if content.get("schema") not in READABLE:
        raise DataError(
            f"{path} has schema {content.get('schema')!r}, and this version reads "
            f"{listed(map(str, READABLE))}: load it with the version that wrote it, or fit again."
        )
    check(content, path)
    encoding = content["encoding"]
    buckets = indices = np.zeros(0, np.int64)
    if encoding["hashed"]:
        buckets = _rising_places_of(folder / BUCKETS, 1 << encoding["bits"])
    if encoding.get("sparse") is not None:
        indices = _rising_places_of(folder / INDICES, np.iinfo(np.int64).max)
    weights = _vector_of(folder / WEIGHTS, np.dtype(np.float64))
    if not np.isfinite(weights).all():
        raise DataError(f"{folder / WEIGHTS} is damaged: weights must be finite.")
    model = Model(
        target=content["target"],
        encoding=Encoding.of_json(encoding, buckets, indices),
        weights=weights,
        intercept=float(content["intercept"]),
        options=content["options"],
        metrics=content["metrics"],
        versions=content["versions"],
        fingerprint=content["data"],
        dates={
            name: Dates(tuple(each["parts"]), each.get("zone"), each["first"], each["last"])
            for name, each in (content.get("dates") or {}).items()
        },
    )
    if len(model.weights) != model.encoding.size or content["features"] != model.encoding.size:
        raise DataError(
            f"{folder} is damaged: it has {len(model.weights):,} weights for "
            f"{model.encoding.size:,} features."
        )
    # A folder that is replaced while it is read gives files of two models.
    if content.get("arrays") not in (None, model.digest()):
        raise DataError(
            f"{folder} is damaged, or was replaced while it was read: {WEIGHTS} is not that of its "
            f"{DESCRIPTION}; load it again."
        )
    return model


def _rising_places_of(path: pathlib.Path, count: int) -> np.ndarray:
    """The indices that a file holds: strictly rising, from 0 to below ``count``."""
    places = _vector_of(path, np.dtype(np.int64))
    if places.size and (places[0] < 0 or places[-1] >= count or np.any(np.diff(places) <= 0)):
        raise DataError(f"{path} is damaged: places must rise from 0 to {count - 1:,}.")
    return places


def _vector_of(path: pathlib.Path, dtype: np.dtype[Any]) -> np.ndarray:
    """The vector that a file holds.

    Raises:
      DataError: where it cannot be read, or holds something else.
    """
    with reading(path):
        array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype != dtype:
        raise DataError(f"{path} is damaged: it must hold one column of {dtype}.")
    return array
