"""The report's plots, where a table says less."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import records
from benchmarks.harness.records import Record
from benchmarks.report import profiles

Plot = Callable[[list[Record], pathlib.Path], None]


def regressions(measured: list[Record], file: pathlib.Path) -> None:
    """Times over jaxdescent's fastest, one row of points a problem."""
    figure, axes = _axes(8, 4)
    cases = records.cases(measured, "regressions")
    labels = {r["contender"]: None for rows in cases.values() for r in records.measured(rows)}
    markers = {label: "osD^vP*X<>dhp8H"[i % 15] for i, label in enumerate(labels)}
    for label in labels:
        x, y = [], []
        for row_number, rows in enumerate(cases.values()):
            ours = records.fastest(rows, ours=True)
            for row in records.named(rows, label):
                if ours and row["contender"] == label:
                    x.append(row["seconds"] / ours["seconds"])
                    y.append(row_number)
        is_ours = label.startswith("jaxdescent:")
        axes.plot(x, y, markers[label], label=label, color="C3" if is_ours else None, alpha=0.8)
    axes.set_xscale("log")
    axes.axvline(1, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(cases)), list(cases))
    axes.invert_yaxis()
    axes.set_xlabel("time to a relative suboptimality of 1e-6, over jaxdescent's fastest")
    _save(figure, axes, file)


def functions(measured: list[Record], file: pathlib.Path) -> None:
    """Performance profiles."""
    figure, axes = _axes(7, 4.5)
    for label, ratios in profiles.profiles(records.cases(measured, "functions")).items():
        share = np.arange(1, len(ratios) + 1) / max(len(ratios), 1)
        finite = np.isfinite(ratios)
        x = np.append(ratios[finite], profiles.FARTHEST)
        y = np.append(share[finite], finite.mean() if len(ratios) else 0)
        is_ours = label.startswith("jaxdescent:")
        axes.step(x, y, where="post", label=label, linewidth=2 if is_ours else 1)
    axes.set_xscale("log")
    axes.set_xlim(1, profiles.FARTHEST)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("time over the fastest contender's")
    axes.set_ylabel("share of the problems solved within it")
    _save(figure, axes, file)


PLOTS: dict[str, Plot] = {"regressions": regressions, "functions": functions}


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, axes: Any, file: pathlib.Path) -> None:
    import matplotlib as mpl

    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    # The same records give the same file.
    with mpl.rc_context({"svg.hashsalt": "jaxdescent"}):
        figure.savefig(file, metadata={"Date": None})
