"""ROC and precision-recall curves, each class against the rest. No torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from reports.tables import csv_bytes
from training.curves import png_bytes
from utils import printable

Array = np.ndarray[Any, Any]

MOST_LINES: Final = 10  # classes drawn of many: those with the smallest area
POINTS: Final = 200  # of a curve in the figure and the CSV file


@dataclass(frozen=True)
class Curve:
    """One curve and the area under it.

    Args:
        x: false positive rate, or recall; rising.
        y: true positive rate, or precision.
        area: under the ROC curve, or average precision.
    """

    x: Array
    y: Array
    area: float


def thresholds(scores: Array, truth: Array) -> tuple[Array, Array]:
    """Positives and all images above each distinct score, the highest score first; two int64 arrays (T,)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # equal scores pass a threshold together
    return np.cumsum(truth[order])[ends], ends + 1


def roc(scores: Array, truth: Array) -> Curve | None:
    """The ROC curve; None when every image is positive, or none is.

    Args:
        scores: (N,) of an image being positive.
        truth: bool (N,).
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    found, passed = thresholds(scores, truth)
    x = np.concatenate([[0.0], (passed - found) / negatives])
    y = np.concatenate([[0.0], found / positives])
    return Curve(x, y, float(np.trapezoid(y, x)))


def precision_recall(scores: Array, truth: Array) -> Curve | None:
    """The precision-recall curve and average precision; None when no image is positive. Arguments as for `roc`.

    It begins at recall 0 with precision 1, as is the custom.
    """
    positives = int(truth.sum())
    if not positives:
        return None
    found, passed = thresholds(scores, truth)
    recall, precision = found / positives, found / passed
    area = float((np.diff(recall, prepend=0.0) * precision).sum())
    return Curve(np.concatenate([[0.0], recall]), np.concatenate([[1.0], precision]), area)


Kind = Callable[[Array, Array], Curve | None]
KINDS: Final[Mapping[str, tuple[Kind, str, str]]] = {
    "ROC": (roc, "false positive rate", "true positive rate"),
    "precision-recall": (precision_recall, "recall", "precision"),
}


@dataclass(frozen=True)
class Curves:
    """The curves of one kind.

    Args:
        kind: a key of KINDS.
        by_class: of each class index that has one.
        micro: of all decisions together, one for each image and class.
        macro: the mean area over the classes that have a curve; nan when there is none.
    """

    kind: str
    by_class: Mapping[int, Curve]
    micro: Curve | None
    macro: float


def curves(kind: str, probabilities: Array, labels: Array) -> Curves:
    """All curves of a kind.

    Args:
        kind: a key of KINDS.
        probabilities: (N, C).
        labels: (N,) class indices, or (N, C) of 0 and 1.
    """
    draw = KINDS[kind][0]
    truth = labels > 0.5 if labels.ndim == 2 else labels[:, None] == np.arange(probabilities.shape[1])
    found = {i: draw(*pair) for i, pair in enumerate(zip(probabilities.T, truth.T, strict=True))}
    by_class = {index: thinned(curve) for index, curve in found.items() if curve is not None}
    micro = draw(probabilities.ravel(), truth.ravel())
    macro = float(np.mean([curve.area for curve in by_class.values()])) if by_class else float("nan")
    return Curves(kind, by_class, None if micro is None else thinned(micro), macro)


def thinned(curve: Curve) -> Curve:
    """The curve through at most POINTS of its points, its ends among them; the area stays that of all."""
    if len(curve.x) <= POINTS:
        return curve
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(curve.x)) + np.abs(np.diff(curve.y)))])
    chosen = np.searchsorted(length, np.linspace(0, length[-1], POINTS), side="left").clip(0, len(length) - 1)
    chosen[0], chosen[-1] = 0, len(length) - 1
    chosen = np.unique(chosen)
    return Curve(curve.x[chosen], curve.y[chosen], curve.area)


def drawn(found: Curves) -> list[int]:
    """The classes whose curves are drawn: of many, those with the smallest area."""
    return sorted(sorted(found.by_class, key=lambda index: (found.by_class[index].area, index))[:MOST_LINES])


def curves_csv(found: Curves, classes: Sequence[str]) -> bytes:
    """One row for each point that is drawn, of the drawn classes and of all together."""
    _, across, up = KINDS[found.kind]
    named = [(classes[index], found.by_class[index]) for index in drawn(found)]
    named += [] if found.micro is None else [("(all together)", found.micro)]
    rows = (
        [name, curve.area, x, y]
        for name, curve in named
        for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True)
    )
    return csv_bytes(["class", "area", across, up], rows)


def areas(found: Curves, num_classes: int) -> list[float]:
    """The area under each class's curve (C); nan where it has none."""
    return [found.by_class[index].area if index in found.by_class else float("nan") for index in range(num_classes)]


def curves_figure(all_kinds: Sequence[Curves], classes: Sequence[str]) -> bytes:
    """A panel for each kind as a PNG; of many classes those with the smallest area are drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(all_kinds), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(all_kinds), squeeze=False)[0]
    for panel, found in zip(panels, all_kinds, strict=True):
        _draw(panel, found, classes)
    return png_bytes(figure)


def _draw(panel: Any, found: Curves, classes: Sequence[str]) -> None:
    for index in drawn(found):
        curve = found.by_class[index]
        panel.plot(curve.x, curve.y, linewidth=1, label=f"{curve.area:.3f} {printable(classes[index])[:20]}")
    if found.micro is not None:
        panel.plot(found.micro.x, found.micro.y, "k--", linewidth=1.5, label=f"{found.micro.area:.3f} all together")
    if found.kind == "ROC":
        panel.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    _, across, up = KINDS[found.kind]
    panel.set(xlabel=across, ylabel=up, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title=found.kind)
    panel.grid(alpha=0.25)
    legend = panel.legend(*panel.get_legend_handles_labels(), frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
