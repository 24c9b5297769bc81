import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from compress_exp.tasks import formulas
from compress_exp.tasks.metrics import METRICS, Accuracy, Perplexity, Spearman


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_formulas_agree_with_sklearn_row_by_row(classes: int) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=(5, 60))
    guesses = np.where(generator.random((5, 60)) < 0.6, labels, generator.integers(classes, size=(5, 60)))
    average = "binary" if classes == 2 else "macro"
    for name, expected in {
        "accuracy": sklearn.metrics.accuracy_score,
        "matthews": sklearn.metrics.matthews_corrcoef,
        "f1": lambda true, guessed: sklearn.metrics.f1_score(true, guessed, average=average),
    }.items():
        options = {} if name == "accuracy" else {"classes": classes}
        values = getattr(formulas, name)(guesses, labels, **options)
        np.testing.assert_allclose(values, [expected(a, b) for a, b in zip(labels, guesses, strict=True)])


def test_macro_f1_leaves_out_classes_that_do_not_occur() -> None:
    labels, guesses = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    expected = sklearn.metrics.f1_score(labels, guesses, average="macro")
    assert formulas.f1(guesses, labels, classes=5) == pytest.approx(expected)


def test_correlations_agree_with_scipy_also_with_ties() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=50), generator.integers(4, size=50).astype(float)
    assert formulas.pearson(x, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic)
    assert formulas.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_constant_column_has_no_correlation(name: str) -> None:
    correlation, labels = getattr(formulas, name), np.random.default_rng(0).normal(size=50)
    constant = np.full(50, 0.1)  # whose mean is not 0.1 in floating point
    assert (constant - constant.mean()).any()
    assert np.isnan(correlation(constant, labels)) and np.isnan(correlation(labels, constant))
    both = correlation(np.stack([constant, labels]), np.stack([labels, labels]))
    assert np.isnan(both[0]) and both[1] == pytest.approx(1)
    assert np.isnan(formulas.bootstrap_interval(correlation, constant, labels)).all()


def test_resamples_without_a_correlation_are_left_out_of_its_interval() -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    # A ninth of the resamples of three are constant; the others correlate by 0.5, by ±1, or by what scipy says.
    low, high = formulas.bootstrap_interval(formulas.pearson, x, y)
    assert (low, high) == pytest.approx((-1, 1))


def test_a_perplexity_beyond_all_numbers_is_infinite_and_has_no_interval() -> None:
    losses, counts = np.full(3, 7100.0), np.full(3, 10)
    assert formulas.perplexity(losses / 10, counts) == pytest.approx(np.exp(71))
    assert formulas.perplexity(losses, counts) == np.inf
    assert formulas.bootstrap_interval(formulas.perplexity, losses, counts) == (np.inf, np.inf)


def test_f1_and_matthews_without_a_positive_count_are_zero() -> None:
    ones, zeros = np.ones(4, dtype=int), np.zeros(4, dtype=int)
    assert formulas.matthews(ones, zeros, 2) == 0 == formulas.f1(zeros, zeros, 2)


def test_the_bootstrap_is_close_to_theory() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=2000)
    low, high = formulas.bootstrap_interval(lambda sample: sample.mean(axis=-1), values)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.25 * half)
    assert formulas.bootstrap_interval(lambda sample: sample.mean(axis=-1), values) == (low, high)


def test_metrics_compute_and_take_batches() -> None:
    metric = Accuracy()
    for guesses, labels in (([1, 0], [1, 1]), ([0], [0])):
        metric.add_batch(predictions=guesses, references=labels)
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}
    assert Perplexity().compute(predictions=[6.0, 2.0], references=[3, 1])["perplexity"] == pytest.approx(np.exp(2))
    assert Spearman().compute(predictions=[1.0, 2.0, 3.0], references=[1.0, 3.0, 2.0])["spearman"] == pytest.approx(0.5)
    assert METRICS["bleu"]().compute(predictions=["a b c d e"], references=["a b c d e"])["bleu"] == pytest.approx(100)


def test_metrics_need_no_network_and_leave_no_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    code = (
        "import socket; socket.socket.connect = None\n"
        "from compress_exp.tasks.metrics import METRICS\n"
        "print([METRICS[n]().compute(predictions=[1, 0], references=[1, 1]) for n in ('accuracy', 'f1', 'matthews')])\n"
        "print(METRICS['rouge']().compute(predictions=['a b'], references=['a b']))"
    )
    environment = os.environ | {"HF_HOME": str(home), "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "0.5" in done.stdout and "'rougeLsum': 100.0" in done.stdout
    assert not [path for path in home.rglob("*") if path.is_file()]
