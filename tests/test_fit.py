"""Fits of files and tables: scikit-learn's numbers, honest figures, models that come back whole."""

import datetime
import json
import os
import pathlib
import re
import warnings

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score

import jaxdescent as jd
from jaxdescent.fit import fitting
from jaxdescent.fit.penalty import penalties_from
from jaxdescent.fit.report import contents
from jaxdescent.fit.rows import is_held_out
from jaxdescent.rows import DataError, open_source
from jaxdescent.rows.hashing import buckets_of
from tests.references import one_hot


@pytest.fixture(name="X")
def features(rng):
    return rng.normal(size=(600, 4)) @ rng.normal(size=(4, 4)) + [0, 10, -1000, 3]


@pytest.fixture
def y(X, rng):
    return X @ [1.0, -2.0, 0.5, 3.0] + 7 + rng.normal(size=len(X))


@pytest.fixture
def people(rng):
    """A table with numbers, text, whole numbers that are levels, and weights."""
    rows = 500
    city = rng.choice(["Bonn", "Kiel", "Ulm"], rows)
    month = rng.integers(1, 13, rows)
    age = rng.normal(40, 10, rows)
    pay = 2 * age + 5.0 * (city == "Ulm") + 0.3 * month + rng.normal(size=rows)
    weight = rng.integers(0, 4, rows)
    return pl.DataFrame({"age": age, "city": city, "month": month, "pay": pay, "w": weight})


def written_out(table, *names):
    """The age, and a column for each level of others."""
    return np.hstack([table[["age"]].to_numpy(), *(one_hot(table[name]) for name in names)])


class TestAgainstScikitLearn:
    def test_least_squares(self, X, y):
        model = jd.fit_model({"X": X, "y": y})
        expected = LinearRegression().fit(X, y)
        np.testing.assert_allclose(model.weights, expected.coef_, rtol=1e-9)
        np.testing.assert_allclose(model.intercept, expected.intercept_, rtol=1e-9)
        np.testing.assert_allclose(model.predict({"X": X}), expected.predict(X), rtol=1e-10)
        train = model.metrics["train"]
        assert train["r2"] == pytest.approx(expected.score(X, y), abs=1e-12)
        error = np.sqrt(np.mean((expected.predict(X) - y) ** 2))
        assert train["rmse"] == pytest.approx(error, rel=1e-10)
        assert model.metrics["status"] == "CONVERGED"
        assert model.metrics["suboptimality"] < 1e-12 * model.metrics["value"]
        assert model.metrics["rank"] == 4

    @pytest.mark.parametrize("l2", [1e-3, 1.0, 1e4])
    @pytest.mark.parametrize("standardize", [False, True])
    def test_ridge(self, X, y, l2, standardize):
        model = jd.fit_model({"X": X, "y": y}, l2=l2, standardize=standardize)
        scale = X.std(axis=0) if standardize else np.ones(4)
        expected = Ridge(l2).fit(X / scale, y)
        np.testing.assert_allclose(model.weights, expected.coef_ / scale, rtol=1e-8)
        np.testing.assert_allclose(model.intercept, expected.intercept_, rtol=1e-8)
        assert model.metrics["train"]["r2"] == pytest.approx(expected.score(X / scale, y))

    def test_rows_with_weights(self, people):
        options = {"weights": "w", "exclude": ("city",), "categorical": ("month",), "l2": 0.5}
        model = jd.fit_model(people, "pay", **options)
        features = written_out(people, "month")
        # Levels are sorted as text.
        order = [0, *(1 + np.argsort([str(m) for m in range(1, 13)]))]
        s, target = people["w"].to_numpy(), people["pay"].to_numpy()
        expected = Ridge(0.5).fit(features, target, s)
        np.testing.assert_allclose(model.weights, expected.coef_[order], rtol=1e-8)
        assert model.metrics["train"]["r2"] == pytest.approx(
            r2_score(target, expected.predict(features), sample_weight=s)
        )

    @pytest.mark.parametrize("kind", ["categorical", "hashed"])  # 15 values in 2^20 buckets: apart
    def test_columns_of_levels_are_their_dummies(self, people, kind):
        model = jd.fit_model(people, "pay", exclude=("w",), l2=0.3, **{kind: ("city", "month")})
        assert model.encoding.size == 16
        if kind == "categorical":
            names = [model.encoding.feature_name(j) for j in range(5)]
            assert names == ["age", "city=Bonn", "city=Kiel", "city=Ulm", "month=1"]
        features = written_out(people, "city", "month")
        expected = Ridge(0.3).fit(features, people["pay"])
        np.testing.assert_allclose(model.predict(people), expected.predict(features), rtol=1e-9)

    def test_without_a_penalty_predictions_do_not_depend_on_the_free_constants(self, people):
        model = jd.fit_model(people, "pay", exclude=("w",), categorical=("city", "month"))
        features = written_out(people, "city", "month")
        expected = LinearRegression().fit(features, people["pay"])
        np.testing.assert_allclose(model.predict(people), expected.predict(features), rtol=1e-9)
        assert model.metrics["rank"] == 14
        assert any("rank 14 of 16" in note for note in model.metrics["notes"])

    def test_hashed_values_that_share_a_bucket_add_up(self, people):
        options = {"exclude": ("w",), "hashed": ("city", "month"), "bits": 2, "l2": 0.3}
        model = jd.fit_model(people, "pay", **options)
        features = np.zeros((len(people), 5))
        features[:, 0] = people["age"]
        for name in ("city", "month"):
            for row, value in enumerate(people[name]):
                features[row, 1 + buckets_of(pl.Series([str(value)]), name, 2)[1][0]] += 1
        expected = Ridge(0.3).fit(features, people["pay"])
        np.testing.assert_allclose(model.predict(people), expected.predict(features), rtol=1e-9)

    @given(
        rows=st.integers(2, 60),
        features=st.integers(1, 6),
        l2=st.sampled_from([0.0, 0.1, 30.0]),
        block=st.sampled_from([1, 7, 100]),
        share=st.sampled_from([0.0, 0.4]),
        seed=st.integers(0, 5),
    )
    def test_any_shape_in_any_blocks(self, rows, features, l2, block, share, seed):
        rng = np.random.default_rng(seed)
        X, y = rng.normal(size=(rows, features)), rng.normal(size=rows)
        test = is_held_out(0, rows, share, 0)
        if share and (test.all() or not test.any() or (~test).sum() < 2):
            return
        source = open_source({"X": X, "y": y})
        blocks = source.blocks
        source.blocks = lambda names, size: blocks(names, block)
        model = jd.fit_model(source, "y", l2=l2, test=share)
        expected = (Ridge(l2) if l2 else LinearRegression()).fit(X[~test], y[~test])
        np.testing.assert_allclose(
            model.predict({"X": X})[~test], expected.predict(X[~test]), rtol=1e-6, atol=1e-6
        )
        if share and l2 and test.sum() > 1:
            score = r2_score(y[test], expected.predict(X[test]))
            assert model.metrics["held_out"]["r2"] == pytest.approx(score, rel=1e-7, abs=1e-7)


