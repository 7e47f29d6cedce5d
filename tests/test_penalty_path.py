"""Rows in memory: a penalty by search, standardised penalties, methods, dtypes and starts."""

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("typer")

import polars as pl
from sklearn.linear_model import LinearRegression, Ridge

import jaxdescent as jd
from jaxdescent.data import DataError, located, open_source
from jaxdescent.data.chunk import Chunk
from jaxdescent.data.entries import Coded, sparse_pieces
from jaxdescent.fit import descents, penalty_path
from jaxdescent.fit.job import ProgressListener
from jaxdescent.fit.penalty_path import Path, penalties_from
from jaxdescent.fit.vectors import ColumnSquares

ROWS = 900
LEVELS = {"city": 20, "shop": 60, "day": 7}
OPTIONS = {"categorical": ("city", "shop"), "hashed": ("day",)}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, size, ROWS) for name, size in LEVELS.items()}
    effects = sum(rng.normal(size=LEVELS[name])[codes] for name, codes in columns.items())
    age = rng.normal(40, 10, ROWS)
    y = 1000 + 0.2 * age + effects + 3 * rng.normal(size=ROWS)
    return pl.DataFrame(columns | {"age": age, "w": rng.integers(0, 4, ROWS), "y": y})


class TestSearch:
    @pytest.mark.slow
    @pytest.mark.parametrize("standardize", [False, True])
    def test_held_out_rows_choose_what_they_choose_by_sums(self, table, standardize):
        models = [
            jd.fit_model(
                table, "y", test=0.3, l2="auto", weights="w", standardize=standardize,
                method=method, **OPTIONS,
            )
            for method in ("direct", "cg")
        ]  # fmt: skip
        by_sums, on_rows = (model.metrics for model in models)
        assert on_rows["l2"] == pytest.approx(by_sums["l2"], rel=1e-6)
        assert on_rows["l2_chosen_by"] == by_sums["l2_chosen_by"] == "held-out rows"
        for part in ("train", "held_out"):
            assert on_rows[part]["rmse"] == pytest.approx(by_sums[part]["rmse"], rel=1e-4)
        np.testing.assert_allclose(models[1].predict(table), models[0].predict(table), atol=5e-2)
        assert any("optimistic" in note for note in on_rows["notes"])
        assert on_rows["iterations"] > 30

    @pytest.mark.slow
    def test_without_them_the_trace_is_estimated(self, table):
        direct, found = (
            jd.fit_model(table, "y", exclude="w", l2="auto", method=method, **OPTIONS)
            for method in ("direct", "cg")
        )
        # Scores near the minimum differ by less than what the estimate is off.
        assert 0.5 < found.metrics["l2"] / direct.metrics["l2"] < 2
        same = jd.fit_model(
            table, "y", exclude="w", l2=found.metrics["l2"], method="direct", **OPTIONS
        )
        degrees = same.metrics["degrees_of_freedom"]
        assert found.metrics["degrees_of_freedom"] == pytest.approx(degrees, rel=0.15)
        assert "32 random vectors" in found.metrics["l2_chosen_by"]

    def test_rows_without_weight_choose_nothing(self, rng):
        X, noise = rng.normal(size=(60, 12)), rng.normal(size=60)
        rows = pl.DataFrame(X).with_columns(y=X[:, 0] + 2 * noise, w=np.ones(60))
        others = pl.DataFrame(rng.normal(size=(3000, 14)), schema=rows.schema)
        more = pl.concat([rows, others.with_columns(w=0.0)])
        one, other = (jd.fit_model(of, "y", weights="w", l2="auto").metrics for of in (rows, more))
        assert other["l2"] == pytest.approx(one["l2"], rel=1e-9)
        assert other["degrees_of_freedom"] == pytest.approx(one["degrees_of_freedom"], rel=1e-9)

    @pytest.mark.slow
    def test_the_path_ends_where_the_error_has_turned(self, table):
        told = []

        class Told(ProgressListener):
            def tell(self, state):
                told.append(state)

        model = jd.fit_model(
            table, "y", exclude="w", test=0.3, l2="auto", method="cg", watch=Told(), **OPTIONS
        )
        penalties = [float(state.split(",")[0].removeprefix("l2 ")) for state in told]
        assert penalties == sorted(penalties, reverse=True)
        chosen = min(range(len(penalties)), key=lambda k: abs(penalties[k] - model.metrics["l2"]))
        after = len(penalties) - 1 - chosen
        assert penalty_path.TURNED <= after <= penalty_path.LOST
        assert len(penalties) < 61
        assert "RMSE" in told[0]

    @pytest.mark.slow
    def test_a_path_that_cannot_go_on_says_so(self, table, monkeypatch):
        before, count = descents.minimize, 0

        def some(*arguments, **options):
            nonlocal count
            count += 1
            return before(*arguments, **options | {"max_iterations": 1 if count == 25 else 1000})

        monkeypatch.setattr(descents, "minimize", some)
        model = jd.fit_model(table, "y", exclude="w", test=0.3, l2="auto", method="cg", **OPTIONS)
        notes = " ".join(model.metrics["notes"])
        assert "did not converge in this dtype: the path ends there" in notes
        assert "at the end of the path" in notes


