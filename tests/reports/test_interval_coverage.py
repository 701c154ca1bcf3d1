"""How often the intervals of a report hold the truth: exactly for Wilson's of a share, else by simulated test sets.

The full counts with their table: python -m pytest -s -m campaign tests/reports/test_interval_coverage.py
"""

import functools
import itertools
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp
from tabulate import tabulate

from model.metric import metrics, rightly
from reports import calibration, comparison, intervals, threshold
from reports.classes import class_scores

EVERYTHING = 200_000  # images whose numbers are the truth
METRICS = ["loss", *(name for name, metric in metrics.items() if not metric.proportion)]
REGIMES = {"< 1": (0, 1), "1 to 3": (1, 3), "3 to 10": (3, 10), ">= 10": (10, np.inf)}  # wrong images that are expected
LEAST, MOST = 0.93, 0.97  # on average over the grid


class World(NamedTuple):
    """Where test sets come from.

    Args:
        classes: of an image, or several of them to an image.
        accuracy: of the net.
        several: whether an image has several classes.
        unequal: whether the classes' frequencies fall from the first to the last in equal steps; or all are equal.
        hard: whether the last class is harder than the others.
        wrong: share of the mistakes that are wrong labels, of which the net is as sure as of right ones.
    """

    classes: int
    accuracy: float
    several: bool = False
    unequal: bool = True
    hard: bool = False
    wrong: float = 0.0


SHAPES = {
    "equal": {"unequal": False},
    "unequal": {},
    "one hard": {"hard": True},
    "several": {"several": True},
}
MISTAKES = {"slight": 0.0, "half wrong labels": 0.5, "wrong labels": 1.0}
KINDS = {f"{shape}, {name}": SHAPES[shape] | {"wrong": MISTAKES[name]} for shape in SHAPES for name in MISTAKES}
IMAGES, CLASSES, ACCURACIES = (50, 100, 400, 2000), (2, 4, 10), (0.6, 0.8, 0.9, 0.95, 0.98, 0.99)


def outputs(random, world, images, clear):
    """Logits and labels; the clearer the images the more the net is right about."""
    frequency = np.arange(world.classes, 0, -1.0) if world.unequal else np.ones(world.classes)
    easier = np.where(np.arange(world.classes) == world.classes - 1, -1.0 * world.hard, 0.0)
    if world.several:
        truth = random.random((images, world.classes)) < 0.4 * frequency / frequency[0]
        logits = random.normal(size=truth.shape) + (clear + easier) * (truth - 0.5)
        return 2 * logits, np.where(random.random((images, 1)) < _wrong(world), np.roll(truth, 1, 0), truth).astype(
            float
        )
    labels = random.choice(world.classes, size=images, p=frequency / frequency.sum())
    logits = random.normal(size=(images, world.classes))
    logits[np.arange(images), labels] += clear + easier[labels]
    return 2 * logits, np.where(random.random(images) < _wrong(world), np.roll(labels, 1), labels)


def _wrong(world):
    return world.wrong * (1 - world.accuracy)


@functools.cache
def clearness(world):
    """With which the net has the world's accuracy."""
    low, high = 0.0, 30.0
    for _ in range(25):
        middle = (low + high) / 2
        below = rightly(*outputs(np.random.default_rng(0), world, 20_000, middle)).mean() < world.accuracy
        low, high = (middle, high) if below else (low, middle)
    return middle


def losses(logits, labels):
    """Cross entropy of each image."""
    if labels.ndim == 2:
        return (np.logaddexp(0, logits) - labels * logits).mean(axis=1)
    return logsumexp(logits, axis=1) - np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def named(world):
    return [name for name in METRICS if name == "loss" or not world.several or metrics[name].multi_label]


@functools.cache
def truths(world):
    everything = outputs(np.random.default_rng(1), world, EVERYTHING, clearness(world))
    return {name: losses(*everything).mean() if name == "loss" else metrics[name](*everything) for name in named(world)}


class Count:
    """How often intervals held the truth, by what they are of and where."""

    def __init__(self):
        self.found, self.none = defaultdict(list), defaultdict(int)

    def add(self, name, where, interval, truth):
        if np.isnan(interval.low):
            self.none[name] += 1
        else:
            self.found[name, where].append(interval.low <= truth <= interval.high)

    def share(self, name, suits=lambda where: True):
        parts = [held for (other, where), held in self.found.items() if other == name and suits(where)]
        return np.mean([np.mean(part) for part in parts]) if parts else np.nan  # each place counts the same

    def table(self, columns):
        """A row for each name: the shares in each column, and of all."""
        names = dict.fromkeys(name for name, _ in self.found)
        rows = [
            [
                name,
                *(self.share(name, suits) for suits in columns.values()),
                self.share(name),
                self.many(name),
                self.none[name],
            ]
            for name in names
        ]
        return tabulate(rows, ["", *columns, "all", "intervals", "none"], tablefmt="pipe", floatfmt=".3f")

    def many(self, name):
        return sum(len(held) for (other, _), held in self.found.items() if other == name)


