"""What descents cost: evaluations and iterations from the standard starts, beside a stored run."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.studies.convergence import tables
from benchmarks.studies.convergence.runs import SOLVED, of_kind

COUNTS = ("evaluations", "iterations")


def compare(now: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
    """Print ratios to a stored run, over the problems that both solved."""
    stored = {_key(each): each for each in of_kind(before, "descent") if each["factor"] == 1}
    rows, changes = [], []
    for (dtype, method), own in _by_method(now).items():
        pairs = [(stored[_key(each)], each) for each in own if _key(each) in stored]
        both = [(old, new) for old, new in pairs if old["is_solved"] and new["is_solved"]]
        cells = []
        for name in COUNTS:
            ratios = sorted((new[name] / max(1, old[name]), new["case"]) for old, new in both)
            if ratios:
                median = statistics.median(ratio for ratio, _ in ratios)
                cells += [f"{median:.3g}", f"{ratios[-1][0]:.3g} ({ratios[-1][1]})"]
            else:
                cells += ["", ""]
        solved = [sum(pair[side]["is_solved"] for pair in pairs) for side in (0, 1)]
        rows.append([dtype, method, len(pairs), *solved, *cells])
        changes += [
            [dtype, method, new["case"], _state(old), _state(new)]
            for old, new in pairs
            if old["is_solved"] != new["is_solved"]
        ]
    heads = ["dtype", "method", "problems", "solved before", "now"]
    heads += [f"{name}: {what}" for name in COUNTS for what in ("median ratio", "worst")]
    print(f"\n### Beside the stored run\n\n{tables.markdown(heads, rows)}")
    heads = ["dtype", "method", "problem", "before", "now"]
    print(f"\n### Solved in one of the two, to {SOLVED:g}\n\n{tables.markdown(heads, changes)}")


def _by_method(
    records: list[dict[str, Any]],
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The descents from the standard starts, by dtype and method."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in of_kind(records, "descent"):
        if each["factor"] == 1:
            groups.setdefault((each["dtype"], each["method"]), []).append(each)
    return dict(sorted(groups.items(), key=lambda item: item[0][0]))


def _key(each: dict[str, Any]) -> tuple[str, str, str]:
    return each["case"], each["dtype"], each["method"]


def _state(each: dict[str, Any]) -> str:
    return f"{each['status']}, {each['left']:.1e} left, {each['evaluations']} evaluations"
