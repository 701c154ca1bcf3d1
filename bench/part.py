"""A part of a data set, on which a benchmark does not take hours."""

import shutil
from pathlib import Path

from utils import UserError


def part(source: Path, target: Path, images: dict[str, int]) -> None:
    """Copies the first images of each class, as many of each, once.

    Args:
        source: the data folder.
        target: the new one; where it is there, nothing is done.
        images: how many of each split.

    Raises:
        UserError: a split is missing.
    """
    if target.is_dir():
        return
    if missing := [source / split for split in images if not (source / split).is_dir()]:
        raise UserError(f"{missing[0]} is not there; --data_dir takes a folder with {' and '.join(images)}")
    unfinished = target.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for split, number in images.items():
        classes = sorted(path for path in (source / split).iterdir() if path.is_dir())
        for folder in classes:
            (unfinished / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[: number // len(classes)]:
                shutil.copyfile(image, unfinished / split / folder.name / image.name)
    unfinished.rename(target)
