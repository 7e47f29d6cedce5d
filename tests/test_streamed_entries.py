"""Streams of text, hashed and sparse columns: as in memory; blocks in an order of their own."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxdescent as jd
from jaxdescent.designs import row_reader
from jaxdescent.designs.decoding import Decoding
from jaxdescent.designs.row_reader import RowReader
from jaxdescent.designs.streamed_rows import StreamedRows
from jaxdescent.fit import fit_model
from jaxdescent.rows import DataError, hashing, open_source
from tests.references import assert_is_matrix, closed_form

ROWS, BITS = 300, 6


def place(word, column):
    text = np.frombuffer(word.encode(), np.uint8)
    ends = np.array([0, text.size])
    return int(hashing.places_of_texts(text, ends, column=column, bits=BITS)[1][0])


def written_out(table):
    """The same columns one by one, from texts as Python splits them."""
    X = np.zeros((ROWS, 1 + 2**BITS))
    X[:, 0] = table["a"]
    for row in range(ROWS):
        for word in table["text"][row].split():
            X[row, 1 + place(word, "text")] += 1
        X[row, 1 + place(table["city"][row], "city")] += 1
        number = np.array([table["zip"][row]])
        own = hashing.places_of_numbers(number, column="zip", bits=BITS)
        X[row, 1 + int(own[0])] += 1
    return X


def loader(table):
    """What gives blocks of a table, of a length of their own."""
    frame = pl.DataFrame(table)
    return lambda row: (frame.slice(start, 70) for start in range(row, ROWS, 70))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(row_reader, "BLOCK_BYTES", 1 << 12)


@pytest.fixture
def both(rng, x64):
    words = ["rose", "a", "is", "straße", "a-word-of-more-than-eight-bytes", "12345678"]
    lengths = rng.integers(0, 6, ROWS)
    lengths[:3] = 0
    table = {
        "a": rng.normal(size=ROWS) + 2,
        "text": ["\t ".join(rng.choice(words, count)) + " " for count in lengths],
        "city": rng.choice(["Bonn", "Kiel am See", ""], ROWS).tolist(),
        "zip": rng.integers(-5, 5, ROWS),
        "y": rng.normal(size=ROWS),
    }
    S = jd.Streamed(
        loader(table), ["a"], hashed=["city", "zip"], words=["text"], bits=BITS, dtype=jnp.float64
    )
    return S, written_out(table), table


def test_products_are_those_of_the_written_out_matrix(both, rng):
    S, X, _ = both
    assert S.reader.blocks > 3
    assert S.names[:2] == ("a", "hash bucket 0")
    assert S.names[-1] == f"hash bucket {2**BITS - 1}"
    center = rng.normal(size=X.shape[1])
    some = rng.permutation(S.reader.block)[:40].astype(np.int32)

    @functools.partial(jax.jit, static_argnums=0)
    def answers_of_rows(is_centred, center, w, r):
        design = S.minus(center) if is_centred else S
        rows = design.taken(jnp.asarray(some))
        assert isinstance(rows, StreamedRows)
        dense = rows.to_dense(), rows.taken(jnp.arange(3)).to_dense()
        return rows.product(w), rows.transposed_product(r), *dense

    for design, matrix in ((S, X), (S.minus(jnp.asarray(center)), X - center)):
        assert_is_matrix(design, matrix, rng)
        for outputs in ((), (2,)):
            w, r = rng.normal(size=(X.shape[1], *outputs)), rng.normal(size=(40, *outputs))
            found = answers_of_rows(matrix is not X, center, w, r)
            exact = matrix[some] @ w, matrix[some].T @ r, matrix[some], matrix[some[:3]]
            for got, expected, atol in zip(found, exact, (1e-11, 1e-11, 0, 0), strict=True):
                np.testing.assert_allclose(got, expected, atol=atol)


@pytest.mark.parametrize("bits", [4, 8])  # rows with many entries are written out
@pytest.mark.parametrize("levels", [{}, {"k": 5, "l": 3}])
@pytest.mark.parametrize("intercept", [False, True])
def test_sums_of_products_are_those_of_the_written_out_matrix(rng, bits, levels, intercept):
    words = np.array(["rose", "a", "is", "straße"])
    table = {
        "a": rng.normal(size=ROWS) + 5,
        "k": rng.integers(-1, 5, ROWS),
        "l": rng.integers(0, 3, ROWS),
        "text": [" ".join(rng.choice(words, 3)) for _ in range(ROWS)],
    }
    decoding = Decoding(("a",), levels, np.dtype(np.float64), words=("text",), bits=bits)
    stream = RowReader(open_source(pa.table(table)), decoding, 100)
    assert stream.blocks > 1
    X, y = stream.rows_at(np.arange(ROWS)), rng.normal(size=(ROWS, 2))
    assert X.sum() == pytest.approx(
        sum(table["a"]) + 3 * ROWS + len(levels) * ROWS - bool(levels) * (table["k"] < 0).sum()
    )
    some_negative = np.where(np.arange(ROWS) % 17, rng.random(ROWS), -0.1)
    for weight in (None, rng.random(ROWS), some_negative):
        s = np.ones(ROWS) if weight is None else weight
        found = stream.normal_sums(weight, y, intercept=intercept)
        Z, v = (each - intercept * (s @ each) / s.sum() for each in (X, y))
        np.testing.assert_allclose(found.gram, Z.T @ (s[:, None] * Z), atol=1e-9)
        np.testing.assert_allclose(found.cross, Z.T @ (s[:, None] * v), atol=1e-9)
        np.testing.assert_allclose(found.squares, np.sum(s[:, None] * v**2))


def test_a_batch_differentiates_and_takes_batches(both, rng):
    S, X, _ = both
    index = jnp.arange(5, dtype=jnp.int32)
    w = jnp.asarray(rng.normal(size=X.shape[1]))

    def value(w):
        return jnp.sum(jnp.sin(StreamedRows(S, index).product(w)))

    expected = X[:5].T @ np.cos(X[:5] @ w)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(w), expected, atol=1e-12)
    each = jax.vmap(lambda i: StreamedRows(S, i[None]).product(w))(index)
    np.testing.assert_allclose(each[:, 0], X[:5] @ w)


@given(
    st.lists(st.text("ab ß\x00\n\u3000", max_size=20), max_size=8),
    st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_words_are_those_between_spaces_wherever_slices_end(texts, slice_bytes):
    offsets = np.concatenate([[0], np.cumsum([len(t.encode()) for t in texts])]).astype(int)
    text = np.frombuffer("".join(texts).encode(), np.uint8)
    spaces = bytes(range(hashing.LAST_SPACE + 1))
    blank = bytes.maketrans(spaces, b" " * len(spaces))
    expected = [
        [place(word.decode(), "c") for word in t.encode().translate(blank).split()] for t in texts
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "SLICE_BYTES", slice_bytes)
        starts, places = hashing.places_of_texts(
            text, offsets, column="c", bits=BITS, are_words=True
        )
    got = [places[a:b].tolist() for a, b in itertools.pairwise(starts)]
    assert got == expected


def test_hashes_never_change_and_are_spread_evenly():
    def of(text, column):
        ends = np.array([0, len(text)])
        own = np.frombuffer(text, np.uint8)
        return int(hashing.places_of_texts(own, ends, column=column, bits=20)[1][0])

    assert of(b"rose", "text") == 459004
    assert of(b"12345678", "text") == 451559
    assert of(b"a-word-of-more-than-eight-bytes", "city") == 564863
    numbers = hashing.places_of_numbers(np.arange(3), column="zip", bits=20)
    assert numbers.tolist() == [458884, 825598, 43062]
    words = np.frombuffer(b" ".join(b"w%d" % i for i in range(100_000)), np.uint8)
    ends = np.array([0, words.size])
    _, places = hashing.places_of_texts(words, ends, column="c", bits=18, are_words=True)
    features = 2**18
    expected = features * -np.expm1(100_000 * np.log1p(-1 / features))
    assert abs(len(np.unique(places)) - expected) < 5 * np.sqrt(expected)
    _, other = hashing.places_of_texts(words, ends, column="d", bits=18, are_words=True)
    assert np.mean(places == other) < 1e-3


@pytest.fixture
def text_file(rng, tmp_path):
    """Rows sorted by what the target is: an order in which nothing is learned before the end."""
    rows, count = 2000, 40
    index = np.sort(rng.integers(0, count, rows))[:, None] // 2 + rng.integers(
        0, count // 2, (rows, 3)
    )
    weights = rng.normal(size=2 * count)
    y = weights[index].sum(axis=1) + 0.1 * rng.normal(size=rows)
    text = [" ".join(f"w{i}" for i in line) for line in index]
    table = pa.table({"text": text, "y": y.astype(np.float32)})
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=150)
    return tmp_path / "d.parquet"


@pytest.fixture
def of_text(text_file, monkeypatch):
    """A regression on the file's words, in blocks of 340 rows, and the value of its minimum."""
    monkeypatch.setattr(row_reader, "BLOCK_BYTES", 1 << 13)
    S = jd.Streamed(text_file, words=["text"], exclude=["y"], bits=8)
    y = S.column("y")
    *_, least = closed_form(S.reader.rows_at(np.arange(2000)), y, 0.1)
    return jd.LinearRegression(S, y, l2=0.1), least


