"""Labels that were changed on purpose are found among the first, and few others are suspected."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from reports import label_errors
from reports.label_errors import Suspects, confident_classes, confident_joint, pairs, suspects, thresholds


def flipped(labels, classes, random, share=0.05):
    """The labels with a share of them changed to another class, and which were."""
    chosen = random.choice(len(labels), round(share * len(labels)), replace=False)
    changed = labels.copy()
    changed[chosen] = (changed[chosen] + random.integers(1, classes, len(chosen))) % classes
    return changed, set(chosen.tolist())


def world(random, images=2000, classes=10, accuracy=0.9):
    """Labels, and logits of a net of about that accuracy: unsure where it errs, bolder about some classes."""
    labels = random.choice(classes, images, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    hard = random.random(images) > accuracy - 0.02
    logits = random.normal(size=(images, classes)) + np.linspace(0, 1.5, classes)
    logits[np.arange(images), labels] += np.where(hard, random.uniform(0, 3, images), random.uniform(5, 9, images))
    return logits, labels


def found_early(found, planted):
    """The share of planted errors among the first candidates, twice as many as were planted."""
    return len(planted & set(found.images[: 2 * len(planted)].tolist())) / len(planted)


@pytest.mark.parametrize(("accuracy", "share"), [(0.98, 0.9), (0.9, 0.8), (0.8, 0.7)])
def test_planted_errors_are_found_early_and_few_others_suspected(accuracy, share):
    random = np.random.default_rng(0)
    for _ in range(5):
        logits, labels = world(random, accuracy=accuracy)
        changed, planted = flipped(labels, 10, random)
        found = suspects(softmax(logits, axis=1), changed)
        assert found_early(found, planted) >= share
        false = set(found.images.tolist()) - planted
        mistaken = set(np.flatnonzero(logits.argmax(1) != labels).tolist())
        assert len(false) <= 0.02 * len(labels)
        assert len(false & mistaken) < 0.3 * len(mistaken)


@pytest.mark.slow
def test_planted_errors_of_a_real_net():
    """Digits: a net that trained on one half judges the other, of which a twentieth got a wrong label."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    data = load_digits()
    net = MLPClassifier((32,), max_iter=500, random_state=0, tol=1e-2, n_iter_no_change=3).fit(
        data.data[::2] / 16, data.target[::2]
    )
    labels, random = data.target[1::2], np.random.default_rng(0)
    changed, planted = flipped(labels, 10, random)
    found = suspects(net.predict_proba(data.data[1::2] / 16), changed)
    assert found_early(found, planted) >= 0.8
    assert len(set(found.images.tolist()) - planted) <= 0.1 * len(labels)
    right = {i: s for i, s in zip(found.images.tolist(), found.suggested.tolist(), strict=True) if i in planted}
    assert np.mean([labels[i] == s for i, s in right.items()]) > 0.9


def test_a_timid_class_is_believed_at_lower_probabilities():
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.45, 0.55], [0.5, 0.5], [0.47, 0.53]])
    labels = np.array([0, 0, 1, 1, 0])
    assert thresholds(chances, labels) == pytest.approx([(0.9 + 0.9 + 0.47) / 3, 0.525])
    assert confident_classes(chances, labels).tolist() == [0, 0, 1, -1, 1]
    found = suspects(chances, labels)
    assert (found.images.tolist(), found.given.tolist(), found.suggested.tolist()) == ([4], [0], [1])
    assert found.margin == pytest.approx([-0.06])


def test_no_image_confidently_belongs_to_a_class_without_images():
    chances = np.array([[0.1, 0.1, 0.8], [0.2, 0.1, 0.7], [0.6, 0.3, 0.1]])
    labels = np.array([0, 1, 0])
    assert thresholds(chances, labels)[2] == np.inf
    assert 2 not in confident_classes(chances, labels)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 5))
def test_what_every_suspect_is(seed, images, classes):
    random = np.random.default_rng(seed)
    chances = random.dirichlet(np.full(classes, 0.5), images)
    labels = random.integers(0, classes, images)
    found, joint = suspects(chances, labels), confident_joint(chances, labels)
    assert (np.diff(found.margin) >= 0).all()
    assert (found.given == labels[found.images]).all()
    assert (found.suggested == chances[found.images].argmax(1)).all()
    assert (found.margin < 0).all()
    assert (found.given != found.suggested).all()
    assert sum(count for _, _, count in pairs(found)) == len(found.images)
    for label in set(labels.tolist()):
        elsewhere = 1 - joint[label, label] / joint[label].sum() if joint[label].any() else 0
        assert (found.given == label).sum() <= (labels == label).sum() * elsewhere + 0.5


def test_the_joint_is_that_of_a_count_by_hand():
    random = np.random.default_rng(1)
    chances, labels = random.dirichlet(np.full(3, 0.5), 50), random.integers(0, 3, 50)
    expected, level = np.zeros((3, 3), int), [chances[labels == k, k].mean() for k in range(3)]
    for row, label in zip(chances, labels, strict=True):
        confident = [k for k in range(3) if row[k] >= level[k]]
        if confident:
            expected[label, max(confident, key=lambda k: row[k])] += 1
    assert confident_joint(chances, labels).tolist() == expected.tolist()


def test_tables():
    found = Suspects(np.array([2, 0]), np.array([1, 1]), np.array([0, 0]), np.array([-0.5, -0.1]))
    chances = np.array([[0.55, 0.45], [0, 1], [0.75, 0.25]])
    rows = list(csv.reader(io.StringIO(label_errors.label_errors_csv(found, ["a", "b", "=c"], chances, "xy").decode())))
    assert rows[1] == ["'=c", "y", "x", "0.25", "0.75", "-0.5"]
    assert rows[2][0] == "a"
    assert label_errors.pairs_csv(found, "xy") == b"label,suggested,images\ny,x,2\n"


def test_none():
    empty = suspects(np.zeros((0, 3)), np.zeros(0, int))
    assert len(empty.images) == 0
    assert pairs(empty) == []
    assert label_errors.pairs_csv(empty, "xyz").count(b"\n") == 1
