"""Metrics, each computed once from the logits of all images of a split, never as a mean of batch means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, SupportsFloat

import numpy as np

from utils import UserError, did_you_mean, select

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Metric:
    """One number for the outputs on a whole split.

    Args:
        function: logits (N, C) float, labels -> number. Labels are (N,) class indices, or (N, C) of 0 and 1 for
            multi-label data.
        greater_is_better: its direction.
        multi_label: whether it has a meaning for multi-label data.
        proportion: whether it is a share of the images, so that Wilson's interval holds.
        fewest_classes: with fewer classes it says nothing.
    """

    function: Callable[[Array, Array], float]
    greater_is_better: bool = True
    multi_label: bool = True
    proportion: bool = False
    fewest_classes: int = 2

    def suits(self, num_classes: int, multi_label: bool) -> bool:
        """Whether it says something about such data."""
        return num_classes >= self.fewest_classes and (self.multi_label or not multi_label)

    def __call__(self, logits: Array, labels: Array) -> float:
        """The metric; nan without images and when a logit is not finite."""
        return float(self.function(logits, labels)) if len(logits) and np.isfinite(logits).all() else float("nan")


def compute(
    names: Sequence[str],
    logits: Array,
    labels: Array,
    loss: Callable[[Any, Any], SupportsFloat] | None = None,
) -> dict[str, float]:
    """The named metrics over all images.

    Args:
        names: keys of `metrics`.
        logits: (N, C) float.
        labels: (N,) class indices, or (N, C) of 0 and 1 for multi-label data.
        loss: a loss that takes arrays; its value comes first, as "loss".

    Raises:
        UserError: for an unknown name, and for a metric that multi-label data cannot have.
    """
    values = {} if loss is None else {"loss": float(loss(logits, labels))}
    for name in names:
        metric = select(name, metrics, "metric")
        if labels.ndim == 2 and not metric.multi_label:
            fitting = [other for other in metrics if metrics[other].multi_label]
            raise UserError(f'metric "{name}" is for one class per image; for several use {", ".join(fitting)}')
        values[name] = metric(logits, labels)
    return values


def greater_is_better(name: str) -> bool:
    """The direction of "loss" or of a metric.

    Raises:
        UserError: for an unknown name.
    """
    if name == "loss":
        return False
    if name not in metrics:
        raise UserError(f'"{name}" is neither "loss" nor a known metric{did_you_mean(name, ["loss", *metrics])}')
    return metrics[name].greater_is_better


def predictions(logits: Array, multi_label: bool) -> Array:
    """The predicted class (N,) of each image; for multi-label data (N, C), true where the probability is above 0.5."""
    predicted: Array = logits > 0 if multi_label else logits.argmax(axis=1)
    return predicted


def rightly(logits: Array, labels: Array) -> Array:
    """Bool (N,): of which images the class, or all of the classes, are predicted."""
    if labels.ndim == 2:
        return np.asarray((predictions(logits, True) == (labels > 0.5)).all(axis=1))
    return np.asarray(predictions(logits, False) == labels)


def counts(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """For each class (C,): images rightly given it, images given it, images that have it."""
    predicted = predictions(logits, labels.ndim == 2)
    if labels.ndim == 2:
        truth = labels > 0.5
        return (predicted & truth).sum(axis=0), predicted.sum(axis=0), truth.sum(axis=0)
    count = partial(np.bincount, minlength=logits.shape[1])
    return count(labels[predicted == labels]), count(predicted), count(labels)


def per_class(logits: Array, labels: Array) -> dict[str, Array]:
    """precision, recall and f1 of each class (C,), 0 where nothing was predicted or nothing is there, and support."""
    return _shares(*counts(logits, labels))


def _shares(right: Array, given: Array, actual: Array) -> dict[str, Array]:
    return {
        "precision": _ratio(right, given),
        "recall": _ratio(right, actual),
        "f1": _ratio(2 * right, given + actual),
        "support": actual,
    }


def _ratio(part: Array, whole: Array, otherwise: float = 0.0) -> Array:
    return np.asarray(np.divide(part, whole, out=np.full(np.shape(part), otherwise), where=whole > 0))


# --- the metrics -----------------------------------------------------------------------------------------------------


def accuracy(logits: Array, labels: Array) -> float:
    """Share of the images whose class is predicted; for multi-label data, whose classes are all predicted."""
    return float(rightly(logits, labels).mean())


def top_k(logits: Array, labels: Array, k: int) -> float:
    """Share of the images whose class is among the k largest logits; among equal ones the first class counts as larger.

    1 when there are at most k classes.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)  # (N, 1)
    before = np.arange(logits.shape[1]) < labels[:, None]  # (N, C)
    ahead = (logits > own) | ((logits == own) & before)
    return float((ahead.sum(axis=1) < k).mean())


