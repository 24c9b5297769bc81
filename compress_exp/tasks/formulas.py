"""The formulas of the metrics, over the last axis, so that a bootstrap evaluates all resamples at once.

F1 and Matthews' correlation without a positive count are 0, the convention of scikit-learn; Pearson's and Spearman's
correlation of a constant column is undefined, NaN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def accuracy(predictions: Array, labels: Array) -> Array:
    """Share of equal entries."""
    return np.asarray((predictions == labels).mean(axis=-1))


def f1(predictions: Array, labels: Array, classes: int) -> Array:
    """F1 of class 1 for two classes, the mean over the classes that occur (macro) for more."""
    values, occur = [], []
    for label in [1] if classes == 2 else range(classes):
        guessed, true = predictions == label, labels == label
        total = guessed.sum(axis=-1) + true.sum(axis=-1)
        values.append(_ratio(2.0 * (guessed & true).sum(axis=-1), total))
        occur.append(total > 0)
    return _ratio(np.sum(values, axis=0), np.sum(occur, axis=0))


def matthews(predictions: Array, labels: Array, classes: int) -> Array:
    """Matthews correlation, in Gorodkin's form for any number of classes."""
    size = labels.shape[-1]
    guessed = np.stack([(predictions == label).sum(axis=-1) for label in range(classes)]).astype(float)
    true = np.stack([(labels == label).sum(axis=-1) for label in range(classes)]).astype(float)
    correct = (predictions == labels).sum(axis=-1)
    covariance = correct * size - (guessed * true).sum(axis=0)
    spread = (size**2 - (guessed**2).sum(axis=0)) * (size**2 - (true**2).sum(axis=0))
    return _ratio(covariance, np.sqrt(spread))


def pearson(predictions: Array, labels: Array) -> Array:
    """Pearson's correlation; NaN where a column is constant."""
    x = predictions - predictions.mean(axis=-1, keepdims=True)
    y = labels - labels.mean(axis=-1, keepdims=True)
    ratio = _ratio((x * y).sum(axis=-1), np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)))
    # Looked at before the mean is subtracted, which leaves rounding errors that correlate.
    constant = [(column == column[..., :1]).all(axis=-1) for column in (predictions, labels)]
    return np.where(constant[0] | constant[1], np.nan, ratio)


def spearman(predictions: Array, labels: Array) -> Array:
    """Spearman's correlation: Pearson's of the ranks, ties sharing their mean rank; NaN where a column is constant."""
    from scipy.stats import rankdata

    return pearson(rankdata(predictions, axis=-1), rankdata(labels, axis=-1))


def perplexity(losses: Array, counts: Array) -> Array:
    """Exponential of the mean loss per token, from sums of losses and numbers of tokens; infinite beyond e^709."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(losses.sum(axis=-1) / counts.sum(axis=-1)))


def _ratio(numerator: Array, denominator: Array) -> Array:
    defined = np.asarray(denominator) > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1), 0.0)


def binomial_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson)."""
    from scipy.stats import binomtest

    interval = binomtest(correct, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(statistic: Callable[..., Array], *columns: Array, resamples: int = 1000) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over resampled examples; of those for which it is defined.

    A value that is not finite has no interval, and comes back twice.

    Args:
        statistic: takes the columns, resampled (…, n), and returns (…).
        columns: aligned values, one entry per example (or per block).
        resamples: how often to draw; seeded.
    """
    value = float(statistic(*columns))
    if len(columns[0]) < 2 or not math.isfinite(value):
        return value, value
    from scipy.stats import DegenerateDataWarning, bootstrap

    # scipy draws resamples × n at once unless told otherwise.
    batch = max(1, 5_000_000 // len(columns[0]))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)  # its own interval, which one NaN makes NaN
        result = bootstrap(
            columns,
            lambda *resampled, axis: statistic(*resampled),
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=batch,
            method="percentile",
            rng=np.random.default_rng(0),
        )
        low, high = np.nanquantile(result.bootstrap_distribution, (0.025, 0.975))
    return float(low), float(high)
