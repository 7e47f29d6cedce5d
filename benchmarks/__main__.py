"""python -m benchmarks run | report | check."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence

from benchmarks import suites
from benchmarks.harness import check, machine, records
from benchmarks.harness.runner import Settings, run_suite
from benchmarks.report import table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name: those of this process unless given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure")
    run.add_argument("--suite", action="append", choices=suites.NAMES, help="all unless named")
    run.add_argument("--case", default="", help="only cases in whose name this is")
    run.add_argument(
        "--contender", action="append", default=[], help="only those in whose label this is"
    )
    run.add_argument("--full", action="store_true", help="the whole sizes: hours, 24 GB")
    run.add_argument("--scale", type=float, default=1.0, help="multiplies every suite's own scale")
    run.add_argument("--repeats", type=int, help="each suite's own unless given")
    run.add_argument("--json", type=pathlib.Path, default=records.DEFAULT)
    render = commands.add_parser("report", help="write the tables and plots of the stored records")
    render.add_argument(
        "--store",
        type=pathlib.Path,
        nargs="+",
        default=[],
        help="keep these records first; of runs of single cases, all that make a suite",
    )
    compare = commands.add_parser("check", help="compare ratios with the stored ones")
    compare.add_argument("--json", type=pathlib.Path, default=records.DEFAULT)
    options = parser.parse_args(arguments)
    if options.command == "run":
        return _run(options)
    if options.command == "report":
        return _report(options.store)
    return _check(options.json)


def _run(options: argparse.Namespace) -> int:
    measured: list[records.Record] = []
    everyday = [suite.name for suite in suites.every() if suite.is_everyday or options.full]
    for name in options.suite or everyday:
        suite = suites.get(name)
        scale = options.scale * (1.0 if options.full else suite.everyday_scale)
        limit = suite.whole_limit if options.full else suite.limit
        repeats = options.repeats or suite.repeats
        started = time.perf_counter()
        run = {
            "suite": name,
            "command": f"python -m benchmarks run --suite {name}{_options(options)}",
            "scale": scale,
            "is_whole": options.full and options.scale == 1,
            "is_complete": options.scale == 1 and not options.case and not options.contender,
            "repeats": repeats,
            "limit_seconds": limit,
            "dtype": suite.dtype,
            "seed": 0,
        }
        provenance = machine.provenance() | run
        measured.append(provenance)
        measured.append(machine.limits() | {"suite": name})
        print(f"\n== {suite.title}, scale {scale:g}", flush=True)
        case = None
        settings = Settings(scale, repeats, limit, options.case, tuple(options.contender))
        for record in run_suite(suite, settings):
            if record["case"] != case:
                case = record["case"]
                print(f"-- {case}")
            print(f"   {table.line(record)}", flush=True)
            measured.append(record)
            records.write(options.json, measured)
        if case is None:
            print(f"no case of {name} has {options.case!r} in its name")
        provenance["seconds_in_all"] = time.perf_counter() - started
    records.write(options.json, measured)
    print()
    print(table.targets_table(measured))
    return 0


def _options(options: argparse.Namespace) -> str:
    words = [" --full"] if options.full else []
    words += [f" --scale {options.scale:g}"] if options.scale != 1 else []
    words += [f" --repeats {options.repeats}"] if options.repeats else []
    words += [f" --case '{options.case}'"] if options.case else []
    words += [f" --contender '{word}'" for word in options.contender]
    return "".join(words)


def _report(store: list[pathlib.Path]) -> int:
    if store:
        new = [record for file in store for record in records.read(file)]
        try:
            new = _whole_suites(new)
        except ValueError as error:
            print(
                "Only runs of all cases and contenders at a suite's own scale are kept: no "
                f"--contender, no --scale, --case only if the pieces make a whole. {error}"
            )
            return 2
        for is_whole in (False, True):
            suites_of = {
                r["suite"] for r in new if r["kind"] == "provenance" and r["is_whole"] == is_whole
            }
            kept = [record for record in new if record["suite"] in suites_of]
            file = records.stored_file(is_whole=is_whole)
            if kept:
                old = records.read(file) if file.exists() else []
                records.write(file, records.merged(old, kept))
    print(f"wrote {table.write()}")
    return 0


def _whole_suites(new: list[records.Record]) -> list[records.Record]:
    whole: list[records.Record] = []
    for name in dict.fromkeys(record["suite"] for record in new):
        of_suite = [record for record in new if record["suite"] == name]
        is_complete = [r["is_complete"] for r in of_suite if r["kind"] == "provenance"]
        whole += of_suite if all(is_complete) else records.joined(of_suite, suites.get(name))
    return whole


def _check(current: pathlib.Path) -> int:
    if not current.exists():
        print(f"There is no {current}: run `python -m benchmarks run` first.")
        return 2
    now = records.read(current)
    is_whole = any(r.get("is_whole") for r in now)
    stored = records.stored_file(is_whole=is_whole)
    if not stored.exists():
        print(f"There is no {stored}: `python -m benchmarks report --store FILE` keeps a run.")
        return 2
    worse = check.worsened(records.read(stored), now)
    for each in worse:
        print(each)
    print(f"{len(worse)} ratios got worse by more than {check.TOLERATED:.0%}.")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
