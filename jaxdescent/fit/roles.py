"""The roles of columns: features, levels, hashed values, the target, weights of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from jaxdescent.data import DataError, Kind
from jaxdescent.data.errors import check_columns, listed
from jaxdescent.fit.interactions import Interaction, asked_interactions, columns_of

AUTO = "auto"
"""The automatic choice of an option; for categorical columns, all columns that hold text."""

MOST_BITS = 28


class Roles(NamedTuple):
    """The columns of a fit by what they are used for; interactions stand among them by name."""

    target: str
    numbers: tuple[str, ...]
    categorical: tuple[str, ...]
    hashed: tuple[str, ...]
    weights: str | None
    sparse: str | None = None
    interactions: Mapping[str, Interaction] = MappingProxyType({})

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        own = [self.target] if self.weights is None else [self.target, self.weights]
        own += [] if self.sparse is None else [self.sparse]
        names = [*self.numbers, *self.categorical, *self.hashed]
        kinds = (False, self.numbers), (True, (*self.categorical, *self.hashed))
        read = [
            column
            for of_labels, columns in kinds
            for column in columns_of(names, self.interactions, of_labels=of_labels, own=columns)
        ]
        return list(dict.fromkeys([*read, *own]))

    def labels_of(self, names: Sequence[str]) -> list[str]:
        """The columns that these names, interactions among them, use by their levels."""
        return columns_of(names, self.interactions, of_labels=True, own=names)


def assign(
    kinds: Mapping[str, Kind],
    *,
    target: str,
    features: Sequence[str] = (),
    exclude: Sequence[str] = (),
    categorical: Sequence[str] = (),
    hashed: Sequence[str] = (),
    weights: str | None = None,
    interact: Sequence[str | Sequence[str]] = (),
    first_text: Callable[[str], str] = lambda name: "",
) -> Roles:
    """The roles of the columns, from their kinds and the options.

    ``first_text`` may know where a column that looked like numbers holds something else.

    Raises:
      DataError: for columns that are not there or have two roles, and for text columns without a
        role.
    """
    is_auto = list(categorical) == [AUTO] and AUTO not in kinds
    levelled = [] if is_auto else list(categorical)
    own = [target, *([weights] if weights is not None else [])]
    refused = {target: "the target"} | ({} if weights is None else {weights: "the weights"})
    interactions = asked_interactions(
        interact,
        kinds,
        lambda name: name in (*levelled, *hashed) or kinds[name] is Kind.TEXT,
        refused,
    )
    hashed, hashed_crosses = _apart(hashed, interactions, "--hash")
    levelled, levelled_crosses = _apart(levelled, interactions, "--categorical")
    check_columns([*own, *features, *exclude, *levelled, *hashed], kinds)
    if features and exclude:
        raise DataError("--features and --exclude exclude each other: name one of them.")
    for option, names in (
        ("--features", features),
        ("--categorical", levelled),
        ("--hash", hashed),
        ("--weights", [weights]),
    ):
        if target in names:
            raise DataError(
                f"the target {target!r} is named in {option} too: it cannot predict itself."
            )
    if weights is not None and weights in [*features, *levelled, *hashed]:
        raise DataError(f"{weights!r} is named as weights and as a feature: it can be one alone.")
    both = [name for name in levelled if name in hashed]
    if both:
        raise DataError(f"{both[0]!r} is named in --categorical and in --hash: name it in one.")
    out = [name for name in [*levelled, *hashed] if name in exclude]
    if out:
        raise DataError(f"{out[0]!r} is named in --exclude and as a feature: name it in one.")
    used = [
        name
        for name in (kinds if not features else dict.fromkeys([*features, *levelled, *hashed]))
        if name not in (*exclude, *own)
    ]
    if is_auto:
        levelled = [name for name in used if kinds[name] is Kind.TEXT and name not in hashed]
    labelled = {*levelled, *hashed}
    sparse = next((name for name in used if kinds[name] is Kind.SPARSE), None)
    if sparse in labelled:
        raise DataError(f"{sparse!r} holds many sparse numbers, which are no levels.")
    used_sparse, used = sparse is not None, [name for name in used if name != sparse]
    nested = [name for name in used if kinds[name] is Kind.OTHER]
    if nested:
        verb = "holds" if len(nested) == 1 else "hold"
        raise DataError(
            f"{listed(map(repr, nested))} {verb} neither numbers nor text: name each in --exclude."
        )
    nameless = [name for name in used if name not in labelled and not kinds[name].is_number]
    if nameless:
        where = next((f" ({text})" for text in map(first_text, nameless) if text), "")
        verb = "is" if len(nameless) == 1 else "are"
        raise DataError(
            f"{listed(map(repr, nameless))} {verb} not numeric{where}: "
            "name each in --categorical (a weight for each level), --hash (levels in buckets), "
            "--date (COLUMN:month,weekday,hour,trend of dates) or --exclude; --categorical auto "
            "takes all text."
        )
    for name in labelled:
        if kinds[name] is Kind.NUMBER:
            raise DataError(
                f"{name!r} holds floating-point numbers, which are no levels: cast it to whole "
                "numbers or text, or leave it numeric."
            )
    for name in own:
        if not kinds[name].is_number:
            what = "target" if name == target else "weights"
            raise DataError(f"the {what} {name!r} must be numeric, and holds {kinds[name]}.")
    numbers = tuple(name for name in used if name not in labelled)
    crosses = [name for name, each in interactions.items() if each.labels]
    in_buckets = [
        name
        for name in crosses
        if name not in levelled_crosses
        and (name in hashed_crosses or any(part in hashed for part in interactions[name].labels))
    ]
    if not used and not used_sparse and not interactions:
        raise DataError("no column is left as a feature: name some, or exclude fewer.")
    return Roles(
        target,
        (*numbers, *(name for name in interactions if name not in crosses)),
        (
            *(name for name in used if name in levelled),
            *(name for name in crosses if name not in in_buckets),
        ),
        (*(name for name in used if name in hashed), *in_buckets),
        weights,
        sparse,
        interactions,
    )


def _apart(
    names: Sequence[str], interactions: Mapping[str, Interaction], option: str
) -> tuple[list[str], list[str]]:
    """The columns among these names, and the interactions."""
    crosses = [name for name in names if name in interactions]
    for name in crosses:
        if not interactions[name].labels:
            raise DataError(
                f"{name!r} in {option} is a product of numbers, which has no levels: name its "
                "columns there, or leave it out."
            )
    return [name for name in names if name not in interactions], crosses
