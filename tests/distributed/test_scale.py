"""Scaling experiments of several processes: what fails in one of them fails in all."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from tests.distributed.processes import answers, command, ended, run
from tests.distributed.scales import minimum

pytestmark = pytest.mark.slow

CHILD = "tests.distributed.scales"
CASES = (
    *("little_room", "a_bug", "a_full_disk", "another_experiment"),
    *("minima", "built_on_the_host", "no_room_to_compute", "another_machine"),
)
SMALL = ("--features", "4", "--iterations", "2", "--repeats", "1")


def test_what_fails_in_one_of_three_processes_fails_in_all(tmp_path):
    found = answers(CHILD, 3, tmp_path, *CASES)
    first, second = found[1]["little_room"]
    assert (first.split(" needs ")[0], second) == ("a device", "")
    assert first.endswith(
        "of data and params, and about 10 kB can be used: take more devices, another layout or a "
        "smaller dtype."
    )
    for other in (*found[:1], *found[2:]):
        assert other["little_room"] == [f"process 1: {first}", ""]
        assert other["a_bug"] == (
            "OtherProcessFailed: process 1 failed with ZeroDivisionError: division by zero"
        )
    # The first process writes, and what it writes is true of all.
    lines = [json.loads(line) for line in (tmp_path / "room.jsonl").read_text().splitlines()]
    assert [line["figures"].get("error", "") for line in lines] == found[0]["little_room"]
    assert found[1]["a_bug"] == "ZeroDivisionError: division by zero"
    assert not (tmp_path / "bug.jsonl").exists()
    said = f"OSError: [Errno 28] No space left on device: '{tmp_path / 'full.jsonl'}'"
    assert found[0]["a_full_disk"] == said
    for each in found[1:]:
        assert each["a_full_disk"] == f"OtherProcessFailed: process 0 failed with {said}"
    for each in found:
        assert each["another_experiment"].startswith(
            "DataError: the experiments are not the same in all processes: start each by the same"
        )
    assert not (tmp_path / "other.jsonl").exists()
    own = [minimum(kind, jax.devices()[:1]) for kind in ("sparse", "categorical")]
    for each in found:
        np.testing.assert_allclose(each["minima"], own, rtol=1e-4)
    for index, each in enumerate(found):
        own = "" if index == 1 else "process 1: "
        assert each["built_on_the_host"] == [f"{own}no room for the entries"] * 3 + [""]
        first, second = each["no_room_to_compute"]
        assert second == ""
        assert first.startswith(f"{own}a device needs ")
        assert "besides data and params for what it computes with them, and about" in first
        # Whatever a machine is, all measure what the first one's file lacks.
        assert each["another_machine"][:2] == [1, 2]
        assert each["another_machine"][2][0].endswith("already")


def test_a_process_that_fails_in_a_shared_program_ends_the_others(tmp_path):
    (out, _, code), (own, errors, failed) = run(
        CHILD, 2, str(tmp_path), "in_the_program", timeout=100
    )
    assert "process 1: no room to run" in errors
    assert code != 0
    assert failed != 0
    assert '""' not in out + own  # neither has figures


def test_what_is_asked_of_one_process_alone_is_refused_in_both(tmp_path):
    """The others would wait for five minutes for a process that does not join them."""
    path = tmp_path / "scale.jsonl"
    first, other = ended(
        command(
            "scale",
            ["--rows", "64", *SMALL, "--output", path],
            ["--rows", "64", *SMALL, "--method", "newton"],
        ),
        code=2,
    )
    assert "methods must be of cg" in " ".join(other[1].split())
    assert "process 1 failed with BadParameter: methods must be of cg" in " ".join(first[1].split())
    assert not path.exists()


def test_processes_keep_an_experiment_in_the_folder_of_the_first(tmp_path):
    folder = tmp_path / "kept"
    options = ["--rows", "64", *SMALL, "--checkpoint", folder]
    first, other = ended(command("scale", options, options), code=0)
    kept = (folder / "scale.jsonl").read_bytes()
    first, other = ended(command("scale", options, options), code=2)
    assert "process 0 failed with BadExperiment" in other[1]
    first, other = ended(command("scale", [*options, "--resume"], [*options, "--resume"]), code=0)
    assert "already in" in first[1]
    assert (folder / "scale.jsonl").read_bytes() == kept


def test_files_concern_the_first_process(tmp_path):
    nowhere = tmp_path / "nowhere" / "scale.jsonl"
    good = ["--rows", "64", *SMALL, "--output", tmp_path / "scale.jsonl"]
    _, other = ended(command("scale", good, [*good[:-1], nowhere]), code=0)
    assert len((tmp_path / "scale.jsonl").read_text().splitlines()) == 1
    assert other[0] == ""


@pytest.mark.parametrize(("number", "codes"), [("SIGTERM", (130, 130)), ("SIGINT", (1, 130))])
def test_a_signal_to_one_process_ends_both_with_the_points_so_far(tmp_path, number, codes):
    rows = ",".join(str(64 * k) for k in range(1, 200))
    arguments = ["--rows", rows, *SMALL, "--checkpoint", tmp_path / "kept"]
    started = command("scale", arguments, arguments)
    path = tmp_path / "kept" / "scale.jsonl"
    try:
        deadline = time.monotonic() + 100
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        started[1].send_signal(getattr(signal, number))
    finally:
        (_, errors, code), (_, others, other) = ended(started, timeout=100)
    assert (code, other) == codes, f"{errors}\n{others}"  # whole, as a pair would not be
    assert "the same command with --resume goes on" in others
    last = (
        "Interrupted: points" if code == 130 else "Error: another process has ended, or cannot be"
    )
    assert errors.strip().splitlines()[-1].startswith(last), errors
    kept = len(path.read_text().splitlines())
    assert 0 < kept < 199
