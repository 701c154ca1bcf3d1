"""Scores of each class, against scikit-learn, and what their intervals promise."""

import csv
import io
import math

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support

from reports.classes import MOST_BARS, class_scores, classes_csv, classes_figure, worst_first


@pytest.fixture(params=[False, True], ids=["one class", "several"])
def outputs(request):
    random = np.random.default_rng(3)
    logits = random.normal(size=(200, 4)).astype(np.float32)
    labels = (random.random((200, 4)) < 0.3).astype(np.float32) if request.param else random.integers(0, 4, 200)
    return logits, labels


def test_scores_are_scikit_learns(outputs):
    logits, labels = outputs
    predicted = logits > 0 if labels.ndim == 2 else logits.argmax(1)
    expected = precision_recall_fscore_support(labels, predicted, average=None)
    found = class_scores(logits, labels)
    for row, name in enumerate(("precision", "recall", "f1")):
        assert [score.scores[name] for score in found] == pytest.approx(expected[row].tolist(), abs=1e-12)
    assert [score.support for score in found] == expected[3].tolist()
    for score in found:
        assert all(score.intervals[n].low <= score.scores[n] <= score.intervals[n].high for n in score.scores)


def test_a_class_that_never_occurs_has_no_score_and_comes_last():
    found = class_scores(np.eye(3, dtype=np.float32)[[0, 0]], np.array([0, 1]))
    assert all(math.isnan(value) for value in found[2].scores.values())
    assert math.isnan(found[1].scores["precision"])
    assert [score.index for score in worst_first(found)] == [1, 0, 2]


def test_the_interval_of_f1_covers_the_truth():
    """Two classes, recall 0.8 and precision 0.8 in truth: 95% intervals of F1 hold 0.8 in about 95% of samples."""
    random, covered, draws = np.random.default_rng(5), 0, 2000
    for _ in range(draws):
        labels = random.integers(0, 2, 150)
        predicted = np.where(random.random(150) < 0.8, labels, 1 - labels)
        low, high = class_scores(np.eye(2)[predicted], labels)[0].intervals["f1"]
        covered += low <= 0.8 <= high
    assert 0.93 <= covered / draws <= 0.98


def test_csv_and_figure():
    names = ["=a", "b $_", "c", "d"]
    found = class_scores(np.eye(4), np.array([0, 1, 2, 2]))
    rows = list(csv.DictReader(io.StringIO(classes_csv(found, names).decode())))
    assert [row["class"] for row in rows] == ["'=a", "b $_", "c", "d"]
    assert rows[0]["f1"] == "1.0"
    assert classes_figure(found, names) == classes_figure(found, names)


def test_of_many_classes_the_figure_has_some():
    count = 10 * MOST_BARS
    found = class_scores(np.eye(count), np.arange(count))
    with Image.open(io.BytesIO(classes_figure(found, [str(i) for i in range(count)]))) as image:
        assert image.size[1] < 2500
