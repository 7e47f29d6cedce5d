"""Fits whose rows stay in the files: the numbers of other fits, honest figures, refusals."""

import numpy as np
import polars as pl
import pytest

import jaxdescent as jd
from jaxdescent.data import DataError, row_stream
from jaxdescent.data.parquet import ParquetFiles
from jaxdescent.fit import descents, fitting, strategy
from jaxdescent.fit.job import ProgressListener
from jaxdescent.fit.rows import Lengths
from tests.files import keep_rows_in_files


@pytest.fixture
def no_room(monkeypatch):
    """Rows fit in no memory from here on, and blocks are of some hundred rows."""

    def use():
        keep_rows_in_files(monkeypatch)
        monkeypatch.setattr(row_stream, "BLOCK_BYTES", 4096)

    return use


@pytest.fixture
def people(rng):
    rows = 900
    city = rng.choice(["Bonn", "Kiel", "Ulm"], rows)
    month = rng.integers(1, 13, rows)
    age, size = rng.normal(40, 10, rows), rng.normal(size=rows)
    pay = 2 * age + 5.0 * (city == "Ulm") + 0.3 * month + rng.normal(size=rows)
    table = {"age": age, "size": size, "city": city, "month": month, "pay": pay}
    return pl.DataFrame(table | {"w": rng.integers(0, 4, rows)})


@pytest.fixture
def folder(people, tmp_path):
    people.write_parquet(tmp_path / "d.parquet")
    holes = people.with_columns(
        age=pl.when(pl.col("size") > 1).then(None).otherwise(pl.col("age")),
        city=pl.when(pl.col("size") < -2).then(None).otherwise(pl.col("city")),
    )
    holes.write_csv(tmp_path / "holes.csv")
    people.head(200).write_csv(tmp_path / "other.csv")
    return tmp_path


class Looking(ProgressListener):
    is_looking = True

    def __init__(self):
        self.lines, self.values = [], []

    def iterated(self, value, above):
        self.values.append(value)

    def planned(self, lines):
        self.lines += lines


