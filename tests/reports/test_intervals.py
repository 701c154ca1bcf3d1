"""Intervals against scipy and against formulas; how often they hold the truth: test_interval_coverage.py."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from model.metric import metrics
from reports import intervals


def _world(random, images, classes=4):
    """Images of classes of unequal frequency, and a net that is right about some of them."""
    labels = random.choice(classes, size=images, p=[0.4, 0.3, 0.2, 0.1])
    logits = random.normal(size=(images, classes))
    logits[np.arange(images), labels] += 1.5
    return logits, labels


def _losses(logits, labels):
    return np.log(np.exp(logits).sum(axis=1)) - np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def test_wilson_equals_scipy():
    for successes, total in [(0, 10), (10, 10), (1, 3), (57, 60), (9300, 10000), (1, 1)]:
        expected = stats.binomtest(successes, total).proportion_ci(method="wilson")
        assert intervals.wilson(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_of_a_share_it_is_wilsons():
    """The bootstrap then finds that the images are worth as many as they are."""
    accuracy, (logits, labels) = metrics["accuracy"], _world(np.random.default_rng(2), 400)
    found = intervals.metric_interval(accuracy, logits, labels, draws=4000)
    assert found == pytest.approx(intervals.wilson(round(400 * accuracy(logits, labels)), 400), abs=0.004)


def test_of_a_loss_that_counts_mistakes_it_is_the_score_interval_of_a_count():
    """Of Poisson's mean: found - z^2 / 2 and + z^2 / 2 with the root's width (Rao), here per image."""
    logits, labels = _world(np.random.default_rng(3), 2000)
    logits[np.arange(2000), labels] += 2
    wrong = int((logits.argmax(1) != labels).sum())
    found = intervals.loss_interval(lambda x, y: (x.argmax(1) != y).astype(float), logits, labels, draws=4000)
    half = np.sqrt(intervals.Z**2 * wrong + intervals.Z**4 / 4)
    assert 10 < wrong < 100
    assert found == pytest.approx(np.array([wrong - half, wrong + half]) / 2000 + intervals.Z**2 / 4000, abs=0.001)


def test_made_up_mistakes_are_wrong():
    for labels in (_world(np.random.default_rng(4), 300)[1], np.random.default_rng(4).integers(0, 2, (300, 4))):
        outputs, others = intervals.mistaken(np.random.default_rng(5).normal(size=(300, 4)), labels)
        assert metrics["accuracy"](outputs, others) == 0
        assert 100 < len(others) < 300


def test_seeded():
    logits, labels = _world(np.random.default_rng(3), 100)
    names = list(metrics)
    one, same, other = (intervals.intervals(names, logits, labels, _losses, s) for s in (0, 0, 1))
    assert one == same
    assert one["f1"] != other["f1"]
    assert one["loss"] != other["loss"]


def test_every_metric_lies_in_its_interval():
    logits, labels = _world(np.random.default_rng(4), 300)
    losses = _losses(logits, labels)
    found = intervals.intervals(list(metrics), logits, labels, _losses)
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
    for empty in intervals.intervals(names, logits[:0], labels[:0], _losses).values():
        assert np.isnan(empty).all()
    logits[0, 0] = np.nan
    for undefined in intervals.intervals(names, logits, labels, _losses).values():
        assert np.isnan(undefined).all()
    assert np.isnan(intervals.wilson(0, 0)).all()


def test_images_that_tell_of_no_mistake_have_no_interval_but_wilsons():
    """One image, or one class that is always found: nobody knows what a mistake would look like."""
    for images in (1, 30):
        logits, labels = np.tile([2.0, 1.0, 0.0], (images, 1)), np.zeros(images, int)
        found = intervals.intervals(["accuracy", "f1"], logits, labels, _losses)
        assert np.isnan([found["loss"], found["f1"]]).all()
        assert found["accuracy"] == intervals.wilson(images, images)


def test_a_net_that_is_always_right_may_still_err():
    """Whatever the metric, the interval has about the width of that of the accuracy."""
    labels = np.arange(300) % 3
    found = intervals.intervals(list(metrics), 9 * np.eye(3)[labels], labels, _losses)
    expected = intervals.wilson(300, 300)
    assert found["loss"].low <= _losses(9 * np.eye(3), np.arange(3)).mean() < 0.02 < found["loss"].high < 0.3
    for name in metrics:
        assert found[name].high == 1
        assert 0.3 < (1 - found[name].low) / (1 - expected.low) < 2, name


def test_draws_that_miss_a_class_are_left_out():
    logits, labels = np.eye(3)[[0, 0, 0, 1, 1, 1, 2, 2, 2]], np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    low, high = intervals.metric_interval(metrics["auroc"], logits, labels, draws=200)
    assert 0 < low < high == 1
    rare = np.array([0] * 30 + [1, 2, 3])  # more than half of the draws miss one of them
    assert np.isnan(intervals.metric_interval(metrics["auroc"], np.eye(4)[rare], rare, draws=200)).all()


@pytest.mark.parametrize("metric", [lambda *_: -0.5, lambda *_: 0.5], ids=["negative", "constant"])
def test_other_functions(metric):
    assert np.isnan(intervals.metric_interval(metric, *_world(np.random.default_rng(6), 50), draws=10)).all()


def test_no_torch():
    code = "import reports.intervals, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