def simulate(grid, each, draws=intervals.DRAWS):
    """Of the intervals of the metrics on simulated test sets.

    Args:
        grid: images, kind, classes and accuracy of each place.
        each: test sets at each place, by the images of one.
        draws: of the bootstrap.
    """
    count = Count()
    for seed, (where, world) in enumerate(worlds(grid)):
        random = np.random.default_rng(seed)
        for _ in range(each[where[0]]):
            logits, labels = outputs(random, world, where[0], clearness(world))
            for name in named(world):
                if name == "loss":
                    found = intervals.loss_interval(losses, logits, labels, draws, seed)
                else:
                    found = intervals.metric_interval(metrics[name], logits, labels, draws, seed)
                count.add(name, where, found, truths(world)[name])
    return count


def worlds(grid):
    for images, kind, classes, accuracy in grid:
        yield (images, kind, classes, accuracy), World(classes, accuracy, **KINDS[kind])


def expected_wrong(where):
    return where[0] * (1 - where[3])


BY_MISTAKES = {
    f"{name} wrong": lambda where, ends=ends: ends[0] <= expected_wrong(where) < ends[1]
    for name, ends in REGIMES.items()
}
BY_IMAGES = {f"{images} images": lambda where, images=images: where[0] == images for images in IMAGES}
BY_CLASSES = {f"{classes} classes": lambda where, classes=classes: where[2] == classes for classes in CLASSES}
BY_SHAPE = {shape: lambda where, shape=shape: where[1].startswith(f"{shape}, ") for shape in SHAPES}
BY_KIND = {name: lambda where, name=name: where[1].endswith(f", {name}") for name in MISTAKES}


def hold(count, *columns, most=MOST, worst=0.90, fewest=500):
    """Prints the shares, and checks that they are 93% to 97% on average, and little less in any column."""
    for some in columns:
        print(f"\n{count.table(some)}")
    for name in dict.fromkeys(name for name, _ in count.found):
        assert count.many(name) >= fewest
        assert LEAST <= count.share(name) <= most, name
        assert all(not count.share(name, suits) < worst for some in columns for suits in some.values()), name


@pytest.mark.slow
def test_intervals_of_metrics_hold_the_truth_with_few_mistakes():
    """A sample of the full counts below: five wrong images, or one, say little of what others would be like."""
    count = simulate([(50, "unequal, half wrong labels", 2, accuracy) for accuracy in (0.9, 0.98)], {50: 60}, 150)
    for name in METRICS:
        assert count.many(name) > 100
        assert 0.9 <= count.share(name) <= 1, name


@pytest.mark.campaign
def test_intervals_of_metrics_hold_the_truth():
    grid = itertools.product(IMAGES, KINDS, CLASSES, ACCURACIES)
    count = simulate(grid, {50: 16, 100: 16, 400: 8, 2000: 4})
    hold(count, BY_MISTAKES, BY_IMAGES, BY_CLASSES, BY_SHAPE, BY_KIND)


# --- shares: Wilson's ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "least"), [(30, 0.92), (100, 0.92), (359, 0.94), (1000, 0.944)])
def test_wilson_covers_every_accuracy(images, least):
    """Exactly, for true accuracies from 0.5 to 0.99: on average 95%, at the worst a little less."""
    ends = np.array([intervals.wilson(right, images) for right in range(images + 1)])
    found = []
    for truth in np.linspace(0.5, 0.99, 99):
        chances = stats.binom.pmf(np.arange(images + 1), images, truth)
        found.append(chances[(ends[:, 0] <= truth) & (truth <= ends[:, 1])].sum())
    assert 0.945 <= np.mean(found) <= 0.955
    assert min(found) >= least
    assert max(found) <= 0.985


