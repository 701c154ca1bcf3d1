"""How far a net's confidence is what it says: reliability, its measures, and one temperature that mends it. No torch.

A decision is the predicted class of an image; of multi-label data it is each class of each image, there or not there.
"""

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logsumexp, softmax

from model.metric import predictions
from reports.intervals import Interval, Z, wilson
from reports.misclassified import probabilities
from reports.tables import csv_bytes
from training.curves import png_bytes
from utils import UserError

Array = np.ndarray[Any, Any]

BINS: Final = 15  # Guo et al. 2017, and what torchmetrics takes
COLDEST, HOTTEST = 0.01, 100.0  # temperatures that are looked at
BEFORE, AFTER = "#7a7a7a", "#0072b2"
SIMULATIONS: Final = 2000


class Bins(NamedTuple):
    """Decisions gathered by their confidence, each (K,): the bin's ends, and what is in it; nan where nothing is."""

    low: Array
    high: Array
    decisions: Array
    confidence: Array
    accuracy: Array


class Temperature(NamedTuple):
    """What logits are divided by, the interval of it, and the images it was fitted on."""

    value: float
    interval: Interval
    images: int


def decisions(logits: Array, labels: Array) -> tuple[Array, Array]:
    """The confidence (M,) float64 of each decision, and whether it is right.

    Args:
        logits: (N, C).
        labels: (N,) class indices, M is N; or (N, C) of 0 and 1, M is N x C.
    """
    chances = probabilities(logits, labels.ndim == 2)
    if labels.ndim == 2:
        right = predictions(logits, True) == (labels > 0.5)
        return np.maximum(chances, 1 - chances).ravel(), right.ravel()
    return chances.max(axis=1, initial=0), predictions(logits, False) == labels


def reliability(confidence: Array, right: Array, equal_mass: bool = False) -> Bins:
    """The decisions in 15 bins: of equal width in 0 … 1, or of about equally many decisions; equal ones stay together.

    A bin holds its lower end, the last one its upper end too.
    """
    shares = np.linspace(0, 1, BINS + 1)
    edges = shares
    if equal_mass and len(confidence):
        edges = np.unique(np.quantile(confidence, shares, method="lower"))
        edges = np.append(edges, edges[-1:]) if len(edges) == 1 else edges
    count = len(edges) - 1
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, count - 1)
    many = np.bincount(place, minlength=count)
    sums = [np.bincount(place, values, minlength=count) for values in (confidence, right)]
    means = [np.divide(total, many, out=np.full(count, np.nan), where=many > 0) for total in sums]
    return Bins(edges[:-1], edges[1:], many, *means)


def calibration_error(bins: Bins) -> float:
    """Expected calibration error: mean distance of accuracy and confidence in a bin, weighted by its decisions."""
    total = bins.decisions.sum()
    return float(np.nansum(bins.decisions * np.abs(bins.accuracy - bins.confidence)) / total) if total else math.nan


def luck(bins: Bins, seed: int = 0) -> float:
    """The expected calibration error that a perfectly calibrated net stays below in 95 of 100 sets of such images.

    The error is above 0 by chance alone, and the more so the fewer the images; one that is smaller says nothing. The
    decisions of a bin are taken to be equally likely to be right.
    """
    held = bins.decisions > 0
    many, chance = bins.decisions[held], np.clip(bins.confidence[held], 0, 1)
    right = np.random.default_rng(seed).binomial(many, chance, size=(SIMULATIONS, len(many)))  # (simulations, K)
    errors = np.abs(right - many * chance).sum(axis=1) / max(1, many.sum())
    return float(np.quantile(errors, 0.95)) if len(many) else math.nan


def brier(logits: Array, labels: Array) -> float:
    """Mean squared error of the probabilities: summed over the classes (Brier 1950); of multi-label data their mean."""
    chances = probabilities(logits, labels.ndim == 2)
    if labels.ndim == 2:
        return float(np.square(chances - labels).mean())
    return float(np.square(chances - np.eye(logits.shape[1])[labels]).sum(axis=1).mean())


