"""The images the net got wrong, the most confident mistakes first."""

from collections.abc import Sequence

import numpy as np

from model.metric import predictions
from reports.tables import csv_bytes


def probabilities(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    """float64 (N, C): softmax over the classes, or each class's own sigmoid for multi-label data."""
    scores = logits.astype(np.float64)
    if multi_label:
        return 0.5 * (1 + np.tanh(0.5 * scores))
    with np.errstate(invalid="ignore"):  # of infinite ones it is nan
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: np.ndarray = scores / scores.sum(axis=1, keepdims=True)
    return chances


def confidences(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 (N,): the probability of the predicted class; for multi-label data, of what it got most wrong.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) of 0 and 1.
    """
    multi_label = labels.ndim == 2
    chances = probabilities(logits, multi_label)
    found: np.ndarray = (np.where(labels > 0.5, 1 - chances, chances) if multi_label else chances).max(axis=1)
    return found


def mistakes(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int64: the images that are wrong, the most confident mistakes first. Arguments as those of `confidences`."""
    multi_label = labels.ndim == 2
    predicted = predictions(logits, multi_label)
    wrong = ((predicted != (labels > 0.5)).any(axis=1) if multi_label else predicted != labels).nonzero()[0]
    order: np.ndarray = wrong[np.argsort(-confidences(logits, labels)[wrong], kind="stable")]
    return order


def misclassified_csv(paths: Sequence[str], logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> bytes:
    """One row for each wrong image: path, true and predicted class, and the probability of every class.

    Args:
        paths: N paths relative to the data folder.
        logits: (N, C).
        labels: (N,) class indices, or (N, C) of 0 and 1; then true and predicted name several classes, joined by "|".
        classes: C names.
    """
    multi_label = labels.ndim == 2
    chances = probabilities(logits, multi_label)
    predicted = predictions(logits, multi_label)
    confidence = confidences(logits, labels)
    names = np.array(classes, dtype=object)

    def named(row: np.ndarray) -> str:
        return "|".join(names[row > 0.5]) if multi_label else str(names[row])

    header = ["path", "true", "predicted", "confidence", *(f"p({name})" for name in classes)]
    rows = (
        [paths[i], named(labels[i]), named(predicted[i]), round(confidence[i], 6), *np.round(chances[i], 6).tolist()]
        for i in mistakes(logits, labels)
    )
    return csv_bytes(header, rows)
