"""Metrics of bootstrap draws equal the metric itself on the drawn images."""

import numpy as np
import pytest

from model.metric import metrics
from reports import resampling
from reports.resampling import drawn_counts, resampled_metric

CLASSES, DRAWS = 4, 12


def outputs(images, several, digits):
    """Logits with ties where there are few digits, and labels of unequal frequency."""
    random = np.random.default_rng(images)
    labels = random.choice(CLASSES, size=images, p=[0.4, 0.3, 0.2, 0.1])
    truth = (random.random((images, CLASSES)) < 0.3).astype(np.float32) if several else np.eye(CLASSES)[labels]
    return (random.normal(size=truth.shape) + truth).round(digits), truth if several else labels


@pytest.mark.parametrize("name", [name for name in metrics if metrics[name].fewest_classes <= CLASSES])
@pytest.mark.parametrize("dense", [0, 10_000], ids=["running sums", "comparisons"])
@pytest.mark.parametrize("several", [False, True], ids=["one class", "several classes"])
@pytest.mark.parametrize("digits", [0, 6], ids=["ties", "no ties"])
def test_equal_the_metric_of_the_drawn_images(name, dense, several, digits, monkeypatch):
    monkeypatch.setattr(resampling, "_DENSE", dense)
    metric = metrics[name]
    if several and not metric.multi_label:
        pytest.skip("for one class per image")
    logits, labels = outputs(90, several, digits)
    random = np.random.default_rng(5)
    drawn = [random.integers(90, size=90) for _ in range(DRAWS)]
    expected = [metric(logits[images], labels[images]) for images in drawn]
    found = resampled_metric(metric, logits, labels, DRAWS, seed=5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(set(expected)) > 1


@pytest.mark.parametrize("dense", [0, 10_000])
@pytest.mark.parametrize("name", ["auroc", "average_precision", "f1"])
def test_draws_that_miss_a_class(name, dense, monkeypatch):
    """They are undefined where the metric is, and no others."""
    monkeypatch.setattr(resampling, "_DENSE", dense)
    logits, labels = outputs(30, several=False, digits=6)
    labels[labels == 3] = 2
    labels[0] = 3
    drawn = [np.repeat(np.arange(30), counts) for counts in np.concatenate(list(drawn_counts(30, 40, 0)))]
    expected = np.array([metrics[name](logits[images], labels[images]) for images in drawn])
    assert np.isnan(expected).any() == (name != "f1")
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(resampled_metric(metrics[name], logits, labels, 40), expected, rtol=1e-12)


def test_logits_that_are_not_finite_and_no_images():
    logits, labels = outputs(30, several=False, digits=6)
    logits[0, 0] = np.nan
    counts = np.concatenate(list(drawn_counts(30, 20, 0)))
    found = resampled_metric(metrics["auroc"], logits, labels, 20)
    assert np.isnan(found[counts[:, 0] > 0]).all()
    assert len(resampled_metric(metrics["auroc"], logits[:0], labels[:0], 20)) == 0