def nll(logits: Array, labels: Array, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels, in nats; of multi-label data per class.

    Unlike the loss it knows no class weights and no smoothing.
    """
    scores = logits.astype(np.float64) / temperature
    if labels.ndim == 2:
        return float((np.logaddexp(0, scores) - labels * scores).mean())
    own = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    return float((logsumexp(scores, axis=1) - own).mean())


def measures(logits: Array, labels: Array) -> dict[str, float]:
    """ece, ece_equal_mass, ece_by_luck, brier and nll; nan for logits that are not finite."""
    names = ("ece", "ece_equal_mass", "ece_by_luck", "brier", "nll")
    if not len(logits) or not np.isfinite(logits).all():
        return dict.fromkeys(names, math.nan)
    wide, even = (reliability(*decisions(logits, labels), equal_mass) for equal_mass in (False, True))
    errors = (calibration_error(wide), calibration_error(even), luck(wide))
    return dict(zip(names, (*errors, brier(logits, labels), nll(logits, labels)), strict=True))


# --- temperature -----------------------------------------------------------------------------------------------------


def fit_temperature(logits: Array, labels: Array) -> Temperature:
    """The temperature with the smallest negative log-likelihood (Guo et al., arXiv 1706.04599), and its interval.

    The likelihood is convex in 1 / temperature, so that its slope has one root. The interval is that of the likelihood
    ratio. Where every decision is right, or the net knows nothing, no temperature is best: it stays 1.

    Args:
        logits: (N, C), of images that the net was not trained on.
        labels: (N,) class indices, or (N, C) of 0 and 1.

    Raises:
        UserError: a logit is not finite, or there is no image.
    """
    if not len(logits) or not np.isfinite(logits).all():
        raise UserError("a temperature needs logits that are finite, of one image or more")
    scores = logits.astype(np.float64)
    coldest, hottest = math.log(1 / HOTTEST), math.log(1 / COLDEST)  # of log(1 / temperature)

    def slope(log_inverse: float) -> float:
        return _slope(scores, labels, math.exp(log_inverse))

    if decisions(logits, labels)[1].all() or slope(coldest) >= 0 or slope(hottest) <= 0:
        return Temperature(1.0, Interval(math.nan, math.nan), len(logits))
    best = float(brentq(slope, coldest, hottest, xtol=1e-13))
    value = math.exp(-best)
    if (lowest := nll(scores, labels, value)) > nll(scores, labels):  # by rounding alone, at a temperature near 1
        value, best, lowest = 1.0, 0.0, nll(scores, labels)
    size = labels.size  # (the likelihood of multi-label data is a mean over images and classes)

    def excess(log_inverse: float) -> float:
        return 2 * size * (nll(scores, labels, math.exp(-log_inverse)) - lowest) - Z**2

    ends = [
        math.exp(-float(brentq(excess, best, end, xtol=1e-9))) if excess(end) > 0 else math.exp(-end)
        for end in (hottest, coldest)
    ]
    return Temperature(value, Interval(*ends), len(logits))


def _slope(scores: Array, labels: Array, inverse: float) -> float:
    """The derivative of the negative log-likelihood by 1 / temperature."""
    if labels.ndim == 2:
        return float((scores * (expit(inverse * scores) - labels)).mean())
    own = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    return float(((softmax(inverse * scores, axis=1) * scores).sum(axis=1) - own).mean())


# --- as a table and a picture ----------------------------------------------------------------------------------------


def reliability_csv(curves: Mapping[str, tuple[Array, Array]]) -> bytes:
    """A row for each bin that holds a decision: its ends, decisions, mean confidence, accuracy with its 95% interval.

    Args:
        curves: confidence and right by a name, such as "as trained" and "temperature 1.3".
    """
    header = ["outputs", "bins", "from", "to", "decisions", "confidence", "accuracy", "accuracy_low", "accuracy_high"]
    rows = []
    for name, curve in curves.items():
        for equal_mass in (False, True):
            bins = reliability(*curve, equal_mass)
            for i in np.flatnonzero(bins.decisions):
                ends = wilson(round(bins.accuracy[i] * bins.decisions[i]), int(bins.decisions[i]))
                numbers = (bins.confidence[i], bins.accuracy[i], *ends)
                row = [name, "equal mass" if equal_mass else "equal width", *(round(float(e[i]), 6) for e in bins[:2])]
                rows.append([*row, int(bins.decisions[i]), *(round(float(number), 6) for number in numbers)])
    return csv_bytes(header, rows)


def reliability_figure(curves: Mapping[str, tuple[Array, Array]], title: str) -> bytes:
    """A PNG: accuracy with its 95% interval against confidence, in bins of equal width and of equal mass, and counts.

    Args:
        curves: confidence and right by a name, one or two.
        title: what was evaluated.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    for column, equal_mass in enumerate((False, True)):
        above, below = panels[:, column]
        above.plot((0, 1), (0, 1), color="black", linewidth=0.8, linestyle=":")
        for colour, (name, curve) in zip((BEFORE, AFTER)[-len(curves) :], curves.items(), strict=True):
            _draw(above, below, reliability(*curve, equal_mass), name, colour)
        above.set_title(f"bins of equal {'mass' if equal_mass else 'width'}")
        above.set_ylabel("accuracy")
        above.set_ylim(-0.02, 1.02)
        above.set_xlim(-0.02, 1.02)
        above.legend(frameon=False, loc="upper left")
        below.set_ylabel("decisions")
        below.set_xlabel("confidence")
        below.yaxis.get_major_locator().set_params(integer=True)
        for panel in (above, below):
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, parse_math=False)
    return png_bytes(figure)


def _draw(above: Any, below: Any, bins: Bins, name: str, colour: str) -> None:
    held = bins.decisions > 0
    ends = [wilson(round(a * n), int(n)) for a, n in zip(bins.accuracy[held], bins.decisions[held], strict=True)]
    middle = bins.accuracy[held]
    bars = np.abs(np.array(ends).reshape(-1, 2).T - middle)  # (2, K) below and above
    label = f"{name}: error {calibration_error(bins):.4f}"
    above.errorbar(bins.confidence[held], middle, bars, color=colour, marker="o", markersize=4, capsize=2, label=label)
    below.stairs(bins.decisions, np.append(bins.low, bins.high[-1:]), color=colour)
