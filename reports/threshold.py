"""Answers only where the net is sure: accuracy against coverage, and a threshold that keeps a promise. No torch."""

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.special import betaincinv

from reports.intervals import wilson
from reports.tables import csv_bytes
from training.curves import png_bytes

Array = np.ndarray[Any, Any]

STEPS: Final = 20  # thresholds that are tried, each accepting so many more of the images
LEVEL: Final = 0.05  # how often the promise may be broken
AXIS_LOW: Final = 0.05  # of the curve, the share of images below which it is mere noise
COLOURS: Final = ("#7a7a7a", "#0072b2")


class Accepted(NamedTuple):
    """What a threshold does to a split: images accepted of all, and their accuracy, each share with its interval."""

    images: int
    accepted: int
    right: int

    @property
    def coverage(self) -> float:
        """The share of the images that is accepted."""
        return self.accepted / self.images if self.images else math.nan

    @property
    def accuracy(self) -> float:
        """The share of the accepted images whose class is right."""
        return self.right / self.accepted if self.accepted else math.nan

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with Wilson's 95% intervals."""
        return {
            "images": self.images,
            "accepted": self.accepted,
            "coverage": self.coverage,
            "coverage_interval": wilson(self.accepted, self.images),
            "accuracy": self.accuracy,
            "accuracy_interval": wilson(self.right, self.accepted),
        }


def accept(confidence: Array, right: Array, threshold: float) -> Accepted:
    """Counts the images (N,) whose confidence is the threshold or more."""
    kept = confidence >= threshold
    return Accepted(len(confidence), int(kept.sum()), int(right[kept].sum()))


def lower_bound(right: int, images: int) -> float:
    """Clopper and Pearson's (1934) lower end of a share: the truth is above it with 95% confidence, or more."""
    return float(betaincinv(right, images - right + 1, LEVEL)) if right else 0.0


def choose_threshold(confidence: Array, right: Array, target: float) -> float | None:
    """The smallest confidence above which the accuracy is the target or more with 95% confidence; None: there is none.

    Thresholds that accept 5%, 10%, … of the images are tried, from the strictest that could pass, until one fails. In
    that order each may be tested at the full level and the promise still holds for the one that is taken (fixed
    sequence testing, as in Learn then Test, arXiv 2110.01052). Trying all and taking the best would break it.

    Args:
        confidence: (N,), of images that neither training nor evaluation uses.
        right: (N,) whether the class is right.
        target: the accuracy promised, below 1.
    """
    ordered = np.sort(confidence)[::-1]
    chosen = None
    for step in range(1, STEPS + 1):
        threshold = float(ordered[math.ceil(len(ordered) * step / STEPS) - 1]) if len(ordered) else math.inf
        found = accept(confidence, right, threshold)
        if lower_bound(found.accepted, found.accepted) < target:
            continue  # so few images prove nothing, even if all are right
        if lower_bound(found.right, found.accepted) < target:
            break
        chosen = threshold
    return chosen


def coverage_curve(confidence: Array, right: Array) -> tuple[Array, Array, Array]:
    """Threshold, coverage and accuracy (K,) at every confidence that occurs, the strictest first."""
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.diff(confidence[order], append=-np.inf))  # images of equal confidence pass together
    counts = ends + 1
    return confidence[order][ends], counts / max(1, len(order)), np.cumsum(right[order])[ends] / counts


def coverage_csv(curves: Mapping[str, tuple[Array, Array]], rows: int = 100) -> bytes:
    """The curve at about each hundredth of the images: threshold, coverage, accuracy and its 95% interval.

    Args:
        curves: confidence and right by a name.
        rows: the most for each.
    """
    header = ["outputs", "threshold", "coverage", "accuracy", "accuracy_low", "accuracy_high"]
    table = []
    for name, (confidence, right) in curves.items():
        thresholds, coverage, accuracy = coverage_curve(confidence, right)
        wanted = np.searchsorted(coverage, np.arange(1, rows + 1) / rows - 1e-9)
        for i in np.unique(np.minimum(wanted, len(coverage) - 1)) if len(coverage) else ():
            accepted = round(coverage[i] * len(confidence))
            ends = wilson(round(accuracy[i] * accepted), accepted)
            numbers = (thresholds[i], coverage[i], accuracy[i], *ends)
            table.append([name, *(round(float(number), 6) for number in numbers)])
    return csv_bytes(header, table)


def coverage_figure(
    curves: Mapping[str, tuple[Array, Array]], title: str, target: float | None = None, threshold: float | None = None
) -> bytes:
    """A PNG: the accuracy of the accepted images against their share, the last curve with its 95% interval.

    Args:
        curves: confidence and right by a name, one or two.
        title: what was evaluated.
        target: the accuracy promised, if one was.
        threshold: where the last curve is cut, if it is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for colour, (name, (confidence, right)) in zip(COLOURS[-len(curves) :], curves.items(), strict=True):
        _, coverage, accuracy = coverage_curve(confidence, right)
        shown = coverage >= AXIS_LOW
        panel.plot(coverage[shown], accuracy[shown], color=colour, label=name)
        ends = _band(coverage[shown], accuracy[shown], len(confidence)) if name == list(curves)[-1] else None
        if ends is not None:
            panel.fill_between(coverage[shown], *ends, color=colour, alpha=0.15, linewidth=0)
    if target is not None:
        panel.axhline(target, color="black", linewidth=0.8, linestyle=":", label=f"target {target:g}")
    if threshold is not None:
        found = accept(*list(curves.values())[-1], threshold)
        panel.plot([found.coverage], [found.accuracy], "o", color="black", label=f"threshold {threshold:.4f}")
    panel.set_xlabel("coverage: share of the images that is answered")
    panel.set_ylabel("accuracy of those")
    panel.set_xlim(0, 1.01)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="lower left")
    panel.set_title(title, parse_math=False)
    return png_bytes(figure)


def _band(coverage: Array, accuracy: Array, images: int) -> tuple[list[float], list[float]]:
    """The lower and the upper ends of the intervals along a curve."""
    counts = (np.rint(coverage * images), np.rint(accuracy * np.rint(coverage * images)))
    ends = [wilson(int(right), int(accepted)) for accepted, right in zip(*counts, strict=True)]
    return [end.low for end in ends], [end.high for end in ends]
