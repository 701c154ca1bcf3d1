"""How far one setting is really better than another: over seeds, or on the same images. No torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np

from reports.intervals import PERCENTILES, Interval, Z
from reports.resampling import resampled_metric

Array = np.ndarray[Any, Any]

FEWEST: Final = 3  # seeds; the interval of two is thirteen standard errors wide and says nothing
NONE: Final = Interval(math.nan, math.nan)


def t_interval(values: Sequence[float]) -> Interval:
    """95% interval of the mean of what each seed gave (Student 1908); nan with fewer than three."""
    if len(values) < FEWEST:
        return NONE
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    mean = float(np.mean(values))
    half = float(stdtrit(len(values) - 1, PERCENTILES[1] / 100) * np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean - half, mean + half)


class Difference(NamedTuple):
    """How far a setting is from the best one.

    Args:
        value: the setting's mean minus the best one's.
        interval: 95% interval of it; nan where there are too few pairs.
        pairs: how many pairs it rests on.
        over: what the pairs are: "seeds" or "images".
    """

    value: float
    interval: Interval
    pairs: int
    over: str

    @property
    def separable(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval.low > 0 or self.interval.high < 0


def over_seeds(best: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """The paired difference on the seeds that both have; None when there are none.

    Args:
        best: the best setting's metric by seed.
        other: another setting's.
    """
    shared = sorted(best.keys() & other.keys())
    if not shared:
        return None
    differences = [other[seed] - best[seed] for seed in shared]
    return Difference(float(np.mean(differences)), t_interval(differences), len(shared), "seeds")


def over_images(best: Array, other: Array) -> Difference:
    """The paired difference of two accuracies on the same images, with the interval of Agresti and Min (2005).

    Half an image is added to each of the four cells of McNemar's table, which keeps the interval honest where the two
    differ on few images. It tells what other images might show, not what other seeds would.

    Args:
        best: whether the best setting is right on each image (N,).
        other: whether another one is.
    """
    gained, lost, images = int((other & ~best).sum()), int((best & ~other).sum()), len(best)
    centre = (gained - lost) / (images + 2)
    half = Z * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / (images + 2)) / (images + 2)
    interval = Interval(max(-1.0, centre - half), min(1.0, centre + half))
    return Difference((gained - lost) / images, interval, images, "images")


def over_resampled_images(
    metric: Callable[[Array, Array], float], best: Array, other: Array, labels: Array, draws: int = 200
) -> Difference:
    """The paired difference of any metric on the same images, with an interval from bootstrapped standard errors.

    Args:
        metric: logits (N, C), labels -> number.
        best: the best setting's logits (N, C).
        other: another one's.
        labels: (N,) class indices, or (N, C) of 0 and 1.
        draws: how often as many images are drawn with replacement; both see the same.
    """
    value = metric(other, labels) - metric(best, labels)
    ours, theirs = (resampled_metric(metric, logits, labels, draws) for logits in (other, best))
    differences = ours - theirs
    defined = differences[np.isfinite(differences)]
    half = Z * float(defined.std(ddof=1)) if 2 * len(defined) > draws else math.nan
    return Difference(value, Interval(value - half, value + half), len(labels), "images")


def best_of(count: int, noise: float) -> float:
    """How far the best of so many equally good settings is above them all by luck, on average.

    Blom's approximation (1958) of the largest of `count` normal numbers.

    Args:
        count: settings that were compared.
        noise: standard error of each one's number.
    """
    return noise * NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
