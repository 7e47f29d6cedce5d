"""The roles of columns: features, levels, hashed values, the target, weights of rows."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxdescent.fit.dates import TREND, Dates, columns_made
from jaxdescent.fit.encoding import SEPARATOR, Encoding, Interaction
from jaxdescent.fit.options import AUTO, Options
from jaxdescent.rows import DataError, Kind, Source
from jaxdescent.rows.arrays import TARGET
from jaxdescent.rows.errors import check_columns, listed

OWN_TARGET = (".npy", "arrays", "svmlight text")
"""Forms of data that hold their target apart from the features."""


class Roles(NamedTuple):
    """The columns of a fit by what they are used for."""

    target: str  # the column that is predicted
    weights: str | None  # the column of the rows' weights
    # Without the levels, buckets and indices, which a pass over the rows finds.
    encoding: Encoding

    def check_alike(self, other: Source, kinds: Mapping[str, Kind]) -> None:
        """Refuse other data whose columns are missing, or are used in another way."""
        own = [self.target] if self.weights is None else [self.target, self.weights]
        columns = [*self.encoding.columns, *own]
        check_columns(columns, other.kinds, who="--test-data")
        for name in columns:
            here, there = kinds[name], other.kinds[name]
            if (here.is_number, here is Kind.SPARSE) != (there.is_number, there is Kind.SPARSE):
                raise DataError(
                    f"{name!r} holds {here} in the data and {there} in --test-data: write both "
                    "alike."
                )


def roles_of(request: Options, source: Source, dates: Mapping[str, Dates]) -> Roles:
    """The roles of the columns, from their kinds and the options."""
    target, weights = request.target, request.weights
    kinds = _with_parts(source, dates)
    if target is None:
        if TARGET not in kinds or source.form not in OWN_TARGET:
            columns = listed(map(repr, kinds), most=40)
            raise DataError(f"--target is missing: name the column to predict, one of {columns}.")
        target = TARGET
    own = {target: "the target"} | ({} if weights is None else {weights: "the weights"})
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
    levelled = list(request.categorical)
    is_auto = levelled == [AUTO] and AUTO not in kinds
    if is_auto:
        levelled = []
    elif levelled != [AUTO]:
        levelled += [name for name, (_, part) in made.items() if part != TREND]
    with_labels = {name for name, kind in kinds.items() if kind is Kind.TEXT}
    interactions = asked_interactions(
        request.interact, kinds, with_labels.union(levelled, request.hashed), own
    )
    for option, names in (("--hash", request.hashed), ("--categorical", levelled)):
        for name in names:
            if name in interactions and not interactions[name].labels:
                raise DataError(
                    f"{name!r} in {option} is a product of numbers, which has no levels: name its "
                    "columns there, or leave it out."
                )
    crosses = {name: each for name, each in interactions.items() if each.labels}
    in_buckets = [
        name
        for name, each in crosses.items()
        if name not in levelled and not {name, *each.labels}.isdisjoint(request.hashed)
    ]
    levelled = [name for name in levelled if name not in interactions]
    hashed = [name for name in request.hashed if name not in interactions]
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
    labelled = [*levelled, *hashed]
    sparse = next((name for name in used if kinds[name] is Kind.SPARSE), None)
    _check_kinds(kinds, own, used, labelled, source)
    if not used and not interactions:
        raise DataError("no column is left as a feature: name some, or exclude fewer.")
    numbers = [name for name in used if name not in labelled and name != sparse]
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
        dates=dict(dates),
    )
    return Roles(target, weights, encoding)


def _with_parts(source: Source, dates: Mapping[str, Dates]) -> dict[str, Kind]:
    """The kinds of the columns, those that are made of dates in place of these."""
    check_columns(dates, source.kinds)
    made = {
        name: Kind.NUMBER if part == TREND else Kind.TEXT
        for name, (_, part) in columns_made(dates).items()
    }
    for name in dates:
        if source.kinds[name] not in (Kind.DATE, Kind.TEXT):
            raise DataError(
                f"{name!r} holds {source.kinds[name]} and no dates: leave it out of --date, or "
                "convert it to dates."
            )
    twice = [name for name in made if name in source.kinds]
    if twice:
        raise DataError(f"there is a column called {twice[0]!r}: rename it to take --date.")
    return {name: kind for name, kind in source.kinds.items() if name not in dates} | made


def _refuse(names: Iterable[str | None], others: Container[str | None], text: str) -> None:
    """Refuse the first of some names that is among others."""
    for name in names:
        if name in others:
            raise DataError(text.format(repr(name)))


def _check_kinds(
    kinds: Mapping[str, Kind],
    own: Mapping[str, str],
    used: Sequence[str],
    labelled: Sequence[str],
    source: Source,
) -> None:
    """Refuse columns whose kind does not suit their role."""
    sparse = next((name for name in used if kinds[name] is Kind.SPARSE), None)
    if sparse in labelled:
        raise DataError(f"{sparse!r} holds many sparse numbers, which are no levels.")
    nested = [name for name in used if kinds[name] is Kind.OTHER]
    if nested:
        verb = "holds" if len(nested) == 1 else "hold"
        raise DataError(
            f"{listed(map(repr, nested))} {verb} neither numbers nor text: name each in --exclude."
        )
    nameless = [
        name
        for name in used
        if name not in labelled and name != sparse and not kinds[name].is_number
    ]
    if nameless:
        verb = "is" if len(nameless) == 1 else "are"
        raise DataError(
            f"{listed(map(repr, nameless))} {verb} not numeric{_example(source, nameless[0])}: "
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
    for name, what in own.items():
        if not kinds[name].is_number:
            raise DataError(f"{what} {name!r} must be numeric, and holds {kinds[name]}.")


def _example(source: Source, name: str) -> str:
    """The first text of a column that is no number, and its row, in words."""
    if source.kinds.get(name) is not Kind.TEXT:
        return ""
    import polars as pl

    frame = source.frame.select(text=pl.col(name).cast(pl.String)).with_row_index("row")
    is_text = pl.col("text").is_not_null() & pl.col("text").cast(pl.Float64, strict=False).is_null()
    is_text &= ~pl.col("text").str.to_lowercase().is_in(["true", "false"])
    found = frame.filter(is_text).head(1).collect(engine="streaming")
    if not found.height:
        return ""
    row, text = found.row(0)
    return f" ({text[:40]!r} in {source.place(row)})"


def asked_interactions(
    wanted: Iterable[str | Sequence[str]],
    kinds: Mapping[str, Kind],
    with_labels: set[str],
    own: Mapping[str, str],
) -> dict[str, Interaction]:
    """The interactions that are asked for, by name; columns ``with_labels`` are used by their
    levels, and ``own`` says what columns that are no features are.
    """
    found: dict[str, Interaction] = {}
    seen: dict[frozenset[tuple[str, int]], str] = {}
    for each in wanted:
        columns = _split(each, kinds) if isinstance(each, str) else list(each)
        name = SEPARATOR.join(columns)
        if len(columns) < 2:
            raise DataError(
                f"--interact must name two columns or more with colons between them, got {name!r}."
            )
        check_columns(columns, kinds)
        for column in columns:
            if column in own:
                raise DataError(
                    f"{column!r} is named in --interact, and it is {own[column]}: leave it out."
                )
            if kinds[column] in (Kind.OTHER, Kind.SPARSE):
                raise DataError(
                    f"{column!r} holds neither numbers nor text: leave it out of --interact."
                )
        numbers = [column for column in columns if column not in with_labels]
        labels = [column for column in columns if column in with_labels]
        if len(set(labels)) < len(labels):
            raise DataError(f"--interact {name}: levels crossed with themselves say nothing new.")
        key = frozenset((column, columns.count(column)) for column in columns)
        if key in seen:
            raise DataError(f"--interact {name} says the same as {seen[key]}: name it once.")
        if name in kinds:
            raise DataError(
                f"--interact {name}: there is a column of this name: rename it to tell them apart."
            )
        seen[key] = name
        found[name] = Interaction(tuple(numbers), tuple(labels))
    return found


def _split(text: str, kinds: Mapping[str, Kind]) -> list[str]:
    """The columns that a text names, some of whose names may hold colons themselves."""
    parts = text.split(SEPARATOR)
    several = [way for way in _ways(parts, kinds) if len(way) > 1]
    if len(several) > 1:
        raise DataError(
            f"--interact {text} can be read in {len(several)} ways, since some columns' names hold "
            "colons: rename them, or use Python, where interactions are tuples."
        )
    return several[0] if several else [part if part in kinds else part.strip() for part in parts]


def _ways(parts: Sequence[str], kinds: Mapping[str, Kind]) -> list[list[str]]:
    """All ways in which parts that follow each other make up names of columns."""
    if not parts:
        return [[]]
    firsts = {stop: SEPARATOR.join(parts[:stop]) for stop in range(1, len(parts) + 1)}
    known = [(stop, name) for stop, name in firsts.items() if name in kinds]
    return [[name, *rest] for stop, name in known for rest in _ways(parts[stop:], kinds)]
