"""Programs on disk: never a wrong answer, never a run that they break."""

import collections
import errno
import json
import os
import pathlib
import shutil
import tempfile
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as of_jax

import jaxdescent as jd
from jaxdescent import compilation_cache
from jaxdescent.kernels import host
from jaxdescent.kernels.host_calls import host_call
from tests.commands import COMMAND, run, started
from tests.compilations import forget_programs

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)

EVENTS = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: EVENTS.update([event]))


@pytest.fixture
def settings():
    """JAX's, as they were before; programs of other tests are not used again."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)  # not that of the tests' own programs
    of_jax.reset_cache()
    warnings.filterwarnings("error", "Error (reading|writing) persistent compilation cache")
    forget_programs()
    yield before | {"jax_compilation_cache_dir": None}
    for name, value in before.items():
        jax.config.update(name, value)
    of_jax.reset_cache()
    forget_programs()


@pytest.fixture
def folder(settings, tmp_path):
    return jd.cache(tmp_path)


def entries(folder):
    return sorted(folder.glob("*-cache"))


def hits():
    return EVENTS["/jax/compilation_cache/cache_hits"]


def data(rng, dtype=np.float32):
    X = rng.normal(size=(40, 3)).astype(dtype)
    return X, X @ np.arange(3).astype(dtype)


def solved(X, y):
    objective = jd.LinearRegression(X, y, intercept=False)
    done = jd.minimize(objective, method=jd.GradientDescent(), tolerance=0, max_iterations=200)
    return np.asarray(done.params["weights"])


def in_chunks(X, y):
    """A run whose memory is taken over by each of its chunks."""
    start = np.zeros(X.shape[1], np.float32)
    done = jd.run(
        lambda p, X, y: jnp.sum((X @ p - y) ** 2), start, args=(X, y), max_iterations=40, chunk=10
    )
    return np.asarray(done.params)


@pytest.mark.slow
@pytest.mark.parametrize("descend", [solved, in_chunks])
def test_another_process_uses_the_program_and_has_the_same_bits(folder, rng, descend):
    X, y = data(rng)
    first = descend(X, y)
    written, known = entries(folder), hits()
    assert written
    forget_programs()
    np.testing.assert_array_equal(descend(X, y), first)
    assert hits() > known
    assert entries(folder) == written
    np.testing.assert_allclose(descend(X, 2 * y), 2 * first, atol=1e-4)  # data are its inputs


@pytest.mark.slow
def test_what_is_damaged_is_compiled_again(folder, rng):
    X, y = data(rng)
    first = solved(X, y)
    kept = {path: path.read_bytes() for path in entries(folder)}
    half = {path: text[: len(text) // 2] for path, text in kept.items()}
    for damaged in (dict.fromkeys(kept, b""), half, dict.fromkeys(kept, b"not a program" * 99)):
        for path, text in damaged.items():
            path.write_bytes(text)
        known = hits()
        forget_programs()
        np.testing.assert_array_equal(solved(X, y), first)  # and warnings are errors here
        assert hits() == known


def test_a_folder_that_is_taken_away_is_not_missed(folder, rng):
    X, y = data(rng)
    first = solved(X, y)
    shutil.rmtree(folder)
    folder.write_text("")  # neither what JAX has opened can be written to
    forget_programs()
    np.testing.assert_array_equal(solved(X, y), first)
    of_jax.reset_cache()  # nor can it be opened
    forget_programs()
    np.testing.assert_array_equal(solved(X, y), first)


@pytest.mark.slow
def test_other_dtypes_and_compiler_options_are_other_programs(folder, rng):
    X, y = data(rng)
    solved(X, y)
    count = len(entries(folder))
    with jax.enable_x64(True):
        forget_programs()
        exact = solved(*data(np.random.default_rng(0), np.float64))
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, [0, 1, 2], atol=1e-8)
    assert len(entries(folder)) > count
    count, known = len(entries(folder)), hits()
    is_plain = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not is_plain)
    try:
        forget_programs()
        solved(X, y)
    finally:
        jax.config.update("jax_disable_most_optimizations", is_plain)
    assert len(entries(folder)) > count
    assert hits() == known


def test_a_program_that_calls_the_host_calls_the_function_of_this_process(folder):
    def doubled_and(more):
        def program(x):
            return host_call(lambda x: 2 * x + more, jax.ShapeDtypeStruct((3,), x.dtype), x)

        return np.asarray(jax.jit(program)(jnp.ones(3)))

    for more in (0, 5):
        forget_programs()
        np.testing.assert_array_equal(doubled_and(np.float32(more)), 2 + more)


@pytest.mark.slow
def test_a_program_that_reads_rows_reads_those_of_this_process(folder, rng):
    for _ in range(2):
        X = rng.normal(size=(50, 2)).astype(np.float32)
        y = (X @ rng.normal(size=2) + rng.normal(size=50)).astype(np.float32)
        design = jd.Streamed({"a": X[:, 0], "b": X[:, 1]})
        objective = jd.LinearRegression(design, y, intercept=False)
        forget_programs()
        found = jd.minimize(objective, method=jd.ConjugateGradient()).params["weights"]
        np.testing.assert_allclose(found, np.linalg.lstsq(X, y)[0], atol=1e-4)


def test_programs_for_other_processors_are_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(host, "usable_cores", lambda: 77)
    cores = jd.cache(tmp_path)
    monkeypatch.setattr(host, "processor", lambda: "Abacus (TM) 3/2")
    model = jd.cache(tmp_path)
    assert len({folder, cores, model}) == 3
    assert {folder.parent, cores.parent, model.parent} == {tmp_path}


def test_a_folder_of_jax_stays_as_it_is_unless_another_is_given(settings, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert jd.cache() == tmp_path / "own"
    assert not (tmp_path / "own").exists()
    assert {name: getattr(jax.config, name) for name in SETTINGS[1:]} == {
        name: settings[name] for name in SETTINGS[1:]
    }
    assert jd.cache(tmp_path / "given").parent == tmp_path / "given"


def test_by_default_it_is_the_users_cache_folder(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jd.cache().parent == tmp_path / "jaxdescent" / "programs"
    assert jd.cache() == pathlib.Path(jax.config.jax_compilation_cache_dir)


def test_a_second_folder_takes_the_place_of_the_first(folder, tmp_path, rng):
    solved(*data(rng))
    other = jd.cache(tmp_path / "other")
    count = len(entries(folder))
    forget_programs()
    solved(*data(rng))
    assert len(entries(other)) == len(entries(folder)) == count


def read_only(**_):
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("hindrance", ["a file", "read only", "full"])
def test_a_folder_that_cannot_be_used_is_a_warning(settings, tmp_path, monkeypatch, hindrance):
    (tmp_path / "file").write_text("")
    if hindrance == "read only":
        monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    if hindrance == "full":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.warns(UserWarning, match=r"^no compiled program is kept in .*: \w[\w ]+$"):
        assert jd.cache(tmp_path / ("file" if hindrance == "a file" else "folder")) is None
    assert {name: getattr(jax.config, name) for name in SETTINGS} == settings


def test_what_was_not_used_for_longest_goes_beyond_the_bound(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "MOST_BYTES", 250)
    for age, name in enumerate(["new-cache", "read-cache", "old-cache", "older-cache", "notes"]):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    os.utime(folder / "older-cache", (1e9 + 9, 1e9 - 9))  # which was read since
    jd.cache(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"new-cache", "older-cache", "notes"}


@pytest.mark.parametrize("folder", [3, ""])
def test_the_folder_must_be_a_path(folder):
    with pytest.raises(TypeError, match=rf"folder must be a path, or None .*, got {folder!r}"):
        jd.cache(folder)


@pytest.mark.slow
def test_commands_that_run_at_once_share_their_programs(settings, tmp_path, rng, monkeypatch):
    rows = np.column_stack([rng.normal(size=(60, 2)), rng.normal(size=60)])
    np.savetxt(tmp_path / "d.csv", rows, delimiter=",", header="a,b,y", comments="")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAXDESCENT_CACHE", "on")
    below = tmp_path / "jaxdescent" / "programs"
    words = ["fit", str(tmp_path / "d.csv"), "--target", "y", "--method", "cg", "--json"]

    def weights(process):
        shown, errors = process.communicate(timeout=600)
        assert (process.returncode, errors) == (0, "")
        return json.loads(shown)["largest_weights"]

    done = run(*words, "--no-cache")
    assert (done.exit_code, done.stderr) == (0, "")
    without = json.loads(done.stdout)["largest_weights"]
    assert not below.exists()
    one, two = started(COMMAND, *words), started(COMMAND, *words)
    assert weights(one) == weights(two) == without
    kept = sorted(below.rglob("*-cache"))
    assert kept
    assert weights(started(COMMAND, *words)) == without
    assert sorted(below.rglob("*-cache")) == kept
