"""A start from a model that was fitted before: its weights by the names of features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxdescent.data import DataError
from jaxdescent.data.errors import listed
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.model import Model
from jaxdescent.fit.roles import Roles


class Start(NamedTuple):
    """The start of a descent, from a model's weights.

    Attributes:
      weights: (features,), in the order of the new encoding.
      intercept: the intercept of the prediction.
      notes: notes on the start, as sentences.
    """

    weights: np.ndarray
    intercept: float
    notes: list[str]


def check_start(model: Model, roles: Roles, bits: int) -> None:
    """Refuse a model whose columns are not used as those of the fit.

    Raises:
      DataError: naming what differs.
    """
    old = model.encoding
    if model.target != roles.target:
        raise DataError(
            f"--start is a model of {model.target!r}, and {roles.target!r} is to be fitted: name "
            "another."
        )
    differences: list[str] = []
    for what, before, now in (
        ("numeric", old.numbers, roles.numbers),
        ("categorical", old.levels, roles.categorical),
        ("hashed", old.hashed, roles.hashed),
    ):
        lacking = [repr(name) for name in before if name not in now]
        new = [repr(name) for name in now if name not in before]
        if lacking:
            differences.append(f"{what} {listed(lacking)} of the model alone")
        if new:
            differences.append(f"{what} {listed(new)} of the fit alone")
    if old.sparse != roles.sparse:
        differences.append(f"sparse {old.sparse!r} of the model and {roles.sparse!r} of the fit")
    if roles.hashed and not differences and old.bits != bits:
        differences.append(f"--bits {old.bits} of the model and {bits} of the fit")
    for name, each in roles.interactions.items():
        before = old.interactions.get(name)
        if before is not None and before != each:
            differences.append(f"what {name!r} is made of")
    if differences:
        raise DataError(f"--start does not fit, for the columns differ: {'; '.join(differences)}.")


def start_of(model: Model, encoding: Encoding) -> Start:
    """The model's weights in the order of another encoding of the same columns; features that are
    new start at zero.
    """
    old = model.encoding
    weights = np.zeros(encoding.size)
    known = np.zeros(encoding.size, bool)
    place = {name: j for j, name in enumerate(old.numbers)}
    for j, name in enumerate(encoding.numbers):
        weights[j], known[j] = model.weights[place[name]], True
    starts, at = {}, len(old.numbers)
    for name, levels in old.levels.items():
        starts[name], at = at, at + len(levels)
    first_bucket, at = at, len(encoding.numbers)
    for name, levels in encoding.levels.items():
        before = {level: starts[name] + k for k, level in enumerate(old.levels[name])}
        for level in levels:
            if level in before:
                weights[at], known[at] = model.weights[before[level]], True
            at += 1
    for before, now, first in (
        (old.buckets, encoding.buckets, first_bucket),
        (old.indices, encoding.indices, first_bucket + len(old.buckets)),
    ):
        if len(before) and len(now):
            position = np.minimum(np.searchsorted(before, now), len(before) - 1)
            same = before[position] == now
            weights[at : at + len(now)] = np.where(same, model.weights[first + position], 0.0)
            known[at : at + len(now)] = same
        at += len(now)
    kept = int(known.sum())
    notes = [f"{kept:,} of {encoding.size:,} weights started from the model's."]
    gone = old.size - kept
    if gone:
        notes.append(
            f"{gone:,} of its levels or buckets are in no training row: the new model has no "
            "weights for them."
        )
    return Start(weights, model.intercept, notes)