@pytest.mark.slow
def test_mini_batches_of_text_come_to_the_minimum_and_the_same_seed_is_the_same_order(of_text):
    regression, least = of_text
    S = regression.X
    assert len(S.reading.sections) > 3
    seeds = functools.partial(jd.MiniBatches, rows=100)
    before = S.passes
    result = jd.minimize(regression, method=seeds(), max_iterations=5, tolerance=0)
    assert float(result.value) < 1.01 * least
    assert S.passes - before <= 3 + 2 * 5
    again = jd.minimize(regression, method=seeds(), max_iterations=5, tolerance=0)
    np.testing.assert_array_equal(result.params["weights"], again.params["weights"])
    other = jd.minimize(regression, method=seeds(seed=1), max_iterations=5, tolerance=0)
    assert not np.array_equal(result.params["weights"], other.params["weights"])


@pytest.mark.slow
def test_an_optimiser_takes_batches_of_text(of_text, relaxed_promotion):
    regression, least = of_text
    method = jd.MiniBatches(optax.adam(optax.exponential_decay(0.1, 60, 0.5)), rows=100)
    result = jd.minimize(regression, method=method, max_iterations=10, tolerance=0)
    assert float(result.value) < 1.1 * least


def test_the_plan_prices_passes_and_scales_columns_of_words(text_file):
    S = jd.Streamed(text_file, words=["text"], exclude=["y"], bits=18)
    plan = jd.plan(jd.LinearRegression(S, S.column("y"), l2=0.1))
    found = {candidate.name: candidate for candidate in plan.candidates}
    assert plan.chosen.name == "LSMR(Jacobi())"
    batches, whole = found["MiniBatches()"], found["LSMR(Jacobi())"]
    assert batches.feasible
    assert S.reading.seconds < whole.seconds_per_iteration
    assert 2 * S.reading.seconds < batches.seconds_per_iteration
    assert not found["DerivativeMethod()"].feasible
    assert S.passes == 0


