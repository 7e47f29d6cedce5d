"""What the documents say: their code runs, their links lead somewhere, their names exist."""

import dataclasses
import doctest
import inspect
import pathlib
import re

import jax
import numpy as np
import pytest

import jaxdescent as jd

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "docs/tutorial.md",
    "docs/measured.md",
    "docs/methods.md",
    "docs/designs.md",
    "docs/plan.md",
    "docs/stopping.md",
    "docs/data.md",
    "docs/runs.md",
    "docs/scale.md",
    "docs/architecture.md",
    "docs/notes.md",
    "CONTRIBUTING.md",
]
WITH_CODE = ["README.md", "docs/tutorial.md", "docs/methods.md", "docs/designs.md", "docs/scale.md"]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def names_in_scope():
    """What the documents take for granted: the library, and data of a linear function."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)).astype(np.float32)
    y = X @ np.array([1, -2, 3], np.float32) + np.float32(4)
    return {"jd": jd, "X": X, "y": y, "X_new": X[:5]}


def run(name, scope):
    """Run every Python block, in order, and return how many examples were compared."""
    compared = 0
    for number, match in enumerate(PYTHON.finditer(text_of(name))):
        block, label = match.group(1), f"{name}, block {number + 1}"
        line = text_of(name)[: match.start(1)].count("\n")
        if ">>>" not in block:
            exec(compile("\n" * line + block, label, "exec"), scope)
            continue
        test = doctest.DocTestParser().get_doctest(block, {}, label, name, line)
        test.globs = scope
        report = []
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
        runner.run(test, out=report.append, clear_globs=False)
        assert runner.failures == 0, "".join(report)
        compared += sum(example.want != "" for example in test.examples)
    return compared


@pytest.fixture(
    scope="module",
    params=[
        *WITH_CODE[:2],
        *(pytest.param(name, marks=pytest.mark.slow) for name in WITH_CODE[2:]),
    ],
)
def documents(request):
    """What a document's code leaves behind, and how many examples were compared."""
    scope = names_in_scope()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return scope, run(request.param, scope)


@pytest.mark.slow
def test_the_call_of_the_page_on_runs_begins_one_and_goes_on_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = names_in_scope()
    scope |= {"objective": jd.LinearRegression(scope["X"], scope["y"]), "start": None}
    scope |= {"method": jd.LSMR()}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run("docs/runs.md", scope)
        first, lines = scope.pop("result"), (tmp_path / "run.jsonl").read_text()
        run("docs/runs.md", scope)
        want = jd.minimize(scope["objective"], method=jd.LSMR(), max_iterations=100_000)
    for result in (first, scope["result"]):
        assert bool(result.converged)
        assert int(result.iterations) == int(want.iterations)
        np.testing.assert_array_equal(result.params["weights"], want.params["weights"])
    last = f"iteration-{int(want.iterations):010d}"
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == [last]
    assert (tmp_path / "run.jsonl").read_text().startswith(lines)  # it had nothing left to do


of_the_tutorial = pytest.mark.parametrize("documents", ["docs/tutorial.md"], indirect=True)


def test_code_in_documents_runs_and_prints_what_it_says(documents):
    _, compared = documents
    assert compared >= 3


@of_the_tutorial
def test_the_tutorials_parabola_ends_where_the_loop_beside_it_does(documents, relaxed_promotion):
    # That loop in NumPy; it runs all of its iterations, ours stops within its tolerance.
    scope = dict(documents[0])
    first = next(match.group(1) for match in PYTHON.finditer(text_of("docs/tutorial.md")))
    exec(first, scope)
    start = scope["x"]
    result = scope["result"]
    x = np.float64(start)
    for _ in range(int(result.iterations)):
        x -= 1e-2 * 4 * x
    np.testing.assert_allclose(float(result.params), x, rtol=1e-4, atol=1e-5)
    assert bool(result.converged)


@of_the_tutorial
def test_the_tutorials_regression_finds_the_line(documents):
    scope, _ = documents
    np.testing.assert_allclose(scope["result"].params["weights"], [1, -2, 3], atol=1e-3)
    np.testing.assert_allclose(scope["result"].params["intercept"], 4, atol=1e-3)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere_and_names_and_files_exist(name):
    text = text_of(name)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"[a-z]+:", target):
            assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"
    for attribute in set(re.findall(r"\bjd\.([A-Za-z_]+)", text)):
        assert hasattr(jd, attribute), f"{name} mentions jd.{attribute}"
    for file in set(re.findall(r"`((?:tests|examples|docs|benchmarks)/[\w/]+\.\w+)`", text)):
        assert (ROOT / file).exists(), f"{name} names {file}"


def sections_of(name):
    """Which of the parts of a public docstring are there."""
    text = inspect.getdoc(getattr(jd, name)) or ""
    found = {part for part in ("Args", "Attributes", "Returns", "Raises") if f"\n{part}:\n" in text}
    return found | ({"example"} if "\n>>> " in text else set())


def public():
    names = [name for name in dir(jd) if not name.startswith("_")]
    return [
        name
        for name in names
        if getattr(getattr(jd, name), "__module__", "").startswith("jaxdescent")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", public())
def test_a_public_docstring_says_what_goes_in_what_comes_out_and_what_is_raised(name):
    given = getattr(jd, name)
    needed = {"example"}
    if inspect.isfunction(given):
        needed |= {"Args", "Returns", "Raises"}
    elif dataclasses.is_dataclass(given) and not sections_of(name) & {"Attributes"}:
        takes = [field for field in dataclasses.fields(given) if field.init]
        # What describes a plan is made by the library, and nothing is wrong with its arguments.
        is_made = name in ("Plan", "Candidate")
        needed |= {"Args", "Raises"} - ({"Raises"} if is_made else set()) if takes else set()
    assert needed <= sections_of(name)