CASES = {
    "weights, a condition, interactions, held-out rows": (
        "d.parquet",
        {"weights": "w", "where": "size > -1", "test": 0.25, "categorical": ("city", "month"),
         "interact": ("age:size", "city:month")},
    ),
    "means for missing values, slopes of levels, hashed columns, other data": (
        "holes.csv",
        {"missing": "mean", "categorical": ("city",), "hashed": ("month",), "weights": "w",
         "interact": ("city:size",), "test_data": "other.csv"},
    ),
    "dropped rows, several hashed columns and slopes in their buckets": (
        "holes.csv",
        {"missing": "drop", "hashed": ("city", "month"), "interact": ("city:size", "city:month"),
         "bits": 6, "test": 0.2},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.first
@pytest.mark.parametrize("case", CASES)
def test_it_is_what_sums_give(folder, no_room, case):
    name, options = CASES[case]
    if "test_data" in options:
        options = options | {"test_data": folder / options["test_data"]}
    arguments = {"data": folder / name, "target": "pay", "l2": 0.5, **options}
    by_sums = jd.fit_model(**arguments, method="direct")
    no_room()
    # In float32 one iteration more or less, which the last bits decide, moves some weights by a
    # hundredth.
    stayed = jd.fit_model(**arguments, method="cg", dtype="float64")
    assert "stay in the files, in float64" in stayed.metrics["method"]
    assert stayed.metrics["status"] == by_sums.metrics["status"] == "CONVERGED"
    np.testing.assert_allclose(stayed.weights, by_sums.weights, rtol=2e-3, atol=2e-4)
    for part in ("train", "held_out"):
        new, old = stayed.metrics[part], by_sums.metrics[part]
        assert new["rows"] == old["rows"]
        assert new["rmse"] == pytest.approx(old["rmse"], rel=1e-5)
        assert new["r2"] == pytest.approx(old["r2"], abs=1e-6)
    assert stayed.encoding.fills == pytest.approx(by_sums.encoding.fills)
    for figure in ("dropped_rows", "unseen_values"):
        assert stayed.metrics[figure] == by_sums.metrics[figure]
    assert stayed.metrics["value"] == pytest.approx(by_sums.metrics["value"], rel=1e-5)


@pytest.fixture
def widths(monkeypatch):
    """For how many penalties each descent is; the second one does not converge."""
    found, before = [], descents.minimize

    def noted(objective, *arguments, **options):
        if objective.y.ndim == 2:
            found.append(objective.y.shape[1])
            if len(found) == 2:
                options |= {"max_iterations": 1}
        return before(objective, *arguments, **options)

    monkeypatch.setattr(descents, "minimize", noted)
    return found


SHARED = {"categorical": ("city",), "hashed": ("month",), "bits": 2, "missing": "mean"}


@pytest.fixture
def chosen(folder, no_room):
    """The fit with a penalty by search in the files, beside those by sums: with a penalty by
    search, and with the same penalty.
    """

    def of(method, **options):
        options = {"data": folder / "holes.csv", "target": "pay", **SHARED, **options}
        by_sums = jd.fit_model(**options, l2="auto", method="direct")
        no_room()
        watch = Looking()
        found = jd.fit_model(**options, l2="auto", method=method, watch=watch)
        assert any("multiplies for 15 penalties in each pass" in line for line in watch.lines)
        assert found.metrics["l2_chosen_by"].startswith(by_sums.metrics["l2_chosen_by"])
        # Beside each other's choice scores differ by less than what a descent leaves.
        assert found.metrics["l2"] > 0
        same = jd.fit_model(**options, l2=found.metrics["l2"], method="direct")
        # The levels and the intercept together are flat but for a small penalty: along that
        # direction the tolerance of the value leaves the weights a few hundredths of their size.
        np.testing.assert_allclose(found.weights, same.weights, rtol=5e-2, atol=0.15)
        rmse = same.metrics["train"]["rmse"]
        assert found.metrics["train"]["rmse"] == pytest.approx(rmse, rel=1e-5)
        return found.metrics, same.metrics

    return of


@pytest.mark.slow
def test_a_search_for_the_penalty_shares_its_passes(chosen):
    found, same = chosen("lsmr", exclude=("w",))  # the trace is estimated
    assert found["passes"] < 150  # those of all descents and their gaps, of 35 to 45 penalties
    degrees = same["degrees_of_freedom"]
    assert found["degrees_of_freedom"] == pytest.approx(degrees, rel=0.2)


@pytest.mark.slow
def test_penalties_that_do_not_converge_together_are_tried_in_halves(chosen, widths):
    options = {"test": 0.3, "standardize": True, "weights": "w", "interact": ("age:size",)}
    found, same = chosen("cg", **options)
    assert widths[:3] == [15, 15, 8]
    assert set(widths[2:]) == {8}
    assert not any("did not converge" in note for note in found["notes"])
    assert found["held_out"]["rmse"] == pytest.approx(same["held_out"]["rmse"], rel=2e-3)


@pytest.mark.slow
def test_standardised_weights_are_penalised(folder, no_room):
    shared = {"categorical": ("city",), "missing": "drop", "weights": "w", "l2": 30.0, "test": 0.2}
    options = {"data": folder / "holes.csv", "target": "pay", "standardize": True, **shared}
    expected = jd.fit_model(**options, method="direct")
    no_room()
    model = jd.fit_model(**options, method="lsmr")
    np.testing.assert_allclose(model.weights, expected.weights, rtol=2e-2, atol=1e-2)
    # One pass in each iteration, as without, and up to four that look at the end.
    assert model.metrics["passes"] <= model.metrics["iterations"] + 30
    start = jd.fit_model(**options, method="cg", start=model)
    assert start.metrics["iterations"] <= 2 < model.metrics["iterations"]
    np.testing.assert_allclose(start.weights, expected.weights, rtol=2e-2, atol=1e-2)


@pytest.mark.slow
def test_figures_are_those_of_the_predictions_and_passes_are_counted(folder, people, no_room):
    no_room()
    watch = Looking()
    options = {"exclude": ("w",), "categorical": ("city", "month"), "method": "cg"}
    model = jd.fit_model(folder / "d.parquet", "pay", watch=watch, **options)
    assert "stay in the files" in watch.lines[1]
    pay, predicted = people["pay"].to_numpy(), model.predict(people)
    rmse = np.sqrt(np.mean((predicted - pay) ** 2))
    metrics = model.metrics
    assert len(watch.values) >= metrics["iterations"] > 1
    assert watch.values[-1] == pytest.approx(metrics["value"], rel=1e-4)
    assert metrics["train"]["rmse"] == pytest.approx(rmse, rel=1e-9)
    # Levels, vectors, figures, and at least one pass in each iteration between them.
    assert metrics["passes"] >= 3 + metrics["iterations"]
    size = (folder / "d.parquet").stat().st_size
    assert metrics["bytes_read"] == (metrics["passes"] - 1) * size
    assert metrics["rows_read"] == (metrics["passes"] - 1) * 900
    assert metrics["suboptimality"] is not None
    assert any("at least 2 constants free" in note for note in metrics["notes"])


@pytest.mark.slow
def test_matrices_far_from_zero(rng, tmp_path, no_room):
    X = rng.normal(size=(600, 12)) + np.linspace(-1e5, 1e5, 12)
    y = X @ rng.normal(size=12) + rng.normal(size=600)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    no_room()
    model = jd.fit_model(tmp_path / "X.npy", method="lbfgs")
    assert "LBFGS() on rows that stay" in model.metrics["method"]
    centred = X - X.mean(0)
    expected = np.linalg.lstsq(centred, y - y.mean())[0]
    np.testing.assert_allclose(model.weights, expected, rtol=1e-2, atol=1e-2)
    rmse = np.sqrt(np.mean((y - y.mean() - centred @ expected) ** 2))
    assert model.metrics["train"]["rmse"] == pytest.approx(rmse, rel=1e-5)


def test_rows_that_are_given_only_once_are_refused_with_what_to_do(folder, no_room, monkeypatch):
    no_room()
    monkeypatch.setattr(ParquetFiles, "can_restart", False)
    message = "cannot be fitted from a reader that gives its rows only once: pass a table"
    with pytest.raises(jd.ProblemTooLarge, match=message):
        jd.fit_model(folder / "d.parquet", "pay", features=("age", "size"), method="cg")


@pytest.mark.slow
@pytest.mark.parametrize("l2", [0.1, "auto"])
def test_sparse_numbers_are_those_of_rows_in_memory(tmp_path, no_room, rng, l2):
    lines = []
    for _ in range(700):
        index = np.sort(rng.choice(1500, 5, replace=False)) + 1
        entries = " ".join(f"{j}:{rng.normal():.3f}" for j in index)
        lines.append(f"{np.sin(index).sum() + 0.1 * rng.normal():.4f} {entries}")
    (tmp_path / "d.svm").write_text("\n".join(lines))
    options = {"method": "cg", "l2": l2, "test": 0.2, "standardize": l2 == "auto"}
    expected = jd.fit_model(tmp_path / "d.svm", **options)
    no_room()
    model = jd.fit_model(tmp_path / "d.svm", **options)
    assert "in the files" in model.metrics["method"]
    assert model.metrics["l2"] == pytest.approx(expected.metrics["l2"], rel=1e-6)
    np.testing.assert_allclose(model.weights, expected.weights, rtol=2e-3, atol=2e-4)
    for part in ("train", "held_out"):
        assert model.metrics[part]["rmse"] == pytest.approx(
            expected.metrics[part]["rmse"], rel=1e-4
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [0.0] * 700 + [np.inf] + [0.0] * 199}, "'size' is infinite in row 701"),
        ({"age": [0.0] * 700 + [None] + [0.0] * 199}, "'age' has no value in row 701"),
        ({"pay": [2.0] * 900}, "the target 'pay' is 2 in all 900 training rows"),
    ],
)
def test_bad_data_are_said_by_the_first_pass(people, no_room, change, message):
    no_room()
    table = people.with_columns(**{name: pl.Series(values) for name, values in change.items()})
    with pytest.raises(DataError, match=message):
        jd.fit_model(table, "pay", exclude=("city",), method="lsmr")


