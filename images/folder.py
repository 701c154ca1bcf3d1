"""A data folder: which images are in which split, and what they are. No torch, and no image is decoded here."""

import csv
import dataclasses
import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from images.memory import Content, Memory
from images.read import ImageError, read_header, unreadable
from images.shards import SUFFIX, walk
from images.walk import LABELS, Walk
from utils import UserError, did_you_mean, nearest, printable, progress

T = TypeVar("T")

LAYOUT: Final = "data/<name>/{train,valid,test}/<class>/<image>"
NAMED: Final = 10  # of many alike, this many are named
CHUNK: Final = 64  # files that a thread takes at a time


@dataclass(frozen=True)
class Split:
    """The images of one split.

    Attributes:
        name: train, valid or test.
        paths: N paths relative to the data folder, with forward slashes; class by class, sorted.
        targets: (N,) int64 class indices, or (N, C) float32 of 0 and 1 for multi-label data.
        sizes: (N, 2) int64, height and width of each upright image; None until check_headers has read them.
        contents: of each file; None until check_headers has read them.
    """

    name: str
    paths: tuple[str, ...]
    targets: NDArray[Any]
    sizes: NDArray[np.int64] | None = None
    contents: tuple[Content, ...] | None = None


@dataclass(frozen=True)
class DataFolder:
    """A data folder as found.

    Attributes:
        root: the folder.
        classes: C names; the order of the logits.
        multi_label: whether an image may have several classes, or none.
        splits: by name.
        notes: what was passed over, for the log.
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
    try:
        for split in ("train", *splits):
            _check_layout(root, split)
        found = _scan_labels(root, splits) if (root / "train" / LABELS).is_file() else _scan_classes(root, splits)
    except OSError as error:
        raise UserError(f"{printable(str(error.filename))}: cannot be read ({error.strerror})") from error
    for part in found.splits.values():
        if not part.paths:
            raise UserError(f"{_shown(root, part.name)}: holds no image; the layout is {LAYOUT}")
    return found


def _check_layout(root: Path, split: str) -> None:
    if not root.is_dir():
        raise UserError(f"{_shown(root)}: no such folder; the layout is {LAYOUT}")
    if not (root / split).is_dir():
        near = nearest(split, (path.name for path in root.iterdir() if path.is_dir()))
        instead = f", but {printable(near)}/" if near else ""
        raise UserError(f"{_shown(root)}: has no {split}/{instead}; the layout is {LAYOUT}")


def _shown(root: Path, path: str = "") -> str:
    return printable(str(root / path))


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise UserError("\n".join(_some(problems)))


def _some(lines: Sequence[str]) -> list[str]:
    """The first of many lines, and one that counts the rest."""
    rest = len(lines) - NAMED
    return [*lines[:NAMED], *([f"… and {rest} more like it"] if rest > 0 else [])]


# --- class folders ---------------------------------------------------------------------------------------------------


def _scan_classes(root: Path, splits: Sequence[str]) -> DataFolder:
    ways = {split: walk(root, split) for split in dict.fromkeys(("train", *splits))}
    _refuse([line for way in ways.values() for line in way.problems])  # tar files: what is in them is not known
    names = {split: way.classes() for split, way in ways.items()}
    classes = tuple(names["train"])
    if len(classes) < 2:
        raise UserError(
            f"{_shown(root, 'train')}: holds {len(classes)} class folder{'s' * (len(classes) != 1)}, "
            f"and a classifier needs 2 or more; the layout is {LAYOUT}"
        )
    found = {split: _members(ways[split], names[split], classes) for split in splits}
    _refuse([line for split in found for line in ways[split].problems])
    return DataFolder(root, classes, False, found, tuple(note for split in found for note in ways[split].notes()))


def _members(way: Walk, present: Sequence[str], classes: tuple[str, ...]) -> Split:
    """The images of each class; what is wrong with the classes goes to the way's problems."""
    split = way.split
    unknown = sorted(set(present) - set(classes))
    for place, name in enumerate(unknown):
        near = did_you_mean(name, classes) if place < NAMED else ""
        way.problems.append(f"{_shown(way.root, f'{split}/{name}')}: train has no such class{near}")
    members = [way.images(f"{split}/{name}") for name in classes]
    for name, paths in zip(classes, members, strict=True):
        if not paths:
            lines = way.problems if split == "train" else way.remarks
            lines.append(f"{_shown(way.root, f'{split}/{name}')}: the class has no image")
    targets = np.repeat(np.arange(len(classes)), [len(paths) for paths in members])
    return Split(split, tuple(path for paths in members for path in paths), targets)


# --- labels.csv ------------------------------------------------------------------------------------------------------


def _scan_labels(root: Path, splits: Sequence[str]) -> DataFolder:
    classes, _, _ = _read_table(root, "train")
    found, problems, notes = {}, [], []
    for split in splits:
        path = f"{split}/{LABELS}"
        if not (root / path).is_file():
            problems.append(f"{_shown(root, split)}: has no {LABELS}, while train has one")
            continue
        header, rows, wrong = _read_table(root, split)
        problems += wrong
        if header != classes:
            columns = printable(f"{', '.join(header)} instead of {', '.join(classes)}")
            problems.append(f"{_shown(root, path)}:1: its classes differ from train's: {columns}")
            continue
        way = walk(root, split)
        if way.problems:  # tar files: what is in them is not known
            problems += way.problems
            continue
        present = set(way.images(split))
        problems += _some([f"{_shown(root, path)}: has no row in {LABELS}" for path in sorted(present - set(rows))])
        problems += _some(
            [
                f"{_shown(root, path)}: is in {LABELS}, but is no image that is there"
                for path in sorted(set(rows) - present)
            ]
        )
        problems += way.problems
        notes += way.notes()
        paths = tuple(sorted(rows))
        targets = np.array([rows[path] for path in paths], np.float32).reshape(len(paths), len(classes))
        found[split] = Split(split, paths, targets)
    _refuse(problems)
    return DataFolder(root, tuple(classes), True, found, tuple(notes))


