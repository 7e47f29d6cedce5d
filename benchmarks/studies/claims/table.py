"""The counts of one or more runs of the study, and every false claim."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.studies.claims.judge import Claim
from benchmarks.studies.convergence.tables import markdown

HEADS = ["run", "claims", "CONVERGED", "false", "within", "false negatives", "too small"]


def printed(runs: dict[str, list[Claim]]) -> str:
    """Tables by group and by method, then the false claims and the estimates that are too small."""
    pieces = []
    for title in ("group", "method"):
        keys = dict.fromkeys(getattr(c, title) for found in runs.values() for c in found)
        rows = [
            [key, *_counts(name, [c for c in found if key in ("all", getattr(c, title))])]
            for key in [*keys, "all"]
            for name, found in runs.items()
        ]
        pieces.append(f"## By {title}\n\n{markdown([title, *HEADS], rows)}")
    for title, attribute in (
        ("False claims", "is_false"),
        ("Estimates too small", "is_too_small"),
    ):
        for name, found in runs.items():
            some = [c for c in found if getattr(c, attribute)]
            pieces.append(f"## {title}: {name}\n\n{_listed(some)}")
    return "\n\n".join(pieces)


def _counts(name: str, found: Sequence[Claim]) -> list[str | int]:
    return [
        name,
        len(found),
        sum(c.status == "CONVERGED" for c in found),
        sum(c.is_false for c in found),
        sum(c.ratio <= 1 for c in found),
        sum(c.is_false_negative for c in found),
        sum(c.is_too_small for c in found),
    ]


def _listed(some: Sequence[Claim]) -> str:
    heads = ["problem", "method", "mode", "status", "evidence", "iterations", "truly", "reported"]
    rows = []
    for c in some:
        ratios = f"{c.ratio:.3g}", f"{c.estimate:.3g}"
        rows.append([c.problem, c.method, c.mode, c.status, c.evidence, c.iterations, *ratios])
    return markdown(heads, rows)