@pytest.mark.slow
def test_float64_has_its_digits_on_the_threads_that_read(rng, tmp_path, no_room):
    X = rng.normal(size=(300, 5))
    y = X @ [1.0, 2.0, 3.0, 4.0, 5.0] + 7
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    no_room()
    model = jd.fit_model(tmp_path / "X.npy", method="cg", dtype="float64")
    assert "in the files, in float64" in model.metrics["method"]
    np.testing.assert_allclose(model.weights, [1, 2, 3, 4, 5], rtol=1e-10)


def test_a_limit_that_even_vectors_exceed_says_what_is_needed(people, no_room):
    no_room()
    with pytest.raises(jd.ProblemTooLarge, match=r"a fit of 4 features needs .* of memory"):
        jd.fit_model(people, "pay", exclude=("city",), method="cg", memory=150_000_000)


@pytest.mark.parametrize("stays", [False, True])
class TestNumbersThatADtypeCannotMultiply:
    """Squares of very small numbers are zero in float32, and those of large ones infinite."""

    @pytest.mark.parametrize(
        ("scale", "advice"),
        [(1e-23, "are up to 3e-22 from .* multiply them by 3e"), (1e20, "or say --dtype float64")],
    )
    def test_they_are_refused_by_name(self, people, no_room, stays, scale, advice):
        if stays:
            no_room()
        table = people.select(pl.col("age") * scale, "size", "city", "pay")
        with pytest.raises(DataError, match=f"the numbers of 'age' .*{advice}"):
            jd.fit_model(table, "pay", categorical="city", method="lsmr")
        slopes = {"exclude": "age", "categorical": "city", "interact": "age:city"}
        with pytest.raises(DataError, match=r"the numbers of 'age:city' are up to"):
            jd.fit_model(table, "pay", method="lsmr", **slopes)

    @pytest.mark.parametrize("scale", [1e-30, 1e28])
    def test_weights_of_rows_are_refused_too(self, people, no_room, stays, scale):
        if stays:
            no_room()
        table = people.select("age", "pay", pl.col("w") * scale)
        with pytest.raises(DataError, match=r"add up to .* beyond float32: multiply them by"):
            jd.fit_model(table, "pay", weights="w", method="lsmr")
        assert jd.fit_model(table, "pay", weights="w").metrics["train"]["r2"] > 0.9


