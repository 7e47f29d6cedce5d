"""A start from a model that was fitted before: its weights by the names of features."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdescent.data import DataError
from jaxdescent.data.errors import listed
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.model import Model
from jaxdescent.fit.roles import Roles


def check_start(model: Model, roles: Roles) -> None:
    """Refuse a model whose columns are not used as those of the fit.

    Raises:
      DataError: naming what differs.
    """
    old, new = model.encoding, roles.features
    if model.target != roles.target:
        raise DataError(
            f"--start is a model of {model.target!r}, and {roles.target!r} is to be fitted: name "
            "another."
        )
    differences: list[str] = []
    for what, before, now in (
        ("numeric", old.numbers, new.numbers),
        ("categorical", old.levels, new.levels),
        ("hashed", old.hashed, new.hashed),
    ):
        for names, others, whose in ((before, now, "model"), (now, before, "fit")):
            alone = [repr(name) for name in names if name not in others]
            if alone:
                differences.append(f"{what} {listed(alone)} of the {whose} alone")
    if old.sparse != new.sparse:
        differences.append(f"sparse {old.sparse!r} of the model and {new.sparse!r} of the fit")
    if new.hashed and not differences and old.bits != new.bits:
        differences.append(f"--bits {old.bits} of the model and {new.bits} of the fit")
    for name, each in new.interactions.items():
        if old.interactions.get(name, each) != each:
            differences.append(f"what {name!r} is made of")
    if differences:
        raise DataError(f"--start does not fit, for the columns differ: {'; '.join(differences)}.")


def start_of(model: Model, encoding: Encoding) -> tuple[np.ndarray, list[str]]:
    """The model's weights in the order of another encoding of the same columns, and notes on them,
    as sentences; features that are new start at zero.
    """
    weights, kept = np.zeros(encoding.size), 0
    old = _groups(model.encoding)
    for group, (first, keys) in _groups(encoding).items():
        begin, before = old[group]
        _, there, here = np.intersect1d(before, keys, assume_unique=True, return_indices=True)
        weights[first + here] = model.weights[begin + there]
        kept += here.size
    notes = [f"{kept:,} of {encoding.size:,} weights started from the model's."]
    gone = model.encoding.size - kept
    if gone:
        notes.append(
            f"{gone:,} of its levels or buckets are in no training row: the new model has no "
            "weights for them."
        )
    return weights, notes


def _groups(encoding: Encoding) -> dict[tuple[str, str], tuple[int, np.ndarray]]:
    """Groups of features, each with the place of its first weight and the keys of all weights."""
    found, first = dict[tuple[str, str], tuple[int, np.ndarray]](), 0
    named: dict[tuple[str, str], Any] = {("numbers", ""): encoding.numbers}
    named |= {("levels", name): own for name, own in encoding.levels.items()}
    named |= {("buckets", ""): encoding.buckets, ("indices", ""): encoding.indices}
    for group, keys in named.items():
        found[group] = first, np.asarray(keys, getattr(keys, "dtype", object))
        first += len(keys)
    return found
