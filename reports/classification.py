"""The classification report: every class's precision, recall and F1, and the metrics with their intervals, as text."""

from collections.abc import Mapping, Sequence

import numpy as np
from tabulate import tabulate

from model.metric import per_class
from utils import printable


def classification_report(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
) -> str:
    """The report as text for people.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) of 0 and 1 for multi-label data.
        classes: C names.
        values: metrics over all images.
        intervals: of each metric, the ends of its 95% interval.
    """
    table = per_class(logits, labels)
    rows = [
        [printable(name), table["precision"][i], table["recall"][i], table["f1"][i], int(table["support"][i])]
        for i, name in enumerate(classes)
    ]
    by_class = tabulate(rows, ["class", "precision", "recall", "f1", "images"], floatfmt=".4f", disable_numparse=[0])
    return f"{metrics_table(values, intervals)}\n\n{by_class}\n"


def metrics_table(values: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> str:
    """Each metric with its 95% interval."""
    rows = [
        [name, "undefined" if np.isnan(value) else f"{value:.4f}", _interval(intervals.get(name))]
        for name, value in values.items()
    ]
    return tabulate(
        rows, ["metric", "value", "95% interval"], disable_numparse=True, colalign=("left", "right", "left")
    )


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None or np.isnan(ends).any() else f"{ends[0]:.4f} to {ends[1]:.4f}"
