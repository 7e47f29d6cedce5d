"""Every example runs, in a small form, and finds what it says."""

import importlib.util
import pathlib

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def users_configuration(relaxed_promotion):
    """Examples run as a user runs them, without the tests' strict promotion rules."""


@pytest.mark.slow
def test_tutorial_functions_shrink_by_the_closed_form():
    shrinks = load("tutorial_functions").main()
    assert shrinks.pop("2x²") == pytest.approx(0.96**1000, rel=1e-4, abs=0)
    assert shrinks == pytest.approx(dict.fromkeys("xyz", 0.98**1000), rel=1e-4, abs=0)


def test_both_methods_find_the_same_weights():
    assert load("linear_regression").main(rows=500, features=10) < 1e-4


@pytest.mark.slow
def test_fixed_effects_find_the_coefficients():
    assert load("fixed_effects").main(rows=4000, workers=200, firms=20) < 0.1


def test_a_fit_of_a_table_finds_all_but_the_noise(capsys):
    assert load("fit_files").main(rows=20_000) == pytest.approx(1, abs=0.05)
    shown = capsys.readouterr().out
    assert shown.count("$ jaxdescent ") == 3
    assert "1,000 predictions of delay" in shown


@pytest.mark.slow
def test_the_best_of_many_starts_is_the_global_minimum():
    assert load("many_starts").main(starts=200) == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_tuning_l2_lowers_the_held_out_loss():
    before, after = load("tune_l2").main(features=10)
    assert after < before


@pytest.mark.slow
def test_step_rules_find_the_minimum_in_every_kind_of_loop():
    assert max(load("step_rules_in_optax").main().values()) < 2e-3


@pytest.mark.slow
def test_sharded_regression_finds_the_truth():
    assert load("sharded_params").main(rows=512, features=16) < 1e-3


def test_the_eight_billion_case_in_small_reaches_its_closed_form():
    # |g| = 2 |x|, and |x| shrinks by 0.98^1000 but for the rounding of 63 write-backs.
    norm = load("eight_billion").main(8192)
    start = 2 * (1000 / 3**0.5) * 8192**0.5
    assert norm == pytest.approx(0.98**1000 * start, rel=0.25)


@pytest.mark.slow
def test_a_blurred_picture_is_sharp_again_and_the_closed_form(tmp_path):
    assert load("deblurring").main(size=32, folder=tmp_path, width=0.05) < 0.95
    assert len(list(tmp_path.glob("deblurring-*.png"))) == 3


@pytest.mark.slow
def test_a_noisy_volume_is_clear_and_keeps_its_edges(tmp_path):
    assert load("denoising").main(size=12, folder=tmp_path) < 0.9
    assert (tmp_path / "denoising.png").stat().st_size > 1000


def test_every_example_has_a_test():
    tested = pathlib.Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'load("{path.stem}")' in tested
