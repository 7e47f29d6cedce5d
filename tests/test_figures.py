"""Figures in the documents, each against the committed file of results that it was taken from."""

import json
import pathlib
import re

import jax
import pytest

import jaxdescent as jd
from benchmarks.harness import records
from benchmarks.report import table
from benchmarks.studies import plan as study
from tests.commands import shown

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MEASURED = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"
UNITS = {"": 1, "us": 1e-6, "ms": 1e-3, "s": 1, "minutes": 60, "hours": 3600, "years": 3.15576e7}
UNITS |= {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "EB": 1e18, "ZB": 1e21, "times": 1}
FIGURE = re.compile(r"([\d.,]+)(e-?\d+)? ?([A-Za-z]*)")


def table_below(text, sentence):
    """The rows, as lists of cells without their emphasis, of the first table below a sentence."""
    lines = iter(text[text.index(sentence) :].splitlines())
    rows = [next(line for line in lines if line.startswith("|"))]
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(line)
    cells = [[cell.strip(" *`") for cell in row[1:-1].split("|")] for row in rows[2:]]
    return [row for row in cells if row[0]]


def agrees(figure, value):
    """Whether a figure such as "1.38 GB" is a value rounded to as many digits as it has."""
    if figure.startswith("<"):
        return value < float(figure[1:].split()[0]) * UNITS[figure.split()[-1]]
    digits, power, unit = FIGURE.match(figure).groups()
    scale = float(f"1{power or ''}") * UNITS[unit]
    half = 0.5 * 10.0 ** -len(digits.partition(".")[2])
    return abs(float(digits.replace(",", "")) - value / scale) <= half * (1 + 1e-9)


def assert_agree(figures, values):
    for figure, value in zip(figures, values, strict=True):
        assert agrees(figure, value), (figure, value)


def assert_agree_in(text, patterns):
    """That what each pattern finds in a text agrees with its value."""
    for pattern, value in patterns.items():
        assert agrees(re.search(pattern, text)[1], value), pattern


