"""Subjects of a report without a training: made-up outputs for true images of any number of classes."""

import json
from pathlib import Path

import numpy as np
from torch import nn

from config import run_folder
from config.load import load_params
from config.run_folder import RunFolder
from images.folder import check_headers, scan
from model.data_loader import fetch_dataloader
from model.metric import compute, metrics
from reports.intervals import Interval
from reports.subject import Options, Question, Subject
from tests.conftest import write_image
from tests.training.runs import SMALL
from training.machine import choose_machine

LONG_NAME = 240  # bytes; a file system takes 255


def class_name(index: int) -> str:
    """Names that would break out of markup, each different, some as long as they can be."""
    name = f"{index:04}<script>alert(1)<!script>\"'&\x01"
    return name.ljust(LONG_NAME, "x") if index % 3 == 0 else name


def made_up(path: Path, classes: int, images: int, channels: int = 3, several: bool = False, side: int = 9) -> Subject:
    """A subject with so many classes and so many test images of each.

    Args:
        path: an empty folder.
        classes: how many.
        images: of each class.
        channels: of the files and of the net; grey or colour.
        several: whether an image may have several classes.
        side: of the images, about, in pixels; they are noise, which no format makes small.
    """
    random = np.random.default_rng(classes)
    data = path / "data"
    for split, count in (("train", 1), ("test", images)):
        for index in range(classes):
            for number in range(count):
                shape = (side + random.integers(5), side + 3) + (() if channels == 1 else (3,))
                place = data / split / ("" if several else class_name(index))
                write_image(place / f"{index}-{number}<b>.png", random.integers(0, 256, shape, dtype=np.uint8))
        if several:
            _label(data / split, classes, random)
    experiment = path / "an <i>experiment"
    experiment.mkdir()
    given = SMALL | {"channels": channels, "im_sz": 16, "num_epochs": 1}
    (experiment / run_folder.PARAMS).write_text(json.dumps(given))
    folder = RunFolder(experiment)
    params = load_params(folder.params)
    scanned, _ = check_headers(scan(data, ("train", "test")), 50, False)
    loader = fetch_dataloader(("test",), data, params, folder=scanned)["test"]
    labels = loader.split.targets
    truth = labels if several else np.eye(classes, dtype=np.float32)[labels]
    logits = (random.normal(size=truth.shape) * 2 + 3 * truth - several).astype(np.float32)
    losses = random.exponential(size=len(labels))
    names = [name for name, metric in metrics.items() if metric.suits(classes, several)]
    values = {"loss": float(losses.mean())} | compute(names, logits, labels)
    net = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )
    return Subject(
        folder=folder,
        question=Question("best", "test", None),
        params=params,
        environment=_environment(scanned.classes, data, several),
        history={"epochs": [_row(1, 2.0), _row(2, 1.5)], "steps": []},
        data=scanned,
        loader=loader,
        machine=choose_machine(params, None, exact=False),
        net=net.eval(),
        logits=logits,
        labels=labels,
        losses=losses,
        values=values,
        intervals=dict.fromkeys(values, Interval(0.1, 0.9)),
        epoch=2,
        same_data=True,
        fingerprint="0" * 64,
        options=Options(),
    )


def _label(folder: Path, classes: int, random: np.random.Generator) -> None:
    rows = [f"file,{','.join(f'c{index}<b>' for index in range(classes))}"]
    images = sorted(folder.glob("*.png"))
    rows += [f"{image.name},{','.join(map(str, random.integers(0, 2, classes)))}" for image in images]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def _environment(classes: tuple[str, ...], data: Path, several: bool) -> dict[str, object]:
    about = {"images": {"train": len(classes), "valid": 0}, "left_out": {}, "fingerprint": "f" * 64}
    return {
        "device": "cpu",
        "machine": {"precision": "fp32"},
        "weights": None,
        "commit": None,
        "data": about | {"folder": str(data), "classes": list(classes), "multi_label": several},
    }


def _row(epoch: int, loss: float) -> dict[str, object]:
    scores = {"loss": loss, "accuracy": 0.5}
    return {
        "epoch": epoch,
        "train": scores,
        "valid": scores,
        "learning_rate": [0.1],
        "seconds": 1.0,
        "images_per_second": 5.0,
        "memory_mb": 100.0,
    }
