"""Tables and plots of the stored records, in Markdown."""

from __future__ import annotations

import pathlib

from benchmarks import suites
from benchmarks.harness import records
from benchmarks.harness.case import Suite
from benchmarks.harness.records import Record
from benchmarks.report import figures, plots, profiles, targets

FOLDER = pathlib.Path(__file__).parent.parent

HEAD = """# Benchmarks

jaxdescent beside what people would use instead, on the same work in the same run, and beside the \
machine's limit. Written by `python -m benchmarks report`; do not \
edit.

- `make bench`: every suite but methods at a small scale, about 20 minutes on two \
cores. The same with `ARGS=--full`: the whole sizes, hours and 24 GB. `python -m benchmarks check` \
names what got worse by more than 15 % in its ratio to a peer.
- `python -m benchmarks run --suite NAME` for one of them, with `--case`, `--contender`, \
`--full`, `--scale`, `--repeats`; `python -m benchmarks report --store build/benchmarks.jsonl` \
keeps a run and writes this page.
- Every contender has a process of its own and the same data. Repeats are interleaved; figures \
are medians with their spread. The first run, which compiles, is not counted; "first" is what it \
took beyond the others. Each contender gets the loosest tolerance of a ladder with which one \
referee, in float64, lets its answer pass; the verdict is the referee's number.
- "Memory" is what a run needed at its peak beyond the data and what was in use before, in the \
contender's process, a fresh one for each case but in the suites of many small cases; "ratio" is \
the time over that of jaxdescent's fastest; "passes" are readings of X, counted in a run that \
nothing times, and left empty where nobody can count them.
- A contender that is missing, fails, or does not reach the quality is in the closed part under \
its suite's table. A lost comparison stays in the table.
"""


