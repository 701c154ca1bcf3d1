"""Paired differences against scipy, and against what 95% means: how often they cover the truth."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from model.metric import metrics
from reports import comparison


def _seeds(random, count):
    """Two settings on equal seeds, which share most of what a seed does."""
    luck = random.normal(0.9, 0.01, count)
    best, other = luck + random.normal(0, 0.004, count), luck + random.normal(-0.003, 0.004, count)
    return dict(enumerate(best)), dict(enumerate(other))


def _images(random, count, gained=0.06, lost=0.1):
    """Whether each image is right, for the best and for another setting."""
    kind = random.choice(4, size=count, p=[gained, lost, 0.7, 0.3 - gained - lost])
    return np.isin(kind, (1, 2)), np.isin(kind, (0, 2))


def test_the_interval_of_the_mean_equals_scipy():
    random = np.random.default_rng(0)
    for count in (3, 4, 6, 30):
        values = random.normal(0.9, 0.02, count)
        expected = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
        assert comparison.t_interval(values) == pytest.approx(expected, abs=1e-12)


def test_the_paired_interval_and_its_verdict_equal_scipy():
    random = np.random.default_rng(1)
    verdicts = set()
    for _ in range(60):
        best, other = _seeds(random, int(random.integers(3, 12)))
        expected = stats.ttest_rel(list(other.values()), list(best.values()))
        found = comparison.over_seeds(best, other)
        ends = expected.confidence_interval(0.95)
        assert found.interval == pytest.approx((ends.low, ends.high), abs=1e-12)
        assert found.separable == (expected.pvalue < 0.05)
        verdicts.add(found.separable)
    assert verdicts == {True, False}


def test_only_equal_seeds_are_paired():
    found = comparison.over_seeds({0: 0.9, 1: 0.8, 7: 0.1}, {1: 0.7, 0: 0.7, 5: 1.0})
    assert found.value == pytest.approx(-0.15)
    assert found.pairs == 2
    assert comparison.over_seeds({0: 0.9}, {1: 0.9}) is None


def test_too_few_seeds_have_no_interval():
    for count in (0, 1, 2):
        assert np.isnan(comparison.t_interval([0.5, 0.9][:count])).all()
    assert not comparison.over_seeds({0: 0.9, 1: 0.9}, {0: 0.1, 1: 0.1}).separable


def test_the_verdict_on_images_agrees_with_mcnemar():
    """The exact test rejects a little less often; where they disagree, its p is near 0.05."""
    random = np.random.default_rng(2)
    verdicts = []
    for _ in range(300):
        best, other = _images(random, 400)
        gained, lost = int((other & ~best).sum()), int((best & ~other).sum())
        p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        found = comparison.over_images(best, other)
        assert found.value == pytest.approx(other.mean() - best.mean())
        assert found.separable == (p < 0.05) or 0.02 < p < 0.1
        verdicts.append((found.separable, p < 0.05))
    assert np.mean([one == two for one, two in verdicts]) > 0.9
    assert len(set(verdicts)) > 1


def test_images_without_a_difference():
    same = np.array([True, False] * 50)
    found = comparison.over_images(same, same)
    assert found.value == 0
    assert found.interval.low < 0 < found.interval.high
    assert comparison.over_images(np.zeros(9, bool), np.ones(9, bool)).interval.high <= 1


def _coverage(intervals, truth):
    return np.mean([low <= truth <= high for low, high in intervals])


@pytest.mark.parametrize("count", [3, 6])
def test_the_interval_over_seeds_covers_the_truth(count):
    random = np.random.default_rng(3)
    found = [comparison.over_seeds(*_seeds(random, count)).interval for _ in range(4000)]
    assert 0.93 <= _coverage(found, -0.003) <= 0.97


@pytest.mark.parametrize(("images", "gained", "lost"), [(100, 0.06, 0.1), (400, 0.02, 0.05), (2000, 0.01, 0.01)])
def test_the_interval_over_images_covers_the_truth(images, gained, lost):
    random = np.random.default_rng(4)
    found = [comparison.over_images(*_images(random, images, gained, lost)).interval for _ in range(2000)]
    assert 0.93 <= _coverage(found, gained - lost) <= 0.97


def _logits(random, images):
    labels = random.choice(3, size=images, p=[0.5, 0.3, 0.2])
    common = random.normal(size=(images, 3)) + 1.5 * np.eye(3)[labels]
    return (*(common + random.normal(0, 0.7, (images, 3)) + extra * np.eye(3)[labels] for extra in (0.2, 0)), labels)


def test_the_bootstrap_agrees_with_the_formula():
    best, other, labels = _logits(np.random.default_rng(5), 800)
    formula = comparison.over_images(best.argmax(1) == labels, other.argmax(1) == labels)
    drawn = comparison.over_resampled_images(metrics["accuracy"], best, other, labels)
    assert drawn.value == pytest.approx(formula.value)
    assert drawn.interval == pytest.approx(formula.interval, abs=0.006)


def test_the_bootstrap_of_a_metric_covers_the_truth():
    f1, random = metrics["f1"], np.random.default_rng(6)
    best, other, labels = _logits(random, 400_000)
    truth = f1(other, labels) - f1(best, labels)
    found = [comparison.over_resampled_images(f1, *_logits(random, 250), 100).interval for _ in range(300)]
    assert 0.92 <= _coverage(found, truth) <= 0.98  # of 300


def test_an_undefined_metric_has_no_interval():
    labels = np.array([0] * 40 + [1])  # most draws of auroc miss class 2 altogether
    found = comparison.over_resampled_images(metrics["auroc"], np.eye(3)[labels], np.eye(3)[labels], labels, 20)
    assert math.isnan(found.interval.low)
    assert not found.separable


def test_the_luck_of_the_best():
    random = np.random.default_rng(7)
    for count in (2, 5, 40):
        simulated = random.normal(0, 0.02, (20_000, count)).max(axis=1).mean()
        assert comparison.best_of(count, 0.02) == pytest.approx(simulated, rel=0.08)
    assert comparison.best_of(1, 0.02) == pytest.approx(0, abs=1e-9)


def test_no_torch():
    code = "import reports.comparison, sys; sys.exit(any(m in sys.modules for m in ('torch', 'scipy', 'pandas')))"
    subprocess.run([sys.executable, "-c", code], check=True)
