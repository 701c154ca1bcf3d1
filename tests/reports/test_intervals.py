"""Intervals against scipy, and against what 95% means: how often they cover the truth."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from model.metric import metrics
from reports import intervals, resampling

SIMULATIONS = 1000


def _world(random, images, classes=4):
    """Images of classes of unequal frequency, and a net that is right about some of them."""
    labels = random.choice(classes, size=images, p=[0.4, 0.3, 0.2, 0.1])
    logits = random.normal(size=(images, classes))
    logits[np.arange(images), labels] += 1.5
    return logits, labels


def _losses(logits, labels):
    return np.log(np.exp(logits).sum(axis=1)) - np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def _coverage(interval_of, truth, images):
    """Share of the simulated test sets whose interval holds the truth."""
    random = np.random.default_rng(0)
    found = [interval_of(*_world(random, images)) for _ in range(SIMULATIONS)]
    return np.mean([low <= truth <= high for low, high in found])


@pytest.fixture(scope="module")
def everything():
    """So many images that their numbers are the truth."""
    return _world(np.random.default_rng(1), 1_000_000)


def test_wilson_equals_scipy():
    for successes, total in [(0, 10), (10, 10), (1, 3), (57, 60), (9300, 10000), (1, 1)]:
        expected = stats.binomtest(successes, total).proportion_ci(method="wilson")
        assert intervals.wilson(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_covers_the_truth(everything):
    truth = metrics["accuracy"](*everything)
    coverage = _coverage(lambda x, y: intervals.intervals(["accuracy"], x, y)["accuracy"], truth, 300)
    assert 0.93 <= coverage <= 0.97


def test_bootstrap_of_the_accuracy_covers_the_truth(everything):
    truth = metrics["accuracy"](*everything)
    coverage = _coverage(lambda x, y: intervals.mean_interval(x.argmax(1) == y, draws=500), truth, 300)
    assert 0.93 <= coverage <= 0.97


def test_bootstrap_of_the_loss_covers_the_truth(everything):
    truth = _losses(*everything).mean()
    coverage = _coverage(lambda x, y: intervals.mean_interval(_losses(x, y), draws=500), truth, 300)
    assert 0.93 <= coverage <= 0.97


@pytest.mark.slow
def test_bootstrap_of_a_metric_covers_the_truth(everything):
    f1 = metrics["f1"]
    coverage = _coverage(lambda x, y: intervals.metric_interval(f1, x, y, draws=300), f1(*everything), 300)
    assert 0.93 <= coverage <= 0.97


def test_resampled_means_are_a_bootstrap():
    """Each column has the same draws, their mean and spread are those of the theory, and chunks do not show."""
    values = np.random.default_rng(0).normal(3, 2, size=(500, 1))
    means = intervals.resampled_means(np.hstack([values, 2 * values + 1]), draws=4000)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0] + 1)
    assert means[:, 0].mean() == pytest.approx(values.mean(), abs=0.01)
    assert means[:, 0].std() == pytest.approx(values.std() / np.sqrt(500), rel=0.05)


def test_chunks(monkeypatch):
    table = np.arange(12.0).reshape(6, 2)
    whole = intervals.resampled_means(table, draws=50, seed=3)
    monkeypatch.setattr(resampling, "AT_ONCE", 40)
    parts = intervals.resampled_means(table, draws=50, seed=3)
    np.testing.assert_allclose(parts, whole)


def test_the_general_bootstrap_agrees_with_the_fast_one():
    logits, labels = _world(np.random.default_rng(2), 400)
    fast = intervals.mean_interval(logits.argmax(1) == labels, draws=4000)
    general = intervals.metric_interval(metrics["accuracy"], logits, labels, draws=4000)
    assert general == pytest.approx(fast, abs=0.005)


def test_seeded():
    logits, labels = _world(np.random.default_rng(3), 100)
    names = list(metrics)
    one, same, other = (intervals.intervals(names, logits, labels, _losses(logits, labels), s) for s in (0, 0, 1))
    assert one == same
    assert one["f1"] != other["f1"]
    assert one["loss"] != other["loss"]


def test_every_metric_lies_in_its_interval():
    logits, labels = _world(np.random.default_rng(4), 300)
    losses = _losses(logits, labels)
    found = intervals.intervals(list(metrics), logits, labels, losses)
    assert list(found) == ["loss", *metrics]
    assert found["loss"].low < losses.mean() < found["loss"].high
    for name, metric in metrics.items():
        assert found[name].low < metric(logits, labels) <= found[name].high, name
        assert found[name].high - found[name].low < 0.2


def test_several_labels():
    random = np.random.default_rng(5)
    labels = (random.random((200, 3)) < 0.4).astype(np.float32)
    logits = random.normal(size=(200, 3)) + labels
    for name, metric in metrics.items():
        if metric.multi_label:
            low, high = intervals.intervals([name], logits, labels)[name]
            assert low < metric(logits, labels) < high, name


def test_undefined():
    logits, labels = _world(np.random.default_rng(6), 50)
    labels[labels == 3] = 0
    names = ["accuracy", "auroc", "f1"]
    found = intervals.intervals(names, logits, labels)
    assert np.isnan(found["auroc"]).all()
    assert not np.isnan(found["f1"]).any()
    for empty in intervals.intervals(names, logits[:0], labels[:0], np.zeros(0)).values():
        assert np.isnan(empty).all()
    logits[0, 0] = np.nan
    for undefined in intervals.intervals(names, logits, labels, logits[:, 0]).values():
        assert np.isnan(undefined).all()
    assert np.isnan(intervals.wilson(0, 0)).all()


def test_one_image_has_no_bootstrap():
    """Every draw of it is the same: an interval without a width would say that nothing is unsure."""
    logits, labels = np.array([[2.0, 1.0, 0.0]]), np.array([0])
    found = intervals.intervals(["accuracy", "f1"], logits, labels, np.array([0.4]))
    assert np.isnan([found["loss"], found["f1"]]).all()
    assert found["accuracy"] == intervals.wilson(1, 1)


def test_draws_that_miss_a_class_are_left_out():
    logits, labels = np.eye(3)[[0, 0, 0, 1, 1, 1, 2, 2, 2]], np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert intervals.metric_interval(metrics["auroc"], logits, labels, draws=200) == (1, 1)
    rare = np.array([0] * 30 + [1, 2])
    assert np.isnan(intervals.metric_interval(metrics["auroc"], np.eye(3)[rare], rare, draws=200)).all()


def test_no_torch():
    code = "import reports.intervals, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
