"""The threshold keeps its promise, however the net is; curves and counts are those of a count by hand."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from scipy.special import betaincinv

from reports import threshold
from reports.threshold import accept, choose_threshold, coverage_curve, lower_bound


def world(random, images, power):
    """Confidences, and whether the image is right: with probability confidence ** power."""
    confidence = 1 - 0.7 * random.beta(0.5, 1.5, size=images)
    return confidence, random.random(images) < confidence**power


def test_lower_bound_is_scipys():
    for right, images in [(0, 10), (1, 3), (57, 60), (149, 149), (990, 1000), (0, 0)]:
        expected = stats.binomtest(right, images, alternative="greater").proportion_ci().low if images else 0
        assert lower_bound(right, images) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.7, 0.9]), st.booleans()), min_size=1, max_size=30))
def test_curve_is_what_accepting_gives(pairs):
    confidence, right = (np.array(values) for values in zip(*pairs, strict=True))
    thresholds, coverage, accuracy = coverage_curve(confidence, right)
    assert thresholds.tolist() == sorted(set(confidence.tolist()), reverse=True)
    for at, share, value in zip(thresholds, coverage, accuracy, strict=True):
        found = accept(confidence, right, at)
        assert (found.coverage, found.accuracy) == pytest.approx((share, value))


def test_equal_confidences_are_accepted_together():
    confidence = np.repeat([0.9, 0.6], [400, 600])
    right = np.arange(1000) >= 4  # 396 of 400 and all others
    assert choose_threshold(confidence, right, 0.97) == 0.6
    assert choose_threshold(confidence, right, 0.999) is None


def test_there_may_be_none():
    confidence, right = world(np.random.default_rng(0), 100, 1)
    assert choose_threshold(confidence, right, 0.98) is None  # 148 right ones of 148 would not prove 98%
    assert choose_threshold(confidence, np.zeros(100, bool), 0.1) is None
    assert choose_threshold(np.zeros(0), np.zeros(0, bool), 0.5) is None
    assert choose_threshold(np.linspace(0.5, 1, 149), np.ones(149, bool), 0.98) == 0.5


@pytest.mark.parametrize(("power", "target", "images"), [(1, 0.9, 300), (0.3, 0.95, 400), (0, 0.9, 300)])
def test_the_promise_holds(power, target, images):
    """In at most 5% of the simulated splits is the true accuracy above the threshold less than what is promised.

    With power 0 the confidence says nothing: each threshold accepts images of one accuracy, just below the target, and
    the best of all thresholds would be a false promise far more often.
    """
    random = np.random.default_rng(1)
    everything = world(random, 400_000, power)
    broken, best_of_all, given = 0, 0, 0
    for _ in range(500):
        confidence, right = world(random, images, power)
        if power == 0:
            right &= random.random(images) < target - 0.005
        chosen = choose_threshold(confidence, right, target)
        if chosen is not None:
            given += 1
            broken += power == 0 or accept(*everything, chosen).accuracy < target
        if power == 0:
            found = np.cumsum(right[np.argsort(-confidence)])
            best_of_all += betaincinv(found, np.arange(images) + 2 - found, threshold.LEVEL).max() >= target
    assert broken / 500 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 500) * (power == 0)
    if power == 0:
        assert best_of_all / 500 > 0.1
    else:
        assert given > 350


def test_counts():
    found = accept(np.array([0.9, 0.8, 0.8, 0.3]), np.array([True, False, True, True]), 0.8)
    assert found == (4, 3, 2)
    as_dict = found.as_dict()
    assert (as_dict["coverage"], as_dict["accuracy"]) == pytest.approx((0.75, 2 / 3))
    assert as_dict["accuracy_interval"][0] < 2 / 3 < as_dict["accuracy_interval"][1]
    none = accept(np.array([0.5]), np.array([True]), 0.9)
    assert np.isnan(none.accuracy)
    assert np.isnan(none.as_dict()["accuracy_interval"]).all()
    assert np.isnan(accept(np.zeros(0), np.zeros(0, bool), 0).coverage)


def test_table_and_picture():
    curves = {"as trained": world(np.random.default_rng(2), 5000, 1)}
    rows = list(csv.DictReader(io.StringIO(threshold.coverage_csv(curves).decode())))
    assert len(rows) == 100
    assert float(rows[-1]["coverage"]) == 1
    assert float(rows[-1]["accuracy"]) == pytest.approx(curves["as trained"][1].mean(), abs=1e-6)
    assert threshold.coverage_csv({"none": (np.zeros(0), np.zeros(0, bool))}).count(b"\n") == 1
    png = threshold.coverage_figure(curves, "x $y", 0.98, 0.9)
    with Image.open(io.BytesIO(png)) as image:
        assert image.size[0] > 300
    assert png == threshold.coverage_figure(curves, "x $y", 0.98, 0.9)
    threshold.coverage_figure({"none": (np.zeros(0), np.zeros(0, bool))}, "")