def shares(grid, each):
    """Of the other shares of a report: of classes, of bins of the reliability picture, of answers above a threshold."""
    count = Count()
    for seed, (where, world) in enumerate(worlds(grid)):
        random, everything = (
            np.random.default_rng(seed),
            outputs(np.random.default_rng(1), world, EVERYTHING, clearness(world)),
        )
        true_scores, (confidence, right) = class_scores(*everything), calibration.decisions(*everything)
        order = np.argsort(confidence)
        ordered, sums = confidence[order], np.append(0, np.cumsum(right[order]))

        def among(low, high, ordered=ordered, sums=sums):
            """The true accuracy of the decisions whose confidence is in low … high."""
            start, end = np.searchsorted(ordered, [low, high])
            return (sums[end] - sums[start]) / (end - start) if end > start else np.nan

        for _ in range(each[where[0]]):
            logits, labels = outputs(random, world, where[0], clearness(world))
            for score, truth in zip(class_scores(logits, labels), true_scores, strict=True):
                for name, interval in score.intervals.items():
                    count.add(f"{name} of a class", where, interval, truth.scores[name])
            sure, correct = calibration.decisions(logits, labels)
            for equal_mass in (False, True):
                bins = calibration.reliability(sure, correct, equal_mass)
                for i in np.flatnonzero(bins.decisions):
                    many = bins.decisions[i]
                    interval = intervals.wilson(round(bins.accuracy[i] * many), many)
                    high = bins.high[i] if i < len(bins.high) - 1 else 2
                    count.add(
                        f"bins of equal {'mass' if equal_mass else 'width'}", where, interval, among(bins.low[i], high)
                    )
            for answered in (0.3, 0.6, 0.9):
                least = np.quantile(sure, 1 - answered, method="higher")
                interval = intervals.Interval(*threshold.accept(sure, correct, least).as_dict()["accuracy_interval"])
                count.add("accuracy of the answered", where, interval, among(least, 2))
    return count


# --- differences of two nets on the same images -----------------------------------------------------------------------


def pair(random, world, images):
    """Logits of two nets that see the same in an image, and err by themselves; the other one a little more."""
    logits, labels = outputs(random, world, images, clearness(world))
    best, other = (logits + random.normal(0, noise, logits.shape) for noise in (0.4, 0.8))
    return best, other, labels


@functools.cache
def true_differences(world):
    """Of each metric, and the share of the images that only one of the two nets gets right."""
    best, other, labels = pair(np.random.default_rng(1), world, EVERYTHING)
    names = ["accuracy", *(name for name in named(world) if name != "loss")]
    found = {name: metrics[name](other, labels) - metrics[name](best, labels) for name in names}
    return found, (rightly(best, labels) != rightly(other, labels)).mean()


def differences(grid, each):
    """Of the differences of metrics on simulated test sets; a place ends with the images on which the nets differ."""
    count = Count()
    for seed, (where, world) in enumerate(worlds(grid)):
        random, (truth, apart) = np.random.default_rng(seed), true_differences(world)
        for _ in range(each[where[0]]):
            best, other, labels = pair(random, world, where[0])
            for name in truth:
                if name == "accuracy":
                    found = comparison.over_images(rightly(best, labels), rightly(other, labels))
                else:
                    found = comparison.over_resampled_images(metrics[name], best, other, labels)
                count.add(name, (*where, where[0] * apart), found.interval, truth[name])
    return count


BY_DISAGREEMENTS = {
    f"{name} differ": lambda where, ends=ends: ends[0] <= where[4] < ends[1] for name, ends in REGIMES.items()
}


@pytest.mark.campaign
def test_intervals_of_shares_hold_the_truth():
    kinds = [kind for kind in KINDS if not kind.startswith("several")]
    grid = itertools.product((50, 400, 2000), kinds, (2, 10), (0.6, 0.9, 0.98))
    hold(shares(grid, {50: 16, 400: 8, 2000: 4}), BY_MISTAKES, BY_IMAGES, BY_CLASSES)


@pytest.mark.campaign
def test_intervals_of_differences_hold_the_truth():
    """Where two nets differ on few images nearly every interval that holds 0 holds the truth, so more than 97% do."""
    grid = itertools.product((50, 100, 400), KINDS, (2, 4, 10), (0.6, 0.9, 0.98, 0.99))
    count = differences(grid, {50: 12, 100: 12, 400: 8})
    hold(count, BY_DISAGREEMENTS, BY_IMAGES, BY_CLASSES, BY_SHAPE, BY_KIND, most=1)
    for name in METRICS[1:]:
        assert count.share(name, BY_DISAGREEMENTS[">= 10 differ"]) <= 0.98, name


@pytest.mark.campaign
@pytest.mark.parametrize("images", [6, 12, 24, 100])
def test_intervals_of_what_maps_of_attribution_gain_hold_the_truth(images):
    """Differences of two areas under curves, of which many are small and few are large."""
    random = np.random.default_rng(images)
    gains, truth = random.beta(1, 3, (4000, images)) - random.beta(1, 6, (4000, images)), 1 / 4 - 1 / 7
    low, high = np.array([comparison.t_interval(gain) for gain in gains]).T
    assert LEAST <= np.mean((low <= truth) & (truth <= high)) <= MOST