def _read_table(root: Path, split: str) -> tuple[list[str], dict[str, list[float]], list[str]]:
    """The classes, the rows by path, and what is wrong with the rows."""
    where = _shown(root, f"{split}/{LABELS}")
    try:
        text = (root / split / LABELS).read_text(encoding="utf-8-sig")
        table = list(csv.reader(io.StringIO(text, newline="")))
    except (ValueError, csv.Error) as error:
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
    return classes, rows, problems


# --- headers ---------------------------------------------------------------------------------------------------------


def check_headers(
    folder: DataFolder, max_megapixels: float, skip_bad: bool, memory: Memory | None = None
) -> tuple[DataFolder, list[tuple[str, str]]]:
    """Reads the header of every image, and its bytes for the fingerprint; those of unchanged files are remembered.

    Args:
        folder: as `scan` found it.
        max_megapixels: larger images are bad.
        skip_bad: leave bad images out.
        memory: of the folder's files, with what others have told it; None: what is remembered of them alone.

    Returns:
        The folder with sizes and contents of its images, without those that have no readable header, and these with
        the reason.

    Raises:
        UserError: naming them, unless `skip_bad`; or when a split or a class of train would be left empty.
    """
    memory = memory or Memory(folder.root)

    def size(file: Path) -> tuple[int, int]:
        header = read_header(file, max_megapixels)
        return header.height, header.width

    def content(path: str) -> Content | str:
        try:
            found = memory.content(path, size)
            if found.height * found.width > max_megapixels * 1e6:  # remembered from a run that allowed more
                size(folder.root / path)
        except ImageError as error:
            return error.reason
        except OSError as error:
            return unreadable(folder.root / path, error)
        return found

    paths = [path for split in folder.splits.values() for path in split.paths]
    found = in_threads(content, paths, "reading images")
    memory.keep()
    bad = [(path, why) for path, why in zip(paths, found, strict=True) if isinstance(why, str)]
    if bad and not skip_bad:
        lines = [f"{_shown(folder.root, path)}: {why}" for path, why in bad]
        count = f"{len(bad)} of {len(paths)} images cannot be used; mend or remove them, or set skip_bad: 1"
        raise UserError("\n".join([*_some(lines), count]))
    return _measured(folder, found), bad


def _measured(folder: DataFolder, found: Iterable[Content | str]) -> DataFolder:
    """The folder with the contents that were found, and without the images that have a reason in their place."""
    splits, found = {}, iter(found)
    for name, split in folder.splits.items():
        part = list(itertools.islice(found, len(split.paths)))
        contents = tuple(content for content in part if not isinstance(content, str))
        keep = np.array([not isinstance(content, str) for content in part])
        sizes = np.array([(content.height, content.width) for content in contents], np.int64)
        splits[name] = Split(name, tuple(itertools.compress(split.paths, keep)), split.targets[keep], sizes, contents)
        left = set(splits[name].targets.tolist()) if name == "train" and not folder.multi_label else None
        lost = [label for index, label in enumerate(folder.classes) if left is not None and index not in left]
        if lost or not keep.any():
            where = _shown(folder.root, f"{name}/{lost[0]}" if lost else name)
            raise UserError(f"{where}: no image is left without the unreadable ones")
    return dataclasses.replace(folder, splits=splits)


def in_threads(work: Callable[[str], T], paths: Sequence[str], what: str) -> list[T]:
    """What comes of the work on each path, in their order; an error or a signal leaves the rest undone."""
    done: list[T] = []
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool, progress((), what, total=len(paths), unit="image") as bar:
        try:
            for chunk in pool.map(lambda chunk: [work(path) for path in chunk], chunks):
                done += chunk
                bar.update(len(chunk))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done


# --- fingerprint -----------------------------------------------------------------------------------------------------


def fingerprint(folder: DataFolder) -> str:
    """sha256, hexadecimal, over the sorted paths, sizes and contents of the folder's images, and their labels.

    A class folder is part of its images' paths; in a tar file it may be told by a member beside the image.

    Contents are those that check_headers found, else they are read, or remembered.

    Raises:
        UserError: naming a file that cannot be read.
    """
    contents: dict[str, Content] = {}
    labels: dict[str, str] = {}
    for split in folder.splits.values():
        contents |= zip(split.paths, split.contents or _contents(folder.root, split.paths), strict=True)
        if not folder.multi_label:
            named = ((path, folder.classes[target]) for path, target in zip(split.paths, split.targets, strict=True))
            labels |= {path: f"\0{name}" for path, name in named if f"{SUFFIX}/" in path and f"/{name}/" not in path}
    total = hashlib.sha256()
    for path in sorted(contents):
        line = f"{path}\0{contents[path].bytes}\0{contents[path].sha256}{labels.get(path, '')}\n"
        total.update(line.encode("utf-8", "surrogateescape"))
    if folder.multi_label:
        for split in folder.splits.values():
            total.update(split.targets.tobytes())
    return total.hexdigest()


def _contents(root: Path, paths: Sequence[str]) -> list[Content]:
    memory = Memory(root)
    try:
        found = in_threads(memory.content, paths, "hashing images")
    except OSError as error:
        raise UserError(f"{printable(str(error.filename))}: cannot be read ({error.strerror})") from error
    memory.keep()
    return found
