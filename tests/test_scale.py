"""Scaling experiments: their points, what is measured, what is kept, and what is said."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxdescent as jd
from benchmarks.studies.accelerators import reads
from jaxdescent import provenance, scale
from jaxdescent.kernels import memory
from jaxdescent.rows import DataError
from jaxdescent.scale import record, report, run
from jaxdescent.scale.compiled import Compiled, Sent, _computations, _moved, _sent_by
from jaxdescent.scale.experiment import BadExperiment, Experiment, ScalingPoint
from jaxdescent.scale.plot import _roofline, draw
from jaxdescent.scale.problems import PROBLEMS, NotDivisible, bytes_of_a_device, mesh_of
from tests.commands import refused, shown
from tests.commands import run as jaxdescent
from tests.files import full_disk, half_a_picture


def point_of(name, rows, features, layout="samples", devices=1, outputs=1):
    return ScalingPoint(name, rows, features, "cg", "float32", layout, devices, outputs=outputs)


def test_a_grid_has_every_combination_once():
    grid = Experiment(
        problems=("dense", "llama3-8b"),
        rows=(100, 200),
        methods=("cg", "lsmr"),
        devices=(1, 2),
        rehearse=("8xh100",),
    )
    points = grid.points()
    assert len(points) == 2 * 2 * 3 + 3  # a problem of its own size has one method and layout
    assert {point.devices for point in points if point.target} == {8}


def test_a_problem_may_have_sizes_of_its_own():
    given = {"problems": ["dense", "hashed"], "rows": 1000, "features": 8, "devices": [1, 2]}
    given |= {"methods": ["cg", "lsmr"], "hashed": {"features": 50, "methods": "cg"}}
    grid = Experiment.of(given, "file")
    sizes = {(point.problem, point.features, point.method) for point in grid.points()}
    assert sizes == {("dense", 8, "cg"), ("dense", 8, "lsmr"), ("hashed", 50, "cg")}
    # What the command line says besides holds for all of them.
    other = Experiment.of(grid.given() | {"devices": (4,)}, "the command line")
    assert {point.devices for point in other.points()} == {4}


def test_weak_scaling_grows_with_the_devices_what_lies_over_them():
    grid = Experiment(rows=(100,), outputs=(3,), devices=(1, 4), scaling="weak")
    assert [(point.rows, point.outputs) for point in grid.points()] == [(100, 3), (400, 3)]
    grid = dataclasses.replace(grid, layouts=("outputs",))
    assert [(point.rows, point.outputs) for point in grid.points()] == [(100, 3), (100, 12)]
    grid = dataclasses.replace(grid, scaling="strong")
    assert [(point.rows, point.outputs) for point in grid.points()] == [(100, 3), (100, 3)]
    assert grid.points()[1].describe() == (
        "dense 100 x 256, 3 outputs, float32, cg, outputs over 4 devices"
    )


@pytest.mark.slow
def test_outputs_lie_over_the_devices_and_send_nothing_of_their_size():
    """X is whole on each device, targets and weights are cut; one shares nothing."""
    grid = Experiment(
        rows=(64,), features=(8,), outputs=(16, 6), devices=(1, 4), iterations=2, repeats=1
    )
    grid = dataclasses.replace(grid, layouts=("outputs",))
    one, four, uneven_alone, uneven = run(grid)
    X, y = 4 * 64 * 8, 4 * 64 * 16
    assert four["figures"]["argument_bytes"] == X + y // 4 + 4  # and the number of iterations
    assert one["figures"]["argument_bytes"] == X + y + 4
    assert four["figures"]["least_bytes"] == 2 * 4 * (X + y // 4)
    assert four["figures"]["operations"] == one["figures"]["operations"] == 4 * 64 * 8 * 16
    assert "error" not in uneven_alone["figures"]
    assert "y has 6 outputs, which 4 devices cannot share" in uneven["figures"]["error"]
    (alone,) = run(dataclasses.replace(grid, outputs=(1,), devices=(4,)))
    assert "y has 1 outputs, which 4 devices cannot share" in alone["figures"]["error"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"problems": ["no"]}, r"problems must be of dense, .*, llama3-8b, got 'no'"),
        ({"methods": "newton"}, r"methods must be of cg, .*got 'newton'"),
        ({"rows": [0]}, r"rows must be at least 1, got 0"),
        ({"rows": ["many"]}, r"file: rows must be of type int, got 'many'"),
        ({"rows": 1.5}, r"file: rows must be of type int, got 1.5"),
        ({"scaling": "both"}, r"scaling must be strong or weak, got 'both'"),
        ({"scaling": 3}, r"file: scaling must be of type str, got 3"),
        ({"hashed": 3}, r"file: hashed must be a table, \[hashed\], got 3"),
        ({"hashed": {"seed": 3}}, r"file: \[hashed\] may have rows, .*, got 'seed'"),
        ({"hashed": {"rows": "a"}}, r"file: \[hashed\]: rows must be of type int, got 'a'"),
        ({"row": 3}, r"file: 'row' is none of problems, rows"),
        ({"methods": []}, r"methods must not be empty"),
        ({"repeats": 0}, r"repeats must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be at least 0 and below 2\*\*32, got -1"),
        ({"seed": 2**32}, r"seed must be at least 0 and below 2\*\*32, got 4294967296"),
        ({"iterations": 2**25}, r"iterations must be at least 1 and below 2\*\*25, got 33554432"),
        (
            {"problems": "sparse", "features": 2**32 + 3},
            r"sparse must have .* 100,000 x 4,294,967,2",
        ),
        (
            {"problems": "hashed", "features": 2**31},
            r"hashed must have fewer than 2\*\*31 rows and",
        ),
        (
            {"problems": "categorical", "rows": 2**30, "scaling": "weak", "devices": 2},
            r"categorical must have fewer .* got 2,147,483,648 x 256",
        ),
        ({"problems": "sparse", "outputs": 4}, "sparse has one output, got 4"),
        (
            {"problems": "sparse", "layouts": "outputs"},
            r"sparse can lie over devices by samples, got 'outp",
        ),
        ({"rehearse": "h1000"}, r"rehearse: no device is called 'h1000'"),
    ],
)
def test_what_is_wrong_with_an_experiment_is_said(given, message):
    with pytest.raises(BadExperiment, match=message):
        Experiment.of(given, "file").points()


def test_an_experiment_is_read_from_toml(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text('rows = 1e3\nfeatures = [4, 8]\nmethods = "lsmr"\nscaling = "weak"\n')
    grid = Experiment.from_toml(path)
    assert (grid.rows, grid.features, grid.methods) == ((1000,), (4, 8), ("lsmr",))
    path.write_text("rows = [")
    with pytest.raises(BadExperiment, match="is not TOML"):
        Experiment.from_toml(path)
    with pytest.raises(BadExperiment, match="No such file"):
        Experiment.from_toml(tmp_path / "missing.toml")


@pytest.mark.parametrize("layout", ["samples", "features", "both", "outputs"])
def test_arrays_are_the_same_on_any_number_of_devices(layout):
    outputs = 16 if layout == "outputs" else 1

    def made(devices):
        point = point_of("dense", 64, 8, layout, len(devices), outputs)
        return PROBLEMS["dense"].prepared(point, mesh_of(devices, layout), seed=3)()

    one, eight = made(jax.devices()[:1]), made(jax.devices())
    np.testing.assert_array_equal(one["X"], eight["X"])
    np.testing.assert_allclose(one["y"], eight["y"], rtol=1e-5, atol=1e-5)
    cut = eight["y" if layout == "outputs" else "X"]
    assert len({str(shard.index) for shard in cut.addressable_shards}) == 8
    assert abs(float(np.std(one["X"])) - 1) < 0.1


def test_what_a_device_has_no_room_for_is_not_made(monkeypatch):
    """Devices of a CPU share its memory: 3,200 bytes of data and 1,600 of targets, over four."""
    monkeypatch.setattr(memory, "available_bytes", lambda device: 4_000)
    grid = Experiment(rows=(400,), features=(2,), devices=(1, 4), iterations=1, repeats=1)
    one, four = (line["figures"]["error"] for line in run(grid))
    assert one.startswith("a device needs 4.8 kB of data and params, and about 4 kB can be used")
    assert four.startswith("a device needs 1.2 kB of data and params, and about 1 kB can be used")


def test_a_mesh_of_two_axes_is_square_if_it_can_be_and_what_it_cannot_share_is_named():
    assert dict(mesh_of(jax.devices(), "both").shape) == {"samples": 4, "features": 2}
    assert dict(mesh_of(jax.devices()[:6], "both").shape) == {"samples": 3, "features": 2}
    mesh = mesh_of(jax.devices(), "samples")
    for name in ("dense", "sparse"):
        with pytest.raises(NotDivisible, match=r"X has 100 samples, which 8 devices .* as 104"):
            PROBLEMS[name].shapes(point_of(name, 100, 8), mesh)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse", "hashed", "categorical"])
def test_designs_that_the_host_lays_out_are_measured_on_any_number_of_devices(name, tmp_path):
    mesh = mesh_of(jax.devices()[:2], "samples")
    point = point_of(name, 64, 20)
    shapes, made = PROBLEMS[name].shapes(point, mesh), PROBLEMS[name].prepared(point, mesh, 0)()
    # By one device's rows: as many arrays, but for what a width more or less makes of them.
    assert bytes_of_a_device(shapes) == pytest.approx(bytes_of_a_device(made), rel=0.2)
    assert shapes["y"].shape == made["y"].shape
    assert shapes["X"].shape[0] == made["X"].shape[0]
    grid = Experiment(
        problems=(name,), rows=(64,), features=(20,), devices=(1, 2), iterations=1000, repeats=3
    )
    began = time.perf_counter()
    lines = run(grid, tmp_path / "scale.jsonl")
    most = (time.perf_counter() - began) / 1000
    for line in lines:
        # The median of three: that of two iterations alone would be lost in the calls' jitter.
        assert 0 < line["figures"]["iteration_seconds"] < most
        assert line["figures"]["least_bytes"] > 64 * 4


@pytest.mark.slow
def test_points_are_measured_and_kept_and_skipped(tmp_path, monkeypatch):
    output, told = tmp_path / "scale.jsonl", []
    grid = Experiment(rows=(256,), features=(8,), devices=(1, 2), iterations=2, repeats=2)
    lines = run(grid, output, told.append)
    assert [line["point"]["devices"] for line in lines] == [1, 2]
    for line in lines:
        figures = line["figures"]
        assert figures["fastest_seconds"] <= figures["iteration_seconds"]
        assert figures["iteration_seconds"] <= figures["slowest_seconds"]
        assert figures["least_bytes"] == 2 * (256 * 8 + 256) * 4
        assert figures["operations"] == 4 * 256 * 8
        assert figures["roof_bandwidth"] > 0
        assert figures["argument_bytes"] > 0
    # A line that was cut off while it was written is measured again; a power failure leaves nulls.
    monkeypatch.setattr(scale, "measured", lambda *_: figures | {"iteration_seconds": 1.0})
    first, second = output.read_text().splitlines(keepends=True)
    for left in (second[:-20], "\0" * len(second)):
        output.write_text(first + left)
        told.clear()
        again = run(grid, output, told.append)
        assert "already in" in told[0]
        assert "already in" not in told[1]
        assert again[0] == lines[0]
        assert again[1]["figures"]["iteration_seconds"] == 1
        assert run(grid, output, told.append) == again  # what was cut off is gone


def test_a_point_that_cannot_be_run_does_not_stop_the_others(tmp_path):
    grid = Experiment(
        rows=(100,), features=(4,), devices=(1, 8, 64), iterations=1, repeats=1, methods=("gram",)
    )
    first, second, third = run(grid, tmp_path / "scale.jsonl")
    assert first["figures"]["solve_seconds"] > 0
    assert "cannot share evenly" in second["figures"]["error"]
    assert "JAX has 8 devices, and 64 are asked for" in third["figures"]["error"]
    console = Console(record=True, width=200)
    report.show([first, second, third], console)
    assert "Not run: dense 100 x 4 float32, gram, samples over 8 devices" in console.export_text()


def test_a_full_disk_is_named_and_leaves_no_half_of_a_picture(tmp_path, monkeypatch):
    grid = Experiment(rows=(256,), features=(8,))
    line = record.line_of(*grid.points(), grid, {"iteration_seconds": 1.0})
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half_a_picture)
    with pytest.raises(DataError, match=r"a\.png cannot be written: No space left on device"):
        draw([line], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(record.os, "fsync", full_disk)
    with pytest.raises(DataError, match=r"s\.jsonl cannot be written: No space left on device"):
        record.append(tmp_path / "s.jsonl", line)


def test_an_error_is_not_told_again_once_its_point_has_figures(tmp_path, monkeypatch):
    path = tmp_path / "scale.jsonl"
    grid = Experiment(rows=(64,), features=(4,))
    record.append(path, record.line_of(*grid.points(), grid, {"error": "no room"}))
    monkeypatch.setattr(scale, "measured", lambda *_: line(1, 1.0)["figures"])
    for _ in range(2):  # measured, and then known
        [one] = run(grid, path)
        assert "error" not in one["figures"]
    assert len(record.lines_in(path)) == 2


def test_the_table_fits_80_columns():
    sent = [{"count": 12, "kind": "all-reduce", "bytes": 10**6}] * 5
    lines = [line(devices, 1.0 / devices) for devices in (1, 8)]
    for each in lines:
        each["figures"] |= {"collectives": sent, "gathers_data": True, "of_bandwidth": 0.5}
    console = Console(record=True, width=80)
    report.show(lines, console)
    shown = console.export_text().splitlines()
    assert max(map(len, shown)) <= 80
    assert " ".join(shown[0].split()) == "compile a device iteration of bandwidth efficiency"
    assert shown[1] == "dense 1,000 x 8 float32, cg, 1 device, samples"
    assert shown[2].split()[-3:] == ["s", "50%", "100%"]
    assert shown[3].startswith("    sends gathers the data: 12 x all-reduce 1 MB, 12 x")
    wide = Console(record=True, width=300)
    report.show(lines, wide)
    assert len(wide.export_text().splitlines()) == 3


@pytest.mark.parametrize(
    "content", [b'{"a": 1}\n', b"a note\n", b"a note without an end", b"\x89PNG\r\n\x1a\n\x00"]
)
def test_a_file_of_something_else_is_refused_and_stays(content, tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadExperiment, match="other lines than those of an experiment"):
        run(Experiment(), path)
    assert path.read_bytes() == content


def line(devices, seconds, rows=1000, scaling="strong"):
    point = {"problem": "dense", "rows": rows, "features": 8, "method": "cg", "dtype": "float32"}
    point |= {"layout": "samples", "devices": devices, "target": ""}
    figures = {"iteration_seconds": seconds, "compile_seconds": 1.0, "peak_bytes": 100}
    known = {"point": point, "rehearsed": False, "figures": figures}
    return known | {"scaling": scaling, "machine": {"device": "cpu"}}


def test_efficiency_is_that_of_the_definition():
    strong = [line(1, 8.0), line(2, 5.0), line(4, 4.0)]
    assert [report.efficiency(one, strong) for one in strong] == [1, 0.8, 0.5]
    weak = [line(1, 8.0, scaling="weak"), line(4, 10.0, 4000, "weak"), line(4, 9.0, 999, "weak")]
    assert [report.efficiency(one, weak) for one in weak] == [1, 0.8, 1]
    by_outputs = [line(1, 8.0, scaling="weak"), line(4, 10.0, scaling="weak")]
    by_outputs += [line(4, 9.0, 4000, "weak")]
    for each, outputs in zip(by_outputs, (2, 8, 8), strict=True):
        each["point"] |= {"layout": "outputs", "outputs": outputs}
    assert [report.efficiency(one, by_outputs) for one in by_outputs] == [1, 0.8, 1]
    # The base of weak scaling may have been measured for strong scaling.
    assert report.efficiency(weak[1], [strong[0], weak[1]]) == 0.8


def test_known_points_are_judged_by_the_scaling_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(
        scale, "measured", lambda point, _: line(point.devices, 8.0 + point.devices / 2)["figures"]
    )
    path = tmp_path / "scale.jsonl"
    for rows, devices in ((1000, 1), (4000, 4)):
        run(Experiment(rows=(rows,), features=(8,), devices=(devices,)), path)
    weak = Experiment(rows=(1000,), features=(8,), devices=(1, 4), scaling="weak")
    lines = run(weak, path)
    assert [report.efficiency(one, lines) for one in lines] == [1, 0.85]


def test_a_roofline_is_operations_and_bytes_of_a_device():
    figures = {"iteration_seconds": 2.0, "operations": 40.0, "least_bytes": 80.0, "units": 2}
    assert _roofline({"figures": figures}) == (1.0, 20.0)
    assert _roofline({"figures": figures | {"iteration_bytes": 20.0}}) == (2.0, 20.0)
    assert _roofline({"figures": {"solve_seconds": 2.0}}) is None


def test_a_picture_is_drawn(tmp_path):
    roof = {"operations": 4e9, "least_bytes": 8e9, "units": 1}
    roof |= {"roof_bandwidth": 1e10, "roof_operations": 1e11}
    lines = [line(1, 8.0), line(2, 5.0)]
    lines[0]["figures"] |= roof
    draw(lines[1:], tmp_path / "without.png")
    draw(lines, tmp_path / "scale.png")
    assert (tmp_path / "without.png").stat().st_size > 10_000
    assert (tmp_path / "scale.png").stat().st_size > 10_000


TEXT = """\
%body (arg: (f32[], f32[64,8])) -> (f32[], f32[64,8]) {
  %x = f32[64,8]{1,0} get-tuple-element(%arg), index=1
  %v = f32[8]{0:T(128)S(1)} get-tuple-element(%arg), index=2
  %near = (f32[64,8]{1,0:S(1)}, f32[64,8]{1,0}, u32[]) copy-start(%x)
  %here = f32[64,8]{1,0:S(1)} copy-done(%near)
  %product = f32[64]{0} fusion(%x, %v), kind=kLoop, calls=%fused
  %back = f32[8]{0} fusion(%here, %product), kind=kLoop, calls=%fused.1
  %sum = (f32[8]{0}, f32[8]{0}) all-reduce-start(%back), to_apply=%add
  ROOT %out = f32[8]{0} all-reduce-done(%sum)
}
"""


def test_what_is_read_of_a_program_is_what_stands_there():
    (lines,) = _computations(TEXT).values()
    assert _sent_by(lines) == [Sent("all-reduce", 32)]
    assert reads(lines, 64 * 8 * 4) == 2  # the copy that is started early is not a third
    # X twice, one of them on the way to the chip; the products written and read; the sum's operand.
    assert _moved(lines) == 2 * 2048 + 256 + 256 + 32 + 32


def test_collectives_of_a_sharded_program_are_found():
    mesh = mesh_of(jax.devices(), "samples")
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("samples"))
    X = jax.ShapeDtypeStruct((64, 8), "float32", sharding=rows)
    program = Compiled(lambda X: jax.numpy.sum(X, axis=0), X)
    assert program.sent == [Sent("all-reduce", 32)]
    assert program.arguments == 64 * 8 * 4 // 8


@pytest.mark.slow
@pytest.mark.parametrize("method", [jd.GradientDescent(jd.Backtracking()), jd.LSMR()])
def test_the_loop_over_iterations_is_found_among_others(method):
    """A line search is a loop inside of it, the look at a claim of convergence one around it."""
    mesh = mesh_of(jax.devices(), "samples")
    shapes = PROBLEMS["dense"].shapes(point_of("dense", 64, 8), mesh)

    def solve(arrays):
        return jd.minimize(PROBLEMS["dense"].pose(arrays)[0], method=method).params

    program = Compiled(solve, shapes)
    assert 0 < len(program.sent_in_an_iteration) < len(program.sent)
    assert any(sent.size >= 8 * 4 for sent in program.sent_in_an_iteration)


def test_the_command_keeps_prints_and_draws_what_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "measured", lambda point, _: line(point.devices, 1.0)["figures"])
    output = tmp_path / "out.jsonl"
    options = ["--rows", "256", "--features", "8", "--devices", "1,2", "--repeats", "1"]
    options += ["--iterations", "2", "--output", str(output), "--plot", str(tmp_path / "a.png")]
    assert "efficiency" in shown("scale", *options)
    kept = [json.loads(text)["point"] for text in output.read_text().splitlines()]
    assert [point["devices"] for point in kept] == [1, 2]
    assert (tmp_path / "a.png").exists()
    (tmp_path / "grid.toml").write_text("rows = 256\nfeatures = 8\ndevices = [1, 2]\n")
    assert "already in" in jaxdescent("scale", tmp_path / "grid.toml", *options[6:]).output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "0.5"], "--rows: must be a whole number from 1"),
        (["--rows", "1,nan"], "a whole number from 1 to 2**63 - 1, got 'nan'"),
        (["--method", "newton"], "methods must be of cg"),
        (["--plot", "a.jpg"], "must be a .png file"),
        (["--output", "/nowhere/a.jsonl"], "must be in a folder that exists"),
        (["--rehearse", "h1000"], "no device is called"),
        (["--processes", "2"], "is missing"),
        (["missing.toml"], "No such file"),
        (["--resume"], "needs --checkpoint FOLDER"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_sentence(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in " ".join(refused("scale", *options).split())


def test_a_point_is_the_one_that_was_written_whatever_the_order_of_its_fields():
    point = point_of("dense", 10, 2)
    written = json.loads(json.dumps(dataclasses.asdict(point)))
    assert ScalingPoint(**dict(reversed(written.items()))) in {point}


def test_rehearsals_are_known_on_any_machine_and_measurements_on_their_own():
    own = provenance.machine(record.PACKAGES)
    known = line(1, 2.0) | {"machine": own}
    other = line(2, 2.0) | {"machine": own | {"cores": 10_000}}
    rehearsed = line(3, 2.0) | {"machine": {}, "rehearsed": True}
    failed = line(4, 2.0) | {"machine": own, "figures": {"error": "no"}}
    found = record.known_lines([known, other, rehearsed, failed], record.machine())
    assert found == {ScalingPoint(**one["point"]): one for one in (known, rehearsed)}


def test_the_tree_is_that_of_the_model():
    point = ScalingPoint("llama3-8b", 0, 0, "constant", "bfloat16", "params", 8)
    shapes = PROBLEMS["llama3-8b"].shapes(point, mesh_of(jax.devices(), "params"))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 8_030_261_248
    assert {leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)} == {2}
    objective, start = PROBLEMS["llama3-8b"].pose({"w": jax.numpy.ones(3)})
    assert isinstance(objective, jd.SumOfSquares)
    assert start is not None


def keeping(folder, *options):
    given = ["--rows", "64", "--features", "4", "--iterations", "1", "--repeats", "1"]
    return ["scale", *given, "--method", "cg", "--devices", "1,2", "--checkpoint", folder, *options]


@pytest.mark.slow
def test_an_experiment_that_was_interrupted_goes_on_to_the_same_record(tmp_path, monkeypatch):
    """Ctrl-C in the second point: the first is kept, and the second one begins again."""
    stops = [True]

    def interrupted(point, experiment):
        if point.devices == 2 and stops:
            raise KeyboardInterrupt
        return line(point.devices, 1.0)["figures"]

    monkeypatch.setattr(scale, "measured", interrupted)
    folder = tmp_path / "kept"
    ended = jaxdescent(*keeping(folder))
    assert ended.exit_code == 130
    expected = f"are kept in {folder}; the same command with --resume goes on."
    assert expected in " ".join(ended.stderr.split())
    [first] = record.lines_in(folder / "scale.jsonl")
    stops.clear()
    for options, said in (
        ((), "keeps an experiment: say --resume to go on with it"),
        (
            ("--resume", "--seed", "5"),
            "keeps an experiment of other seed: 0 there, 5 here: give the same options",
        ),
    ):
        assert said in " ".join(refused(*keeping(folder, *options)).split())
    shown(*keeping(folder, "--resume"))
    lines = record.lines_in(folder / "scale.jsonl")
    assert lines[0] == first
    assert [line["point"]["devices"] for line in lines] == [1, 2]
    whole = tmp_path / "whole"
    shown(*keeping(whole, "--resume"))  # nothing to go on with yet
    others = record.lines_in(whole / "scale.jsonl")
    assert [line["point"] for line in lines] == [line["point"] for line in others]
    assert (folder / "experiment.json").read_text() == (whole / "experiment.json").read_text()


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (None, ["--output", "a.jsonl"], "and --output names another: leave one out"),
        ({"other.txt": "x"}, [], "holds other things than an experiment: name another folder"),
        ({"experiment.json": "{"}, ["--resume"], "experiment.json cannot be read"),
        ({"experiment.json": "{}"}, ["--resume"], "does not describe an experiment"),
        (
            {"experiment.json": '{"format": "jaxdescent scale", "schema": 9, "experiment": {}}'},
            ["--resume"],
            "has schema 9, and this version goes on with 1",
        ),
        (None, ["--layout", "params"], "dense can lie over devices by samples"),
    ],
)
def test_what_cannot_be_kept_or_gone_on_with_is_said(prepare, options, message, tmp_path):
    folder = tmp_path / "kept"
    if prepare:
        folder.mkdir()
        for name, text in prepare.items():
            (folder / name).write_text(text)
    assert message in " ".join(refused(*keeping(folder, *options)).split())
    assert folder.exists() == bool(prepare)
