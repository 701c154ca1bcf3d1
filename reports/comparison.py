"""How far one setting is really better than another: over seeds, or on the same images. No torch."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np

from model.metric import rightly
from reports.intervals import MADE_UP, NONE, Interval, Z, few_of_a_class
from reports.resampling import resampled_metric

Array = np.ndarray[Any, Any]

FEWEST: Final = 3  # seeds; the interval of two is thirteen standard errors wide and says nothing
DISAGREEMENTS: Final = 0.25  # that a draw has on average beside those of the images


def t_interval(values: Sequence[float]) -> Interval:
    """95% interval of the mean of what each seed gave (Student 1908); nan with fewer than three."""
    if len(values) < FEWEST:
        return NONE
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    mean = float(np.mean(values))
    half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1)) / math.sqrt(len(values))
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

    Some draws have an image more on which the two differ, as one of them is given the outputs for another image. So
    there is a width where they are right on the same images, too.

    Args:
        metric: logits (N, C), labels -> number.
        best: the best setting's logits (N, C).
        other: another one's.
        labels: (N,) class indices, or (N, C) of 0 and 1.
        draws: how often as many images are drawn with replacement; both see the same.
    """
    value = metric(other, labels) - metric(best, labels)
    *added, targets = disagreements(best, other, labels)
    every = np.concatenate([labels, targets])
    both = [np.concatenate(parts) for parts in zip((best, other), added, strict=True)]
    theirs, ours = (resampled_metric(metric, logits, every, draws, 0, len(targets), DISAGREEMENTS) for logits in both)
    differences = ours - theirs
    defined = differences[np.isfinite(differences)]
    variance = float(defined.var(ddof=1)) * few_of_a_class(labels) if 2 * len(defined) > draws else 0.0
    half = Z * math.sqrt(variance) if 0 < variance < math.inf else math.nan
    return Difference(value, Interval(value - half, value + half), len(labels), "images")


def disagreements(best: Array, other: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Logits of both and labels of made-up images: one is given another image's outputs, so that one of them is right.

    Args:
        best: (N, C).
        other: (N, C).
        labels: (N,) class indices, or (N, C) of 0 and 1.
    """
    order = np.random.default_rng(0).permutation(len(labels))[:MADE_UP]
    another = np.roll(order, 1)
    pairs = np.concatenate([best[order], best[another]]), np.concatenate([other[another], other[order]])
    targets = np.concatenate([labels[order], labels[order]])
    differ = rightly(pairs[0], targets) != rightly(pairs[1], targets)
    return pairs[0][differ], pairs[1][differ], targets[differ]


def best_of(count: int, noise: float) -> float:
    """How far the best of so many equally good settings is above them all by luck, on average.

    Blom's approximation (1958) of the largest of `count` normal numbers.

    Args:
        count: settings that were compared.
        noise: standard error of each one's number.
    """
    return noise * NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