def test_numbers_that_float32_cannot_multiply_are_fitted_in_float64(people):
    table = people.select(pl.col("age") * 1e-23, "size", "pay")
    expected = jd.fit_model(table, "pay")
    assert expected.metrics["train"]["r2"] > 0.9
    model = jd.fit_model(table, "pay", method="lsmr", dtype="float64")
    np.testing.assert_allclose(model.weights, expected.weights, rtol=1e-4)


@pytest.mark.parametrize("column", ["age", "pay"])
def test_numbers_whose_squares_underflow_are_named_for_their_size(people, column):
    """A fit by sums called the feature constant, and the target."""
    table, small = people.select("age", "pay"), pl.col(column)
    with pytest.raises(DataError, match=f"the numbers of '{column}' are up to .e-16. from"):
        jd.fit_model(table.with_columns(small * 1e-170), "pay")
    with pytest.raises(DataError, match=r"multiply them by 1e\+300\."):
        jd.fit_model(table.with_columns(small * 1e-320), "pay")
    r2 = jd.fit_model(table.with_columns(small * 1e-130), "pay").metrics["train"]["r2"]
    assert r2 == pytest.approx(jd.fit_model(table, "pay").metrics["train"]["r2"], rel=1e-9)


def test_what_rounding_leaves_of_a_constant_is_no_small_number():
    lengths = Lengths(["a"], "float32")
    column = np.full((10, 1), 0.1)
    assert lengths.add(column - 0.09999999999999999, [])
    lengths.check(np.array([0.1]))
    with pytest.raises(DataError, match="are up to 1e-17 from their mean"):
        lengths.check(np.array([1e-17]))


@pytest.mark.slow
def test_a_fit_without_figures_is_refused(people, monkeypatch):
    real = strategy.fit_within_memory

    def fit(*given):
        fitted, counts = real(*given)
        return fitted._replace(weights=fitted.weights * np.nan), counts

    monkeypatch.setattr(fitting, "fit_within_memory", fit)
    with pytest.raises(DataError, match="the fit ended CONVERGED, with weights or errors that"):
        jd.fit_model(people.select("age", "pay"), "pay")


def test_a_row_of_levels_takes_what_one_of_buckets_takes(monkeypatch, rng):
    """Both go through the stream as entries: an index and a value of each."""
    table = {f"c{j}": rng.choice(["a", "b"], 200) for j in range(40)}
    table, found = pl.DataFrame(table | {"y": rng.normal(size=200)}), []
    keep_rows_in_files(monkeypatch)
    plan = strategy.plans.plan_in_files

    def noted(job, rows):
        found.append(plan(job, rows).at_once)
        raise KeyboardInterrupt

    monkeypatch.setattr(strategy.plans, "plan_in_files", noted)
    for option in ("categorical", "hashed"):
        with pytest.raises(KeyboardInterrupt):
            jd.fit_model(table, "y", l2=1.0, method="lsmr", **{option: table.columns[:-1]})
    assert found[0] == found[1]
