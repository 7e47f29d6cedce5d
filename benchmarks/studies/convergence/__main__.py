"""How good the points are where descents say CONVERGED.

restart    restarts every descent on the classical and published functions that says CONVERGED, by
           the same method and by the default, and counts those that fall still
estimates  holds Result.suboptimality against the exact one, on random regressions and quadratics
claims     holds CONVERGED of every method against exact minima, on badly scaled random regressions
truth      counts claims that are false, and solutions of which nothing is claimed, on 1,000 random
           regressions and 600 random starts of functions

    python -m benchmarks.studies.convergence [--part NAME] [--dtype DTYPE] [--method NAME]
                                     [--only WORD] [--share I/K] [--shape 1500x100x1 ...]
                                     [--json FILE]
    python -m benchmarks.studies.convergence [--part NAME] --read FILE ...

Almost all of the time is compilation, mostly on one core: several processes, with a dtype or a
share of the problems each, take less time than one, and --read puts what they wrote together.
Another version of the package is measured by putting its checkout on PYTHONPATH and running in a
folder that has nothing but a link to this benchmarks folder.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.harness import machine, records
from benchmarks.studies.convergence.claims import claims, print_claims, solvers
from benchmarks.studies.convergence.estimates import SEEDS, estimates, print_estimates
from benchmarks.studies.convergence.restart import print_restart, restart
from benchmarks.studies.convergence.runs import DTYPES, cases, methods
from benchmarks.studies.convergence.truth import print_truth, truth

PRINTERS = {
    "restart": print_restart,
    "estimates": print_estimates,
    "claims": print_claims,
    "truth": print_truth,
}


def main() -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--part", choices=PRINTERS, default="restart")
    parser.add_argument("--dtype", choices=[*DTYPES, "both"], default="both")
    parser.add_argument(
        "--method", choices={**methods(), **solvers()}, help="alone, restarted by the default too"
    )
    parser.add_argument("--only", metavar="WORD", help="problems whose names contain it")
    parser.add_argument(
        "--share", default="1/1", metavar="I/K", help="the i-th of every k problems"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of random regressions")
    parser.add_argument(
        "--shape", type=_shape, nargs="+", metavar="ROWSxFEATURESxOUTPUTS", help="of larger claims"
    )
    parser.add_argument("--json", type=pathlib.Path, help="where records go while they are made")
    parser.add_argument("--read", type=pathlib.Path, nargs="+", help="runs to print, not to make")
    arguments = parser.parse_args()
    if arguments.read:
        found = [each for path in arguments.read for each in records.read(path)]
    else:
        begin = time.perf_counter()
        found = list(_written(_run(arguments), arguments.json))
        print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)
    PRINTERS[arguments.part](found)


def _run(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    dtypes = list(DTYPES) if arguments.dtype == "both" else [arguments.dtype]
    first, step = (int(word) for word in arguments.share.split("/"))
    yield machine.provenance() | {"command": " ".join(sys.argv[1:])}
    if arguments.part == "estimates":
        yield from estimates(dtypes, arguments.only, arguments.seeds)
        return
    if arguments.part == "claims":
        share = first, step
        yield from claims(dtypes, arguments.method, arguments.seeds, share, arguments.shape)
        return
    if arguments.part == "truth":
        yield from truth(dtypes, arguments.method)
        return
    names = list(methods()) if arguments.method is None else [arguments.method]
    yield from restart(dtypes, names, cases(arguments.only, (first, step)))


def _shape(text: str) -> tuple[int, int, int]:
    rows, features, outputs = (int(word) for word in text.split("x"))
    return rows, features, outputs


def _written(
    found: Iterator[dict[str, Any]], path: pathlib.Path | None
) -> Iterator[dict[str, Any]]:
    """The same records, each in the file as soon as it is there."""
    if path is None:
        yield from found
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for each in found:
            file.write(json.dumps(each) + "\n")
            file.flush()
            yield each


if __name__ == "__main__":
    main()
