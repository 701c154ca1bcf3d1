"""The confusion matrix, as numbers and as a picture."""

from collections.abc import Sequence

import numpy as np

from reports.tables import csv_bytes
from training.curves import png_bytes
from utils import printable

LARGEST_WITH_NUMBERS = 25  # classes; beyond it the cells are too small for figures
LARGEST_WITH_NAMES = 100  # classes; beyond it names would lie over each other, and drawing them takes most of the time


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts of images, int64 (C, C): a row for each true class, a column for each predicted one."""
    cells = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_csv(matrix: np.ndarray, classes: Sequence[str]) -> bytes:
    """The matrix with the names of the classes; rows are true, columns predicted."""
    return csv_bytes(
        ["true \\ predicted", *classes], ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
    )


def confusion_figure(matrix: np.ndarray, classes: Sequence[str], title: str) -> bytes:
    """The matrix as a PNG: colour is the share of the true class, figures are images."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(classes)
    size = min(4.0 + 0.42 * count, 24.0)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    picture = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= LARGEST_WITH_NAMES:
        names = [printable(name)[:24] for name in classes]
        panel.set_xticks(range(count), names, rotation=90 if count > 6 else 30, parse_math=False)
        panel.set_yticks(range(count), names, parse_math=False)
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    panel.set_title(title, parse_math=False)
    if count <= LARGEST_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            shade = "white" if shares[row, column] > 0.5 else "black"
            panel.text(column, row, str(matrix[row, column]), ha="center", va="center", color=shade, fontsize=9)
    figure.colorbar(picture, ax=panel, label="share of the true class", shrink=0.8)
    return png_bytes(figure)
