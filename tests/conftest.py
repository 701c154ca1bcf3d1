"""What every test may use: two tiny learnable data sets, one way to write an image, one torch thread."""

import csv
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import ExifTags, Image

import include

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the programs that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, and what it starts, ignores Ctrl-C
settings.register_profile("beside_others", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("beside_others")  # trainings of other tests hold the cores

TINY_CLASSES = ("apple", "bee", "cloud")
TINY_COUNTS = {"train": 8, "valid": 4, "test": 4}  # images per class


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with slow tests first: at the end, one process might be left with one, and the others idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def write_image(
    path: Path,
    content: np.ndarray | tuple[int, ...] | int | str = (200, 40, 40),
    size: tuple[int, int] = (24, 20),
    mode: str = "RGB",
    orientation: int = 0,
    **options: Any,
) -> Path:
    """Writes an image file and the folders above it.

    Args:
        path: the suffix names the format.
        content: pixels (H, W) or (H, W, C), else one colour for the whole of `size` (width, height) and `mode`.
        orientation: EXIF orientation to tag it with; the pixels are stored as given.
        options: what Image.save takes.
    """
    image = Image.fromarray(content) if isinstance(content, np.ndarray) else Image.new(mode, size, content)
    if orientation:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options["exif"] = exif
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def _picture(parts: tuple[str, ...], random: np.random.Generator) -> np.ndarray:
    """uint8 (about 20, about 24, 3): each part is told by its shape as well as by its colour."""
    height, width = random.integers(18, 23), random.integers(22, 27)
    y, x = np.mgrid[:height, :width]
    picture = random.integers(0, 60, (height, width, 3))
    if "apple" in parts:
        distance = np.hypot(y - height / 2 - random.uniform(-2, 2), x - width / 2 - random.uniform(-3, 3))
        picture[distance < random.uniform(5, 7)] += (150, 20, 20)
    if "bee" in parts:
        picture[(x + random.integers(6)) % 6 < 3] += (110, 90, 0)
    if "cloud" in parts:
        picture[y < height * random.uniform(0.35, 0.5)] += (100, 120, 190)
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders: 3 classes, 8/4/4 images each in train/valid/test, about 24 x 20 pixels; copy it to change it.

    In train, apple/0.png is grey, bee/0.jpg is EXIF-turned and cloud/0.png has an alpha channel.
    """
    root = tmp_path_factory.mktemp("tiny_data")
    random = np.random.default_rng(0)
    for split, name in itertools.product(include.SPLITS, TINY_CLASSES):
        for index in range(TINY_COUNTS[split]):
            folder, picture = root / split / name, _picture((name,), random)
            if (split, index) != ("train", 0):
                write_image(folder / f"{index}.{'png' if index % 2 else 'jpg'}", picture)
            elif name == "apple":
                write_image(folder / "0.png", picture.mean(axis=2).astype(np.uint8))
            elif name == "bee":
                write_image(folder / "0.jpg", np.ascontiguousarray(np.rot90(picture)), orientation=6)
            else:
                alpha = np.full((*picture.shape[:2], 1), 255, np.uint8)
                alpha[-3:] = 128
                write_image(folder / "0.png", np.concatenate([picture, alpha], axis=2))
    return root


@pytest.fixture(scope="session")
def tiny_multi_label(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labels.csv in each split: every combination of 3 classes, train has each 3 times; copy it to change it."""
    root = tmp_path_factory.mktemp("tiny_multi_label")
    random = np.random.default_rng(1)
    for split in include.SPLITS:
        rows = []
        for index, present in enumerate(list(itertools.product((0, 1), repeat=3)) * (3 if split == "train" else 1)):
            parts = tuple(itertools.compress(TINY_CLASSES, present))
            write_image(root / split / f"{index:02}.png", _picture(parts, random))
            rows.append((f"{index:02}.png", *present))
        with (root / split / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", *TINY_CLASSES), *rows])
    return root
