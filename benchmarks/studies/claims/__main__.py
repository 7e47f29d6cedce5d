"""Draw problems, run the methods, and count what they report falsely.

    python -m benchmarks.studies.claims [--full] [--seeds N] [--only WORD] [--json FILE]
    python -m benchmarks.studies.claims --read FILE [FILE ...]

About 240 claims in five minutes on one core; --full has every method and size. Another version of
the package is judged where this folder is copied into its checkout. benchmarks/results has runs by
their commits, and claims.md what --read prints of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys

import jax

import jaxdescent as jd
from benchmarks.studies.claims.judge import Claim
from benchmarks.studies.claims.runs import claims
from benchmarks.studies.claims.table import printed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every method and size")
    parser.add_argument("--seeds", type=int, default=1, help="draws of each problem")
    parser.add_argument("--only", default="", metavar="WORD", help="runs whose words contain it")
    parser.add_argument("--json", type=pathlib.Path, help="where claims go while they are made")
    parser.add_argument("--read", type=pathlib.Path, nargs="+", help="files to print side by side")
    arguments = parser.parse_args()
    if arguments.read:
        print(printed({path.stem: _stored(path) for path in arguments.read}))
        return
    lines = [json.dumps({"jax": jax.__version__, "commit": _commit()})]
    found = []
    for claim, words in claims(is_full=arguments.full, seeds=arguments.seeds, only=arguments.only):
        if claim is None:
            print(f"left out: {words}", file=sys.stderr, flush=True)
            continue
        mark = "FALSE" * claim.is_false + "negative" * claim.is_false_negative
        mark += "too small" * claim.is_too_small
        end = f"{claim.status} {claim.ratio:.2g} of the allowed, reports {claim.estimate:.2g}"
        print(f"{words}: {end} {mark}", file=sys.stderr, flush=True)
        found.append(claim)
        lines.append(json.dumps(dataclasses.asdict(claim)))
        if arguments.json:
            arguments.json.write_text("\n".join(lines) + "\n")
    print(printed({"this run": found}))


def _stored(path: pathlib.Path) -> list[Claim]:
    return [Claim(**json.loads(line)) for line in path.read_text().splitlines()[1:]]


def _commit() -> str:
    folder = pathlib.Path(jd.__path__[0])
    words = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