def path_of(scores, **options):
    penalties = np.logspace(-2, 2, len(scores))
    return Path(penalties, np.asarray(scores), "a rule", int(np.argmin(scores)), **options)


@pytest.mark.parametrize(
    ("path", "is_at_end"),
    [
        (path_of([3.0, 2.0, 1.0, 2.0]), False),
        (path_of([1.0, 2.0, 3.0]), True),
        (path_of([3.0, 2.0, 1.0]), True),
        (path_of([1.0, 1.0 + 1e-8, 3.0]), False),  # a smaller one changes nothing
        (path_of([1.0, 1.0 + 1e-8, 3.0], is_cut=True), True),
        (path_of([1.0]), False),
    ],
)
def test_the_end_of_a_path_is_one_where_the_scores_still_fall(path, is_at_end):
    assert path.is_at_end is is_at_end
    assert any("at the end" in note for note in path.notes) is is_at_end


def test_a_few_long_columns_do_not_hide_the_others():
    usual = penalties_from(np.full(20, 5.0))
    assert usual.size == 61
    np.testing.assert_allclose(usual[[0, -1]], [5e-9, 5e3])
    squares = np.array([1e9] + [1.0] * 99)
    penalties = penalties_from(squares)
    # Below the median length, a ten-millionth of the mean, by four decades and the rest of one.
    assert penalties[0] == pytest.approx(1e-12 * squares.mean(), rel=1e-12)
    assert penalties[-1] == pytest.approx(1e3 * squares.mean(), rel=1e-12)
    np.testing.assert_allclose(np.diff(np.log10(penalties)), 0.2)
    assert penalties_from(np.zeros(3)).size == 61
    assert penalties_from(np.array([1e200] + [1.0] * 9))[0] > 0


