"""Reliability, its measures and the temperature: against torchmetrics, scikit-learn and other optimisers."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import optimize
from scipy.special import expit, softmax

from reports import calibration
from reports.calibration import decisions, fit_temperature, nll, reliability
from reports.misclassified import probabilities
from utils import UserError


def world(random, images, temperature=1.0, classes=5):
    """Logits and labels of a net that is calibrated once its logits are divided by the temperature."""
    logits = random.normal(size=(images, classes)) * 2
    chances = softmax(logits, axis=1)
    labels = (chances.cumsum(axis=1) > random.random((images, 1))).argmax(axis=1)
    return logits * temperature, labels


def several(random, images, temperature=1.0):
    logits = random.normal(size=(images, 3)) * 2
    return logits * temperature, (random.random((images, 3)) < expit(logits)).astype(np.float32)


# --- reliability -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("temperature", [0.3, 1, 2])  # at 4, some are 1.0: for torchmetrics a bin of their own
def test_calibration_error_equals_torchmetrics(classes, temperature):
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = world(np.random.default_rng(0), 3000, temperature, classes)
    expected = multiclass_calibration_error(
        torch.tensor(softmax(logits, axis=1)), torch.tensor(labels), classes, n_bins=calibration.BINS
    )
    found = calibration.calibration_error(reliability(*decisions(logits, labels)))
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_calibration_error_of_several_labels_equals_torchmetrics():
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    logits, labels = several(np.random.default_rng(1), 900, 3)
    confidence, right = decisions(logits, labels)
    expected = binary_calibration_error(torch.tensor(confidence), torch.tensor(right.astype(int)), 15)
    assert calibration.calibration_error(reliability(confidence, right)) == pytest.approx(float(expected), abs=1e-6)


@given(st.lists(st.floats(0, 1), max_size=60), st.booleans())
def test_every_decision_is_in_one_bin(confidence, equal_mass):
    values = np.array(confidence, float)
    bins = reliability(values, values > 0.5, equal_mass)
    assert bins.decisions.sum() == len(values)
    held = bins.decisions > 0
    assert (bins.low[held] <= bins.confidence[held] + 1e-12).all()
    assert (bins.confidence[held] <= bins.high[held] + 1e-12).all()
    assert np.nansum(bins.decisions * bins.confidence) == pytest.approx(values.sum())


def test_bins_of_equal_mass():
    values = np.random.default_rng(0).beta(9, 1, 1500)
    assert set(reliability(values, values > 0, True).decisions) <= {99, 100, 101}
    tied = np.repeat([0.5, 0.9], [900, 100])
    assert reliability(tied, tied > 0, True).decisions.tolist() == [1000]
    assert reliability(tied[:900], tied[:900] > 0, True).decisions.tolist() == [900]


@pytest.mark.slow
def test_by_luck_holds_for_a_calibrated_net():
    """Of 400 test sets of a perfectly calibrated net, about 5% are above what luck explains; of another net, all."""
    random, above, other = np.random.default_rng(0), 0, 0
    for _ in range(400):
        logits, labels = world(random, 300)
        above += (found := calibration.measures(logits, labels))["ece"] > found["ece_by_luck"]
        other += (worse := calibration.measures(logits * 3, labels))["ece"] > worse["ece_by_luck"]
    assert 0.02 <= above / 400 <= 0.08
    assert other == 400


def test_brier_and_likelihood_are_scikit_learns():
    from sklearn.metrics import brier_score_loss, log_loss

    logits, labels = world(np.random.default_rng(2), 400, 2)
    chances = softmax(logits, axis=1)
    assert nll(logits, labels) == pytest.approx(log_loss(labels, chances, labels=range(5)), abs=1e-10)
    one_by_one = sum(brier_score_loss(labels == k, chances[:, k]) for k in range(5))
    assert calibration.brier(logits, labels) == pytest.approx(one_by_one, abs=1e-12)
    logits, labels = several(np.random.default_rng(2), 400, 2)
    one_by_one = np.mean([log_loss(labels[:, k], expit(logits[:, k])) for k in range(3)])
    assert nll(logits, labels) == pytest.approx(one_by_one, abs=1e-10)
    one_by_one = np.mean([brier_score_loss(labels[:, k], expit(logits[:, k])) for k in range(3)])
    assert calibration.brier(logits, labels) == pytest.approx(one_by_one, abs=1e-10)


def test_extreme_logits_are_finite():
    logits, labels = np.array([[1e30, -1e30], [-1e30, 1e30]]), np.array([0, 0])
    assert all(np.isfinite(value) for value in calibration.measures(logits, labels).values())


@pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.array([[np.nan, 0, 1]]), np.array([[np.inf, 0, 1]])])
def test_undefined(logits):
    labels = np.zeros(len(logits), int)
    assert all(np.isnan(value) for value in calibration.measures(logits, labels).values())
    with pytest.raises(UserError, match="needs logits that are finite, of one image or more"):
        fit_temperature(logits, labels)


# --- temperature -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [world, several])
@pytest.mark.parametrize("temperature", [0.2, 1, 1.7, 12])
def test_temperature_is_that_of_a_reference_optimiser(make, temperature):
    logits, labels = make(np.random.default_rng(3), 800, temperature)
    reference = optimize.minimize_scalar(
        lambda t: nll(logits, labels, np.exp(t)), (-0.1, 0.1), method="golden", tol=1e-12
    )
    found = fit_temperature(logits.astype(np.float64), labels)
    assert found.value == pytest.approx(np.exp(reference.x), rel=1e-6)
    assert nll(logits, labels, found.value) <= reference.fun + 1e-15
    assert found.images == 800


def test_temperature_is_that_of_torchs_lbfgs():
    import torch

    logits, labels = world(np.random.default_rng(4), 500, 2.5)
    scores, truth = torch.tensor(logits), torch.tensor(labels)
    inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([inverse], tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(scores * inverse, truth)
        loss.backward()
        return loss

    for _ in range(5):
        solver.step(closure)
    assert fit_temperature(logits, labels).value == pytest.approx(1 / inverse.item(), rel=1e-7)


@given(st.integers(0, 10**6), st.sampled_from([2, 5, 40]), st.sampled_from([0.02, 0.5, 3, 60]), st.booleans())
def test_it_never_changes_a_class_nor_raises_the_likelihoods_loss(seed, images, temperature, multi_label):
    make = several if multi_label else world
    logits, labels = make(np.random.default_rng(seed), images, temperature)
    logits = logits.astype(np.float32)
    found = fit_temperature(logits, labels)
    after = logits.astype(np.float64) / found.value
    assert nll(logits, labels, found.value) <= nll(logits, labels)
    if multi_label:
        assert ((after > 0) == (logits > 0)).all()
    else:
        assert (after.argmax(1) == logits.argmax(1)).all()
        assert (np.argsort(-after, 1, "stable") == np.argsort(-logits, 1, "stable")).all()


def test_where_no_temperature_is_best_it_stays_one():
    """All right: the colder the better, without end. Worse than chance: the hotter the better."""
    logits, labels = world(np.random.default_rng(5), 60)
    for worst in (logits.argmax(1), logits.argmin(1)):
        found = fit_temperature(logits, worst)
        assert found.value == 1
        assert np.isnan(found.interval).all()
    assert fit_temperature(logits, labels).interval.low > 0


@pytest.mark.slow
def test_the_interval_of_the_temperature_covers_the_truth():
    random = np.random.default_rng(6)
    found = [fit_temperature(*world(random, 150, 1.8)).interval for _ in range(400)]
    assert 0.93 <= np.mean([low <= 1.8 <= high for low, high in found]) <= 0.97


def test_a_temperature_calibrates_other_images():
    random = np.random.default_rng(7)
    temperature = fit_temperature(*world(random, 2000, 3)).value
    logits, labels = world(random, 2000, 3)
    before, after = (calibration.measures(scores, labels) for scores in (logits, logits / temperature))
    assert before["ece"] > 0.1 > after["ece_by_luck"] > after["ece"]
    assert after["nll"] < before["nll"]
    assert after["brier"] < before["brier"]


# --- table and picture -----------------------------------------------------------------------------------------------


def test_table_and_picture():
    logits, labels = world(np.random.default_rng(8), 300, 3)
    curves = {"as trained": decisions(logits, labels), "temperature 3": decisions(logits / 3, labels)}
    rows = list(csv.DictReader(io.StringIO(calibration.reliability_csv(curves).decode())))
    for name in curves:
        for kind in ("equal width", "equal mass"):
            mine = [row for row in rows if (row["outputs"], row["bins"]) == (name, kind)]
            assert sum(int(row["decisions"]) for row in mine) == 300
            weighted = sum(int(row["decisions"]) * float(row["accuracy"]) for row in mine)
            assert weighted == pytest.approx((logits.argmax(1) == labels).sum(), abs=0.01)
            assert all(
                float(row["accuracy_low"]) <= float(row["accuracy"]) <= float(row["accuracy_high"]) for row in mine
            )
    png = calibration.reliability_figure(curves, "x $y")
    with Image.open(io.BytesIO(png)) as image:
        assert image.size[0] > 300
    assert png == calibration.reliability_figure(curves, "x $y")
    assert png != calibration.reliability_figure({"as trained": curves["as trained"]}, "x $y")
    assert probabilities(logits / 3, False).argmax(1).tolist() == logits.argmax(1).tolist()


def test_one_image_and_none():
    for images in (0, 1):
        curve = {"as trained": decisions(np.zeros((images, 2)), np.zeros(images, int))}
        calibration.reliability_csv(curve)
        calibration.reliability_figure(curve, "")
