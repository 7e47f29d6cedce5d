"""A fitted model: what it predicts, and the folder that it is kept in."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdescent.display import Displayed
from jaxdescent.fit.encoded import encode, product
from jaxdescent.fit.encoding import Encoding, frame_of
from jaxdescent.fit.memory import Memory
from jaxdescent.rows import DataError, Kind, Source, open_source
from jaxdescent.rows.ahead import read_ahead
from jaxdescent.rows.errors import check_columns, check_room, listed, path_of, printable, writing

SCHEMA = 3
"""The version of the layout of ``model.json``."""

FORMAT = "jaxdescent model"
DESCRIPTION, WEIGHTS, BUCKETS, INDICES = (
    "model.json",
    "weights.npy",
    "buckets.npy",
    "indices.npy",
)


ADVICE = "fit with --missing mean to have means for such rows"
"""What to do about a missing value in rows to predict."""


class Predicted(NamedTuple):
    """The predictions of a block."""

    values: np.ndarray  # (rows,)
    kept: Any  # a data frame of the columns that are kept with them
    unseen: int = 0  # how many values are levels or indices that no training row had


@dataclasses.dataclass(frozen=True, eq=False)
class Model(Displayed):
    """A linear model of named columns.

    Attributes:
      target: the column that it predicts.
      encoding: how columns become features.
      weights: (features,), float64, in the order of the encoding.
      intercept: the intercept of the prediction.
      options: the options that it was fitted with.
      metrics: figures of the fit: R², RMSE, status, and the rest of the summary.
      versions: the versions of the libraries that fitted it.
      fingerprint: the fingerprint of the data that it was fitted on.
    """

    target: str
    encoding: Encoding
    weights: np.ndarray
    intercept: float
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fingerprint: str = ""

    def _arguments(self) -> list[str]:
        scores = [
            f"{part.replace('_', '-')} R² {score['r2']:.4g}"
            for part in ("train", "held_out")
            if (score := self.metrics.get(part)) and score.get("r2") is not None
        ]
        return [f"{printable(self.target)} by {self.encoding.size:,} features", *scores]

    def predict(
        self,
        data: Any,
        *,
        where: str | None = None,
        missing: str | None = None,
        unseen: str = "error",
    ) -> Any:
        """Predictions for the rows of a table, file, folder or source, (rows,), in float64.

        Args:
          data: whatever :func:`jaxdescent.rows.open_source` takes, with the model's columns.
          where: which rows to predict, in SQL, such as "month <= 6"; all by default.
          missing: "error", or "mean" for the training rows' means in place of missing numbers; by
            default "mean" where the model was fitted so.
          unseen: "error", or "zero" for no effect of levels, and indices of sparse numbers, that no
            training row had.

        Raises:
          DataError: where columns do not match, with their names, or a value cannot be used.
        """
        source = open_source(data, where=where)
        parts = [each.values for each in self.predictions(source, missing=missing, unseen=unseen)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def predictions(
        self,
        source: Source,
        *,
        missing: str | None = None,
        unseen: str = "error",
        memory: Memory | None = None,
        keep: Sequence[str] = (),
    ) -> Iterator[Predicted]:
        """Predictions block by block; ``keep`` names columns that come along. With ``missing``
        "keep" the prediction of a row that lacks a value is NaN.
        """
        encoding = self.encoding
        if not missing:
            missing = "mean" if self.options.get("missing") == "mean" else "error"
        if missing not in ("error", "mean", "keep") or unseen not in ("error", "zero"):
            raise DataError(
                f"missing must be error or mean and unseen error or zero, got {missing!r} and "
                f"{unseen!r}."
            )
        if missing == "mean" and encoding.numbers and not encoding.fills:
            raise DataError(
                "the model knows no means for missing values: fit it with --missing mean."
            )
        check_columns(keep, source.kinds)
        for name in keep:
            if source.kinds[name] is Kind.SPARSE:
                raise DataError(f"--keep {name}: sparse numbers are no column: leave it out.")
        self._check_columns(source.kinds)
        # A column that the model does not read as a number is carried as it stands in the file.
        plain = [name for name in keep if name not in encoding.numeric]
        source = source.as_text([*encoding.texts, *plain])
        # Without columns nothing would tell how many rows there are.
        names = list(dict.fromkeys([*encoding.columns, *keep])) or list(source.kinds)[:1]
        memory = memory or Memory.of(None)
        rounded = [name for name in keep if name not in plain and source.kinds[name] is Kind.WHOLE]
        size = memory.block_rows(source, names, 2 * encoding.row_bytes + 32)
        rule, outside = "drop" if missing == "keep" else missing, 0
        how = {"missing": rule, "unseen": unseen, "advice": ADVICE}
        for block in read_ahead(lambda: source.blocks(names, size)):
            encoded = encode(encoding, block, source, **how)
            predicted = product(encoded.numbers, encoded.others, self.weights) + self.intercept
            if encoded.kept is not None:
                predicted = np.where(encoded.kept, predicted, np.nan)
            elif not np.isfinite(predicted).all():
                place = source.place(block.start + int(np.argmin(np.isfinite(predicted))))
                raise DataError(f"the prediction is NaN or infinite in {place}: correct the data.")
            outside += encoding.outside(block)
            for name in rounded:
                column = frame_of(block, [name])[name]
                if column.dtype.is_float() and (column.abs() >= 2.0**53).any():
                    raise DataError(
                        f"--keep {name}: the model reads it as a number, which is rounded from "
                        "9,007,199,254,740,992 on: leave it out of --keep."
                    )
            yield Predicted(predicted, frame_of(block, keep), int(encoded.unseen.sum()))
            memory.check("predicting")
        if outside:
            spans = listed(f"{name!r}: {each.span}" for name, each in encoding.dates.items())
            warnings.warn(
                f"{outside:,} rows are outside of the dates of the fit ({spans}): its trend is "
                "continued there",
                stacklevel=2,
            )

    def _check_columns(self, kinds: Mapping[str, Kind]) -> None:
        check_columns(self.encoding.columns, kinds)
        sparse = [] if self.encoding.sparse is None else [self.encoding.sparse]
        levels = {*Kind} - {Kind.NUMBER, Kind.OTHER}
        numbers, parts = {kind for kind in Kind if kind.is_number}, self.encoding.parts
        for named, allowed, what in (
            (self.encoding.numeric, numbers, "be numeric"),
            (sparse, {Kind.SPARSE}, "hold sparse numbers"),
            (self.encoding.labelled, levels, "hold text or whole numbers"),
            (self.encoding.dates, {Kind.DATE, Kind.TEXT}, "hold dates"),
        ):
            names = [name for name in named if name not in parts]
            wrong = [name for name in names if kinds[name] not in allowed]
            if wrong:
                raise DataError(
                    f"{listed(map(repr, wrong))} must {what}, as in the data that the model was "
                    f"fitted on, got {kinds[wrong[0]]}."
                )

    def named_weights(self, most: int) -> list[tuple[str, float]]:
        """The largest weights with the names of their features, largest first."""
        order = np.argsort(-np.abs(self.weights), kind="stable")[:most]
        return [(self.encoding.feature_name(int(j)), float(self.weights[j])) for j in order]

    def save(self, folder: Any, *, overwrite: bool = False) -> pathlib.Path:
        """Write the model to a folder, under a temporary name that is then changed.

        Raises:
          DataError: where the folder is there already and may not be replaced, or cannot be
            written.
        """
        target = check_output(folder, overwrite=overwrite)
        room = {"prefix": f".{target.name}-", "dir": target.parent}
        with writing(target), tempfile.TemporaryDirectory(**room) as place:
            new, old = pathlib.Path(place) / "new", pathlib.Path(place) / "old"
            new.mkdir()
            self._write(new)
            try:
                if target.exists():
                    target.rename(old)
                new.rename(target)
            except BaseException:  # Ctrl-C can follow each of the two
                if old.exists() and not target.exists():
                    old.rename(target)
                raise
        return target

    def _arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are kept, by the names of their files."""
        encoding, arrays = self.encoding, {WEIGHTS: np.asarray(self.weights, np.float64)}
        if encoding.hashed:
            arrays[BUCKETS] = encoding.buckets
        if encoding.sparse is not None:
            arrays[INDICES] = encoding.indices
        return {name: np.ascontiguousarray(each) for name, each in arrays.items()}

    def digest(self) -> str:
        """A digest of all arrays, by which a description is known to be theirs."""
        digest = hashlib.sha256()
        for array in self._arrays().values():
            digest.update(array.data)
        return f"sha256:{digest.hexdigest()}"

    def _write(self, folder: pathlib.Path) -> None:
        encoding = self.encoding
        content = {
            "format": FORMAT,
            "schema": SCHEMA,
            "target": self.target,
            "features": encoding.size,
            "intercept": self.intercept,
            "encoding": encoding.as_json(),
            "options": dict(self.options),
            "metrics": dict(self.metrics),
            "versions": dict(self.versions),
            "data": self.fingerprint,
            "arrays": self.digest(),
        }
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        arrays = self._arrays()
        for name in (*arrays, DESCRIPTION):
            with (folder / name).open("wb") as file:
                if name in arrays:
                    # Not by np.save, which does not say why a disk takes no more.
                    header = np.lib.format.header_data_from_array_1_0(arrays[name])
                    np.lib.format.write_array_header_1_0(file, header)
                    file.write(arrays[name].data)
                else:
                    file.write(f"{text}\n".encode())
                file.flush()
                os.fsync(file.fileno())


def check_output(folder: Any, *, overwrite: bool) -> pathlib.Path:
    """A folder that a model can be written to, looked at before anything is read."""
    target = pathlib.Path(os.path.abspath(path_of(folder)))
    check_room(target)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise DataError(f"{target} is no folder: name another.")
    if not target.exists():
        return target
    content = {path.name for path in target.iterdir()}
    if content and not overwrite:
        raise DataError(f"{target} exists: name another folder, or say --overwrite.")
    if not content <= {DESCRIPTION, WEIGHTS, BUCKETS, INDICES} or (
        content and DESCRIPTION not in content
    ):
        raise DataError(f"{target} holds more than a model, and is not replaced: name another.")
    if not os.access(target, os.W_OK | os.X_OK):
        raise DataError(f"{target}: no permission to replace it.")
    return target