class TestStandardize:
    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["direct", "cg"])
    def test_it_penalises_weights_per_standard_deviation(self, table, method):
        model = jd.fit_model(
            table, "y", exclude="w", l2=50.0, standardize=True, method=method, dtype="float64",
            **OPTIONS,
        )  # fmt: skip
        X = written_out(model, table)
        scale = X.std(axis=0)
        expected = Ridge(50.0).fit(X / scale, table["y"])
        np.testing.assert_allclose(model.weights, expected.coef_ / scale, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_a_column_that_does_not_vary_is_not_divided_by_zero(self, table):
        constant = table.with_columns(one=pl.lit(3.0), name=pl.lit("same"))
        model = jd.fit_model(
            constant, "y", exclude="w", l2=1.0, standardize=True, method="cg",
            categorical=("city", "name"), hashed="day",
        )  # fmt: skip
        weights = dict(model.named_weights(999))
        assert abs(weights["one"]) < 1e-4
        assert abs(weights["name=same"]) < 1e-4
        assert np.isfinite(model.weights).all()

    def test_moments_add_up_over_blocks_with_means_for_what_is_missing(self, rng):
        rows, weight = 500, rng.integers(0, 3, 500).astype(float)
        numbers = rng.normal(size=(rows, 3)) * [1.0, 100.0, 0.0]
        numbers[rng.random(rows) < 0.2, 0] = np.nan
        codes, buckets = rng.integers(-1, 4, rows), rng.integers(-1, 5, (2, rows))
        slope = rng.normal(size=rows)
        X = np.zeros((rows, 3 + 4 + 5))
        X[:, :3] = numbers
        train = weight * np.isfinite(numbers[:, 0])
        X[np.isnan(numbers[:, 0]), 0] = fill = train @ np.nan_to_num(numbers[:, 0]) / train.sum()
        shift = np.array([0.0, 0.0, 1e12])  # of float64's rounding there is some
        numbers[:, 2] = rng.normal(size=rows) * 1e-5
        for row in range(rows):
            for code, first, value in (
                (codes[row], 3, slope[row]),
                *((b, 7, 1) for b in buckets.T[row]),
            ):
                if code >= 0:
                    X[row, first + code] += value
        moments = ColumnSquares(12, np.float64)
        for part in np.array_split(np.arange(rows), 7):
            coded = [
                Coded(3, 4, codes[part], slope[part]),
                *(Coded(7, 5, b[part]) for b in buckets),
            ]
            sparse = sparse_pieces(coded, [], 3, 12, np.float64)
            chunk = Chunk(0, ("a", "b", "c"), np.nan_to_num(numbers[part]), sparse, [], 12)
            moments.add(chunk, weight[part])
        mean = weight @ X / weight.sum()
        absent = np.array([weight[np.isnan(numbers[:, 0])].sum(), 0, 0])
        total = weight.sum()
        squares = moments.squares(total, shift, np.array([fill, 0, 0]), absent)
        np.testing.assert_allclose(squares, weight @ (X - mean) ** 2, rtol=1e-9)
        assert squares[2] == 0
        assert moments.squares(total, *np.zeros((3, 3)))[2] > 0


def written_out(model, table):
    (block,) = located(open_source(table), model.encoding.columns, len(table))
    encoded = model.encoding.encode(block)
    X = np.zeros((len(table), model.encoding.size))
    for j, number in enumerate(encoded.numbers):
        X[:, j] = number.values
    for column in encoded.coded:
        X[np.arange(len(table)), column.first + column.codes] += 1
    return X


def predictions_by_ridge(model, table):
    """By scikit-learn in float64, with a penalty of 2 on the columns as the model encodes them."""
    X = written_out(model, table)
    return Ridge(2.0).fit(X, table["y"]).predict(X)


class TestMethods:
    @pytest.mark.first
    @pytest.mark.parametrize("method", ["cg", "lsmr", "lbfgs"])
    def test_each_finds_the_minimum(self, table, method):
        options = {"exclude": "w", "l2": 2.0, **OPTIONS}
        model = jd.fit_model(table, "y", method=method, **options)
        expected = predictions_by_ridge(model, table)
        assert model.metrics["status"] == "CONVERGED"
        assert method in model.metrics["method"].lower().replace("conjugategradient", "cg")
        assert "float32" in model.metrics["method"]
        error = np.sqrt(np.mean((expected - table["y"].to_numpy()) ** 2))
        assert model.metrics["train"]["rmse"] == pytest.approx(error, rel=2e-5)
        np.testing.assert_allclose(model.predict(table), expected, atol=5e-2)

    @pytest.mark.slow
    def test_float64_has_more_digits(self, table):
        options = {"exclude": "w", "l2": 2.0, "method": "cg", **OPTIONS}
        models = [
            jd.fit_model(table, "y", dtype=dtype, **options) for dtype in ("float32", "float64")
        ]
        expected = predictions_by_ridge(models[0], table)
        errors = [np.abs(model.predict(table) - expected).max() for model in models]
        assert errors[1] < 1e-5
        assert errors[0] < 5e-2

    def test_one_that_does_not_fit_is_refused(self, rng, monkeypatch):
        from jaxdescent.fit import plans
        from jaxdescent.fit.budget import Memory

        X = {f"x{j}": rng.normal(size=30) for j in range(40)}
        held = Memory.of(None).limit
        monkeypatch.setattr(Memory, "of", classmethod(lambda cls, limit: cls(held, True)))
        plan = plans.plan_sums
        monkeypatch.setattr(plans, "plan_sums", lambda job: plan(job)._replace(bytes=held + 1))
        with pytest.raises(MemoryError, match="--method direct with 40 features needs"):
            jd.fit_model(X | {"y": X["x0"]}, "y", method="direct")


@pytest.fixture(scope="module")
def model(table):
    return jd.fit_model(table.head(600), "y", exclude="w", l2=2.0, method="cg", **OPTIONS)


class TestStart:
    @pytest.mark.parametrize("standardize", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_it_goes_on_where_the_model_is(self, table, standardize):
        options = {"exclude": "w", "l2": 2.0, "method": "cg", "standardize": standardize, **OPTIONS}
        first = jd.fit_model(table, "y", **options)
        again = jd.fit_model(table, "y", start=first, **options)
        assert again.metrics["iterations"] <= 2 < first.metrics["iterations"]
        np.testing.assert_allclose(again.predict(table), first.predict(table), atol=5e-2)
        assert any("started from the model's" in note for note in again.metrics["notes"])

    @pytest.mark.slow
    def test_more_rows_with_new_levels_and_without_old_ones(self, model, table, tmp_path):
        more = table.with_columns(
            shop=pl.when(pl.col("shop") < 3).then(pl.col("shop") + 1000).otherwise(pl.col("shop"))
        )
        model.save(tmp_path / "m")
        options = {"exclude": "w", "l2": 2.0, **OPTIONS}
        fitted = jd.fit_model(more, "y", start=tmp_path / "m", method="cg", **options)
        expected = predictions_by_ridge(fitted, more)
        np.testing.assert_allclose(fitted.predict(more), expected, atol=5e-2)
        notes = " ".join(fitted.metrics["notes"])
        assert f"{model.encoding.size - 3} of {fitted.encoding.size} weights started" in notes
        assert "3 of its levels or buckets are in no training row" in notes
        names = dict(fitted.named_weights(999))
        assert "shop=1001" in names
        assert "shop=1" not in names

    def test_features_are_matched_by_name_not_by_place(self, model, table):
        from jaxdescent.fit.by_descent import start_of

        swapped = jd.fit_model(
            table.select("y", "day", "shop", "city", "age"), "y", l2=2.0,
            categorical=("shop", "city"), hashed="day",
        )  # fmt: skip
        start, _ = start_of(model, swapped.encoding)
        weights = dict(model.named_weights(999))
        for j in range(swapped.encoding.size):
            assert start[j] == weights.get(swapped.encoding.feature_name(j), 0.0)

    def test_the_sums_need_no_start_and_say_so(self, model, table):
        fitted = jd.fit_model(table, "y", exclude="w", l2=2.0, start=model, **OPTIONS)
        assert "The sums' solve needs no start: --start changed nothing." in fitted.metrics["notes"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target": "age"}, "is a model of 'y', and 'age' is to be fitted"),
            ({"exclude": ()}, "numeric 'w' of the fit alone"),
            ({"exclude": ("w", "age")}, "numeric 'age' of the model alone"),
            ({"categorical": "city"}, "numeric 'shop' of the fit alone; categorical 'shop' of the"),
            ({"bits": 7}, "--bits 20 of the model and 7 of the fit"),
            ({"interact": "city:shop"}, "categorical 'city:shop' of the fit alone"),
        ],
    )
    def test_models_of_other_columns_are_refused_by_what_differs(
        self, model, table, options, message
    ):
        options = {"target": "y", "exclude": "w", "l2": 2.0, **OPTIONS} | options
        with pytest.raises(DataError, match=message):
            jd.fit_model(table, start=model, **options)


class TestProgress:
    @pytest.mark.slow
    def test_each_iteration_is_told_to_who_looks(self, table):
        told = []

        class Looking(ProgressListener):
            is_looking = True

            def begin(self, what, total, unit="rows"):
                told.append((what, unit))

            def tell(self, state):
                told.append(state)

        options = {"exclude": "w", "l2": 2.0, "method": "cg", **OPTIONS}
        watched = jd.fit_model(table, "y", watch=Looking(), **options)
        plain = jd.fit_model(table, "y", **options)
        np.testing.assert_allclose(watched.weights, plain.weights, rtol=1e-6, atol=1e-9)
        assert watched.metrics["method"] == plain.metrics["method"]
        assert ("minimising", "iterations") in told
        losses = [float(s.split()[1].rstrip(",")) for s in told if isinstance(s, str)]
        assert len(losses) >= watched.metrics["iterations"]
        assert losses[-1] == pytest.approx(watched.metrics["value"], rel=1e-4)
        assert losses[0] > losses[-1]
        assert any("above the minimum" in s for s in told if isinstance(s, str))

    def test_nobody_listens_after_an_error(self, table, monkeypatch):
        class Looking(ProgressListener):
            is_looking = True

        def fails(*args):
            assert descents._listeners
            descents._listeners.append(print)  # of a fit on another thread, which goes on
            raise RuntimeError

        monkeypatch.setattr(descents, "_listeners", [])
        monkeypatch.setattr(descents, "minimum", fails)
        with pytest.raises(RuntimeError):
            jd.fit_model(table, "y", exclude="w", method="cg", watch=Looking(), **OPTIONS)
        assert descents._listeners == [print]


@pytest.mark.slow
def test_least_squares_without_a_penalty_agrees_on_rows(table):
    model = jd.fit_model(table, "y", features=("age", "w"), method="lsmr", dtype="float64")
    expected = LinearRegression().fit(table.select("age", "w"), table["y"])
    np.testing.assert_allclose(model.weights, expected.coef_, rtol=1e-5)