class TestHeldOutRows:
    def test_they_are_those_of_the_hash_and_take_no_part(self, X, y):
        test = is_held_out(0, len(y), 0.25, 3)
        model = jd.fit_model({"X": X, "y": y}, test=0.25, seed=3)
        expected = LinearRegression().fit(X[~test], y[~test])
        np.testing.assert_allclose(model.weights, expected.coef_, rtol=1e-9)
        held_out = model.metrics["held_out"]
        assert held_out["rows"] == test.sum()
        assert held_out["r2"] == pytest.approx(expected.score(X[test], y[test]))
        error = np.sqrt(np.mean((expected.predict(X[test]) - y[test]) ** 2))
        assert held_out["rmse"] == pytest.approx(error)

    def test_other_data_can_be_held_out(self, X, y):
        parts = [{"X": X[s], "y": y[s]} for s in (slice(0, 400), slice(400, None))]
        model = jd.fit_model(parts[0], "y", test_data=parts[1])
        expected = LinearRegression().fit(X[:400], y[:400])
        assert model.metrics["held_out"]["r2"] == pytest.approx(expected.score(X[400:], y[400:]))

    def test_levels_that_only_they_have_count_nothing(self):
        table = pa.table({"c": ["a", "b"] * 10, "y": [0.0, 1.0] * 10})
        other = pa.table({"c": ["a", "new", "b"], "y": [0.0, 0.0, 1.0]})
        model = jd.fit_model(table, "y", test_data=other, categorical=("c",), l2=1e-6)
        assert model.metrics["unseen_values"] == 1
        assert any("no training row has" in note for note in model.metrics["notes"])


class TestPenaltyBySearch:
    def test_it_is_the_best_of_the_path_on_held_out_rows(self, rng):
        X = rng.normal(size=(80, 30))
        y = X[:, 0] + 3 * rng.normal(size=80)
        model = jd.fit_model({"X": X, "y": y}, test=0.5, l2="auto")
        test = is_held_out(0, 80, 0.5, 0)

        def error(l2):
            fitted = Ridge(l2).fit(X[~test], y[~test])
            return np.mean((fitted.predict(X[test]) - y[test]) ** 2)

        chosen = model.metrics["l2"]
        assert error(chosen) <= min(error(chosen * f) for f in (0.1, 0.3, 3, 10)) * (1 + 1e-9)
        assert model.metrics["held_out"]["rmse"] == pytest.approx(np.sqrt(error(chosen)))
        assert any("optimistic" in note for note in model.metrics["notes"])

    def test_without_them_it_is_that_of_generalised_cross_validation(self, rng):
        X = rng.normal(size=(60, 20))
        y = X[:, 0] + 2 * rng.normal(size=60)
        model = jd.fit_model({"X": X, "y": y}, l2="auto")
        centred, target = X - X.mean(axis=0), y - y.mean()

        def score(l2):
            hat = centred @ np.linalg.solve(centred.T @ centred + l2 * np.eye(20), centred.T)
            residual = target - hat @ target
            return 60 * residual @ residual / (60 - 1 - np.trace(hat)) ** 2

        chosen = model.metrics["l2"]
        assert score(chosen) <= min(score(chosen * f) for f in (0.1, 0.5, 2, 10))
        hat = centred @ np.linalg.solve(centred.T @ centred + chosen * np.eye(20), centred.T)
        assert model.metrics["degrees_of_freedom"] == pytest.approx(np.trace(hat))
        assert model.metrics["l2_chosen_by"] == "generalised cross-validation"

    @pytest.mark.parametrize("seed", [8, 15, 45])
    def test_of_rows_that_can_be_met_it_is_as_exact(self, seed):
        """Rows minus degrees of freedom cancel there, and so do the squares of the residual."""
        rng = np.random.default_rng(seed)
        X = np.column_stack([rng.normal(size=(30, 39)), np.full(30, 3.0)])
        y = X @ rng.normal(size=40) + 10 ** rng.uniform(-2, 1) * rng.normal(size=30)
        chosen = jd.fit_model({"X": X, "y": y}, l2="auto").metrics["l2"]
        centred, target = X - X.mean(axis=0), y - y.mean()
        left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
        along = (left.T @ target)[:29]

        def score(l2):
            kept = l2 / (lengths[:29] ** 2 + l2)
            return 30 * np.sum((kept * along) ** 2) / np.sum(kept) ** 2

        scores = [score(l2) for l2 in penalties_from(np.sum(centred**2, axis=0))]
        assert score(chosen) <= min(scores) * (1 + 1e-6)


