"""Interactions of columns: the features that they are, in a fit, a model and its predictions."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

import jaxdescent as jd
from jaxdescent.fit.encoding import crossed
from jaxdescent.rows import DataError
from jaxdescent.rows.hashing import buckets_of
from tests.references import one_hot

ROWS = 400


@pytest.fixture
def table(rng):
    columns = {
        "a": rng.normal(5, 1, ROWS),
        "b": rng.normal(size=ROWS),
        "c": rng.choice(["x", "y:1", "z\\"], ROWS),
        "d": rng.integers(0, 4, ROWS),
        "w": rng.integers(0, 4, ROWS),
    }
    y = columns["a"] * columns["b"] + columns["d"] + rng.normal(size=ROWS)
    return pl.DataFrame(columns | {"y": y})


def written_out(table):
    """a, b, a:b, c, d, c:d, a:c, a:b:c"""
    a, b = (table[name].to_numpy()[:, None] for name in "ab")
    c, d = one_hot(table["c"]), one_hot(table["d"])
    both = (c[:, :, None] * d[:, None, :]).reshape(len(table), -1)
    return np.hstack([a, b, a * b, c, d, both, a * c, a * b * c])


CROSSES = ("a:b", "c:d", "a:c", "a:b:c")


@pytest.mark.first
@pytest.mark.parametrize(
    ("method", "standardize"),
    [("direct", False), ("direct", True), ("cg", False), ("cg", True)],
)
def test_products_crossed_levels_and_slopes_are_columns_like_others(table, method, standardize):
    model = jd.fit_model(
        table, "y", categorical=("c", "d"), interact=CROSSES, weights="w", l2=0.3,
        standardize=standardize, method=method, dtype="float64",
    )  # fmt: skip
    X, s = written_out(table), table["w"].to_numpy()
    scale = np.sqrt(np.average((X - np.average(X, 0, s)) ** 2, 0, s)) if standardize else 1.0
    expected = Ridge(0.3).fit(X / scale, table["y"], s).predict(X / scale)
    tolerance = 1e-8 if method == "direct" else 1e-4
    np.testing.assert_allclose(model.predict(table), expected, atol=tolerance)
    names = [model.encoding.feature_name(j) for j in range(model.encoding.size)]
    assert names[:3] == ["a", "b", "a:b"]
    assert {r"c:d=y\:1:2", r"c:d=z\\:0", "a:c=y:1", "a:b:c=x"} <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["direct", "cg"])
def test_crosses_of_hashed_columns_are_hashed(table, method):
    model = jd.fit_model(
        table, "y", exclude=("a", "w"), hashed=("c", "d"), interact=("c:d", "b:c"), bits=6, l2=0.1,
        method=method, dtype="float64",
    )  # fmt: skip
    X = np.zeros((ROWS, 65))
    X[:, 64] = table["b"]
    for i, (b, c, d) in enumerate(table.select("b", "c", "d").iter_rows()):
        escaped = c.replace("\\", "\\\\").replace(":", "\\:")
        for name, text, value in (("c", c, 1), ("d", str(d), 1), ("c:d", f"{escaped}:{d}", 1),
                                  ("b:c", c, b)):  # fmt: skip
            X[i, buckets_of(pl.Series([text]), name, 6)[1][0]] += value
    expected = Ridge(0.1).fit(X, table["y"]).predict(X)
    np.testing.assert_allclose(model.predict(table), expected, atol=1e-5)
    assert model.encoding.levels == {}


def test_a_cross_alone_may_be_hashed_or_have_levels(table):
    options = {"exclude": ("a", "b", "w"), "interact": "c:d", "l2": 1.0}
    model = jd.fit_model(table, "y", categorical=("c", "d"), hashed="c:d", **options)
    assert (list(model.encoding.levels), model.encoding.hashed) == (["c", "d"], ("c:d",))
    model = jd.fit_model(table, "y", hashed=("c", "d"), categorical="c:d", **options)
    assert (list(model.encoding.levels), model.encoding.hashed) == (["c:d"], ("c", "d"))
    # Of columns that are left out themselves.
    model = jd.fit_model(table, "y", exclude=("a", "b", "w", "c"), interact="c:d", l2=1.0)
    assert model.encoding.levels["c:d"] == ("x", "y:1", "z\\")  # slopes by d
    assert model.encoding.numbers == ("d",)


def test_combinations_that_no_training_row_had_are_unseen(table):
    known = table.filter((pl.col("c") != "x") | (pl.col("d") != 0))
    model = jd.fit_model(known, "y", categorical=("c", "d"), interact="c:d", l2=0.3)
    with pytest.raises(DataError, match="'c:d' is 'x:0' in row 1, which is none of the 11 levels"):
        model.predict(pl.DataFrame({"a": [1.0], "b": [1.0], "c": ["x"], "d": [0], "w": [1]}))
    other = pl.DataFrame(
        {"a": [1.0] * 2, "b": [1.0] * 2, "c": ["x", "x"], "d": [0, 1], "w": [1, 1]}
    )
    weight = dict(model.named_weights(99))
    difference = np.diff(model.predict(other, unseen="zero"))[0]
    expected = weight["c:d=x:1"] + weight["d=1"] - weight["d=0"]
    assert difference == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["direct", "cg"])
def test_missing_factors_make_products_missing(rng, method):
    a, b = rng.normal(size=(2, 300))
    y = a * b + a + 0.1 * rng.normal(size=300)
    holes = rng.random(300) < 0.2
    data = pa.table({"a": pa.array(np.where(holes, np.nan, a), from_pandas=True), "b": b, "y": y})
    with pytest.raises(DataError, match=f"'a' has no value in row {np.argmax(holes) + 1}"):
        jd.fit_model(data, "y", interact="a:b", method=method)
    kept = ~holes
    model = jd.fit_model(
        data, "y", interact="a:b", missing="drop", method=method, dtype="float64", l2=1e-6
    )
    X = np.column_stack([a, b, a * b])
    expected = Ridge(1e-6).fit(X[kept], y[kept])
    np.testing.assert_allclose(model.weights, expected.coef_, atol=1e-5)
    model = jd.fit_model(
        data, "y", interact="a:b", missing="mean", method=method, dtype="float64", l2=1e-6
    )
    X[:, 0] = np.where(holes, X[kept, 0].mean(), a)
    X[:, 2] = np.where(holes, X[kept, 2].mean(), X[:, 2])
    expected = Ridge(1e-6).fit(X, y)
    np.testing.assert_allclose(model.weights, expected.coef_, atol=1e-5)
    np.testing.assert_allclose(model.predict(data), expected.predict(X), atol=1e-5)


def test_a_slope_without_its_number_counts_nothing_under_mean():
    table = pa.table({"a": [1.0, None, 2.0, 3.0] * 5, "c": ["p", "q"] * 10, "y": [*range(20)]})
    model = jd.fit_model(table, "y", categorical="c", interact="a:c", missing="mean", l2=0.1)
    one = pa.table({"a": pa.array([None], pa.float64()), "c": ["q"]})
    weight = dict(model.named_weights(99))
    fill = model.encoding.fills["a"]
    expected = model.intercept + weight["c=q"] + weight["a"] * fill
    assert model.predict(one)[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interact": "a"}, "two columns or more"),
        ({"interact": "a:q"}, "no column 'q'"),
        ({"interact": "a:y"}, "'y' is named in --interact, and it is the target"),
        ({"interact": "a:w", "weights": "w"}, "it is the weights"),
        ({"interact": "c:c"}, "crossed with themselves"),
        ({"interact": ("a:c", "c:a")}, "says the same as a:c"),
        ({"interact": "a:b", "hashed": "a:b"}, "is a product of numbers, which has no levels"),
        ({"interact": "a:l"}, "'l' holds neither numbers nor text"),
        ({"interact": "p:q:d"}, "can be read in 2 ways"),
        ({"interact": "e:f"}, "there is a column of this name"),
    ],
)
def test_interactions_that_make_no_sense_are_refused(table, options, message):
    copies = [pl.col("a").alias(name) for name in ("p", "q:d", "p:q", "e:f", "e", "f")]
    table = table.with_columns(*copies, l=pl.lit([1.0]))
    features = {"features": ("a", "b"), "categorical": ("c", "d")}
    with pytest.raises(DataError, match=message):
        jd.fit_model(table, "y", **features, **options)


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "has no value"), (1e200, "is infinite or too large")]
)
def test_slopes_of_numbers_that_are_none_are_refused(table, value, what):
    values = table["a"].to_numpy().copy()
    values[7] = value
    table = table.with_columns(a=pl.Series(values))
    with pytest.raises(DataError, match=f"'a:c' {what} in row 8"):
        jd.fit_model(table, "y", features="b", categorical="c", interact="a:c")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", ":", "\\", "a", "a:", None]),
            st.sampled_from(["", ":a", "b"]),
            st.sampled_from(["0", "1", None]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_two_rows_have_the_same_cross_where_they_have_the_same_levels(rows):
    columns = [
        pl.Series(name, column, pl.String)
        for name, column in zip("abc", zip(*rows, strict=True), strict=True)
    ]
    texts = (
        pl.DataFrame(columns)
        .select(crossed([pl.col(name) for name in "abc"]))
        .to_series()
        .to_list()
    )
    whole = {row: text for row, text in zip(rows, texts, strict=True) if text is not None}
    assert all((text is None) == (None in row) for row, text in zip(rows, texts, strict=True))
    assert all(text is None or whole[row] == text for row, text in zip(rows, texts, strict=True))
    assert len(set(whole.values())) == len(whole)
