"""Does an exported model say what PyTorch says, how well, and how fast? Measured on real images. No torch."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.predictor import BATCH, BUDGET, PIXELS_AT_ONCE, Predictor
from export.session import Outputs, Run
from images.read import ImageError, Pixels
from utils import TrainingFault, log, progress

BATCHES: Final = (1, 3, 8)
PARITY_IMAGES: Final = 256
ABSOLUTE: Final = 1e-4  # of probabilities, and of logits whose range is below 10
OF_RANGE: Final = 1e-5  # of the range of all logits
ROUNDS: Final = 7
SECONDS: Final = 10.0  # that timing takes, about

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """How far two ways of computing are apart on the same images.

    Attributes:
        images: how many there were.
        probabilities: largest absolute difference.
        logits: likewise.
        logit_range: largest logit less smallest, over all images.
        changed: images whose class differs though it was no tie within what is allowed.
    """

    images: int
    probabilities: float
    logits: float
    logit_range: float
    changed: int

    @property
    def of_range(self) -> float:
        """The largest difference of logits as a share of their range."""
        return self.logits / self.logit_range if self.logit_range else 0.0

    def require(self, what: str) -> None:
        """Refuses a model that is not the same.

        Raises:
            TrainingFault: saying what differs.
        """
        most = allowed(self.logit_range)
        same = self.probabilities <= ABSOLUTE and self.logits <= most and not self.changed  # NaN is not
        if not same:
            raise TrainingFault(
                f"{what}: differs from PyTorch on {self.images} images: probabilities by {self.probabilities:.2g} "
                f"(allowed: {ABSOLUTE:g}), logits by {self.logits:.2g} (allowed: {most:.2g}), "
                f"{self.changed} other classes; nothing was written"
            )

    def as_json(self) -> dict[str, float]:
        """For export.json."""
        return {
            "images": self.images,
            "max_difference_of_probabilities": self.probabilities,
            "max_difference_of_logits": self.logits,
            "share_of_logit_range": self.of_range,
            "other_classes": self.changed,
        }


def allowed(logit_range: float) -> float:
    """How far logits of such a range may be apart."""
    return max(ABSOLUTE, OF_RANGE * logit_range)


def parity(reference: Run, other: Run, images: Sequence[Pixels], multi_label: bool) -> Parity:
    """Compares two ways of computing at batches of 1, 3 and 8 in turn; those of a batch are cut to a common size."""
    found = [(reference(batch), other(batch)) for batch in _batches(images)]
    ours, theirs = ([np.concatenate([pair[way][output] for pair in found]) for output in (0, 1)] for way in (0, 1))
    return compared((ours[0], ours[1]), (theirs[0], theirs[1]), multi_label)


def compared(reference: Outputs, other: Outputs, multi_label: bool) -> Parity:
    """The comparison itself, of probabilities and logits (N, C) each."""
    (probabilities, logits), (other_probabilities, other_logits) = reference, other
    extent = float(np.ptp(logits)) if logits.size else 0.0
    tie = 2 * allowed(extent)
    if multi_label:
        changed = ((logits > 0) != (other_logits > 0)) & (np.abs(logits) > tie)
        count = int(changed.any(axis=1).sum())
    else:
        best = np.sort(logits, axis=1)
        clear = best[:, -1] - best[:, -2] > tie
        count = int(((logits.argmax(1) != other_logits.argmax(1)) & clear).sum())
    return Parity(
        images=len(logits),
        probabilities=float(np.abs(probabilities - other_probabilities).max(initial=0)),
        logits=float(np.abs(logits - other_logits).max(initial=0)),
        logit_range=extent,
        changed=count,
    )


def _batches(images: Sequence[Pixels]) -> Iterator[Pixels]:
    sizes, start = cycle(BATCHES), 0
    while start < len(images):
        part = images[start : start + next(sizes)]
        start += len(part)
        yield together(part)


def together(images: Sequence[Pixels]) -> Pixels:
    """uint8 (N, H, W, 3): images cut from their upper left corner to the size that all have and one call can bear."""
    height, width = (min(image.shape[axis] for image in images) for axis in (0, 1))
    share = min(1.0, math.sqrt(PIXELS_AT_ONCE / (len(images) * height * width)))
    height, width = (max(1, int(side * share)) for side in (height, width))
    return np.stack([image[:height, :width] for image in images])


def outputs(predictor: Predictor, paths: Sequence[Path], what: str) -> Outputs:
    """Probabilities and logits (N, C) of files.

    Raises:
        ImageError: one cannot be read.
    """
    found = []
    for _, answer in progress(predictor.stream(paths, BATCH), what, len(paths), unit="image"):
        if isinstance(answer, ImageError):
            raise answer
        found.append((answer.probabilities, answer.logits))
    probabilities, logits = (np.stack([pair[part] for pair in found]) for part in (0, 1))
    return probabilities, logits


def milliseconds(runs: Mapping[str, Run], images: Sequence[Pixels], batch: int) -> dict[str, float]:
    """The median time of a batch for each way of computing, measured in turn so that what disturbs one disturbs all."""
    part = together([images[index % len(images)] for index in range(batch)])
    for run in runs.values():
        run(part)
    times: dict[str, list[float]] = {name: [] for name in runs}
    begun = time.perf_counter()
    for rounds in range(10 * ROUNDS):
        for name, run in runs.items():
            times[name].append(_seconds(run, part))
        if time.perf_counter() - begun > SECONDS / 2 and rounds >= 2:
            break
    return {name: round(1000 * float(np.median(values)), 3) for name, values in times.items()}


def _seconds(run: Callable[[Pixels], object], images: Pixels) -> float:
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


def readable(predictor: Predictor, paths: Sequence[Path], skip_bad: bool) -> tuple[list[Path], list[Pixels], list[int]]:
    """The paths of all that can be read, the first images as the model takes them, and the positions of those paths.

    Raises:
        ImageError: one cannot be read, unless skip_bad.
    """
    images: list[Pixels] = []
    kept: list[int] = []
    held = 0  # bytes
    for index, path in enumerate(paths):
        try:
            if len(images) < PARITY_IMAGES and held < BUDGET:
                images.append(predictor.read(path))
                held += images[-1].nbytes
            elif skip_bad:
                predictor.read(path)
            kept.append(index)
        except ImageError as error:
            if not skip_bad:
                raise
            log.warning("left out: %s", error)
    return [paths[index] for index in kept], images, kept
