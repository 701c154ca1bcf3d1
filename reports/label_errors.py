"""Images whose label is suspect, by confident learning (Northcutt et al., arXiv 1911.00068). No torch.

It compares each label with the probabilities of a net that was not trained on the image; a net that was would have
learnt the wrong labels too. For one class per image.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reports.tables import csv_bytes

Array = np.ndarray[Any, Any]


class Suspects(NamedTuple):
    """Images whose label is suspect, the most suspect first, each (K,).

    Attributes:
        images: their places.
        given: its label.
        suggested: the likeliest other class.
        margin: the probability of the label minus that of the likeliest other class, -1 … 1; it orders them.
    """

    images: Array
    given: Array
    suggested: Array
    margin: Array


def thresholds(chances: Array, labels: Array) -> Array:
    """What is a confident probability of each class (C,): the mean one among the images labelled so; inf without any.

    A net that is timid about a class is believed at lower probabilities of it than one that is bold.

    Args:
        chances: probabilities (N, C).
        labels: (N,) class indices.
    """
    classes = chances.shape[1]
    images = np.bincount(labels, minlength=classes)
    own = np.bincount(labels, np.take_along_axis(chances, labels[:, None], axis=1)[:, 0], minlength=classes)
    return np.divide(own, images, out=np.full(classes, np.inf), where=images > 0)


def confident_classes(chances: Array, labels: Array) -> Array:
    """The class (N,) each image confidently belongs to, the likeliest of those above their thresholds; -1 for none."""
    confident = chances >= thresholds(chances, labels)
    likeliest: Array = np.where(confident, chances, -1.0).argmax(axis=1)
    return np.where(confident.any(axis=1), likeliest, -1)


def confident_joint(chances: Array, labels: Array) -> Array:
    """Images (C, C) by their label and the class they confidently belong to; those without one are not counted."""
    found, classes = confident_classes(chances, labels), chances.shape[1]
    counted = found >= 0
    return np.bincount(labels[counted] * classes + found[counted], minlength=classes**2).reshape(classes, classes)


def suspects(chances: Array, labels: Array) -> Suspects:
    """The images that likely belong to another class than their label says (the paper's pruning by class).

    What share of a label's images belongs elsewhere is told by those that are counted as confident; so many of all its
    images are then suspected, those of the smallest margin, as far as the net predicts another class.

    Args:
        chances: probabilities (N, C) of a net that was not trained on these images.
        labels: (N,) class indices.
    """
    joint = confident_joint(chances, labels)
    own = np.take_along_axis(chances, labels[:, None], axis=1)[:, 0]
    others = chances.copy()
    np.put_along_axis(others, labels[:, None], -1.0, axis=1)
    margin = own - others.max(axis=1, initial=-1.0)
    order = np.argsort(margin, kind="stable")
    chosen = []
    for label, row in enumerate(joint):
        members = order[(labels[order] == label) & (margin[order] < 0)]
        elsewhere = (row.sum() - row[label]) / max(1, row.sum())
        chosen.append(members[: round((labels == label).sum() * elsewhere)])
    images = np.concatenate(chosen)
    images = images[np.argsort(margin[images], kind="stable")]
    return Suspects(images, labels[images], others[images].argmax(axis=1), margin[images])


def pairs(found: Suspects) -> list[tuple[int, int, int]]:
    """Label, suggested class and how many images are suspected of it, the most frequent pair first."""
    counted = Counter(zip(found.given.tolist(), found.suggested.tolist(), strict=True))
    return [(*pair, count) for pair, count in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]


def label_errors_csv(found: Suspects, paths: Sequence[str], chances: Array, classes: Sequence[str]) -> bytes:
    """One row for each suspect: path, label, suggested class, the probabilities of both, and the margin.

    Args:
        found: the suspects.
        paths: of all N images.
        chances: (N, C).
        classes: C names.
    """
    header = ["path", "label", "suggested", "p(label)", "p(suggested)", "margin"]
    rows = (
        [
            paths[i],
            classes[given],
            classes[suggested],
            *(round(float(p), 6) for p in (*chances[i, [given, suggested]], m)),
        ]
        for i, given, suggested, m in zip(*found, strict=True)
    )
    return csv_bytes(header, rows)


def pairs_csv(found: Suspects, classes: Sequence[str]) -> bytes:
    """One row for each pair of label and suggested class, with its images."""
    return csv_bytes(
        ["label", "suggested", "images"], ([classes[a], classes[b], count] for a, b, count in pairs(found))
    )
