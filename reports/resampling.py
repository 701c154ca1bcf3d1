"""Metrics of many bootstrap draws: a draw is how often each image counts, so that nothing is sorted anew. No torch."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import numpy as np

from model.metric import balanced_recall, macro_of, metrics, one_against_rest, predictions

Array = np.ndarray[Any, Any]
OfCounts = Callable[[Array], Array]  # (D, N) how often each image was drawn -> (D,) the metric of each draw

AT_ONCE: Final = 2**23  # counts of one chunk of draws, 64 MB
_DENSE: Final = 200  # scores up to which comparing with all images is faster than running sums over them


def drawn_counts(images: int, draws: int, seed: int, added: int = 0, expected: float = 0.0) -> Iterator[Array]:
    """How often each image is drawn when as many are drawn with replacement, int64 (D, images) in chunks of draws.

    Args:
        images: how many there are, and are drawn.
        draws: how often so many are drawn.
        seed: of the draws.
        added: the last so many of the images are no images of the split; they are drawn in the place of others.
        expected: how many of these a draw would have on average if they were drawn on top.
    """
    random, own = np.random.default_rng(seed), images - added
    for start in range(0, draws if own else 0, chunk := max(1, AT_ONCE // max(1, images))):
        rows = min(chunk, draws - start)
        drawn = random.integers(own, size=(rows, own))
        if added:
            replaced = random.binomial(own, expected / (own + expected), size=rows)
            drawn[np.arange(own) < replaced[:, None]] = own + random.integers(added, size=replaced.sum())
        drawn += images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)


def resampled(of_counts: OfCounts, images: int, draws: int, seed: int, added: int = 0, expected: float = 0.0) -> Array:
    """Something of each draw of images (draws, …); arguments as for `drawn_counts`."""
    values = [of_counts(counts) for counts in drawn_counts(images, draws, seed, added, expected)]
    return np.concatenate(values) if values else np.empty(0)


def resampled_metric(
    metric: Callable[[Array, Array], float],
    logits: Array,
    labels: Array,
    draws: int,
    seed: int = 0,
    added: int = 0,
    expected: float = 0.0,
) -> Array:
    """The metric of each draw of images (draws,), nan where it is undefined; the same seed draws the same images.

    Args:
        metric: one of model/metric.py, or any other function of logits and labels, which takes longer.
        logits: (N, C) float.
        labels: (N,) class indices, or (N, C) of 0 and 1.
        draws: how often images are drawn.
        seed: of the draws.
        added: as for `drawn_counts`.
        expected: as for `drawn_counts`.
    """
    prepare = _FAST.get(metric) if np.isfinite(logits).all() else None
    of_counts = prepare(logits, labels) if prepare else partial(_anew, metric, logits, labels)
    return resampled(of_counts, len(labels), draws, seed, added, expected)


def _anew(metric: Callable[[Array, Array], float], logits: Array, labels: Array, counts: Array) -> Array:
    drawn = (np.repeat(np.arange(len(labels)), row) for row in counts)
    return np.array([metric(logits[images], labels[images]) for images in drawn])


def _by_class(function: Callable[[Array, Array, Array], Array], logits: Array, labels: Array) -> OfCounts:
    """Of a metric that knows only how many images of each class are right, were given it, and have it."""
    predicted, classes = predictions(logits, labels.ndim == 2), logits.shape[1]
    if labels.ndim == 2:
        truth = labels > 0.5
        parts = [part.astype(np.float64) for part in (predicted & truth, predicted, truth)]
    else:
        from scipy.sparse import csr_array  # takes a fifth of a second to import

        right, every = predicted == labels, np.ones(len(labels))
        pairs = ((labels, right.astype(np.float64)), (predicted, every), (labels, every))
        images = np.arange(len(labels))
        parts = [csr_array((times, (images, of)), shape=(len(labels), classes)) for of, times in pairs]
    return lambda counts: function(*(np.asarray(counts @ part) for part in parts))


def _over_classes(function: Callable[[Array, int, Array, Array], Array], logits: Array, labels: Array) -> OfCounts:
    """Of a metric that is a mean over the classes, each against the rest."""
    columns = [np.ascontiguousarray(part.T) for part in one_against_rest(logits, labels)]

    def of(counts: Array) -> Array:
        times = counts.astype(np.float32)  # sums of it are whole numbers up to N, exact below 2**23
        images = int(counts[:1].sum())  # as many in every draw
        values = [function(times, images, scores, truth) for scores, truth in zip(*columns, strict=True)]
        return np.asarray(np.mean(values, axis=0))

    return of


def _areas_under_roc(times: Array, images: int, scores: Array, truth: Array) -> Array:
    """Of one class, for each draw: the share of pairs (image with it, image without) in the right order."""
    own = times[:, truth].astype(np.float64)
    positives = own.sum(axis=1)
    pairs = positives * (images - positives)
    ordered = (own * _below(times, scores, scores[truth], ties=0.5)).sum(axis=1) - positives**2 / 2
    return _ratio(ordered, pairs, np.nan)


def _average_precisions(times: Array, images: int, scores: Array, truth: Array) -> Array:
    """Of one class, for each draw: precision at the score of each image with it, their mean."""
    own, at = times[:, truth], scores[truth]
    positives = own.sum(axis=1, dtype=np.float64)
    passing = images - _below(times, scores, at, ties=0).astype(np.float64)
    found = positives[:, None] - _below(own, at, at, ties=0)
    return _ratio((own * _ratio(found, passing, 0)).sum(axis=1), positives, np.nan)


def _ratio(part: Array, whole: Array, otherwise: float) -> Array:
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, otherwise, np.float64), where=whole > 0))


def _below(times: Array, scores: Array, at: Array, ties: float) -> Array:
    """How many of the drawn images score less than each of some scores, (D, K); those that score the same count `ties`.

    Args:
        times: float32 (D, N), how often each image was drawn.
        scores: (N,).
        at: (K,).
        ties: 0 to 1.
    """
    if len(at) <= _DENSE:
        return np.asarray(times @ ((scores[:, None] < at) + np.float32(ties) * (scores[:, None] == at)))
    order = np.argsort(scores, kind="stable")
    running = np.zeros((len(times), len(scores) + 1), np.float32)
    np.cumsum(times[:, order], axis=1, out=running[:, 1:])
    less, as_well = (running[:, np.searchsorted(scores[order], at, side)] for side in ("left", "right"))
    return np.asarray(less + np.float32(ties) * (as_well - less))


_FAST: Final[dict[Callable[[Array, Array], float], Callable[[Array, Array], OfCounts]]] = {
    **{metrics[name]: partial(_by_class, partial(macro_of, what=name)) for name in ("precision", "recall", "f1")},
    metrics["balanced_accuracy"]: partial(_by_class, balanced_recall),
    metrics["auroc"]: partial(_over_classes, _areas_under_roc),
    metrics["average_precision"]: partial(_over_classes, _average_precisions),
}