class TestHardNumbers:
    def test_features_far_from_zero_and_of_all_scales(self, rng):
        Z = rng.normal(size=(4000, 4))
        X = Z * [1e-6, 1.0, 1e6, 1e3] + [1.0, 1e6, 1e12, 0]
        y = Z @ [1.0, 2.0, 3.0, 4.0]
        model = jd.fit_model({"X": X, "y": y})
        np.testing.assert_allclose(model.weights * [1e-6, 1, 1e6, 1e3], [1, 2, 3, 4], rtol=1e-4)
        assert model.metrics["train"]["r2"] > 1 - 1e-8

    @pytest.mark.parametrize("case", ["a curve", "a steep line", "close columns", "held out"])
    def test_errors_that_rounding_of_sums_would_hide_are_those_of_the_rows(self, case, rng):
        x, noise = rng.integers(1980, 2021, 4000).astype(float), rng.normal(size=4000)
        options = {"test": 0.3} if case == "held out" else {}
        if case == "a curve":
            features = [x, x**2, x**3]
            y = 0.01 * (x - 2000) ** 2 + 1e-3 * (x - 2000) ** 3 + 0.01 * noise
        elif case == "close columns":
            features = [noise, noise + 1e-5 * x]
            y = x + 1e-5 * rng.normal(size=4000)
        else:
            features, y = [x], 1e6 * x + 0.003 * noise
        model = jd.fit_model({"X": np.column_stack(features), "y": y}, **options)
        part = model.metrics["train"]
        error = model.predict({"X": np.column_stack(features)}) - y
        counts = ~is_held_out(0, 4000, options.get("test", 0.0), 0)
        np.testing.assert_allclose(part["rmse"] ** 2, np.mean(error[counts] ** 2), rtol=1e-4)
        if case == "held out":
            own = model.metrics["held_out"]["rmse"] ** 2
            np.testing.assert_allclose(own, np.mean(error[~counts] ** 2), rtol=1e-4)
        columns = np.stack([np.ones(4000), *features, y]).astype(np.longdouble)[:, counts]
        for k in range(len(columns)):  # Gram-Schmidt, twice
            for _ in range(2):
                columns[k] -= columns[:k].T @ (columns[:k] @ columns[k])
            left = columns[k].copy()
            columns[k] /= np.sqrt(left @ left)
        assert model.metrics["status"] == "CONVERGED"
        np.testing.assert_allclose(model.metrics["value"], float(left @ left / 2), rtol=1e-6)
        assert model.metrics["suboptimality"] < 1e-8 * model.metrics["value"]
        assert model.metrics["passes"] in (2, 3)

    def test_an_intercept_that_float64_rounds_is_solved_and_says_what_is_left(self, rng):
        x = rng.integers(1980, 2021, 4000).astype(float)
        y = 1e8 * x + 0.003 * rng.normal(size=4000)
        model = jd.fit_model({"x": x, "y": y}, "y")
        error = model.predict({"x": x}) - y
        assert model.metrics["status"] == "CONVERGED"
        np.testing.assert_allclose(model.metrics["train"]["rmse"], np.std(error), rtol=1e-3)
        z, t = (column.astype(np.longdouble) - column.mean() for column in (x, y))
        z, t = z - z.mean(), t - t.mean()
        above = model.metrics["value"] - float(np.sum(np.square(t - z * (z @ t) / (z @ z))) / 2)
        assert above <= 1.1 * model.metrics["suboptimality"] + 1e-12 * model.metrics["value"]
        assert model.metrics["suboptimality"] < 1e-3 * model.metrics["value"]

    def test_of_penalties_whose_errors_rounding_hides_the_smallest_is_chosen(self, rng):
        x = rng.uniform(0, 1, 2000)
        table = {"x": x, "y": 1e6 * x + 0.003 * rng.normal(size=2000)}
        for options in ({"test": 0.2}, {}):
            model = jd.fit_model(table, "y", l2="auto", **options)
            counts = ~is_held_out(0, 2000, options.get("test", 0.0), 0)
            squares = np.sum(np.square(x[counts] - x[counts].mean()))
            np.testing.assert_allclose(
                model.metrics["l2"], penalties_from(np.array([squares]))[0], rtol=1e-9
            )

    def test_rows_that_are_sorted(self, rng):
        time = np.sort(rng.uniform(1.6e9, 1.7e9, 3000))
        y = 1e-7 * (time - 1.6e9) + 0.01 * rng.normal(size=3000)
        model = jd.fit_model({"time": time, "y": y})
        centred = time - time.mean()
        assert model.weights[0] == pytest.approx(centred @ y / (centred @ centred), rel=1e-9)

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (lambda X: [X[:, 0], X[:, 1] - X[:, 3]], "linearly dependent"),
            (lambda X: [np.full(len(X), 0.1)], "x4 does not vary"),
        ],
    )
    def test_columns_that_add_nothing_are_said_and_predictions_stand(self, X, y, more, said):
        wide = np.column_stack([X, *more(X)])
        model = jd.fit_model({"X": wide, "y": y})
        assert model.metrics["rank"] == 4
        assert any(said in note for note in model.metrics["notes"])
        assert (model.weights[4] == 0) == ("vary" in said)
        expected = LinearRegression().fit(X, y)
        np.testing.assert_allclose(model.predict({"X": wide}), expected.predict(X), rtol=1e-8)

    def test_nearly_dependent_columns_are_said_to_hide_how_far_the_minimum_is(self, rng):
        a, small = rng.normal(size=(2, 2000))
        X = np.column_stack([a, a + 1e-8 * small])
        model = jd.fit_model({"X": X, "y": a + small})
        assert model.metrics["rank"] == 1
        assert model.metrics["suboptimality"] == model.metrics["value"]
        assert "a bound" in model.metrics["evidence"]
        assert model.metrics["status"] == "STAGNATED"
        assert any("nearly dependent" in note for note in model.metrics["notes"])

    @pytest.mark.parametrize("seed", range(3))
    def test_a_huge_constant_column_has_no_rounding_as_its_weight(self, seed):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(2, 60))
        data = {"a": a, "b": b, "huge": np.full(60, 2.0**127), "c": np.round(a)}
        y = a - 2 * b + 0.1 * rng.normal(size=60)
        A = np.column_stack([a, b, data["c"], np.ones(60)])
        model = jd.fit_model(data | {"y": y}, "y", method="direct")
        assert model.weights[2] == 0
        fitted = A @ np.linalg.lstsq(A, y, rcond=None)[0]
        np.testing.assert_allclose(model.predict(data), fitted, rtol=1e-9)

    @pytest.mark.parametrize("options", [{"test": 0.3}, {"weights": "s"}])
    @pytest.mark.parametrize("method", ["direct", "cg"])
    def test_a_column_that_varies_in_rows_without_weight_alone_weighs_nothing(
        self, rng, method, options
    ):
        n = 390
        counts = ~is_held_out(0, n, 0.3, 0)
        a, s = rng.normal(size=n), np.where(counts, 1.0, 0.0)
        y = a + rng.normal(size=n)
        data = {"a": a, "b": np.where(counts, 0.1, 7.0), "y": y}
        data |= {"s": s} if "weights" in options else {}
        model = jd.fit_model(data, "y", method=method, **options)
        A = np.column_stack([a, np.ones(n)])
        slope, _ = np.linalg.lstsq(A[counts], y[counts], rcond=None)[0]
        np.testing.assert_allclose(model.weights, [slope, 0], rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("n", range(50, 60))
    def test_a_constant_slope_of_weighted_rows_weighs_nothing(self, rng, n):
        a, s = rng.normal(size=n), rng.random(n) + 0.1
        table = pl.DataFrame({"a": a, "c": ["u"] * n, "z": np.full(n, 0.1), "s": s})
        table = table.with_columns(y=a + rng.normal(size=n))
        model = jd.fit_model(table, "y", categorical=("c",), interact=("z:c",), weights="s")
        np.testing.assert_array_equal(model.weights[1:], 0)
        assert model.metrics["status"] == "CONVERGED"

    def test_more_features_than_rows(self, rng):
        X, y = rng.normal(size=(10, 30)), rng.normal(size=10)
        model = jd.fit_model({"X": X, "y": y})
        assert model.metrics["rank"] == 9
        np.testing.assert_allclose(model.predict({"X": X}), y, atol=1e-8)

    def test_the_same_data_give_the_same_bits(self, people, tmp_path):
        people.write_parquet(tmp_path / "d.parquet")
        fits = [
            jd.fit_model(tmp_path / "d.parquet", "pay", categorical=("city",), test=0.3)
            for _ in range(2)
        ]
        np.testing.assert_array_equal(fits[0].weights, fits[1].weights)
        assert fits[0].metrics["train"] == fits[1].metrics["train"]


class TestMissingValues:
    @pytest.fixture
    def holes(self, rng):
        a, b = rng.normal(5, 2, 300), rng.normal(size=300)
        y = a - b + rng.normal(size=300)
        a[rng.random(300) < 0.2] = np.nan
        b[rng.random(300) < 0.1] = np.nan
        return a, b, y

    def table(self, a, b, y):
        return pa.table(
            {"a": pa.array(a, from_pandas=True), "b": pa.array(b, from_pandas=True), "y": y}
        )

    @pytest.mark.parametrize("form", ["arrow", "numpy"])
    def test_means_are_those_of_the_training_rows(self, holes, form):
        a, b, y = holes
        data = self.table(*holes) if form == "arrow" else {"a": a, "b": b, "y": y}
        model = jd.fit_model(data, "y", missing="mean", test=0.3)
        test = is_held_out(0, 300, 0.3, 0)
        fills = [np.nanmean(column[~test]) for column in (a, b)]
        X = np.column_stack(
            [np.where(np.isnan(c), f, c) for c, f in zip((a, b), fills, strict=True)]
        )
        expected = LinearRegression().fit(X[~test], y[~test])
        np.testing.assert_allclose(model.weights, expected.coef_, rtol=1e-9)
        assert model.metrics["held_out"]["r2"] == pytest.approx(expected.score(X[test], y[test]))
        np.testing.assert_allclose(list(model.encoding.fills.values()), fills)
        np.testing.assert_allclose(model.predict(data), expected.predict(X))

    def test_a_target_that_is_nan_may_be_dropped_alone(self):
        data = {"a": np.arange(6.0), "y": np.array([0, 1, np.nan, 3, 4, 5])}
        with pytest.raises(
            DataError,
            match=r"NaN in row 3: --missing drop leaves such rows out; means stand for features",
        ):
            jd.fit_model(data, "y", missing="mean")

    def test_means_are_not_rounded_to_the_dtype_of_the_column(self, rng):
        a = (1e6 + rng.normal(size=30)).astype(np.float32)
        a[::3] = np.nan
        model = jd.fit_model({"a": a, "y": rng.normal(size=30)}, "y", missing="mean")
        expected = np.where(np.isnan(a), np.nanmean(a.astype(float)), a) * model.weights[0]
        found = model.predict({"a": a})
        rounding = 1e-9 * abs(model.weights[0])  # of sums of 1e6 times the weight
        np.testing.assert_allclose(found, expected + model.intercept, rtol=0, atol=rounding)

    @pytest.mark.parametrize("missing", ["drop", "mean"])
    def test_a_first_block_without_values_hides_no_spread(self, rng, missing):
        """Columns a billion times their spread from zero, which the first blocks lack."""
        a, b = 1e6 + 1e-3 * rng.normal(size=300), rng.normal(size=300)
        y = 1e6 + 500 * (a - 1e6) + 1e-3 * (b + rng.normal(size=300))
        table = pa.table({"a": pa.array(a, mask=np.arange(300) < 70), "b": b, "y": y})
        reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(35))
        model = jd.fit_model(reader, "y", missing=missing)
        own = np.arange(300) >= 70 * (missing == "drop")
        X = np.column_stack([np.where(np.arange(300) < 70, a[70:].mean(), a), b])[own]
        expected = LinearRegression().fit(X - [1e6, 0], y[own] - 1e6)
        residual = y[own] - 1e6 - expected.predict(X - [1e6, 0])
        assert model.metrics["train"]["rmse"] == pytest.approx(np.std(residual), rel=1e-6)

    def test_rows_are_dropped(self, holes):
        a, b, y = holes
        model = jd.fit_model(self.table(*holes), "y", missing="drop")
        kept = ~(np.isnan(a) | np.isnan(b))
        expected = LinearRegression().fit(np.column_stack([a, b])[kept], y[kept])
        np.testing.assert_allclose(model.weights, expected.coef_, rtol=1e-9)
        assert model.metrics["dropped_rows"] == (~kept).sum()

    def test_dropped_rows_count_for_nothing_and_move_no_row_in_messages(self, holes, tmp_path):
        a, b, y = holes
        out = np.flatnonzero(is_held_out(0, 300, 0.3, 0))
        level = np.full(300, "known", object)
        level[out[:2]] = "unknown"
        a[out[0]], a[out[1]], b[out[1]] = np.nan, 0.0, 0.0
        dropped = np.setdiff1d(np.flatnonzero(np.isnan(a)), out)[0]
        level[[dropped, out[2]]], a[out[2]], b[out[2]] = "dropped", 0.0, 0.0
        table = self.table(a, b, y).append_column("level", pa.array(level))
        model = jd.fit_model(table, "y", categorical="level", missing="drop", test=0.3)
        assert model.encoding.levels["level"] == ("known",)
        assert model.metrics["unseen_values"] == 2
        with pytest.raises(DataError, match=r"'dropped' in row 1, which is none of the 1 levels"):
            model.predict(pa.table({"a": [0.0], "b": [0.0], "level": ["dropped"]}))
        model = jd.fit_model(table, "y", hashed="level", missing="drop", test=0.3)
        assert model.encoding.size == 2 + 1
        table = table.set_column(0, "a", pa.nulls(300, pa.float64()))
        with pytest.raises(DataError, match=r"no training row is complete: .* --missing mean"):
            jd.fit_model(table, "y", categorical="level", missing="drop")
        (row,) = np.flatnonzero(~np.isnan(a + b))[-1:]
        for value, what in (
            (np.inf, f"'a' is infinite in row {row + 1} "),
            (1e200, "too large for its square in row"),
        ):
            a[row] = value
            pq.write_table(self.table(a, b, y), tmp_path / "d.parquet")
            with pytest.raises(DataError, match=what):
                jd.fit_model(tmp_path / "d.parquet", "y", missing="drop")

    def test_a_missing_level_is_none_of_them_under_mean(self):
        table = pa.table({"c": ["a", "b", None, "b"] * 9, "y": [1.0, 2.0, 0.0, 2.0] * 9})
        model = jd.fit_model(table, "y", categorical=("c",), missing="mean", l2=1e-9)
        np.testing.assert_allclose(model.predict(table), table["y"].to_numpy(), atol=1e-6)


