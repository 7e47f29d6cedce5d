"""Columns of one matrix: the numbers of separate columns, without a copy of the matrix."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxdescent as jd
from jaxdescent.data import open_source
from jaxdescent.data.matrix_columns import MatrixColumns, matrix_of
from jaxdescent.data.protocol import Block, located
from jaxdescent.fit import fit_model
from jaxdescent.fit.columns import Interaction
from jaxdescent.fit.encoding import Encoding
from tests.references import closed_form


@given(data=st.data(), is_by_column=st.booleans())
def test_blocks_of_a_matrix_have_the_columns_of_separate_arrays(data, is_by_column):
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    X = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    given = np.asfortranarray(X) if is_by_column else X
    apart = {f"x{j}": X[:, j].copy() for j in range(columns)} | {"y": np.arange(rows)}
    source = open_source({"X": given, "y": apart["y"]})
    assert source.kinds == open_source(apart).kinds
    names = data.draw(st.lists(st.sampled_from([*apart]), min_size=1, unique=True))
    at_once, first = data.draw(st.integers(1, rows)), data.draw(st.integers(0, rows - 1))
    blocks = list(located(source, names, at_once, first))
    assert sum(block.rows for block in blocks) == rows - first
    for block in blocks:
        assert sorted(block.columns) == sorted(names)
        assert len(block.columns) == len(names)
        for name in names:
            own = apart[name][block.start : block.start + block.rows]
            np.testing.assert_array_equal(block.columns[name], own)


def test_a_matrix_is_viewed_where_its_columns_follow_each_other():
    X = np.arange(12.0).reshape(3, 4)
    columns = MatrixColumns({"a": 0, "b": 1, "c": 2, "d": 3}, X, {"y": np.ones(3)})
    view = matrix_of(columns, ("b", "c"))
    np.testing.assert_array_equal(view, X[:, 1:3])
    assert np.shares_memory(view, X)
    assert not view.flags.writeable
    assert X.flags.writeable
    np.testing.assert_array_equal(matrix_of(columns.cut(slice(1, 3)), ("d",)), X[1:, 3:])
    assert columns.cut(slice(1, 3))["y"].shape == (2,)
    for names in (("c", "b"), ("a", "c"), ("d", "y"), ("a", "a"), ("e",), ()):
        assert matrix_of(columns, names) is None
    views = {"a": X[:, 0], "b": X[:, 1], "d": X[:, 3], "y": np.ones(3)}  # as a loader gives them
    np.testing.assert_array_equal(matrix_of(views, ("a", "b")), X[:, :2])
    assert np.shares_memory(matrix_of(views, ("a", "b")), X)
    for names in (("b", "a"), ("a", "b", "d"), ("d", "y"), ("y", "a"), ("a", "e"), ("e", "a")):
        assert matrix_of(views, names) is None
    with pytest.raises(KeyError, match="e"):
        columns["e"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.bool_])
@pytest.mark.parametrize("features", [None, ["x0", "x1", "x2", "x3"], ["x3", "x1"], ["x0", "x3"]])
def test_fits_of_a_file_are_those_of_its_columns(tmp_path, rng, dtype, features):
    X = (3 * rng.normal(size=(60, 4)) + 1).astype(dtype)
    y = X.astype(float) @ [1.0, -2.0, 0.5, 3.0] + 7 + 0.1 * rng.normal(size=60)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)
    found = fit_model(tmp_path / "X.npy", features=features, l2=0.3)
    places = [int(name[1:]) for name in features or ("x0", "x1", "x2", "x3")]
    weights, intercept, _ = closed_form(X[:, places], y, 0.3)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.intercept, intercept, rtol=1e-6)


@pytest.mark.parametrize("is_by_column", [False, True])
@pytest.mark.parametrize("method", ["direct", "cg"])
def test_missing_numbers_of_a_matrix_are_its_means(tmp_path, rng, is_by_column, method):
    X = rng.normal([1e3, 0, -5], size=(50, 3))
    X[3, 1] = X[40, 1] = np.nan
    y = np.nan_to_num(X) @ [0.1, 1, 2] + rng.normal(size=50)
    np.save(tmp_path / "X.npy", np.asfortranarray(X) if is_by_column else X)
    np.save(tmp_path / "y.npy", y)
    options = {"missing": "mean", "l2": 0.1, "method": method, "dtype": "float64"}
    found = fit_model(tmp_path / "X.npy", **options)
    filled = np.where(np.isnan(X), np.nanmean(X, axis=0), X)
    weights, intercept, _ = closed_form(filled, y, 0.1)
    np.testing.assert_allclose(found.weights, weights, rtol=1e-4)
    np.testing.assert_allclose(found.intercept, intercept, rtol=1e-4)


def test_a_number_that_is_not_finite_is_named(tmp_path):
    X = np.ones((9, 3), np.float32)
    X[7, 2] = np.nan
    np.save(tmp_path / "X.npy", X)
    design = jd.Streamed(str(tmp_path / "X.npy"))
    with pytest.raises(jd.data.DataError, match=r"'x2' is NaN in row 8 of X\.npy"):
        design.product(np.ones(3, np.float32))


def test_a_missing_slope_beside_a_matrix_is_refused():
    X, others = np.ones((3, 2)), {"z": pa.array([1.0, None, 2.0]), "c": pa.array(["u", "v", "u"])}
    block = Block(MatrixColumns({"a": 0, "b": 1}, X, others), 3, 0)
    slopes = {"z*c": Interaction(("z",), ("c",))}
    encoding = Encoding(("a", "b"), {"z*c": ("u", "v")}, interactions=slopes)
    with pytest.raises(jd.data.DataError, match="'z' has no value in row 2"):
        encoding.encode(block)
    encoded = encoding.encode(block, missing="mean")
    assert np.shares_memory(encoded.matrix, X)
    np.testing.assert_array_equal(encoded.coded[0].values, [1, 0, 2])
