"""How often the intervals of a report cover the truth: exactly for Wilson's, by simulation for the bootstrap's."""

import numpy as np
import pytest
from scipy import stats

from model.metric import metrics
from reports import intervals

BOOTSTRAPPED = [name for name, metric in metrics.items() if not metric.proportion]


def world(random, images, clear=1.5):
    """Images of four classes of unequal frequency, and a net that is right about the more the clearer they are."""
    labels = random.choice(4, size=images, p=[0.4, 0.3, 0.2, 0.1])
    logits = random.normal(size=(images, 4))
    logits[np.arange(images), labels] += clear
    return logits, labels


def coverage(name, images, simulations, draws, clear=1.5):
    """Share of the simulated test sets whose interval holds what a very large one gives."""
    truth, random = metrics[name](*world(np.random.default_rng(1), 300_000, clear)), np.random.default_rng(0)
    tests = (world(random, images, clear) for _ in range(simulations))
    found = [intervals.metric_interval(metrics[name], *test, draws=draws) for test in tests]
    return np.mean([low <= truth <= high for low, high in found])


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f1", "balanced_accuracy"])
def test_the_bootstrap_covers_the_truth(name):
    assert 0.9 <= coverage(name, 400, 200, 200) <= 0.99


def test_with_few_mistakes_the_bootstrap_is_too_short():
    """What the report warns of: two mistakes of a hundred say too little of the other ones."""
    assert coverage("balanced_accuracy", 100, 60, 100, clear=3.5) < 0.9


@pytest.mark.campaign
@pytest.mark.parametrize("images", [100, 400])
@pytest.mark.parametrize("name", BOOTSTRAPPED)
def test_the_full_counts(name, images):
    assert 0.92 <= coverage(name, images, 1000, 1000) <= 0.97