class TestRowsInMemory:
    @pytest.fixture(autouse=True)
    def few_columns(self, monkeypatch):
        monkeypatch.setattr(fitting, "MOST_COLUMNS", 2)

    @pytest.mark.slow
    def test_it_agrees_with_ridge_on_held_out_rows_too(self, people):
        options = {"categorical": ("city",), "hashed": ("month",), "l2": 0.5, "test": 0.3}
        model = jd.fit_model(people, "pay", exclude=("w",), **options)
        assert "LSMR" in model.metrics["method"]
        assert model.metrics["status"] == "CONVERGED"
        features = written_out(people, "city", "month")
        test, target = is_held_out(0, len(people), 0.3, 0), people["pay"].to_numpy()
        expected = Ridge(0.5).fit(features[~test], target[~test])
        np.testing.assert_allclose(model.predict(people), expected.predict(features), rtol=2e-4)
        for part, own in (("train", ~test), ("held_out", test)):
            score = expected.score(features[own], target[own])
            assert model.metrics[part]["r2"] == pytest.approx(score, abs=1e-5)

    def test_rows_of_csv_are_counted_first_and_missing_ones_dropped(self, people, tmp_path):
        people = people.with_columns(
            age=pl.when(pl.col("age") > 50).then(None).otherwise(pl.col("age"))
        )
        people.write_csv(tmp_path / "d.csv")
        options = {"exclude": ("w",), "categorical": ("city", "month"), "l2": 0.1}
        model = jd.fit_model(tmp_path / "d.csv", "pay", missing="drop", **options)
        assert model.metrics["passes"] > 3
        whole = people.drop_nulls()
        assert model.metrics["train"]["rows"] == len(whole)
        features = written_out(whole, "city", "month")
        expected = Ridge(0.1).fit(features, whole["pay"])
        np.testing.assert_allclose(model.predict(whole), expected.predict(features), rtol=2e-4)


