"""What is known of a machine: measured once, kept in a file, and a default without it."""

import dataclasses
import functools
import json
import os
import pathlib
import stat
import sys
import time
import timeit
import types

import jax
import pytest

from jaxdescent.kernels import host
from jaxdescent.machine import Machine, calibration, store
from jaxdescent.machine import machine as machines
from jaxdescent.machine.defaults import DEFAULTS, DTYPES, default_rates

RATES = {
    **DEFAULTS["cpu"],
    "is_measured": True,
    "measured_at": 1.7e9,
    "others": 0.0,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store._read.cache_clear()
    yield tmp_path / "jaxdescent"
    store._read.cache_clear()


@pytest.fixture
def measured(monkeypatch):
    """Counts the measurements, which take no time."""
    calls = []

    def measure(device):
        calls.append(device)
        return {**RATES, "orthogonal_rate": 1e9 * len(calls)}

    monkeypatch.setattr(calibration, "measure", measure)
    return calls


def stored(**changes):
    return json.dumps({"format": store.FORMAT, "rates": RATES} | changes)


DAMAGED = {
    "empty": "",
    "a list": "[]",
    "an object": "{}",
    "format": stored(format=0),
    "negative": stored(rates=RATES | {"orthogonal_rate": -1.0}),
    "no dtypes": stored(rates=RATES | {"product_rate": 1.0}),
    "missing": stored(rates={"orthogonal_rate": 1.0}),
    "others": stored(rates=RATES | {"others": "much"}),
}


class TestCalibration:
    def test_without_one_the_default_is_taken_and_nothing_is_written(self, folder, measured):
        machine = Machine.of()
        assert not machine.is_measured
        assert machine.platform == "cpu"
        assert machine.memory_bytes > 0
        assert not measured
        assert not folder.exists()

    def test_it_is_measured_once_and_kept(self, folder, measured):
        first, second = Machine.measured(), Machine.measured()
        assert first.is_measured
        assert len(measured) == 1
        assert second.orthogonal_rate == first.orthogonal_rate == 1e9
        assert Machine.of().orthogonal_rate == 1e9
        (file,) = folder.iterdir()
        assert json.loads(file.read_text())["format"] == store.FORMAT
        assert f"jax-{jax.__version__}" in file.name
        assert "jaxlib-" in file.name
        assert f"{host.usable_cores()}-cores" in file.name
        assert file.name.startswith("machine-cpu-")

    def test_another_number_of_cores_is_measured_anew(self, folder, measured, monkeypatch):
        Machine.measured()
        monkeypatch.setattr(host, "usable_cores", lambda: 512)
        assert not Machine.of().is_measured
        assert Machine.measured().cores == 512
        assert len(measured) == 2

    def test_recalibration_replaces_it(self, folder, measured):
        Machine.measured()
        assert Machine.measured(recalibrate=True).orthogonal_rate == 2e9
        assert Machine.of().orthogonal_rate == 2e9
        assert len(list(folder.iterdir())) == 1

    def test_one_of_a_busy_machine_is_measured_again_and_the_better_rates_are_kept(
        self, folder, monkeypatch
    ):
        machines._MEASURED_HERE.clear()
        busy = {**RATES, "others": 0.6, "orthogonal_rate": 1e9, "operation_seconds": 1e-2}
        busy |= {"product_rate": dict.fromkeys(DTYPES, 9e12)}
        quiet = {**RATES, "others": 0.05, "orthogonal_rate": 5e10}
        calls = [busy, quiet]
        monkeypatch.setattr(calibration, "measure", lambda device: calls.pop(0))
        first = Machine.measured()
        default = default_rates("cpu", host.usable_cores())["orthogonal_rate"]
        assert (first.others, first.orthogonal_rate) == (0.6, default / 5)
        assert first.operation_seconds == pytest.approx(5 * DEFAULTS["cpu"]["operation_seconds"])
        assert Machine.measured().others == 0.6
        assert len(calls) == 1  # not twice in one process
        machines._MEASURED_HERE.clear()  # as in another process
        second = Machine.measured()
        assert not calls
        assert (second.others, second.orthogonal_rate) == (0.05, 5e10)
        assert second.product_rate == dict.fromkeys(DTYPES, 9e12)
        assert second.operation_seconds == RATES["operation_seconds"]

    def test_a_file_of_an_earlier_version_that_has_more_rates_is_read(self, folder, measured):
        machine = Machine.measured()
        (file,) = folder.iterdir()
        content = json.loads(file.read_text())
        content["rates"] |= {"thin_bandwidth": 5e9, "cholesky_half": 300.0}
        file.write_text(json.dumps(content))
        store._read.cache_clear()
        again = Machine.of()
        assert again == dataclasses.replace(machine, memory_bytes=again.memory_bytes)

    def test_a_quiet_machine_that_is_slow_is_believed(self, folder, monkeypatch):
        slow = {**RATES, "orthogonal_rate": 1e6}
        monkeypatch.setattr(calibration, "measure", lambda device: slow)
        assert Machine.measured().orthogonal_rate == 1e6

    @pytest.mark.parametrize("name", DAMAGED)
    def test_a_damaged_file_counts_as_none(self, folder, measured, name):
        Machine.measured()
        (file,) = folder.iterdir()
        file.write_text(DAMAGED[name])
        store._read.cache_clear()
        assert not Machine.of().is_measured
        assert Machine.measured().is_measured
        assert len(measured) == 2

    def test_a_folder_that_cannot_be_made_is_no_error(self, tmp_path, measured, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        store._read.cache_clear()
        assert Machine.measured().is_measured
        assert not Machine.of().is_measured

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_cannot_be_written_to_is_no_error(self, folder, measured):
        folder.mkdir()
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
        assert Machine.measured().is_measured
        assert not list(folder.iterdir())

    def test_nothing_is_left_behind_where_the_file_cannot_be_moved(self, folder, measured):
        path = store.path_of(machines._identity(jax.devices()[0]))
        path.mkdir(parents=True)  # a folder stands where the file should
        assert Machine.measured().is_measured
        assert [entry.name for entry in folder.iterdir()] == [path.name]

    @pytest.mark.slow
    def test_a_real_measurement_is_plausible(self, folder, monkeypatch):
        monkeypatch.setattr(calibration, "READ_BYTES", 1 << 22)
        monkeypatch.setattr(calibration, "PRODUCT_SIZE", 128)
        machine = Machine.measured()
        assert machine.is_measured
        assert set(machine.read_bandwidth) == set(machine.product_rate) == set(DTYPES)
        assert all(1e7 < rate < 1e14 for rate in machine.read_bandwidth.values())
        assert all(1e7 < rate < 1e17 for rate in machine.product_rate.values())
        assert 0 < machine.operation_seconds < 1e-3
        assert 1e7 < machine.orthogonal_rate < 1e17
        again = Machine.of()
        assert again == dataclasses.replace(machine, memory_bytes=again.memory_bytes)


class TestRuns:
    def test_the_best_run_counts_and_the_median_tells_how_they_vary(self, monkeypatch):
        seconds = iter([9.0, 5.0, 8.0, 3.0, 4.0, 99.0])
        clock = [0.0]

        def run():
            clock[0] += next(seconds)

        monkeypatch.setattr(
            calibration.timeit,
            "repeat",
            functools.partial(timeit.repeat, timer=lambda: clock[0]),
        )
        assert calibration.least_seconds(run, repeats=4) == 3.0  # the first run compiles
        assert next(seconds) == 99.0

    def test_others_are_what_the_processor_did_besides_this_process(self, monkeypatch):
        cores = os.sysconf("SC_NPROCESSORS_ONLN")
        monkeypatch.setattr(calibration, "_rates", lambda device: {})
        for seconds, share in ((5 * cores, 0.5), (0.0, 0.0), (-1.0, 0.0), (99 * cores, 1.0)):
            clock = types.SimpleNamespace(perf_counter=iter([10.0, 20.0]).__next__, time=time.time)
            monkeypatch.setattr(calibration, "time", clock)
            told = iter([90.0, 90.0 + seconds]).__next__
            monkeypatch.setattr(calibration, "_seconds_of_others", told)
            assert calibration.measure(jax.devices()[0])["others"] == share

    def test_the_systems_count_is_read(self, tmp_path):
        (tmp_path / "stat").write_text("cpu  100 20 30 5000 70 8 9 1 0 0\ncpu0 1 2 3\n")
        own, tick = time.process_time(), os.sysconf("SC_CLK_TCK")
        others = calibration._seconds_of_others(str(tmp_path / "stat"))
        assert 168 / tick - own - 5 < others <= 168 / tick - own
        for text in ("", "cpu many"):
            (tmp_path / "stat").write_text(text)
            assert calibration._seconds_of_others(str(tmp_path / "stat")) == 0
        assert calibration._seconds_of_others(str(tmp_path / "none")) == 0


class TestCacheFolder:
    def test_the_environment_says_where(self, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert store.cache_folder() == pathlib.Path("/somewhere/jaxdescent")

    @pytest.mark.parametrize(
        ("platform", "expected"),
        [("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "AppData/Local")],
    )
    def test_else_the_platform_does(self, monkeypatch, platform, expected):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.delenv("LOCALAPPDATA", raising=False)
        monkeypatch.setattr(sys, "platform", platform)
        assert store.cache_folder() == pathlib.Path.home() / expected / "jaxdescent"


class TestRates:
    def test_products_grow_with_the_cores_and_memory_only_with_the_first_four(self):
        one, eight = (Machine.default("cpu", cores=cores) for cores in (1, 8))
        assert eight.product("float32") == 8 * one.product("float32")
        assert eight.read_bandwidth["float32"] == 4 * one.read_bandwidth["float32"]
        assert eight.operation_seconds == one.operation_seconds

    def test_what_stays_in_the_cache_is_read_faster(self):
        machine = Machine.default("cpu", cores=2)
        memory = machine.read_bandwidth["float32"]
        cached = machine.ratios.cached * memory
        quarter = machine.cache_bytes // 4
        assert machine.bandwidth("float32", quarter) == pytest.approx(cached)
        partly = machine.bandwidth("float32", quarter + 1)
        assert partly == machine.bandwidth("float32", machine.cache_bytes)
        assert partly == pytest.approx((memory * cached) ** 0.5)
        assert machine.bandwidth("float32", machine.cache_bytes + 1) == memory

    def test_widening_takes_as_long_from_the_cache_as_from_memory(self):
        cpu, gpu = Machine.default("cpu", cores=2), Machine.default("gpu")
        assert cpu.bandwidth("bfloat16", 100) == cpu.read_bandwidth["bfloat16"]
        assert gpu.bandwidth("bfloat16", 100) == gpu.read_bandwidth["bfloat16"]

    def test_sixteen_bit_floats_share_a_rate_and_an_unknown_platform_counts_as_a_gpu(self):
        machine = Machine.default("gpu")
        assert machine.product("float16") == machine.product("bfloat16")
        assert Machine.default("abacus").product_rate == machine.product_rate

    def test_json_has_every_field(self):
        content = json.loads(Machine.default("cpu", cores=2).to_json())
        assert content["cores"] == 2
        assert set(content) == set(Machine.__dataclass_fields__)
