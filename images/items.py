"""Images on their way into a data folder: found in class folders, and divided into splits."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

import include
from images.walk import LABELS, Walk, is_hidden
from utils import UserError, log, printable

SPLIT_NAMES: Final = {
    "train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
FRACTIONS: Final = {"valid": 0.1, "test": 0.2}  # of each class, where nothing else is said
NAMED: Final = 10  # of many alike, this many are named


class Item(NamedTuple):
    """One image: its split (None where the source has none), class, name within the class, and file or pixels."""

    split: str | None
    label: str
    name: str
    content: Path | np.ndarray


# --- class folders ---------------------------------------------------------------------------------------------------


def class_folders(root: Path) -> Iterator[Item]:
    """Items of <root>/[train|valid|test/]<class>/…/<image>, below folders that only wrap them.

    What counts as an image, and which links are followed, is as in a data folder.

    Raises:
        UserError: when there are none, when the split folders are not clear, or naming what is no image.
    """
    top = Path(os.path.abspath(root))  # noqa: PTH100 (gives a name to ".", and leaves links as they are)
    name = printable(top.name)
    while len(inner := subfolders(top)) == 1 and inner[0].name.lower() not in SPLIT_NAMES and subfolders(inner[0]):
        top = inner[0]
    found, problems = 0, []
    for split, place in split_folders(top).items() or [(None, top)]:
        if (place / LABELS).is_file():
            raise UserError(f"{printable(place.name)}: is multi-label data ({LABELS}): use it as it is, as --data_dir")
        walk = Walk(place.parent, place.name)
        for label in walk.classes():
            start = f"{place.name}/{label}"
            for path in walk.images(start):
                found += 1
                if not (walk.root / path).is_file():
                    problems.append(f"{printable(path)}: is no file, or a link to none; mend or remove it")
                yield Item(split, label, path.removeprefix(f"{start}/"), walk.root / path)
        problems += walk.problems
        for note in walk.notes():
            log.info("%s", note)
    if problems:
        rest = [f"… and {len(problems) - NAMED} more like it"] if len(problems) > NAMED else []
        raise UserError("\n".join([*problems[:NAMED], *rest]))
    if not found:
        raise UserError(f"{name}: no images found in [train/]<class>/ ({' '.join(include.IMAGE_SUFFIXES)})")


def split_folders(top: Path) -> dict[str, Path]:
    """The split folders in a folder, by the project's names for them; empty when it holds classes directly.

    Raises:
        UserError: when two folders mean the same split, train is not among them, or images lie in others beside them.
    """
    inside = subfolders(top)
    found = [(SPLIT_NAMES[p.name.lower()], p) for p in inside if p.name.lower() in SPLIT_NAMES]
    splits = dict(found)
    if found and ("train" not in splits or len(splits) < len(found)):
        names = ", ".join(p.name for _, p in found)
        raise UserError(f"{printable(top.name)}: has the folders {names}; expected train, and one per split")
    beside = [p for p in inside if p.name.lower() not in SPLIT_NAMES] if found else []
    if others := [printable(p.name) for p in beside if Walk(top, p.name).images(p.name)]:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        raise UserError(
            f"{printable(top.name)}: has {found[0][1].name} and, with images too, {', '.join(others[:NAMED])}{more}; "
            "move out what is no split, or rename what is a class"
        )
    return {split: splits[split] for split in include.SPLITS if split in splits}


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without the hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


# --- splits ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Division:
    """How the splits a source lacks are made; what is None is chosen here.

    Args:
        valid_fraction: of each class, where the source has no valid split.
        test_fraction: of each class, where the source has no test split.
        seed: of the choice.
    """

    valid_fraction: float | None = None
    test_fraction: float | None = None
    seed: int | None = None


def divide(items: Iterable[Item], division: Division) -> tuple[list[Item], dict[str, float]]:
    """Takes the missing splits out of train, class by class, by a hash of (seed, class, name).

    The order of the items plays no part. At least one image of each class stays in train.

    Returns:
        the items, each with a split, and the fraction taken for each split that was missing.

    Raises:
        UserError: when the division is none, has no use, or leaves a split without an image.
    """
    divided = [item._replace(split=item.split or "train") for item in items]
    fractions = _fractions(division, {item.split for item in divided})
    pools: defaultdict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(divided):
        if item.split == "train":
            pools[item.label].append(index)
    for pool in pools.values():
        pool.sort(key=lambda index: _rank(division.seed or 0, divided[index]))
        start = 0
        for split, fraction in fractions.items():
            end = min(start + max(1, round(fraction * len(pool))), len(pool) - 1)
            for index in pool[start:end]:
                divided[index] = divided[index]._replace(split=split)
            start = end
    made = {item.split for item in divided}
    for split in fractions:
        if split not in made:
            raise UserError(f"no class has an image to spare for {split}; pass --{split}_fraction 0 to go without")
    return divided, fractions


def _fractions(division: Division, present: set[str | None]) -> dict[str, float]:
    """What each missing split takes of a class."""
    fractions = {}
    for split, given in (("valid", division.valid_fraction), ("test", division.test_fraction)):
        if split not in present:
            fractions[split] = FRACTIONS[split] if given is None else given
        elif given is not None:
            raise UserError(f"--{split}_fraction: the source has a {split} split of its own")
    if division.seed is not None and not fractions:
        raise UserError("--seed: the source has splits of its own, and nothing is left to choose")
    if not all(0 <= f < 1 for f in fractions.values()) or sum(fractions.values()) >= 1:
        raise UserError(
            "--valid_fraction and --test_fraction are fractions that leave something: 0 or more, together below 1"
        )
    return {split: fraction for split, fraction in fractions.items() if fraction}


def _rank(seed: int, item: Item) -> bytes:
    return hashlib.sha256(f"{seed}\0{item.label}\0{item.name}".encode("utf-8", "surrogateescape")).digest()
