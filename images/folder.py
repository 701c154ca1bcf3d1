"""A data folder: which images are in which split, and what they are. No torch, and no image is decoded here."""

import csv
import dataclasses
import hashlib
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import include
from images.read import ImageError, read_header
from utils import TrainingFault, UserError, did_you_mean, printable, progress, read_json, to_json, write_atomic

LABELS: Final = "labels.csv"
CACHE: Final = ".cache"
LAYOUT: Final = "data/<name>/{train,valid,test}/<class>/<image>"
JUNK: Final = ("Thumbs.db", "desktop.ini")
NAMED: Final = 10  # of many alike, this many are named
_SETTLED: Final = 2.0  # seconds after which a file's modification time is trusted to tell a change


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        name: train, valid or test.
        paths: N paths relative to the data folder, with forward slashes, sorted.
        targets: (N,) int64 class indices, or (N, C) float32 of 0 and 1 for multi-label data.
    """

    name: str
    paths: tuple[str, ...]
    targets: NDArray[Any]


@dataclass(frozen=True)
class DataFolder:
    """A data folder as found.

    Attributes:
        root: the folder.
        classes: C names; the order of the logits.
        multi_label: whether an image may have several classes, or none.
        splits: by name.
        notes: what was ignored, for the log.
    """

    root: Path
    classes: tuple[str, ...]
    multi_label: bool
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()


def scan(data_dir: Path | str, splits: Sequence[str] = ("train", "valid")) -> DataFolder:
    """Finds the images of some splits. The classes are those of train, whatever splits are asked for.

    Raises:
        UserError: one line for each thing that is wrong with the folder.
    """
    root = Path(data_dir)
    for split in ("train", *splits):
        if not (root / split).is_dir():
            what = f"has no {split}/" if root.is_dir() else "no such folder"
            raise UserError(f"{printable(str(root))}: {what}; the layout is {LAYOUT}")
    found = _scan_labels(root, splits) if (root / "train" / LABELS).is_file() else _scan_classes(root, splits)
    for part in found.splits.values():
        if not part.paths:
            raise UserError(f"{printable(str(root / part.name))}: holds no image; the layout is {LAYOUT}")
    return found


# --- class folders ---------------------------------------------------------------------------------------------------


def _scan_classes(root: Path, splits: Sequence[str]) -> DataFolder:
    notes: list[str] = []
    folders = {split: _class_folders(root / split) for split in dict.fromkeys(("train", *splits))}
    classes = tuple(folders["train"])
    if len(classes) < 2:
        raise UserError(
            f"{printable(str(root / 'train'))}: holds {len(classes)} class folder{'s' * (len(classes) != 1)}, "
            f"and a classifier needs 2 or more; the layout is {LAYOUT}"
        )
    problems, result = [], {}
    for split in splits:
        problems += [
            f"{printable(str(root / split / name))}: train has no such class{did_you_mean(name, classes)}"
            for name in folders[split]
            if name not in classes
        ]
        walk = _Walk(root)
        members = [sorted(walk.images(root / split / name)) for name in classes]
        for name, paths in zip(classes, members, strict=True):
            if not paths and split == "train":
                problems.append(f"{printable(str(root / split / name))}: the class has no image")
            elif not paths:
                notes.append(f"{split}: class {printable(name)} has no image")
        notes += walk.notes(split)
        targets = np.repeat(np.arange(len(classes)), [len(paths) for paths in members])
        result[split] = Split(split, tuple(path for paths in members for path in paths), targets)
    if problems:
        raise UserError("\n".join(problems))
    return DataFolder(root, classes, False, result, tuple(notes))


def _class_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


class _Walk:
    """Finds images below folders, each real folder once, and remembers what it passed over."""

    def __init__(self, root: Path) -> None:
        self.root = os.fspath(root)
        self.visited: set[tuple[int, int]] = set()
        self.ignored: Counter[str] = Counter()
        self.dangling: list[str] = []

    def images(self, folder: Path) -> Iterator[str]:
        """Paths of images relative to the root."""
        if not folder.is_dir():
            return
        about = folder.stat()
        if (about.st_dev, about.st_ino) in self.visited:
            self.ignored["links to folders that were visited before"] += 1
            return
        self.visited.add((about.st_dev, about.st_ino))
        start = len(self.root) + 1
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in JUNK:
                    self.ignored["hidden files and folders"] += 1
                elif entry.name == LABELS:
                    continue
                elif entry.is_dir():
                    yield from self.images(Path(entry.path))
                elif not entry.name.lower().endswith(include.IMAGE_SUFFIXES):
                    self.ignored["files that are not images by their name"] += 1
                elif entry.is_symlink() and not entry.is_file():
                    self.dangling.append(entry.path)
                else:
                    yield Path(entry.path[start:]).as_posix()

    def notes(self, split: str) -> list[str]:
        """What was passed over, in words.

        Raises:
            UserError: naming links that lead nowhere.
        """
        if self.dangling:
            raise UserError("\n".join(f"{printable(p)}: is a link to a file that is not there" for p in self.dangling))
        return [f"{split}: ignored {count} {what}" for what, count in sorted(self.ignored.items())]


# --- labels.csv ------------------------------------------------------------------------------------------------------


def _scan_labels(root: Path, splits: Sequence[str]) -> DataFolder:
    classes = tuple(_read_table(root, "train")[0])
    result, problems, notes = {}, [], []
    for split in splits:
        if not (root / split / LABELS).is_file():
            problems.append(f"{printable(str(root / split))}: has no {LABELS}, while train has one")
            continue
        header, rows, wrong = _read_table(root, split)
        problems += wrong
        if tuple(header) != classes:
            columns = f"{', '.join(header)} instead of {', '.join(classes)}"
            problems.append(f"{printable(str(root / split / LABELS))}:1: its classes differ from train's: {columns}")
            continue
        walk = _Walk(root)
        present = set(walk.images(root / split))
        unlabelled = sorted(present - set(rows))
        problems += _some(unlabelled, lambda path: f"{printable(str(root / path))}: has no row in {LABELS}")
        missing = sorted(set(rows) - present)
        problems += _some(
            missing, lambda path: f"{printable(str(root / path))}: is in {LABELS}, but there is no such image"
        )
        notes += walk.notes(split)
        paths = tuple(sorted(rows))
        targets = np.array([rows[path] for path in paths], np.float32).reshape(len(paths), len(classes))
        result[split] = Split(split, paths, targets)
    if problems:
        raise UserError("\n".join(problems))
    return DataFolder(root, classes, True, result, tuple(notes))


def _read_table(root: Path, split: str) -> tuple[list[str], dict[str, list[float]], list[str]]:
    """The classes, the rows by path, and what is wrong with the rows."""
    path = root / split / LABELS
    where = printable(str(path))
    try:
        table = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{where}: cannot be read as CSV in UTF-8 ({error})") from error
    header = [name.strip() for name in table[0]] if table else []
    classes = header[1:]
    if not classes or header[0] != "file" or "" in classes or len(set(classes)) < len(classes):
        raise UserError(f"{where}:1: must be file,<class>,<class>,… with a different name for each class")
    rows: dict[str, list[float]] = {}
    problems = []
    for number, row in enumerate(table[1:], start=2):
        if not row:
            continue
        name = f"{split}/{row[0]}"
        values = [value.strip() for value in row[1:]]
        if len(values) != len(classes) or not set(values) <= {"0", "1"}:
            problems.append(f"{where}:{number}: must hold a file and {len(classes)} times 0 or 1")
        elif name in rows:
            problems.append(f"{where}:{number}: {printable(row[0])} has a row before")
        elif os.path.normpath(name) != name:
            problems.append(f"{where}:{number}: {printable(row[0])} must be a path below {split}/")
        else:
            rows[name] = [float(value) for value in values]
    return classes, rows, _some(problems, str)


def _some(items: Sequence[str], say: Callable[[str], str]) -> list[str]:
    rest = len(items) - NAMED
    return [say(item) for item in items[:NAMED]] + ([f"… and {rest} more like it"] if rest > 0 else [])


# --- headers ---------------------------------------------------------------------------------------------------------


def check_headers(
    folder: DataFolder, max_megapixels: float, skip_bad: bool
) -> tuple[DataFolder, list[tuple[str, str]]]:
    """Reads the header of every image.

    Returns:
        The folder without the images that have no readable header, and these with the reason.

    Raises:
        UserError: naming them, unless `skip_bad`; or when a split or a class of train would be left empty.
    """

    def reason(path: str) -> str | None:
        try:
            read_header(folder.root / path, max_megapixels)
        except ImageError as error:
            return error.reason
        return None

    paths = [path for split in folder.splits.values() for path in split.paths]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(progress(pool.map(reason, paths, chunksize=64), "headers", len(paths), unit="image"))
    bad = {path: why for path, why in zip(paths, found, strict=True) if why is not None}
    if not bad:
        return folder, []
    lines = _some(list(bad), lambda path: f"{printable(str(folder.root / path))}: {bad[path]}")
    if not skip_bad:
        count = f"{len(bad)} of {len(paths)} images cannot be used; mend or remove them, or set skip_bad: 1"
        raise UserError("\n".join([*lines, count]))
    return _without(folder, set(bad)), list(bad.items())


def _without(folder: DataFolder, bad: set[str]) -> DataFolder:
    splits = {}
    for name, split in folder.splits.items():
        keep = np.array([path not in bad for path in split.paths])
        paths = tuple(path for path in split.paths if path not in bad)
        splits[name] = Split(name, paths, split.targets[keep])
        left = splits[name].targets
        whole = folder.multi_label or name != "train" or len(np.unique(left)) == len(folder.classes)
        if not paths or not whole:
            raise UserError(f"{printable(str(folder.root / name))}: without the unreadable images a class is empty")
    return dataclasses.replace(folder, splits=splits)


# --- fingerprint -----------------------------------------------------------------------------------------------------


def fingerprint(folder: DataFolder) -> str:
    """sha256, hexadecimal, over the sorted paths, sizes and contents of the folder's images, and their labels.

    Contents are read once: they are remembered in .cache/fingerprint.json by size, modification time and inode, if the
    data folder can be written. A file changed within the last seconds is read again, as its time may not tell.
    """
    cache = folder.root / CACHE / "fingerprint.json"
    known = _known(cache)
    paths = sorted(path for split in folder.splits.values() for path in split.paths)
    now = time.time()

    def digest(path: str) -> tuple[str, list[int], bool]:
        about = (folder.root / path).stat()
        key = [about.st_size, about.st_mtime_ns, about.st_ino]
        settled = now - max(about.st_mtime, about.st_ctime) > _SETTLED
        entry = known.get(path)
        if settled and entry is not None and entry[1:] == key:
            return str(entry[0]), key, True
        return hashlib.sha256((folder.root / path).read_bytes()).hexdigest(), key, settled

    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            digests = dict(zip(paths, pool.map(digest, paths, chunksize=64), strict=True))
    except OSError as error:
        raise UserError(f"{printable(str(error.filename))}: cannot be read ({error.strerror})") from error
    total = hashlib.sha256()
    for path, (content, key, _) in digests.items():
        total.update(f"{path}\0{key[0]}\0{content}\n".encode("utf-8", "surrogateescape"))
    if folder.multi_label:
        for split in folder.splits.values():
            total.update(split.targets.tobytes())
    fresh = {path: [content, *key] for path, (content, key, settled) in digests.items() if settled}
    if any(known.get(path) != entry for path, entry in fresh.items()):
        _remember(cache, known | fresh)
    return total.hexdigest()


def _known(cache: Path) -> dict[str, list[Any]]:
    try:
        known = read_json(cache)
    except UserError:
        return {}
    return known if isinstance(known, dict) else {}


def _remember(cache: Path, entries: dict[str, list[Any]]) -> None:
    try:
        cache.parent.mkdir(exist_ok=True)
        write_atomic(cache, to_json(entries))
    except (OSError, TrainingFault):
        return  # a data folder that cannot be written is read anew each time
