"""The breakdown's eight billion parameters over several processes, here fewer of them."""

import json
import os
import socket
import subprocess
import sys

from tests.distributed.processes import ROOT


def test_two_processes_share_the_parameters_of_part_three(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = [sys.executable, "-m", "jaxdescent", "breakdown", "--part", "3"]
    common += ["--params", "100000", "--dtype", "bfloat16", "--device", "cpu"]
    common += ["--distributed", "--coordinator", address, "--processes", "2", "--quick"]
    started = [
        subprocess.Popen(
            [*common, "--process", str(index), "--output", str(tmp_path / str(index))],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        ended = [process.communicate(timeout=200) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], ended
    written = json.loads((tmp_path / "0" / "breakdown.json").read_text())
    numbers = written["parts"]["3"]["independent"]
    assert numbers["processes"] == 2
    assert numbers["params_bytes_of_this_process"] == numbers["params_bytes"] / 2
    assert numbers["bit_equal_to_replay"] == numbers["sampled_elements"] > 0
    assert not (tmp_path / "1").exists()
    assert "over 2 processes" in " ".join(ended[0][0].split())
    assert "over 2 processes" not in ended[1][0]
