"""What a report is about: one experiment's outputs on one split, and all that its parts may need to know."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from config import run_folder
from config.run_folder import RunFolder
from config.schema import Params
from images.folder import DataFolder
from images.read import Pixels, read_image
from model.data_loader import Loader
from model.metric import predictions, rightly
from reports.calibrating import Calibration
from reports.intervals import Interval
from reports.misclassified import confidences, probabilities
from reports.other import Other
from reports.thumbnail import thumbnail
from training.machine import Machine


@dataclass(frozen=True)
class Question:
    """What to evaluate.

    Args:
        weights: best, last or averaged.
        split: on which.
        tta: with the views added that have this name in training.evaluation.VIEWS; None: without.
        calibrated: with logits divided by the temperature fitted on valid.
    """

    weights: str
    split: str
    tta: str | None
    calibrated: bool = False

    @property
    def report(self) -> str:
        """The folder of its report, inside the experiment folder."""
        how = f"{run_folder.TTA[self.tta]}{'_calibrated' * self.calibrated}"
        return f"{run_folder.REPORT}/{self.split}_{self.weights}{how}"

    def __str__(self) -> str:
        views = {None: "", "mirror": ", with mirror images", "shift": ", with mirror images and shifts"}[self.tta]
        how = f"{views}{', calibrated' * self.calibrated}"
        return f"{self.split} split, {self.weights} weights{how}"


@dataclass(frozen=True)
class Options:
    """What a person asked of the report.

    Args:
        top_k: images on each sheet.
        slices: a CSV file with more about the images.
        against: what an experiment to compare with gave.
        accuracy_target: what the answers shall reach of which the net is sure, for a calibrated question.
        attribution: how it is shown where the net looks: auto, a key of METHODS of reports/attribution.py, or off.
        robustness: images that are corrupted in every way; 0: none.
    """

    top_k: int = 24
    slices: Path | None = None
    against: Other | None = None
    accuracy_target: float | None = None
    attribution: str = "auto"
    robustness: int = 0


@dataclass(frozen=True, eq=False)
class Subject:
    """What a report is about.

    Args:
        folder: the experiment.
        question: weights, split and views.
        params: in force in its training.
        environment: as in environment.json: device, data, where weights came from.
        history: as in history.json.
        data: the data folder, with the sizes of its images.
        loader: the split's images as the net sees them, and as tensors.
        machine: device and precision.
        net: on the machine, in evaluation mode.
        logits: (N, C) float32; of a calibrated question float64, divided by the temperature.
        labels: (N,) int64 class indices, or (N, C) float32 of 0 and 1 for multi-label data.
        losses: (N,) each image's loss.
        values: metrics over all images.
        intervals: of each metric, the ends of its 95% interval.
        epoch: the one that the weights are of.
        same_data: whether train and valid are the files of the training.
        fingerprint: sha256 of the split's images.
        options: what was asked of the report.
        calibration: of a calibrated question.
    """

    folder: RunFolder
    question: Question
    params: Params
    environment: Mapping[str, Any]
    history: Mapping[str, Any]
    data: DataFolder
    loader: Loader
    machine: Machine
    net: nn.Module
    logits: np.ndarray
    labels: np.ndarray
    losses: np.ndarray
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    epoch: int
    same_data: bool
    fingerprint: str
    options: Options = Options()
    calibration: Calibration | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """C names."""
        return self.data.classes

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several classes."""
        return self.data.multi_label

    @property
    def paths(self) -> tuple[str, ...]:
        """N paths relative to the data folder."""
        return self.loader.split.paths

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float64 (N, C)."""
        return probabilities(self.logits, self.multi_label)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N,) class indices, or bool (N, C)."""
        return predictions(self.logits, self.multi_label)

    @cached_property
    def confidence(self) -> np.ndarray:
        """float64 (N,): the probability of what was predicted; for multi-label data, of what was most wrong."""
        return confidences(self.logits, self.labels)

    @cached_property
    def right(self) -> np.ndarray:
        """Bool (N,): whether the image's class, or all of its classes, were predicted."""
        return rightly(self.logits, self.labels)

    def pixels(self, index: int) -> Pixels:
        """uint8 (H, W, 3): an image of the split, upright, as its file has it."""
        path = self.data.root / self.paths[index]
        return read_image(path, 3, self.params.background, self.params.max_megapixels)

    def named(self, row: Any) -> str:
        """The class of an index, or the classes of a row of 0 and 1, joined by "|"."""
        if not self.multi_label:
            return self.classes[int(row)]
        return "|".join(name for name, there in zip(self.classes, row, strict=True) if there > 0.5) or "none"

    def thumbnail(self, index: int) -> bytes:
        """A small picture of an image, PNG or JPEG; made once."""
        if index not in self._thumbnails:
            self._thumbnails[index] = thumbnail(self.pixels(index))
        return self._thumbnails[index]

    @cached_property
    def _thumbnails(self) -> dict[int, bytes]:
        return {}
