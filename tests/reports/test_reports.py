"""The reports that evaluate.py writes, against scikit-learn."""

import csv
import io
import re

import numpy as np
import pytest
from PIL import Image

from reports.classification import classification_report
from reports.confusion import confusion_csv, confusion_figure, confusion_matrix
from reports.misclassified import misclassified_csv, probabilities

CLASSES = ("ant", "bee", "<img onerror=x>")


@pytest.fixture
def outputs():
    random = np.random.default_rng(0)
    return random.normal(size=(60, 3)).astype(np.float32), random.integers(0, 3, 60)


def rows(data):
    return list(csv.reader(io.StringIO(data.decode())))


def test_confusion_matrix_is_scikit_learns(outputs):
    from sklearn.metrics import confusion_matrix as reference

    logits, labels = outputs
    assert (confusion_matrix(logits.argmax(1), labels, 3) == reference(labels, logits.argmax(1))).all()


def test_confusion_matrix_has_a_row_for_a_class_without_images():
    matrix = confusion_matrix(np.array([0, 2]), np.array([0, 0]), 3)
    assert matrix.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_confusion_csv_names_rows_and_columns():
    assert rows(confusion_csv(np.arange(9).reshape(3, 3), CLASSES))[2] == ["bee", "3", "4", "5"]


@pytest.mark.parametrize("count", [2, 10, 100])
def test_confusion_figure_is_a_picture(count):
    png = confusion_figure(np.eye(count, dtype=int), [f"class $_{i}" for i in range(count)], "x $y")
    with Image.open(io.BytesIO(png)) as image:
        assert image.size[0] > 300
    assert png == confusion_figure(np.eye(count, dtype=int), [f"class $_{i}" for i in range(count)], "x $y")


def test_report_has_every_class_and_interval(outputs):
    text = classification_report(*outputs, CLASSES, {"accuracy": 0.5, "auroc": float("nan")}, {"accuracy": (0.4, 0.6)})
    assert re.search(r"accuracy +0\.5000 +0\.4000 to 0\.6000", text)
    assert "undefined" in text
    assert all(name in text for name in CLASSES)


def test_probabilities_sum_to_one_and_do_not_overflow():
    chances = probabilities(np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]]), multi_label=False)
    assert np.allclose(chances.sum(1), 1)
    assert np.allclose(probabilities(np.array([[0.0, 800.0, -800.0]]), multi_label=True), [[0.5, 1, 0]])


def test_misclassified_lists_the_confident_mistakes_first():
    logits = np.array([[5.0, 0, 0], [2.0, 0, 0], [0, 9.0, 0], [0, 0, 1.0]])
    labels = np.array([0, 1, 2, 2])
    header, *found = rows(misclassified_csv(["a", "b", "c", "d"], logits, labels, CLASSES))
    assert header == ["path", "true", "predicted", "confidence", "p(ant)", "p(bee)", "p(<img onerror=x>)"]
    assert [row[:3] for row in found] == [["c", "<img onerror=x>", "bee"], ["b", "bee", "ant"]]
    assert float(found[0][3]) == pytest.approx(float(found[0][5]))


def test_misclassified_of_multi_label_data_names_all_classes():
    logits, labels = np.array([[5.0, 5.0, -5.0], [5.0, -5.0, -5.0]]), np.array([[1.0, 0, 0], [1.0, 0, 0]])
    _, row = rows(misclassified_csv(["a", "b"], logits, labels, CLASSES))
    assert row[:3] == ["a", "ant", "ant|bee"]


def test_probabilities_of_infinite_logits_are_undefined_and_silent():
    chances = probabilities(np.array([[np.inf, 0.0], [0.0, np.nan], [0.0, 0.0]]), multi_label=False)
    assert np.isnan(chances[:2]).any(axis=1).all()
    assert chances[2].tolist() == [0.5, 0.5]
