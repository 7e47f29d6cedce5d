"""What happens to a run whose checkpoints cannot be written, or are not what they were."""

import errno
import gc
import json
import os
import pathlib
import random
import re
import shutil
import threading
import warnings

import jax
import jax.numpy as jnp
import pytest

import jaxdescent as jd
from jaxdescent.runs import checkpoints
from tests.files import full_disk
from tests.results import assert_same
from tests.short_runs import METHOD, START, minimize, names, valley

LARGE = jnp.linspace(-1, 1, 20_000)  # 80 kB, beside which nothing else counts
NOT_WRITTEN = (
    r"the checkpoint of iteration [\d,]+ could not be written to .* \(process 0 failed with "
)


class At(jd.hooks.Hook):
    """Calls a function when a chunk has ended, and nothing is being written."""

    def __init__(self, chunk, function, checkpoint):
        self.chunk, self.function, self.checkpoint = chunk, function, checkpoint

    def pause(self, pause):
        self.checkpoint._folder.wait()  # so that every second chunk is followed by a checkpoint
        if pause.chunk == self.chunk:
            self.function()


def run(folder, function=lambda: None, *, start=START, keep=3, iterations=200, **options):
    """Twenty chunks of ten steps, with a checkpoint as often as can be."""
    checkpoint = jd.hooks.Checkpoint(folder, every=0.0, keep=keep)
    return jd.run(
        valley,
        start,
        METHOD,
        max_iterations=iterations,
        tolerance=0,
        chunk=10,
        checkpoint=checkpoint,
        hooks=[At(8, function, checkpoint)],
        **options,
    )


def plain(iterations=200, start=START):
    return minimize(start=start, max_iterations=iterations, tolerance=0)


def count_large():
    return sum(array.size == LARGE.size for array in jax.live_arrays())


def to_another(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "iteration-0000000020").mkdir()  # of which this run knows nothing


NO_FOLDERS = {
    "deleted": shutil.rmtree,
    "renamed": lambda folder: folder.rename(folder.with_name("elsewhere")),
    "replaced": to_another,
}


@pytest.mark.parametrize("name", NO_FOLDERS)
def test_a_run_makes_its_folder_again(name, tmp_path):
    folder = tmp_path / "run"
    before = threading.active_count()
    got = run(folder, lambda: NO_FOLDERS[name](folder))
    assert_same(got, plain())
    assert threading.active_count() == before
    assert names(folder)[-1] == "iteration-0000000200"
    assert ("iteration-0000000020" in names(folder)) == (name == "replaced")


def test_a_file_in_the_place_of_the_folder_ends_the_run(tmp_path):
    folder = tmp_path / "run"

    def to_a_file():
        shutil.rmtree(folder)
        folder.write_text("a file")

    with pytest.raises(
        OSError, match=NOT_WRITTEN + r"NotADirectoryError.*\); there is none yet: make"
    ):
        run(folder, to_a_file)
    assert folder.read_text() == "a file"


def test_a_folder_that_becomes_read_only_ends_the_run(tmp_path, monkeypatch):
    """It leaves neither a thread nor arrays behind, and goes on where the folder can be written."""

    def read_only(place, *arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(place))

    before, want = threading.active_count(), plain(start=LARGE)
    arrays = count_large()
    with pytest.raises(OSError, match=NOT_WRITTEN + r"OSError: .*\); the last one is of iteration"):
        run(tmp_path, lambda: monkeypatch.setattr(pathlib.Path, "mkdir", read_only), start=LARGE)
    assert threading.active_count() == before
    gc.collect()
    assert count_large() == arrays
    monkeypatch.undo()
    assert_same(run(tmp_path, start=LARGE, resume=True), want)


def full(folder, room, monkeypatch):
    """A disk on which the files of a folder have so many bytes of room."""
    sync = os.fsync

    def fsync(descriptor):
        sync(descriptor)
        files = [path for path in folder.rglob("*") if path.is_file()]
        if sum(path.stat().st_size for path in files) > room:
            full_disk()

    monkeypatch.setattr(checkpoints.os, "fsync", fsync)


