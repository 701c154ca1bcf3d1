"""95% intervals: how far a number from so many images may be from what all such images would give. No torch."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from model.metric import metrics
from reports.resampling import drawn_counts, resampled_metric
from utils import select

Array = np.ndarray[Any, Any]

Z: Final = 1.959963984540054  # 97.5% quantile of the normal distribution
PERCENTILES: Final = (2.5, 97.5)
# Wrong images, below which the bootstrap's intervals are too short: where 7 are expected they cover the truth in 93% of
# simulated test sets, where 2 are in 75% (tests/reports/test_interval_coverage.py).
FEW_MISTAKES: Final = 10


class Interval(NamedTuple):
    """The lowest and the highest value that go with the data; nan where there is none."""

    low: float
    high: float


def wilson(successes: int, total: int) -> Interval:
    """Wilson's score interval of a share (Wilson 1927); it holds for small numbers and near 0 and 1 too."""
    if total == 0:
        return Interval(math.nan, math.nan)
    centre = successes + Z**2 / 2
    half = Z * math.sqrt(successes * (total - successes) / total + Z**2 / 4)
    return Interval(max(0.0, (centre - half) / (total + Z**2)), min(1.0, (centre + half) / (total + Z**2)))


def resampled_means(table: Array, draws: int = 2000, seed: int = 0) -> Array:
    """Means (draws, K) of a table (N, K) over as many images drawn with replacement; every column has the same draws.

    A draw is how often each image was drawn, a multinomial, so that many are one product of matrices.
    """
    means = [counts.astype(np.float64) @ table / len(table) for counts in drawn_counts(len(table), draws, seed)]
    return np.concatenate(means)


def mean_interval(values: Array, draws: int = 2000, seed: int = 0) -> Interval:
    """Bootstrap interval of the mean of one number per image (N,), such as the loss; nan for fewer than two images."""
    if len(values) < 2 or not np.isfinite(values).all():
        return Interval(math.nan, math.nan)
    return Interval(*map(float, np.percentile(resampled_means(values[:, None], draws, seed), PERCENTILES)))


def metric_interval(
    function: Callable[[Array, Array], float], logits: Array, labels: Array, draws: int = 1000, seed: int = 0
) -> Interval:
    """Bootstrap interval of any metric of logits (N, C) and labels, computed anew for each draw of images.

    Draws for which it is undefined, as a class is missing, are left out; nan when these are more than half, and for
    fewer than two images.
    """
    values = resampled_metric(function, logits, labels, draws, seed)
    defined = values[np.isfinite(values)]
    if len(logits) < 2 or len(defined) < len(values) / 2:
        return Interval(math.nan, math.nan)
    return Interval(*map(float, np.percentile(defined, PERCENTILES)))


def intervals(
    names: Sequence[str], logits: Array, labels: Array, losses: Array | None = None, seed: int = 0
) -> dict[str, Interval]:
    """The interval of each named metric, and of the loss when it is given: Wilson's for shares, else the bootstrap's.

    Args:
        names: keys of `metrics`.
        logits: (N, C) float.
        labels: (N,) class indices, or (N, C) of 0 and 1 for multi-label data.
        losses: the loss of each image (N,).
        seed: of the bootstrap; the same seed gives the same interval.
    """
    found = {} if losses is None else {"loss": mean_interval(losses, seed=seed)}
    for name in names:
        metric = select(name, metrics, "metric")
        value = metric(logits, labels)
        if math.isnan(value):
            found[name] = Interval(math.nan, math.nan)
        elif metric.proportion:
            found[name] = wilson(round(value * len(labels)), len(labels))
        else:
            found[name] = metric_interval(metric, logits, labels, seed=seed)
    return found