def macro(logits: Array, labels: Array, what: str) -> float:
    """Mean of precision, recall or f1 over the classes that occur in the labels or the predictions.

    A class of these that is never predicted has precision 0, one without images recall 0. nan when there is no class.
    """
    return float(macro_of(*counts(logits, labels), what))


def macro_of(right: Array, given: Array, actual: Array, what: str) -> Array:
    """`macro` of what `counts` gives, (…, C) each, as (…)."""
    occurs = (given + actual) > 0
    return _ratio((_shares(right, given, actual)[what] * occurs).sum(axis=-1), occurs.sum(axis=-1), np.nan)


def balanced_accuracy(logits: Array, labels: Array) -> float:
    """Mean recall over the classes that occur in the labels."""
    return float(balanced_recall(*counts(logits, labels)))


def balanced_recall(right: Array, given: Array, actual: Array) -> Array:
    """`balanced_accuracy` of what `counts` gives, (…, C) each, as (…)."""
    return _ratio(_ratio(right, actual).sum(axis=-1), (actual > 0).sum(axis=-1), np.nan)


def auroc(logits: Array, labels: Array) -> float:
    """Area under the ROC curve, each class against the rest, mean over the classes.

    nan when a class has no image or every image: its curve does not exist, a mean of the others would not compare.
    """
    return _mean_over_classes(_area_under_roc, logits, labels)


def average_precision(logits: Array, labels: Array) -> float:
    """Average precision, each class against the rest, mean over the classes; nan when a class has no image."""
    return _mean_over_classes(_average_precision, logits, labels)


def _mean_over_classes(function: Callable[[Array, Array], float], logits: Array, labels: Array) -> float:
    scores, truth = one_against_rest(logits, labels)
    return float(np.mean([function(*column) for column in zip(scores.T, truth.T, strict=True)]))


def one_against_rest(logits: Array, labels: Array) -> tuple[Array, Array]:
    """How high each image scores for each class, float64 (N, C), and whether it has the class, bool (N, C)."""
    scores = logits.astype(np.float64)
    if labels.ndim == 1:
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    return scores, labels > 0.5 if labels.ndim == 2 else labels[:, None] == np.arange(logits.shape[1])


def _area_under_roc(scores: Array, truth: Array) -> float:
    """Of one class: the share of pairs (image with it, image without) in the right order, ties counting half."""
    positives = int(truth.sum())
    pairs = positives * (len(truth) - positives)
    ordered = np.sort(scores)
    ranks = [np.searchsorted(ordered, scores[truth], side) for side in ("left", "right")]
    rank_sum = (ranks[0].sum() + ranks[1].sum() + positives) / 2  # of mean ranks, from 1
    return float(rank_sum - positives * (positives + 1) / 2) / pairs if pairs else float("nan")


def _average_precision(scores: Array, truth: Array) -> float:
    """Of one class: precision at each threshold, weighted by the recall gained there."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # images of equal score pass a threshold together
    found = np.cumsum(truth[order])[ends]
    gained = np.diff(found, prepend=0)
    return float((gained * found / (ends + 1)).sum() / found[-1]) if found[-1] else float("nan")


# What params.json can name in "metrics".
metrics: Final[dict[str, Metric]] = {
    "accuracy": Metric(accuracy, proportion=True),
    "top_3": Metric(partial(top_k, k=3), multi_label=False, proportion=True, fewest_classes=4),
    "top_5": Metric(partial(top_k, k=5), multi_label=False, proportion=True, fewest_classes=6),
    "precision": Metric(partial(macro, what="precision")),
    "recall": Metric(partial(macro, what="recall")),
    "f1": Metric(partial(macro, what="f1")),
    "balanced_accuracy": Metric(balanced_accuracy, multi_label=False),
    "auroc": Metric(auroc),
    "average_precision": Metric(average_precision),
}


def catalogue() -> dict[str, frozenset[str] | None]:
    """The names, for the check of params.json; metrics take no arguments."""
    return dict.fromkeys(metrics, frozenset())