def of_everything(rng):
    """A table, and options by which its model has features of every kind."""
    numbers = {name: rng.normal(size=60) for name in "aby"}
    levels = {name: rng.choice(list("klmn"), 60) for name in "cdh"}
    days = {"when": [datetime.date(2024, 5, 1 + i % 30) for i in range(60)]}
    return pl.DataFrame(numbers | levels | days), {
        "categorical": ("c", "d"), "hashed": "h", "interact": ("a:b", "c:d", "a:c"), "l2": 1.0,
        "missing": "mean", "test": 0.2, "bits": 10, "date": "when:weekday,trend",
    }  # fmt: skip


class TestModels:
    @pytest.fixture
    def model(self, people):
        return jd.fit_model(
            people, "pay", exclude=("w",), categorical=("city",), hashed=("month",), l2=0.1
        )

    def test_a_model_comes_back_whole(self, tmp_path):
        table, options = of_everything(np.random.default_rng(0))
        model = jd.fit_model(table, "y", **options)
        loaded = jd.load_model(model.save(tmp_path / "m"))
        np.testing.assert_array_equal(loaded.predict(table), model.predict(table))
        assert loaded.encoding.interactions == model.encoding.interactions
        assert loaded.encoding.dates == model.encoding.dates
        assert loaded.metrics == json.loads(json.dumps(model.metrics))
        assert loaded.options["interact"] == ["a:b", "c:d", "a:c"]
        assert {"python", "numpy", "jax", "polars"} <= set(loaded.versions)
        assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
            "buckets.npy", "model.json", "weights.npy",
        ]  # fmt: skip
        assert [p.name for p in tmp_path.iterdir()] == ["m"]

    def test_it_shows_as_what_it_predicts_and_how_well(self, model):
        assert repr(model).startswith("Model(pay by 16 features, train R² 0.99")

    def test_options_that_do_not_exist_are_refused(self, people):
        with pytest.raises(TypeError, match="no option 'alpha': it has target, features"):
            jd.fit_model(people, "pay", alpha=1.0)

    @pytest.mark.parametrize(
        "options",
        [
            {"features": np.array(["age", "month"])},
            {"features": {"age": 0, "month": 1}.keys()},
            {"features": (name for name in ("age", "month"))},
            {"exclude": ["w", "city"], "features": None},
            {"features": ["age", "month"], "interact": [iter(("age", "month"))]},
            {"features": ["age", "month"], "l2": np.float32(0), "test": np.float32(0)},
            {"features": ["age", "month"], "seed": np.int64(3), "bits": np.int32(9)},
            {"features": ["age", "month"], "standardize": np.bool_(False), "dtype": np.float64},
        ],
    )
    def test_options_of_numpy_and_any_lists_are_kept_as_plain_ones(self, people, options, tmp_path):
        model = jd.fit_model(people, "pay", **options)
        assert model.encoding.numbers[:2] == ("age", "month")
        model.save(tmp_path / "m")
        assert jd.load_model(tmp_path / "m").options["l2"] == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target": 3}, "--target must be text, got 3"),
            ({"target": np.ones(99)}, "--target must be text, got ndarray"),
            ({"standardize": "no"}, "--standardize must be True or False, got 'no'"),
            ({"target": ["pay"]}, r"--target must be text, got \['pay'\]"),
            ({"weights": 1}, "--weights must be text"),
            ({"features": [0]}, "--features must list names of columns, got 0 among them"),
            ({"features": 3}, "--features must list names of columns, got 3"),
            ({"hashed": [["city"]]}, "--hash must list names of columns, got"),
            ({"interact": [("age", 2)]}, "--interact must list names of columns, got 2 among"),
            ({"interact": [3]}, "--interact must list names of columns"),
            ({"l2": None}, "--l2 must be a number, got None"),
            ({"test": "a"}, "--test must be a number, got 'a'"),
            ({"bits": 10.0}, "--bits must be a whole number, got 10.0"),
            ({"dtype": "much"}, "--dtype must be float32 or float64, got 'much'"),
            ({"dtype": 3}, "--dtype must be float32 or float64, got 3"),
            ({"dtype": "float16"}, "--dtype must be float32 or float64, got 'float16'"),
        ],
    )
    def test_options_of_other_types_are_refused(self, people, options, message):
        options = {"target": "pay", "exclude": ("w", "city")} | options
        with pytest.raises(DataError, match=message):
            jd.fit_model(people, **options)

    def test_a_mask_is_no_condition_and_a_text_no_memory(self, model, people):
        with pytest.raises(DataError, match="where must be a condition as text, got ndarray"):
            model.predict(people, where=np.ones(len(people), bool))
        with pytest.raises(TypeError, match=r"memory must be a number.*'600MB'.*600e6"):
            jd.fit_model(people, "pay", memory="600MB")

    def test_it_is_replaced_only_where_that_is_said(self, model, tmp_path):
        model.save(tmp_path / "m")
        with pytest.raises(DataError, match="overwrite"):
            model.save(tmp_path / "m")
        model.save(tmp_path / "m", overwrite=True)
        (tmp_path / "m" / "thesis.tex").write_text("years of work")
        with pytest.raises(DataError, match="more than a model"):
            model.save(tmp_path / "m", overwrite=True)
        assert (tmp_path / "m" / "thesis.tex").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t | {"schema": 99}, "schema 99"),
            (lambda t: t | {"format": "other"}, "does not describe"),
            (lambda t: [t], "does not describe"),
            (lambda t: {k: v for k, v in t.items() if k != "encoding"}, "damaged"),
            (lambda t: t | {"features": 3}, "damaged"),
            (lambda t: t | {"encoding": 3}, "damaged"),
            (lambda t: t | {"encoding": t["encoding"] | {"bits": "x"}}, "damaged"),
            (
                lambda t: t | {"encoding": t["encoding"] | {"levels": {"city": [1, 2]}}},
                r"levels\.city\[0\] must be text, got 1",
            ),
            (lambda t: t | {"intercept": "x"}, "damaged"),
            (lambda t: t | {"intercept": float("inf")}, "no model has the number Infinity"),
            (lambda t: t | {"options": 3}, "options must be an object, got 3"),
            (lambda t: t | {"metrics": [3]}, "metrics must be an object"),
            (lambda t: t | {"metrics": {"train": 5}}, r"metrics\.train must be an object, got 5"),
            (lambda t: t | {"intercept": 10**400}, r"no model has the number 10{29}\.\.\.\.$"),
            (lambda t: t | {"intercept": True}, "intercept must be a number, got true"),
            (lambda t: t | {"target": "\ud800"}, "damaged: 'utf-8' codec can't encode"),
            (lambda t: {k: v for k, v in t.items() if k != "features"}, "features is missing"),
            (
                lambda t: t | {"encoding": t["encoding"] | {"numbers": [["age"]]}},
                r"encoding\.numbers\[0\] must be text, got \[\"age\"\]",
            ),
            (lambda t: t | {"encoding": t["encoding"] | {"bits": 10**18}}, "from 0 to 30, got"),
        ],
    )
    def test_damaged_ones_are_refused(self, model, tmp_path, change, message):
        path = model.save(tmp_path / "m") / "model.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        with pytest.raises(DataError, match=message):
            jd.load_model(tmp_path / "m")

    @pytest.mark.parametrize(
        "ask",
        [
            lambda model: model.save(""),
            lambda model: jd.load_model(""),
            lambda model: jd.fit_model({"x": np.ones(3), "y": np.ones(3)}, checkpoint=""),
        ],
    )
    def test_an_empty_path_is_not_the_current_folder(self, model, ask):
        with pytest.raises(DataError, match="a path is empty"):
            ask(model)

    def test_files_that_are_cut_off_or_gone_are_refused(self, model, tmp_path):
        folder = model.save(tmp_path / "m")
        text, whole = ((folder / name).read_bytes() for name in ("model.json", "weights.npy"))
        for name, content, message in (
            ("model.json", text[:100], "damaged"),
            *(("weights.npy", whole[:size], "cannot be read") for size in (0, 1, 60, 127, -8)),
            ("weights.npy", whole[:40] + b"\x00'" + whole[42:], "cannot be read"),
        ):
            (folder / name).write_bytes(content)
            with pytest.raises(DataError, match=rf"{re.escape(name)} .*{message}"):
                jd.load_model(folder)
            (folder / "model.json").write_bytes(text)
        np.save(folder / "weights.npy", np.full(len(model.weights), np.nan))
        with pytest.raises(DataError, match="weights must be finite"):
            jd.load_model(folder)
        (folder / "weights.npy").unlink()
        with pytest.raises(DataError, match="no such file"):
            jd.load_model(folder)

    def test_arrays_of_another_model_are_refused(self, tmp_path, rng):
        """A folder that is replaced while it is read gives files of both models."""
        table = {"a": rng.normal(size=(2, 60)), "h": rng.choice(["k", "l", "m", "n"], (2, 60))}
        folders = [
            jd.fit_model(
                pl.DataFrame({"a": a, "h": h, "y": a + (h == "k")}), "y", hashed="h", l2=1.0
            ).save(tmp_path / str(k))
            for k, (a, h) in enumerate(zip(*table.values(), strict=True))
        ]
        path = folders[0] / "model.json"
        content = json.loads(path.read_text())
        (folders[0] / "weights.npy").write_bytes((folders[1] / "weights.npy").read_bytes())
        with pytest.raises(DataError, match="damaged, or was replaced while it was read"):
            jd.load_model(folders[0])
        content["schema"] = 2
        path.write_text(json.dumps(content))
        with pytest.raises(
            DataError, match=r"schema 2, written by jaxdescent .*, and this version"
        ):
            jd.load_model(folders[0])

    @pytest.mark.parametrize("seed", range(4))
    def test_a_description_that_was_edited_is_a_model_or_an_error_of_one_line(self, tmp_path, seed):
        """Any part of it left out, or changed to something else."""
        rng = np.random.default_rng(seed)
        table, options = of_everything(rng)
        folder = jd.fit_model(table, "y", **options).save(tmp_path / "m")
        path = folder / "model.json"
        whole = json.loads(path.read_text())

        def places(part, place=()):
            pairs = part.items() if isinstance(part, dict) else enumerate(part)
            for key, each in pairs:
                yield (*place, key)
                if isinstance(each, (dict, list)):
                    yield from places(each, (*place, key))

        others = [None, True, 0, -1, 10**400, np.inf, np.nan, "x", "\ud800", [], [["a"]], [1], {}]
        others += [{"a": 1}, {"x": ["y"]}, 10**18]
        every, refused = list(places(whole)), []
        for _ in range(150):
            content = json.loads(json.dumps(whole))
            *above, last = every[rng.integers(len(every))]
            part = content
            for key in above:
                part = part[key]
            if rng.random() < 0.3:
                del part[last]
            else:
                part[last] = others[rng.integers(len(others))]
            path.write_text(json.dumps(content))
            try:
                model = jd.load_model(folder)
                assert contents(model, 10).as_text()
                assert repr(model)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".* outside of ")
                    model.predict(table)
            except DataError as error:
                refused.append(str(error))
        assert len(refused) > 50
        assert all(len(line.splitlines()) == 1 for line in refused)

    def test_all_of_a_model_is_on_the_disk_before_it_has_its_name(
        self, model, tmp_path, monkeypatch
    ):
        synced, renamed = [], []
        sync, rename = os.fsync, pathlib.Path.rename
        monkeypatch.setattr(
            os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), sync(file))
        )
        monkeypatch.setattr(
            pathlib.Path, "rename", lambda a, b: (renamed.append(len(synced)), rename(a, b))[1]
        )
        folder = model.save(tmp_path / "m")
        assert sorted(synced) == sorted(path.stat().st_ino for path in folder.iterdir())
        assert renamed == [len(synced)]

    @pytest.mark.parametrize("last", [1, 2])
    def test_an_interrupt_while_a_model_is_replaced_leaves_one(
        self, model, tmp_path, last, monkeypatch
    ):
        place, rename, renamed = model.save(tmp_path / "m"), pathlib.Path.rename, []

        def interrupted(path, to):
            rename(path, to)
            renamed.append(to)
            if len(renamed) == last:
                raise KeyboardInterrupt

        monkeypatch.setattr(pathlib.Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.save(place, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["m"]
        assert jd.load_model(place).weights == pytest.approx(model.weights)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.drop("age"), "no column 'age'"),
            (lambda t: t.drop("age", "city"), "'age', 'city'"),
            (lambda t: t.with_columns(age=pl.lit("old")), "'age' must be numeric.* got text"),
            (lambda t: t.with_columns(month=pl.col("age")), "'month' must hold text.* got number"),
            (lambda t: t.with_columns(city=pl.lit("Rome")), "'city' is 'Rome' in row 1"),
            (lambda t: t.with_columns(age=pl.lit(float("nan"))), "'age' is NaN in row"),
            (lambda t: t.with_columns(age=pl.lit(None, pl.Float64)), "'age' has no value in row 1"),
        ],
    )
    def test_other_columns_are_refused_by_name(self, model, people, change, message):
        with pytest.raises(DataError, match=message):
            model.predict(change(people))

    def test_unseen_levels_may_count_nothing(self, model, people):
        other = people.head(3).with_columns(city=pl.lit("Rome"))
        known = people.head(3).with_columns(city=pl.lit("Ulm"))
        effect = dict(model.named_weights(99))["city=Ulm"]
        difference = model.predict(known) - model.predict(other, unseen="zero")
        np.testing.assert_allclose(difference, effect)
