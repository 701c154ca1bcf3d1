"""The settings of a comparison from the best down, each with its distance to the best. No torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from config.run_folder import PREDICTIONS_VALID
from model.metric import metrics, rightly
from reports.comparison import Difference, over_images, over_resampled_images, over_seeds, t_interval
from reports.intervals import Interval
from search.collect import Comparison, Setting, mean
from search.read import Run

COMPARED: Final = 50  # settings compared with the best by their accuracy on the same images
COMPARED_SLOWLY: Final = 8  # by another metric, computed anew for each of many draws of images


@dataclass(frozen=True)
class Row:
    """What the table says of one setting.

    Args:
        setting: its values and finished runs.
        scores: the metric at the best epoch, by seed.
        interval: 95% interval of their mean over seeds; nan with fewer than three.
        difference: to the best setting; None for the best itself, and where there is nothing to pair.
        distance: the difference of the two means, whatever is paired.
    """

    setting: Setting
    scores: dict[int, float]
    interval: Interval
    difference: Difference | None
    distance: float

    @property
    def mean(self) -> float:
        """The mean of the scores."""
        return mean(self.scores.values())

    @property
    def std(self) -> float:
        """Their standard deviation; nan with one seed."""
        return float(np.std(list(self.scores.values()), ddof=1)) if len(self.scores) > 1 else math.nan


def ranking(comparison: Comparison) -> list[Row]:
    """Each setting with its mean, interval and difference to the best; best first."""
    metric, images = comparison.metric, _Images(comparison.metric)
    found: list[Row] = []
    for rank, setting in enumerate(comparison.settings):
        scores = setting.by_seed(lambda run: run.score(metric))
        row = Row(setting, scores, t_interval(list(scores.values())), None, 0.0)
        if found:
            difference = over_seeds(found[0].scores, scores)
            if difference is None or difference.pairs == 1:
                difference = images.difference(found[0].setting, setting) if rank < images.limit else None
            row = Row(setting, scores, row.interval, difference, row.mean - found[0].mean)
        found.append(row)
    return found


class _Images:
    """Compares two settings on the same validation images, by a run of each with the same seed where there is one.

    Args:
        metric: of the comparison.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metrics.get(metric)
        self.accuracy = metric == "accuracy"
        self.limit = (COMPARED if self.accuracy else COMPARED_SLOWLY) if self.metric else 0
        self._best: tuple[Path, tuple[np.ndarray, ...] | None] | None = None

    def difference(self, best: Setting, other: Setting) -> Difference | None:
        """The paired difference; None when predictions are missing, damaged or of other images."""
        shared = {run.seed for run in best.runs} & {run.seed for run in other.runs}
        pair = [next((run for run in s.runs if run.seed in shared), s.runs[0]) for s in (best, other)]
        if self._best is None or self._best[0] != pair[0].path:
            self._best = (pair[0].path, self._outputs(pair[0]))
        one, two = self._best[1], self._outputs(pair[1])
        if one is None or two is None or not all(map(np.array_equal, one[1:], two[1:])):
            return None
        if self.accuracy:
            return over_images(one[0], two[0])
        return over_resampled_images(self.metric, one[0], two[0], one[1]) if self.metric else None

    def _outputs(self, run: Run) -> tuple[np.ndarray, ...] | None:
        """Whether each image is right, or its logits where another metric is compared; labels; paths."""
        try:
            with (run.path / PREDICTIONS_VALID).open("rb") as file, np.load(file) as stored:
                logits, labels, paths = (stored[name] for name in ("logits", "labels", "paths"))
                if len({len(logits), len(labels), len(paths)}) > 1 or not len(labels):
                    return None
                if not self.accuracy:
                    return logits, labels, paths
                return rightly(logits, labels), labels, paths
        except Exception:  # damaged in one of the many ways of a zip file; the comparison then rests on seeds alone
            return None
