"""Metrics against scikit-learn, and what happens where they are undefined."""

import itertools

import numpy as np
import pytest
from sklearn import metrics as sk

from model import metric
from utils import UserError


def _single(seed=0, images=60, classes=4, absent=()):
    random = np.random.default_rng(seed)
    labels = random.choice([c for c in range(classes) if c not in absent], size=images)
    logits = random.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += 1
    return logits, labels


def _multi(seed=0, images=60, classes=4):
    random = np.random.default_rng(seed)
    labels = (random.random((images, classes)) < 0.4).astype(np.float32)
    return (random.normal(size=(images, classes)) + labels).astype(np.float32), labels


def _probabilities(logits):
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _macro(function, labels, predicted):
    return function(labels, predicted, average="macro", zero_division=0)


SINGLE_ORACLES = {
    "accuracy": lambda x, y: sk.accuracy_score(y, x.argmax(1)),
    "top_3": lambda x, y: sk.top_k_accuracy_score(y, x, k=3, labels=range(x.shape[1])),
    "top_5": lambda x, y: sk.top_k_accuracy_score(y, x, k=5, labels=range(x.shape[1])),
    "precision": lambda x, y: _macro(sk.precision_score, y, x.argmax(1)),
    "recall": lambda x, y: _macro(sk.recall_score, y, x.argmax(1)),
    "f1": lambda x, y: _macro(sk.f1_score, y, x.argmax(1)),
    "balanced_accuracy": lambda x, y: sk.balanced_accuracy_score(y, x.argmax(1)),
    "auroc": lambda x, y: sk.roc_auc_score(y, _probabilities(x), multi_class="ovr"),
    "average_precision": lambda x, y: sk.average_precision_score(y, _probabilities(x)),
}
MULTI_ORACLES = {
    "accuracy": lambda x, y: sk.accuracy_score(y, x > 0),
    "precision": lambda x, y: _macro(sk.precision_score, y, x > 0),
    "recall": lambda x, y: _macro(sk.recall_score, y, x > 0),
    "f1": lambda x, y: _macro(sk.f1_score, y, x > 0),
    "auroc": lambda x, y: sk.roc_auc_score(y, x),
    "average_precision": lambda x, y: sk.average_precision_score(y, x),
}


def test_every_metric_has_its_oracle():
    assert SINGLE_ORACLES.keys() == metric.metrics.keys()
    assert MULTI_ORACLES.keys() == {name for name, m in metric.metrics.items() if m.multi_label}
    assert metric.catalogue().keys() == metric.metrics.keys()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", SINGLE_ORACLES)