class TestSections:
    @pytest.mark.parametrize("form", ["arrays", "npy", "parquet"])
    def test_chunks_in_any_order_are_those_of_all(self, form, tmp_path, rng):
        X = rng.normal(size=(3000, 4)).astype(np.float32)
        names = [f"x{j}" for j in range(4)]
        data = {"X": X}
        if form == "npy":
            data = tmp_path / "X.npy"
            np.save(data, X)
        elif form == "parquet":
            data = tmp_path
            for part in range(2):
                own = X[1500 * part : 1500 * part + 1500]
                table = pa.table(dict(zip(names, own.T, strict=True)))
                pq.write_table(table, tmp_path / f"{part}.parquet", row_group_size=400)
        stream = jd.Streamed(data, names).reader
        assert len(stream.sections) > 4
        order = rng.permutation(len(stream.sections))
        ends = [*stream.sections[1:], stream.blocks]
        for section in order:
            for index in range(stream.sections[section], ends[section]):
                chunk = stream.chunk(index)
                first = index * stream.block
                assert chunk.start == first
                np.testing.assert_array_equal(chunk.numbers, X[first : first + chunk.rows])
        stream.close()
        assert stream.passes == 1  # the first block was read once

    def test_rows_whose_number_is_not_known_stay_in_order(self, both):
        S, *_ = both
        assert S.reading.sections == (0,)


