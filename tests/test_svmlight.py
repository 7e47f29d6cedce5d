"""Text of svmlight's format: rows as they are, sparse fits, and what is wrong by its line."""

import gzip
import io

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file
from sklearn.linear_model import Ridge

import jaxdescent as jd
from jaxdescent.rows import DataError, Kind, open_source, svmlight
from tests.commands import refused, shown

ROWS, WIDE = 400, 4000


@pytest.fixture
def data(rng, request):
    columns = getattr(request, "param", 30)
    X = scipy.sparse.random_array(
        (ROWS, columns), density=8 / columns, rng=np.random.default_rng(0), format="csr"
    )
    return X, X @ rng.normal(size=columns) + 0.1 * rng.normal(size=ROWS)


def written(folder, X, y, name="d.svm", **options):
    dump_svmlight_file(X, y, str(folder / name.removesuffix(".gz")), **options)
    if name.endswith(".gz"):
        text = (folder / name.removesuffix(".gz")).read_bytes()
        (folder / name).write_bytes(gzip.compress(text))
    return folder / name


@pytest.mark.parametrize("name", ["d.svm", "d.libsvm.gz", "d.svmlight"])
@pytest.mark.parametrize("first", [0, 1])
def test_rows_are_those_that_were_written(data, tmp_path, name, first, monkeypatch):
    monkeypatch.setattr(svmlight, "PIECE_BYTES", 5000)
    X, y = data
    path = written(tmp_path, X, y, name, zero_based=first == 0, query_id=range(ROWS), comment="hi")
    source = open_source(path)
    assert source.kinds == {"x": Kind.SPARSE, "y": Kind.NUMBER}
    assert source.rows == ROWS
    blocks = list(source.blocks(["x", "y"], 64))
    got = scipy.sparse.vstack([block.column("x") for block in blocks]).toarray()
    np.testing.assert_allclose(got[:, first:], X.toarray(), rtol=1e-14)
    np.testing.assert_allclose(np.concatenate([b.column("y") for b in blocks]), y, rtol=1e-14)
    model = jd.fit_model(path, l2=0.1)
    expected = Ridge(0.1).fit(X.toarray(), y)
    np.testing.assert_allclose(model.weights, expected.coef_, rtol=1e-7, atol=1e-9)
    assert "sums" in model.metrics["method"]
    assert model.encoding.feature_name(3) == f"x{3 + first}"


@pytest.mark.parametrize("data", [WIDE], indirect=True)
class TestManyIndices:
    @pytest.mark.slow
    @pytest.mark.parametrize("standardize", [False, True])
    def test_they_stay_sparse(self, data, tmp_path, standardize):
        X, y = data
        path = written(tmp_path, X, y, zero_based=False)
        assert open_source(path).kinds == {"x": Kind.SPARSE, "y": Kind.NUMBER}
        model = jd.fit_model(path, l2=0.1, standardize=standardize, dtype="float64")
        touched = np.flatnonzero(np.diff(X.tocsc().indptr))
        np.testing.assert_array_equal(model.encoding.indices, touched + 1)
        dense = X[:, touched].toarray()
        scale = dense.std(axis=0) if standardize else 1.0
        expected = Ridge(0.1, solver="svd").fit(dense / scale, y)
        np.testing.assert_allclose(model.predict(path), expected.predict(dense / scale), atol=2e-4)
        assert model.encoding.feature_name(0) == f"x{touched[0] + 1}"

    @pytest.mark.slow
    def test_rows_that_are_held_out_choose_a_penalty(self, data, tmp_path):
        model = jd.fit_model(written(tmp_path, *data), test=0.25, l2="auto")
        assert model.metrics["l2_chosen_by"] == "held-out rows"
        assert sum(model.metrics[part]["rows"] for part in ("train", "held_out")) == ROWS
        with pytest.raises(DataError, match="sparse numbers take no condition"):
            open_source(tmp_path / "d.svm", where="y > 0")

    @pytest.mark.slow
    def test_models_come_back_whole_and_predict_other_files(self, data, tmp_path):
        path = written(tmp_path, *data)
        model = jd.fit_model(path, l2=0.1, dtype="float64")
        assert (
            model.metrics["passes"] <= 4
        )  # for the indices, the targets, the rows and the figures
        model.save(tmp_path / "m")
        loaded = jd.load_model(tmp_path / "m")
        np.testing.assert_array_equal(loaded.predict(path), model.predict(path))
        assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
            "indices.npy", "model.json", "weights.npy",
        ]  # fmt: skip
        index = int(model.encoding.indices[5])
        text = f"0 {index}:2\n\n# nothing\n1\n2 3:0 {index}:0 999999:5 # of no weight\n"
        (tmp_path / "e.svm").write_text(text)
        expected = model.intercept + np.array([2 * model.weights[5], 0, 0])
        own = f"is none of the {model.encoding.indices.size:,} indices of the training rows"
        with pytest.raises(DataError, match=rf"'x999999' in row 3 {own}: --unseen zero"):
            model.predict(tmp_path / "e.svm")
        predicted = model.predict(tmp_path / "e.svm", unseen="zero")
        np.testing.assert_allclose(predicted, expected)
        arguments = ("predict", tmp_path / "m", tmp_path / "e.svm", "--out", tmp_path / "p.csv")
        said = refused(*arguments, "--keep", "y,x")
        assert "--keep x: sparse numbers are no column" in said
        told = shown(*arguments, "--unseen", "zero")
        assert "3 predictions of y" in told
        assert "indices of no training row, and count nothing: 1." in told
        model.save(tmp_path / "m", overwrite=True)

    @pytest.mark.slow
    def test_a_start_is_matched_by_index(self, data, tmp_path):
        """Of as many indices, each of them one more: the same programs fit both."""
        options = {"l2": 0.1, "dtype": "float64"}
        model = jd.fit_model(written(tmp_path, *data, "e.svm", zero_based=False), **options)
        other = jd.fit_model(written(tmp_path, *data), **options, start=model)
        known = np.isin(other.encoding.indices, model.encoding.indices).sum()
        assert 0 < known < model.encoding.indices.size
        assert any(note.startswith(f"{known:,} of ") for note in other.metrics["notes"])

    @pytest.mark.slow
    def test_a_table_of_dense_columns_does_not_fit_the_model(self, data, tmp_path):
        model = jd.fit_model(written(tmp_path, *data), l2=0.1, dtype="float64")
        with pytest.raises(DataError, match="the data has no column 'x'"):
            model.predict({"X": np.ones((2, 2))})
        with pytest.raises(DataError, match="'x' must hold sparse numbers"):
            model.predict({"x": np.ones(2)})


