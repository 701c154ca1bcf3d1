"""What every training loop is given, and the clock that it tells of its phases. Needs nothing but torch."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
LEARNING_RATE: Final = 0.01
MOMENTUM: Final = 0.9
WEIGHT_DECAY: Final = 1e-4


@dataclass(frozen=True)
class Job:
    """What is trained, the same for all.

    Attributes:
        data_dir: with train/ and valid/, and in them a folder for each class.
        scratch: a folder for what a program leaves behind.
        arch: a net of torchvision, with random weights.
        classes: their number.
        im_sz: side of the images that the net sees, in pixels.
        batch_size: images of a step.
        images: training images.
        epochs: the first of which is not counted.
        workers: that decode images.
        scale: the least part of an image's area that a random resized crop shows.
        tuned: whether a peer's switches for speed are on.
        seed: of the run.
        peak: the highest learning rate of one cycle with AdamW; 0: SGD at one rate.
        weights: a file of pretrained weights of the net with 1,000 classes; "": random ones.
        experiment: a folder whose params.json (and net.py) Dossier trains; "": the same training as the others.
        params: what differs from that params.json, as JSON.
        known: whether Dossier may keep what it found out about the data folder in a training before.
    """

    data_dir: str
    scratch: str
    arch: str
    classes: int
    im_sz: int
    batch_size: int
    images: int
    epochs: int
    workers: int
    scale: float = 0.08
    tuned: bool = False
    seed: int = 0
    peak: float = 0.0
    weights: str = ""
    experiment: str = ""
    params: str = "{}"
    known: bool = False


class Clock:
    """Times the phases "train" and "valid" of each epoch.

    Attributes:
        first_step: when the first training step had been taken, in seconds of time.monotonic().
        accuracy: on the validation images, after the last epoch so far.
    """

    def __init__(self) -> None:
        self.first_step: float | None = None
        self.accuracy: float | None = None
        self._phases: dict[str, list[tuple[int, float, float]]] = {"train": [], "valid": []}
        self._phase, self._images, self._start, self._start_cpu = "", 0, 0.0, 0.0

    def begin(self, phase: str) -> None:
        """A phase begins, before its first batch is asked for; what was going on ends."""
        if self._phase:
            self.end()
        self._phase, self._images, self._start, self._start_cpu = phase, 0, time.monotonic(), cpu_seconds()

    def step(self, images: int) -> None:
        """Some more images have been dealt with."""
        self._images += images
        if self.first_step is None and self._phase == "train":
            synchronise()
            self.first_step = time.monotonic()

    def end(self, accuracy: float | None = None) -> None:
        """The phase ends; a validation with its accuracy."""
        synchronise()
        self.accuracy = accuracy
        seconds, cpu = time.monotonic() - self._start, cpu_seconds() - self._start_cpu
        self._phases[self._phase].append((self._images, seconds, cpu))
        self._phase = ""

    def figures(self) -> dict[str, Any]:
        """How long the first epoch trained; of those after it, images per second and processor time of an image."""
        images, seconds, cpu = map(sum, zip((0, 0.0, 0.0), *self._phases["train"][1:], strict=True))
        valid_images, valid_seconds, _ = map(sum, zip((0, 0.0, 0.0), *self._phases["valid"][1:], strict=True))
        return {
            "images_per_second": round(images / seconds, 2) if images else None,
            "cpu_ms_per_image": round(1000 * cpu / images, 2) if images else None,
            "valid_images_per_second": round(valid_images / valid_seconds, 2) if images else None,
            "images": images,
            "first_epoch_s": round(self._phases["train"][0][1], 2),
            "accuracy": None if self.accuracy is None else round(self.accuracy, 4),
        }


def synchronise() -> None:
    """Waits for the GPU, where there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def cpu_seconds() -> float:
    """Of this process and all that it started, those that still run too."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = sum(map(_ticks, family(os.getpid())[1:])) / os.sysconf("SC_CLK_TCK")
    return time.process_time() + ended.ru_utime + ended.ru_stime + running


def family(pid: int) -> list[int]:
    """A process and all that descend from it; it alone where the system does not tell."""
    found = [pid]
    for member in found:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:  # it has ended meanwhile
                continue
    return found


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))  # user and system, and those of its children that have ended (proc(5))