@pytest.mark.parametrize("name", ["a file", "a file/below", "in circles", "a\0null", "read-only"])
def test_what_cannot_be_a_folder_of_checkpoints_is_refused(name, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("mine")
    (tmp_path / "in circles").symlink_to(tmp_path / "in circles")
    if name == "read-only":  # the system's own answer: chmod does not stop a superuser
        (tmp_path / name).mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(
        ValueError, match=r"checkpoints cannot be kept in '.* \(.*: name a folder t"
    ):
        run(tmp_path / name)
    assert (tmp_path / "a file").read_text() == "mine"


@pytest.mark.parametrize(("room", "left"), [(0.5, 0), (1.5, 1), (2.5, 2)])
def test_on_a_full_disk_the_last_checkpoint_stands(room, left, tmp_path, monkeypatch):
    full(tmp_path, room * LARGE.nbytes, monkeypatch)
    last = "the last one is of iteration" if left else "there is none yet"
    said = (
        NOT_WRITTEN + rf"OSError: .*No space left on device\); {last}.*: make room for it, and ca"
    )
    with pytest.raises(OSError, match=said):
        run(tmp_path, start=LARGE)
    assert len(names(tmp_path)) == left
    assert all(checkpoints.NAME.match(name) for name in names(tmp_path))
    monkeypatch.undo()
    assert_same(run(tmp_path, start=LARGE, resume=True), plain(start=LARGE))


def test_a_copy_under_a_later_name_is_no_newer_checkpoint(tmp_path):
    """It was the newest for ever, and pushed out what was written after it."""

    def copy():
        shutil.copytree(tmp_path / names(tmp_path)[0], tmp_path / "iteration-0000099999")

    run(tmp_path, copy)
    assert len(names(tmp_path)) == 4
    with pytest.warns(RuntimeWarning, match=r"of iteration 99,999 cannot be read.*\(it is of iter"):
        got = run(tmp_path, resume=True, iterations=300)
    assert_same(got.params, plain(300).params)
    assert names(tmp_path)[0] == "iteration-0000000280"
    assert names(tmp_path)[-1] == "unreadable-iteration-0000099999"


def largest_file(folder):
    files = [path for path in (folder / "loop").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_all(folder):
    for path in (folder / "loop").rglob("*"):
        if path.is_file():
            truncate(path)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def rewritten(change):
    """Its description is what a function makes of it, which may be a text."""

    def rewrite(folder):
        place = folder / "facts" / "metadata"
        content = change(json.loads(place.read_text()))
        place.write_text(content if isinstance(content, str) else json.dumps(content))

    return rewrite


def changed(**parts):
    """Parts of its description are others."""
    return rewritten(lambda content: content | parts)


DAMAGES = {
    "a bit flipped": lambda folder: flip_a_bit(folder / "loop" / "0"),
    "zeros after a loss of power": lambda folder: (
        os.truncate(folder / "loop" / "0", 0) or os.truncate(folder / "loop" / "0", 10_000)
    ),
    "arrays truncated": truncate_all,
    "largest file truncated": lambda folder: truncate(largest_file(folder)),
    "data missing": lambda folder: (folder / "loop" / "0").unlink(),
    "list missing": lambda folder: (folder / "loop" / "0.json").unlink(),
    "list of something else": lambda folder: (folder / "loop" / "0.json").write_text("[[1, 2]]"),
    "description truncated": lambda folder: truncate(folder / "facts" / "metadata"),
    "description missing": lambda folder: (folder / "facts" / "metadata").unlink(),
    "a list": rewritten(lambda content: [content]),
    "a number": rewritten(lambda content: 3),
    "nothing": rewritten(lambda content: {}),
    "no facts": rewritten(
        lambda content: {name: content[name] for name in ("format", "iteration")}
    ),
    "a list for a fingerprint": changed(fingerprint=[]),
    "null for a fingerprint": changed(fingerprint=None),
    "no fingerprint": changed(fingerprint={}),
    "numbers for texts": rewritten(
        lambda content: content | {"fingerprint": dict.fromkeys(content["fingerprint"], 1)}
    ),
    "another letter in a text": rewritten(
        lambda content: (
            content
            | {"fingerprint": content["fingerprint"] | {"rounding": "Nearesu() e3b0c44298fc1c14"}}
        )
    ),
    "a text for a computation": changed(computation="jax"),
    "no digest": rewritten(
        lambda content: (
            content
            | {"computation": {k: v for k, v in content["computation"].items() if k != "digest"}}
        )
    ),
    "another format": changed(format=[2]),
    "an iteration in words": changed(iteration="200"),
    "no iteration": changed(iteration=None),
    "a very long number": changed(iteration=10**400),
    "nested too deep": rewritten(lambda content: "[" * 100_000),  # as it is written
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run(folder)
    return folder


@pytest.mark.parametrize("name", DAMAGES)
def test_of_a_damaged_checkpoint_the_previous_one_is_used_and_this_is_said(name, ended, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(ended, folder)
    DAMAGES[name](folder / "iteration-0000000200")
    with pytest.warns(RuntimeWarning, match=r"of iteration 200 cannot be read and is now unread"):
        got = run(folder, resume=True)
    assert_same(got, plain())
    assert "unreadable-iteration-0000000200" in names(folder)


def test_if_none_can_be_read_nothing_is_begun(ended, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(ended, folder)
    for name in names(folder):
        truncate(folder / name / "facts" / "metadata")
    with (
        pytest.warns(RuntimeWarning, match="cannot be read"),
        pytest.raises(ValueError, match=r"none of the 3 checkpoints in .* can be read"),
    ):
        run(folder, resume=True)


def test_a_process_may_have_had_nothing_to_write(ended, tmp_path):
    """It has copies of what another one writes."""
    folder = tmp_path / "run"
    shutil.copytree(ended, folder)
    (folder / "iteration-0000000200" / "loop" / "1").touch()
    (folder / "iteration-0000000200" / "loop" / "1.json").write_text("[]")
    assert_same(run(folder, resume=True), plain())


def disturb(folder, generator):
    """Do something to the folder that a user, another program or a disk might do."""
    inside = list(folder.rglob("*")) if folder.is_dir() else []
    chosen = generator.choice(inside) if inside else folder
    aside = folder.with_name(f"aside{generator.random()}")
    actions = [
        lambda: shutil.rmtree(folder),
        lambda: folder.rename(aside),
        lambda: (folder.rename(aside), folder.write_text("a file")),
        folder.unlink,
        lambda: shutil.rmtree(chosen) if chosen.is_dir() else chosen.unlink(),
        lambda: chosen.rename(aside),
        lambda: shutil.copytree(chosen, folder / f"iteration-{generator.randrange(10**4):010d}"),
        lambda: chosen.write_bytes(b"") if chosen.is_file() else chosen.mkdir(),
    ]
    try:
        generator.choice(actions)()
    except OSError:
        return  # the run was faster


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))]
)
def test_whatever_is_done_to_the_folder_no_wrong_result_comes(seed, tmp_path):
    """A run ends with the bits of an undisturbed one, or with an error in words."""
    generator, is_over, folder = random.Random(seed), threading.Event(), tmp_path / "run"

    def attack():
        while not is_over.wait(generator.uniform(0, 0.01)):
            disturb(folder, generator)

    before = threading.active_count()
    attacker = threading.Thread(target=attack)
    try:
        first = result_or_error(folder, attacker.start)
    finally:
        is_over.set()
        attacker.join()
    assert threading.active_count() == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second = result_or_error(folder, resume=True) if folder.is_dir() else first
    for got in (first, second):
        if isinstance(got, str):
            assert re.search(f"{NOT_WRITTEN}|can be read: to begin anew choose", got)
        else:
            assert_same(got, plain(1000))


def result_or_error(folder, *function, **options):
    """The result of a run of 1000 steps, or its error as text."""
    try:
        return run(folder, *function, iterations=1000, **options)
    except (OSError, ValueError) as error:
        return str(error)


def test_an_error_in_the_run_leaves_no_writer_behind(tmp_path, monkeypatch):
    """What is being written when the run fails is given up, and not waited for."""
    begun, sync = threading.Event(), os.fsync
    monkeypatch.setattr(checkpoints, "PART_BYTES", 1000)
    monkeypatch.setattr(checkpoints.os, "fsync", lambda descriptor: begun.set() or sync(descriptor))

    class Fails(jd.hooks.Hook):
        def report(self, record):
            if record.chunk == 3:
                raise ZeroDivisionError("the hook's own")

    checkpoint = jd.hooks.Checkpoint(tmp_path, every=0.0)
    with pytest.raises(ZeroDivisionError, match="the hook's own"):
        jd.run(valley, LARGE, METHOD, tolerance=0, chunk=10, checkpoint=checkpoint, hooks=[Fails()])
    assert not [each for each in threading.enumerate() if each.name == "checkpoint"]
    assert all(checkpoints.NAME.match(name) for name in names(tmp_path))