def write(folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """README.md and its plots, from what is stored."""
    everyday, whole = (
        records.read(file) if file.exists() else []
        for file in (records.stored_file(is_whole=False), records.stored_file(is_whole=True))
    )
    page = folder / "README.md"
    results = folder / "results"
    results.mkdir(exist_ok=True)
    page.write_text(render(records.merged(everyday, whole), results))
    return page


def render(measured: list[Record], results: pathlib.Path | None = None) -> str:
    """The page; with plots where a folder for them is given."""
    parts = [HEAD, "## Targets\n", targets_table(measured), _not_run(measured)]
    for suite in suites.every():
        if records.cases(measured, suite):
            parts += _section(suite, measured, results)
    return "\n".join(parts).rstrip() + "\n"


def targets_table(measured: list[Record]) -> str:
    """Each target of the suites that ran, with its figure, its bound, and whether it is met."""
    rows = ["| target | asked | figure | |", "|---|---|---|---|"]
    for target, figure in targets.evaluated(measured):
        if not records.cases(measured, target.suite):
            continue
        sign = "at least" if target.is_at_least else "at most"
        shown = "" if figure is None else f"{figure:.3g}"
        run = records.of_kind(measured, "provenance", target.suite)
        is_small = bool(run) and run["scale"] < 1
        verdict = targets.verdict(target, figure)
        if figure is not None and is_small:
            where = f"at scale {run['scale']:.3g}"
            asked = f"{where}; asked of the whole size"
            verdict = asked if target.is_whole else f"{verdict}, {where}"
        rows.append(f"| {target.sentence} | {sign} {target.bound:g} | {shown} | {verdict} |")
    return "\n".join(rows) + "\n"


def _not_run(measured: list[Record]) -> str:
    names = [suite.name for suite in suites.every() if not records.cases(measured, suite)]
    return f"Not measured yet: {', '.join(names)}.\n" if names else ""


def line(record: Record) -> str:
    """A record in one line of a terminal."""
    if record["seconds"] is None:
        return f"{record['contender']:48} {record['status']}: {record['reason'][:80]}"
    return (
        f"{record['contender']:48} {seconds(record['seconds']):>9} "
        f"({seconds(record['fastest'])} to {seconds(record['slowest'])}), "
        f"verdict {record['verdict']:.1e}"
    )


def _section(suite: Suite, measured: list[Record], results: pathlib.Path | None) -> list[str]:
    run = records.of_kind(measured, "provenance", suite.name)
    limits = records.of_kind(measured, "limits", suite.name)
    parts = [
        f"## {suite.title}\n",
        f"`{run.get('command')}`, scale {run.get('scale', 1):.3g}, "
        f"{run.get('repeats')} repeats, {suite.dtype}. {suite.remark}\n",
        _machine(run, limits) + "\n",
    ]
    table = {
        "functions": _functions,
        "gradient": _gradient,
    }.get(suite.name, _every_case)
    parts.append(table(suite, measured))
    plot = plots.PLOTS.get(suite.name)
    if results is not None and plot is not None:
        file = results / f"{suite.name}.svg"
        plot(measured, file)
        parts.append(f"![{suite.title}](results/{file.name})\n")
    return parts


def _machine(run: Record, limits: Record) -> str:
    if not run:
        return ""
    versions = ", ".join(f"{k} {v or 'missing'}" for k, v in run["versions"].items())
    settings = ", ".join(f"{k}={v}" for k, v in run["settings"].items()) or "none"
    threads = ", ".join(f"{k} {v}" for k, v in run["threads"].items())
    words = [
        f"{run['processor']}, {run['cores']} cores, {run['memory_bytes'] / 2**30:.0f} GiB; "
        f"commit {(run['commit'] or 'unknown')[:10]}{', modified' if run['is_modified'] else ''}, "
        f"{run['time']}, load before {run['load_before']:.1f}.",
        f"Threads: {threads}; settings: {settings}. Versions: {versions}.",
    ]
    if limits:
        words.append(
            f"Limits in this run: {limits['read_bytes_per_second'] / 1e9:.1f} GB/s read, "
            f"{limits['update_bytes_per_second'] / 1e9:.1f} GB/s updated in place, "
            f"{limits['product_flops'] / 1e9:.0f} GFLOP/s in a float32 product."
        )
    return "<sub>" + " ".join(words) + "</sub>"


def _every_case(suite: Suite, measured: list[Record]) -> str:
    """One row for each contender that reached the quality, and the others collapsed."""
    cases = records.cases(measured, suite)
    rows = [row for of_case in cases.values() for row in of_case]
    columns = ["case", "contender", "median", "spread", "ratio", "first", "memory", "iterations"]
    is_counted = any(row.get("passes") is not None for row in rows)
    columns += ["passes"] * is_counted + ["verdict"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for case, of_case in cases.items():
        ours = records.fastest(of_case, ours=True)
        for row in records.measured(of_case):
            cells = [case + _sizes(row), *_cells(row, ours, is_counted=is_counted)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + _left_out(rows)


def _sizes(record: Record) -> str:
    sizes = record["case_figures"]
    if "rows" not in sizes:
        return ""
    return f" ({sizes['rows']:,} x {sizes['features']:,})"


def _cells(row: Record, ours: Record | None, *, is_counted: bool) -> list[str]:
    return [
        f"**{row['contender']}**" if records.is_ours(row) else row["contender"],
        seconds(row["seconds"]),
        f"{seconds(row['fastest'])} to {seconds(row['slowest'])}",
        f"{row['seconds'] / ours['seconds']:.2f}" if ours else "",
        seconds(row["compile_seconds"]),
        size(row["working_bytes"]),
        "" if row["iterations"] is None else f"{row['iterations']:,}",
        *([passes(row)] if is_counted else []),
        f"{row['verdict']:.1e}",
    ]


def _left_out(rows: list[Record]) -> str:
    """Who is missing, failed or did not reach the quality, in a part of the page that is closed."""
    lines = [
        f"- {row['case']}: {row['contender']}: {_reason(row)}"
        for row in rows
        if row["seconds"] is None
    ]
    if not lines:
        return ""
    head = f"<details><summary>{len(lines)} without a time</summary>\n"
    return "\n".join([head, *lines, "\n</details>\n"])


def _reason(row: Record) -> str:
    reason = row["reason"].replace("|", "/")
    return f"{row['status']}: {reason[:100]}"


def _gradient(suite: Suite, measured: list[Record]) -> str:
    bandwidth = records.of_kind(measured, "limits", suite.name)["read_bytes_per_second"]
    lines = ["| X | contender | median | spread | of the limit |", "|---|---|---|---|---|"]
    cases = records.cases(measured, suite)
    for case, rows in cases.items():
        limit = rows[0]["case_figures"]["bytes"] / bandwidth
        for row in records.measured(rows):
            spread = f"{seconds(row['fastest'])} to {seconds(row['slowest'])}"
            lines.append(
                f"| {case}{_sizes(row)} | {row['contender']} | {seconds(row['seconds'])} | "
                f"{spread} | {limit / row['seconds']:.0%} |"
            )
    return "\n".join(lines) + "\n\n" + _left_out([row for rows in cases.values() for row in rows])


def _functions(suite: Suite, measured: list[Record]) -> str:
    cases = records.cases(measured, suite)
    areas = profiles.areas(cases)
    solved = {
        label: sum(
            r["seconds"] is not None
            for rows in cases.values()
            for r in rows
            if r["contender"] == label
        )
        for label in areas
    }
    missing = {
        r["contender"]: r for rows in cases.values() for r in rows if r["status"] == "missing"
    }
    over = f"gradients over those of {figures.DEFAULT}, in the median"
    lines = [f"| contender | area under the profile | solved | {over} |", "|---" * 4 + "|"]
    for label, area in sorted(areas.items(), key=lambda pair: -pair[1]):
        ratio = figures.evaluations_over(measured, label, figures.DEFAULT)
        share = "" if ratio is None else f"{ratio:.2f}"
        lines.append(f"| {label} | {area:.3f} | {solved[label]} of {len(cases)} | {share} |")
    lines += [f"| {label} | {_reason(row)} | | |" for label, row in missing.items()]
    return "\n".join(lines) + "\n\n" + _grid(cases)


def _grid(cases: dict[str, list[Record]]) -> str:
    """Cases down, contenders across, medians in the cells."""
    labels = list(
        {r["contender"]: None for rows in cases.values() for r in rows if r["status"] != "missing"}
    )
    lines = ["| | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
    for case, rows in cases.items():
        by_label = {row["contender"]: row for row in rows}
        cells = []
        for label in labels:
            row = by_label.get(label)
            if row is None or row["seconds"] is None:
                cells.append("" if row is None else row["status"])
                continue
            cells.append(seconds(row["seconds"]))
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def passes(row: Record) -> str:
    """Readings of X, in wholes but for a sketch's or a block's share."""
    count = row.get("passes")
    return "" if count is None else f"{count:,.4g}" if count < 1000 else f"{count:,.0f}"


def seconds(value: float) -> str:
    """In the unit that reads best."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1 or unit == "µs":
            return f"{value * factor:.3g} {unit}"
    raise AssertionError


def size(nbytes: float | None) -> str:
    """Bytes in MiB."""
    return "" if nbytes is None else f"{nbytes / 2**20:.3g} MiB"
