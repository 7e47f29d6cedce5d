"""The roles of columns: features, levels, hashed values, the target, weights of rows."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxdescent.data import DataError, Kind, Source
from jaxdescent.data.arrays import TARGET
from jaxdescent.data.csv_files import first_text
from jaxdescent.data.errors import check_columns, listed
from jaxdescent.fit.dates import TREND, Dates, columns_made
from jaxdescent.fit.encoding import Encoding
from jaxdescent.fit.interactions import Interaction, asked_interactions
from jaxdescent.fit.methods import AUTO
from jaxdescent.fit.request import Request

OWN_TARGET = (".npy", "arrays", "svmlight text")
"""Forms of data that hold their target apart from the features."""


class Roles(NamedTuple):
    """The columns of a fit by what they are used for.

    Attributes:
      target: the column that is predicted.
      weights: the column of the rows' weights.
      features: how columns become features, but for the levels, buckets and indices, which a pass
        over the rows finds.
    """

    target: str
    weights: str | None
    features: Encoding

    @property
    def own(self) -> list[str]:
        """The columns that are no features: the target, and the weights."""
        return [self.target] if self.weights is None else [self.target, self.weights]

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        return [*self.features.columns, *self.own]


def roles_of(request: Request, source: Source, dates: Mapping[str, Dates]) -> Roles:
    """The roles of the columns, from their kinds and the options.

    Raises:
      DataError: for columns that are not there or have two roles, and for text columns without a
        role.
    """
    kinds, target, weights = source.kinds, _target(request, source), request.weights
    for option, names in (
        ("--target", [target]),
        ("--categorical", request.categorical),
        ("--hash", request.hashed),
        ("--weights", [weights]),
    ):
        _refuse(names, dates, f"{{}} is named in --date and in {option}: name it in one.")
    made = columns_made(dates)
    features = [name for name in request.features if name not in dates]
    features += made if request.features else []
    exclude = [name for name in request.exclude if name not in dates]
    if source.form == ".npy" and target != TARGET and TARGET in kinds:
        exclude.append(TARGET)  # a target of its own is no feature of another
    levelled, is_auto = list(request.categorical), False
    if levelled == [AUTO]:
        is_auto = AUTO not in kinds
        levelled = [] if is_auto else levelled
    else:
        levelled += [name for name, (_, part) in made.items() if part != TREND]
    own = [target, *([weights] if weights is not None else [])]
    interactions = asked_interactions(
        request.interact,
        kinds,
        lambda name: name in (*levelled, *request.hashed) or kinds[name] is Kind.TEXT,
        {target: "the target"} | ({} if weights is None else {weights: "the weights"}),
    )
    hashed, hashed_crosses = _apart(request.hashed, interactions, "--hash")
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
        text = f"the target {{}} is named in {option} too: it cannot predict itself."
        _refuse([target], names, text)
    text = "{} is named as weights and as a feature: it can be one alone."
    _refuse([weights], [*features, *levelled, *hashed], text)
    _refuse(levelled, hashed, "{} is named in --categorical and in --hash: name it in one.")
    text = "{} is named in --exclude and as a feature: name it in one."
    _refuse([*levelled, *hashed], exclude, text)
    used = [
        name
        for name in (kinds if not features else dict.fromkeys([*features, *levelled, *hashed]))
        if name not in (*exclude, *own)
    ]
    if is_auto:
        levelled = [name for name in used if kinds[name] is Kind.TEXT and name not in hashed]
    labelled = {*levelled, *hashed}
    _check_kinds(source, own, used, labelled)
    sparse = next((name for name in used if kinds[name] is Kind.SPARSE), None)
    if not used and not interactions:
        raise DataError("no column is left as a feature: name some, or exclude fewer.")
    numbers = [name for name in used if name not in labelled and name != sparse]
    crosses = [name for name, each in interactions.items() if each.labels]
    in_buckets = [
        name
        for name in crosses
        if name not in levelled_crosses
        and (name in hashed_crosses or any(part in hashed for part in interactions[name].labels))
    ]
    in_levels = [name for name in used if name in levelled]
    in_levels += [name for name in crosses if name not in in_buckets]
    in_buckets = [name for name in used if name in hashed] + in_buckets
    encoding = Encoding(
        (*numbers, *(name for name in interactions if name not in crosses)),
        dict.fromkeys(in_levels, ()),
        tuple(in_buckets),
        request.bits if in_levels or in_buckets or sparse is not None else 0,
        sparse=sparse,
        interactions=interactions,
    )
    return Roles(target, weights, encoding)


def _target(request: Request, source: Source) -> str:
    if request.target is not None:
        return request.target
    if TARGET not in source.kinds or source.form not in OWN_TARGET:
        columns = listed(map(repr, source.kinds), most=40)
        raise DataError(f"--target is missing: name the column to predict, one of {columns}.")
    return TARGET


def _refuse(names: Iterable[str | None], others: Container[str | None], text: str) -> None:
    """Refuse the first of some names that is among others."""
    for name in names:
        if name in others:
            raise DataError(text.format(repr(name)))


def _check_kinds(
    source: Source, own: Sequence[str], used: Sequence[str], labelled: set[str]
) -> None:
    """Refuse columns whose kind does not suit their role."""
    kinds = source.kinds
    sparse = next((name for name in used if kinds[name] is Kind.SPARSE), None)
    if sparse in labelled:
        raise DataError(f"{sparse!r} holds many sparse numbers, which are no levels.")
    nested = [name for name in used if kinds[name] is Kind.OTHER]
    if nested:
        verb = "holds" if len(nested) == 1 else "hold"
        raise DataError(
            f"{listed(map(repr, nested))} {verb} neither numbers nor text: name each in --exclude."
        )
    known = {*labelled, sparse}
    nameless = [name for name in used if name not in known and not kinds[name].is_number]
    if nameless:
        # The source may know where a column that looked like numbers holds something else.
        found = (first_text(source, name) for name in nameless)
        where = next((f" ({text})" for text in found if text), "")
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
            what = "target" if name == own[0] else "weights"
            raise DataError(f"the {what} {name!r} must be numeric, and holds {kinds[name]}.")


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