def results(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_figures_are_read_as_they_are_rounded():
    assert agrees("1.38 GB", 1384665088)
    assert not agrees("1.39 GB", 1384665088)
    assert agrees("4e11 years", 4.1e11 * 3.15576e7)
    assert agrees("< 1 MB", 999_999)
    assert not agrees("< 1 MB", 1_000_001)
    assert agrees("160,210", 160_210.4)


def measured(name, suite):
    """Seconds by case and contender of a stored run, which bears its commit."""
    lines = [line for line in records.read(RESULTS / name) if line["suite"] == suite]
    [head] = [line for line in lines if line["kind"] == "provenance"]
    assert re.fullmatch("[0-9a-f]{40}", head["commit"])
    commit = head["commit"][:7]
    assert f"was measured at commit {commit}," in README
    assert f"of a sum of squares were measured at commit {commit}," in MEASURED
    assert not head["is_modified"]
    return {
        (line["case"], line["contender"]): line["seconds"]
        for line in lines
        if line["kind"] == "record" and line["status"] == "ok"
    }


def test_the_speed_of_eight_billion_is_that_of_the_stored_run():
    seconds = measured("bench.jsonl", "eight_billion")
    step = seconds["sum of x^2", "hand-written JAX: jitted, donated step"]
    names = {
        "PyTorch, in place, gradient by hand": "PyTorch: in place, gradient by hand",
        "an optax sgd loop": "optax: sgd loop",
        "a jitted, donated step, called again and again": "hand-written JAX: jitted, donated step",
        "jaxdescent": "jaxdescent: library",
        "jaxdescent with the command line's XLA flag": "jaxdescent: command's flags",
    }
    rows = table_below(MEASURED, "Constant-step descent on a sum of squares in bfloat16")
    assert len(rows) == len(names)
    for label, time, ratio in rows:
        value = seconds["sum of x^2", names[label.replace("`", "")]]
        assert_agree([time, ratio], [value, step / value])
    [limits] = [
        line
        for line in records.read(RESULTS / "bench.jsonl")
        if line["kind"] == "limits" and line["suite"] == "eight_billion"
    ]
    moved, update = re.search(
        r"reads and writes (\d+ GB)/s, .* reached (\d+) in", MEASURED
    ).groups()
    values = [2 * 2 * 159_391_744 / step, limits["update_bytes_per_second"]]
    assert_agree([moved, f"{update} GB"], values)


PEERS = {
    "PyTorch, QR": "PyTorch: lstsq gels",
    "scikit-learn Ridge, Cholesky": "scikit-learn: Ridge cholesky",
    "scikit-learn Ridge, LSQR": "scikit-learn: Ridge lsqr",
    "optax lbfgs": "optax: lbfgs loop",
    "lineax CG": "lineax: CG on normal equations",
    "NumPy, normal equations": "NumPy: normal equations",
}
CASES = {
    "ill-conditioned": "ill-conditioned tall",
    "tall": "dense tall",
    "square": "dense square",
}


def test_the_speed_of_regressions_is_that_of_the_stored_run():
    seconds = measured("bench-full.jsonl", "regressions")
    rows = table_below(README, "Linear regressions in float32, to within 1e-6")
    assert len(rows) == len({case for case, _ in seconds}) == 6
    for label, ours, method, theirs, peer, ratio in rows:
        name = label.split(":")[0]
        case = CASES.get(name, name)
        of_case = {who: value for (each, who), value in seconds.items() if each == case}
        best = min(value for who, value in of_case.items() if not who.startswith("jaxdescent"))
        own = min(value for who, value in of_case.items() if who.startswith("jaxdescent"))
        assert of_case[f"jaxdescent: {method}"] == own
        assert of_case[PEERS[peer]] == best
        assert_agree([ours, theirs, ratio], [own, best, best / own])
    sentence = MEASURED[MEASURED.index("Without a method `minimize` took") :].splitlines()[0]
    cases = {
        "ill-conditioned one": "ill-conditioned tall",
        "path": "ridge path",
        "fat one": "fat",
        "tall one": "dense tall",
        "square one": "dense square",
        "64 outputs": "64 outputs",
    }
    by_solve = seconds["ill-conditioned tall", "jaxdescent: DerivativeMethod()"]
    patterns = {rf"([\d.]+ s) for (?:the )?{name}": case for name, case in cases.items()}
    patterns = {name: seconds[case, "jaxdescent: default"] for name, case in patterns.items()}
    assert_agree_in(sentence, patterns | {r"([\d.]+ s) by the derivative method": by_solve})


@pytest.fixture(scope="module")
def breakdown():
    run = json.loads((ROOT / "docs" / "breakdown.json").read_text(encoding="utf-8"))
    assert re.fullmatch("[0-9a-f]{40}", run["commit"])
    assert f"the eight billion at commit {run['commit'][:7]}." in MEASURED
    return run["parts"]


def test_the_breakdown_of_the_derivative_method_is_that_of_the_stored_run(breakdown):
    part = breakdown["2"]
    found = {
        (kind, line["unknowns"], line["method"]): line
        for kind in ("measured", "computed", "separable")
        for line in part[kind]
    }
    minutes = re.search(r"the whole run took (\d+ minutes)", MEASURED)[1]
    assert agrees(minutes, json.loads((ROOT / "docs" / "breakdown.json").read_text())["seconds"])
    rows = table_below(MEASURED, "`jaxdescent breakdown` measures both on your machine")
    for n, kind, *figures in rows:
        unknowns = int(n.removesuffix(", separable").replace(",", ""))
        group = "separable" if n.endswith("separable") else kind
        for method, (memory, seconds) in (("derivative", figures[:2]), ("descent", figures[2:])):
            if not seconds or "X itself" in seconds:
                continue
            line = found[group, unknowns, method]
            held = line["peak_bytes" if "peak_bytes" in line else "predicted_bytes"]
            assert_agree([seconds, memory], [line["seconds"], held])
    assert len(rows) == 9


def distance_in(proof):
    return re.search(r"within ([\d.e-]+)", proof)[1]


def test_the_eight_billion_are_those_of_the_stored_run(breakdown):
    separable, tied, free = table_below(MEASURED, "At the other end, the same run descended")
    run = breakdown["3"]["independent"]
    names = "unknowns", "iterations", "seconds_total", "peak_over_params"
    assert_agree([separable[0], *separable[2:5]], [run[name] for name in names])
    names = "bit_equal_to_replay", "sampled_elements"
    assert_agree(re.findall(r"[\d,]+", separable[5])[:2], [run[name] for name in names])
    run = breakdown["3"]["tied"]
    names = "unknowns", "iterations", "seconds_descending", "extra_peak_bytes"
    names += "largest_array_bytes", "distance_largest"
    figures = [tied[0], *tied[2:4], *re.findall(r"[\d.]+ GB", tied[4]), distance_in(tied[5])]
    assert_agree(figures, [run[name] for name in names])
    run = breakdown["3"]["matrix_free_regression"]
    names = "weights", "iterations", "seconds_descending", "largest_error"
    assert_agree([free[0], *free[2:4], distance_in(free[5])], [run[name] for name in names])


def test_the_regression_on_real_rows_is_that_of_the_stored_run(breakdown):
    run = breakdown["5"]
    text = MEASURED[MEASURED.index("Its last part is a regression") :].splitlines()[0]
    patterns = {
        r"with ([\d,]+) = 2\^33 weights": run["weights"],
        r"n-grams of ([\d,]+) lines": run["rows"],
        r"([\d,]+) weights are touched": run["touched_weights"],
        r"an R² of ([\d.]+)": run["r2_held_out"],
        r"\((\d+) iterations": run["iterations"],
        r"iterations, (\d+ s)": run["seconds"],
    }
    assert_agree_in(text, patterns)
    text = (ROOT / "docs" / "designs.md").read_text(encoding="utf-8")
    text = text[text.index("`jaxdescent breakdown --part 5 --thorough` is") :].splitlines()[0]
    ngrams, shared = run["distinct_ngrams"], run["distinct_ngrams"] - run["touched_weights"]
    patterns = {
        r"of ([\d,]+) lines": run["rows"],
        r"with (\d+) n-grams": run["entries_a_row"],
        r"([\d,]+) weights are touched": run["touched_weights"],
        r"took (\d+ s) and": run["seconds"],
        r"and (\d+) iterations": run["iterations"],
        r"R² is ([\d.]+\d)": run["r2_held_out"],
        r"indentation has ([\d.]+\d)": run["r2_held_out_of_no_change"],
        r"Of ([\d,]+) different": ngrams,
        r"n-grams (\d+) share": shared,
        r"columns ([\d,]+) would": ngrams - run["touched_at_20_bits"],
    }
    assert_agree_in(text, patterns)


def test_fits_of_files_are_those_of_the_stored_run():
    head, *lines = records.read(RESULTS / "fit.jsonl")
    assert re.fullmatch("[0-9a-f]{40}", head["commit"])
    assert not head["is_modified"]
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    rows = table_below(text, "`python -m benchmarks.studies.fit --full`")
    for row, line in zip(rows, lines, strict=True):
        assert_agree(row[2:4], [line["process_seconds"], line["peak_bytes"]])
    assert max(line.get("apart", 0.0) for line in lines) < 1e-9  # from NumPy's coefficients


def test_the_plan_is_what_the_stored_rates_give_today(monkeypatch):
    """Of a machine whose rates were measured before one of the problems of the study of plans."""
    # Sums go through memory where there are several devices: here they are one CPU's.
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
    stored = results("plan.json")
    machine = study.machine_of(stored["20,000 x 4,000 float32"])
    X, y = (jax.ShapeDtypeStruct(size, "float32") for size in ((200_000, 16_000), (200_000,)))
    plan = jd.plan(jd.LinearRegression(X, y), device=machine)
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    assert f"```text\n{plan}\n```" in text


def test_seconds_of_the_stored_runs_are_priced_within_the_promise(monkeypatch):
    """At each run's own number of iterations, from the rates that were measured beside it, for the
    candidates of today."""
    monkeypatch.setattr(jax, "device_count", lambda *_: 1)
    stored = results("plan.json")
    ratios = []
    for problem in study.PROBLEMS:
        if problem.name not in stored:
            continue
        machine = study.machine_of(stored[problem.name])
        with jax.enable_x64(problem.dtype == "float64"):
            plan = jd.plan(problem.objective, problem.params, device=machine)
        prices = {candidate.name: candidate for candidate in plan.candidates}
        for row in stored[problem.name]["rows"]:
            if row["seconds"] is not None and row["candidate"] in prices:
                price = prices[row["candidate"]]
                iterating = row["iterations"] * price.seconds_per_iteration
                ratios.append((price.setup_seconds + iterating) / row["seconds"])
    assert len(ratios) > 200
    assert sum(1 / 1.5 <= ratio <= 1.5 for ratio in ratios) >= 0.85 * len(ratios)
    assert min(ratios) > 1 / 3
    assert max(ratios) < 3


def test_the_first_fit_is_what_the_documents_table_gives_today(tmp_path, monkeypatch):
    """The table is made as docs/data.md says; of R² and RMSE six digits are shown."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    code = re.search(r"This writes a table.*?```python\n(.*?)```", text, re.DOTALL)[1]
    exec(code, {})
    arguments = "fit homes.parquet --target price --categorical city --test 0.2 --memory 1GB"
    assert f"jaxdescent {arguments.replace(' --memory 1GB', '')}" in text
    arguments = arguments.replace("1GB", "6GB")  # this process holds what tests before left
    told = " ".join(shown(*arguments.split(), width=300).split())
    block = text[text.index("price by 4 features") :]
    for line in block[: block.index("  ...")].strip().splitlines():
        kept = " ".join(line.split())
        if kept.startswith("suboptimality"):  # rounding, of the processor's own
            kept = kept.split(" of ")[1]
        assert kept in told, line


def test_the_table_of_benchmarks_is_that_of_the_stored_runs():
    stored = [records.read(records.stored_file(is_whole=is_whole)) for is_whole in (False, True)]
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    pictures = re.compile(r"^!\[.*\n\n?", re.MULTILINE)
    assert pictures.sub("", table.render(records.merged(*stored))) == pictures.sub("", page)


def test_how_well_plans_predict_is_what_the_stored_problems_say(capsys):
    stored = results("plan.json")
    study.summarise([study.Row(**row) for entry in stored.values() for row in entry["rows"]])
    printed = table_below(capsys.readouterr().out.replace("100 %", "all"), "| | asked")
    taken = [row for row in printed if row[0].endswith("for the iterations taken")]
    wanted = [row[1:] for row in printed if row not in taken and "beyond a megabyte" not in row[0]]
    both = ["", *(", ".join(pair) for pair in zip(taken[0][2:], taken[1][2:], strict=True))]
    wanted.insert(6, both)
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    assert [row[1:] for row in table_below(text, "The table is for all but one")] == wanted
