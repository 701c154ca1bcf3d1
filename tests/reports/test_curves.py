"""Curves and areas against scikit-learn."""

import csv
import io

import numpy as np
import pytest
from sklearn import metrics as reference

from reports.curves import POINTS, areas, curves, curves_csv, curves_figure, precision_recall, roc, thinned
from reports.misclassified import probabilities


@pytest.fixture(params=["one class", "several", "ties"])
def outputs(request):
    random = np.random.default_rng(7)
    logits = random.normal(size=(300, 4)).astype(np.float32)
    if request.param == "ties":
        logits = logits.round()
    several = request.param == "several"
    labels = (random.random((300, 4)) < 0.3).astype(np.float32) if several else random.integers(0, 4, 300)
    return probabilities(logits, several), labels


def truth(labels):
    return labels if labels.ndim == 2 else np.eye(4)[labels]


def test_curves_are_scikit_learns(outputs):
    chances, labels = outputs
    for scores, positive in zip(chances.T, truth(labels).T.astype(bool), strict=True):
        x, y, _ = reference.roc_curve(positive, scores, drop_intermediate=False)
        found = roc(scores, positive)
        np.testing.assert_allclose(found.x, x, atol=1e-12)
        np.testing.assert_allclose(found.y, y, atol=1e-12)
        precision, recall, _ = reference.precision_recall_curve(positive, scores)
        found = precision_recall(scores, positive)
        np.testing.assert_allclose(found.x, recall[::-1], atol=1e-12)
        np.testing.assert_allclose(found.y, precision[::-1], atol=1e-12)


def test_areas_are_scikit_learns(outputs):
    chances, labels = outputs
    for kind, function in (("ROC", reference.roc_auc_score), ("precision-recall", reference.average_precision_score)):
        found = curves(kind, chances, labels)
        assert areas(found, 4) == pytest.approx(function(truth(labels), chances, average=None).tolist())
        assert found.macro == pytest.approx(function(truth(labels), chances, average="macro"))
        assert found.micro.area == pytest.approx(function(truth(labels), chances, average="micro"))


def test_without_positives_or_negatives_there_is_no_curve():
    scores, none = np.array([0.1, 0.9]), np.array([False, False])
    assert roc(scores, none) is None
    assert roc(scores, ~none) is None
    assert precision_recall(scores, none) is None
    found = curves("ROC", np.eye(3)[[0, 1]], np.array([0, 1]))
    assert list(found.by_class) == [0, 1]
    assert np.isnan(areas(found, 3)[2])


def test_thinning_keeps_ends_area_and_shape():
    random = np.random.default_rng(0)
    positive = random.random(20_000) < 0.4
    curve = roc(positive + random.normal(size=20_000), positive)
    few = thinned(curve)
    assert len(few.x) <= POINTS
    assert (few.x[0], few.y[0], few.x[-1], few.y[-1]) == (0, 0, 1, 1)
    assert few.area == curve.area
    assert np.trapezoid(few.y, few.x) == pytest.approx(curve.area, abs=1e-3)


def test_csv_and_figure():
    random = np.random.default_rng(1)
    labels = random.integers(0, 30, 400)
    found = [curves(kind, random.dirichlet(np.ones(30), 400), labels) for kind in ("ROC", "precision-recall")]
    names = [f"_class $ {index}" for index in range(30)]
    rows = list(csv.DictReader(io.StringIO(curves_csv(found[0], names).decode())))
    assert len({row["class"] for row in rows}) == 11
    assert curves_figure(found, names) == curves_figure(found, names)


def test_a_legend_names_every_class_that_has_a_curve(monkeypatch):
    """Names that matplotlib would leave out too, and no class at all."""
    figures = []
    monkeypatch.setattr("reports.curves.png_bytes", lambda figure: figures.append(figure) or b"")
    chances, labels = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    curves_figure([curves("ROC", chances, labels)], ["_hidden", "$a$"])
    curves_figure([curves("ROC", chances, 0 * labels)], ["_hidden", "$a$"])
    named, empty = ([text.get_text() for text in one.axes[0].get_legend().get_texts()] for one in figures)
    assert [label.split(" ", 1)[1] for label in named] == ["_hidden", "$a$", "all together"]
    assert empty == []
