"""Text of svmlight's format: rows as they are, sparse fits, and what is wrong by its line."""

import gzip
import io
import re

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file
from sklearn.linear_model import Ridge

import jaxdescent as jd
from jaxdescent.data import DataError, Kind, SparseColumn, located, open_source, svmlight
from jaxdescent.fit import levels
from jaxdescent.kernels.memory import resident_bytes
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
def test_few_indices_are_columns_with_their_names(data, tmp_path, name, first, monkeypatch):
    monkeypatch.setattr(svmlight, "CHUNK_BYTES", 5000)
    X, y = data
    path = written(tmp_path, X, y, name, zero_based=first == 0, query_id=range(ROWS), comment="hi")
    source = open_source(path)
    names = [f"x{j + first}" for j in range(30)]
    assert list(source.kinds) == [*names, "y"]
    assert source.rows == ROWS
    blocks = list(located(source, [*names, "y"], 64))
    got = np.concatenate([np.column_stack([block.columns[n] for n in names]) for block in blocks])
    np.testing.assert_allclose(got, X.toarray(), rtol=1e-14)
    target = np.concatenate([block.columns["y"] for block in blocks])
    np.testing.assert_allclose(target, y, rtol=1e-14)
    model = jd.fit_model(path, l2=0.1)
    expected = Ridge(0.1).fit(X.toarray(), y)
    np.testing.assert_allclose(model.weights, expected.coef_, rtol=1e-7, atol=1e-9)
    assert "sums" in model.metrics["method"]


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
    def test_rows_may_be_left_out_and_others_choose_a_penalty(self, data, tmp_path):
        model = jd.fit_model(written(tmp_path, *data), test=0.25, l2="auto", where="y > 0")
        assert model.metrics["l2_chosen_by"] == "held-out rows"
        assert model.metrics["passes"] == 4  # also to count the rows
        rows = sum(model.metrics[part]["rows"] for part in ("train", "held_out"))
        assert rows == (data[1] > 0).sum()

    @pytest.mark.slow
    def test_models_come_back_whole_and_predict_other_files(self, data, tmp_path):
        path = written(tmp_path, *data)
        model = jd.fit_model(path, l2=0.1, dtype="float64")
        assert model.metrics["passes"] == 3  # to look, for the indices, and to fit
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
        with pytest.raises(DataError, match=rf"'x999999' in row 5 of e\.svm {own}: --unseen zero"):
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

    def test_some_of_them_may_be_named(self, data, tmp_path):
        X, y = data
        path = written(tmp_path, X, y)
        model = jd.fit_model(path, features=("x7", "x3", "x123456"), l2=0.1)
        expected = Ridge(0.1).fit(X[:, [7, 3]].toarray(), y)
        np.testing.assert_allclose(model.weights[:2], expected.coef_, rtol=1e-6, atol=1e-9)
        assert model.weights[2] == 0
        np.testing.assert_allclose(model.predict(path), expected.predict(X[:, [7, 3]].toarray()))

    def test_a_direct_method_is_refused(self, data, tmp_path):
        with pytest.raises(DataError, match="--method direct adds up products"):
            jd.fit_model(written(tmp_path, *data), method="direct")

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "1 2:3\n4 5\n",
            "line 2 has '4 5': expected is a target and features, such as 1 3:0.5 7:2",
        ),
        ("1 2:a\n", "line 1 has '1 2:a'"),
        ("# c\nx 2:3\n", "line 2 has 'x 2:3'"),
        ("1,2 3:4\n", "line 1 has '1,2 3:4'"),
        ("1 2:3:4 5\n", "line 1 has '1 2:3:4'"),
        ("1 2:3\n2:3 1\n", "line 2 has '2:3 1'"),
        ("1 2: 3\n", "line 1 has '1 2:'"),
        ("1 2 :3\n", "line 1 has '1 2'"),
        ("1 2:1_0 " + "3:1 " * 40 + "\n", "line 1 has '1 2:1_0'"),
        ("1 " + " ".join(f"{j}:1" for j in range(40)) + " 50:x\n", "line 1 has '1 50:x'"),
        ("1 2:1_0\n", "line 1 has '1 2:1_0'"),
        ("1 0:1 -1:3\n", "whole numbers from 0 to 9,007,199,254,740,991"),
        ("1 1:2\n\n1 1.5:2\n", "line 3 has '1 1.5:2'"),
        ("1 99999999999999999:2\n", "line 1 has '1 99999999999999999:2'"),
        ("1 9007199254740992:2\n", "line 1 has '1 9007199254740992:2'"),
        ("1 nan:2\n", "line 1 has '1 nan:2'"),
        ("1 3:1 2:1 3:4\n", "line 1 has the index 3 twice"),
        ("1 1:1\n1 " + "".join(f"{j}:1 " for j in range(40)) + "7:1\n", "line 2 has the index 7 "),
        ("1 2:nan\n2 3:1\n3 2:1\n", "'x2' is NaN in row 1 of d.svm"),
        ("# c\n1 2:1\n2 3:inf\n3 2:1\n", "'x3' is infinite in row 3 of d.svm"),
        ("1 2:nan\n2 5000:1\n3 2:1\n", "'x2' is NaN in row 1 of d.svm"),
        ("1 2:1\n2 5000:1e200\n3 2:1\n", "'x5000' is infinite or too large in row 2 of d.svm"),
        ("nan 1:2\n2 1:1\n3 1:5\n", "the target is NaN in row 1"),
        ("", "is empty"),
        ("\n# nothing\n\n", "has no rows"),
        ("1\n2\n", "no training row has any feature"),
    ],
)
def test_what_is_wrong_is_said_by_its_line(tmp_path, text, message):
    (tmp_path / "d.svm").write_text(text)
    with pytest.raises(DataError, match=message):
        jd.fit_model(tmp_path / "d.svm")


