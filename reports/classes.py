"""How well each class is recognised: precision, recall and F1 with intervals. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from model.metric import counts
from reports.intervals import Interval, wilson
from reports.tables import csv_bytes
from training.curves import png_bytes
from utils import printable

Array = np.ndarray[Any, Any]

COLOURS: Final = {"precision": "#4878a8", "recall": "#d1603d", "f1": "#5f5f5f"}
MOST_BARS: Final = 30  # classes of one figure: beyond, the worst by F1


@dataclass(frozen=True)
class ClassScore:
    """How well one class is recognised.

    Args:
        index: of the class.
        support: images that have it.
        given: images it was predicted for.
        scores: precision, recall and f1; nan where there is nothing to divide by.
        intervals: the 95% interval of each.
    """

    index: int
    support: int
    given: int
    scores: dict[str, float]
    intervals: dict[str, Interval]


def class_scores(logits: Array, labels: Array) -> list[ClassScore]:
    """Every class's scores, in the order of the classes.

    Precision is a share of the images that were given the class, recall of those that have it: Wilson's intervals. F1
    is 2J / (1 + J), which rises with J, the share rightly predicted of the images that have the class or were given it;
    so its interval is that of J, put through the same formula.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) of 0 and 1.
    """
    found = []
    for index, (right, given, support) in enumerate(zip(*map(np.ndarray.tolist, counts(logits, labels)), strict=True)):
        either = given + support - right
        low, high = wilson(right, either)
        scores = {
            "precision": _share(right, given),
            "recall": _share(right, support),
            "f1": _share(2 * right, given + support),
        }
        intervals = {
            "precision": wilson(right, given),
            "recall": wilson(right, support),
            "f1": Interval(2 * low / (1 + low), 2 * high / (1 + high)),
        }
        found.append(ClassScore(index, support, given, scores, intervals))
    return found


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def worst_first(scores: Sequence[ClassScore]) -> list[ClassScore]:
    """By F1, the lowest first; those that never occur come last."""
    return sorted(scores, key=lambda score: (math.isnan(score.scores["f1"]), score.scores["f1"], score.index))


def classes_csv(scores: Sequence[ClassScore], classes: Sequence[str]) -> bytes:
    """One row for each class."""
    header = ["class", "images", "predicted"]
    header += [f"{name}{end}" for name in COLOURS for end in ("", " low", " high")]
    rows = (
        [classes[score.index], score.support, score.given]
        + [number for name in COLOURS for number in (score.scores[name], *score.intervals[name])]
        for score in scores
    )
    return csv_bytes(header, rows)


def classes_figure(scores: Sequence[ClassScore], classes: Sequence[str]) -> bytes:
    """Bars of precision, recall and F1 with intervals as a PNG; of many classes those with the lowest F1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = (worst_first(scores) if len(scores) > MOST_BARS else list(scores))[:MOST_BARS]
    figure = Figure(figsize=(7.5, 1.2 + 0.42 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    places = np.arange(len(shown))
    for shift, (name, colour) in zip((-0.27, 0, 0.27), COLOURS.items(), strict=True):
        values = np.array([score.scores[name] for score in shown])
        ends = np.array([score.intervals[name] for score in shown])  # (classes, 2)
        panel.barh(places + shift, np.nan_to_num(values), 0.25, color=colour, label="F1" if name == "f1" else name)
        reach = np.abs(ends - values[:, None]).T
        panel.errorbar(values, places + shift, xerr=reach, fmt="none", ecolor="black", elinewidth=0.8, capsize=1.5)
    names = [f"{printable(classes[score.index])[:24]} ({score.support:,})" for score in shown]
    panel.set_yticks(places, names, parse_math=False)
    panel.set_ylim(len(shown) - 0.5, -0.5)
    panel.set_xlim(0, 1)
    panel.set_xlabel("lines: 95% intervals; in brackets: images of the class")
    panel.grid(axis="x", alpha=0.25)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return png_bytes(figure)