def test_a_dictionary_of_numbers_is_hashed_as_its_numbers_however_often_they_repeat():
    numbers, found = pa.array([5] * 11), []
    for column in (numbers, numbers.dictionary_encode()):
        pieces = pa.chunked_array([column[:10], column[10:]])
        for rows in (10, 11):  # a block of one row has no repeated text
            stream = jd.Streamed(pa.table({"t": pieces}), hashed=["t"], bits=BITS).reader
            stream.block = rows
            found.append(stream.rows_at(np.arange(11)).argmax(axis=1))
    np.testing.assert_array_equal(found, found[0][0])


def test_whole_numbers_of_a_csv_file_are_hashed_as_they_are_written(tmp_path):
    ids, path = [2**53, 2**53 + 1, 2**53, 7], tmp_path / "ids.csv"
    path.write_text("id,y\n" + "".join(f"{each},1.5\n" for each in ids))
    streams = (
        jd.Streamed(data, hashed=["id"], exclude=["y"], bits=BITS).reader
        for data in (path, pa.table({"id": [str(each) for each in ids], "y": np.ones(4)}))
    )
    one, other = (stream.rows_at(np.arange(4)).argmax(axis=1) for stream in streams)
    np.testing.assert_array_equal(one, other)
    assert one[0] == one[2] != one[1]  # they are one number in float64


class TestWhatIsWrong:
    def test_arguments(self):
        table = pa.table({"a": [1.0], "t": ["x"], "k": [1], "y": [3.0]})
        for options, error, message in (
            ({"words": ["k"]}, DataError, "'k' holds whole number, and columns of words="),
            ({"hashed": ["a"]}, DataError, "'a' holds number, and columns of hashed="),
            ({"sparse": {"t": 3}}, DataError, "'t' holds text, and columns of sparse="),
            ({"words": ["t"], "hashed": ["t"]}, DataError, "'t' is named twice"),
            ({"words": ["z"]}, DataError, "no column 'z'"),
            ({"words": "t"}, TypeError, "must be lists of names"),
            ({"words": ["t"], "bits": 31}, ValueError, "bits must be 30 at most, got 31"),
            ({"words": ["t"], "bits": 0}, ValueError, "Streamed.bits"),
            ({"sparse": {"t": 0}}, ValueError, r"sparse\['t'\]"),
        ):
            with pytest.raises(error, match=message):
                jd.Streamed(table, **{"exclude": ["y"]} | options)

    def test_values(self):
        text = {"t": ["x", "y", None], "y": [1.0, 2.0, 3.0]}
        with pytest.raises(DataError, match="'t' has no value in row 3"):
            jd.Streamed(pa.table(text), [], words=["t"])
        lacking = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1]), pa.array([None, "x"]))
        with pytest.raises(DataError, match="'t' has no value in row 2"):
            jd.Streamed(pa.table({"t": lacking}), hashed=["t"])
        entries = np.array([1.0, np.nan]), np.array([1, 4]), np.arange(3)
        x = scipy.sparse.csr_array(entries, (2, 5))
        with pytest.raises(DataError, match=r"'x' has the index 4 in row 2: those of 4 features"):
            jd.Streamed({"x": x}, [], sparse={"x": 4})
        S = jd.Streamed({"x": x}, [], sparse={"x": 5})
        with pytest.raises(DataError, match="'x' has an entry that is NaN in row 2"):
            S.reader.multiplied(np.ones((5, 1)), None, is_transposed=False)
        with pytest.raises(DataError, match="x must hold real numbers, got dtype complex"):
            jd.Streamed({"x": scipy.sparse.csr_matrix(np.eye(2) * 1j)}, [], sparse={"x": 2})

    def test_a_sparse_matrix_in_a_dictionary(self, rng):
        matrix = scipy.sparse.random(50, 9, 0.3, format="csr", rng=rng)
        S = jd.Streamed({"X": matrix, "y": np.ones(50)}, [], sparse={"X": 9})
        w = rng.normal(size=9).astype(np.float32)
        np.testing.assert_allclose(S.product(w), matrix @ w, atol=1e-5)
        assert S.reader.fingerprint() == S.reader.fingerprint()


