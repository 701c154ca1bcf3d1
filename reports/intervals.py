"""95% intervals: how far a number from so many images may be from what all such images would give. No torch.

Each is a score interval: it holds the truths that are less than 1.96 of their own standard errors away from what was
found. So it has a width where no image is wrong, too. The variance of a share goes with p (1 - p), which gives Wilson's
interval; that of any metric between 0 and 1 is taken to do so as well, and that of a loss to go with the loss. The
bootstrap tells how large it is, with one mistake added to the images. How often it covers: docs/calibration.md.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from model.metric import metrics, rightly
from reports.resampling import resampled, resampled_metric
from utils import select

Array = np.ndarray[Any, Any]

Z: Final = 1.959963984540054  # 97.5% quantile of the normal distribution
DRAWS: Final = 500  # of the bootstrap; its standard deviation then has an error of 3%
MISTAKES: Final = 1  # that a draw has on average beside those of the images
MADE_UP: Final = 1000  # images at most, of which these are drawn


class Interval(NamedTuple):
    """The lowest and the highest value that go with the data; nan where there is none."""

    low: float
    high: float


NONE: Final = Interval(math.nan, math.nan)


def wilson(successes: float, total: float) -> Interval:
    """Wilson's score interval of a share (Wilson 1927); it holds for small numbers and near 0 and 1 too."""
    if total == 0:
        return NONE
    centre = successes + Z**2 / 2
    half = Z * math.sqrt(successes * (total - successes) / total + Z**2 / 4)
    return Interval(max(0.0, (centre - half) / (total + Z**2)), min(1.0, (centre + half) / (total + Z**2)))


def mistaken(logits: Array, labels: Array, seed: int = 0) -> tuple[Array, Array]:
    """Mistakes that the net could have made: outputs for some images with the label of another image, where wrong.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) of 0 and 1.
        seed: of which images.
    """
    order = np.random.default_rng(seed).permutation(len(labels))[:MADE_UP]
    outputs, others = logits[order], labels[np.roll(order, 1)]
    wrong = ~rightly(outputs, others)
    return outputs[wrong], others[wrong]


def few_of_a_class(labels: Array) -> float:
    """By what the bootstrap's variance of a mean over classes is too small, as each class has few images.

    Of n images it is (n - 1) / n of the variance, on average; a class weighs in the variance with 1 / n.
    """
    images = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels)
    share = 1 / images[images > 0]
    drawn = (share * (1 - share)).sum()
    return float(share.sum() / drawn) if drawn else math.inf


def metric_interval(
    metric: Callable[[Array, Array], float], logits: Array, labels: Array, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Wilson's interval of any metric between 0 and 1, with the number of images that a share would need to be as sure.

    This effective number is m (1 - m) / v, where m and v are mean and variance of the metric over draws of images (as
    in surveys: Kish 1965; with Wilson's interval: Franco et al. 2019). For a share of the images it is their number.

    Args:
        metric: of logits and labels.
        logits: (N, C) float.
        labels: (N,) class indices, or (N, C) of 0 and 1.
        draws: how often images are drawn. Draws for which it is undefined, as a class is missing, are left out.
        seed: of the draws.

    Returns:
        nan where the metric is undefined, or more than half of the draws are, or where they tell of no spread: of one
        image, of one to each class, and of images that are all right and of one class.
    """
    outputs, others = mistaken(logits, labels, seed)
    value = metric(logits, labels)
    if not (len(others) and 0 <= value <= 1):
        return NONE
    logits, every = np.concatenate([logits, outputs]), np.concatenate([labels, others])
    values = resampled_metric(metric, logits, every, draws, seed, len(others), MISTAKES)
    defined = values[np.isfinite(values)]
    variance = float(defined.var()) * few_of_a_class(labels) if 2 * len(defined) > draws else 0.0
    if not 0 < variance < math.inf:
        return NONE
    mean = float(defined.mean())
    images = mean * (1 - mean) / variance
    return wilson(value * images, images)


def loss_interval(
    losses: Callable[[Array, Array], Array], logits: Array, labels: Array, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """The score interval of the mean loss: its variance is taken to go with the mean, as that of a count of mistakes.

    Args:
        losses: of logits and labels, one for each image, 0 or more.
        logits: (N, C) float.
        labels: (N,) class indices, or (N, C) of 0 and 1.
        draws: how often images are drawn.
        seed: of the draws.

    Returns:
        nan as for `metric_interval`, and where a loss is not finite.
    """
    outputs, others = mistaken(logits, labels, seed)
    found, made_up = losses(logits, labels), losses(outputs, others)
    every = np.concatenate([found, made_up])
    if len(found) < 2 or not len(others) or not np.isfinite(every).all():
        return NONE
    means = resampled(lambda counts: counts @ every / len(found), len(every), draws, seed, len(others), MISTAKES)
    if not means.any():
        return NONE
    unit = Z**2 * float(means.var() / means.mean())
    value = float(found.mean())
    half = math.sqrt(unit * value + unit**2 / 4)
    return Interval(max(0.0, value + unit / 2 - half), value + unit / 2 + half)


def intervals(
    names: Sequence[str],
    logits: Array,
    labels: Array,
    losses: Callable[[Array, Array], Array] | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """The interval of each named metric, and of the loss when it is given.

    Args:
        names: keys of `metrics`.
        logits: (N, C) float.
        labels: (N,) class indices, or (N, C) of 0 and 1 for multi-label data.
        losses: of logits and labels, the loss of each image.
        seed: of the bootstrap; the same seed gives the same interval.
    """
    found = {} if losses is None else {"loss": loss_interval(losses, logits, labels, seed=seed)}
    for name in names:
        metric = select(name, metrics, "metric")
        value = metric(logits, labels)
        if metric.proportion and not math.isnan(value):
            found[name] = wilson(round(value * len(labels)), len(labels))
        else:
            found[name] = metric_interval(metric, logits, labels, seed=seed)
    return found