@pytest.mark.parametrize("between", [" ", "\n1 "])
def test_what_is_wrong_is_found_by_halves(tmp_path, monkeypatch, between):
    """A line has up to 64 MiB; to read each entry or line of a chunk alone took minutes."""
    parsed, read = [], svmlight._rows_of

    def noted(text, path, line):
        parsed.append(len(text))
        return read(text, path, line)

    monkeypatch.setattr(svmlight, "_rows_of", noted)
    text = "1 " + between.join(f"{j}:1" for j in range(4096)) + between + "5000:x"
    (tmp_path / "d.svm").write_text(text)
    with pytest.raises(DataError, match="has '1 5000:x'"):
        open_source(tmp_path / "d.svm")
    assert len(parsed) < 40
    assert sum(parsed) < 4 * len(text)


def test_a_truncated_gzip_file_is_refused(data, tmp_path):
    path = written(tmp_path, *data, "d.svm.gz")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"d\.svm\.gz cannot be read"):
        open_source(path)
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match=r"d\.svm\.gz cannot be read"):
        open_source(path)


def test_a_line_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(svmlight, "CHUNK_BYTES", 100)
    monkeypatch.setattr(svmlight, "LONGEST_LINE", 1000)
    (tmp_path / "d.svm").write_text("1 " + " ".join(f"{j}:1" for j in range(500)))
    with pytest.raises(DataError, match=r"d\.svm has a line of more than 1,000 bytes"):
        open_source(tmp_path / "d.svm")