def test_no_sum_of_squares_is_below_zero_where_a_column_does_not_vary(x64):
    """Each row has the entry: what the other rows have is zero but for rounding."""
    random = np.random.default_rng(0)
    entries = scipy.sparse.csr_array(np.ones((1001, 1)))
    squared_norms = jax.jit(jd.Streamed({"S": entries}, sparse={"S": 2}).column_squared_norms)
    for _ in range(40):
        weights, value = random.random(1001), 10 ** random.uniform(0, 6)
        entries.data[:] = value
        center = jnp.asarray([value, 0.0])
        squares = np.asarray(squared_norms(jnp.asarray(weights), center))
        assert np.all(squares >= 0)
        assert np.all(squares <= 1e-10 * value**2 * weights.sum())
    uncentred = squared_norms(np.ones(1001), np.zeros(2))
    np.testing.assert_allclose(uncentred, [1001 * value**2, 0], rtol=1e-6)  # of the last value


@pytest.mark.slow
def test_entries_in_any_order_stay_as_they_are(rng, x64):
    index = np.concatenate([rng.permutation(12)[:4] for _ in range(600)]).astype(np.int32)
    index[1::8] = index[::8]  # some places twice
    starts, values = np.arange(0, 2401, 4), rng.normal(size=2400)
    matrix = scipy.sparse.csr_array((values, index, starts), (600, 12))
    dense = matrix.copy().toarray()
    given = matrix.data.copy(), matrix.indices.copy()
    y = dense @ rng.normal(size=12) + rng.normal(size=600)
    stream = jd.Streamed({"x": matrix}, sparse={"x": 12}, dtype=jnp.float64)
    result = jd.minimize(jd.LinearRegression(stream, y, l2=1.0), method=jd.DerivativeMethod())
    weights, _, _ = closed_form(dense, y, 1.0)
    np.testing.assert_allclose(result.params["weights"], weights, rtol=1e-10)
    np.testing.assert_allclose(
        stream.column_squared_norms(None, None), np.sum(dense**2, axis=0), rtol=1e-12
    )
    np.testing.assert_array_equal(matrix.data, given[0])
    np.testing.assert_array_equal(matrix.indices, given[1])
    model = fit_model(
        {"x": matrix, "y": y}, "y", method="lsmr", standardize=True, dtype="float64", l2=1.0
    )
    scale = dense.std(axis=0)
    own, _, _ = closed_form(dense / scale, y, 1.0)
    np.testing.assert_allclose(model.weights, own / scale, rtol=1e-4)
    np.testing.assert_array_equal(matrix.data, given[0])


@pytest.mark.first
@pytest.mark.parametrize("seldom", [0, 60])
def test_full_sparse_columns_far_from_zero_keep_their_digits(rng, x64, seldom):
    few = rng.normal(size=(800, seldom)) * (rng.random((800, seldom)) < 0.02)
    X = np.column_stack([few, 1e6 + rng.normal(size=(800, 3))])
    y = X @ rng.normal(size=X.shape[1]) + rng.normal(size=800)
    given = {"x": scipy.sparse.csr_array(X)}
    stream = jd.Streamed(given, sparse={"x": X.shape[1]}, dtype=jnp.float64)
    result = jd.minimize(jd.LinearRegression(stream, y), method=jd.DerivativeMethod())
    weights, *_ = closed_form(X, y)
    np.testing.assert_allclose(result.params["weights"], weights, rtol=1e-9)


def test_a_chunk_holds_the_bytes_that_are_counted(rng):
    codes = {f"k{j}": rng.integers(0, 90, 4000) for j in range(8)}
    words = {"t": [" ".join(map(str, row)) for row in rng.integers(0, 10**6, (4000, 5))]}
    for table, options in (
        (codes, {"categorical": dict.fromkeys(codes, 90)}),
        (pa.table(words), {"words": ["t"], "bits": 12}),
    ):
        stream = jd.Streamed(table, **options).reader
        chunk = stream.chunk(0)
        held = chunk.numbers.nbytes
        for S in chunk.sparse:
            held += S.data.nbytes + S.indices.nbytes
        assert held <= chunk.rows * stream.decoding.row_bytes <= 1.3 * held