def test_files_are_read_one_after_another(data, tmp_path):
    X, y = data
    written(tmp_path, X[:100], y[:100], "1.svm")
    written(tmp_path, X[100:], y[100:], "2.svm")
    model = jd.fit_model(tmp_path, l2=0.1)
    np.testing.assert_allclose(model.predict(tmp_path), Ridge(0.1).fit(X.toarray(), y).predict(
        X.toarray()), rtol=1e-6, atol=1e-8)  # fmt: skip


MALFORMED = "has lines from byte 0 on that cannot be read: .+; expected is a target and features"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2:3\n4 5\n", MALFORMED),
        ("1 2:a\n", MALFORMED),
        ("# c\nx 2:3\n", MALFORMED),
        ("1 2:3:4 5\n", MALFORMED),
        ("1 2: 3\n", MALFORMED),
        ("1 0:1 -1:3\n", MALFORMED),
        ("1 1:2\n\n1 1.5:2\n", MALFORMED),
        ("1 99999999999999999:2\n", MALFORMED),
        ("1 3:1 2:1 3:4\n", "sorted and unique"),
        ("1 2:nan\n2 3:1\n3 2:1\n", "'x2' is NaN or infinite in row 1"),
        ("# c\n1 2:1\n2 3:inf\n3 2:1\n", "'x3' is NaN or infinite in row 2"),
        ("1 2:nan\n2 5000:1\n3 2:1\n", "'x2' is NaN or infinite in row 1"),
        ("1 2:1\n2 5000:1e200\n3 2:1\n", "'x5000' is NaN or infinite in row 2"),
        ("nan 1:2\n2 1:1\n3 1:5\n", "'y' is NaN in row 1"),
        ("", "has no rows"),
        ("\n# nothing\n\n", "has no rows"),
        ("1\n2\n", "no training row has any feature"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, message):
    (tmp_path / "d.svm").write_text(text)
    with pytest.raises(DataError, match=message):
        jd.fit_model(tmp_path / "d.svm")


def test_a_truncated_gzip_file_is_refused(data, tmp_path):
    path = written(tmp_path, *data, "d.svm.gz")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"d\.svm\.gz cannot be read"):
        open_source(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match=r"d\.svm\.gz cannot be read"):
        open_source(path)


def test_a_line_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(svmlight, "PIECE_BYTES", 100)
    monkeypatch.setattr(svmlight, "LONGEST_LINE", 1000)
    (tmp_path / "d.svm").write_text("1 " + " ".join(f"{j}:1" for j in range(500)))
    with pytest.raises(DataError, match=r"d\.svm has a line of more than 1,000 bytes"):
        open_source(tmp_path / "d.svm")


@given(
    st.lists(
        st.tuples(
            st.floats(-1e6, 1e6),
            st.dictionaries(st.integers(0, 40), st.floats(-1e6, 1e6), max_size=6),
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 60),
    st.sampled_from(["\n", "\r\n", " \n\n", " # a 3:4 _ comment\n"]),
)
def test_every_row_is_read_whatever_the_chunks(tmp_path, rows, chunk, end):
    text = io.StringIO(newline="")
    for y, entries in rows:
        text.write(f"{y!r} " + " ".join(f"{k}:{v!r}" for k, v in sorted(entries.items())) + end)
    path = tmp_path / "d.svm"
    path.write_bytes(text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svmlight, "PIECE_BYTES", chunk)
        parts = list(svmlight._parsed(path, 0, None))
    assert np.concatenate([y for _, _, y in parts]).tolist() == [y for y, _ in rows]
    found = []
    for _, X, _ in parts:
        for row in range(X.shape[0]):
            part = X[[row]]
            found.append(dict(zip(part.indices.tolist(), part.data.tolist(), strict=True)))
    assert found == [entries for _, entries in rows]


@pytest.mark.slow
@pytest.mark.parametrize("features", [3, 5000])
def test_rows_without_any_feature_are_predicted(tmp_path, features):
    (tmp_path / "d.svm").write_text(f"1 0:1\n2 1:1\n4 {features}:1\n3\n")
    (tmp_path / "none.svm").write_text("0\n0\n")
    model = jd.fit_model(tmp_path / "d.svm", l2=1.0, test_data=tmp_path / "none.svm")
    np.testing.assert_allclose(model.predict(tmp_path / "none.svm"), model.intercept)
    assert model.metrics["held_out"]["rmse"] == pytest.approx(abs(model.intercept))