def test_equal_to_scikit_learn(name, seed):
    logits, labels = _single(seed, classes=7)
    assert metric.metrics[name](logits, labels) == pytest.approx(SINGLE_ORACLES[name](logits, labels), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", MULTI_ORACLES)
def test_equal_to_scikit_learn_for_several_labels(name, seed):
    logits, labels = _multi(seed)
    assert metric.metrics[name](logits, labels) == pytest.approx(MULTI_ORACLES[name](logits, labels), abs=1e-12)


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_equal_scores_pass_a_threshold_together(name):
    logits, labels = _multi(1, images=200)
    logits = np.round(logits)
    assert metric.metrics[name](logits, labels) == pytest.approx(MULTI_ORACLES[name](logits, labels), abs=1e-12)


def test_two_classes_give_the_binary_area():
    logits, labels = _single(2, classes=2)
    expected = sk.roc_auc_score(labels, _probabilities(logits)[:, 1])
    assert metric.metrics["auroc"](logits, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_absent_classes(name):
    """A class in neither labels nor predictions does not count; one that is only predicted does; as scikit-learn."""
    logits, labels = _single(3, classes=6, absent=(2, 5))
    logits[:, 5] = -9
    assert 2 in logits.argmax(1)
    assert metric.metrics[name](logits, labels) == pytest.approx(SINGLE_ORACLES[name](logits, labels), abs=1e-12)


def test_absent_classes_with_several_labels():
    logits, labels = _multi(3)
    labels[:, 1], logits[:, 1] = 0, -9
    occurring = [0, 2, 3]
    expected = sk.f1_score(labels, logits > 0, average="macro", labels=occurring)
    assert metric.metrics["f1"](logits, labels) == pytest.approx(expected, abs=1e-12)


def test_balanced_accuracy_is_over_the_classes_of_the_labels():
    logits, labels = _single(3, classes=6, absent=(2,))
    recalls = [(logits[labels == c].argmax(1) == c).mean() for c in (0, 1, 3, 4, 5)]
    assert metric.metrics["balanced_accuracy"](logits, labels) == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_curves_of_an_absent_class_are_nan(name):
    assert np.isnan(metric.metrics[name](*_single(4, absent=(1,))))
    logits, labels = _multi(4)
    labels[:, 1] = 0
    assert np.isnan(metric.metrics[name](logits, labels))


def test_a_class_that_every_image_has():
    logits, labels = _multi(4)
    labels[:, 1] = 1
    assert np.isnan(metric.metrics["auroc"](logits, labels))
    assert not np.isnan(metric.metrics["average_precision"](logits, labels))


@pytest.mark.parametrize("name", metric.metrics)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_when_a_logit_is_not_finite(name, bad):
    logits, labels = _single()
    logits[3, 1] = bad
    assert np.isnan(metric.metrics[name](logits, labels))


@pytest.mark.parametrize("name", metric.metrics)
def test_nan_without_images(name):
    assert np.isnan(metric.metrics[name](np.zeros((0, 3), np.float32), np.zeros(0, np.int64)))


def test_nan_when_no_class_occurs():
    assert np.isnan(metric.metrics["f1"](np.full((5, 3), -1.0), np.zeros((5, 3))))


@pytest.mark.parametrize("name", metric.metrics)
def test_order_of_the_images_and_batches_do_not_matter(name):
    logits, labels = _single(5)
    order = np.random.default_rng(0).permutation(len(labels))
    assert metric.metrics[name](logits[order], labels[order]) == pytest.approx(metric.metrics[name](logits, labels))


def test_large_logits_do_not_overflow():
    logits, labels = _single(6)
    assert metric.metrics["auroc"](logits * 1e4, labels) > 0.5


def test_top_k_counts_equal_logits_from_the_first_class():
    logits = np.zeros((4, 4))
    labels = np.arange(4)
    hits = [metric.top_k(logits, labels, k) for k in (1, 2, 3, 4, 9)]
    assert hits == [0.25, 0.5, 0.75, 1, 1]
    logits, labels = np.random.default_rng(0).integers(0, 3, (50, 4)).astype(float), np.arange(50) % 4
    assert metric.top_k(logits, labels, 1) == metric.accuracy(logits, labels)


@pytest.mark.parametrize("data", [_single(7, absent=(3,)), _multi(7)])
def test_per_class_equals_scikit_learn(data):
    logits, labels = data
    predicted = metric.predictions(logits, labels.ndim == 2)
    expected = sk.precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
    for ours, theirs in zip(metric.per_class(logits, labels).values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_compute():
    logits, labels = _single()
    values = metric.compute(["f1", "accuracy"], logits, labels, lambda x, y: np.float32(0.5))
    assert list(values) == ["loss", "f1", "accuracy"]
    assert all(type(value) is float for value in values.values())
    assert metric.compute([], logits, labels) == {}


def test_compute_refuses_what_has_no_meaning():
    with pytest.raises(UserError, match='metric "top_3" is for one class per image; for several use accuracy'):
        metric.compute(["top_3"], *_multi())
    with pytest.raises(UserError, match='"acuracy" is not a known metric; did you mean "accuracy"'):
        metric.compute(["acuracy"], *_single())


def test_directions():
    assert not metric.greater_is_better("loss")
    assert all(metric.greater_is_better(name) for name in metric.metrics)
    with pytest.raises(UserError, match='"los" is neither "loss" nor a known metric; did you mean "loss"'):
        metric.greater_is_better("los")


@pytest.mark.parametrize("name", metric.metrics)
def test_never_better_than_the_truth(name):
    """Perfect logits give 1, and any other give no more."""
    labels = np.arange(40) % 5
    assert metric.metrics[name](np.eye(5)[labels], labels) == 1
    for seed in range(5):
        assert 0 <= metric.metrics[name](*_single(seed, classes=5)) <= 1


def test_smallest_data():
    """Every pair of labels over two classes and two images: never a warning, never outside [0, 1] unless nan."""
    for labels in itertools.product((0, 1), repeat=2):
        for name, one in metric.metrics.items():
            value = one(np.array([[0.5, 1.0], [2.0, 0.1]]), np.array(labels))
            assert np.isnan(value) or 0 <= value <= 1, name
