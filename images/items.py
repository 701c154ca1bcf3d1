"""Images on their way into a data folder: found in class folders, and divided into splits."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

import include
from utils import UserError, log, printable

SPLIT_NAMES: Final = {
    "train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip


class Item(NamedTuple):
    """One image: its split (None where the source has none), class, name within the class, and file or pixels."""

    split: str | None
    label: str
    name: str
    content: Path | np.ndarray


def class_folders(root: Path) -> Iterator[Item]:
    """Items of <root>/[train|valid|test/]<class>/…/<image>, below folders that only wrap them.

    Raises:
        UserError: when there are none, or the split folders are not clear.
    """
    top = root
    while len(inner := subfolders(top)) == 1 and inner[0].name.lower() not in SPLIT_NAMES and subfolders(inner[0]):
        top = inner[0]
    left_out: Counter[str] = Counter()
    found = False
    for split, place in split_folders(top).items() or [(None, top)]:
        if (place / "labels.csv").is_file():
            raise UserError(f"{place.name}: is multi-label data (labels.csv): use it as it is, as --data_dir")
        left_out["file outside any class"] += sum(p.is_file() and not p.name.startswith(".") for p in place.iterdir())
        for label in subfolders(place):
            for path in files(label):
                if path.suffix.lower() in include.IMAGE_SUFFIXES:
                    found = True
                    yield Item(split, label.name, path.relative_to(label).as_posix(), path)
                else:
                    left_out[path.suffix.lower() or path.name] += 1
    if not found:
        raise UserError(f"{root.name}: no images found in [train/]<class>/ ({' '.join(include.IMAGE_SUFFIXES)})")
    if what := ", ".join(f"{count} {printable(suffix)}" for suffix, count in sorted((+left_out).items())):
        log.info("%s: left out: %s", top.name, what)


def split_folders(top: Path) -> dict[str, Path]:
    """The split folders in a folder, by the project's names for them; empty when it holds classes directly.

    Raises:
        UserError: when two folders mean the same split, or train is not among them.
    """
    found = [(SPLIT_NAMES[p.name.lower()], p) for p in subfolders(top) if p.name.lower() in SPLIT_NAMES]
    splits = dict(found)
    if found and ("train" not in splits or len(splits) < len(found)):
        raise UserError(
            f"{top.name}: has the folders {', '.join(p.name for _, p in found)}; expected train, and one per split"
        )
    return {split: splits[split] for split in include.SPLITS if split in splits}


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without the hidden ones."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))


def files(folder: Path) -> list[Path]:
    """Every file below a folder, sorted, without the hidden ones."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


@dataclass(frozen=True)
class Division:
    """How the splits a source lacks are made.

    Args:
        valid_fraction: of each class, where the source has no valid split.
        test_fraction: of each class, where the source has no test split.
        seed: of the choice.
    """

    valid_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0


def divide(items: Iterable[Item], division: Division) -> list[Item]:
    """Takes the missing splits out of train, class by class, by a hash of (seed, class, name).

    The order of the items plays no part. At least one image of each class stays in train.
    """
    fractions = {"valid": division.valid_fraction, "test": division.test_fraction}
    if not all(0 <= f < 1 for f in fractions.values()) or sum(fractions.values()) >= 1:
        raise UserError(
            "--valid_fraction and --test_fraction are fractions that leave something: 0 or more, together below 1"
        )
    divided = [item._replace(split=item.split or "train") for item in items]
    present = {item.split for item in divided}
    pools: defaultdict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(divided):
        if item.split == "train":
            pools[item.label].append(index)
    for pool in pools.values():
        pool.sort(key=lambda index: _rank(division.seed, divided[index]))
        start = 0
        for split, fraction in fractions.items():
            wanted = max(1, round(fraction * len(pool))) if fraction and split not in present else 0
            end = min(start + wanted, len(pool) - 1)
            for index in pool[start:end]:
                divided[index] = divided[index]._replace(split=split)
            start = end
    return divided


def _rank(seed: int, item: Item) -> bytes:
    return hashlib.sha256(f"{seed}\0{item.label}\0{item.name}".encode("utf-8", "surrogateescape")).digest()