def test_indices_need_not_be_sorted_and_may_be_zero(tmp_path):
    text = "1 3:1 0:2\r\n2 0:1\t2:5 \n  3 qid:7 2:1 0:-1 # c: 3\n4"
    (tmp_path / "d.svm").write_text(text)
    source = open_source(tmp_path / "d.svm")
    blocks = list(located(source, ["x0", "x2", "x3", "y"], 99))
    expected = {"x0": [2, 1, -1, 0], "x2": [0, 5, 1, 0], "x3": [1, 0, 0, 0], "y": [1, 2, 3, 4]}
    for name, values in expected.items():
        found = np.concatenate([block.columns[name] for block in blocks])
        np.testing.assert_array_equal(found, values)
    places = [block.place(row) for block in blocks for row in range(block.rows)]
    assert places == [f"row {number} of d.svm" for number in range(1, 5)]


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
        text.write(f"{y!r} " + " ".join(f"{k}:{v!r}" for k, v in entries.items()) + end)
    path = tmp_path / "d.svm"
    path.write_bytes(text.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svmlight, "CHUNK_BYTES", chunk)
        parts = list(svmlight._parsed(path))
    assert np.concatenate([target for target, _, _ in parts]).tolist() == [y for y, _ in rows]
    found = []
    for _, column, _ in parts:
        for row in range(len(column)):
            part = column[row : row + 1]
            assert part.starts.tolist() == [0, part.index.size]
            found.append(dict(zip(part.index.tolist(), part.values.tolist(), strict=True)))
    assert found == [entries for _, entries in rows]


def test_rows_of_a_sparse_column_are_cut_and_taken():
    column = SparseColumn(np.array([0, 2, 2, 3]), np.array([1, 4, 0]), np.array([1.0, 2.0, 3.0]))
    assert len(column[1:1]) == 0
    assert column[2:9].index.tolist() == [0]
    taken = column[np.array([0, 1])]
    assert (taken.starts.tolist(), taken.index.tolist()) == ([0, 2, 2], [1, 4])
    assert column[np.array([2])].values.tolist() == [3.0]
    assert column.row.tolist() == [0, 0, 2]


def test_a_sparse_column_of_ones_needs_no_values(rng):
    starts = np.arange(0, 81, 2)
    index = rng.permuted(np.tile(np.arange(5), (40, 1)), axis=1)[:, :2].ravel()
    y = rng.normal(size=40)
    data = {"x": SparseColumn(starts, index, None), "y": y}
    model = jd.fit_model(data, "y", l2=0.1, dtype="float64")
    dense = np.zeros((40, 5))
    dense[np.repeat(np.arange(40), 2), index] = 1
    expected = Ridge(0.1, solver="svd").fit(dense, y)
    np.testing.assert_allclose(model.predict(data), expected.predict(dense), rtol=1e-6, atol=1e-8)
    others = {"x": SparseColumn(starts, index + 1, None), "y": y}
    predicted, moved = model.predict(others, unseen="zero"), dense @ np.eye(5, k=1)
    np.testing.assert_allclose(predicted, expected.predict(moved), rtol=1e-6, atol=1e-8)


def test_indices_beyond_a_limit_are_refused_with_the_bytes_that_they_take(tmp_path, monkeypatch):
    """Of 8,000 indices, two new ones in each row: the bytes of the file do not count."""
    pairs = (np.arange(8000) * 1001).reshape(-1, 2)
    (tmp_path / "d.svm").write_text("".join(f"{a} {a}:1 {b}:1\n" for a, b in pairs))
    monkeypatch.setattr(svmlight, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(levels, "INDEX_BYTES", 200_000)
    limit, pattern = resident_bytes() + (500 << 20), r"so far, needs ([\d.]+) GB of .*: raise it\.$"
    with pytest.raises(
        jd.ProblemTooLarge, match=r"finding the indices of 'x', which has "
    ) as error:
        jd.fit_model(tmp_path / "d.svm", l2=1.0, memory=limit)
    needed = 1e9 * float(re.findall(pattern, str(error.value))[0])
    assert needed - resident_bytes() == pytest.approx(8000 * 200_000, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("features", [3, 5000])
def test_rows_without_any_feature_are_predicted(tmp_path, features):
    (tmp_path / "d.svm").write_text(f"1 0:1\n2 1:1\n4 {features}:1\n3\n")
    (tmp_path / "none.svm").write_text("0\n0\n")
    model = jd.fit_model(tmp_path / "d.svm", l2=1.0, test_data=tmp_path / "none.svm")
    np.testing.assert_allclose(model.predict(tmp_path / "none.svm"), model.intercept)
    assert model.metrics["held_out"]["rmse"] == pytest.approx(abs(model.intercept))
